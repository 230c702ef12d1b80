"""A match over several games: the published error rates, and guards against a single bad game."""

import json
import math

import numpy as np
import pytest
from made_up_results import slow_e_value
from scipy.stats import binomtest
from scripted_games import Script, play_instead

from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.evaluation import PairResult, Rule
from rlarcade.evaluation.documents import Comparison, Side
from rlarcade.evaluation.sequential import log_e_values
from rlarcade.evaluation.suite import SUITE_RULE, SuiteComparison, compare_suite
from rlarcade.games import get_protocol
from rlarcade.playing import EpisodeResult, Player, RandomPlayer

SHORT = get_protocol("v5").model_copy(
    update={"name": "mine", "frame_cap": 120, "evaluation_epsilon": 0.3}
)


def pair(outcome, seed=0):
    scores = {1.0: (0.0, 1.0), 0.5: (0.0, 0.0), 0.0: (1.0, 0.0)}[outcome]
    return PairResult(
        **{
            side: EpisodeResult(seed=seed, score=score, steps=1, ended="terminated")
            for side, score in zip(("champion", "candidate"), scores, strict=True)
        }
    )


PAIRS = {outcome: pair(outcome) for outcome in (0.0, 0.5, 1.0)}


def suite(outcomes, guard="prove", max_rounds=400, rule=SUITE_RULE, margin=0.10):
    """Of outcomes (rounds, games)."""
    contestant = Side(checkpoint="x", version=None)
    matches = [
        Comparison.model_construct(
            champion=contestant,
            candidate=contestant,
            game=f"game {index}",
            protocol=SHORT,
            rule=Rule.non_inferiority(margin),
            seed=0,
            same_dice=True,
            max_pairs=max_rounds,
            notes=(),
            results=tuple(PAIRS[float(outcome)] for outcome in column),
        )
        for index, column in enumerate(np.asarray(outcomes).T)
    ]
    return SuiteComparison.model_construct(
        rule=rule, guard=guard, margin=margin, max_rounds=max_rounds, matches=tuple(matches)
    )


def simulated(shares, guard, runs=80, max_rounds=400):
    """Share of matches promoted, and how many runs there were."""
    rng = np.random.default_rng(7)
    verdicts = [
        suite(rng.random((max_rounds, len(shares))) < shares, guard, max_rounds).verdict
        for _ in range(runs)
    ]
    return verdicts.count("promote"), runs


def agrees(found, published):
    count, runs = found
    return binomtest(count, runs, published).pvalue > 1e-3


# The figures of 5 games that were published for this test (shares of 2,000 matches).


@pytest.mark.parametrize(("share", "published"), [(0.50, 0.013), (0.55, 0.635), (0.60, 0.995)])
def test_the_mean_over_games_promotes_as_often_as_published(share, published):
    assert agrees(simulated([share] * 5, "none"), published)


@pytest.mark.parametrize(
    ("guard", "published"), [("none", 0.845), ("alarm", 0.125), ("prove", 0.0005)]
)
def test_a_game_that_collapsed_is_caught_as_often_as_published(guard, published):
    assert agrees(simulated([0.2, 0.65, 0.65, 0.65, 0.65], guard), published)


@pytest.mark.parametrize(("guard", "published"), [("none", 0.995), ("prove", 0.995)])
def test_an_even_gain_passes_the_guard(guard, published):
    assert agrees(simulated([0.6] * 5, guard), published)


def test_to_prove_promotes_a_game_that_is_worse_by_the_margin_at_most_at_alpha():
    count, runs = simulated([0.4, 0.8, 0.8], "prove", runs=100)
    assert binomtest(count, runs, 0.05, alternative="greater").pvalue > 1e-3


# What it is made of


@pytest.mark.parametrize("guard", ["none", "alarm", "prove"])
def test_a_verdict_is_the_first_in_time_of_a_plain_loop(guard):
    rng = np.random.default_rng(3)
    for shares in ([0.5, 0.5], [0.7, 0.6], [0.9, 0.2], [0.3, 0.4], [0.6, 0.6]):
        outcomes = rng.choice([0.0, 0.5, 1.0], size=(80, 2))
        outcomes = np.where(rng.random((80, 2)) < shares, 1.0, outcomes * (outcomes < 1))
        assert suite(outcomes, guard, max_rounds=80).verdict == slow_verdict(outcomes, guard, 80)


