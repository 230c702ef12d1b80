"""Games for training: many lanes that step together and can be rebuilt exactly after a kill.

The vector interface cannot save the emulator's state. But a lane's game is a function of its last
seed and the actions since then. So each lane remembers both, and rebuilding replays these actions.
When a lane's history has grown long, the lane gets a new seed, right after a new episode starts.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import CheckpointError
from rlarcade.games.protocols import SCREEN, STACK, Protocol
from rlarcade.games.vector import GameVectorEnv
from rlarcade.seeding import SeedUse, derived_seed

Progress = Callable[[int, int], None]
"""Called with (done, total) during slow work."""

_LANES_A_TIME = 4


@dataclass(frozen=True, slots=True)
class LaneStep:
    """Result of one step of E lanes."""

    observation: NDArray[np.uint8] = field(repr=False)
    """(E, 4, 84, 84), after the action. Where an episode ended, its true last observation."""
    reward: NDArray[np.float32]
    """(E,), raw points."""
    terminated: NDArray[np.bool_]
    """(E,), the game is over."""
    truncated: NDArray[np.bool_]
    """(E,), the game was cut by the frame cap; a learner bootstraps here."""
    life_lost: NDArray[np.bool_]
    """(E,), a life was lost in this step; the episode continues unless terminated."""
    reset: NDArray[np.bool_]
    """(E,), the action was ignored and `observation` starts an episode: not a transition."""


class TrainingLanes:
    """E games that step together and can be rebuilt from seeds and actions.

    Attributes:
        observation: uint8 (E, 4, 84, 84), the newest observations, for the next actions.
        age: int64 (E,), steps since the first observation of each lane's episode.
        ended: bool (E,), the episode is over: the next action is ignored and resets the lane.
        reseed_seconds: wall time spent on new seeds for lanes.
    """

    def __init__(
        self,
        game: str,
        *,
        num_envs: int,
        protocol: str | Protocol = "v5",
        seed: int = 0,
        reseed_interval: int = 10_000,
        num_threads: int = 0,
    ) -> None:
        """Starts the emulators (about 0.25 s of one core each). Call `start` or `rebuild` next."""
        self._env = GameVectorEnv(game, num_envs, protocol=protocol, num_threads=num_threads)
        self._seed = seed
        self._reseed_interval = reseed_interval
        self._num_reseeds = np.zeros(num_envs, dtype=np.int64)
        # Rows of actions since the oldest seed in use, uint8 (E,) each. Lane e's history begins
        # at row `_since[e]`.
        self._rows: list[NDArray[np.uint8]] = []
        self._since = np.zeros(num_envs, dtype=np.int64)
        self._actions: NDArray[np.uint8] | None = None
        self._lives = np.zeros(num_envs, dtype=np.int64)
        self.observation: NDArray[np.uint8] = np.zeros(
            (num_envs, STACK, SCREEN, SCREEN), dtype=np.uint8
        )
        self.age = np.zeros(num_envs, dtype=np.int64)
        self.ended: NDArray[np.bool_] = np.zeros(num_envs, dtype=np.bool_)
        self.reseed_seconds = 0.0

    @property
    def num_envs(self) -> int:
        """Number of lanes, E."""
        return int(self._env.num_envs)

    @property
    def num_actions(self) -> int:
        """Number of actions, A."""
        return self._env.num_actions

    def start(self, progress: Progress | None = None, *, num_reseeds: int = 0) -> None:
        """Seeds every lane and starts its first episode.

        A seeded reset reloads the ROM and takes about 0.13 s of one core. So lanes start a few at
        a time, and `progress` is called after each group.

        Args:
            progress: called with (started lanes, all lanes).
            num_reseeds: index of the seed to use in each lane; 0 is the lane's first seed.
        """
        self._num_reseeds[:] = num_reseeds
        # ALE requires one full reset first. It is unseeded and cheap. Then seed a few at a time.
        self._env.reset()
        seeds = self._seeds()
        for first in range(0, self.num_envs, _LANES_A_TIME):
            due = np.zeros(self.num_envs, dtype=np.bool_)
            due[first : first + _LANES_A_TIME] = True
            self.observation, info = self._env.reset(seed=seeds[due], options={"reset_mask": due})
            if progress is not None:
                progress(int(np.flatnonzero(due)[-1]) + 1, self.num_envs)
        self._lives = info["lives"].astype(np.int64)
        self.age = np.zeros(self.num_envs, dtype=np.int64)
        self.ended = np.zeros(self.num_envs, dtype=np.bool_)

    def send(self, actions: NDArray[np.int64]) -> None:
        """Sends (E,) actions and returns at once; `recv` waits for the result.

        Raises:
            ActionError: an action is outside the game's action set.
        """
        self._env.send(actions)
        self._actions = actions.astype(np.uint8)

    def recv(self) -> LaneStep:
        """Waits for the emulators and returns the result of the sent actions."""
        assert self._actions is not None, "recv() without send()"
        observation, reward, terminated, truncated, info = self._env.recv()
        self._rows.append(self._actions)
        self._actions = None
        reset = self.ended
        lives = info["lives"].astype(np.int64)
        life_lost = (lives < self._lives) & ~reset
        self._lives = lives
        self.ended = terminated | truncated
        self.age = np.where(reset, 0, self.age + 1)
        self.observation = observation
        self._reseed(reset)
        return LaneStep(
            observation=self.observation,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
            life_lost=life_lost,
            reset=reset,
        )

    def _reseed(self, reset: NDArray[np.bool_]) -> None:
        """Gives a new seed to each lane that has a long history and has just begun an episode."""
        length = len(self._rows) - self._since
        due = reset & (length >= self._reseed_interval)
        if not due.any():
            return
        started = time.perf_counter()
        self._num_reseeds[due] += 1
        seeds = self._seeds()[due]
        self.observation, info = self._env.reset(seed=seeds, options={"reset_mask": due})
        self._lives = info["lives"].astype(np.int64)
        self._since[due] = len(self._rows)
        oldest = int(self._since.min())
        del self._rows[:oldest]
        self._since -= oldest
        self.reseed_seconds += time.perf_counter() - started

    def _seeds(self) -> NDArray[np.int32]:
        return np.array(
            [
                derived_seed(self._seed, SeedUse.TRAINING, lane, int(count))
                for lane, count in enumerate(self._num_reseeds)
            ],
            dtype=np.int32,
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Returns the arrays that `rebuild` needs. They grow with the histories, not the run."""
        return {
            "num_reseeds": self._num_reseeds.copy(),
            "since": self._since.copy(),
            "actions": np.array(self._rows, dtype=np.uint8).reshape(-1, self.num_envs),
            "age": self.age.copy(),
            "ended": self.ended.copy(),
            "observation": self.observation[:, -1].copy(),
        }

    def rebuild(
        self, state: Mapping[str, NDArray[np.generic]], progress: Progress | None = None
    ) -> None:
        """Replays the histories of `state()` until every game is in its saved state.

        All lanes step as often as the longest history requires. Each lane gets its seeded reset
        when exactly its own number of steps remains. Run time: lanes × longest history ÷ emulator
        speed.

        Raises:
            CheckpointError: a game does not reach its saved screen. This emulator differs from the
                one that saved the state.
        """
        self._num_reseeds = state["num_reseeds"].astype(np.int64)
        self._since = state["since"].astype(np.int64)
        actions = state["actions"].astype(np.uint8)
        self._rows = list(actions)
        length = len(actions) - self._since
        longest = int(length.max(initial=0))
        seeds = self._seeds()
        self.observation, info = self._env.reset(seed=seeds)
        for step in range(len(actions) - longest, len(actions) + 1):
            due = self._since == step
            if due.any() and step > len(actions) - longest:
                self.observation, info = self._env.reset(
                    seed=seeds[due], options={"reset_mask": due}
                )
            if step < len(actions):
                # Lanes with a shorter history step, too. Their seeded reset discards these steps.
                self.observation, *_, info = self._env.step(actions[step].astype(np.int64))
            if progress is not None and step % 256 == 0:
                progress(step - (len(actions) - longest), longest)
        self._lives = info["lives"].astype(np.int64)
        self.age = state["age"].astype(np.int64)
        self.ended = state["ended"].astype(np.bool_)
        arrived = (self.observation[:, -1] == state["observation"]).all(axis=(1, 2))
        if not arrived.all():
            lanes = ", ".join(map(str, np.flatnonzero(~arrived)))
            raise CheckpointError(
                f"the games in flight could not be rebuilt: lanes {lanes} of {self.num_envs} show "
                "another screen than the saved one. The installed ale-py differs from the one this "
                "run was saved with. Install that version, or start anew in another --run-dir."
            )
