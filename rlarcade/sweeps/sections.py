"""The sections of a sweep's file that choose runs by the results of others."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Count = Annotated[int, Field(strict=True, ge=1)]


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