def slow_verdict(outcomes, guard, max_rounds):
    """The oracle: look after every round, with the e-values of that moment."""
    proven, better = set(), False

    def e(values, null):
        return math.exp(log_e_values(values, null)[-1])

    for count in range(1, len(outcomes) + 1):
        so_far = outcomes[:count]
        means = so_far.mean(axis=1).tolist()
        better = better or e(means, 0.5) >= 20
        for game, column in enumerate(so_far.T.tolist()):
            if e(column, 0.4) >= 20:
                proven.add(game)
        worse = any(e([1 - y for y in c], 0.5) >= 40 for c in so_far.T.tolist())
        if e([1 - mean for mean in means], 0.42) >= 10 or (guard == "alarm" and worse):
            return "reject"
        if better and (guard != "prove" or len(proven) == outcomes.shape[1]):
            return "promote"
    return "inconclusive" if len(outcomes) >= max_rounds else None


@pytest.mark.parametrize(("guard", "null", "bound"), [("prove", 0.4, 20), ("alarm", 0.5, 40)])
def test_what_was_reached_is_told_with_the_round_and_stays_reached(guard, null, bound):
    rng = np.random.default_rng(4)
    outcomes = rng.choice([0.0, 0.5, 1.0], size=(60, 2), p=[0.1, 0.2, 0.7])
    outcomes[:, 1] = 1 - outcomes[:, 1]
    outcomes[20:] = 1 - outcomes[20:]  # what was reached would not be reached at the end
    match = suite(outcomes, guard)

    def path(column, null):
        return [slow_e_value(column[:count], null) for count in range(len(column) + 1)]

    def first(values, bound):
        return next((count for count, value in enumerate(values) if value >= bound), None)

    columns = [c if guard == "prove" else [1 - y for y in c] for c in outcomes.T.tolist()]
    means = outcomes.mean(axis=1).tolist()
    better, futile = path(means, 0.5), path([1 - mean for mean in means], 0.42)
    guards = [path(column, null) for column in columns]
    assert [one.e_value for one in match.history] == pytest.approx(better)
    assert [one.e_value_futility for one in match.history] == pytest.approx(futile)
    assert match.guard_bound == bound
    for shown, expected in zip(match.guard_histories, guards, strict=True):
        assert shown == pytest.approx(expected)
    reached = tuple(first(values, bound) for values in guards)
    assert match.reached == (first(better, 20), first(futile, 10), reached)
    assert any(
        after is not None and values[-1] < bound
        for after, values in zip(reached, guards, strict=True)
    )


def test_without_rounds_there_is_no_evidence():
    empty = suite(np.zeros((0, 3)))
    assert (empty.rounds, empty.e_value, empty.e_value_futility) == (0, 1, 1)
    assert empty.guards == (1, 1, 1)
    assert empty.history == [(1, 1)]
    assert empty.guard_histories == [[1]] * 3
    assert empty.reached == (None, None, (None, None, None))
    assert (empty.verdict, empty.improvement_probability) == (None, None)


def test_a_round_counts_as_much_as_its_mean():
    outcomes = [[1, 0, 0.5], [1, 1, 0.5], [0, 0, 0]]
    match = suite(outcomes)
    assert match.means == pytest.approx([0.5, 2.5 / 3, 0])
    assert match.improvement_probability == pytest.approx(np.mean(outcomes))


# Real games


def mover(game, name):
    """Plays by the pixels."""
    actions = {"pong": 6, "breakout": 4}[game]
    return Player(
        lambda observation: int(observation.astype(np.int64).sum() % actions),
        game=game,
        protocol=SHORT,
        name=name,
        version=name,
    )


def games():
    return [(mover(game, "mover"), RandomPlayer(game, SHORT)) for game in ("pong", "breakout")]


@pytest.mark.usefixtures("real_games")
def test_real_games_are_played_the_same_in_any_lanes():
    one, many = (compare_suite(games(), max_rounds=2, num_lanes=lanes) for lanes in (1, 3))
    assert one == many
    assert [match.game for match in one.matches] == ["pong", "breakout"]


