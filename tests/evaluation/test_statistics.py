"""What is reported of scores, against the definition and against what is known of the bootstrap."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlarcade.evaluation.statistics import (
    interquartile_mean,
    iqm_interval,
    overall,
    sign_flip_p,
)

SCORES = st.lists(st.floats(-1e4, 1e5), min_size=1, max_size=60)


@given(scores=SCORES)
def test_the_interquartile_mean_is_that_of_the_middle_half(scores):
    cut = len(scores) // 4
    middle = sorted(scores)[cut : len(scores) - cut]
    expected = sum(middle) / len(middle)
    assert interquartile_mean(scores) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_single_wild_game_does_not_move_it():
    assert interquartile_mean([1, 2, 3, 4, 5, 6, 7, 1e9]) == 4.5


@settings(max_examples=30)
@given(scores=SCORES)
def test_the_interval_lies_within_the_scores(scores):
    if len(scores) == 1:
        assert iqm_interval(scores) is None
        return
    low, high = iqm_interval(scores)
    rounding = 1e-9 * max(map(abs, scores))
    assert min(scores) - rounding <= low <= high <= max(scores) + rounding


def test_the_interval_is_the_same_every_time_and_of_equal_scores_a_point():
    scores = np.random.default_rng(0).normal(size=40).tolist()
    assert iqm_interval(scores) == iqm_interval(scores)
    assert iqm_interval([3.0] * 10) == (3.0, 3.0)
    assert iqm_interval([3.0]) is None, "one game has no interval"


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
    for summary in (interquartile_mean, iqm_interval, overall, sign_flip_p):
        with pytest.raises(ValueError, match="there are no scores to sum up"):
            summary([])
    with pytest.raises(ValueError, match="there are no scores to sum up"):
        overall([[1.0], []])


# Several games together


def test_all_games_together_are_the_middle_half_of_all_episodes_and_what_they_fell_short():
    summed = overall([[0.0, 0.5, 1.5, 2.0], [0.1, 0.2, 0.3, 8.0]])
    assert summed.iqm == pytest.approx((0.2 + 0.3 + 0.5 + 1.5) / 4)
    assert summed.optimality_gap == pytest.approx((1.0 + 0.5 + 0.9 + 0.8 + 0.7) / 8)


def test_episodes_are_drawn_anew_among_those_of_their_own_game():
    # Two games that never vary: drawn among all episodes, the mean would be anything from 0 to 1.
    apart = [[0.0] * 20, [1.0] * 20]
    assert overall(apart).iqm_interval == (0.5, 0.5)
    assert overall([[0.25], [0.75]]).iqm_interval is None


def test_the_interval_of_all_games_is_that_of_a_slow_stratified_bootstrap():
    rng = np.random.default_rng(1)
    games = [rng.normal(mean, 0.2, size=40) for mean in (0.1, 0.6, 1.4)]
    means = []
    for _ in range(4_000):
        drawn = sorted(score for game in games for score in rng.choice(game, size=game.size))
        means.append(np.mean(drawn[30:90]))
    low, high = overall([game.tolist() for game in games]).iqm_interval
    width = np.quantile(means, 0.975) - np.quantile(means, 0.025)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=width / 10)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=width / 10)


# The sign-flip test


@settings(max_examples=40)
@given(differences=st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=10))
def test_few_differences_have_the_share_of_sign_flips_that_sum_up_to_as_much(differences):
    flipped = [
        sum(sign * one for sign, one in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    expected = sum(total >= sum(differences) for total in flipped) / len(flipped)
    assert sign_flip_p(differences) == pytest.approx(expected)


def test_fishers_measurements_of_darwins_plants_have_his_p():
    # Fisher (1935), The Design of Experiments, III.21: 863 of 32,768 flips reach the sum of 314
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip_p([float(one) for one in darwin]) == pytest.approx(863 / 32_768, abs=0.005)


def test_many_scores_are_not_drawn_all_at_once(monkeypatch):
    scores = np.random.default_rng(1).normal(size=300)
    games = [scores[:100].tolist(), scores[100:].tolist()]
    whole = iqm_interval(scores), sign_flip_p(scores)
    together = overall(games).iqm_interval
    monkeypatch.setattr("rlarcade.evaluation.statistics._MOST_DRAWN", 3_000)  # ten resamples
    assert iqm_interval(scores) == pytest.approx(whole[0], abs=1e-12)
    assert sign_flip_p(scores) == pytest.approx(whole[1], abs=0.03)
    assert overall(games).iqm_interval == pytest.approx(together, abs=0.03)
