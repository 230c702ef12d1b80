"""What stands beside a document in its report: learning curves, and pictures of games."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlarcade.checkpoint import MANIFEST, WEIGHTS
from rlarcade.errors import RlarcadeError
from rlarcade.evaluation.reports.page import Html, element, figure, section
from rlarcade.evaluation.reports.parts import grid, legend
from rlarcade.evaluation.reports.plots import curves_plot
from rlarcade.files import read_bounded
from rlarcade.games.names import display_name

_TRAINING_SCORE = "rollout/ep_rew_mean"
_LARGEST_FIGURE = 1e15


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Scores of a run while it was training."""

    name: str
    """Of the run."""
    steps: tuple[int, ...] = field(repr=False)
    """Agent steps."""
    scores: tuple[float, ...] = field(repr=False)
    """Mean of the last hundred games at each."""
    game: str | None = None
    """ROM id, if it is known: curves of one game share a plot."""

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.scores):
            raise ValueError(
                f"a learning curve has a score at every step, got {len(self.steps)} steps and "
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


def learning_curve(path: Path) -> LearningCurve | None:
    """Reads the scores of a run while it was training.

    Args:
        path: of the run, or of a checkpoint in it.

    Returns:
        The curve, or None if there is none: the checkpoint lies outside its run, say.

    Raises:
        RlarcadeError: there is one, but it cannot be read.
    """
    from rlarcade.learning.metrics import read_metrics  # and torch with it

    path = path.parent if path.name in (WEIGHTS, MANIFEST) else path
    absolute = path.absolute()
    runs = [path, path.parent.parent] if absolute.parent.name == "checkpoints" else [path]
    for run in runs:
        try:
            lines = read_metrics(run)
        except (OSError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "a line is nested too deeply"
            raise RlarcadeError(
                f"the figures of run {run} cannot be read: {reason}. Mend the file, or leave its "
                "learning curve out."
            ) from error
        at = {line["step"]: line[_TRAINING_SCORE] for line in lines if _has_score(line)}
        if at:
            steps, scores = zip(*sorted(at.items()), strict=True)
            return LearningCurve(str(run), steps, tuple(map(float, scores)), _game_of(run))
    return None


def _has_score(figures: Mapping[str, Any]) -> bool:
    score, step = figures.get(_TRAINING_SCORE), figures["step"]
    real = isinstance(score, int | float) and abs(score) < _LARGEST_FIGURE  # NaN is not below it
    return real and 0 <= step < _LARGEST_FIGURE


def _game_of(run: Path) -> str | None:
    try:
        game = json.loads(read_bounded(run / "run.json"))["train"]["game"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # a curve without a game is still a curve
        return None
    return game if isinstance(game, str) else None


def curves_section(curves: Sequence[LearningCurve], *, first: int) -> Html:
    """Returns learning curves, a plot for each game; nothing if there are none.

    Args:
        curves: of any games.
        first: place of the first curve among the page's series, lest it be taken for another.
    """
    games: dict[str | None, list[LearningCurve]] = {}
    for curve in curves:
        games.setdefault(curve.game, []).append(curve)
    figures = []
    for place, (game, group) in enumerate(games.items(), 1):
        what = f"Training in {display_name(game)}" if game else "Training"
        plot = curves_plot(
            f"curve-{place}",
            f"{what}: score by agent steps",
            [(curve.steps, curve.scores) for curve in group],
            first,
        )
        caption = f"{what}: mean score of the last hundred games, while exploring."
        names = legend({place: curve.name for place, curve in enumerate(group, first)})
        figures.append(figure(plot, caption, names))
    return section("Learning curves", grid(*figures), name="curves") if figures else Html()


def clips_section(clips: Sequence[Clip]) -> Html:
    """Returns videos and pictures; nothing if there are none."""
    return section("Clips", grid(*map(_clip, clips)), name="clips") if clips else Html()


def _clip(clip: Clip) -> Html:
    source = f"data:{clip.mime};base64,{base64.b64encode(clip.data).decode()}"
    if clip.mime == "image/png":
        return figure(element("img", src=source, alt=clip.caption), clip.caption)
    video = element(
        "video",
        src=source,
        aria_label=clip.caption,
        controls=True,
        loop=True,
        muted=True,
        playsinline=True,
    )
    return figure(video, clip.caption)
