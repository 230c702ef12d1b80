"""Plots of evidence: e-values over time, and probabilities of improvement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from rlarcade.evaluation.sequential import Rule
from rlarcade.reports.plots import CANDIDATE
from rlarcade.reports.svg import (
    DOTTED,
    INK,
    colour,
    drawn,
    line_style,
    note,
    thinned,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Bet:
    """An e-value over time (the money that one coin became), and its bound."""

    place: int
    """Index among the series of the page."""
    values: Sequence[float]
    """e-values before the first pair or round and after each."""
    bound: float
    wins: str
    """Meaning of reaching the bound, in a word."""


class Share(NamedTuple):
    """A probability of improvement with its interval."""

    key: str
    """Short label of the row."""
    place: int
    """Index among the series of the page."""
    value: float
    interval: tuple[float, float]


def evidence_plot(name: str, label: str, bets: Sequence[Bet], unit: str) -> Markup:
    """Draws e-values over time, with their bounds.

    Args:
        name: id of the plot.
        label: description of the plot for screen readers.
        bets: one line each, all of the same length.
        unit: unit of time, in the plural: "pairs" or "rounds".
    """
    count = len(bets[0].values)
    shown = thinned(count)
    bounds = sorted({(bet.bound, bet.wins): bet.place for bet in bets}.items(), key=_highest_first)
    values = [value for bet in bets for value in bet.values]
    # Very small values, or large ones after the verdict, must not squeeze the rest of the plot.
    lowest = max(1e-3, min(values))
    largest = max(bet.bound for bet in bets)
    highest = max(largest, min(1e3 * largest, max(values)))

    def draw(axes: "Axes") -> None:
        for bet in bets:
            money = [min(max(bet.values[i], lowest / 9), 9 * highest) for i in shown]
            (line,) = axes.plot(shown, money, **line_style(bet.place))
            line.set_gid(f"bet-{bet.place}")
        for below, ((bound, wins), place) in enumerate(bounds):
            shade = colour(place) if len(bounds) == len(bets) else INK
            axes.axhline(bound, color=shade, linewidth=1, linestyle=DOTTED)
            # Two bounds may be close: label the higher one above its line, the others below.
            note(axes, f"{wins} from {bound:g}", (0.01, bound), below=below > 0)
        axes.set(yscale="log", ylim=(lowest / 2, highest * 2.5), xlim=(0, max(1, count - 1)))
        axes.set(xlabel=unit, ylabel="e-value")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        whole_numbers(axes)

    return drawn(name, label, draw)


def _highest_first(bound: tuple[tuple[float, str], int]) -> float:
    return -bound[0][0]


def interval_plot(
    name: str,
    label: str,
    outcomes: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    rule: Rule,
    unit: str,
) -> Markup:
    """Draws the mean outcome so far and the interval around it.

    Args:
        name: id of the plot.
        label: description of the plot for screen readers.
        outcomes: outcomes in order.
        intervals: intervals before the first outcome and after each.
        rule: rule of the match.
        unit: unit of time, in the plural: "pairs" or "rounds".
    """
    shares, won = [], 0.0
    for count, outcome in enumerate(outcomes, 1):
        won += outcome
        shares.append(won / count)
    shown = thinned(len(shares))

    def draw(axes: "Axes") -> None:
        looks = thinned(len(intervals))
        lows, highs = zip(*(intervals[look] for look in looks), strict=True)
        axes.fill_between(looks, lows, highs, color=colour(CANDIDATE), alpha=0.18, linewidth=0)
        axes.plot([i + 1 for i in shown], [shares[i] for i in shown], **line_style(CANDIDATE))
        # The mean may lie outside: what the interval once ruled out stays ruled out.
        end = len(shares)
        axes.plot([end, end], [lows[-1], highs[-1]], "_-", color=colour(CANDIDATE), markersize=9)
        axes.plot(end, shares[-1], "o", color=colour(CANDIDATE))
        for text, value in (("no better", rule.null), ("useful", rule.useful)):
            axes.axhline(value, color=INK, linewidth=1, linestyle=DOTTED)
            note(axes, f" {text}", (1, value), below=value == rule.null)
        axes.set(xlim=(0, 1.03 * len(shares)), ylim=(0, 1.03))
        axes.set(xlabel=unit, ylabel="probability of improvement")
        whole_numbers(axes)

    return drawn(name, label, draw)


def shares_plot(name: str, label: str, shares: Sequence[Share], marks: Sequence[float]) -> Markup:
    """Draws probabilities with their intervals, one below the other.

    Args:
        name: id of the plot.
        label: description of the plot for screen readers.
        shares: rows, from the top.
        marks: probabilities to mark with a vertical line.
    """

    def draw(axes: "Axes") -> None:
        for row, share in enumerate(shares):
            paint = colour(share.place)
            (bar,) = axes.plot(share.interval, [row, row], "|-", color=paint, markersize=9)
            (dot,) = axes.plot(share.value, row, "o", color=paint)
            bar.set_gid(f"interval-{row}")
            dot.set_gid(f"share-{row}")
        for mark in marks:
            axes.axvline(mark, color=INK, linewidth=1, linestyle=DOTTED)
        axes.set_yticks(range(len(shares)), [share.key for share in shares], fontsize=12)
        axes.set_ylim(len(shares) - 0.4, -0.6)
        axes.set(xlim=(-0.02, 1.02), xlabel="probability of improvement")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    return drawn(name, label, draw, height=max(3.7, 1 + 0.4 * len(shares)))
