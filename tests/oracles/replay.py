"""Replay, slowly: everything that the lanes lived through, and definitions read off it.

Whole episodes are kept, whatever a ring would have forgotten. An observation is built from single
frames when it is asked for, a return is added up reward by reward. Nothing here is fast, shared
with `rlarcade`, or aware of how rings wrap.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Transition:
    """What replay should say of one step, n steps ahead."""

    observation: NDArray[np.uint8]
    action: int
    reward: float
    discount: float
    next_observation: NDArray[np.uint8]


@dataclass
class Episode:
    """One episode of one lane: step t goes from frame t to frame t + 1."""

    lane: int
    first_row: int
    """Row of the run in which its first observation was acted on."""
    frames: list[NDArray[np.uint8]]
    """Newest frame of every observation, the last one included."""
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminals: list[bool] = field(default_factory=list)
    """Game over, or a lost life that counts as if it were."""
    ended: bool = False

    def stack(self, t: int) -> NDArray[np.uint8]:
        """Returns observation t: four frames, zeros where the episode had not begun."""
        nothing = np.zeros_like(self.frames[0])
        return np.stack([self.frames[k] if k >= 0 else nothing for k in range(t - 3, t + 1)])


@dataclass
class SlowReplay:
    """Remembers every episode."""

    n_steps: int
    gamma: float
    reward_clip: bool
    episodes: list[Episode] = field(default_factory=list)

    def transition(self, episode: Episode, t: int) -> Transition:
        """Returns step t of an episode, its rewards summed over up to n steps."""
        total, weight, k = 0.0, 1.0, t
        while True:
            reward = episode.rewards[k]
            if self.reward_clip:
                reward = 1.0 if reward > 0 else -1.0 if reward < 0 else 0.0
            total += weight * reward
            weight *= self.gamma
            terminal = episode.terminals[k]
            k += 1
            if terminal:
                weight = 0.0
                break
            if k == t + self.n_steps:
                break
            if k == len(episode.actions):
                assert episode.ended, "the window is not complete yet"
                break
        return Transition(episode.stack(t), episode.actions[t], total, weight, episode.stack(k))

    def drawable(self, rows_added: int, num_rows: int) -> Iterator[tuple[int, int, Transition]]:
        """Yields (row, lane, transition) of every step that the newest `num_rows` rows can show.

        That is, rows row - 3 … row + n are among them, or lie before the run.
        """
        forgotten = rows_added - num_rows
        for episode in self.episodes:
            for t in range(len(episode.actions)):
                row = episode.first_row + t
                window = [other for other in range(row - 3, row + self.n_steps + 1) if other >= 0]
                if all(forgotten <= other < rows_added for other in window):
                    yield row, episode.lane, self.transition(episode, t)
