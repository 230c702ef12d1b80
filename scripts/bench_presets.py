"""Measures how many agent steps a second each preset trains at on this machine.

    python scripts/bench_presets.py --json docs/results/preset-speed.json

takes about a quarter of an hour on two cores and wants the machine to itself. Presets are measured
by turns, once a round, each with its own number of games at a time, after learning has begun and
the first updates are done: what `train --minutes` measures before it fixes a length. Medians of the
rounds, and their range. `samples_per_step` is the replay ratio: how much each step is learned from.
"""

import argparse
import json
import platform
import statistics
import sys
from importlib.metadata import version
from typing import Any

from bench_training import cpu_facts
from provenance import provenance

from rlarcade import RlarcadeError, TrainConfig
from rlarcade.config import load_preset, make_settings, preset_names
from rlarcade.learning.hardware import resolve_threads
from rlarcade.outputs import output_file
from rlarcade.runs.pace import measured_speed


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="unset: all that ship")
    parser.add_argument("--game", default="SpaceInvaders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of learning, in each round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", type=output_file)
    asked = parser.parse_args()
    try:
        configs = {name: _config(name, asked) for name in asked.presets or preset_names()}
        speeds = _measured(configs, asked.rounds, asked.seconds)
    except RlarcadeError as error:
        print(f"bench_presets: error: {error}", file=sys.stderr)
        return 2
    document = {
        "steps_per_second": {
            name: {
                "median": statistics.median(found),
                "lowest": min(found),
                "highest": max(found),
                "num_envs": configs[name].num_envs,
                "samples_per_step": configs[name].replay_ratio,
            }
            for name, found in speeds.items()
        },
        "game": configs[next(iter(configs))].game,
        "rounds": asked.rounds,
        "machine": {
            **cpu_facts(resolve_threads(0, "cpu"), asked.precision),
            "device": asked.device,
            "python": platform.python_version(),
            "torch": version("torch"),
        },
        **provenance(),
    }
    for name, row in document["steps_per_second"].items():
        print(
            f"{name:<16}{row['median']:9,.0f} steps/s  ({row['lowest']:,.0f} … "
            f"{row['highest']:,.0f})  {row['samples_per_step']:g} samples a step"
        )
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def _config(preset: str, asked: argparse.Namespace) -> TrainConfig:
    name, values = load_preset(preset)
    own = {"game": asked.game, "device": asked.device, "precision": asked.precision}
    return make_settings(name, values | own | {"compile": "off"}).train


def _measured(
    configs: dict[str, TrainConfig], rounds: int, seconds: float
) -> dict[str, list[float]]:
    found: dict[str, list[Any]] = {name: [] for name in configs}
    for number in range(1, rounds + 1):
        for name, config in configs.items():
            found[name].append(measured_speed(config, seconds)[1])
            print(f"round {number}/{rounds}: {name} {found[name][-1]:,.0f} steps/s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
