"""Additions to a report: learning curves, and pictures or videos of games."""

import base64
import itertools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlarcade.checkpoint import MANIFEST, WEIGHTS
from rlarcade.errors import RlarcadeError
from rlarcade.files import read_bounded
from rlarcade.games.names import display_name
from rlarcade.json_text import parse_json
from rlarcade.reports.formats import short_name
from rlarcade.reports.page import Figure
from rlarcade.reports.plots import curves_plot
from rlarcade.runs.metrics_file import each_metric

_TRAINING_SCORE = "rollout/ep_rew_mean"
_LARGEST_FIGURE = 1e15
_MOST_POINTS = 50_000  # points of a curve, as in a run of 50 million steps; a plot shows fewer


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Training scores of a run."""

    name: str
    """Name of the run."""
    steps: tuple[int, ...] = field(repr=False)
    """Agent steps."""
    scores: tuple[float, ...] = field(repr=False)
    """Mean score of the last hundred games, at each of `steps`."""
    game: str | None = None
    """ROM id if known. Curves of one game share a plot."""
    player: str | None = field(default=None, repr=False)
    """Name of the player that the run made. The curve has its colour."""

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.scores):
            raise ValueError(
                f"a learning curve has one score per step, got {len(self.steps)} steps and "
                f"{len(self.scores)} scores"
            )


@dataclass(frozen=True, slots=True)
class Clip:
    """A video or a picture."""

    caption: str
    mime: Literal["video/mp4", "image/png"]
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.mime not in ("video/mp4", "image/png"):
            raise ValueError(f"a clip is video/mp4 or image/png, not {self.mime!r}")

    @property
    def base64(self) -> str:
        """The data as text, for a page."""
        return base64.b64encode(self.data).decode()


def learning_curve(path: Path) -> LearningCurve | None:
    """Reads the training scores of a run.

    Args:
        path: folder of the run, or of a checkpoint in it.

    Returns:
        The curve, or None if there is none. For example, the checkpoint is outside its run folder.

    Raises:
        RlarcadeError: the curve exists but cannot be read.
    """
    path = path.parent if path.name in (WEIGHTS, MANIFEST) else path
    absolute = path.absolute()
    runs = [path, path.parent.parent] if absolute.parent.name == "checkpoints" else [path]
    for run in runs:
        steps, scores = array("q"), array("d")
        try:
            for line in each_metric(run):
                if _has_score(line):
                    steps.append(line["step"])
                    scores.append(line[_TRAINING_SCORE])
        except OSError as error:
            raise RlarcadeError(
                f"the metrics of run {run} cannot be read: {error.strerror}. Repair the file, or "
                "leave its learning curve out."
            ) from error
        if steps:
            return LearningCurve(str(run), *_in_order(steps, scores), _game_of(run))
    return None


def _in_order(
    steps: "array[int]", scores: "array[float]"
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Sorts the steps and keeps each once, with the score that was written last."""
    ordered, last = np.unique(np.array(steps)[::-1], return_index=True)
    chosen = np.unique(np.linspace(0, len(ordered) - 1, _MOST_POINTS).astype(int))
    points = chosen if len(ordered) > _MOST_POINTS else np.arange(len(ordered))
    values = np.array(scores)[::-1][last[points]]
    return tuple(ordered[points].tolist()), tuple(values.tolist())


def _has_score(figures: Mapping[str, Any]) -> bool:
    score, step = figures.get(_TRAINING_SCORE), figures["step"]
    real = isinstance(score, int | float) and abs(score) < _LARGEST_FIGURE  # False for NaN
    return real and 0 <= step < _LARGEST_FIGURE


def _game_of(run: Path) -> str | None:
    try:
        game = parse_json(read_bounded(run / "run.json"))["train"]["game"]
    except (OSError, ValueError, KeyError, TypeError):
        # The curve is still shown without its game.
        return None
    return game if isinstance(game, str) else None


def curve_figures(curves: Sequence[LearningCurve], players: Sequence[str]) -> list[Figure]:
    """Returns learning curves, one plot per game.

    Args:
        curves: curves of any games.
        players: names of the series of the page. A curve of one of them has its colour. Another
            one has a colour that no player has.
    """
    games: dict[str | None, list[LearningCurve]] = {}
    for curve in curves:
        games.setdefault(curve.game, []).append(curve)
    figures = []
    for number, (game, group) in enumerate(games.items(), 1):
        what = f"Training in {display_name(game)}" if game else "Training"
        unused = itertools.count(len(players))
        placed = {
            players.index(curve.player) if curve.player in players else next(unused): curve
            for curve in group
        }
        plot = curves_plot(
            f"curve-{number}",
            f"{what}: score by agent steps",
            {place: (curve.steps, curve.scores) for place, curve in placed.items()},
        )
        caption = f"{what}: mean score of the last hundred games, while exploring."
        names = {place: short_name(curve.name) for place, curve in placed.items()}
        figures.append(Figure(plot, caption, names))
    return figures
