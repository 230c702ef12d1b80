"""The sequential test of a match: is the candidate better, or only lucky?

Two versions play pairs of games with the same seed. The outcome Y of a pair is 1 if the candidate
scores more, ½ for a tie, and 0 if it scores less. E[Y] is the *probability of improvement*.

The test bets against the hypothesis E[Y] ≤ p₀. It starts with one coin and stakes a share λ of its
money on every pair. Each pair multiplies the money by 1 + λ(Y − p₀). If the hypothesis is true,
the mean of this factor is at most 1, for any distribution of scores and any dependence on earlier
pairs. The money is the *e-value*. The probability that it ever reaches 1/α is at most α (Ville
1939). So the match may be watched, stopped and resumed at any time. The best λ depends on how much
better the candidate is. Therefore 24 bets, from small to large, run side by side and are averaged.

Waudby-Smith & Ramdas (2024), https://arxiv.org/abs/2010.09686; Ramdas et al. (2023),
https://arxiv.org/abs/2210.01948. With a single bet it is Wald's sequential probability ratio test.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from rlarcade.checked import Checked, number_of

_NUM_BETS = 24
# Bets λ as shares of 1/p₀. A larger bet could lose more than all the money.
_SHARES = np.geomspace(0.02, 0.98, _NUM_BETS)
LARGEST_LOG = 700.0  # exp of this is still finite in float64
_HARDLY = 1e-9  # gap between `null` and `useful`, which must not be equal
_GRID = 1001  # points of the grid of means for an interval
_RUNNING = 16  # kept sequences, 0.4 MB each: for the games of a suite or several matches at once

_Open = Annotated[float, Field(gt=0, lt=1)]


class Counts(NamedTuple):
    """The candidate's wins, ties and losses so far. The e-value does not depend on their order."""

    wins: int = 0
    ties: int = 0
    losses: int = 0

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.wins + self.ties + self.losses

    @property
    def improvement_probability(self) -> float | None:
        """Mean outcome, (wins + ties/2) / pairs; None without pairs."""
        return (self.wins + self.ties / 2) / self.pairs if self.pairs else None

    def swapped(self) -> "Counts":
        """Returns the counts from the champion's side."""
        return Counts(self.losses, self.ties, self.wins)

    def after(self, outcome: float) -> "Counts":
        """Returns the counts after one more pair with outcome 1 (won), ½ (tied) or 0 (lost).

        Raises:
            ValueError: any other outcome.
        """
        if outcome not in (0, 0.5, 1):
            raise ValueError(f"a pair's outcome is 0, ½ or 1, got {outcome!r}")
        won, tied = outcome == 1, outcome == 0.5
        return Counts(self.wins + won, self.ties + tied, self.losses + (not won and not tied))


def outcome_of(champion: float, candidate: float) -> float:
    """Returns a pair's outcome, 1, ½ or 0, from the two scores.

    Raises:
        ValueError: a score is NaN.
    """
    if math.isnan(champion) or math.isnan(candidate):
        raise ValueError(f"scores of a pair must be numbers, got {champion} and {candidate}")
    return 0.5 + 0.5 * ((candidate > champion) - (candidate < champion))


def log_e_value(counts: Counts, null: float = 0.5) -> float:
    """Logarithm of the e-value against the hypothesis that E[Y] ≤ `null`.

    E = 1/K Σₖ (1 + λₖ(1 − p₀))^wins · (1 + λₖ(½ − p₀))^ties · (1 − λₖp₀)^losses.

    Raises:
        ValueError: `null` is not between 0 and 1.
    """
    return log_mean_wealth(counts, null, _bets(null))


def log_mean_wealth(counts: Counts, null: float, bets: NDArray[np.float64]) -> float:
    """Logarithm of the mean wealth over the bets λ, float64 (K,), after these counts."""
    money = (
        counts.wins * np.log1p(bets * (1 - null))
        + counts.ties * np.log1p(bets * (0.5 - null))
        + counts.losses * np.log1p(-bets * null)
    )
    return float(_log_mean_exp(money))


