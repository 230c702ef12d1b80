"""Draws the learning curves of runs, a panel for each game: mean score of the last 100 games.

    python scripts/plot_learning_curve.py checkpoints/space_invaders-dqn-seed0 --png curve.png
    python scripts/plot_learning_curve.py checkpoints/sweeps/screen/* --minutes --png screen.png
    python scripts/plot_learning_curve.py "10 steps=docs/results/cpu-default.json:plain" --minutes
    python scripts/plot_learning_curve.py docs/results/precision.json:runs/fp32

FILE.json:NAME stands for the runs that `record_run.py` recorded under that name, or that
`paired_precision.py` wrote as its `runs`; /PART after it, for those with PART in their name;
FILE.json alone, for the one run in it. Before a = stands what its curves are called. Runs of one
name in one game become a line, their mean, in a band from the lowest to the highest. Dots are
evaluations on the way. With --minutes the curves are drawn against the time that training took
(evaluations and saves left out), which is what a user waits for.
"""

import argparse
import io
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt

from rlarcade.games import display_name, published_scores, resolve_game
from rlarcade.outputs import output_file
from rlarcade.reports.svg import DOTTED, INK, STYLE, colour, line_style
from rlarcade.runs.metrics_file import read_metrics

_SCORE, _EVALUATION = "rollout/ep_rew_mean", "eval/mean_reward"
_PARTS = ("env", "act", "replay", "learn")
_FILE = re.compile(r"(?P<file>.+\.json)(:(?P<name>[^/]+)(/(?P<part>.+))?)?")
_COLOURS = 128  # of the picture: a file of a third of the size, and nobody sees it


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", help="[LABEL=]run folder or FILE.json[:NAME[/PART]]; others are skipped"
    )
    parser.add_argument("--minutes", action="store_true", help="against minutes of training")
    parser.add_argument("--png", type=output_file, default=Path("curve.png"))
    asked = parser.parse_args()

    games: defaultdict[str, list[Drawn]] = defaultdict(list)
    for source in asked.runs:
        try:
            found = read(source, in_minutes=asked.minutes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            parser.error(f"{source} cannot be read: {error}")
        for drawn in found:
            games[drawn.game].append(drawn)
    if not games:
        parser.error("none of these is a run folder or FILE.json:NAME.")
    mpl.rcParams.update(STYLE)
    figure, panels = plt.subplots(
        1, len(games), figsize=(7 * len(games), 4), layout="constrained", squeeze=False
    )
    for axes, (game, runs) in zip(panels[0], sorted(games.items()), strict=True):
        draw_game(axes, game, runs)
        axes.set_xlabel("minutes of training" if asked.minutes else "agent steps")
        if not asked.minutes:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0][0].set_ylabel("mean score of the last 100 games")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    Image.open(picture).convert("RGB").quantize(_COLOURS).save(asked.png, optimize=True)


def draw_game(axes: Axes, game: str, runs: list["Drawn"]) -> None:
    """Draws a game's curves, each with its name at its end; runs of one name become a band."""
    groups: defaultdict[str, list[Drawn]] = defaultdict(list)
    for drawn in runs:
        if drawn.curve:  # a run that has just begun has none
            groups[drawn.label].append(drawn)
    ends = []
    for place, (label, group) in enumerate(groups.items()):
        x, scores = together(group)
        axes.plot(x, scores.mean(axis=0), **line_style(place))
        if len(group) > 1:
            low, high = scores.min(axis=0), scores.max(axis=0)
            axes.fill_between(x, low, high, color=colour(place), alpha=0.16, linewidth=0)
        for drawn in group:
            axes.plot(*columns(drawn.evaluations), "o", color=colour(place), markersize=5)
        name = label if len(group) == 1 else f"{label} ({len(group)} runs)"
        ends.append((float(scores[:, -1].mean()), float(x[-1]), name, colour(place)))
    if published := published_scores(game):
        axes.axhline(published.random, color=INK, linewidth=1, linestyle=DOTTED)
        ends.append((published.random, axes.get_xlim()[1], "random", INK))
    axes.set_title(display_name(game))
    name_ends(axes, ends)


