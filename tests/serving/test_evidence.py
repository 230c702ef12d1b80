"""What live games show: which of them count, in which order, and what alarms cost."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_sessions import failed, game, match, rollouts
from oracles.live_games import slow_health, slow_outcomes, slow_sample_ratio

from rlarcade.evaluation.sequential import Counts, Rule, confidence_interval, log_e_value
from rlarcade.serving.evidence import (
    MOST_SCORES,
    Evidence,
    Reached,
    health,
    role_evidence,
    sample_ratio,
)
from rlarcade.serving.pairing import Game, matched, pairs


def outcomes(games, **options):
    return [pair.outcome for pair in pairs(games, **options)]


def numbers(games, **options):
    return [(pair.candidate.number, pair.control.number) for pair in pairs(games, **options)]


# Games


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"state": "ended"}, "a game that is ended cannot have the ending None"),
        ({"ended": "failed"}, "a game that is playing cannot have the ending failed"),
        ({"proven": True}, "a proven game has ended and has a score"),
        ({"proven": True, "score": 5.0}, "a proven game has ended and has a score"),
        (
            {"proven": True, "state": "ended", "ended": "truncated", "score": None},
            "a proven game has ended and has a score",
        ),
        ({"claimed": math.nan}, "finite"),
        ({"score": math.inf}, "finite"),
        ({"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_a_game_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Game(number=0, role="candidate", step=0, key="a", version=2, **{"seed": 1, **fields})


def test_a_game_survives_json():
    for one in (game(1, "control", 3.5, key="ä", group="staff"), failed(2, "candidate", pair=4)):
        assert Game.model_validate_json(one.model_dump_json()) == one


# Which games make a pair


def test_the_kth_game_of_the_candidate_meets_the_kth_of_the_control():
    games = [
        game(0, "candidate", 5.0),
        game(1, "candidate", 1.0),
        game(2, "control", 3.0),
        game(3, "champion", 9.0),
        game(4, "control", 1.0),
        game(5, "control", 1.0),
    ]
    assert numbers(games) == [(0, 2), (1, 4)]
    assert outcomes(games) == [1.0, 0.5]


def test_the_order_of_assignment_decides_and_no_other():
    games = match([1, 0, 0.5, 1])
    assert outcomes(games) == outcomes(games[::-1]) == [1, 0, 0.5, 1]


def test_an_open_pair_holds_back_all_that_come_after_it():
    games = match([1, 0, 1, 1])
    games[2] = game(2, "control")  # the control of the second pair is still playing
    assert outcomes(games) == [1]
    assert len(matched(games)) == 4
    games[2] = game(2, "control", 100.0)
    assert outcomes(games) == [1, 0, 1, 1]


def test_a_step_waits_for_the_pairs_of_the_step_before():
    games = [*match([1, 1]), *match([0, 0], step=1, start=4)]
    games[3] = game(3, "candidate")
    assert outcomes(games) == [1]
    games[3] = game(3, "candidate", 0.0)
    assert outcomes(games) == [1, 0, 0, 0]


def test_games_of_different_steps_make_no_pair():
    games = [game(0, "candidate", 5.0), game(1, "control", 3.0, step=1)]
    assert matched(games) == []
    games += [game(2, "control", 9.0, step=1), game(3, "candidate", 4.0, step=1)]
    assert numbers(games) == [(3, 1)]


def test_only_the_first_game_of_a_key_counts():
    games = [
        game(0, "candidate", 5.0, key="ann"),
        game(1, "candidate", 5.0, key="ann"),
        game(2, "control", 3.0, key="bob"),
        game(3, "control", 9.0, key="bob"),
        game(4, "control", 9.0, key="cid"),
        game(5, "candidate", 1.0, key="dan"),
    ]
    assert numbers(games) == [(0, 2), (5, 4)]


@pytest.mark.parametrize("earlier", ["champion", "control"])
def test_a_player_who_played_for_another_role_before_does_not_count(earlier):
    games = [game(0, earlier, 1.0, key="ann"), game(1, "candidate", 5.0, step=1, key="ann")]
    games += [game(2, "control", 3.0, step=1), game(3, "candidate", 3.0, step=1)]
    assert numbers(games) == [(3, 2)]


def test_a_first_game_that_cannot_count_is_still_the_first():
    games = [
        game(0, "candidate", 5.0, key="ann", seed=None, proven=False),
        game(1, "candidate", 5.0, key="ann"),
        game(2, "control", 3.0),
    ]
    assert matched(games) == []


# What a game is worth


def test_a_game_that_failed_loses_to_any_score_and_two_that_failed_tie():
    games = [
        failed(0, "candidate"), game(1, "control", -1e9),
        game(2, "candidate", -1e9), failed(3, "control"),
        failed(4, "candidate"), failed(5, "control"),
    ]  # fmt: skip
    assert outcomes(games) == [0, 1, 0.5]


def test_a_game_waits_until_the_server_has_replayed_it():
    games = match([1, 1])
    games[0] = game(0, "control", 100.0, proven=False, claimed=1e6)
    assert outcomes(games) == []
    assert outcomes(games, claims=True) == [], "the server gave the seed, so no claim is needed"


@given(games=rollouts(), lie=st.sampled_from([-1e9, 0.0, 1e9]))
def test_a_client_that_lies_or_leaves_changes_nothing(games, lie):
    lying = [
        one.model_copy(update={"claimed": lie, "abandoned": not one.abandoned}) for one in games
    ]
    assert outcomes(lying) == outcomes(games)


def test_games_that_nobody_can_replay_count_only_if_claims_count():
    own = {"seed": None, "proven": False}
    games = [
        game(0, "candidate", 1.0, **own, claimed=9.0),
        game(1, "control", 5.0, **own, claimed=2.0),
        game(2, "candidate", 1.0, **own, claimed=None),
        game(3, "control", 5.0, **own, claimed=-7.0),
        game(4, "candidate", 1.0, **own, claimed=None),
        game(5, "control", 5.0, **own, claimed=None),
        game(6, "candidate", 1.0, claimed=9.0),
        game(7, "control", 5.0),
    ]
    assert numbers(games) == [(6, 7)]
    assert outcomes(games) == [0]
    assert outcomes(games, claims=True) == [1, 0, 0.5, 0]


@settings(max_examples=200)
@given(games=rollouts(), claims=st.booleans(), shuffled=st.randoms())
def test_pairs_are_their_definition_in_any_order_of_the_list(games, claims, shuffled):
    expected = slow_outcomes(games, claims)
    shuffled.shuffle(games)
    assert outcomes(games, claims=claims) == expected


@settings(max_examples=150)
@given(games=rollouts(most=30, keys=100), completion=st.randoms())
def test_whatever_ends_first_the_list_of_pairs_only_grows(games, completion):
    ended = [
        one
        if one.ended == "failed"
        else game(one.number, one.role, 1.0, step=one.step, key=one.key)
        for one in games
    ]
    now = [game(one.number, one.role, step=one.step, key=one.key) for one in ended]
    counting = []
    events = 2 * list(range(len(now)))  # each game ends, and is replayed later
    completion.shuffle(events)
    for place in events:
        over = now[place].state == "ended" or ended[place].ended == "failed"
        now[place] = ended[place].model_copy(update={"proven": over and ended[place].proven})
        later = numbers(now)
        assert later[: len(counting)] == counting
        counting = later
    assert counting == numbers(ended)


# Twins


def twins(number, scored, against, **fields):
    """Two games with one seed, for one player."""
    told = {"pair": number, "seed": 1000 + number, "key": "ann", **fields}
    return [
        game(2 * number, "champion", against, **told),
        game(2 * number + 1, "candidate", scored, **told),
    ]


def test_twins_are_matched_by_the_number_of_their_pair_and_all_count():
    games = [*twins(2, 1.0, 5.0), *twins(0, 5.0, 1.0), *twins(1, 4.0, 4.0)]
    assert outcomes(games) == [1, 0.5, 0]
    assert numbers(games) == [(1, 0), (3, 2), (5, 4)]


def test_an_open_twin_holds_back_the_later_ones():
    games = [*twins(0, None, 1.0), *twins(1, 5.0, 1.0)]
    assert outcomes(games) == []
    assert len(matched(games)) == 2


def test_a_twin_whose_partner_is_not_there_makes_no_pair():
    assert matched([*twins(0, 5.0, 1.0), *twins(1, 5.0, 1.0)[:1]])[0][0].pair == 0
    assert len(matched([*twins(0, 5.0, 1.0), *twins(1, 5.0, 1.0)[1:]])) == 1


@pytest.mark.parametrize("seeds", [(1, 2), (None, None), (None, 2)])
def test_twins_with_two_seeds_are_an_error(seeds):
    games = [
        one.model_copy(update={"seed": seed})
        for one, seed in zip(twins(3, 5.0, 1.0), seeds, strict=True)
    ]
    with pytest.raises(ValueError, match=f"those of pair 3 have {seeds[0]} and {seeds[1]}"):
        pairs(games)


# Errors and slow sessions


@pytest.mark.parametrize(("sessions", "trips"), [(20, 4), (100, 6), (500, 16), (1000, 25)])
def test_the_published_numbers_of_errors_trip_the_alarm(sessions, trips):
    def alarm(errors):  # the errors come last, so that no earlier session trips it
        return health([False] * (sessions - errors) + [True] * errors, 0.01, 0.01)

    assert alarm(trips).alarm
    assert not alarm(trips - 1).alarm
    found = alarm(trips)
    assert (found.sessions, found.bad) == (sessions, trips)
    assert found.e_value == pytest.approx(
        math.exp(log_e_value(Counts(trips, 0, sessions - trips), 0.01))
    )


@settings(max_examples=40)
@given(
    bad=st.lists(st.booleans(), min_size=1, max_size=30), rate=st.sampled_from([0.01, 0.05, 0.2])
)
def test_the_evidence_of_health_is_its_definition(bad, rate):
    path = slow_health(bad, rate)
    found = health(bad, rate, 0.01)
    assert found.e_value == pytest.approx(path[-1], rel=1e-9)
    assert found.largest == pytest.approx(max(path), rel=1e-9)
    assert found.alarm == (max(path) >= 100)


def test_an_alarm_that_was_reached_once_stays():
    trouble = health([True] * 4 + [False] * 10_000, 0.01, 0.01)
    assert trouble.alarm
    assert trouble.e_value < 1 < 100 <= trouble.largest


def test_no_sessions_are_no_alarm():
    assert health([], 0.01, 0.01).model_dump() == {
        "sessions": 0, "bad": 0, "rate": 0.01, "alpha": 0.01, "e_value": 1.0, "largest": 1.0,
        "alarm": False,
    }  # fmt: skip


@given(
    known=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60),
    rate=st.sampled_from([0.01, 0.1]),
)
def test_a_session_that_turns_bad_later_is_never_evidence_too_early(known, rate):
    # at any time, some sessions that will be bad are not yet: the evidence is at most the final one
    so_far = [bad and already for bad, already in known]
    final = [bad for bad, _ in known]
    assert health(so_far, rate, 0.01).largest <= health(final, rate, 0.01).largest * (1 + 1e-12)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_an_acceptable_rate_lies_between_none_and_all(rate):
    with pytest.raises(ValueError, match="lies between 0 and 1, got"):
        health([True], rate, 0.01)


# The shares


@pytest.mark.parametrize(
    ("counts", "shares", "expected"),
    [((9900, 100), (0.99, 0.01), 0.09), ((9800, 200), (0.99, 0.01), 5e15),
     ((5200, 4800), (0.5, 0.5), 274)],
)  # fmt: skip
def test_golden_evidence_against_the_shares(counts, shares, expected):
    assert sample_ratio(counts, shares) == pytest.approx(expected, rel=0.05)


@settings(max_examples=50)
@given(
    order=st.lists(st.integers(0, 2), max_size=40),
    shares=st.sampled_from([(0.5, 0.25, 0.25), (0.98, 0.01, 0.01), (0.2, 0.3, 0.5)]),
)
def test_the_evidence_against_the_shares_is_that_of_an_urn(order, shares):
    counts = Counter(order)
    assert sample_ratio([counts[k] for k in range(3)], shares) == pytest.approx(
        slow_sample_ratio(order, shares), rel=1e-6
    )


@given(
    counts=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    share=st.sampled_from([0.01, 0.3, 0.5]),
)
def test_with_the_planned_shares_one_more_session_is_no_evidence_on_average(counts, share):
    shares = (share, 1 - share)
    now = sample_ratio(counts, shares)
    if now > 1e250:
        return
    first, second = counts
    later = share * sample_ratio((first + 1, second), shares)
    later += (1 - share) * sample_ratio((first, second + 1), shares)
    assert later == pytest.approx(now, rel=1e-6)


def test_a_variant_without_a_share_has_no_sessions():
    assert sample_ratio([50, 50, 0], [0.5, 0.5, 0.0]) == sample_ratio([50, 50], [0.5, 0.5])
    assert sample_ratio([50, 50, 1], [0.5, 0.5, 0.0]) == math.exp(700)
    assert sample_ratio([0, 0], [0.5, 0.5]) == pytest.approx(1)


def test_overwhelming_evidence_against_the_shares_stays_finite():
    assert sample_ratio([100_000, 0], [0.01, 0.99]) == math.exp(700)


@pytest.mark.parametrize(("counts", "shares"), [([1], [0.5, 0.5]), ([1, 2], [0.5, 0.4])])
def test_counts_and_shares_that_do_not_fit_are_refused(counts, shares):
    with pytest.raises(ValueError, match=f"{len(counts)} counts need as many shares"):
        sample_ratio(counts, shares)


# The document


def test_a_role_is_counted_by_its_games():
    games = [
        game(2, "candidate", 5.0, slow=True),
        game(0, "candidate", 1.0, abandoned=True),
        failed(1, "candidate", score=3000.0, proven=True),
        game(3, "candidate"),
        game(4, "candidate", 9.0, proven=False),
        game(5, "control", 7.0, errors=True),
    ]
    assert role_evidence(games, "candidate").model_dump() == {
        "role": "candidate", "sessions": 5, "games": 4, "failed": 1, "abandoned": 1, "errors": 1,
        "slow": 1, "mean": 3.0, "scores": (1.0, 5.0),
    }  # fmt: skip
    assert role_evidence(games, "champion").mean is None


def test_a_role_lists_its_last_thousand_scores():
    many = [game(number, "control", float(number)) for number in range(MOST_SCORES + 5)]
    found = role_evidence(many, "control")
    assert found.scores == tuple(float(number) for number in range(5, MOST_SCORES + 5))
    assert found.mean == (MOST_SCORES + 4) / 2


def evidence(played, rule=None):
    return Evidence(
        rule=rule or Rule(),
        alpha_alarm=0.01,
        step=0,
        roles=(role_evidence(match(played), "candidate"),),
        outcomes=tuple(map(float, played)),
        waiting=0,
        repeated=0,
        tried=len(played),
        errors=health([], 0.01, 0.01),
        slowness=None,
        sample_ratio=1.0,
    )


@settings(max_examples=40)
@given(played=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=40))
def test_evidence_of_pairs_is_that_of_a_match(played):
    found = evidence(played)
    counts = Counts(played.count(1), played.count(0.5), played.count(0))
    assert (found.counts, found.pairs) == (counts, len(played))
    assert (found.wins, found.ties, found.losses) == counts
    expected = Rule().evidence(counts)
    assert found.e_value == pytest.approx(expected.e_value)
    assert found.e_value_futility == pytest.approx(expected.e_value_futility)
    assert found.e_value_worse == pytest.approx(math.exp(log_e_value(counts.swapped())))
    assert found.interval == confidence_interval(played)
    assert len(found.history) == len(played) + 1 == len(found.history_worse)
    for place in range(len(played) + 1):
        some = evidence(played[:place])
        assert found.history[place] == pytest.approx(some.e_value)
        assert found.history_worse[place] == pytest.approx(some.e_value_worse)


def test_a_bound_that_was_reached_once_counts_whatever_comes_later():
    assert evidence([1] * 7).reached == Reached(None, None, None)
    assert evidence([1] * 8).reached == Reached(8, None, None)
    assert evidence([1] * 8 + [0] * 7).reached.better == 8
    assert evidence([0] * 10).reached.worse is None
    assert evidence([0] * 11 + [1] * 9).reached.worse == 11
    first = next(n for n in range(1, 50) if Rule().verdict(Counts(0, 0, n)) == "reject")
    assert evidence([0] * 20).reached.futile == first


def test_evidence_survives_json_with_what_it_derives():
    found = evidence([1, 0.5, 0, 1])
    assert Evidence.model_validate_json(found.model_dump_json()) == found
    told = found.model_dump(mode="json")
    assert (told["pairs"], told["wins"], told["ties"], told["losses"]) == (4, 2, 1, 1)
    assert told["history"][-1] == told["e_value"]


def test_a_role_without_games_has_zeros():
    assert evidence([1]).role("candidate").sessions == 1
    assert evidence([1]).role("control").sessions == 0
