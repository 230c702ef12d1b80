"""Published learning curves: scores that a healthy run should reach, by frames."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class PublishedPoint:
    """Mean training return of the last million frames before `frames`, with its sd over seeds."""

    frames: int
    mean: float
    sd: float


def published_curve(game: str, algorithm: str, torso: str) -> tuple[PublishedPoint, ...]:
    """Returns the points of a curve, in order of frames; empty if none was published.

    Source: Castro et al. (2018), Dopamine, https://github.com/google/dopamine, commit 5873f54,
    baselines/atari/data. It has 60 games with five seeds (a few have four), sticky actions 0.25,
    whole games, ε 0.01 while training, and lost lives are not learned from. This is a selection of
    its points, rounded to five digits.

    Args:
        game: ROM id.
        algorithm: DQN, C51, QR-DQN, IQN or Rainbow.
        torso: nature or impala.
    """
    return _table().get((game, algorithm, torso), ())


def published_agents() -> tuple[tuple[str, str], ...]:
    """Returns (algorithm, torso) of every agent that has published curves, in alphabetical order.

    Agents with the torso of Mnih et al. (2015) come first.
    """
    return tuple(
        sorted({(a, t) for _, a, t in _table()}, key=lambda one: (one[1] != "nature", one))
    )


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
