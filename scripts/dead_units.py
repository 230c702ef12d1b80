"""Counts the units of a checkpoint's network that never fire: what it has learned to be blind with.

    python scripts/dead_units.py checkpoints/pong-laptop-seed0/checkpoints/step-*

A unit (a filter, or a hidden unit) is dead if its ReLU is zero everywhere in every observation of a
few games. No gradient reaches it, so it stays dead: the dormant neurons of Sokar et al. (2023),
https://arxiv.org/abs/2302.12902, at a threshold of 0. Observations are those that the last of the
checkpoints sees, so that counts compare. Networks with the nature torso.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlarcade import DQNAgent, RlarcadeError, play_steps

EVERY = 5  # steps between observations: neighbours look alike


def main() -> int:
    """Prints a line for each checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--observations", type=int, default=400)
    asked = parser.parse_args()
    try:
        seen = observations(DQNAgent.load(asked.checkpoints[-1]), asked.observations)
        for path in asked.checkpoints:
            counts = dead_units(DQNAgent.load(path), seen)
            print(path.name, *(f"{name} {dead}/{units}" for name, (dead, units) in counts.items()))
    except (RlarcadeError, ValueError) as error:
        print(f"dead_units: error: {error}", file=sys.stderr)
        return 2
    return 0


def observations(agent: DQNAgent, count: int) -> NDArray[np.uint8]:
    """What an agent sees in its games: uint8 (count, 4, 84, 84)."""
    steps = islice(play_steps(agent, episodes=count), 0, EVERY * count, EVERY)
    return np.stack([step.observation for step in steps])


def dead_units(agent: DQNAgent, seen: NDArray[np.uint8]) -> dict[str, tuple[int, int]]:
    """How many units of each layer never fire, and how many there are."""
    torso, head = agent.q_network.torso, agent.q_network.head
    if not hasattr(torso, "norms"):
        raise ValueError(f"{agent.name} has no nature torso")
    layers: dict[str, nn.Module] = {
        **{f"conv{number}": norm for number, norm in enumerate(torso.norms, start=1)},
        "hidden": head.hidden_norm,
    }
    strongest: dict[str, Tensor] = {}

    def watch(name: str) -> None:
        def note(_: nn.Module, __: tuple[Tensor, ...], before_relu: Tensor) -> None:
            over = [axis for axis in range(before_relu.dim()) if axis != 1]
            strongest[name] = before_relu.amax(dim=over)

        hooks.append(layers[name].register_forward_hook(note))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name in layers:
        watch(name)
    with torch.no_grad():
        agent.q_network(torch.from_numpy(seen))
    for hook in hooks:
        hook.remove()
    return {name: (int((value <= 0).sum()), len(value)) for name, value in strongest.items()}


if __name__ == "__main__":
    sys.exit(main())
