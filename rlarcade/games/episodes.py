"""Tracks whole games: single lives and clipped rewards do not count."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlarcade.games.lanes import LaneStep

Ending = Literal["terminated", "truncated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One finished game."""

    lane: int
    score: float
    """Raw, undiscounted, unclipped sum of game rewards."""
    steps: int
    """Agent steps. Each step is four emulator frames."""
    ended: Ending


class EpisodeTracker:
    """Adds up the scores and lengths of the games in E lanes."""

    def __init__(self, num_envs: int) -> None:
        self._score = np.zeros(num_envs, dtype=np.float64)
        self._steps = np.zeros(num_envs, dtype=np.int64)

    def observe(self, step: LaneStep) -> tuple[Episode, ...]:
        """Adds one step of all lanes and returns the games that ended with it."""
        played = ~step.reset
        self._score[played] += step.reward[played]
        self._steps[played] += 1
        finished = []
        for lane in np.flatnonzero(step.terminated | step.truncated):
            finished.append(
                Episode(
                    lane=int(lane),
                    score=float(self._score[lane]),
                    steps=int(self._steps[lane]),
                    ended="terminated" if step.terminated[lane] else "truncated",
                )
            )
            self._score[lane] = self._steps[lane] = 0
        return tuple(finished)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Returns the games in flight, for `restore`."""
        return {"score": self._score.copy(), "steps": self._steps.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restores a `state()`."""
        self._score = state["score"].astype(np.float64)
        self._steps = state["steps"].astype(np.int64)
