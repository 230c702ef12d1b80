"""The sequential test of a match: is a candidate better, or is it luck, however often one looks?

Two versions play pairs of games with the same seed. A pair's outcome Y is 1 if the candidate scores
more, ½ for a tie, 0 if it scores less; E[Y] is its *probability of improvement*. Against the
hypothesis E[Y] ≤ p₀ someone bets a share λ of their money on every pair: it is multiplied by
1 + λ(Y − p₀), which on average is at most 1 if the hypothesis is true, whatever the scores look
like and however one pair depends on those before. So their money, the *e-value*, exceeds 1/α with a
probability of at most α at any time at all (Ville 1939): the match may be watched, stopped and gone
on with at will. Twenty-four bets, from timid to bold, are made side by side and averaged, since the
best one depends on how much better the candidate is.

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
# Shares of 1/p₀, the largest bet that cannot lose more than everything.
_SHARES = np.geomspace(0.02, 0.98, _NUM_BETS)
LARGEST_LOG = 700.0  # of a float64 that is still finite
_HARDLY = 1e-9  # between a candidate that is no better and one that is no worse
_GRID = 1001  # means that an interval is made of
_RUNNING = 16  # sequences at a time, 0.4 MB each: as many as games of a suite or matches on show

_Open = Annotated[float, Field(gt=0, lt=1)]


class Counts(NamedTuple):
    """Outcomes of pairs so far, the candidate's. Their order does not matter to the e-value."""

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
        """Returns the same pairs as the champion counts them."""
        return Counts(self.losses, self.ties, self.wins)

    def after(self, outcome: float) -> "Counts":
        """Returns the counts with one more pair: 1 won, ½ tied, 0 lost.

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
        ValueError: a score is no number.
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
    """Logarithm of the mean over bets λ, float64 (K,), of the money that each has become."""
    money = (
        counts.wins * np.log1p(bets * (1 - null))
        + counts.ties * np.log1p(bets * (0.5 - null))
        + counts.losses * np.log1p(-bets * null)
    )
    return float(_log_mean_exp(money))


def log_e_values(outcomes: Sequence[float], null: float = 0.5) -> NDArray[np.float64]:
    """The same after each outcome, float64 (T,); outcomes may be any numbers from 0 to 1.

    So they may be means: of a round of pairs, one in each of several games.

    Raises:
        ValueError: an outcome or `null` is out of range.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"outcomes lie between 0 and 1, got {values}")
    return _log_mean_exp(np.log1p(np.outer(values - null, _bets(null))).cumsum(axis=0))


def anytime_p(outcomes: Sequence[float], null: float = 0.5) -> float:
    """The p-value of E[Y] ≤ `null` that may be looked at after every pair: 1 / the largest e-value.

    Args and errors are those of `log_e_values`; without outcomes it is 1.
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
    """What a match has shown so far."""

    e_value: float
    """Against the hypothesis that the candidate is no better: promote from 1/α on."""
    e_value_futility: float
    """Against the hypothesis that it is usefully better: reject from 1/β on."""


class Rule(Checked, use_attribute_docstrings=True):
    """When a match is decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: _Open = 0.05
    """Bound on the probability of promoting a candidate whose E[Y] is at most `null`."""
    beta: _Open = 0.10
    """Bound on the probability of rejecting a candidate whose E[Y] is at least `useful`."""
    null: _Open = 0.5
    """Probability of improvement that has to be exceeded."""
    useful: _Open = 0.6
    """Probability of improvement from which on the candidate should be found better."""

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
        """A candidate only has to be hardly worse: E[Y] > ½ − margin. An equal one should pass.

        A margin of 0.1 lets a candidate pass that wins 40 of 100 pairs.

        Raises:
            ConfigError: the margin is not between 0 and ½.
        """
        margin = number_of(margin, "the margin of non-inferiority", 0, 0.5)
        return cls(alpha=alpha, beta=beta, null=0.5 - margin, useful=0.5)

    @classmethod
    def which_is_better(cls, alpha: float = 0.05) -> Self:
        """Either side may win: promote means that the candidate is better, reject that it is worse.

        Each of the two is wrong with probability α/2 at most, so between equals one of them with α.

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
        """Returns the verdict if these counts, reached for the first time, decide the match."""
        evidence = self.evidence(counts)
        if evidence.e_value >= 1 / self.alpha:
            return "promote"
        return "reject" if evidence.e_value_futility >= 1 / self.beta else None


def confidence_interval(outcomes: Sequence[float], alpha: float = 0.05) -> tuple[float, float]:
    """The means E[Y] that the pairs so far have not ruled out: the last of `confidence_sequence`.

    Asked again after more pairs, as a progress line does, it goes on from where it was.

    Args and errors are those of `confidence_sequence`; without pairs every mean is left.
    """
    return _running.interval([float(outcome) for outcome in outcomes], alpha)


def confidence_sequence(
    outcomes: Sequence[float], alpha: float = 0.05
) -> list[tuple[float, float]]:
    """The means E[Y] that are not ruled out after each pair; valid at every time at once.

    All means are tested side by side, each from above and from below with half of α; once ruled
    out, a mean stays so. To be shown, never to decide: the verdict is the test's.

    Args:
        outcomes: of the pairs, 0 … 1 each, in the order in which they count.
        alpha: probability, at most, that the true mean is ever ruled out.

    Returns:
        The lowest and the highest mean left after each pair, on a grid of thousandths, widened to
        its next point.

    Raises:
        ValueError: an outcome is out of range.
    """
    sequence = ConfidenceSequence(alpha)
    return [sequence.add(float(outcome)) for outcome in outcomes]


class ConfidenceSequence:
    """`confidence_sequence`, pair by pair: each takes as long as the first.

    Attributes:
        alpha: probability, at most, that the true mean is ever ruled out.
        outcomes: of the pairs so far.
        interval: the lowest and the highest mean left.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self.alpha = alpha
        self.outcomes: list[float] = []
        self.interval = (0.0, 1.0)
        self._means, self._up, self._down = _stakes()
        self._money_up, self._money_down = np.zeros_like(self._up), np.zeros_like(self._down)
        self._left = np.ones(len(self._means), dtype=bool)

    def add(self, outcome: float) -> tuple[float, float]:
        """Takes in the next pair; returns the interval after it.

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
        else:  # with probability alpha at most
            mean = float(np.mean(self.outcomes))
            self.interval = (mean, mean)
        return self.interval


@cache
def _stakes() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The means (M,), and what is bet on more and on less than each, (M, bets)."""
    means = np.linspace(0, 1, _GRID)[1:-1]
    return means, _SHARES / means[:, None], _SHARES / (1 - means)[:, None]


class _Running:
    """The sequences that were asked about last, so that those that have grown only go on."""

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
        """Takes out the longest known sequence that these outcomes begin with, or begins one."""
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
