"""Published random and human scores, for the 57 games that have them."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class PublishedScores:
    """What a random player and a professional human tester scored in one game."""

    random: float
    human: float
    source: str


def published_scores(game: str) -> PublishedScores | None:
    """Returns the published scores of a ROM id, or None where there are none.

    No-op starts, 108,000-frame cap, as tabulated in DQN Zoo's `atari_data.py` (Quan & Ostrovski,
    2020, https://github.com/google-deepmind/dqn_zoo), the table of most DQN papers.
    """
    return _table().get(game)


def human_normalised_score(game: str, score: float) -> float | None:
    """Returns (score − random) / (human − random), or None for a game without published scores."""
    published = published_scores(game)
    if published is None:
        return None
    return (score - published.random) / (published.human - published.random)


@cache
def _table() -> dict[str, PublishedScores]:
    text = (resources.files("rlarcade.games") / "data" / "published_scores.csv").read_text()
    return {
        row["game"]: PublishedScores(float(row["random"]), float(row["human"]), row["source"])
        for row in csv.DictReader(text.splitlines())
    }