def together(group: list["Drawn"]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns xs that all runs of a group have, and the score of each run there: (R, X)."""
    longest = min(drawn.curve[-1][0] for drawn in group)
    x = np.array(sorted({x for drawn in group for x, _ in drawn.curve if x <= longest}))
    return x, np.array([np.interp(x, *columns(drawn.curve)) for drawn in group])


def name_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Writes each line's name at its end, apart from each other: (score, x, name, colour)."""
    low, high = axes.get_ylim()
    apart, at = (high - low) / 16, -np.inf
    for score, x, name, shade in sorted(ends):
        at = max(score, at + apart)
        axes.annotate(
            name, (x, at), xytext=(5, 0), textcoords="offset points", color=shade, va="center"
        )


@dataclass
class Drawn:
    """One run's line, and its dots."""

    label: str
    game: str
    curve: list[tuple[float, float]]
    evaluations: list[tuple[float, float]]


def read(source: str, *, in_minutes: bool) -> list[Drawn]:
    """Returns the runs that an argument stands for; exits where a file has none of that name."""
    label, _, path = source.rpartition("=")
    run = Path(path)
    if (run / "run.json").exists():
        game = json.loads((run / "run.json").read_text())["train"]["game"]
        return [Drawn(label or run.name, game, *curves(run, in_minutes=in_minutes))]
    if not (asked := _FILE.fullmatch(path)):
        return []
    drawn = []
    for row in recorded_rows(**asked.groupdict()):
        name = f"{row['run']} ({asked['name']})" if asked["name"] else Path(asked["file"]).stem
        lines = recorded_curves(row, in_minutes=in_minutes)
        drawn.append(Drawn(label or name, resolve_game(row["settings"]["game"]), *lines))
    return drawn


def recorded_rows(file: str, name: str | None, part: str | None) -> list[dict[str, Any]]:
    """Returns runs of a file, as `record_run.py` writes them; exits where it has none of that name.

    `paired_precision.py` calls a run's name `label` and its curve `curve`. A file of one run has
    its `curve`, too, and its settings are `train`.
    """
    document = json.loads(Path(file).read_text())
    if name is not None and name not in document:
        raise SystemExit(f"{file} has no {name}. It has {', '.join(document)}.")
    rows = [
        {
            "run": row.get("label", ""),
            "settings": row.get("train"),
            "training_return": row.get("curve", []),
            "evaluations_on_the_way": [],
        }
        | row
        for row in ([document] if name is None else document[name])
    ]
    found = [row for row in rows if part is None or part in row["run"]]
    if not found:
        names = ", ".join(row["run"] for row in rows)
        raise SystemExit(f"no run of {name} in {file} has {part} in its name: {names}.")
    return found


def columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Turns (x, score) points into their xs and their scores."""
    return [x for x, _ in points], [score for _, score in points]


def curves(
    run: Path, *, in_minutes: bool
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Returns (x, score) of training, every thousand steps, and of the evaluations on the way."""
    curve, evaluations = [], []
    steps, seconds = 0, 0.0
    for line in read_metrics(run):
        if "time/fps" in line:
            elapsed = (line["step"] - steps) / line["time/fps"]
            seconds += elapsed * sum(line[f"time/{part}_share"] for part in _PARTS)
            steps = line["step"]
        x = seconds / 60 if in_minutes else line["step"]
        if _SCORE in line:
            curve.append((x, line[_SCORE]))
        if _EVALUATION in line:
            evaluations.append((x, line[_EVALUATION]))
    return curve, evaluations


def recorded_curves(
    row: dict[str, Any], *, in_minutes: bool
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Returns what `curves` does, of a recorded run."""
    curve, evaluations = row["training_return"], row["evaluations_on_the_way"]
    if not in_minutes:
        return curve, evaluations
    steps = [steps for steps, _ in curve]
    if not row.get("training_minutes") and not row.get("seconds"):
        raise SystemExit(f"{row['run']} has no times: draw it against steps, without --minutes.")
    # rows of before minutes were recorded know the time of all steps: the pace is taken as even
    minutes = row.get("training_minutes") or [
        x / row["steps"] * sum(row["seconds"][part] for part in _PARTS) / 60 for x in steps
    ]
    return (
        [(x, score) for x, (_, score) in zip(minutes, curve, strict=True)],
        [(float(np.interp(x, steps, minutes)), score) for x, score in evaluations],
    )


if __name__ == "__main__":
    main()
