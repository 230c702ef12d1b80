"""What is reported of scores, against the definition and against what is known of the bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval

SCORES = st.lists(st.floats(-1e4, 1e5), min_size=1, max_size=60)


@settings(deadline=None)
@given(scores=SCORES)
def test_the_interquartile_mean_is_that_of_the_middle_half(scores):
    cut = len(scores) // 4
    middle = sorted(scores)[cut : len(scores) - cut]
    expected = sum(middle) / len(middle)
    assert interquartile_mean(scores) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_single_wild_game_does_not_move_it():
    assert interquartile_mean([1, 2, 3, 4, 5, 6, 7, 1e9]) == 4.5


@settings(deadline=None, max_examples=30)
@given(scores=SCORES)
def test_the_interval_lies_within_the_scores(scores):
    low, high = iqm_interval(scores)
    rounding = 1e-9 * max(map(abs, scores))
    assert min(scores) - rounding <= low <= high <= max(scores) + rounding


def test_the_interval_is_the_same_every_time_and_of_equal_scores_a_point():
    scores = np.random.default_rng(0).normal(size=40).tolist()
    assert iqm_interval(scores) == iqm_interval(scores)
    assert iqm_interval([3.0] * 10) == (3.0, 3.0)
    assert iqm_interval([3.0]) == (3.0, 3.0)


def test_the_interval_has_the_width_that_theory_gives():
    # of uniform scores: the variance of a trimmed mean is that of the winsorised scores over the
    # middle half's share squared, Tukey & McLaughlin (1963); ± 1.96 standard errors
    scores = (np.arange(400) + 0.5) / 400
    winsorised = np.clip(scores, 0.25, 0.75)
    expected = 2 * 1.96 * winsorised.std() / 0.5 / np.sqrt(400)
    low, high = iqm_interval(scores.tolist())
    assert high - low == pytest.approx(expected, rel=0.08)
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.01)
    wider = iqm_interval(scores.tolist(), confidence=0.99)
    assert wider[0] < low < high < wider[1]


def test_no_scores_have_no_summary():
    for summary in (interquartile_mean, iqm_interval):
        with pytest.raises(ValueError, match="there are no scores to sum up"):
            summary([])
