"""Draws what looking ahead gains and costs, a panel for each game, from `measure_search.py`'s file.

python scripts/plot_search.py docs/results/search.json --png docs/results/search.png
"""

import argparse
import json
from pathlib import Path
from statistics import stdev
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

mpl.use("Agg")
import matplotlib.pyplot as plt

from rlarcade.games import display_name
from rlarcade.outputs import output_file
from rlarcade.reports.svg import DOTTED, INK, STYLE, line_style

_KINDS = {"uct": "UCT", "iw": "Rollout-IW"}


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--png", type=output_file, default=Path("search.png"))
    asked = parser.parse_args()
    rows = json.loads(asked.json.read_text("utf-8"))["players"]
    games = list(dict.fromkeys(row["game"] for row in rows))
    mpl.rcParams.update(STYLE)
    figure, panels = plt.subplots(
        1, len(games), figsize=(4.5 * len(games), 3.6), layout="constrained", squeeze=False
    )
    for axes, game in zip(panels[0], games, strict=True):
        draw_game(axes, game, [row for row in rows if row["game"] == game])
    panels[0][0].set_ylabel("mean score ± standard error")
    figure.savefig(asked.png, dpi=110)
    print(asked.png)


def draw_game(axes: Axes, game: str, rows: list[dict[str, Any]]) -> None:
    """Draws the scores of one game against the CPU time of a decision."""
    for place, (kind, name) in enumerate(_KINDS.items()):
        found = sorted(
            (row for row in rows if row["kind"] == kind), key=lambda row: row["simulations"]
        )
        if not found:
            continue
        axes.errorbar(
            [row["cpu_ms_a_decision"] for row in found],
            [row["mean"] for row in found],
            yerr=[stdev(row["scores"]) / len(row["scores"]) ** 0.5 for row in found],
            label=name,
            **line_style(place),
            marker="o",
            capsize=3,
        )
        for row in found:
            axes.annotate(
                f"{row['simulations']}",
                (row["cpu_ms_a_decision"], row["mean"]),
                textcoords="offset points",
                xytext=(4, 5),
            )
    (alone,) = (row for row in rows if row["kind"] is None)
    axes.axhline(alone["mean"], color=INK, linestyle=DOTTED, label="without search")
    axes.set_xscale("log")
    ticks = [5, 10, 20, 40, 80, 160]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(bottom=0)
    axes.set_title(display_name(game))
    axes.set_xlabel("CPU milliseconds a decision")
    axes.legend()


if __name__ == "__main__":
    main()
