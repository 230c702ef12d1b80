"""The referee: the server's own score of a game, whatever its client says.

A game of which the server gave the seed is a function of the seed and of the version: the version's
actions follow from the frames, and its random actions from the seed. So the server can always play
the game itself. What a client reports, when it leaves, and which frames it sends change nothing.

If the client sent the frames of the true game, the actions that it was given are the version's
actions, and replaying them takes a millisecond a step. If it sent others, or left before the end,
the version chooses the actions that are missing.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import PolicyError
from rlarcade.foreign import own_words
from rlarcade.games.episodes import Ending
from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv
from rlarcade.learning.acting import not_finite
from rlarcade.playing.episodes import EpisodeResult, Trace
from rlarcade.seeding import SeedUse, generator
from rlarcade.serving.emulators import Emulators

ValuesOf = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From observations, uint8 (B, 4, 84, 84), to action values, float32 (B, A)."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a client was given in a game."""

    actions: bytes = b""
    sums: tuple[int, ...] = ()
    """Checksum of the newest frame before each action, as the client sent it."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """The server's own result of a game."""

    episode: EpisodeResult
    true_frames: bool
    """Whether the client sent the frames of the true game, as far as it went."""
    finished: bool
    """Whether the client played to the end of the true game."""


def rule(
    game: str,
    protocol: Protocol,
    seed: int,
    values_of: ValuesOf,
    name: str,
    emulators: Emulators,
    served: Served | None = None,
) -> Ruling:
    """Plays a version's game with a seed from its beginning to its end.

    Args:
        game: ROM id.
        protocol: protocol of the game.
        seed: seed that the server gave.
        values_of: the version.
        name: its name in messages.
        emulators: where an emulator comes from.
        served: what the client was given; None: nothing that could help.

    Returns:
        The game. If the version fails, it `ended` with "failed".
    """
    served = served or Served()
    env = emulators.take(game, protocol, pictures=False)
    episode, true_frames = _played(env, seed, values_of, name, served)
    if not true_frames:
        episode, _ = _played(env, seed, values_of, name, Served())
    emulators.give(env)  # not one that raised an error: it would raise the next one, too
    finished = true_frames and len(served.actions) >= episode.steps
    return Ruling(episode, true_frames, finished)


def _played(
    env: GameEnv, seed: int, values_of: ValuesOf, name: str, served: Served
) -> tuple[EpisodeResult, bool]:
    """Plays a game; stops and returns False when a frame is not the one that the client sent."""
    dice = Dice(seed, env.num_actions, env.protocol.evaluation_epsilon)
    observation, _ = env.reset(seed=seed)
    actions: list[int] = []
    rewards: list[float] = []

    while True:
        rolled = dice.roll()
        step = len(actions)
        if step < len(served.actions):
            if zlib.crc32(observation[-1]) != served.sums[step]:
                return _result(seed, actions, rewards, "failed"), False
            action = served.actions[step]
        elif rolled is not None:
            action = rolled
        else:
            try:
                action = greedy(values_of(observation[None])[0], name)
            except Exception as error:  # any error counts as the version's failure
                return _result(seed, actions, rewards, "failed", own_words(error)), True
        observation, reward, terminated, truncated, _ = env.step(action)
        actions.append(action)
        rewards.append(reward)
        if terminated or truncated:
            ended: Ending = "terminated" if terminated else "truncated"
            return _result(seed, actions, rewards, ended), True


def _result(
    seed: int,
    actions: list[int],
    rewards: list[float],
    ended: Literal["terminated", "truncated", "failed"],
    failure: str | None = None,
) -> EpisodeResult:
    return EpisodeResult(
        seed=seed,
        score=sum(rewards),
        steps=len(actions),
        ended=ended,
        failure=failure,
        trace=Trace.of(actions, rewards),
    )


class Dice:
    """The random actions of the protocol's ε in one game, as `evaluate` draws them."""

    def __init__(self, seed: int, num_actions: int, epsilon: float) -> None:
        self._rng = generator(seed, SeedUse.POLICY)
        self._num_actions, self._epsilon = num_actions, epsilon

    def roll(self) -> int | None:
        """Returns the next step's random action; None: the version chooses."""
        explores = self._rng.random() < self._epsilon
        action = int(self._rng.integers(0, self._num_actions))
        return action if explores else None


def greedy(values: NDArray[np.float32], name: str) -> int:
    """Returns the action with the largest value.

    Args:
        values: float32 (A,).
        name: name of the version in messages.

    Raises:
        PolicyError: a value is not finite.
    """
    problem = not_finite(values[None], name)
    if problem is not None:
        raise PolicyError(f"{problem}.")
    return int(values.argmax())
