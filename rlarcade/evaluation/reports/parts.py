"""What the reports of evaluations and of matches have in common."""

import base64
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from pydantic import BaseModel

from rlarcade.checkpoint import MANIFEST, WEIGHTS
from rlarcade.errors import RlarcadeError
from rlarcade.evaluation.documents import EpisodeResult
from rlarcade.evaluation.reports.page import (
    Html,
    element,
    figure,
    interval,
    joined,
    number,
    percent,
    points,
    section,
)
from rlarcade.evaluation.reports.plots import Series, curves_plot, scores_plot, visible
from rlarcade.evaluation.reports.svg import swatch
from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval
from rlarcade.games.names import display_name
from rlarcade.games.scores import human_normalised_score, published_scores

PROFILE = (
    "Performance profile: share of games that scored more than τ. The higher line is the better "
    "one at that score."
)
_TRAINING_SCORE = "rollout/ep_rew_mean"


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Scores of a run while it was training."""

    name: str
    """Of the run."""
    steps: tuple[int, ...]
    """Agent steps."""
    scores: tuple[float, ...]
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
    data: bytes

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
        except OSError as error:
            raise RlarcadeError(
                f"the figures of run {run} cannot be read: {error.strerror}. Mend its permissions, "
                "or leave its learning curve out."
            ) from error
        at = {line["step"]: line[_TRAINING_SCORE] for line in lines if _has_score(line)}
        if at:
            steps, scores = zip(*sorted(at.items()), strict=True)
            return LearningCurve(str(run), steps, tuple(map(float, scores)), _game_of(run))
    return None


def _has_score(figures: Mapping[str, Any]) -> bool:
    score = figures.get(_TRAINING_SCORE)
    return isinstance(score, int | float) and math.isfinite(score)


def _game_of(run: Path) -> str | None:
    try:
        game = json.loads((run / "run.json").read_bytes())["train"]["game"]
    except (OSError, ValueError, KeyError, TypeError):  # a curve without a game is still a curve
        return None
    return game if isinstance(game, str) else None


def described(game: str, episodes: Sequence[EpisodeResult]) -> dict[str, str]:
    """Returns what sums some games up, by what it is called."""
    scores = [episode.score for episode in episodes]
    mean = fmean(scores)
    endings = Counter(episode.ended for episode in episodes)
    return {
        "games": number(len(scores), 0),
        "mean": number(mean),
        "median": number(median(scores)),
        "IQM (95 % interval)": joined(
            number(interquartile_mean(scores)),
            " ",
            element("span", interval(*iqm_interval(scores)), class_="interval"),
        ),
        "lowest": points(min(scores)),
        "highest": points(max(scores)),
        "human-normalised": percent(human_normalised_score(game, mean)),
        "mean steps": number(fmean(episode.steps for episode in episodes), 0),
        "ended": ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items())),
    }


def ending(episode: EpisodeResult) -> str:
    """Returns how a game ended, and why if the policy failed."""
    reason = " ".join((episode.failure or "").split())
    return f"{episode.ended}: {reason}" if reason else episode.ended


def series_of(key: str, place: int, episodes: Sequence[EpisodeResult]) -> Series:
    """Returns games as plots show them."""
    return Series(
        key,
        place,
        tuple(episode.score for episode in episodes),
        tuple(episode.ended == "failed" for episode in episodes),
    )


def legend(names: Mapping[int, str]) -> list[Html]:
    """Returns the keys of a plot's lines, by their places."""
    return [joined(swatch(place), element("span", name)) for place, name in names.items()]


def named(place: int, key: str, name: str) -> Html:
    """Returns what a version is called in plots, and its name."""
    parts = [part + "/" for part in name.split("/")]
    parts[-1] = parts[-1][:-1]
    path = joined(*parts, between=element("wbr"))  # a long path breaks between its folders
    return joined(swatch(place), element("b", key), " ", element("span", path, class_="name"))


def header(kind: str, title: str, subtitle: str) -> Html:
    """Returns what stands above everything else."""
    return element(
        "header",
        element("p", f"rlarcade {kind}", class_="kicker"),
        element("h1", title),
        element("p", subtitle, class_="subtitle"),
    )


def scores_figure(name: str, game: str, series: Sequence[Series], legend: Sequence[Html]) -> Html:
    """Returns every game as a dot, beside what a random player and a human score."""
    published = published_scores(game)
    known = {"random": published.random, "human": published.human} if published else {}
    shown = visible(known, series)
    caption = (
        "Each dot is a game; its height within the row means nothing. Box and line: the middle "
        "half of the games and their median. Diamond: interquartile mean with its 95 % bootstrap "
        "interval over games."
    )
    if any(any(one.failed) for one in series):
        caption += " Crosses: games in which the policy failed, at the score it had by then."
    for reference, score in known.items():
        if reference not in shown:
            caption += f" The {reference} score, {points(score)}, lies outside the picture."
    label = "Scores of all games of " + " and of ".join(one.key for one in series)
    return figure(scores_plot(name, label, series, shown), caption, legend)


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


def grid(*cells: str) -> Html:
    """Returns cells side by side where there is room."""
    return element("div", *cells, class_="grid")


def settings_of(document: BaseModel, without: Iterable[str]) -> dict[str, str]:
    """Returns the fields of a document but some and its computed ones, named as in its JSON."""
    fields = set(type(document).model_fields) - set(without)
    return dict(_flat(document.model_dump(mode="json", include=fields)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
