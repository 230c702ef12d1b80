"""Plots of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval
from rlarcade.reports.formats import points
from rlarcade.reports.svg import (
    DASHED,
    DOTTED,
    INK,
    colour,
    drawn,
    limits,
    line_style,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAMPION, CANDIDATE = 0, 1
"""Indices of the two sides among the series of a match or a suite."""


@dataclass(frozen=True, slots=True)
class Series:
    """The games of one version, for plots."""

    key: str
    """Short label in plots."""
    place: int
    """Index among the series of the page. It selects the colour and the dashes."""
    scores: tuple[float, ...]
    failed: tuple[bool, ...]
    """Whether the policy failed, for each game."""


@dataclass(frozen=True, slots=True)
class Point:
    """A pair of games in the scatter plot."""

    champion: float
    candidate: float
    outcome: float
    failed: bool
    """Whether one of the policies failed."""


def performance_profile(scores: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the distinct scores, ascending, and the share of games that scored more than each."""
    ordered = sorted(scores)
    # The dict keeps the last index of equal scores. All scores after it are larger.
    last = {score: index for index, score in enumerate(ordered)}
    return tuple(last), tuple((len(ordered) - 1 - index) / len(ordered) for index in last.values())


def profile_plot(name: str, label: str, series: Sequence[Series]) -> Markup:
    """Draws the share of games that scored more than τ, for every τ."""
    left, right = limits(score for one in series for score in one.scores)

    def draw(axes: "Axes") -> None:
        for one in series:
            taus, shares = performance_profile(one.scores)
            ends = [left, *taus, right], [1.0, *shares, 0.0]
            (line,) = axes.plot(*ends, drawstyle="steps-post", **line_style(one.place))
            line.set_gid(f"profile-{one.place}")
        axes.set(xlim=(left, right), ylim=(0, 1.03), xlabel="score τ", ylabel="P(score > τ)")

    return drawn(name, label, draw, height=min(6.0, _height(len(series))))


def _height(rows: int) -> float:
    """Height in inches for `rows` versions, shared by the two plots that are side by side."""
    return max(3.7, 1 + 0.6 * rows)


def visible(references: Mapping[str, float], series: Sequence[Series]) -> dict[str, float]:
    """Returns the references close enough to the scores that a plot can show both."""
    low, high = limits(score for one in series for score in one.scores)
    room = 0.5 * (high - low)
    return {name: score for name, score in references.items() if low - room <= score <= high + room}


