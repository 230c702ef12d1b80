"""Chooses the agents of the zoo by rlarcade's own gate, and writes their folders.

    python scripts/make_zoo.py checkpoints/sweeps/table/* --registry zoo-registry \
        --json docs/results/zoo.json

Weights are rounded to float16 first, which halves the size of the package; the games are played
with what the package has. The runs of each game go through the gate one after the other, by
continuous deployment: the first must beat random play, and each later one the champion. Then all of
them play a round robin, which changes nothing and shows what the gate may have missed. The
champion's folder has its checkpoint, its card, and the games that prove the card's scores. The same
command goes on where it was stopped. Games of earlier commands stay in the file and in the zoo. A
new run challenges the agent that the zoo has if that agent's folder is named before it:

    python scripts/make_zoo.py rlarcade/agents/pong runs/pong-seed3 --registry zoo-registry \
        --json docs/results/zoo.json
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from provenance import provenance

from rlarcade import DQNAgent, Registry, RoundRobin, compare_all, evaluate_agent
from rlarcade.cards import card_name, write_card
from rlarcade.outputs import output_file
from rlarcade.playing.players import AgentPlayer
from rlarcade.promotion.gate import Gate, RandomCheck
from rlarcade.promotion.pipeline import run_pipeline, verdict_of

_GATE = Gate(random=RandomCheck(first_champion=True))
AGENTS = Path(__file__).parents[1] / "rlarcade" / "agents"


def main() -> int:
    """Makes the folders of all games that the runs play."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="runs of any games, the seeds of a game in order")
    parser.add_argument("--registry", type=Path, required=True)
    parser.add_argument("--agents", type=Path, default=AGENTS)
    parser.add_argument("--pairs", type=int, default=400, help="most pairs of the round robin")
    parser.add_argument("--games", type=int, default=20, help="games of each card")
    parser.add_argument("--json", type=output_file, required=True)
    asked = parser.parse_args()
    by_game: defaultdict[str, list[str]] = defaultdict(list)
    for run in asked.runs:
        by_game[DQNAgent.load(run).game].append(run)
    before = json.loads(asked.json.read_text("utf-8"))["games"] if asked.json.exists() else {}
    document: dict[str, Any] = {"games": before}
    with Registry.open(asked.registry) as registry:
        for game, runs in sorted(by_game.items()):
            document["games"][game] = chosen(registry, game, runs, asked) | provenance()
            asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def chosen(
    registry: Registry, game: str, runs: list[str], asked: argparse.Namespace
) -> dict[str, Any]:
    """Chooses a game's champion, and writes its folder. Returns what showed that it is the best."""
    submissions = []
    for run in runs:
        agent = DQNAgent.load(run)
        exact = agent.version
        version = registry.register(rounded(agent, asked.registry / "rounded" / Path(run).name))
        submission = run_pipeline(registry, version, "deployment", _GATE)
        verdict = verdict_of(registry, submission)
        checks = () if verdict is None else verdict.checks
        submissions.append(
            {
                "run": Path(run).name,
                "version": version.number,
                "weights_sha256": version.digest,
                "before_rounding": exact,
                "state": submission.state,
                "checks": [check.model_dump(mode="json") for check in checks],
            }
        )
        print(f"{game} {Path(run).name}: version {version.number} {submission.state}", flush=True)
    champion = registry.alias(game)
    assert champion is not None, f"no run of {game} beats random play"
    agents = [
        AgentPlayer(DQNAgent.load(registry.load(one["version"])), name=str(one["version"]))
        for one in submissions
    ]
    table = None
    if len(agents) > 1:
        table = compare_all(agents, max_pairs=asked.pairs, record=asked.registry / "round-robin")
    checkpoint = registry.load(champion.version)
    agent = DQNAgent.load(checkpoint)
    player = AgentPlayer(agent, name=card_name(checkpoint.manifest))
    evaluation = evaluate_agent(player, episodes=asked.games)
    sizes = write_card(asked.agents / game, checkpoint, agent, evaluation, with_clip=False)
    print(f"{game}: version {champion.version}, mean {evaluation.mean:.1f}", flush=True)
    return {
        "submissions": submissions,
        "champion": champion.version,
        "round_robin": [] if table is None else pairings(table),
        "mean": evaluation.mean,
        "bytes": sizes,
    }


def rounded(agent: DQNAgent, folder: Path) -> Path:
    """Saves a loaded agent with weights rounded to float16; returns the folder."""
    assert agent.manifest is not None
    trained = agent.manifest
    agent.round_weights()
    agent.save(
        folder,
        steps=trained.counters.steps,
        updates=trained.counters.updates,
        preset=trained.preset,
        parent=trained.parent,
        git_commit=trained.git_commit,
    )
    return folder


def pairings(table: RoundRobin) -> list[dict[str, Any]]:
    """Returns every match of a round robin, without its games."""
    return [
        {
            "champion": match.champion.checkpoint,
            "candidate": match.candidate.checkpoint,
            "pairs": match.pairs,
            "won_by_the_candidate": match.improvement_probability,
            "interval": match.interval,
            "verdict": match.verdict,
        }
        for match in table.matches
    ]


if __name__ == "__main__":
    sys.exit(main())
