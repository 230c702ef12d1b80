"""The plots of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlarcade.evaluation.reports.page import Html
from rlarcade.evaluation.reports.svg import (
    DASHED,
    DOTTED,
    INK,
    colour,
    drawn,
    limits,
    line_style,
    note,
    thinned,
    whole_numbers,
)
from rlarcade.evaluation.sequential import Evidence, Rule
from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAMPION, CANDIDATE = 0, 1
"""Places of the two sides among the series of a match."""


@dataclass(frozen=True, slots=True)
class Series:
    """The games of one version, as plots show them."""

    key: str
    """What a plot calls it: short."""
    place: int
    """Among the series of the page; its colour and dashes follow."""
    scores: tuple[float, ...]
    failed: tuple[bool, ...]
    """Whether the policy failed in the game."""


@dataclass(frozen=True, slots=True)
class Point:
    """A pair of games in the scatter plot."""

    champion: float
    candidate: float
    outcome: float
    failed: bool
    """Whether one of the policies failed."""


def performance_profile(scores: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the scores that occur, rising, and the share of games that scored more than each."""
    ordered = sorted(scores)
    # of equal scores the last one has only larger ones after it
    last = {score: index for index, score in enumerate(ordered)}
    return tuple(last), tuple((len(ordered) - 1 - index) / len(ordered) for index in last.values())


def profile_plot(name: str, label: str, series: Sequence[Series]) -> Html:
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
    """Inches for a plot of so many versions; two plots of them stand side by side."""
    return max(3.7, 1 + 0.6 * rows)


def visible(references: Mapping[str, float], series: Sequence[Series]) -> dict[str, float]:
    """Returns the references that a plot of these scores can show without shrinking them much."""
    low, high = limits(score for one in series for score in one.scores)
    room = 0.5 * (high - low)
    return {name: score for name, score in references.items() if low - room <= score <= high + room}


