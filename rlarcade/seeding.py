"""All seeds of the library, each derived from the user's seed and its use."""

import operator
from enum import IntEnum

import numpy as np

from rlarcade.checked import require
from rlarcade.errors import ConfigError
from rlarcade.text import quoted

LARGEST_WORD = 2**32 - 1
"""The largest seed of a command, an evaluation or a match."""


class SeedUse(IntEnum):
    """What a seed is used for. Different uses have independent random streams for every user seed.

    Two 31-bit seeds of games are equal by chance once in two billion.
    """

    TRAINING = 1
    """Games of the training lanes."""
    EXPLORATION = 2
    """Random actions while training."""
    REPLAY = 3
    """Sampling of transitions."""
    NETWORK = 4
    """Initial weights."""
    SELECTION = 5
    """Evaluations during training, by which a person may choose a checkpoint."""
    EVALUATION = 6
    """Evaluations of a finished checkpoint."""
    POLICY = 7
    """A policy's own randomness within an evaluated episode."""
    CALIBRATION = 8
    """Games that are thrown away: measuring speed, and the gate's smoke test."""
    MATCH = 9
    """Games of a match between two versions."""


def derived_seed(seed: int, use: SeedUse, *path: int) -> int:
    """Returns a 31-bit seed for ALE, which would silently ignore a negative one.

    Raises:
        ConfigError: the seed or a part of the path is not a whole number from 0 to 2³²−1.
    """
    entropy = np.random.SeedSequence(_words(seed, use, path)).generate_state(1, np.uint32)
    return int(entropy[0] >> 1)


def generator(seed: int, use: SeedUse, *path: int) -> np.random.Generator:
    """Returns an independent random generator for one use.

    Raises:
        ConfigError: the seed or a part of the path is not a whole number from 0 to 2³²−1.
    """
    return np.random.Generator(np.random.PCG64(_words(seed, use, path)))


def _words(seed: int, use: SeedUse, path: tuple[int, ...]) -> list[int]:
    """Returns the entropy: one 32-bit word each, and their number, so that no two calls collide."""
    require(use, SeedUse, "what a seed is for", "SeedUse.EVALUATION")
    whole = [checked_seed(word, LARGEST_WORD) for word in (seed, *path)]
    return [whole[0], int(use), len(path), *whole[1:]]


def checked_seed(seed: object, largest: int | None = None) -> int:
    """Returns a seed as an int.

    Args:
        seed: any value; valid are whole numbers of Python or NumPy that are not negative.
        largest: largest valid seed; None: no limit.

    Raises:
        ConfigError: the seed is invalid.
    """
    try:
        whole = operator.index(seed)  # type: ignore[arg-type]  # raises TypeError if it is no int
    except TypeError:
        whole = -1
    if isinstance(seed, bool | np.bool_) or whole < 0 or (largest is not None and whole > largest):
        bound = "or more" if largest is None else f"to {largest}"
        raise ConfigError(f"a seed is a whole number, 0 {bound}; got {quoted(seed)}.")
    return whole
