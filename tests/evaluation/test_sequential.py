"""The sequential test against published golden values, slow sums, and a library by others."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import ville
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rlarcade.errors import ConfigError
from rlarcade.evaluation import sequential
from rlarcade.evaluation.sequential import (
    Counts,
    Rule,
    anytime_p,
    confidence_interval,
    log_e_value,
    log_e_values,
    log_mean_wealth,
    outcome_of,
)

NULLS = st.floats(0.05, 0.95)
COUNTS = st.builds(Counts, st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))


def e_value(*counts, null=0.5):
    return math.exp(log_e_value(Counts(*counts), null))


def slow_e_value(counts, null):
    """The definition, in fractions: no logarithm, no rounding but that of the bets themselves."""
    null = Fraction(null)
    total = Fraction(0)
    for k in range(24):
        bet = Fraction(0.02 * (0.98 / 0.02) ** (k / 23)) / null
        total += (
            (1 + bet * (1 - null)) ** counts.wins
            * (1 + bet * (Fraction(1, 2) - null)) ** counts.ties
            * (1 - bet * null) ** counts.losses
        )
    return float(total / 24)


# Outcomes


@pytest.mark.parametrize(
    ("champion", "candidate", "outcome"),
    [(1, 2, 1), (2, 1, 0), (3, 3, 0.5), (-21, -20.5, 1), (0.0, -0.0, 0.5), (-math.inf, 0, 1)],
)
def test_a_pair_is_won_by_the_higher_score(champion, candidate, outcome):
    assert outcome_of(champion, candidate) == outcome


@pytest.mark.parametrize("scores", [(math.nan, 1), (1, math.nan)])
def test_a_score_that_is_no_number_wins_nothing(scores):
    with pytest.raises(ValueError, match="must be numbers, got .*nan"):
        outcome_of(*scores)


def test_outcomes_are_counted():
    counts = Counts()
    for outcome in (1, 0.5, 0, 1, 1, 0.5):
        counts = counts.after(outcome)
    assert counts == Counts(wins=3, ties=2, losses=1)
    assert (counts.pairs, counts.improvement_probability) == (6, 4 / 6)
    assert counts.swapped() == Counts(wins=1, ties=2, losses=3)
    assert Counts().improvement_probability is None
    for wrong in (0.3, 2, -1, math.nan):
        with pytest.raises(ValueError, match="a pair's outcome is 0, ½ or 1, got"):
            counts.after(wrong)


# The e-value


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((9, 0, 0), 41.98), ((60, 0, 40), 2.895), ((120, 0, 80), 14.19), ((30, 40, 10), 36.97)],
)
def test_golden_e_values(counts, expected):
    assert e_value(*counts) == pytest.approx(expected, rel=2e-4)


def test_220_wins_of_400_are_not_enough():
    assert e_value(220, 0, 180) == pytest.approx(2.62, abs=0.005)  # AlphaGo Zero's gate: 55 %


@pytest.mark.parametrize(
    ("alpha", "null", "needed"),
    [
        (0.05, 0.5, {0: 8, 1: 11, 2: 14, 5: 20, 10: 29, 20: 44, 50: 85, 100: 147, 200: 265}),
        (0.01, 0.5, {0: 11, 1: 15, 2: 17, 5: 24, 10: 33, 20: 50, 50: 92, 100: 157, 200: 278}),
        (0.05, 0.4, {0: 6, 1: 9, 2: 10, 5: 15, 10: 21, 20: 31, 50: 59, 100: 102, 200: 182}),
    ],
)
def test_wins_that_are_needed_to_promote(alpha, null, needed):
    rule = Rule(alpha=alpha, null=null, useful=null + 0.1)
    for losses, wins in needed.items():
        assert rule.verdict(Counts(wins, 0, losses)) == "promote"
        assert rule.verdict(Counts(wins - 1, 0, losses)) != "promote"


@settings(max_examples=30)
@given(
    counts=st.builds(Counts, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)),
    null=st.sampled_from([0.25, 0.4, 0.5, 0.6, 0.75]),
)
def test_the_e_value_is_its_definition(counts, null):
    assert e_value(*counts, null=null) == pytest.approx(slow_e_value(counts, null), rel=1e-9)


@given(counts=COUNTS, null=NULLS, tied=st.floats(0, 1))
def test_at_the_edge_of_the_hypothesis_one_more_pair_changes_nothing_on_average(counts, null, tied):
    # all three outcomes, with E[Y] = null: tied = P(½), won = P(1)
    tied *= 2 * min(null, 1 - null)
    won = null - tied / 2
    lost = 1 - won - tied
    now = log_e_value(counts, null)
    later = [
        share * math.exp(log_e_value(counts.after(outcome), null) - now)
        for outcome, share in ((1, won), (0.5, tied), (0, lost))
    ]
    assert math.fsum(later) == pytest.approx(1, abs=1e-9)


@given(counts=COUNTS, null=NULLS, won=st.floats(0, 1), tied=st.floats(0, 1))
def test_within_the_hypothesis_the_e_value_does_not_grow_on_average(counts, null, won, tied):
    tied *= 1 - won
    assume(won + tied / 2 <= null)
    now = log_e_value(counts, null)
    later = [
        share * math.exp(log_e_value(counts.after(outcome), null) - now)
        for outcome, share in ((1, won), (0.5, tied), (0, 1 - won - tied))
    ]
    assert math.fsum(later) <= 1 + 1e-9


@given(counts=COUNTS)
def test_ties_are_no_evidence_against_one_half(counts):
    assert log_e_value(counts) == pytest.approx(
        log_e_value(counts._replace(ties=0)), rel=1e-12, abs=1e-12
    )


def test_no_pairs_are_no_evidence():
    assert log_e_value(Counts()) == 0
    assert log_e_values([]).shape == (0,)


def test_e_values_beyond_a_float_stay_finite_and_ordered():
    rule = Rule()
    evidence = rule.evidence(Counts(wins=10_000))
    assert math.isfinite(evidence.e_value)
    assert evidence.e_value > 1e300
    assert 0 < evidence.e_value_futility < 1e-80  # the most timid bet loses 2 % a pair
    assert log_e_value(Counts(wins=20_000)) > log_e_value(Counts(wins=10_000)) > 6_000


@pytest.mark.parametrize("null", [0, 1, -0.1, 1.5, math.nan])
def test_hypotheses_are_open_at_both_ends(null):
    with pytest.raises(ValueError, match="lies between 0 and 1, got"):
        log_e_value(Counts(1, 1, 1), null)


@given(outcomes=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=60), null=st.floats(0.1, 0.9))
def test_rounds_of_one_game_are_pairs_after_every_one(outcomes, null):
    counts, expected = Counts(), []
    for outcome in outcomes:
        counts = counts.after(outcome)
        expected.append(log_e_value(counts, null))
    assert log_e_values(outcomes, null).tolist() == pytest.approx(expected, abs=1e-9)


@given(outcomes=st.lists(st.floats(0, 1), min_size=1, max_size=30), null=st.floats(0.1, 0.9))
def test_the_order_of_rounds_does_not_matter(outcomes, null):
    assert log_e_values(outcomes, null)[-1] == pytest.approx(
        log_e_values(outcomes[::-1], null)[-1], abs=1e-9
    )


def test_outcomes_of_rounds_are_shares():
    for wrong in ([0.5, 1.1], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match="outcomes lie between 0 and 1"):
            log_e_values(wrong)


@pytest.mark.parametrize(("null", "wins", "losses"), [(0.5, 30, 20), (0.5, 3, 12), (0.4, 25, 25)])
def test_spread_over_all_alternatives_it_is_the_beta_binomial_test_of_another_library(
    null, wins, losses
):
    # a bet λ bets on the alternative p₁ = p₀ + λp₀(1 − p₀); evenly many on each is a uniform prior
    alternatives = (np.arange(20_000) + 0.5) / 20_000
    shares = (alternatives - null) / (null * (1 - null))
    ours = log_mean_wealth(Counts(wins, 0, losses), null, shares)
    theirs = ville.BernoulliTest(null).fit(np.repeat([1.0, 0.0], [wins, losses]))
    assert ours == pytest.approx(float(theirs.log_e_values_[-1]), abs=1e-5)


# Verdicts


def test_the_rule_is_alpha_5_and_beta_10_percent_unless_told_otherwise():
    assert Rule().model_dump() == {"alpha": 0.05, "beta": 0.10, "null": 0.5, "useful": 0.6}
    assert Rule.non_inferiority(0.1).model_dump() == {
        "alpha": 0.05, "beta": 0.10, "null": 0.4, "useful": 0.5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 0.0}, "'alpha' must be above 0, not 0.0"),
        ({"alpha": 1.0}, "'alpha' must be below 1, not 1.0"),
        ({"beta": -1.0}, "'beta' must be above 0, not -1.0"),
        ({"null": 0.6}, r"null \(0.6\) is not below useful \(0.6\)"),
        ({"null": 0.7}, r"null \(0.7\) is not below useful \(0.6\)"),
    ],
)
def test_a_rule_that_could_not_decide_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Rule(**values)


@pytest.mark.parametrize("margin", [0, -0.1, 0.5, 0.9])
def test_a_margin_lies_between_nothing_and_one_half(margin):
    with pytest.raises(ValueError, match="margin"):
        Rule.non_inferiority(margin)


@given(counts=COUNTS)
def test_futility_is_the_champions_own_test(counts):
    # against p ≥ 0.6 for the candidate is against p ≤ 0.4 for the champion
    assert Rule().evidence(counts).e_value_futility == pytest.approx(
        math.exp(min(700, log_e_value(counts.swapped(), 0.4))), rel=1e-9
    )


def test_a_match_that_is_not_decided_has_no_verdict():
    rule = Rule()
    assert rule.verdict(Counts()) is None
    assert rule.verdict(Counts(7, 0, 0)) is None
    assert rule.verdict(Counts(8, 0, 0)) == "promote"
    assert rule.verdict(Counts(0, 400, 0)) == "reject"  # never better, so not usefully better
    losses = next(n for n in itertools.count() if rule.verdict(Counts(0, 0, n)))
    assert rule.verdict(Counts(0, 0, losses)) == "reject"
    assert 1 / slow_e_value(Counts(losses, 0, 0), 0.4) <= 0.1
    assert 1 / slow_e_value(Counts(losses - 1, 0, 0), 0.4) > 0.1


def verdicts(won, *, tied=0.0, matches=1000, cap=1000, seed=0):
    """Plays many matches at once; returns the shares of verdicts and the pairs that they took."""
    rule, draw = Rule(), np.random.default_rng(seed).random((matches, cap))
    outcomes = np.where(draw < won, 1.0, np.where(draw < won + tied, 0.5, 0.0))
    shares = np.geomspace(0.02, 0.98, 24)

    def log_e(values, null):
        total = np.full((matches, cap), -np.inf)
        for share in shares:
            money = np.cumsum(np.log1p(share / null * (values - null)), axis=1)
            total = np.logaddexp(total, money)
        return total - np.log(24)

    promote = log_e(outcomes, rule.null) >= np.log(1 / rule.alpha)
    reject = log_e(1 - outcomes, 1 - rule.useful) >= np.log(1 / rule.beta)
    first = [np.where(x.any(axis=1), x.argmax(axis=1), cap) for x in (promote, reject)]
    pairs = np.minimum(*first) + 1
    return (first[0] < first[1]).mean(), (first[1] < first[0]).mean(), pairs


@pytest.mark.parametrize(
    ("won", "promoted", "rejected", "mean_pairs"),
    [
        pytest.param(0.40, 0.001, 1.000, 40, marks=pytest.mark.slow),
        pytest.param(0.45, 0.004, 0.996, 67, marks=pytest.mark.slow),
        (0.50, 0.022, 0.978, 145),
        pytest.param(0.55, 0.420, 0.580, 278, marks=pytest.mark.slow),
        pytest.param(0.60, 0.938, 0.062, 180, marks=pytest.mark.slow),
        pytest.param(0.65, 0.985, 0.015, 84, marks=pytest.mark.slow),
        pytest.param(0.70, 0.997, 0.003, 51, marks=pytest.mark.slow),
        pytest.param(0.80, 1.000, 0.000, 23, marks=pytest.mark.slow),
        pytest.param(0.90, 1.000, 0.000, 13, marks=pytest.mark.slow),
    ],
)
def test_error_rates_power_and_length_are_those_of_the_published_table(
    won, promoted, rejected, mean_pairs
):
    matches = 2000
    shares = verdicts(won, matches=matches)
    for found, expected in zip(shares[:2], (promoted, rejected), strict=True):
        # what 2,000 matches find is binomial, and the published share is of 2,000 as well
        sd = math.sqrt(2 * max(expected * (1 - expected), 1 / matches) / matches)
        assert abs(found - expected) < 3 * sd
    if won <= 0.5:  # the guarantee itself: as many promotions by chance at α = 0.05 never happen
        assert binomtest(round(shares[0] * matches), matches, 0.05, "greater").pvalue > 0.5
    assert shares[2].mean() == pytest.approx(mean_pairs, rel=0.15)


def test_the_simulation_decides_as_the_rule_does():
    for seed in range(5):
        draw = np.random.default_rng(seed).random((1, 300))
        promoted, rejected, pairs = verdicts(0.55, tied=0.1, matches=1, cap=300, seed=seed)
        counts, verdict = Counts(), None
        for value in draw[0]:
            counts = counts.after(1.0 if value < 0.55 else 0.5 if value < 0.65 else 0.0)
            if verdict := Rule().verdict(counts):
                break
        assert verdict == ("promote" if promoted else "reject" if rejected else None)
        if verdict:
            assert counts.pairs == pairs[0]


# The interval


def slow_interval(outcomes, alpha):
    left = []
    for mean in (i / 1000 for i in range(1, 1000)):
        for count in range(len(outcomes) + 1):
            some = outcomes[:count]
            e = math.exp(log_e_values(some, mean)[-1]) if some else 1.0
            other = math.exp(log_e_values([1 - y for y in some], 1 - mean)[-1]) if some else 1.0
            if (e + other) / 2 >= 1 / alpha:
                break
        else:
            left.append(mean)
    return left[0] - 0.001, left[-1] + 0.001


def test_the_interval_is_what_every_look_has_left():
    outcomes = [1, 1, 0.5, 1, 0, 1, 1, 1, 1, 0, 1]
    assert confidence_interval(outcomes) == pytest.approx(slow_interval(outcomes, 0.05))
    assert confidence_interval(outcomes, 0.2) == pytest.approx(slow_interval(outcomes, 0.2))


def test_the_interval_of_nothing_is_everything():
    assert confidence_interval([]) == (0.0, 1.0)


@settings(max_examples=20)
@given(outcomes=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_the_interval_only_ever_shrinks_and_is_symmetric(outcomes):
    earlier = confidence_interval(outcomes[:-1])
    low, high = confidence_interval(outcomes)
    assert earlier[0] - 1e-9 <= low <= high <= earlier[1] + 1e-9
    mirrored = confidence_interval([1 - y for y in outcomes])
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=2e-3)


@pytest.mark.slow  # many intervals
def test_the_interval_misses_the_truth_no_more_often_than_it_says():
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(60):
        low, high = confidence_interval(rng.choice([0.0, 0.5, 1.0], size=50, p=[0.3, 0.2, 0.5]))
        missed += not low <= 0.6 <= high
    assert missed <= 9  # 3 at most are expected; more than 9 of 60 have a probability of 0.1 %


def test_when_nothing_is_left_the_interval_is_the_mean_found():
    outcomes = [1.0] * 60 + [0.0] * 240
    low, high = confidence_interval(outcomes)
    assert (low, high) == (0.2, 0.2) or low < high


def test_outcomes_beyond_the_range_have_no_interval():
    with pytest.raises(ValueError, match="outcomes of pairs lie between 0 and 1"):
        confidence_interval([0.5, 1.5])


# The p-value at any time


@given(outcomes=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=40), null=NULLS)
def test_the_p_value_at_any_time_is_one_over_the_largest_e_value_so_far(outcomes, null):
    counts, largest = Counts(), 1.0
    for outcome in outcomes:
        counts = counts.after(outcome)
        largest = max(largest, slow_e_value(counts, null))
    assert anytime_p(outcomes, null) == pytest.approx(1 / largest, rel=1e-9)


def test_what_was_significant_once_stays_so():
    assert anytime_p([1.0] * 8) == anytime_p([1.0] * 8 + [0.0] * 20) <= 0.05 < anytime_p([1.0] * 7)


# An interval that is asked for again and again, as by a progress line


def counted_pairs(monkeypatch):
    """Returns a list that grows with every pair that a sequence takes in."""
    taken, add = [], sequential.ConfidenceSequence.add
    monkeypatch.setattr(sequential, "_running", sequential._Running())
    monkeypatch.setattr(
        sequential.ConfidenceSequence,
        "add",
        lambda self, outcome: (taken.append(outcome), add(self, outcome))[1],
    )
    return taken


def test_an_interval_after_each_pair_takes_in_each_pair_once(monkeypatch):
    rng = np.random.default_rng(3)
    outcomes = rng.choice([0.0, 0.5, 1.0], size=60).tolist()
    scratch = sequential.confidence_sequence(outcomes, 0.1)
    taken = counted_pairs(monkeypatch)
    for count in range(1, 61):
        assert confidence_interval(outcomes[:count], 0.1) == scratch[count - 1]
        assert confidence_interval(outcomes[:count], 0.1) == scratch[count - 1], "asked again"
    assert taken == outcomes


def test_sequences_side_by_side_and_other_levels_do_not_mix(monkeypatch):
    rng = np.random.default_rng(4)
    games = [rng.choice([0.0, 0.5, 1.0], size=20).tolist() for _ in range(3)]
    alphas = (0.05, 0.2)
    scratch = [[sequential.confidence_sequence(one, alpha) for alpha in alphas] for one in games]
    taken = counted_pairs(monkeypatch)
    for count in range(1, 21):
        for game, expected in zip(games, scratch, strict=True):
            for alpha, sequence in zip(alphas, expected, strict=True):
                assert confidence_interval(game[:count], alpha) == sequence[count - 1]
    assert len(taken) <= 20 * 6 + 20, "but for beginnings that games share"


def test_an_earlier_stand_can_be_asked_for_after_a_later_one(monkeypatch):
    outcomes = [1.0, 0.0, 0.5, 1.0, 1.0]
    scratch = sequential.confidence_sequence(outcomes)
    counted_pairs(monkeypatch)
    assert confidence_interval(outcomes) == scratch[-1]
    assert confidence_interval(outcomes[:2]) == scratch[1]
    assert confidence_interval([]) == (0.0, 1.0)
    assert confidence_interval([*outcomes[:2], 0.0]) != scratch[2]
    assert confidence_interval(outcomes) == scratch[-1]


def test_a_bad_outcome_spoils_no_later_answer(monkeypatch):
    outcomes = [1.0, 1.0, 0.5]
    scratch = sequential.confidence_sequence(outcomes)
    counted_pairs(monkeypatch)
    confidence_interval(outcomes[:2])
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="outcomes of pairs lie between 0 and 1, got"):
            confidence_interval([*outcomes, bad])
    assert confidence_interval(outcomes) == scratch[-1]


def test_only_so_many_sequences_are_kept(monkeypatch):
    counted_pairs(monkeypatch)
    for place in range(100):
        confidence_interval([place / 100])
    assert len(sequential._running._known) == 16


def test_who_is_better_is_asked_of_both_sides_with_half_of_alpha_each():
    for alpha, half in ((0.04, 0.02), (0.5, 0.25)):
        rule = Rule.which_is_better(alpha)
        assert (rule.alpha, rule.beta, rule.null) == (half, half, 0.5)
        assert 0.5 < rule.useful < 0.5 + 1e-6
    assert Rule.which_is_better().alpha == 0.025
    mirrored = {"promote": "reject", "reject": "promote", None: None}
    rule = Rule.which_is_better(0.1)
    for counts in (Counts(9, 0, 0), Counts(30, 4, 10), Counts(5, 5, 5), Counts(0, 1, 0)):
        assert rule.verdict(counts.swapped()) == mirrored[rule.verdict(counts)]


# What mutants of the module survived


def test_a_rule_cannot_be_altered_and_describes_its_fields():
    rule = Rule()
    with pytest.raises(ConfigError, match="'alpha' cannot be changed afterwards"):
        rule.alpha = 0.5
    assert "promoting" in Rule.model_fields["alpha"].description


def test_the_largest_e_value_is_finite_and_says_that_it_is_the_largest():
    for counts in (Counts(10_000, 0, 0), Counts(20_000, 0, 0)):
        assert Rule().evidence(counts).e_value == math.exp(700)
        assert Rule().evidence(counts.swapped()).e_value_futility == math.exp(700)


def test_evidence_that_just_reaches_its_bound_decides():
    promoted = rejected = 0
    for pairs in range(5, 60):
        better = Rule().evidence(Counts(pairs, 0, 0)).e_value
        if 1 / (1 / better) == better > 1:
            promoted += 1
            assert Rule(alpha=1 / better).verdict(Counts(pairs, 0, 0)) == "promote"
        futile = Rule().evidence(Counts(0, 0, pairs)).e_value_futility
        if 1 / (1 / futile) == futile > 1:
            rejected += 1
            assert Rule(beta=1 / futile).verdict(Counts(0, 0, pairs)) == "reject"
    assert promoted > 5
    assert rejected > 5


def test_an_interval_reaches_to_the_very_ends():
    assert confidence_interval([1.0] * 50)[1] == pytest.approx(1.0, abs=1e-12)
    assert confidence_interval([0.0] * 50)[0] == pytest.approx(0.0, abs=1e-12)


def test_a_sequence_has_the_level_of_the_functions_unless_another_is_asked_for(monkeypatch):
    outcomes = [1.0, 0.5, 1.0, 0.0, 1.0]
    running = sequential.ConfidenceSequence()
    assert [running.add(one) for one in outcomes] == sequential.confidence_sequence(outcomes, 0.05)
    taken = counted_pairs(monkeypatch)
    for count in range(1, 6):  # a level that was read from a file is another object each time
        confidence_interval(outcomes[:count], float("0.05"))
    assert taken == outcomes


def test_a_sequence_of_one_level_is_not_gone_on_with_at_another(monkeypatch):
    outcomes = [1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
    counted_pairs(monkeypatch)
    for alpha in (0.2, 0.05, 0.5, 0.01):
        assert (
            confidence_interval(outcomes, alpha)
            == (sequential.confidence_sequence(outcomes, alpha)[-1])
        )