def log_e_values(outcomes: Sequence[float], null: float = 0.5) -> NDArray[np.float64]:
    """`log_e_value` after each outcome, float64 (T,).

    Outcomes may be any numbers from 0 to 1, such as the mean of a round of pairs in several games.

    Raises:
        ValueError: an outcome or `null` is out of range.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"outcomes lie between 0 and 1, got {values}")
    return _log_mean_exp(np.log1p(np.outer(values - null, _bets(null))).cumsum(axis=0))


def anytime_p(outcomes: Sequence[float], null: float = 0.5) -> float:
    """The p-value of E[Y] ≤ `null`: 1 / the largest e-value. It is valid after every pair.

    Args and errors are those of `log_e_values`. Without outcomes it is 1.
    """
    path = log_e_values(outcomes, null) if len(outcomes) else np.zeros(1)
    return float(np.exp(-max(float(path.max()), 0.0)))


def _log_mean_exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the mean of exp, over the last axis, without overflow."""
    largest = values.max(axis=-1, keepdims=True)
    mean = np.exp(values - largest).mean(axis=-1, keepdims=True)
    logarithm: NDArray[np.float64] = (largest + np.log(mean)).squeeze(-1)
    return logarithm


def _bets(null: float) -> NDArray[np.float64]:
    if not 0 < null < 1:
        raise ValueError(f"a hypothesis about the mean outcome lies between 0 and 1, got {null}")
    return _SHARES / null


class Evidence(NamedTuple):
    """Both e-values of a match."""

    e_value: float
    """Evidence against "the candidate is no better". From 1/α on: promote."""
    e_value_futility: float
    """Evidence against "the candidate is usefully better". From 1/β on: reject."""


class Rule(Checked, use_attribute_docstrings=True):
    """The rule that decides a match."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: _Open = 0.05
    """Bound on the probability of promoting a candidate whose E[Y] is at most `null`."""
    beta: _Open = 0.10
    """Bound on the probability of rejecting a candidate whose E[Y] is at least `useful`."""
    null: _Open = 0.5
    """p₀: the probability of improvement that a candidate has to exceed."""
    useful: _Open = 0.6
    """A candidate with at least this probability of improvement should be promoted."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.null >= self.useful:
            raise ValueError(
                f"null ({self.null:g}) is not below useful ({self.useful:g}): no candidate lies "
                "between the two. Lower null or raise useful"
            )
        return self

    @classmethod
    def non_inferiority(cls, margin: float, *, alpha: float = 0.05, beta: float = 0.10) -> Self:
        """Rule for a candidate that must not be much worse: E[Y] > ½ − margin.

        An equal candidate should pass. With a margin of 0.1, the bar is to win 40 of 100 pairs.

        Raises:
            ConfigError: the margin is not between 0 and ½.
        """
        margin = number_of(margin, "the margin of non-inferiority", 0, 0.5)
        return cls(alpha=alpha, beta=beta, null=0.5 - margin, useful=0.5)

    @classmethod
    def which_is_better(cls, alpha: float = 0.05) -> Self:
        """Two-sided rule: promote means that the candidate is better, reject that it is worse.

        Each verdict is wrong with probability at most α/2. Between equals, the probability that
        either verdict comes is at most α.

        Raises:
            ConfigError: α is not between 0 and 1.
        """
        alpha = number_of(alpha, "alpha", 0, 1)
        return cls(alpha=alpha / 2, beta=alpha / 2, null=0.5, useful=0.5 + _HARDLY)

    def evidence(self, counts: Counts) -> Evidence:
        """Returns both e-values."""
        better = log_e_value(counts, self.null)
        futile = log_e_value(counts.swapped(), 1 - self.useful)
        return Evidence(*(math.exp(min(value, LARGEST_LOG)) for value in (better, futile)))

    def verdict(self, counts: Counts) -> Literal["promote", "reject"] | None:
        """Returns the verdict if these counts decide the match, else None.

        Call it after each pair: the first decision ends the match.
        """
        evidence = self.evidence(counts)
        if evidence.e_value >= 1 / self.alpha:
            return "promote"
        return "reject" if evidence.e_value_futility >= 1 / self.beta else None


