"""Which games of a rollout count, and against which: a function of the games, without memory.

Three traps of live traffic decide it:

- Short games end first. If the pairs counted in the order in which they end, a version that wins
  quickly would look better than it is. So pairs are formed and counted in the order in which the
  games were assigned, and a pair waits for all pairs before it.
- One player's games resemble each other. So only the first game of a key counts. It must be its
  first game in the whole rollout: the candidate and the control have different shares of returning
  players, and a returning player may play differently.
- Traffic changes over time. So a pair is formed within one step of the rollout.

A pair's two games are then as alike as two games of one version can be. If the versions are equally
good, the test of a match (`rlarcade.evaluation.sequential`) is wrong with probability at most α.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlarcade.evaluation.sequential import outcome_of
from rlarcade.serving.assignment import Role

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0)]


class Game(BaseModel):
    """One game of a rollout, as far as it is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: _Count
    """Order of assignment within the rollout."""
    role: Role
    step: _Count
    """Index of the rollout's step in which the game was assigned."""
    key: str
    """Key of the session. Sessions of one player have the same key."""
    version: _Count
    """Number of the version that plays."""
    seed: _Count | None
    """Seed that the server gave. None: the client chose its own, so nobody can replay the game."""
    group: str | None = None
    """Group of the session, as in a phased rollout."""
    pair: _Count | None = None
    """Number of the pair of twins that this game belongs to. Both are recorded at once."""
    state: Literal["playing", "ended"] = "playing"
    ended: Literal["terminated", "truncated", "failed"] | None = None
    """How the game ended. `failed`: the version raised an error or gave no valid action."""
    score: _Finite | None = None
    """Score of the server's own replay of the game."""
    proven: bool = False
    """Whether the score was replayed."""
    claimed: _Finite | None = None
    """Score that the client reported."""
    errors: bool = False
    """Whether the version caused an error in this session."""
    slow: bool = False
    """Whether the session was slow."""
    abandoned: bool = False
    """Whether the client left. The server then plays the game to its end itself, so nobody can
    choose which games count by leaving."""

    mixed: bool = False
    """Whether another version took the game over in the middle. Then it counts for neither."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.state == "ended") != (self.ended is not None):
            raise ValueError(f"a game that is {self.state} cannot have the ending {self.ended}")
        if self.proven and (self.ended is None or self.score is None):
            raise ValueError("a proven game has ended and has a score")
        return self


class Pair(NamedTuple):
    """A game of the candidate and a game of the champion's version."""

    candidate: Game
    control: Game
    outcome: float
    """1 if the candidate scored more, ½ for a tie, 0 if it scored less.

    A game that failed loses to any score; two that failed tie."""


def first_games(games: Iterable[Game]) -> list[Game]:
    """Returns the first game of each key, in order of assignment."""
    first: dict[str, Game] = {}
    for game in in_order(games):
        first.setdefault(game.key, game)
    return list(first.values())


def matched(games: Iterable[Game], *, claims: bool = False) -> list[tuple[Game, Game]]:
    """Returns (candidate, control) of all pairs that are assigned, ended or not, in their order.

    Within each step, the k-th game of the candidate meets the k-th game of the control. Later steps
    follow earlier ones. Only the first game of a key in the rollout counts, and only a game that
    can be replayed: one whose seed the server gave.

    Twins are matched by the number of their pair instead. They play with the same seed, for the
    same player, so every pair of twins counts.

    Args:
        games: all games of the rollout, in any order.
        claims: games that nobody can replay count, too, with the score that the client claims. One
            that ended without a claim counts as failed.

    Raises:
        ValueError: two twins have different seeds, or none.
    """
    games = list(games)
    twins = [game for game in games if game.pair is not None]
    if twins:
        return _twins(twins)
    places: dict[tuple[int, Role], list[Game]] = {}
    for game in first_games(games):
        if claims or game.seed is not None:
            places.setdefault((game.step, game.role), []).append(game)
    return [
        both
        for step in sorted({step for step, _ in places})
        for both in zip(
            places.get((step, "candidate"), ()), places.get((step, "control"), ()), strict=False
        )
    ]


def pairs(games: Iterable[Game], *, claims: bool = False) -> list[Pair]:
    """Returns the pairs that count, in their order: those of `matched` up to the first open one.

    While games end, the list only grows at its end: what counted once, counts for ever.

    Args and errors are those of `matched`.
    """
    return scored(matched(games, claims=claims))


def scored(assigned: Iterable[tuple[Game, Game]]) -> list[Pair]:
    """Returns the pairs of `matched` up to the first open one, with their outcomes.

    A pair is open until both games have ended and the server has replayed them.
    """
    counting = []
    for candidate, control in assigned:
        worth, against = _worth(candidate), _worth(control)
        if worth is None or against is None:
            break
        counting.append(Pair(candidate, control, outcome_of(against, worth)))
    return counting


def _worth(game: Game) -> float | None:
    """The score that counts in a pair; None while it is not known."""
    if game.ended is None:
        return None
    if game.ended == "failed":
        return -math.inf
    if game.seed is None:  # only games that may count by their claims come here without a seed
        return -math.inf if game.claimed is None else game.claimed
    return game.score if game.proven else None


def _twins(games: list[Game]) -> list[tuple[Game, Game]]:
    candidates = {game.pair: game for game in games if game.role == "candidate"}
    others = {game.pair: game for game in games if game.role != "candidate"}
    found = []
    for number in sorted(pair for pair in candidates.keys() & others.keys() if pair is not None):
        candidate, other = candidates[number], others[number]
        if candidate.seed is None or candidate.seed != other.seed:
            raise ValueError(
                f"twins have one seed, but those of pair {number} have {other.seed} and "
                f"{candidate.seed}"
            )
        found.append((candidate, other))
    return found


def in_order(games: Iterable[Game]) -> list[Game]:
    """Returns games in order of assignment."""
    return sorted(games, key=lambda game: game.number)
