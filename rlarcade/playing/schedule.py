"""The schedule of games: their seeds, in order, derived from the user's seed.

Seeds are generated lazily, so a large `max_pairs` costs nothing in advance.
"""

import hashlib
from collections.abc import Iterator
from itertools import count

import numpy as np

from rlarcade.config.values import MOST_GAMES
from rlarcade.errors import ConfigError
from rlarcade.seeding import SeedUse, derived_seed
from rlarcade.text import quoted


def check_count(name: str, number: int) -> None:
    """Checks a number of games, pairs or lanes.

    Raises:
        ConfigError: it is not a whole number, below 1, or above 100,000.
    """
    if not isinstance(number, int | np.integer):
        raise ConfigError(f"{name} is a whole number, got {quoted(number)}.")
    if not 1 <= number <= MOST_GAMES:
        least = f"{name} must be at least 1" if number < 1 else f"{name} is at most {MOST_GAMES:,}"
        raise ConfigError(f"{least}, got {number}.")


def evaluation_seeds(seed: int, use: SeedUse = SeedUse.EVALUATION, first: int = 0) -> Iterator[int]:
    """Yields the seeds of an evaluation's games, 31 bits each, from an index on without end."""
    derived_seed(seed, use)  # an invalid seed raises now, not at the first game
    return (derived_seed(seed, use, index) for index in count(first))


def match_seeds(seed: int, versions: tuple[str | None, str | None] = (None, None)) -> Iterator[int]:
    """Yields the seeds of a match's pairs, 31 bits each, all different, without end."""
    digest = hashlib.sha256("/".join(str(part) for part in versions).encode()).digest()
    word = int.from_bytes(digest[:4], "big")
    given: set[int] = set()
    for index in count():
        found = derived_seed(seed, SeedUse.MATCH, word, index)
        if found not in given:  # a repeated game adds no evidence, so it must not count again
            given.add(found)
            yield found
