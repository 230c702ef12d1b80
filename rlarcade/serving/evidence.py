"""What the games of a rollout show: which version is better, errors, slow sessions, the shares.

Everything is a function of the games. Nothing remembers, and no clock is read. So the same games
always show the same, after a crash as well.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, computed_field

from rlarcade.evaluation.sequential import (
    LARGEST_LOG,
    Counts,
    Rule,
    confidence_interval,
    log_e_values,
)
from rlarcade.serving.assignment import Role
from rlarcade.serving.pairing import Game as Game
from rlarcade.serving.pairing import Pair as Pair
from rlarcade.serving.pairing import in_order
from rlarcade.serving.pairing import pairs as pairs

MOST_SCORES = 1_000
"""Most scores of a role that `Evidence` lists."""

_PRIOR = 100.0  # how firmly `sample_ratio` expects shares near the planned ones, in sessions

_Count = Annotated[int, Field(ge=0)]


class Health(BaseModel):
    """How many sessions of a version were bad, and the evidence that these are too many."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sessions: _Count
    bad: _Count
    rate: float
    """The share of bad sessions that is acceptable, 0 … 1."""
    alpha: float
    """Bound on the probability of an alarm if the true share is acceptable."""
    e_value: float
    """Evidence that more than this share is bad, after the last session."""
    largest: float
    """The largest evidence after any session."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def alarm(self) -> bool:
        """Whether the evidence ever reached 1/α."""
        return self.largest >= 1 / self.alpha


def health(bad: Sequence[bool], rate: float, alpha: float) -> Health:
    """Tests whether too many sessions are bad: errors or slow steps.

    A session counts from its beginning, as good until it is bad. A test of the ended sessions would
    count errors early and good sessions late. With this one, an alarm comes at once, and it is
    false with probability at most α: at any time, the evidence is at most that of the same sessions
    at their ends.

    Args:
        bad: each session, in order of assignment, playing ones as well.
        rate: the acceptable share of bad sessions, 0 to 1.
        alpha: bound on the probability of a false alarm.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """
    path = _values(log_e_values([float(one) for one in bad], rate)) or [1.0]
    return Health(
        sessions=len(bad),
        bad=sum(bad),
        rate=rate,
        alpha=alpha,
        e_value=path[-1],
        largest=max(path),
    )


def sample_ratio(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The e-value against the hypothesis that sessions are assigned with these shares.

    A wrong ratio means that something loses or moves sessions, so that the groups cannot be
    compared. It is a Bayes factor: sessions whose shares are Dirichlet-distributed around the
    planned ones, against exactly the planned ones. Lindon & Malek (2022),
    https://arxiv.org/abs/2011.03567.

    Args:
        counts: sessions of each variant since the shares last changed.
        shares: planned share of each variant; they sum to 1.

    Raises:
        ValueError: there are not as many counts as shares, or the shares do not sum to 1.
    """
    from scipy.special import gammaln

    if len(counts) != len(shares) or not math.isclose(math.fsum(shares), 1, abs_tol=1e-9):
        raise ValueError(f"{len(counts)} counts need as many shares, which sum to 1, not {shares}")
    there = [(count, share) for count, share in zip(counts, shares, strict=True) if share > 0]
    if sum(counts) > sum(count for count, _ in there):
        return math.exp(LARGEST_LOG)  # a variant without a share has sessions
    found, planned = np.array(there, dtype=np.float64).T
    prior = _PRIOR * planned
    log = gammaln(_PRIOR) - gammaln(_PRIOR + found.sum())
    log += (gammaln(prior + found) - gammaln(prior) - found * np.log(planned)).sum()
    return math.exp(min(float(log), LARGEST_LOG))


class Reached(NamedTuple):
    """The pairs after which each e-value first reached its bound; None if it has not.

    A bound that was reached once counts, even if the e-value falls again later.
    """

    better: int | None
    """Evidence that the candidate is better, or not worse by the margin."""
    futile: int | None
    """Evidence that the candidate is not usefully better."""
    worse: int | None
    """Evidence that the candidate is worse than the champion."""


class RoleCounts(BaseModel):
    """What is known of the games of one variant."""

    sessions: int = 0
    """Games that were assigned."""
    games: int = 0
    """Games that have ended."""
    failed: int = 0
    abandoned: int = 0
    errors: int = 0
    """Sessions with an error."""
    slow: int = 0
    """Slow sessions."""
    mean: float | None = None
    """Mean of all proven scores; None without any. Short games end first, so it only describes."""
    scores: tuple[float, ...] = ()
    """The last proven scores, at most 1,000, in order of assignment."""


