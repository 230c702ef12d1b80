"""A game played again from its seed and its actions, with every frame that the emulator drew."""

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
    """Agent step that it belongs to; -1 before the first."""
    reward: float
    """Raw points that this frame paid."""


def play_back(
    game: str, protocol: str | Protocol, seed: int, actions: Iterable[int]
) -> Iterator[Frame]:
    """Yields every frame of a game, up to its end or that of the actions.

    An action is given for four frames, as in training and evaluation, so the game is the same one.

    Args:
        game: any spelling of its name.
        protocol: how it was played.
        seed: of the emulator.
        actions: one an agent step.

    Raises:
        ActionError: an action is none of the game's.
        ConfigError: the seed is none.
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
