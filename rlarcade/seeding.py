"""Every seed of the library: a function of the user's seed and of what it is used for."""

from enum import IntEnum

import numpy as np


class SeedUse(IntEnum):
    """What a seed is for. Different uses have independent streams, whatever the user's seed.

    Two seeds of games, 31 bits each, are the same by chance once in two billion.
    """

    TRAINING = 1
    """Games of the training lanes, which the agent learns from."""
    EXPLORATION = 2
    """Random actions while training."""
    REPLAY = 3
    """Which transitions are sampled."""
    NETWORK = 4
    """Initial weights."""
    SELECTION = 5
    """Evaluations on the way, which a person may use to choose a checkpoint."""
    EVALUATION = 6
    """Evaluations of a finished checkpoint."""
    POLICY = 7
    """A policy's own randomness within an evaluated episode."""
    CALIBRATION = 8
    """Throw-away work that measures speed."""
    MATCH = 9
    """Games of a match between two versions."""


def derived_seed(seed: int, use: SeedUse, *path: int) -> int:
    """Returns a 31-bit seed, as ALE takes it (a negative one would silently mean unseeded).

    Raises:
        ValueError: the seed or a part of the path has more than 32 bits, or is negative.
    """
    entropy = np.random.SeedSequence(_words(seed, use, path)).generate_state(1, np.uint32)
    return int(entropy[0] >> 1)


def generator(seed: int, use: SeedUse, *path: int) -> np.random.Generator:
    """Returns an independent stream of random numbers for one use.

    Raises:
        ValueError: the seed or a part of the path has more than 32 bits, or is negative.
    """
    return np.random.Generator(np.random.PCG64(_words(seed, use, path)))


def _words(seed: int, use: SeedUse, path: tuple[int, ...]) -> list[int]:
    """One 32-bit word each, and how many: no two different calls give the same words."""
    for word in (seed, *path):
        if not 0 <= word < 2**32:
            raise ValueError(f"seeds and their paths are 0 … 2**32 - 1, got {word}")
    return [seed, int(use), len(path), *path]