class RoleEvidence(RoleCounts):
    """The games of one variant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role


def role_evidence(games: Iterable[Game], role: Role) -> RoleEvidence:
    """Counts the games of one role, except those that another version took over."""
    own = [game for game in in_order(games) if game.role == role and not game.mixed]
    scores = [
        game.score
        for game in own
        if game.proven and game.ended != "failed" and game.score is not None
    ]
    return RoleEvidence(
        role=role,
        sessions=len(own),
        games=sum(game.state == "ended" for game in own),
        failed=sum(game.ended == "failed" for game in own),
        abandoned=sum(game.abandoned for game in own),
        errors=sum(game.errors for game in own),
        slow=sum(game.slow for game in own),
        mean=math.fsum(scores) / len(scores) if scores else None,
        scores=tuple(scores[-MOST_SCORES:]),
    )


class Evidence(BaseModel):
    """All that the games of a rollout show, as far as they are played."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rule: Rule
    """Rule for the pairs."""
    alpha_alarm: float
    """Bound on the probability of a false alarm, for each kind of alarm."""
    step: _Count
    """Index of the current step."""
    roles: tuple[RoleEvidence, ...]
    """The champion, the control and the candidate."""
    outcomes: tuple[float, ...]
    """Outcome of each pair that counts, in order: 1, ½ or 0 for the candidate."""
    waiting: _Count
    """Pairs that are assigned but do not count yet."""
    repeated: _Count
    """Games of candidate and control that do not count because their key had played before."""
    mixed: _Count = 0
    """Games that began with one version and were taken over by the other."""
    tried: _Count
    """Candidate sessions of this step that have ended, one per key. In a step with a control, only
    those that are matched with one of the control."""
    errors: Health
    """Candidate sessions with errors."""
    slowness: Health | None
    """Slow candidate sessions; None if nobody asked."""
    sample_ratio: float
    """Evidence that sessions do not reach the variants with the planned shares, in this step."""

    @property
    def counts(self) -> Counts:
        """The candidate's wins, ties and losses."""
        counts = Counter(self.outcomes)
        return Counts(counts[1.0], counts[0.5], counts[0.0])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def pairs(self) -> int:
        """Number of pairs that count."""
        return len(self.outcomes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def wins(self) -> int:
        """Pairs that the candidate won."""
        return self.counts.wins

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ties(self) -> int:
        """Pairs with equal scores."""
        return self.counts.ties

    @computed_field  # type: ignore[prop-decorator]
    @property
    def losses(self) -> int:
        """Pairs that the candidate lost."""
        return self.counts.losses

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value(self) -> float:
        """Evidence that the candidate is better, or not worse by the margin. Bound: 1/α."""
        return self.history[-1]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value_futility(self) -> float:
        """Evidence that the candidate is not usefully better. Bound: 1/β."""
        return _values(self._futile())[-1] if self.outcomes else 1.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value_worse(self) -> float:
        """Evidence that the candidate is worse than the champion. Bound: 1/`alpha_alarm`."""
        return self.history_worse[-1]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def history(self) -> tuple[float, ...]:
        """`e_value` before the first pair and after each."""
        return (1.0, *_values(self._better()))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def history_worse(self) -> tuple[float, ...]:
        """`e_value_worse` before the first pair and after each."""
        return (1.0, *_values(self._worse()))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the true probability of improvement; holds at all looks with 1 − α."""
        return confidence_interval(self.outcomes, self.rule.alpha)

    @property
    def reached(self) -> Reached:
        """The pairs after which each e-value first reached its bound."""
        return Reached(
            _first(self._better(), 1 / self.rule.alpha),
            _first(self._futile(), 1 / self.rule.beta),
            _first(self._worse(), 1 / self.alpha_alarm),
        )

    @property
    def touched(self) -> int:
        """Games in which the candidate acted."""
        return self.role("candidate").sessions + self.mixed

    def role(self, role: Role) -> RoleEvidence:
        """Returns the games of one role; without games, zeros."""
        return next((one for one in self.roles if one.role == role), role_evidence((), role))

    def _better(self) -> NDArray[np.float64]:
        return log_e_values(self.outcomes, self.rule.null)

    def _futile(self) -> NDArray[np.float64]:
        return log_e_values([1 - outcome for outcome in self.outcomes], 1 - self.rule.useful)

    def _worse(self) -> NDArray[np.float64]:
        return log_e_values([1 - outcome for outcome in self.outcomes])


def _first(path: NDArray[np.float64], bound: float) -> int | None:
    """The number of pairs after which a path first reaches a bound, or None."""
    reached = np.flatnonzero(np.array(_values(path)) >= bound)
    return int(reached[0]) + 1 if reached.size else None


def _values(path: NDArray[np.float64]) -> list[float]:
    values: list[float] = np.exp(np.minimum(path, LARGEST_LOG)).tolist()
    return values
