"""What a sweep's runs reach together, against the definitions of Agarwal et al. (2021)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import run_statistics as oracle

from rlarcade.evaluation.across_runs import across_runs, run_profile

NUMBERS = ("median", "iqm", "mean", "optimality_gap")
ANY = st.lists(st.lists(st.floats(-3, 30), min_size=1, max_size=6), min_size=1, max_size=7)
FEW = [[0.1, 0.9, 1.7], [0.0, 0.4, 0.45], [2.5, 0.2, 0.7]]
"""27³ resamples; one run in each game is far from the others."""


@settings(max_examples=60)
@given(scores=ANY)
def test_the_figures_are_those_of_the_definitions(scores):
    summed = across_runs(scores)
    for name in NUMBERS:
        expected = getattr(oracle, name)(scores)
        assert getattr(summed, name).value == pytest.approx(expected, rel=1e-9, abs=1e-9), name


def test_a_run_above_the_human_does_not_make_up_for_one_below():
    assert across_runs([[0.5, 9.0], [1.0, 1.0]]).optimality_gap.value == 0.125


def test_one_excellent_game_moves_the_mean_and_not_the_median():
    usual, better = [[0.2], [0.3], [0.4]], [[0.2], [0.3], [40.0]]
    assert across_runs(usual).median.value == across_runs(better).median.value == 0.3
    assert across_runs(better).mean.value == pytest.approx(13.5)


@pytest.mark.parametrize("name", NUMBERS)
def test_an_interval_leaves_out_a_fortieth_of_all_resamples_at_each_end(name):
    low, high = getattr(across_runs(FEW), name).interval
    below, above = oracle.shares_of_resamples(FEW, getattr(oracle, name), low, high)
    # 2,000 random resamples of the 19,683: the shares are 2.5 % within four standard errors
    assert below < 0.025 + 4 * 0.0035
    assert above < 0.025 + 4 * 0.0035
    inside = oracle.shares_of_resamples(FEW, getattr(oracle, name), low + 0.02, high - 0.02)
    assert sum(inside) > 0.05 - 4 * 0.005, "the interval is not wider than it needs to be"


def test_runs_are_resampled_within_their_game():
    apart = [[0.5] * 4, [2.0] * 4]
    assert across_runs(apart).mean.interval == (1.25, 1.25)


def test_a_game_with_one_run_gives_no_interval():
    summed = across_runs([[0.1, 0.2], [0.3]])
    assert all(getattr(summed, name).interval is None for name in NUMBERS)
    assert run_profile([[0.1, 0.2], [0.3]], [0.15]).band is None


def test_the_same_scores_give_the_same_figures():
    assert across_runs(FEW) == across_runs(FEW)
    assert run_profile(FEW, [0.3]) == run_profile(FEW, [0.3])


@settings(max_examples=40)
@given(scores=ANY, taus=st.lists(st.floats(-3, 30), min_size=1, max_size=8))
def test_a_profile_is_the_share_of_runs_above(scores, taus):
    profile = run_profile(scores, [*taus, scores[0][0]])  # a run's own score is not above itself
    for tau, share in zip(profile.taus, profile.shares, strict=True):
        assert share == pytest.approx(oracle.share_above(scores, tau), abs=1e-12)


def test_a_game_with_many_runs_counts_no_more_than_another():
    assert run_profile([[1.0] * 9, [0.0]], [0.5]).shares == (0.5,)


def test_the_band_holds_what_resampled_profiles_give():
    taus = [0.3, 0.8]
    profile = run_profile(FEW, taus)
    for place, tau in enumerate(taus):
        low, high = profile.band[0][place], profile.band[1][place]
        shares = oracle.shares_of_resamples(
            FEW, lambda scores, tau=tau: oracle.share_above(scores, tau), low, high
        )
        assert max(shares) < 0.025 + 4 * 0.0035
        assert low < profile.shares[place] < high


def test_a_band_narrows_with_the_number_of_runs():
    rng = np.random.default_rng(1)
    widths = []
    for runs in (4, 64):
        profile = run_profile(rng.uniform(size=(3, runs)).tolist(), [0.5])
        widths.append(profile.band[1][0] - profile.band[0][0])
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.5)


@pytest.mark.parametrize("scores", [[], [[0.1], []]])
def test_nothing_to_sum_up_is_told(scores):
    with pytest.raises(ValueError, match="each needs at least one run"):
        across_runs(scores)
    with pytest.raises(ValueError, match="at least one game"):
        run_profile(scores, [0.0])
