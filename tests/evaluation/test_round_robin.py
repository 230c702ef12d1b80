"""Everybody against everybody: who is better than whom, from either side."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from scripted_games import Script, play_instead

from rlarcade.errors import ConfigError
from rlarcade.evaluation import Rule
from rlarcade.evaluation.round_robin import RoundRobin, compare_all
from rlarcade.evaluation.sequential import Counts, log_e_values
from rlarcade.playing import Player
from rlarcade.reports.lines import round_robin_lines

SKILL = {"idler": 0.0, "one": 5.0, "two": 5.0}


def player(name):
    return Player(lambda observation: 0, game="pong", name=name, version=name)


def score_of(game):
    """Fixed, but for the one player who scores now less, now more than "one" does."""
    return SKILL.get(game.player.name, 5.0 + (-1) ** game.seed), 1.0


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    play_instead(monkeypatch, Script(score_of, lanes=4))


@pytest.fixture
def table() -> RoundRobin:
    return compare_all([player(name) for name in ("idler", "one", "other")], max_pairs=30)


def test_who_is_better_is_found_from_either_side(table):
    assert table.players == ("idler", "one", "other")
    assert [(m.champion.checkpoint, m.candidate.checkpoint) for m in table.matches] == [
        ("idler", "one"),
        ("idler", "other"),
        ("one", "other"),
    ]
    assert table.better(1, 0)
    assert not table.better(0, 1)
    assert table.share(1, 0) == 1
    assert table.share(0, 1) == 0
    assert not table.better(1, 2)
    assert not table.better(2, 1)
    for one, other in ((0, 2), (1, 2)):
        assert table.share(one, other) + table.share(other, one) == pytest.approx(1)
        assert not (table.better(one, other) and table.better(other, one))


def test_the_table_shows_rows_against_columns(table):
    lines = round_robin_lines(table)
    row = next(line for line in lines if line.strip().startswith("1 ") and "*" in line)
    assert row.split()[1:3] == ["1.00*", "–"]
    assert f"of {sum(match.pairs for match in table.matches)} in all" in lines[-1]
    assert "error probability of at most 0.05 per pairing" in lines[-1]


def test_a_table_is_the_same_after_a_round_trip_through_json(table):
    document = json.loads(table.model_dump_json())
    assert RoundRobin.model_validate(document) == table


def test_between_equals_a_winner_is_named_in_five_of_a_hundred_matches_at_most():
    rng, rule, named = np.random.default_rng(5), Rule.which_is_better(0.05), 0
    for _ in range(400):
        outcomes = rng.integers(0, 2, 300)
        better = log_e_values(outcomes, rule.null) >= np.log(1 / rule.alpha)
        worse = log_e_values(1 - outcomes, 1 - rule.useful) >= np.log(1 / rule.beta)
        named += bool((better | worse).any())
    assert binomtest(named, 400, 0.05, alternative="greater").pvalue > 1e-3
    assert named > 0, "the bound is not met by never deciding"


def test_the_two_directions_are_alike():
    rule = Rule.which_is_better()
    for counts in (Counts(3, 1, 9), Counts(20, 0, 4), Counts(0, 5, 12)):
        there, back = rule.evidence(counts), rule.evidence(counts.swapped())
        assert there.e_value == pytest.approx(back.e_value_futility, rel=1e-5)


def test_matches_are_kept_and_go_on(tmp_path):
    players = [player(name) for name in ("idler", "one", "two")]
    told = []

    def stop(place, newest):
        told.append((place, newest.pairs))
        if place == 1 and newest.pairs == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_all(players, max_pairs=2, record=tmp_path, on_pair=stop)
    assert told == [(0, 1), (0, 2), (1, 1)]
    told.clear()
    table = compare_all(
        players, max_pairs=2, record=tmp_path, on_pair=lambda p, m: told.append((p, m.pairs))
    )
    assert told == [(1, 2), (2, 1), (2, 2)]
    assert table == compare_all(players, max_pairs=2)
    assert table.share(1, 2) == 0.5, "two who play alike"


def test_one_alone_is_no_round_robin():
    with pytest.raises(ConfigError, match="needs two players or more, got 1"):
        compare_all([player("idler")])
    with pytest.raises(ValueError, match="alpha must be a number above 0 and below 1, not 2.5"):
        Rule.which_is_better(2.5)
