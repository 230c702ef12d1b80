"""Plays the same games with and without search, at several budgets; writes scores and costs.

    python scripts/measure_search.py RUN OTHER_RUN --dir search-runs \
        --json docs/results/search.json

A game is cut after 18,000 frames, five minutes, as in Bandres, Bonet & Geffner (2018). Each player
keeps its games in --dir, so the same command goes on after an interruption. When all games are
played, the script measures the CPU time of a decision: of each player by turns, in one game. So
when all games are there, the same command measures the costs anew, on a machine that is quiet.
"""

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from bench_training import cpu_facts
from provenance import provenance

from rlarcade import DQNAgent, SearchPlayer, evaluate_agent, play_steps
from rlarcade.outputs import output_file
from rlarcade.playing.players import AgentPlayer, Player

_ROUNDS = 5
_DECISIONS = 50  # of each player in each round


def main() -> int:
    """Measures every player in every game, the cheapest players first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="runs or checkpoints, each of another game")
    parser.add_argument("--kinds", nargs="+", default=["uct", "iw"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[4, 12, 36])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--skip", type=int, default=4)
    parser.add_argument("--frame-cap", type=int, default=18_000)
    parser.add_argument("--games", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--json", type=output_file, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.dir.mkdir(parents=True, exist_ok=True)
    agents = [DQNAgent.load(checkpoint) for checkpoint in asked.checkpoints]
    protocols = {
        agent: agent.protocol.model_copy(update={"name": "short", "frame_cap": asked.frame_cap})
        for agent in agents
    }
    players: list[tuple[DQNAgent, Player, dict[str, Any]]] = [
        (agent, AgentPlayer(agent, protocol=protocols[agent]), {"kind": None, "simulations": 0})
        for agent in agents
    ]
    for simulations in sorted(asked.budgets):
        for agent in agents:
            for kind in asked.kinds:
                about = {
                    "kind": kind,
                    "simulations": simulations,
                    "depth": asked.depth,
                    "skip": asked.skip,
                }
                searching = SearchPlayer(agent, protocol=protocols[agent], **about)
                players.append((agent, searching, about))
    rows: list[dict[str, Any]] = []
    for agent, player, about in players:
        rows.append(about | {"game": agent.game, "version": agent.version})
        rows[-1] |= scores(player, asked)
        name = about["kind"] or "without search"
        print(
            f"{agent.game}  {name} {about['simulations']}: mean {rows[-1]['mean']:.1f}", flush=True
        )
        write(rows, asked)
    for row, cost in zip(rows, costs([player for _, player, _ in players]), strict=True):
        row["cpu_ms_a_decision"] = cost
    write(rows, asked)
    return 0


def write(rows: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Writes the file."""
    document = {
        "players": rows,
        "games": asked.games,
        "frame_cap": asked.frame_cap,
        "seed": asked.seed,
        "machine": {
            **cpu_facts(1, "fp32"),
            "python": platform.python_version(),
            "torch": version("torch"),
            "ale_py": version("ale-py"),
        },
        **provenance(),
    }
    asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def scores(player: Player, asked: argparse.Namespace) -> dict[str, Any]:
    """Returns a player's scores, from its file if it has played before."""
    assert player.version is not None, "it is an agent's"
    name = f"{player.game}-{player.version.replace(':', '-')}"[:200]
    path = asked.dir / f"{name}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    evaluation = evaluate_agent(
        player,
        episodes=asked.games,
        seed=asked.seed,
        record=path.with_suffix(".part"),
        num_lanes=asked.games,
    )
    steps = [game.steps for game in evaluation.episodes]
    row = {
        "mean": evaluation.mean,
        "scores": [game.score for game in evaluation.episodes],
        "decisions": steps,
        "cut_by_the_frame_cap": sum(game.ended == "truncated" for game in evaluation.episodes),
        "mean_decisions": fmean(steps),
    }
    path.write_text(json.dumps(row), "utf-8")
    return row


def costs(players: list[Player]) -> list[float]:
    """Returns the CPU milliseconds of a decision of each player, medians of rounds by turns."""
    rounds: list[list[float]] = [[] for _ in players]
    for turn in range(_ROUNDS):
        for found, player in zip(rounds, players, strict=True):
            game = play_steps(player, episodes=1, seed=turn)
            next(game)  # the first decision includes the start of the emulators
            began = time.process_time()
            steps = sum(1 for _ in islice(game, _DECISIONS))
            found.append(1000 * (time.process_time() - began) / steps)
    return [median(found) for found in rounds]


if __name__ == "__main__":
    sys.exit(main())
