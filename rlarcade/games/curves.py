"""Published learning curves: what a healthy run should show after so many frames."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class PublishedPoint:
    """Mean training return of the million frames up to here, and its spread over seeds."""

    frames: int
    mean: float
    sd: float


def published_curve(game: str, algorithm: str, torso: str) -> tuple[PublishedPoint, ...]:
    """Returns the points of a curve, in order of frames; empty where none was published.

    From Castro et al. (2018), Dopamine, https://github.com/google/dopamine, commit 5873f54,
    baselines/atari/data: 60 games, five seeds (four in a few), sticky actions 0.25, whole games,
    ε 0.01 while training, lost lives not learned from. A selection of its points, to five digits.

    Args:
        game: ROM id.
        algorithm: DQN, C51, QR-DQN, IQN or Rainbow.
        torso: nature or impala.
    """
    return _table().get((game, algorithm, torso), ())


@cache
def _table() -> dict[tuple[str, str, str], tuple[PublishedPoint, ...]]:
    text = (resources.files("rlarcade.games") / "data" / "published_curves.csv").read_text()
    curves: defaultdict[tuple[str, str, str], list[PublishedPoint]] = defaultdict(list)
    for row in csv.DictReader(text.splitlines()):
        point = PublishedPoint(
            int(row["million_frames"]) * 1_000_000, float(row["mean"]), float(row["sd"])
        )
        curves[row["game"], row["algorithm"], row["torso"]].append(point)
    return {key: tuple(sorted(points, key=lambda p: p.frames)) for key, points in curves.items()}
