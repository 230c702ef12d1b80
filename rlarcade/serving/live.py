"""A rollout while it runs: its games in memory, and what the registry does not have yet.

The registry's rows and the games here are the same. A game is written when it is assigned, before
its client gets an action, and once more when it has ended. So a server that is killed and started
again knows who plays what, and finishes the games itself.
"""

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rlarcade.playing.episodes import EpisodeResult
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import FollowOn, Rollout, ServedGame, ShadowCounts
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Plan, Variant
from rlarcade.serving.evidence import Evidence
from rlarcade.serving.follow_on import follow_ons_of
from rlarcade.serving.pairing import Game
from rlarcade.serving.shadow import Shadow, shadow_of
from rlarcade.serving.strategies import RolloutSpec, evidence_of, plan_of


@dataclass
class LiveRollout:
    """A rollout, its settings and its games."""

    rollout: Rollout
    spec: RolloutSpec
    games: dict[int, ServedGame] = field(default_factory=dict)
    """By number."""
    assigned: list[ServedGame] = field(default_factory=list)
    """Games that the registry does not have yet."""
    ended: list[ServedGame] = field(default_factory=list)
    """Games with results that the registry does not have yet."""
    episodes: dict[int, EpisodeResult] = field(default_factory=dict)
    """The recorded games of `ended`, by number."""
    outcomes: list[FollowOn] = field(default_factory=list)
    """What was reported later about its sessions."""
    shadow_counts: ShadowCounts | None = None
    """What its shadow counted, as the registry has it."""
    shadow: Shadow | None = None
    """The candidate as a shadow, while it runs."""
    last_assigned: float = field(default_factory=time.monotonic)
    """When a game was assigned last, or when this server took the rollout up; monotonic clock."""
    _before: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Number of games by step and role."""
    _read: dict[int, Game] = field(default_factory=dict)
    """Games as the strategies read them, by number."""
    _evidence: tuple[int, Evidence] | None = None
    """The step, and the evidence at that step; None: games have changed since."""

    def __post_init__(self) -> None:
        for game in self.games.values():
            self._count(game)

    @property
    def plan(self) -> Plan:
        """Who plays new games at the current step."""
        now = self.rollout
        return plan_of(self.spec, now.step, now.champion, now.version, now.salt)

    def assign(
        self, variant: Variant, key: str, group: str | None, *, seeded: bool = True
    ) -> ServedGame:
        """Assigns a new game to a variant of the plan.

        The k-th game of the candidate and the k-th of the control have the same seed, so luck
        weighs less in their comparison.

        Args:
            variant: who plays.
            key: the session's key.
            group: the session's group.
            seeded: whether the server gives the seed. Without one, the game shows errors and
                slowness, but nobody can replay it for its score.
        """
        step = self.rollout.step
        index = self._before[step, variant.role]
        seed = _seed(self.rollout.salt, step, variant.role, index) if seeded else None
        game = ServedGame(
            rollout=self.rollout.id,
            number=len(self.games),
            role=variant.role,
            step=step,
            key=key,
            group=group,
            seed=seed,
            version=variant.version,
        )
        self.games[game.number] = game
        self._count(game)
        self.assigned.append(game)
        self.last_assigned = time.monotonic()
        return game

    def amend(self, **told: Any) -> ServedGame:
        """Adds to the game that was assigned last, before it is written.

        Args:
            **told: fields of `ServedGame`.
        """
        game = self.assigned[-1].model_copy(update=told)
        self.assigned[-1] = self.games[game.number] = game
        self._read_again(game)
        return game

    def twin(self) -> ServedGame:
        """Assigns a twin of the game that was assigned last: the candidate's, with the same seed.

        Both are written at once.
        """
        game = self.amend(pair=self.assigned[-1].number)
        twin = game.model_copy(
            update={
                "number": len(self.games),
                "role": "candidate",
                "version": self.rollout.version,
                "session": None,
            }
        )
        self.games[twin.number] = twin
        self._count(twin)
        self.assigned.append(twin)
        return twin

    def end(self, number: int, episode: EpisodeResult | None, **result: Any) -> None:
        """Takes the result of a game. A second result of the same game is ignored.

        Args:
            number: number of the game.
            episode: the game as the referee played it; None: nobody played it.
            **result: fields of `ServedGame`.
        """
        game = self.games[number]
        if game.ended is None:
            self.games[number] = game.model_copy(update=result)
            self.ended.append(self.games[number])
            self._read_again(self.games[number])
            if episode is not None:
                self.episodes[number] = episode

    def open_games(self) -> list[ServedGame]:
        """Returns the games that have not ended."""
        return [game for game in self.games.values() if game.ended is None]

    def evidence(self) -> Evidence:
        """Returns what the games show at the current step."""
        step = self.rollout.step
        if self._evidence is None or self._evidence[0] != step:
            self._evidence = step, evidence_of(self.spec, step, self.as_games())
        return self._evidence[1]

    def as_games(self) -> list[Game]:
        """Returns the games as the strategies read them."""
        return list(self._read.values())

    @property
    def seen(self) -> ShadowCounts | None:
        """What the shadow counted; None: there is none."""
        return self.shadow_counts if self.shadow is None else self.shadow.counts

    @property
    def untwinned(self) -> int:
        """Games of the champion that could have had a twin, and have none."""
        if self.spec.mode != "twin":
            return 0
        return sum(game.seed is not None and game.pair is None for game in self.games.values())

    @property
    def counts_games(self) -> bool:
        """Whether new games count: the candidate may play them."""
        return self.rollout.state in ("progressing", "paused")

    def _count(self, game: ServedGame) -> None:
        self._before[game.step, game.role] += game.seed is not None
        self._read_again(game)

    def _read_again(self, game: ServedGame) -> None:
        self._read[game.number] = _as_game(game)
        self._evidence = None


def kept(registry: Registry, rollout: Rollout) -> LiveRollout:
    """Returns a rollout as the registry has it.

    Raises:
        UnusableRegistryError: something of it was altered.
    """
    return LiveRollout(
        rollout,
        store.spec_of(registry, rollout),
        {game.number: game for game in store.games_of(registry, rollout.id)},
        outcomes=follow_ons_of(registry, rollout.id),
        shadow_counts=shadow_of(registry, rollout.id),
    )


def _as_game(game: ServedGame) -> Game:
    return Game(
        number=game.number,
        role=game.role,
        step=game.step,
        key=game.key,
        version=game.version,
        seed=game.seed,
        group=game.group,
        pair=game.pair,
        state="playing" if game.ended is None else "ended",
        ended=game.ended,
        score=game.score,
        proven=game.ended is not None and game.score is not None,
        claimed=game.claimed,
        errors=game.errors,
        slow=game.slow,
        abandoned=game.abandoned,
        mixed=game.mixed,
    )


def _seed(salt: str, step: int, role: str, index: int) -> int:
    """A seed of 31 bits. Candidate and control share theirs; the champion's games have others."""
    stream = "champion" if role == "champion" else "pair"
    text = f"{step}/{stream}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, key=salt.encode(), digest_size=4).digest()) >> 1
