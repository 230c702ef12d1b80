"""AdaStop: which arms differ, after as few rounds of results as needed.

A group-sequential permutation test of several pairs of arms at once: Mathieu et al. (2023),
https://arxiv.org/abs/2306.10882, Algorithm 1. In each round every arm of an undecided pair gives
`seeds` new results. The library `adastop` is not used, see docs/comparing.md.

The statistic of a pair after round k is |sum of the first arm's results - sum of the second's|. A
permutation exchanges results of the two arms within each round. If both arms have the same
distribution, the statistic of the actual order is one of the permutations' statistics like any
other. So a bound that few of them exceed is rarely exceeded by the actual one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ConfigError

Pair = tuple[str, str]
Verdict = Literal["better", "worse"]

_PERMUTATIONS = 20_000  # at most; all of them while there are no more than that
_DIGITS = 9  # of a statistic; equal sums that were added in another order differ by less


@dataclass(frozen=True)
class Rule:
    """How a comparison is made.

    Args:
        seeds: results of an arm in a round.
        max_rounds: rounds at most. It must not depend on the results.
        alpha: the probability, at most, that any pair with equal distributions is called different.

    Raises:
        ConfigError: even the clearest results could not show a difference.
    """

    seeds: int
    max_rounds: int
    alpha: float

    def __post_init__(self) -> None:
        # two of the orders are the most extreme: all of one arm's results above, or all below
        least = 2 / comb(2 * self.seeds, self.seeds) ** self.max_rounds
        if least > self.alpha:
            raise ConfigError(
                f"{self.max_rounds} rounds of {self.seeds} seeds cannot show a difference at alpha "
                f"{self.alpha:g}: even the clearest results have probability {least:.3g}. Raise "
                "seeds, max_rounds or alpha."
            )


@dataclass(frozen=True)
class Decision:
    """What is known about a pair: how its first arm compares with its second one.

    Attributes:
        verdict: None if no difference was shown.
        round: the round, from 1, after which it was known; None without a verdict.
    """

    verdict: Verdict | None = None
    round: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What the results so far have shown.

    Attributes:
        decisions: by pair, in the order in which the pairs were given.
        rounds: rounds that are complete.
        asked: arms that must give the next round's results; empty if the comparison is finished.
    """

    decisions: Mapping[Pair, Decision]
    rounds: int
    asked: tuple[str, ...]


def decide(scores: Mapping[str, Sequence[float]], pairs: Sequence[Pair], rule: Rule) -> Outcome:
    """Tests all pairs after every round that is complete.

    The outcome is a function of the results alone: it is the same in every process.

    Args:
        scores: results of each arm, oldest first. A round takes `rule.seeds` of each arm that has
            an undecided pair. Results of a round that is not complete are ignored.
        pairs: the arms to compare.
        rule: how.
    """
    decisions = {pair: Decision() for pair in pairs}
    for rounds in range(rule.max_rounds):
        asked = [pair for pair, decision in decisions.items() if decision.verdict is None]
        arms = tuple(dict.fromkeys(arm for pair in asked for arm in pair))
        if any(len(scores[arm]) < (rounds + 1) * rule.seeds for arm in arms) or not arms:
            return Outcome(decisions, rounds, arms)
        decisions |= _look(scores, asked, rounds + 1, rule)
    return Outcome(decisions, rule.max_rounds, ())


def _look(
    scores: Mapping[str, Sequence[float]], pairs: list[Pair], rounds: int, rule: Rule
) -> dict[Pair, Decision]:
    """Returns the pairs that are decided by the results of the first `rounds` rounds."""
    found: dict[Pair, Decision] = {}
    sums = _sums(scores, pairs, rounds, rule)
    while left := [index for index, pair in enumerate(pairs) if pair not in found]:
        exceeded = _first_exceeded(np.abs(sums[left]).max(axis=0), rule)
        if exceeded is None:
            break
        index = max(left, key=lambda one: abs(sums[one, exceeded, 0]))
        verdict: Verdict = "better" if sums[index, exceeded, 0] > 0 else "worse"
        found[pairs[index]] = Decision(verdict, rounds)
    return found


def _sums(
    scores: Mapping[str, Sequence[float]], pairs: list[Pair], rounds: int, rule: Rule
) -> NDArray[np.float64]:
    """Returns each pair's signed statistic after each round for all permutations.

    Returns:
        float64 (pairs, rounds, permutations); the first permutation is the actual order.
    """
    results = np.array(
        [[scores[arm][: rounds * rule.seeds] for arm in pair] for pair in pairs], dtype=np.float64
    )
    results = results.reshape(len(pairs), 2, rounds, rule.seeds)
    results -= results.mean(axis=(1, 2, 3), keepdims=True)  # so that rounding errors are small
    scale = np.abs(results).max() or 1.0
    results = (results / scale).swapaxes(1, 2).reshape(len(pairs), rounds, 2 * rule.seeds)
    signs = _signs(rule.seeds, rule.max_rounds)
    each = [results[:, k] @ signs[k].T.astype(np.float64) for k in range(rounds)]
    return np.cumsum(np.stack(each, axis=1), axis=1).round(_DIGITS)


def _first_exceeded(largest: NDArray[np.float64], rule: Rule) -> int | None:
    """Returns the first round in which the actual order exceeds the bound; None if there is none.

    Permutations that exceed an earlier bound do not count any more. By round k at most k alpha /
    max_rounds of all have exceeded one.

    Args:
        largest: float64 (rounds, permutations), the largest statistic of the pairs.
        rule: how the comparison is made.
    """
    rounds, permutations = largest.shape
    left = np.ones(permutations, dtype=np.bool_)
    for k in range(rounds):
        allowed = int(rule.alpha * (k + 1) / rule.max_rounds * permutations + 1e-9)
        allowed -= permutations - int(left.sum())
        bound = np.sort(largest[k, left])[-1 - allowed]  # at most `allowed` are above it
        exceeds = left & (largest[k] > bound)
        if exceeds[0]:
            return k
        left &= ~exceeds
    return None


@lru_cache(maxsize=4)
def _signs(seeds: int, max_rounds: int) -> tuple[NDArray[np.int8], ...]:
    """Returns permutations of each round, as the sign of every result in the statistic.

    If all permutations of the first rounds together are few, each of them occurs equally often.
    Those of later rounds are random, the same in every process.

    Returns:
        int8 (permutations, 2 * seeds) for each round; the first permutation is the actual order.
    """
    actual = np.repeat(np.array([1, -1], dtype=np.int8), seeds)
    count, whole = comb(2 * seeds, seeds), 0
    while whole < max_rounds and count ** (whole + 1) <= _PERMUTATIONS:
        whole += 1
    size = _PERMUTATIONS // count**whole * count**whole
    every = np.full((count if whole else 0, 2 * seeds), -1, dtype=np.int8)
    if whole:
        for row, chosen in zip(every, combinations(range(2 * seeds), seeds), strict=True):
            row[list(chosen)] = 1
    generator = np.random.default_rng(0)
    signs = []
    for k in range(max_rounds):
        if k < whole:
            signs.append(every[np.arange(size) // count**k % count])
        else:
            drawn = generator.permuted(np.tile(actual, (size, 1)), axis=1)
            drawn[0] = actual
            signs.append(drawn)
    return tuple(signs)
