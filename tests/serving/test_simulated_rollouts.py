"""Rollouts with simulated players: how often equal versions are told apart, and how soon others.

The same simulation shows that it can fail: with pairs in the order of completion, and with all
games of a player, equal versions are told apart far too often.
"""

from collections import Counter

import pytest
from oracles.live_traffic import Traffic, candidate_loses_quickly, candidate_wins_quickly
from scipy.stats import binom
from tiers import quick

from rlarcade.serving import strategies
from rlarcade.serving.pairing import in_order, scored
from rlarcade.serving.settings import RolloutSpec

SPEC = RolloutSpec(strategy="canary", steps=(25, 50, 100), max_pairs=60)
LENGTHS = [candidate_wins_quickly, candidate_loses_quickly]


def ends(runs, spec=SPEC, prepare=lambda traffic: None, **settings):
    """How so many simulated rollouts end."""
    found = Counter()
    for seed in range(runs):
        traffic = Traffic(spec, seed, **settings)
        prepare(traffic)
        found[traffic.run()] += 1
    return found


def most(rate, runs):
    """More cases than this have a probability of one in a thousand at this rate."""
    return binom.isf(1e-3, runs, rate)


def certainly_more(rate, runs):
    """This many cases have a probability below one in a billion at this rate."""
    return binom.isf(1e-9, runs, rate)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("runs", quick([20, 2000], [20], [2000]))
def test_equal_versions_are_seldom_told_apart(runs, length):
    found = ends(runs, length=length, return_rate=0.7)
    assert found["succeed"] <= most(SPEC.alpha, runs)
    assert found["roll_back"] <= most(SPEC.alpha_alarm, runs)
    assert found["pause"] > 0.8 * runs
    assert sum(found.values()) == runs


# Consumers that are wrong, in the same simulation


def completion_order(traffic):
    """Returns a wrong consumer: pairs count in the order in which they are complete."""

    def wrongly_scored(assigned):
        over = [pair for pair in assigned if all(one.number in traffic.ended_at for one in pair)]
        return scored(sorted(over, key=lambda pair: max(traffic.ended_at[g.number] for g in pair)))

    return wrongly_scored


def every_game_of_a_player(games, *, claims=False):
    """A wrong consumer: repeated games of a player count like the first."""
    places = {}
    for one in in_order(games):
        places.setdefault((one.step, one.role), []).append(one)
    return [
        both
        for step in sorted({step for step, _ in places})
        for both in zip(
            places.get((step, "candidate"), ()), places.get((step, "control"), ()), strict=False
        )
    ]


@pytest.mark.parametrize(
    ("length", "mistake", "allowed"),
    [
        (candidate_wins_quickly, "succeed", SPEC.alpha),
        (candidate_loses_quickly, "roll_back", SPEC.alpha_alarm),
    ],
)
def test_in_order_of_completion_quick_games_would_decide(monkeypatch, length, mistake, allowed):
    def prepare(traffic):
        monkeypatch.setattr(strategies, "scored", completion_order(traffic))

    found = ends(40, prepare=prepare, length=length, players=150)
    assert found[mistake] > certainly_more(allowed, 40)


def test_all_games_of_a_player_would_count_one_player_as_many(monkeypatch):
    monkeypatch.setattr(strategies, "matched", every_game_of_a_player)
    found = ends(40, return_rate=0.9)
    assert found["succeed"] > certainly_more(SPEC.alpha, 40)


# Versions that differ

RAMP = RolloutSpec(strategy="canary", steps=(10, 25, 50, 100))
OFTEN = 0.684  # added to scores that are uniform on 0 … 1, it wins 95 % of the pairs


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("runs", quick([15, 300], [15], [300]))
def test_a_candidate_that_wins_95_percent_gets_through(runs, length):
    found = ends(runs, RAMP, length=length, better_by=OFTEN)
    assert found["succeed"] == runs


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("runs", quick([15, 300], [15], [300]))
def test_a_candidate_that_loses_95_percent_comes_back_after_at_least_eleven_pairs(runs, length):
    for seed in range(runs):
        traffic = Traffic(RAMP, seed, length=length, better_by=-OFTEN)
        assert traffic.run() == "roll_back"
        found = strategies.evidence_of(RAMP, 0, traffic.games)
        assert 11 <= found.reached.worse <= 40
        assert found.losses >= 11
