"""Replays a game from its seed and its actions, with every frame of the emulator."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlarcade.games.protocols import FRAMESKIP, Protocol
from rlarcade.games.vector import GameVectorEnv

FRAMES_PER_SECOND = 60


class Frame(NamedTuple):
    """One of the emulator's 60 frames a second."""

    picture: NDArray[np.uint8]
    """uint8 (210, 160, 3)."""
    step: int
    """Agent step of the frame; -1 before the first action."""
    reward: float
    """Raw points of this frame."""


def play_back(
    game: str, protocol: str | Protocol, seed: int, actions: Iterable[int]
) -> Iterator[Frame]:
    """Yields every frame of a game, until the game or the actions end.

    Each action is repeated for four frames, as in training and evaluation, so the game is the same.

    Args:
        game: any spelling of a game's name.
        protocol: protocol of the recorded game.
        seed: seed of the emulator.
        actions: one action per agent step.

    Raises:
        ActionError: an action is outside the game's action set.
        ConfigError: the seed is invalid.
    """
    env = GameVectorEnv(game, 1, protocol=protocol, num_threads=1, rgb=True, every_frame=True)
    pictures, _ = env.reset(seed=[seed])
    yield Frame(pictures[0, 0], -1, 0.0)
    for step, action in enumerate(actions):
        for _ in range(FRAMESKIP):
            pictures, reward, terminated, truncated, _ = env.step(np.array([action]))
            yield Frame(pictures[0, 0], step, float(reward[0]))
            if terminated[0] or truncated[0]:
                return
