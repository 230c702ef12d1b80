"""Plots of many runs: learning curves with bands over seeds, and performance profiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rlarcade.evaluation.across_runs import RunProfile
from rlarcade.reports.svg import DOTTED, INK, colour, drawn, line_style, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[Sequence[float], Sequence[float]]
"""Agent steps, ascending, and the score at each."""

_BAND = 0.16  # opacity, as of the boxes in other plots


@dataclass(frozen=True, slots=True)
class Bundle:
    """The curves of the runs of one agent in one game, at steps that all of them have."""

    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    """Lowest score of a run at each of `steps`."""
    high: tuple[float, ...]
    """Highest score of a run at each of `steps`."""


def bundled(curves: Sequence[Curve]) -> Bundle:
    """Joins curves, up to the end of the shortest. Between its points a curve is a straight line.

    Args:
        curves: at least one; each has at least one point.
    """
    first = max(curve[0][0] for curve in curves)
    last = min(curve[0][-1] for curve in curves)
    every = sorted({step for steps, _ in curves for step in steps if first <= step <= last})
    if not every:  # one run ended before another one had its first score
        every = [last]
    steps: NDArray[np.float64] = np.array([every[i] for i in thinned(len(every))], dtype=float)
    scores = np.array([np.interp(steps, *curve) for curve in curves])
    return Bundle(
        *(tuple(row.tolist()) for row in (steps, scores.mean(0), scores.min(0), scores.max(0)))
    )


def bundles_plot(
    name: str, label: str, bundles: Mapping[int, Bundle], published: Mapping[int, Curve]
) -> Markup:
    """Draws the mean training score over agent steps, in a band from the lowest run to the highest.

    Args:
        name: id of the plot.
        label: description of the plot for screen readers.
        bundles: runs of each agent, by its index among the series of the page.
        published: curves of others, by their index.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    def draw(axes: "Axes") -> None:
        for place, one in bundles.items():
            single = len(one.steps) == 1  # a line of one point would not be seen
            axes.plot(one.steps, one.mean, **line_style(place), marker="o" if single else "")
            axes.fill_between(
                one.steps, one.low, one.high, color=colour(place), alpha=_BAND, linewidth=0
            )
        for place, curve in published.items():
            axes.plot(*curve, **line_style(place), linewidth=1.2, marker="o", markersize=3)
        axes.set(xlabel="agent steps", ylabel="score, mean of 100 games")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))

    return drawn(name, label, draw)


def run_profiles_plot(name: str, label: str, profiles: Mapping[int, RunProfile]) -> Markup:
    """Draws the share of runs that score more than τ, with its interval.

    Args:
        name: id of the plot.
        label: description of the plot for screen readers.
        profiles: all at the same τ, by the index of the agent among the series of the page.
    """

    def draw(axes: "Axes") -> None:
        for place, profile in profiles.items():
            taus = [100 * tau for tau in profile.taus]
            (line,) = axes.plot(taus, profile.shares, drawstyle="steps-post", **line_style(place))
            line.set_gid(f"profile-{place}")
            if profile.band is not None:
                axes.fill_between(
                    taus, *profile.band, step="post", color=colour(place), alpha=_BAND, linewidth=0
                )
        left, *_, right = next(iter(profiles.values())).taus
        if left < 1 < right:
            top = ("data", "axes fraction")
            axes.axvline(100, color=INK, linewidth=1, linestyle=DOTTED)
            axes.annotate(" human", (100, 1), xycoords=top, fontsize=11, va="top")
        axes.set(xlim=(100 * left, 100 * right), ylim=(0, 1.03))
        axes.set(xlabel="human-normalised score τ, %", ylabel="share of runs with score > τ")

    return drawn(name, label, draw)
