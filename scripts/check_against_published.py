"""Compares a run with the public learning curve of its kind: inside, below or above mean ± 2 sd.

    python scripts/check_against_published.py checkpoints/space_invaders-dqn-seed0 --json check.json

Like the published points, a run's are mean training returns of the last million frames.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from rlarcade import TrainConfig
from rlarcade.games import FRAMESKIP, published_curve
from rlarcade.outputs import output_file
from rlarcade.runs.metrics_file import read_metrics

_WINDOW = 1_000_000  # frames that a published point averages over
# What made the published curves: https://github.com/google/dopamine, dopamine/jax/agents/*/configs.
_THREE_STEPS = ("Rainbow", "QR-DQN", "IQN")
_PRIORITIZED = ("Rainbow", "QR-DQN")
_LEARNING_RATES = {
    "DQN": 6.25e-5,
    "C51": 2.5e-4,
    "Rainbow": 6.25e-5,
    "QR-DQN": 5e-5,
    "IQN": 5e-5,
}


def public_twin(config: TrainConfig) -> str | None:
    """Names the published algorithm that a composition is closest to; None where there is none."""
    if config.memory.kind == "none" or config.munchausen:
        return None
    if config.head == "categorical":
        return "Rainbow" if config.prioritized else "C51"
    return {"expected": "DQN", "quantile": "QR-DQN", "implicit": "IQN"}[config.head]


def departures(config: TrainConfig) -> list[str]:
    """Lists in which ways the run was made under other conditions than the published ones."""
    twin = public_twin(config) or ""
    n_steps: int | str = config.n_steps
    if config.n_steps_final is not None:
        n_steps = f"{config.n_steps} falling to {config.n_steps_final}"
    conditions: dict[str, tuple[Any, Any]] = {
        "protocol": ("v5", config.protocol),
        "terminal_on_life_loss": (False, config.terminal_on_life_loss),
        "final ε": (0.01, config.exploration_final_eps),
        "exploration_steps": (250_000, config.exploration_steps),
        "replay ratio": (8.0, config.replay_ratio),
        "batch_size": (32, config.batch_size),
        "norm": ("none", config.norm),
        "hidden_units": (512, config.hidden_units),
        "dueling": (False, config.dueling),
        "noisy": (False, config.noisy),
        "double": (False, config.double),
        "n_steps": (3 if twin in _THREE_STEPS else 1, n_steps),
        "prioritized": (twin in _PRIORITIZED, config.prioritized),
        "learning_rate": (_LEARNING_RATES.get(twin), config.learning_rate),
    }
    if config.torso == "nature":
        conditions["conv_channels"] = ((32, 64, 64), config.conv_channels)
    if config.head == "quantile":
        conditions["num_quantiles"] = (200, config.num_quantiles)
    if config.head == "implicit":
        conditions["num_taus"] = (64, config.num_taus)
    return [
        f"{name} {own} instead of {theirs}"
        for name, (theirs, own) in conditions.items()
        if own != theirs
    ]


def check(run: Path) -> dict[str, Any]:
    """Returns a document with a verdict at every published point that the run has reached."""
    config = TrainConfig.model_validate(json.loads((run / "run.json").read_text())["train"])
    lines = read_metrics(run)
    twin = public_twin(config)
    reached = max((line["step"] for line in lines), default=0) * FRAMESKIP
    points = []
    for point in published_curve(config.game, twin or "", config.torso):
        scores = [
            line["charts/episodic_return"]
            for line in lines
            if "charts/episodic_return" in line
            and point.frames - _WINDOW < line["step"] * FRAMESKIP <= point.frames
        ]
        if point.frames > reached or not scores:
            continue
        low, high = point.mean - 2 * point.sd, point.mean + 2 * point.sd
        mean = fmean(scores)
        points.append(
            {
                "frames": point.frames,
                "mean": mean,
                "games": len(scores),
                "published_mean": point.mean,
                "band": [low, high],
                "verdict": "below" if mean < low else "above" if mean > high else "inside",
            }
        )
    return {
        "run": run.name,
        "game": config.game,
        "published": twin,
        "torso": config.torso,
        "departures": departures(config),
        "points": points,
    }


def main() -> int:
    """Prints the comparison; exit code 1 if there was nothing to compare with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--json", type=output_file, help="write the outcome to this file")
    asked = parser.parse_args()
    try:
        document = check(asked.run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{asked.run} is no run folder, or its run.json was altered: {error}")
    print(f"{document['run']} against {document['published']} ({document['torso']} torso)")
    for departure in document["departures"]:
        print(f"  differs: {departure}")
    for point in document["points"]:
        low, high = point["band"]
        print(
            f"{point['frames'] / 1e6:>6g}M frames  {point['mean']:8.1f}  {point['verdict']} "
            f"{low:.1f} … {high:.1f} ({point['games']} games)"
        )
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if not document["points"]:
        print("nothing to compare: no published curve, or the run is shorter than a million frames")
    return 0 if document["points"] else 1


if __name__ == "__main__":
    sys.exit(main())
