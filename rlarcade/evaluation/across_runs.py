"""Sums up the training runs of an algorithm over games and seeds.

Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264. A run's score is one normalised number, such as the mean of its
final evaluation. Intervals measure the luck of the training runs, since runs are resampled within
each game. These figures describe; they decide nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rlarcade.evaluation.statistics import pooled_iqm, stratified_interval

_RESAMPLES = 2_000

Scores = Sequence[Sequence[float]]
"""For each game, the normalised scores of its runs."""
_Arrays = tuple[NDArray[np.float64], ...]


class Estimate(BaseModel):
    """A figure with its 95 % stratified bootstrap interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    interval: tuple[float, float] | None
    """None if a game has only one run."""


class AcrossRuns(BaseModel):
    """What the runs of one algorithm reach, over all games."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    median: Estimate
    """Median over games of the mean over runs."""
    iqm: Estimate
    """Interquartile mean of all runs of all games."""
    mean: Estimate
    """Mean over games of the mean over runs."""
    optimality_gap: Estimate
    """How far runs are below 1 on average, where a run above 1 counts as 1: mean over games."""


def across_runs(scores: Scores) -> AcrossRuns:
    """Sums up normalised scores of runs.

    Raises:
        ValueError: there are no games, or a game has no runs.
    """
    games = _arrays(scores)

    def estimate(statistic: Callable[..., NDArray[np.float64]]) -> Estimate:
        return Estimate(
            value=float(statistic(*games, axis=0)), interval=stratified_interval(games, statistic)
        )

    return AcrossRuns(
        median=estimate(_median),
        iqm=estimate(pooled_iqm),
        mean=estimate(_mean),
        optimality_gap=estimate(_gap),
    )


class RunProfile(BaseModel):
    """A performance profile: the share of runs that score more than τ, for some τ."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    taus: tuple[float, ...]
    shares: tuple[float, ...]
    """Mean over games of the share of a game's runs that score more than each τ."""
    band: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Lower and upper ends of the 95 % stratified bootstrap interval at each τ. None if a game has
    only one run."""


def run_profile(scores: Scores, taus: Sequence[float]) -> RunProfile:
    """Returns the performance profile of normalised scores of runs, at some τ.

    Raises:
        ValueError: there are no games, or a game has no runs.
    """
    games, thresholds = _arrays(scores), np.asarray(taus, dtype=np.float64)
    shares = np.mean([(game[:, None] > thresholds).mean(axis=0) for game in games], axis=0)
    band = None
    if min(map(len, games)) > 1:
        rng = np.random.default_rng(0)
        drawn = np.zeros((_RESAMPLES, len(thresholds)))
        for game in games:
            resampled = game[rng.integers(len(game), size=(_RESAMPLES, len(game)))]
            drawn += (resampled[..., None] > thresholds).mean(axis=1)
        low, high = np.quantile(drawn / len(games), (0.025, 0.975), axis=0)
        band = tuple(low.tolist()), tuple(high.tolist())
    return RunProfile(taus=tuple(thresholds.tolist()), shares=tuple(shares.tolist()), band=band)


def _arrays(scores: Scores) -> _Arrays:
    if not len(scores) or not all(len(game) for game in scores):
        raise ValueError("there must be at least one game, and each needs at least one run")
    return tuple(np.asarray(game, dtype=np.float64) for game in scores)


def _of_games(games: _Arrays, axis: int) -> NDArray[np.float64]:
    """Stacks each game's mean over its runs in a new first axis."""
    return np.stack([game.mean(axis=axis) for game in games])


def _median(*games: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(np.median(_of_games(games, axis), axis=0))


def _mean(*games: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(_of_games(games, axis).mean(axis=0))


def _gap(*games: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(
        _of_games(tuple(np.maximum(1 - game, 0) for game in games), axis).mean(axis=0)
    )
