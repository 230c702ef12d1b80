"""What the games of a rollout show, slowly: definitions read off one game at a time, in fractions.

Nothing here sorts, zips, sums logarithms or is shared with `rlarcade`.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

NUM_BETS = 24


def slow_outcomes(games: Sequence[Any], claims: bool = False) -> list[float]:
    """Outcome of every pair that counts, found game by game."""
    outcomes: list[float] = []
    for step in range(max((game.step for game in games), default=-1) + 1):
        for place in range(len(games)):
            candidate = _nth(games, step, "candidate", place, claims)
            control = _nth(games, step, "control", place, claims)
            if candidate is None or control is None:
                break
            if _open(candidate) or _open(control):
                return outcomes
            outcomes.append(_outcome(candidate, control))
    return outcomes


def _nth(games: Sequence[Any], step: int, role: str, place: int, claims: bool) -> Any:
    """The game with so many counting games of its step and role assigned before it."""
    for game in games:
        if (game.step, game.role) == (step, role) and _counts(game, games, claims):
            before = [
                other
                for other in games
                if (other.step, other.role) == (step, role)
                and other.number < game.number
                and _counts(other, games, claims)
            ]
            if len(before) == place:
                return game
    return None


def _counts(game: Any, games: Sequence[Any], claims: bool) -> bool:
    played_before = any(other.key == game.key and other.number < game.number for other in games)
    return not played_before and (claims or game.seed is not None)


def _open(game: Any) -> bool:
    if game.ended is None:
        return True
    return game.ended != "failed" and game.seed is not None and not game.proven


def _outcome(candidate: Any, control: Any) -> float:
    lost = [game.ended == "failed" or _score(game) is None for game in (candidate, control)]
    if all(lost):
        return 0.5
    if any(lost):
        return 1.0 if lost[1] else 0.0
    if _score(candidate) == _score(control):
        return 0.5
    return 1.0 if _score(candidate) > _score(control) else 0.0


def _score(game: Any) -> float | None:
    return game.claimed if game.seed is None else game.score


def slow_health(bad: Sequence[bool], rate: float) -> list[float]:
    """The e-value after each session: money that is bet on "bad" with 24 shares of the odds."""
    null = Fraction(rate)
    money = [Fraction(1)] * NUM_BETS
    path = []
    for one in bad:
        for k in range(NUM_BETS):
            bet = Fraction(0.02 * (0.98 / 0.02) ** (k / (NUM_BETS - 1))) / null
            money[k] *= 1 + bet * ((1 if one else 0) - null)
        path.append(float(sum(money) / NUM_BETS))
    return path


def slow_sample_ratio(order: Sequence[int], shares: Sequence[float]) -> float:
    """The e-value of an urn: 100 balls in the planned shares, one more of each colour that comes.

    Each session multiplies the money by the urn's share of its variant / the planned share.
    """
    planned = [Fraction(share) for share in shares]
    balls = [100 * share for share in planned]
    money = Fraction(1)
    for variant in order:
        money *= balls[variant] / sum(balls) / planned[variant]
        balls[variant] += 1
    return float(money)
