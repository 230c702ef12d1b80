"""Published random and human scores, for the 57 games that have them."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class PublishedScores:
    """Scores of a random player and of a professional human tester in one game."""

    random: float
    human: float
    source: str


def published_scores(game: str) -> PublishedScores | None:
    """Returns the published scores of a ROM id, or None if there are none.

    The games had no-op starts and a cap of 108,000 frames. Source: `atari_data.py` of DQN Zoo (Quan
    & Ostrovski, 2020, https://github.com/google-deepmind/dqn_zoo), the table that most DQN papers
    use.
    """
    return _table().get(game)


def human_normalized_score(game: str, score: float) -> float | None:
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
