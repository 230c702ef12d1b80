"""Draws the learning curves of runs: mean score of the last 100 games against agent steps.

python scripts/plot_learning_curve.py checkpoints/space_invaders-dqn-seed0 --png curve.png
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from rlarcade.games import display_name, published_scores
from rlarcade.learning.metrics import read_metrics

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("runs", type=Path, nargs="+", help="run folders")
parser.add_argument("--png", type=Path, default=Path("curve.png"))
args = parser.parse_args()

figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
games = set()
for run in args.runs:
    name = "rollout/ep_rew_mean"
    points = [(line["step"], line[name]) for line in read_metrics(run) if name in line]
    axes.plot(*zip(*points, strict=True), label=run.name)
    games.add(json.loads((run / "run.json").read_text())["train"]["game"])
for game in games:
    if scores := published_scores(game):
        axes.axhline(scores.random, color="grey", linestyle=":", label=f"random, {game}")
axes.set_xlabel("agent steps")
axes.set_ylabel("mean score of the last 100 games, while exploring")
axes.set_title(", ".join(display_name(game) for game in sorted(games)))
axes.legend()
figure.savefig(args.png, dpi=110)
