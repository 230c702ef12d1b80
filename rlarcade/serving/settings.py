"""Settings of a rollout."""

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from rlarcade.checked import AsWritten, Checked
from rlarcade.errors import ConfigError
from rlarcade.evaluation.sequential import Counts, Rule, log_e_value
from rlarcade.text import quoted

Strategy = Literal["big-bang", "phased", "parallel", "rolling", "canary", "ab"]

_Share = Annotated[float, Field(ge=1e-9, lt=1)]
_Count = Annotated[int, Field(ge=1, le=1_000_000)]
_Percent = Annotated[float, Field(strict=True)]
_Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]

_ONLY_FOR: dict[str, tuple[Strategy, ...]] = {
    "steps": ("canary",),
    "phases": ("phased",),
    "mode": ("parallel",),
    "share": ("ab",),
    "replicas": ("rolling",),
    "drain_seconds": ("rolling",),
    "min_sessions": ("phased", "canary", "parallel"),
    "alpha": ("canary", "parallel", "ab"),
    "max_pairs": ("canary", "parallel"),
    "non_inferiority": ("canary", "parallel"),
    "gate_on_claims": ("canary", "ab"),
    "cut": ("big-bang", "phased", "rolling"),
}
"""Settings that only some strategies have. In the others they would have no effect, or a harmful
one: cutting long games in a canary would choose by their length which games count."""


class RolloutSpec(Checked, AsWritten, use_attribute_docstrings=True):
    """Settings of a rollout. They are fixed when it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy
    """How the candidate takes over."""
    steps: tuple[_Percent, ...] = (1, 5, 25, 50, 100)
    """Percent of the sessions that the candidate plays at each step of a canary."""
    phases: tuple[str, ...] = ()
    """Groups that the candidate takes over one after the other (phased). A group that is not named
    follows when the rollout has succeeded. Without groups, the whole game is one phase."""
    after: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Number of the rollout that must have succeeded before this one begins, such as that of the
    game that comes first. If it fails, this one is aborted."""
    mode: Literal["shadow", "twin"] | None = None
    """How the candidate runs beside the champion (parallel). `shadow`: it sees the same frames and
    never acts. `twin`: it plays its own game with the same seed."""
    share: _Share = 0.5
    """The candidate's share of the sessions, 0 … 1 (ab)."""
    replicas: _Count = 1
    """Steps in which the workers are replaced (rolling). If a server is asked to start the rollout
    without this, it takes one step for each of its workers."""
    drain_seconds: _Seconds = 1800.0
    """Seconds that the champion's last worker waits for open games (rolling). Then the candidate
    takes them over, and their scores count for neither."""
    min_sessions: _Count = 10
    """Candidate sessions that must end at each step before the next one."""
    alpha: _Share = 0.05
    """Bound on the probability that a candidate which is no better is taken for better."""
    alpha_alarm: _Share = 0.01
    """Bound on the probability of a false alarm, for each kind: errors, slowness, quality."""
    error_rate: _Share = 0.01
    """Share of sessions with an error that is acceptable, 0 … 1."""
    slow_seconds: _Seconds | None = 0.25
    """A session is slow if its median step takes more seconds than this. None: speed is not
    judged."""
    slow_rate: _Share = 0.05
    """Share of slow sessions that is acceptable, 0 … 1."""
    non_inferiority: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """A candidate may win fewer pairs than the champion by less than this margin: it needs more
    than ½ − margin, with ties as halves. None: it must be better."""
    max_pairs: _Count = 400
    """Pairs after which an undecided test pauses the rollout."""
    quiet_seconds: _Seconds = 3600.0
    """Seconds without a new game after which a rollout that waits for games pauses."""
    outcome_seconds: _Seconds = 7 * 86_400.0
    """Seconds from the beginning of a session in which later outcomes of it may be reported."""
    cut: Literal["drain", "now"] = "drain"
    """What happens to open games when the version changes. `drain`: they end with the version that
    began them. `now`: the new version takes them over, and their scores count for neither."""
    gate_on_claims: bool = False
    """Count the scores that clients claim for games that nobody can replay. A client can lie."""

    @model_validator(mode="after")
    def _settings_of_the_strategy(self) -> Self:
        for name, strategies in _ONLY_FOR.items():
            default = type(self).model_fields[name].default
            if self.strategy not in strategies and getattr(self, name) != default:
                raise ValueError(
                    f"{name} has no effect in the strategy {self.strategy}. Leave it out, or "
                    f"choose the strategy {' or '.join(strategies)}"
                )
        return self

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        rising = all(0 < low < high for low, high in pairwise(self.steps))
        if len(self.steps) < 2 or not rising or self.steps[-1] != 100:
            given = ", ".join(f"{percent:g}" for percent in self.steps)
            raise ValueError(
                "the steps of a canary are at least two rising percentages that end with 100, such "
                f"as 10, 50, 100; got {given or 'none'}. To switch at once, choose the strategy "
                "big-bang"
            )
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if len(set(self.phases)) < len(self.phases) or not all(self.phases):
            raise ValueError(f"each phase is another group with a name; got {quoted(self.phases)}")
        if self.strategy == "parallel" and self.mode is None:
            raise ValueError("a parallel rollout needs its mode: shadow or twin")
        if self.mode == "shadow" and self.non_inferiority is not None:
            raise ValueError(
                "a shadow has no score that non_inferiority could judge. Choose the mode twin, or "
                "leave non_inferiority out"
            )
        return self

    @model_validator(mode="after")
    def _decidable(self) -> Self:
        needed, bound = 1, -math.log(self.rule.alpha)
        while log_e_value(Counts(wins=needed), self.rule.null) < bound:
            needed += 1
        if self.has_scores and self.max_pairs < needed:
            raise ValueError(
                f"max_pairs ({self.max_pairs}) is too small: at alpha {self.alpha:g}, even a "
                f"candidate that wins every pair needs {needed}. Raise max_pairs or alpha"
            )
        return self

    @property
    def rule(self) -> Rule:
        """The rule for the pairs."""
        if self.strategy == "ab":
            return Rule.which_is_better(self.alpha)
        if self.non_inferiority is not None:
            return Rule.non_inferiority(self.non_inferiority, alpha=self.alpha)
        return Rule(alpha=self.alpha)

    @property
    def num_steps(self) -> int:
        """Number of steps of the rollout."""
        sizes = {
            "canary": len(self.steps),
            "phased": max(len(self.phases), 1),
            "rolling": self.replicas,
        }
        return sizes.get(self.strategy, 1)

    @property
    def has_scores(self) -> bool:
        """Whether pairs of scores decide when the candidate takes over."""
        return self.strategy == "canary" or self.mode == "twin"


def spec_of_flags(strategy: str, steps: str | None) -> dict[str, Any]:
    """Returns settings from the words of a command line; `RolloutSpec` checks them.

    Args:
        strategy: name of the strategy.
        steps: percentages of a canary, such as "10,50,100"; None: the default.

    Raises:
        ConfigError: a step is not a number.
    """
    if steps is None:
        return {"strategy": strategy}
    try:
        return {"strategy": strategy, "steps": [float(part) for part in steps.split(",")]}
    except ValueError as error:
        raise ConfigError(
            f"--steps are percentages such as 10,50,100, not {quoted(steps)}."
        ) from error