def test_every_round_has_a_pair_of_each_game_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    play_instead(monkeypatch, Script(lambda game: (game.seed % 7, 1.0), 4))
    expected = compare_suite(games(), max_rounds=5)
    assert expected.rounds == 5
    assert [match.game for match in expected.matches] == ["pong", "breakout"]

    def stop(newest):
        if newest.rounds == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_suite(games(), max_rounds=5, record=tmp_path, on_round=stop)
    told = []
    again = compare_suite(games(), max_rounds=5, record=tmp_path, on_round=told.append)
    assert again == expected
    assert [one.rounds for one in told] == [3, 4, 5]


@pytest.mark.parametrize(
    "changed",
    [
        {"guard": "none"},
        {"rule": SUITE_RULE.model_copy(update={"alpha": 0.2})},
        {"games": games()[:1]},
        {"games": [games()[0], (mover("breakout", "other"), RandomPlayer("breakout", SHORT))]},
    ],
    ids=["guard", "rule", "fewer games", "another version"],
)
def test_a_suite_keeps_its_guard_and_its_games_to_the_end(tmp_path, monkeypatch, changed):
    play_instead(monkeypatch, Script(lambda game: (game.seed % 7, 1.0), 4))
    compare_suite(games(), max_rounds=2, record=tmp_path)
    with pytest.raises(RunFolderError, match="record of another match, with another .*suite"):
        compare_suite(
            changed.get("games", games()),
            max_rounds=5,
            record=tmp_path,
            **{name: value for name, value in changed.items() if name != "games"},
        )


def test_a_suite_of_the_same_versions_is_inconclusive_at_once(monkeypatch):
    play_instead(monkeypatch, None)
    suite = compare_suite(
        [(mover(game, "same"), mover(game, "same")) for game in ("pong", "breakout")]
    )
    assert (suite.verdict, suite.rounds) == ("inconclusive", 0)
    assert [match.notes for match in suite.matches] == [
        ("both are the same version: they can only tie",)
    ] * 2


def test_a_game_with_the_same_version_on_both_sides_is_told(monkeypatch):
    play_instead(monkeypatch, Script(lambda game: (1.0, 1.0), 4))
    both = [*games()[:1], (mover("breakout", "same"), mover("breakout", "same"))]
    suite = compare_suite(both, max_rounds=2)
    assert suite.rounds == 2
    assert "both are the same version" not in str(suite.matches[0].notes)
    assert suite.matches[1].notes[0] == "both are the same version: they can only tie"


def test_all_games_with_a_human_score_are_summed_up_for_both_sides():
    # human-normalised: Pong (score + 20.7) / 35.3; of Pac-Man no human score is published
    played = suite([[1.0, 0.0], [0.0, 1.0]])
    one, other = played.matches
    games = (one.model_copy(update={"game": "pong"}), other.model_copy(update={"game": "pacman"}))
    known = played.model_copy(update={"matches": games}).human_normalized
    assert known["candidate"].iqm == pytest.approx((20.7 + 21.7) / 2 / 35.3)
    assert known["candidate"].optimality_gap == pytest.approx(1 - known["candidate"].iqm)
    assert suite([[1.0, 0.0]]).human_normalized == {}, "games that nobody measured"
    assert suite(np.zeros((0, 2))).human_normalized == {}


def test_a_suite_is_the_same_after_a_round_trip_through_json():
    match = compare_suite(games(), max_rounds=2, guard="alarm")
    document = json.loads(match.model_dump_json())
    assert SuiteComparison.model_validate(document) == match
    assert {"verdict", "rounds", "e_value", "guards", "interval"} <= set(document)


def test_suites_that_cannot_be_played_are_refused():
    one = (RandomPlayer("pong", SHORT), mover("pong", "mover"))
    for games_ in ([], [one, one]):
        with pytest.raises(ConfigError, match="a suite has each game once"):
            compare_suite(games_)
    for settings in ({"max_rounds": 0}, {"num_lanes": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            compare_suite([one], **settings)
    with pytest.raises(ConfigError, match="champion plays pong, the candidate breakout"):
        compare_suite([(one[0], mover("breakout", "mover"))])
    with pytest.raises(ValueError, match="margin of non-inferiority"):
        compare_suite([one], margin=0.6)
