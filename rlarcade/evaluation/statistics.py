"""What is reported of scores, and never decided on: the verdict on two versions is the match's.

scipy is loaded when a figure is asked for: training asks for none before its end.
"""

from collections.abc import Sequence

import numpy as np

_TRIMMED = 0.25  # of the scores, at each end
_RESAMPLES = 2_000


def interquartile_mean(scores: Sequence[float]) -> float:
    """Mean of the middle half of the scores: less at the mercy of a few than the mean.

    Agarwal et al. (2021), https://arxiv.org/abs/2108.13264. A quarter of the scores, rounded down,
    is left out at each end.

    Raises:
        ValueError: there are no scores.
    """
    from scipy.stats import trim_mean

    _require_scores(scores)
    return float(trim_mean(np.asarray(scores, dtype=np.float64), _TRIMMED))


def iqm_interval(scores: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean over these games.

    It tells how much the figure owes to the luck of the games played, not to that of the training
    run. The same scores always give the same interval.

    Raises:
        ValueError: there are no scores.
    """
    from scipy.stats import bootstrap, trim_mean

    _require_scores(scores)
    if len(set(scores)) == 1:
        return float(scores[0]), float(scores[0])
    result = bootstrap(
        (np.asarray(scores, dtype=np.float64),),
        lambda sample, axis: trim_mean(sample, _TRIMMED, axis=axis),
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def _require_scores(scores: Sequence[float]) -> None:
    if not len(scores):
        raise ValueError("there are no scores to sum up")
