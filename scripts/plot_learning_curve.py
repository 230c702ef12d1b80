"""Draws the learning curves of runs, a panel for each game: mean score of the last 100 games.

    python scripts/plot_learning_curve.py checkpoints/space_invaders-dqn-seed0 --png curve.png
    python scripts/plot_learning_curve.py checkpoints/sweeps/screen/* --minutes --png screen.png

Dots are evaluations on the way. With --minutes the curves are drawn against the time that training
took (evaluations and saves left out), which is what a user waits for.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from rlarcade.games import display_name, published_scores
from rlarcade.learning.metrics import read_metrics

_SCORE, _EVALUATION = "rollout/ep_rew_mean", "eval/mean_reward"
_PARTS = ("env", "act", "replay", "learn")


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders; other files are skipped")
    parser.add_argument("--minutes", action="store_true", help="against minutes of training")
    parser.add_argument("--png", type=Path, default=Path("curve.png"))
    asked = parser.parse_args()

    games: defaultdict[str, list[Path]] = defaultdict(list)
    for run in asked.runs:
        if (run / "run.json").exists():
            games[json.loads((run / "run.json").read_text())["train"]["game"]].append(run)
    figure, panels = plt.subplots(
        1, len(games), figsize=(7 * len(games), 4), constrained_layout=True, squeeze=False
    )
    for axes, (game, runs) in zip(panels[0], sorted(games.items()), strict=True):
        for run in runs:
            curve, evaluations = curves(run, in_minutes=asked.minutes)
            (line,) = axes.plot(*columns(curve), label=run.name)
            axes.plot(*columns(evaluations), "o", color=line.get_color())
        if scores := published_scores(game):
            axes.axhline(scores.random, color="grey", linestyle=":", label=f"random, {game}")
        axes.set_xlabel("minutes of training" if asked.minutes else "agent steps")
        axes.set_ylabel("mean score of the last 100 games, while exploring")
        axes.set_title(display_name(game))
        axes.legend()
    figure.savefig(asked.png, dpi=110)


def columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Turns (x, score) points into their xs and their scores."""
    return [x for x, _ in points], [score for _, score in points]


def curves(
    run: Path, *, in_minutes: bool
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Returns (x, score) of training, every thousand steps, and of the evaluations on the way."""
    curve, evaluations = [], []
    steps, seconds = 0, 0.0
    for line in read_metrics(run):
        if "time/fps" in line:
            elapsed = (line["step"] - steps) / line["time/fps"]
            seconds += elapsed * sum(line[f"time/{part}_share"] for part in _PARTS)
            steps = line["step"]
        x = seconds / 60 if in_minutes else line["step"]
        if _SCORE in line:
            curve.append((x, line[_SCORE]))
        if _EVALUATION in line:
            evaluations.append((x, line[_EVALUATION]))
    return curve, evaluations


if __name__ == "__main__":
    main()
