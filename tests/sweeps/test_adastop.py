"""Which arms differ: decided as the paper's algorithm in plain loops, with the stated error."""

from itertools import combinations, product

import numpy as np
import pytest
from tiers import quick

import rlarcade.sweeps.adastop as adastop
from rlarcade.errors import ConfigError
from rlarcade.sweeps.adastop import Decision, Rule, decide

AB = [("a", "b")]


@pytest.fixture
def few_permutations(monkeypatch):
    """Of many random ones, a simulation needs fewer."""
    adastop._signs.cache_clear()
    monkeypatch.setattr(adastop, "_PERMUTATIONS", 1_000)
    yield
    adastop._signs.cache_clear()


def split(values, seeds, rounds, chosen):
    """Returns the results of two arms: those `chosen` of each round's values are the first's."""
    first, second = [], []
    for k in range(rounds):
        block = values[k * 2 * seeds : (k + 1) * 2 * seeds]
        first += [block[i] for i in chosen[k]]
        second += [block[i] for i in range(2 * seeds) if i not in chosen[k]]
    return {"a": first, "b": second}


def in_plain_loops(scores, pairs, seeds, max_rounds, alpha):
    """The paper's Algorithm 1 with all permutations, written for reading."""
    subsets = list(combinations(range(2 * seeds), seeds))
    decided, undecided = {}, list(pairs)

    def statistic(pair, rounds, chosen):
        total = 0
        for k in range(rounds):
            block = [*scores[pair[0]][k * seeds :][:seeds], *scores[pair[1]][k * seeds :][:seeds]]
            total += sum(x if i in chosen[k] else -x for i, x in enumerate(block))
        return total

    actual = (tuple(range(seeds)),) * max_rounds
    for k in range(1, max_rounds + 1):
        while undecided:
            sequences, gone = list(product(subsets, repeat=max_rounds)), 0
            found = None
            for look in range(1, k + 1):
                largest = {
                    one: max(abs(statistic(pair, look, one)) for pair in undecided)
                    for one in sequences
                }
                allowed = alpha * look / max_rounds * len(subsets) ** max_rounds - gone
                bound = next(
                    value
                    for value in sorted(largest.values())
                    if sum(other > value for other in largest.values()) <= allowed + 1e-9
                )
                if largest[actual] > bound:
                    found = look
                    break
                gone += sum(value > bound for value in largest.values())
                sequences = [one for one in sequences if largest[one] <= bound]
            if found is None:
                break
            best = max(undecided, key=lambda pair: abs(statistic(pair, found, actual)))
            word = "better" if statistic(best, found, actual) > 0 else "worse"
            decided[best] = Decision(word, k)
            undecided.remove(best)
    return {pair: decided.get(pair, Decision()) for pair in pairs}


# One look at two arms: the permutation test of every textbook


def test_of_70_equally_likely_orders_two_are_called_different():
    """Four results of each arm, all eight different. At 5 % three of 70 orders may exceed the
    bound. Orders come in pairs with the arms exchanged, so two do."""
    values = [3, 1, 4, 15, 9, 2, 6, 53]
    rule = Rule(seeds=4, max_rounds=1, alpha=0.05)
    verdicts = [
        decide(split(values, 4, 1, [chosen]), AB, rule).decisions["a", "b"].verdict
        for chosen in combinations(range(8), 4)
    ]
    assert len(verdicts) == 70
    assert sorted(filter(None, verdicts)) == ["better", "worse"]


def test_over_two_looks_at_most_alpha_of_all_orders_are_called_different():
    values = [3, 1, 4, 15, 9, 2, 65, 35, 8, 97, 93, 23]
    rule = Rule(seeds=3, max_rounds=2, alpha=0.1)
    subsets = list(combinations(range(6), 3))
    different = [
        decide(split(values, 3, 2, chosen), AB, rule).decisions["a", "b"].verdict is not None
        for chosen in product(subsets, repeat=2)
    ]
    assert len(different) == 400
    assert 20 <= sum(different) <= 40


# with some of these, a permutation that exceeded an earlier bound would change the outcome
@pytest.mark.parametrize("seed", [0, 1, 2, 10, 28, 30, 63, 65])
@pytest.mark.parametrize(("seeds", "max_rounds", "alpha"), [(2, 3, 0.35), (3, 2, 0.2)])
def test_three_arms_are_decided_as_by_the_algorithm_in_plain_loops(seed, seeds, max_rounds, alpha):
    generator = np.random.default_rng(seed)
    shift = {"a": 0, "b": 0, "c": 4}
    scores = {
        arm: (generator.integers(-3, 4, seeds * max_rounds) + by).tolist()
        for arm, by in shift.items()
    }
    pairs = list(combinations("abc", 2))
    found = decide(scores, pairs, Rule(seeds, max_rounds, alpha)).decisions
    assert found == in_plain_loops(scores, pairs, seeds, max_rounds, alpha)


# What is asked