def scores_plot(
    name: str,
    label: str,
    series: Sequence[Series],
    references: Mapping[str, float],
    *,
    axis: str = "score of a game",
) -> Markup:
    """Draws every game as a dot in the row of its version, with quartiles, median and IQM.

    Args:
        name: id of the plot.
        label: description of the plot for screen readers.
        series: rows, from the top.
        references: scores to mark with a vertical line, by name.
        axis: what a dot's place means, if a dot is something else than a game.
    """

    def draw(axes: "Axes") -> None:
        for row, one in enumerate(series):
            _quartiles(axes, row, one)
            _games(axes, row, one)
        for text, score in references.items():
            axes.axvline(score, color=INK, linewidth=1, linestyle=DOTTED)
            # Two references may be close: label the lower one on its left.
            side = "right" if score < max(references.values()) else "left"
            top = ("data", "axes fraction")
            axes.annotate(f" {text} ", (score, 1), xycoords=top, ha=side, fontsize=11)
        scores = [score for one in series for score in one.scores]
        axes.set(xlim=limits([*scores, *references.values()]), xlabel=axis)
        axes.set_yticks(range(len(series)), [one.key for one in series], fontsize=12)
        axes.set_ylim(len(series) - 0.4, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    titles = {
        _group(one, failed): [f"{one.key}: {points(score)}" for score in _scores_of(one, failed)]
        for one in series
        for failed in (False, True)
    }
    return drawn(name, label, draw, height=_height(len(series)), titles=titles)


def _group(one: Series, failed: bool) -> str:
    return f"{'failed' if failed else 'games'}-{one.place}"


def _scores_of(one: Series, failed: bool) -> list[float]:
    return [score for score, lost in zip(one.scores, one.failed, strict=True) if lost is failed]


def _quartiles(axes: "Axes", row: int, one: Series) -> None:
    import numpy as np

    low, middle, high = np.quantile(one.scores, (0.25, 0.5, 0.75)).tolist()
    paint = colour(one.place)
    axes.barh(row, high - low, 0.56, left=low, color=paint, alpha=0.16, linewidth=0)
    axes.plot([middle, middle], [row - 0.28, row + 0.28], color=INK, linewidth=1.5)
    around = iqm_interval(one.scores)
    if around is not None:
        axes.plot(around, [row + 0.39, row + 0.39], color=INK, linewidth=1.5)
    axes.plot(interquartile_mean(one.scores), row + 0.39, "D", color=INK, markersize=5)


def _games(axes: "Axes", row: int, one: Series) -> None:
    # Heights follow a golden-ratio sequence: evenly spread and reproducible.
    places = [
        (score, row + 0.46 * (i * 0.618034 % 1 - 0.5)) for i, score in enumerate(one.scores, 1)
    ]
    for failed in (False, True):
        shown = [at for at, lost in zip(places, one.failed, strict=True) if lost is failed]
        (dots,) = axes.plot(
            [x for x, _ in shown],
            [y for _, y in shown],
            "x" if failed else "o",
            color=INK if failed else colour(one.place),
            alpha=0.6,
            markersize=7 if failed else 4.5,
            markeredgewidth=1.5 if failed else 0,
        )
        dots.set_gid(_group(one, failed))


def scatter_plot(name: str, label: str, pairs: Sequence[Point]) -> Markup:
    """Draws each pair at the champion's and the candidate's score, with the diagonal of ties."""
    low, high = limits(score for pair in pairs for score in (pair.champion, pair.candidate))

    def draw(axes: "Axes") -> None:
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=DASHED)
        for kind, outcome, shape, paint in (
            ("won", 1.0, "^", colour(CANDIDATE)),
            ("tied", 0.5, "s", INK),
            ("lost", 0.0, "o", colour(CHAMPION)),
        ):
            of_kind = [pair for pair in pairs if pair.outcome == outcome]
            _pairs(axes, kind, of_kind, shape, paint, size=6, edge=0)
        _pairs(axes, "failed", [p for p in pairs if p.failed], "x", INK, size=9, edge=1.5)
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.set(xlabel="champion's score", ylabel="candidate's score")

    titles = {
        kind: [
            f"champion {points(pair.champion)}, candidate {points(pair.candidate)}"
            for pair in pairs
            if pair.outcome == outcome
        ]
        for kind, outcome in (("won", 1.0), ("tied", 0.5), ("lost", 0.0))
    }
    return drawn(name, label, draw, titles=titles)


def _pairs(
    axes: "Axes",
    name: str,
    pairs: Sequence[Point],
    shape: str,
    paint: str,
    *,
    size: float,
    edge: float,
) -> None:
    (dots,) = axes.plot(
        [pair.champion for pair in pairs],
        [pair.candidate for pair in pairs],
        shape,
        color=paint,
        alpha=0.75,
        markersize=size,
        markeredgewidth=edge,
    )
    dots.set_gid(name)


def curves_plot(
    name: str, label: str, curves: Mapping[int, tuple[Sequence[int], Sequence[float]]]
) -> Markup:
    """Draws training scores over agent steps.

    Args:
        name: id of the plot.
        label: description of the plot for screen readers.
        curves: (steps, scores) of each curve, by its index among the series of the page.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def draw(axes: "Axes") -> None:
        for place, (steps, scores) in curves.items():
            shown = thinned(len(steps))
            axes.plot([steps[i] for i in shown], [scores[i] for i in shown], **line_style(place))
        axes.set(xlabel="agent steps", ylabel="score, mean of 100 games")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return drawn(name, label, draw, width=9.0)
