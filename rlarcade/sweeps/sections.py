"""The sections of a sweep's file that choose runs by the results of others."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from rlarcade.text import quoted

Count = Annotated[int, Field(strict=True, ge=1)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Compare(BaseModel, extra="forbid", frozen=True):
    """`[compare]`: which setting is better? Every variant and combination of the grid is an arm."""

    seeds: Annotated[int, Field(strict=True, ge=1, le=100)] = 5
    """Training seeds of an undecided arm in each round."""
    max_rounds: Annotated[int, Field(strict=True, ge=1, le=100)] = 5
    alpha: Annotated[float, Field(strict=True, gt=0, le=0.5)] = 0.05
    """Family-wise: the probability, at most, that any two equal arms are called different."""
    score: Literal["mean", "human_normalized"] | None = None
    """Of the evaluation at a run's end. Unset: mean for one game, human_normalized for several."""
    against: str | None = None
    """Compare every arm with this one only. Unset: every two arms."""


class Parameter(BaseModel, extra="forbid", frozen=True):
    """The values of a setting that a search may choose."""

    low: _Number | None = None
    high: _Number | None = None
    log: Annotated[bool, Field(strict=True)] = False
    """Choose between low and high on a logarithmic scale."""
    choices: Annotated[tuple[Any, ...], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("it has choices, so it cannot have low, high or log")
            texts = [json.dumps(choice, default=str) for choice in self.choices]
            if len(set(texts)) < len(texts):
                raise ValueError("one of its choices occurs twice")
        elif self.low is None or self.high is None:
            raise ValueError("it needs low and high, or choices")
        elif self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        elif self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 on a logarithmic scale, not {quoted(self.low)}")
        return self


class Search(BaseModel, extra="forbid", frozen=True):
    """`[search]`: Optuna chooses the settings of every run."""

    parameters: Annotated[dict[str, Parameter], Field(min_length=1)]
    trials: Count
    """Runs in all, with those that are stopped early."""
    sampler: Literal["tpe", "random", "cmaes"] = "tpe"
    pruner: Literal["median", "successive-halving", "none"] = "median"
    """The rule that stops a run whose score in training is low."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    """Of the sampler. The seed of training is that of [settings]."""
    startup_trials: Count = 5
    """Runs that go to their end before median stops any."""
    report_interval: Annotated[int, Field(strict=True, ge=1_000)] | None = None
    """Agent steps between looks at a run's score. Unset: a tenth of total_timesteps."""