def test_arms_without_overlap_are_decided_after_the_first_round():
    scores = {"a": [1.0, 2, 3, 4, 5], "b": [11.0, 12, 13, 14, 15], "c": [21.0, 22, 23, 24, 25]}
    outcome = decide(scores, list(combinations("abc", 2)), Rule(5, 5, 0.05))
    assert outcome.rounds == 1
    assert outcome.asked == ()
    assert set(outcome.decisions.values()) == {Decision("worse", 1)}
    turned = decide(scores, [("c", "a")], Rule(5, 5, 0.05))
    assert turned.decisions == {("c", "a"): Decision("better", 1)}


def test_only_arms_of_undecided_pairs_are_asked_again():
    scores = {"a": [1.0, 2, 3, 4, 5], "b": [1.5, 2.5, 3.5, 2.2, 4.4], "c": [91.0, 92, 93, 94, 95]}
    pairs = list(combinations("abc", 2))
    rule = Rule(5, 3, 0.05)
    outcome = decide(scores, pairs, rule)
    assert (outcome.rounds, outcome.asked) == (1, ("a", "b"))
    assert outcome.decisions["a", "c"] == outcome.decisions["b", "c"] == Decision("worse", 1)
    scores = {"a": scores["a"] * 3, "b": scores["b"] * 3, "c": scores["c"]}
    outcome = decide(scores, pairs, rule)
    assert (outcome.rounds, outcome.asked) == (3, ())
    assert outcome.decisions["a", "b"] == Decision()


def test_before_the_first_round_every_arm_is_asked():
    outcome = decide({"a": [], "b": [], "c": []}, [("a", "c"), ("b", "c")], Rule(5, 5, 0.05))
    assert (outcome.rounds, outcome.asked) == (0, ("a", "c", "b"))


def test_results_of_a_round_that_is_not_complete_decide_nothing():
    rule = Rule(3, 4, 0.2)
    first = {"a": [1.0, 5, 2], "b": [3.0, 4, 1]}
    more = {"a": [*first["a"], 900.0, 900, 900], "b": [*first["b"], 1.0, 2]}
    assert decide(more, AB, rule) == decide(first, AB, rule)
    assert decide(first, AB, rule).asked == ("a", "b")


def test_equal_results_are_never_called_different():
    outcome = decide({"a": [7.0] * 10, "b": [7.0] * 10}, AB, Rule(5, 2, 0.5))
    assert outcome.decisions == {("a", "b"): Decision()}


def test_scores_of_any_size_are_decided_alike():
    """Sums that were added in another order differ in their last digits, and count as equal."""
    scores = {"a": [0.1, 0.2, 0.3], "b": [0.3, 0.1, 0.2]}
    for factor in (1e-12, 1.0, 1e12):
        scaled = {arm: [1e6 + x * factor for x in values] for arm, values in scores.items()}
        assert decide(scaled, AB, Rule(3, 1, 0.5)).decisions == {("a", "b"): Decision()}


def test_a_rule_that_can_show_nothing_is_refused():
    Rule(seeds=4, max_rounds=1, alpha=0.05)
    with pytest.raises(ConfigError, match=r"1 rounds of 3 seeds cannot show .* probability 0.1\."):
        Rule(seeds=3, max_rounds=1, alpha=0.05)


# The family-wise error


ARMS = {
    "two": {"a": "normal", "b": "normal"},
    "four": {"a": "normal", "b": "normal", "c": "normal", "d": "normal"},
    "two of two each": {"a": "normal", "b": "normal", "c": "far", "d": "far"},
    "heavy tails": {"a": "heavy", "b": "heavy", "c": "heavy"},
    "unequal spread": {"a": "wide", "b": "normal", "c": "normal"},
}


@pytest.mark.parametrize("name", quick(ARMS, (), set(ARMS) - {"two"}))
def test_equal_arms_are_called_different_at_most_alpha_of_the_time(few_permutations, name):
    arms = ARMS[name]
    draw = {
        "normal": lambda generator: generator.normal(size=20),
        "far": lambda generator: generator.normal(10, 1, size=20),
        "heavy": lambda generator: generator.standard_cauchy(size=20),
        "wide": lambda generator: generator.normal(0, 3, size=20),
    }
    generator = np.random.default_rng(0)
    pairs, rule = list(combinations(arms, 2)), Rule(5, 4, 0.1)
    equal = [pair for pair in pairs if "far" not in {arms[pair[0]], arms[pair[1]]}]
    equal += [pair for pair in pairs if arms[pair[0]] == arms[pair[1]] == "far"]
    wrong, matches = 0, 1_000
    for _ in range(matches):
        scores = {arm: draw[kind](generator).tolist() for arm, kind in arms.items()}
        decisions = decide(scores, pairs, rule).decisions
        wrong += any(decisions[pair].verdict is not None for pair in equal)
    assert wrong / matches <= 0.1 + 3 * (0.1 * 0.9 / matches) ** 0.5


@pytest.mark.slow
def test_a_difference_of_two_deviations_is_found(few_permutations):
    generator = np.random.default_rng(1)
    rule = Rule(5, 4, 0.05)
    outcomes = [
        decide(
            {"a": generator.normal(2, 1, 20).tolist(), "b": generator.normal(size=20).tolist()},
            AB,
            rule,
        )
        for _ in range(300)
    ]
    found = [outcome.decisions["a", "b"].verdict == "better" for outcome in outcomes]
    assert np.mean(found) > 0.95
    assert np.mean([outcome.rounds for outcome in outcomes]) < 3
