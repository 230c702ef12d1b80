"""Simulated players of a server with a rollout: they come, play games of random length, come back.

A player has a level, and every game of that player ends with nearly that score. So a player's games
resemble each other as much as games can. The two versions are equally good unless told otherwise,
but how long their games last depends on the score. So the order in which games end says much about
who wins.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlarcade.serving.assignment import assign
from rlarcade.serving.pairing import Game
from rlarcade.serving.settings import RolloutSpec
from rlarcade.serving.strategies import evidence_of, judge, plan_of

Length = Callable[[str, float], float]
"""How long a game lasts, from its role and its score, both 0 … 1 for scores."""


def candidate_wins_quickly(role: str, score: float) -> float:
    """A good game of the candidate is short, a good game of the champion is long."""
    return 1 + 9 * (1 - score if role == "candidate" else score)


def candidate_loses_quickly(role: str, score: float) -> float:
    """The other way round."""
    return 1 + 9 * (score if role == "candidate" else 1 - score)


@dataclass
class Traffic:
    """One simulated rollout.

    Attributes:
        spec: settings of the rollout.
        seed: of everything random.
        length: how long games last.
        better_by: how much is added to the candidate's scores, which are uniform on 0 … 1.
        players: players at any time.
        return_rate: probability that a player stays for another game.
        look: the controller looks after so many ended games.
        games: all games, by number.
        ended_at: time at which each game ended, by number.
    """

    spec: RolloutSpec
    seed: int
    length: Length = candidate_wins_quickly
    better_by: float = 0.0
    players: int = 60
    return_rate: float = 0.0
    look: int = 16
    games: list[Game] = field(default_factory=list)
    ended_at: dict[int, float] = field(default_factory=dict)

    def run(self, most_games: int = 3000) -> str:
        """Plays until the rollout succeeds, rolls back or pauses; returns which, or "stay"."""
        self._dice = np.random.default_rng(self.seed)
        self._playing, self._levels = [], []
        self._enter(0)
        for _ in range(self.players):
            self._begin(self._new_player(), 0.0)
        while len(self.games) < most_games:
            for _ in range(self.look):
                self._end_one()
            decision = judge(self.spec, evidence_of(self.spec, self._step, self.games))
            if decision.kind == "advance":
                self._enter(self._step + 1)
            elif decision.kind != "stay":
                return decision.kind
        return "stay"

    def _enter(self, step: int) -> None:
        self._step = step
        self._plan = plan_of(self.spec, step, champion=1, candidate=2, salt=f"s{self.seed}")

    def _new_player(self) -> int:
        self._levels.append(float(self._dice.random()))
        return len(self._levels) - 1

    def _begin(self, player: int, now: float) -> None:
        variant = assign(self._plan, f"player-{player}")
        number = len(self.games)
        score = self._levels[player] + 1e-3 * float(self._dice.random())
        lasts = self.length(variant.role, score) * (0.9 + 0.2 * float(self._dice.random()))
        score += self.better_by if variant.role == "candidate" else 0.0
        told: dict[str, Any] = {"role": variant.role, "version": variant.version}
        self.games.append(
            Game(number=number, step=self._step, key=f"player-{player}", seed=number, **told)
        )
        heapq.heappush(self._playing, (now + lasts, number, player, score))

    def _end_one(self) -> None:
        now, number, player, score = heapq.heappop(self._playing)
        over = {"state": "ended", "ended": "terminated", "score": score, "proven": True}
        self.games[number] = self.games[number].model_copy(update=over)
        self.ended_at[number] = now
        stays = float(self._dice.random()) < self.return_rate
        self._begin(player if stays else self._new_player(), now)
