"""Which games are played, in which order: seeds that follow from the user's seed, and nothing else.

Seeds are made as they are needed: a match of at most a billion pairs costs nothing beforehand.
"""

import hashlib
from collections.abc import Iterator
from itertools import count

import numpy as np

from rlarcade.errors import ConfigError
from rlarcade.seeding import SeedUse, derived_seed
from rlarcade.text import quoted

MOST_GAMES = 100_000
"""Of one evaluation, or pairs of one match: weeks of play, and a document that can be read."""


def check_count(name: str, number: int) -> None:
    """Refuses a number of games or pairs that is none, or that nobody can play.

    Raises:
        ConfigError: it is no whole number, below 1, or above 100,000.
    """
    if not isinstance(number, int | np.integer):
        raise ConfigError(f"{name} is a whole number, got {quoted(number)}.")
    if not 1 <= number <= MOST_GAMES:
        least = f"{name} must be at least 1" if number < 1 else f"{name} is at most {MOST_GAMES:,}"
        raise ConfigError(f"{least}, got {number}.")


def evaluation_seeds(seed: int, use: SeedUse = SeedUse.EVALUATION) -> Iterator[int]:
    """Yields the seeds of an evaluation's games, 31 bits each, without end."""
    derived_seed(seed, use)  # a seed that is none is told now, not at the first game
    return (derived_seed(seed, use, index) for index in count())


def match_seeds(seed: int, versions: tuple[str | None, str | None] = (None, None)) -> Iterator[int]:
    """Yields the seeds of a match's pairs, 31 bits each, all different, without end."""
    digest = hashlib.sha256("/".join(str(part) for part in versions).encode()).digest()
    word = int.from_bytes(digest[:4], "big")
    given: set[int] = set()
    for index in count():
        found = derived_seed(seed, SeedUse.MATCH, word, index)
        if found not in given:  # one game counted twice would not be two pieces of evidence
            given.add(found)
            yield found
