"""The plots of evidence: what bets have become, and how probable it is to win a pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rlarcade.evaluation.reports.page import Html
from rlarcade.evaluation.reports.plots import CANDIDATE
from rlarcade.evaluation.reports.svg import (
    DOTTED,
    INK,
    colour,
    drawn,
    line_style,
    note,
    thinned,
    whole_numbers,
)
from rlarcade.evaluation.sequential import Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Bet:
    """What one coin has become, and what it has to become."""

    place: int
    """Among the series of the page."""
    values: Sequence[float]
    """Before the first pair or round and after each."""
    bound: float
    wins: str
    """What reaching the bound means, in a word."""


class Share(NamedTuple):
    """How probable it is to win a pair."""

    key: str
    """Of what: short."""
    place: int
    """Among the series of the page."""
    value: float
    interval: tuple[float, float]


def evidence_plot(name: str, label: str, bets: Sequence[Bet], unit: str) -> Html:
    """Draws e-values over time, and what each has to reach.

    Args:
        name: of the plot.
        label: what it shows, in words.
        bets: one line each, of the same length.
        unit: what time is counted in, in the plural.
    """
    count = len(bets[0].values)
    shown = thinned(count)
    bounds = sorted({(bet.bound, bet.wins): bet.place for bet in bets}.items(), key=_highest_first)
    values = [value for bet in bets for value in bet.values]
    # money that is almost lost, or piled up after the verdict, must not squeeze the rest
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
            # two may be close: the higher one is named above its line
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
) -> Html:
    """Draws the mean outcome so far and the interval around it.

    Args:
        name: of the plot.
        label: what it shows, in words.
        outcomes: in order.
        intervals: before the first outcome and after each.
        rule: of the match.
        unit: what the outcomes are of, in the plural.
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
        # the mean need not lie within: what an interval once ruled out stays so
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


def shares_plot(name: str, label: str, shares: Sequence[Share], marks: Sequence[float]) -> Html:
    """Draws probabilities with their intervals, one below the other.

    Args:
        name: of the plot.
        label: what it shows, in words.
        shares: rows, from the top.
        marks: probabilities to draw a line at.
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
