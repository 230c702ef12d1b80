"""Every seed of the library: a function of the user's seed and of what it is used for."""

import operator
from enum import IntEnum

import numpy as np

from rlarcade.checked import require
from rlarcade.errors import ConfigError
from rlarcade.text import quoted

LARGEST_WORD = 2**32 - 1
"""The largest seed of a command, an evaluation or a match."""


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
        ConfigError: the seed or a part of the path is no whole number of 0 to 32 bits.
    """
    entropy = np.random.SeedSequence(_words(seed, use, path)).generate_state(1, np.uint32)
    return int(entropy[0] >> 1)


def generator(seed: int, use: SeedUse, *path: int) -> np.random.Generator:
    """Returns an independent stream of random numbers for one use.

    Raises:
        ConfigError: the seed or a part of the path is no whole number of 0 to 32 bits.
    """
    return np.random.Generator(np.random.PCG64(_words(seed, use, path)))


def _words(seed: int, use: SeedUse, path: tuple[int, ...]) -> list[int]:
    """One 32-bit word each, and how many: no two different calls give the same words."""
    require(use, SeedUse, "what a seed is for", "SeedUse.EVALUATION")
    whole = [checked_seed(word, LARGEST_WORD) for word in (seed, *path)]
    return [whole[0], int(use), len(path), *whole[1:]]


def checked_seed(seed: object, largest: int | None = None) -> int:
    """Returns a seed as an int, if it is a whole number of Python or NumPy and not negative.

    Args:
        seed: anything.
        largest: that it may be; None: it may have any size.

    Raises:
        ConfigError: it is something else.
    """
    try:
        whole = operator.index(seed)  # type: ignore[arg-type]  # that is what is to be found out
    except TypeError:
        whole = -1
    if isinstance(seed, bool | np.bool_) or whole < 0 or (largest is not None and whole > largest):
        bound = "or more" if largest is None else f"to {largest}"
        raise ConfigError(f"a seed is a whole number, 0 {bound}; got {quoted(seed)}.")
    return whole