def confidence_interval(outcomes: Sequence[float], alpha: float = 0.05) -> tuple[float, float]:
    """The means E[Y] that the pairs have not ruled out: the last of `confidence_sequence`.

    A later call with more outcomes of the same match reuses the earlier result, for progress lines.

    Args and errors are those of `confidence_sequence`. Without pairs the interval is (0, 1).
    """
    return _running.interval([float(outcome) for outcome in outcomes], alpha)


def confidence_sequence(
    outcomes: Sequence[float], alpha: float = 0.05
) -> list[tuple[float, float]]:
    """The means E[Y] that are not ruled out after each pair. Valid at all times at once.

    Each mean is tested from above and from below, with half of α each. A mean that was ruled out
    stays ruled out. The sequence is only for display; `Rule.verdict` decides.

    Args:
        outcomes: outcomes of the pairs, 0 … 1 each, in schedule order.
        alpha: bound on the probability that the true mean is ever ruled out.

    Returns:
        (lowest, highest) remaining mean after each pair, on a grid of thousandths, widened by one
        grid point on each side.

    Raises:
        ValueError: an outcome is out of range.
    """
    sequence = ConfidenceSequence(alpha)
    return [sequence.add(float(outcome)) for outcome in outcomes]


class ConfidenceSequence:
    """`confidence_sequence` pair by pair, in constant time per pair.

    Attributes:
        alpha: bound on the probability that the true mean is ever ruled out.
        outcomes: outcomes of the pairs so far.
        interval: (lowest, highest) remaining mean.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self.alpha = alpha
        self.outcomes: list[float] = []
        self.interval = (0.0, 1.0)
        self._means, self._up, self._down = _stakes()
        self._money_up, self._money_down = np.zeros_like(self._up), np.zeros_like(self._down)
        self._left = np.ones(len(self._means), dtype=bool)

    def add(self, outcome: float) -> tuple[float, float]:
        """Adds the next pair and returns the interval after it.

        Raises:
            ValueError: the outcome is not 0 … 1.
        """
        if not 0 <= outcome <= 1:
            raise ValueError(f"outcomes of pairs lie between 0 and 1, got {outcome}")
        self.outcomes.append(outcome)
        self._money_up += np.log1p(self._up * (outcome - self._means)[:, None])
        self._money_down += np.log1p(self._down * (self._means - outcome)[:, None])
        both = np.logaddexp(_log_mean_exp(self._money_up), _log_mean_exp(self._money_down))
        self._left &= both - np.log(2) < np.log(1 / self.alpha)
        left = self._means[self._left]
        if left.size:
            step = 1 / (_GRID - 1)
            self.interval = (float(left[0]) - step, float(left[-1]) + step)
        else:  # every mean was ruled out; this happens with probability at most alpha
            mean = float(np.mean(self.outcomes))
            self.interval = (mean, mean)
        return self.interval


@cache
def _stakes() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The means (M,), and the bets on more and on less than each mean, (M, K) each."""
    means = np.linspace(0, 1, _GRID)[1:-1]
    return means, _SHARES / means[:, None], _SHARES / (1 - means)[:, None]


class _Running:
    """Keeps the most recent sequences, so that a longer one continues from a shorter one."""

    def __init__(self) -> None:
        self._known: deque[ConfidenceSequence] = deque(maxlen=_RUNNING)
        self._lock = threading.Lock()

    def interval(self, outcomes: list[float], alpha: float) -> tuple[float, float]:
        with self._lock:
            sequence = self._begun(outcomes, alpha)
            for outcome in outcomes[len(sequence.outcomes) :]:
                sequence.add(outcome)
            self._known.append(sequence)
            return sequence.interval

    def _begun(self, outcomes: list[float], alpha: float) -> ConfidenceSequence:
        """Removes and returns the longest kept sequence that is a prefix, or starts a new one."""
        fitting = [
            known
            for known in self._known
            if known.alpha == alpha and outcomes[: len(known.outcomes)] == known.outcomes
        ]
        if not fitting:
            return ConfidenceSequence(alpha)
        longest = max(fitting, key=lambda known: len(known.outcomes))
        self._known.remove(longest)
        return longest


_running = _Running()