def scores_plot(
    name: str, label: str, series: Sequence[Series], references: Mapping[str, float]
) -> Html:
    """Draws every game as a dot in the row of its version, with quartiles, median and IQM.

    Args:
        name: of the plot.
        label: what it shows, in words.
        series: rows, from the top.
        references: scores to draw a line at.
    """

    def draw(axes: "Axes") -> None:
        for row, one in enumerate(series):
            _quartiles(axes, row, one)
            _games(axes, row, one)
        for text, score in references.items():
            axes.axvline(score, color=INK, linewidth=1, linestyle=DOTTED)
            # two may be close: the lower one is named on its left
            side = "right" if score < max(references.values()) else "left"
            top = ("data", "axes fraction")
            axes.annotate(f" {text} ", (score, 1), xycoords=top, ha=side, fontsize=11)
        scores = [score for one in series for score in one.scores]
        axes.set(xlim=limits([*scores, *references.values()]), xlabel="score of a game")
        axes.set_yticks(range(len(series)), [one.key for one in series], fontsize=12)
        axes.set_ylim(len(series) - 0.4, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    return drawn(name, label, draw, height=_height(len(series)))


def _quartiles(axes: "Axes", row: int, one: Series) -> None:
    import numpy as np

    low, middle, high = np.quantile(one.scores, (0.25, 0.5, 0.75)).tolist()
    paint = colour(one.place)
    axes.barh(row, high - low, 0.56, left=low, color=paint, alpha=0.16, linewidth=0)
    axes.plot([middle, middle], [row - 0.28, row + 0.28], color=INK, linewidth=1.5)
    start, end = iqm_interval(one.scores)
    axes.plot([start, end], [row + 0.39, row + 0.39], color=INK, linewidth=1.5)
    axes.plot(interquartile_mean(one.scores), row + 0.39, "D", color=INK, markersize=5)


def _games(axes: "Axes", row: int, one: Series) -> None:
    # a golden-ratio sequence: spread evenly, and the same every time
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
        dots.set_gid(f"{'failed' if failed else 'games'}-{one.place}")


def scatter_plot(name: str, label: str, pairs: Sequence[Point]) -> Html:
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

    return drawn(name, label, draw)


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


def evidence_plot(name: str, label: str, history: Sequence[Evidence], rule: Rule) -> Html:
    """Draws both e-values, from before the first pair on, and what each has to reach."""
    shown = thinned(len(history))
    bounds = (1 / rule.alpha, 1 / rule.beta)
    values = [value for evidence in history for value in evidence]
    # money that is almost lost, or piled up after the verdict, must not squeeze the rest
    lowest = max(1e-3, min(values))
    highest = max(*bounds, min(1e3 * max(bounds), max(values)))

    def draw(axes: "Axes") -> None:
        for field, (verdict, place) in enumerate((("promote", CANDIDATE), ("reject", CHAMPION))):
            money = [min(max(history[i][field], lowest / 9), 9 * highest) for i in shown]
            axes.plot(shown, money, **line_style(place))
            axes.axhline(bounds[field], color=colour(place), linewidth=1, linestyle=DOTTED)
            # the two may be close: the higher one is named above its line
            below = bounds[field] < max(bounds) or (verdict == "reject" and len(set(bounds)) == 1)
            note(axes, f"{verdict} from {bounds[field]:g}", (0.01, bounds[field]), below=below)
        axes.set(yscale="log", ylim=(lowest / 2, highest * 2.5), xlim=(0, max(1, len(history) - 1)))
        axes.set(xlabel="pairs", ylabel="e-value")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        whole_numbers(axes)

    return drawn(name, label, draw)


def interval_plot(
    name: str,
    label: str,
    outcomes: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    rule: Rule,
) -> Html:
    """Draws the share of pairs won so far and the interval around it.

    Args:
        name: of the plot.
        label: what it shows, in words.
        outcomes: of all pairs, in order.
        intervals: before the first pair and after each.
        rule: of the match.
    """
    shares, won = [], 0.0
    for pairs, outcome in enumerate(outcomes, 1):
        won += outcome
        shares.append(won / pairs)
    shown = thinned(len(shares))

    def draw(axes: "Axes") -> None:
        looks = thinned(len(intervals))
        lows, highs = zip(*(intervals[look] for look in looks), strict=True)
        axes.fill_between(looks, lows, highs, color=colour(CANDIDATE), alpha=0.18, linewidth=0)
        axes.plot([i + 1 for i in shown], [shares[i] for i in shown], **line_style(CANDIDATE))
        axes.errorbar(
            len(shares),
            shares[-1],
            [[shares[-1] - lows[-1]], [highs[-1] - shares[-1]]],
            fmt="o",
            color=colour(CANDIDATE),
            capsize=4,
        )
        for text, value in (("no better", rule.null), ("useful", rule.useful)):
            axes.axhline(value, color=INK, linewidth=1, linestyle=DOTTED)
            note(axes, f" {text}", (1, value), below=value == rule.null)
        axes.set(xlim=(0, 1.03 * len(shares)), ylim=(0, 1.03))
        axes.set(xlabel="pairs", ylabel="probability of improvement")
        whole_numbers(axes)

    return drawn(name, label, draw)


def curves_plot(
    name: str, label: str, curves: Sequence[tuple[Sequence[int], Sequence[float]]], first: int
) -> Html:
    """Draws training scores over agent steps.

    Args:
        name: of the plot.
        label: what it shows, in words.
        curves: steps and scores of each.
        first: place of the first among the series of the page.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def draw(axes: "Axes") -> None:
        for place, (steps, scores) in enumerate(curves, first):
            shown = thinned(len(steps))
            axes.plot([steps[i] for i in shown], [scores[i] for i in shown], **line_style(place))
        axes.set(xlabel="agent steps", ylabel="score, mean of 100 games")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return drawn(name, label, draw)
