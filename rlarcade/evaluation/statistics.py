"""Descriptive statistics of scores. They decide nothing: only a match decides between versions.

scipy is imported when a statistic is computed, so training does not need it before its end.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

_TRIMMED = 0.25  # share of the scores that is left out at each end
_RESAMPLES = 2_000
_SIGN_FLIPS = 9_999
_MOST_DRAWN = 20_000_000  # resampled scores in memory at a time, 160 MB


class Overall(BaseModel):
    """Human-normalised scores of several games together: 0 plays like random, 1 like a human."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    iqm: float
    """Interquartile mean over all games' episodes."""
    iqm_interval: tuple[float, float] | None
    """95 % bootstrap interval of `iqm`, resampled within each game. None if a game has only one
    episode."""
    optimality_gap: float
    """Mean over episodes of how far each is below the human score (0 if it is not below)."""


def interquartile_mean(scores: Sequence[float]) -> float:
    """Mean of the middle half of the scores. Outliers change it less than the mean.

    Agarwal et al. (2021), https://arxiv.org/abs/2108.13264. At each end a quarter of the scores,
    rounded down, is left out.

    Raises:
        ValueError: there are no scores.
    """
    from scipy.stats import trim_mean

    _require_scores(scores)
    return float(trim_mean(np.asarray(scores, dtype=np.float64), _TRIMMED))


def iqm_interval(scores: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the interquartile mean over these games.

    It measures the randomness of the games, not that of the training run. The same scores always
    give the same interval. A single score has no interval: None.

    Raises:
        ValueError: there are no scores.
    """
    from scipy.stats import bootstrap, trim_mean

    _require_scores(scores)
    if len(scores) == 1:
        return None
    if len(set(scores)) == 1:
        return float(scores[0]), float(scores[0])
    result = bootstrap(
        (np.asarray(scores, dtype=np.float64),),
        lambda sample, axis: trim_mean(sample, _TRIMMED, axis=axis),
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        batch=_batch(len(scores)),
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def overall(scores: Sequence[Sequence[float]]) -> Overall:
    """Aggregates several games, as Agarwal et al. (2021) do.

    Args:
        scores: for each game, the human-normalised scores of its episodes.

    Raises:
        ValueError: a game has no scores, or there are no games.
    """
    from scipy.stats import trim_mean

    _require_scores(scores)
    for game in scores:
        _require_scores(game)
    games = [np.asarray(game, dtype=np.float64) for game in scores]
    together = np.concatenate(games)
    gap = float(np.maximum(1 - together, 0).mean())
    iqm = float(trim_mean(together, _TRIMMED))
    return Overall(iqm=iqm, iqm_interval=stratified_interval(games, pooled_iqm), optimality_gap=gap)


def pooled_iqm(*games: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Interquartile mean of the scores of all games together, along an axis."""
    from scipy.stats import trim_mean

    means: NDArray[np.float64] = trim_mean(np.concatenate(games, axis=axis), _TRIMMED, axis=axis)
    return means


def stratified_interval(
    games: Sequence[NDArray[np.float64]], statistic: Callable[..., NDArray[np.float64]]
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a statistic of several games.

    The scores of each game are resampled among themselves: a stratified bootstrap, as Agarwal et
    al. (2021), https://arxiv.org/abs/2108.13264, use. The same scores give the same interval.

    Args:
        games: scores of each game.
        statistic: takes an array per game and `axis`, the axis of the scores in all of them.

    Returns:
        Lower and upper end. None if a game has only one score.
    """
    from scipy.stats import bootstrap

    if min(map(len, games)) == 1:
        return None
    if not any(np.ptp(game) > 0 for game in games):
        whole = float(statistic(*games, axis=0))
        return whole, whole
    low, high = bootstrap(
        games,
        statistic,
        n_resamples=_RESAMPLES,
        method="percentile",
        batch=_batch(sum(map(len, games))),
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """One-sided permutation p-value of "the mean of paired differences is at most 0".

    If both versions are equal, each difference could equally have the other sign (Fisher 1935).
    The p-value is only valid for a number of pairs that was fixed in advance. Playing on until it
    is small finds differences that do not exist.

    Args:
        differences: candidate − champion, one per pair.

    Raises:
        ValueError: there are no differences.
    """
    from scipy.stats import permutation_test

    _require_scores(differences)
    if len(differences) == 1:
        return 0.5 if differences[0] > 0 else 1.0
    return float(
        permutation_test(
            (np.asarray(differences, dtype=np.float64),),
            lambda sample, axis: sample.mean(axis=axis),
            permutation_type="samples",
            alternative="greater",
            n_resamples=_SIGN_FLIPS,
            vectorized=True,
            batch=_batch(len(differences)),
            rng=np.random.default_rng(0),
        ).pvalue
    )


def _batch(count: int) -> int:
    """Number of resamples of `count` scores that fit in memory at a time, at least 1."""
    return max(1, _MOST_DRAWN // count)


def _require_scores(scores: Sequence[object]) -> None:
    if not len(scores):
        raise ValueError("there are no scores to sum up")
