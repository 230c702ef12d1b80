"""Lets an agent learn from its own searches, and saves what it becomes as a checkpoint.

    python scripts/learn_from_search.py RUN --games 40 --data searched.npz --checkpoint learned \
        --json learned.json
    python -m rlarcade.compare RUN learned

At each decision of whole games, a search says what it found each action to be worth. The network
learns these values: Silver et al. (2017), AlphaGo Zero, https://doi.org/10.1038/nature24270, with
values instead of visits. The actions of these games are those of the search, or those of the agent:
then the states are those that the agent comes to, as in DAgger, Ross, Gordon & Bagnell (2011),
https://arxiv.org/abs/1011.0686. The network learns only from decisions that matter: where the best
two actions differ little, so few simulations tell their own noise. The checkpoint sees only the
screen, so an ordinary match judges it.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance
from torch.nn import functional as F

from rlarcade import DQNAgent, SearchPlayer, play_steps
from rlarcade.outputs import output_file
from rlarcade.playing.players import Choice, View
from rlarcade.runs.folder import code_commit
from rlarcade.seeding import SeedUse

_HELD_BACK = 10  # every tenth game
_OF_STATE = 0.1
"""Weight of the value of a state beside the differences between its actions.

The errors of both are alike, but only the differences choose an action.
"""


class Searched(NamedTuple):
    """Decisions of a player that looks ahead."""

    observations: NDArray[np.uint8]
    """uint8 (N, 4, 84, 84)."""
    values: NDArray[np.float32]
    """float32 (N, A): what the search found; the network's own value of an action not tried."""
    games: NDArray[np.int64]
    """int64 (N,): index of each decision's game."""
    scores: NDArray[np.float64]
    """float64 (number of games,)."""


class Advised(SearchPlayer):
    """A player that does what its agent would do, and is told what the search finds."""

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Returns the agent's action and the search's values."""
        own = self.agent.q_values(np.stack([view.observation for view in views])).argmax(axis=1)
        return [
            found if isinstance(found, Exception) else found._replace(action=int(action))
            for found, action in zip(super().choose(views), own, strict=True)
        ]


def main() -> int:
    """Plays, learns and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint_before", help="a checkpoint, or a run for its newest one")
    parser.add_argument("--games", type=int, default=40)
    parser.add_argument("--acts", choices=["agent", "search"], default="agent")
    parser.add_argument("--kind", default="uct")
    parser.add_argument("--simulations", type=int, default=12)
    parser.add_argument("--least-gap", type=float, default=0.2, help="of the best two actions")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, required=True, help=".npz; made if it is not there")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--json", type=output_file, required=True)
    asked = parser.parse_args()
    if asked.games < _HELD_BACK:
        parser.error(f"--games must be at least {_HELD_BACK}: every tenth game is held back")
    torch.set_num_threads(1)
    agent = DQNAgent.load(asked.checkpoint_before)
    if asked.data.exists():
        with np.load(asked.data) as kept:
            searched = Searched(**{name: kept[name] for name in Searched._fields})
    else:
        searched = played(agent, asked)
        np.savez_compressed(asked.data, **searched._asdict())
    best = np.sort(searched.values, axis=1)
    matters = best[:, -1] - best[:, -2] >= asked.least_gap
    held_back = searched.games % _HELD_BACK == _HELD_BACK - 1
    if not (matters & held_back).any() or not (matters & ~held_back).any():
        parser.error(f"too few decisions have a gap of --least-gap {asked.least_gap:g}")
    learnt = np.flatnonzero(matters & ~held_back)
    errors = learned(agent, searched, learnt, np.flatnonzero(matters & held_back), asked)
    updates = asked.epochs * math.ceil(len(learnt) / asked.batch_size)
    assert agent.manifest is not None, "it was loaded"
    before = agent.manifest
    agent.save(
        asked.checkpoint,
        steps=before.counters.steps,
        updates=before.counters.updates + updates,
        preset=before.preset,
        parent=before.weights_sha256,
        git_commit=code_commit(),
    )
    document = {
        "game": agent.game,
        "before": before.weights_sha256,
        "after": DQNAgent.load(asked.checkpoint).version,
        "decisions": len(searched.values),
        "decisions_that_matter": int(matters.sum()),
        "mean_score": float(searched.scores.mean()),
        "errors": errors,
        **provenance(),
    }
    asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def played(agent: DQNAgent, asked: argparse.Namespace) -> Searched:
    """Plays games with a search at every decision, and keeps its values."""
    player_of = Advised if asked.acts == "agent" else SearchPlayer
    player = player_of(agent, kind=asked.kind, simulations=asked.simulations)
    observations, values, games, scores = [], [], [], []
    began = time.monotonic()
    # Not the seeds of evaluations or matches: what learns from games must not be judged by them.
    for step in play_steps(player, episodes=asked.games, seed=asked.seed, use=SeedUse.TRAINING):
        assert step.q_values is not None, "a search has values"
        observations.append(step.observation)
        values.append(step.q_values)
        games.append(len(scores))
        if step.episode is not None:
            scores.append(step.episode.score)
            minutes = (time.monotonic() - began) / 60
            print(f"game {len(scores)}: {scores[-1]:g} points, {minutes:.1f} minutes", flush=True)
    return Searched(np.array(observations), np.array(values), np.array(games), np.array(scores))


def learned(
    agent: DQNAgent,
    searched: Searched,
    learnt: NDArray[np.int64],
    held_back: NDArray[np.int64],
    asked: argparse.Namespace,
) -> list[dict[str, float]]:
    """Fits the network to the values, by Adam. Returns the errors before and after each epoch.

    Args:
        agent: its network learns.
        searched: what was found.
        learnt: the decisions that it learns from.
        held_back: the decisions that its errors are measured on.
        asked: the numbers of the command line.
    """
    rng = np.random.default_rng(asked.seed)
    optimizer = torch.optim.Adam(agent.q_network.parameters(), lr=asked.learning_rate)
    errors = [_errors(agent, searched, held_back)]
    for _ in range(asked.epochs):
        order = rng.permutation(learnt)
        for first in range(0, len(order), asked.batch_size):
            rows = order[first : first + asked.batch_size]
            found = agent.q_network(torch.from_numpy(searched.observations[rows]))
            wanted = torch.from_numpy(searched.values[rows])
            state, wanted_state = found.mean(dim=1), wanted.mean(dim=1)
            loss = F.mse_loss(found - state[:, None], wanted - wanted_state[:, None])
            loss = loss + _OF_STATE * F.mse_loss(state, wanted_state)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(agent.q_network.parameters(), 10.0)
            optimizer.step()
        errors.append(_errors(agent, searched, held_back))
        print(errors[-1], flush=True)
    return errors


def _errors(agent: DQNAgent, searched: Searched, rows: NDArray[np.int64]) -> dict[str, float]:
    """Mean absolute error, mean regret of the best action, and how often it is the search's."""
    values = np.concatenate(
        [
            agent.q_values(searched.observations[rows[first : first + 256]])
            for first in range(0, len(rows), 256)
        ]
    )
    wanted = searched.values[rows]
    chosen = np.take_along_axis(wanted, values.argmax(axis=1)[:, None], axis=1)[:, 0]
    return {
        "held_back_error": float(np.abs(values - wanted).mean()),
        "held_back_regret": float((wanted.max(axis=1) - chosen).mean()),
        "held_back_agreement": float((values.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
