"""What a rollout does next, and why: every strategy, by its rules and by numbers from elsewhere."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_sessions import failed, game, match, rollouts

from rlarcade.errors import ConfigError
from rlarcade.evaluation.sequential import Rule
from rlarcade.serving import strategies
from rlarcade.serving.settings import RolloutSpec
from rlarcade.serving.strategies import Decision, evidence_of, plan_of

CHAMPION, CANDIDATE = 1, 2
CANARY = RolloutSpec(strategy="canary", steps=(10, 50, 100))
SPECS = {
    "big-bang": RolloutSpec(strategy="big-bang"),
    "phased": RolloutSpec(strategy="phased", phases=("staff", "beta")),
    "shadow": RolloutSpec(strategy="parallel", mode="shadow"),
    "twin": RolloutSpec(strategy="parallel", mode="twin"),
    "rolling": RolloutSpec(strategy="rolling", replicas=3),
    "canary": CANARY,
    "ab": RolloutSpec(strategy="ab"),
}


def judge(spec, step, games, paused=False, **options):
    return strategies.judge(spec, evidence_of(spec, step, games), paused, **options)


def kind(*args, **options):
    return judge(*args, **options).kind


def why(*args, **options):
    return judge(*args, **options).why


def alone(count, *, step=0, start=0, **fields):
    """Candidate games without a control, ended well."""
    return [game(start + n, "candidate", 1.0, step=step, **fields) for n in range(count)]


def ramp(*outcomes_of_steps):
    """Matched games of several steps."""
    games = []
    for step, outcomes in enumerate(outcomes_of_steps):
        games += match(outcomes, step=step, start=len(games))
    return games


# Settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "slowly"}, "'strategy' must be 'big-bang', 'phased', 'parallel'"),
        ({"strategy": "canary", "step": (5, 100)}, "unknown setting 'step'. Did you mean 'steps'"),
        (
            {"strategy": "big-bang", "steps": (10, 100)},
            "steps has no effect in the strategy big-bang. Leave it out, or choose the strategy "
            "canary",
        ),
        ({"strategy": "canary", "phases": ("a",)}, "phases has no effect in the strategy canary"),
        ({"strategy": "ab", "mode": "twin"}, "mode has no effect in the strategy ab"),
        ({"strategy": "canary", "share": 0.3}, "share has no effect in the strategy canary"),
        ({"strategy": "phased", "replicas": 3}, "replicas has no effect in the strategy phased"),
        ({"strategy": "rolling", "min_sessions": 3}, "choose the strategy phased or canary or par"),
        ({"strategy": "rolling", "alpha": 0.1}, "alpha has no effect in the strategy rolling"),
        ({"strategy": "ab", "max_pairs": 50}, "max_pairs has no effect in the strategy ab"),
        ({"strategy": "ab", "non_inferiority": 0.1}, "non_inferiority has no effect in the stra"),
        ({"strategy": "phased", "gate_on_claims": True}, "gate_on_claims has no effect in the "),
        ({"strategy": "canary", "cut": "now"}, "cut has no effect in the strategy canary"),
        (
            {"strategy": "canary", "steps": (100,)},
            "got 100. To switch at once, choose the strategy",
        ),
        ({"strategy": "canary", "steps": ()}, "end with 100, such as 10, 50, 100; got none"),
        ({"strategy": "canary", "steps": (5, 5, 100)}, "rising percentages .* got 5, 5, 100"),
        ({"strategy": "canary", "steps": (50, 10, 100)}, "rising percentages .* got 50, 10, 100"),
        ({"strategy": "canary", "steps": (10, 50)}, "rising percentages .* got 10, 50"),
        ({"strategy": "canary", "steps": (0, 100)}, "rising percentages .* got 0, 100"),
        ({"strategy": "canary", "steps": (10, 100, 200)}, "rising percentages .* got 10, 100, 200"),
        ({"strategy": "canary", "steps": (math.nan, 100)}, "rising percentages .* got nan, 100"),
        ({"strategy": "phased", "phases": ("a", "a")}, r"each phase is another group .*'a', 'a'"),
        ({"strategy": "phased", "phases": ("a", "")}, "each phase is another group with a name"),
        ({"strategy": "parallel"}, "a parallel rollout needs its mode: shadow or twin"),
        (
            {"strategy": "parallel", "mode": "shadow", "non_inferiority": 0.1},
            "a shadow has no score that non_inferiority could judge. Choose the mode twin",
        ),
        (
            {"strategy": "canary", "max_pairs": 7},
            r"max_pairs \(7\) is too small: at alpha 0.05, even a candidate that wins every pair "
            "needs 8. Raise max_pairs or alpha",
        ),
        ({"strategy": "canary", "max_pairs": 5, "non_inferiority": 0.1}, "every pair needs 6"),
        ({"strategy": "canary", "max_pairs": 10, "alpha": 0.01}, "every pair needs 11"),
        ({"strategy": "canary", "alpha": 0.0}, "'alpha' must be at least 1e-09"),
        ({"strategy": "canary", "alpha_alarm": 1.0}, "'alpha_alarm' must be below 1"),
        ({"strategy": "canary", "error_rate": 0.0}, "'error_rate' must be at least 1e-09"),
        ({"strategy": "canary", "slow_rate": 1.0}, "'slow_rate' must be below 1"),
        ({"strategy": "canary", "slow_seconds": 0.0}, "'slow_seconds' must be above 0"),
        ({"strategy": "canary", "quiet_seconds": -1.0}, "'quiet_seconds' must be above 0"),
        ({"strategy": "canary", "min_sessions": 0}, "'min_sessions' must be at least 1"),
        ({"strategy": "canary", "non_inferiority": 0.5}, "'non_inferiority' must be below 0.5"),
        ({"strategy": "ab", "share": 1.0}, "'share' must be below 1"),
        ({"strategy": "rolling", "replicas": 0}, "'replicas' must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_with_a_remedy(values, message):
    with pytest.raises(ConfigError, match=message):
        RolloutSpec(**values)


def test_settings_cannot_be_changed_explain_themselves_and_survive_json():
    for spec in SPECS.values():
        assert RolloutSpec.model_validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ConfigError, match="'alpha' cannot be changed afterwards"):
        CANARY.alpha = 0.5
    for name, field in RolloutSpec.model_fields.items():
        assert field.description, name


def test_the_defaults_are_those_of_the_issue():
    spec = RolloutSpec(strategy="canary")
    assert spec.steps == (1, 5, 25, 50, 100)
    assert (spec.min_sessions, spec.alpha, spec.alpha_alarm, spec.error_rate) == (
        10, 0.05, 0.01, 0.01
    )  # fmt: skip
    assert (spec.cut, spec.gate_on_claims, spec.non_inferiority) == ("drain", False, None)


@pytest.mark.parametrize("name", ["alpha", "alpha_alarm", "error_rate", "slow_rate", "share"])
def test_shares_are_no_smaller_than_a_float_can_invert(name):
    strategy = "ab" if name == "share" else "canary"
    with pytest.raises(ConfigError, match=f"'{name}' must be at least 1e-09, not 5e-324"):
        RolloutSpec(strategy=strategy, **{name: 5e-324})
    assert getattr(RolloutSpec(strategy=strategy, **{name: 1e-9}), name) == 1e-9


def test_the_rule_is_that_of_a_match():
    assert CANARY.rule == Rule(alpha=0.05, null=0.5)
    easy = RolloutSpec(strategy="canary", non_inferiority=0.1, alpha=0.02)
    assert easy.rule == Rule.non_inferiority(0.1, alpha=0.02)
    assert SPECS["ab"].rule == Rule.which_is_better(0.05)
    assert SPECS["twin"].rule == Rule()


# Plans


def shares(spec, step):
    plan = plan_of(spec, step, CHAMPION, CANDIDATE, "salt")
    assert {v.role: v.version for v in plan.variants} == {
        "champion": CHAMPION, "candidate": CANDIDATE,
        **({"control": CHAMPION} if plan.variant("control") else {}),
    }  # fmt: skip
    return tuple(
        round(plan.variant(role).share, 9) if plan.variant(role) else None
        for role in ("champion", "control", "candidate")
    )


def test_a_canary_has_a_control_as_large_as_itself_while_there_is_room():
    spec = RolloutSpec(strategy="canary", steps=(1, 5, 25, 50, 80, 100))
    assert [shares(spec, step) for step in range(6)] == [
        (0.98, 0.01, 0.01),
        (0.90, 0.05, 0.05),
        (0.50, 0.25, 0.25),
        (0.00, 0.50, 0.50),
        (0.00, 0.20, 0.80),
        (0.00, None, 1.00),
    ]


def test_an_experiment_has_fixed_shares():
    assert shares(RolloutSpec(strategy="ab"), 0) == (0, 0.5, 0.5)
    assert shares(RolloutSpec(strategy="ab", share=0.2), 0) == (0.6, 0.2, 0.2)
    assert shares(RolloutSpec(strategy="ab", share=0.7), 0) == (0, 0.3, 0.7)


def test_a_big_bang_is_one_step_for_all_and_a_parallel_candidate_has_no_share():
    assert shares(SPECS["big-bang"], 0) == (0, None, 1)
    assert shares(SPECS["shadow"], 0) == shares(SPECS["twin"], 0) == (1, None, 0)


def test_a_rolling_rollout_has_a_share_per_replaced_worker():
    assert [shares(SPECS["rolling"], step)[2] for step in range(3)] == [
        pytest.approx(1 / 3), pytest.approx(2 / 3), 1
    ]  # fmt: skip


def test_phases_add_one_group_after_the_other():
    plans = [plan_of(SPECS["phased"], step, CHAMPION, CANDIDATE, "salt") for step in (0, 1)]
    assert [plan.groups for plan in plans] == [("staff",), ("staff", "beta")]
    assert shares(SPECS["phased"], 0) == (0, None, 1)
    assert plan_of(CANARY, 0, CHAMPION, CANDIDATE, "salt").groups is None


@pytest.mark.parametrize("name", SPECS)
def test_a_rollout_has_only_its_own_steps(name):
    spec = SPECS[name]
    for step in (-1, spec.num_steps):
        with pytest.raises(ValueError, match=f"has no step {step}"):
            plan_of(spec, step, CHAMPION, CANDIDATE, "salt")
        with pytest.raises(ValueError, match=f"has no step {step}"):
            evidence_of(spec, step, [])


# Canary


def test_a_canary_starts_by_waiting():
    assert judge(CANARY, 0, []) == Decision(
        kind="stay",
        why="0 of 10 candidate sessions of different players that step 1 needs have ended.",
    )


def test_a_step_needs_its_sessions_and_no_alarm():
    games = ramp([1, 0] * 4 + [1])
    assert kind(CANARY, 0, games) == "stay"
    games += match([0], start=100)
    assert judge(CANARY, 0, games) == Decision(
        kind="advance", why="10 candidate sessions of step 1 ended without alarm."
    )


def test_sessions_of_an_earlier_step_do_not_count_for_the_next():
    games = ramp([1] * 12)
    assert kind(CANARY, 0, games) == "advance"
    assert why(CANARY, 1, games).startswith(
        "0 of 10 candidate sessions of different players that step 2"
    )


def test_sessions_of_the_champion_are_no_sessions_of_the_candidate():
    games = [game(n, "champion", 5.0) for n in range(50)]
    assert why(CANARY, 0, games).startswith("0 of 10")


def test_a_session_without_a_partner_does_not_count_for_a_step_with_a_control():
    # else a quick loss could end the step before it gets a partner, and would never count
    games = ramp([1] * 9) + alone(5, start=100)
    assert why(CANARY, 0, games).startswith("9 of 10")
    games.append(game(200, "control"))  # it need not have ended
    assert kind(CANARY, 0, games) == "advance"


def test_before_all_the_sessions_the_candidate_must_be_proven_better():
    drawn = ramp([1] * 10, [0] * 7 + [1] * 3)
    assert kind(CANARY, 0, drawn[:20]) == "advance"
    games = ramp([1, 0] * 5, [1] * 10)
    assert judge(CANARY, 1, games) == Decision(
        kind="stay",
        why="The candidate needs an e-value of 20: it won 15, tied 0 and lost 5 of 20 pairs, with "
        f"an e-value of {evidence_of(CANARY, 1, games).e_value:.3g}.",
    )
    games = ramp([1, 0] * 5, [1] * 15)  # golden value: 20 wins at 5 losses
    assert kind(CANARY, 1, games) == "advance"
    assert "won 20, tied 0 and lost 5 of 25 pairs" in why(CANARY, 1, games)
    assert kind(CANARY, 1, games[:-2]) == "stay"


def test_quality_is_asked_only_before_all_the_sessions():
    spec = RolloutSpec(strategy="canary", steps=(1, 5, 25, 50, 100))
    games = ramp([1, 0] * 5, [0, 1] * 5, [1, 0] * 5, [0, 1] * 5)
    kinds = [kind(spec, step, [g for g in games if g.step <= step]) for step in range(4)]
    assert kinds == ["advance", "advance", "advance", "stay"]


def test_pairs_of_all_steps_count_together():
    assert kind(CANARY, 1, ramp([1] * 10, [1] * 10)) == "advance"
    assert evidence_of(CANARY, 1, ramp([1] * 10, [1, 0.5, 0])).counts == (11, 1, 1)


def test_a_proof_that_was_reached_once_counts_even_if_the_e_value_falls():
    games = ramp([1] * 10, [0] * 5 + [1] * 5)
    assert evidence_of(CANARY, 1, games).e_value < 20
    assert kind(CANARY, 1, games) == "advance"


def test_a_reason_tells_the_largest_e_value_even_if_it_fell_later():
    proven = ramp([1] * 10, [0] * 5 + [1] * 5)
    assert f"the e-value reached {_e(10, 0):.3g} (20 is needed)" in why(CANARY, 1, proven)
    alarming = ramp([0] * 11 + [1] * 20)
    assert f"the e-value reached {_e(11, 0):,.0f} (alarm at 100)" in why(CANARY, 0, alarming)


def test_pairs_that_are_assigned_and_do_not_count_yet_are_waiting():
    games = ramp([1, 1, 1])
    games[2] = game(2, "control")
    assert (evidence_of(CANARY, 0, games).pairs, evidence_of(CANARY, 0, games).waiting) == (1, 2)


def test_at_all_the_sessions_it_bakes_and_succeeds():
    games = ramp([1] * 10, [1] * 10)
    assert why(CANARY, 2, games).startswith("0 of 10")
    games += alone(9, step=2, start=100)
    assert kind(CANARY, 2, games) == "stay"
    games += alone(1, step=2, start=200)
    decision = judge(CANARY, 2, games)
    assert decision.kind == "succeed"
    assert decision.why == (
        "10 candidate sessions of step 3 ended without alarm; the candidate won 20, tied 0 and "
        f"lost 0 of 20 pairs, and the e-value reached {_e(20, 0):,.3g} (20 is needed)."
    )


def _e(wins, losses):
    """The e-value by its definition."""
    bets = [2 * 0.02 * (0.98 / 0.02) ** (k / 23) for k in range(24)]
    return sum((1 + b / 2) ** wins * (1 - b / 2) ** losses for b in bets) / 24


def test_ten_games_of_one_player_are_one_session():
    games = ramp([1] * 10, [1] * 10) + alone(10, step=2, start=100, key="ann")
    assert why(CANARY, 2, games).startswith("1 of 10")


def test_players_who_come_back_are_told_where_they_do_not_count():
    games = [*ramp([1]), *alone(3, start=10, key="player-1"), game(20, "champion", 1.0, key="a")]
    games.append(game(21, "champion", 1.0, key="a"))
    assert why(CANARY, 0, games).endswith(
        "1 of 10 candidate sessions of different players that step 1 needs have ended (3 games of "
        "returning players do not count)."
    )


def test_all_the_sessions_without_proof_never_succeed():
    games = ramp([1, 0] * 5, [0, 1] * 5) + alone(50, step=2, start=100)
    assert kind(CANARY, 2, games) == "stay"


def test_eleven_lost_pairs_are_the_fewest_that_raise_the_alarm():
    # 11 is the published number of straight wins at alpha = 0.01, here from the champion's side
    assert kind(CANARY, 0, ramp([0] * 10)) == "stay"
    decision = judge(CANARY, 0, ramp([0] * 11))
    assert decision.kind == "roll_back"
    assert decision.why == (
        "The candidate is worse than the champion: it won 0, tied 0 and lost 11 of 11 pairs, and "
        f"the e-value reached {_e(11, 0):,.0f} (alarm at 100); the candidate touched 11 games."
    )


@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_alarm_of_the_pairs_is_heard_at_every_step(step):
    games = ramp([0] * 11, [1] * 30)
    assert kind(CANARY, step, games) == "roll_back"


def test_one_step_can_have_all_that_another_lacks_and_an_alarm_still_wins():
    games = ramp([1] * 10, [0] * 40)
    assert evidence_of(CANARY, 1, games).reached.better == 8
    assert kind(CANARY, 1, games) == "roll_back"


def test_a_candidate_that_is_not_usefully_better_holds_its_step_until_more_is_known():
    games = ramp([0] * 10)
    assert evidence_of(CANARY, 0, games).reached.futile == 5
    assert judge(CANARY, 0, games) == Decision(
        kind="stay",
        why="The candidate is not usefully better so far: it won 0, tied 0 and lost 10 of 10 "
        "pairs.",
    )
    lucky = ramp([0] * 5 + [1] * 15)  # golden value: 20 wins at 5 losses
    assert kind(CANARY, 0, lucky) == "stay"
    assert kind(CANARY, 0, [*lucky, *match([1] * 5, start=100)]) == "advance"


def test_a_candidate_that_is_not_usefully_better_pauses_after_its_pairs_at_any_step():
    spec = RolloutSpec(strategy="canary", max_pairs=300)
    games = ramp([0.5, 0, 0.5, 1] * 74 + [0.5, 0, 0.5])
    assert kind(spec, 0, games) == "stay"
    games += match([1], start=1000)
    decision = judge(spec, 0, games)
    assert decision.kind == "pause"
    assert re.fullmatch(
        r"The test is inconclusive: the candidate won 75, tied 150 and lost 75 of 300 pairs, and "
        r"the e-value is 0\.\d+ \(20 is needed\); the champion may stay\.",
        decision.why,
    )


def test_with_non_inferiority_an_equal_candidate_passes():
    spec = RolloutSpec(strategy="canary", steps=(10, 50, 100), non_inferiority=0.1)
    games = ramp([1, 0] * 30, [0, 1] * 60)  # golden values: at 100 losses, 102 wins are not enough
    assert kind(spec, 1, games) == "stay"
    games = ramp([1, 0] * 30, [0.5] * 200)
    assert kind(spec, 1, games) == "advance"
    assert kind(CANARY, 1, games) == "stay"


def test_with_non_inferiority_nothing_holds_a_candidate_that_is_not_better():
    spec = RolloutSpec(strategy="canary", steps=(10, 50, 100), non_inferiority=0.1)
    games = ramp([0] * 7 + [1] * 3)
    assert evidence_of(spec, 0, games).reached.futile
    assert kind(spec, 0, games) == "advance"
    assert kind(CANARY, 0, games) == "stay"
    assert kind(spec, 0, ramp([0] * 11)) == "roll_back"


def test_an_undecided_test_pauses_after_its_pairs():
    spec = RolloutSpec(strategy="canary", steps=(10, 50, 100), max_pairs=20)
    games = ramp([1, 0, 1] * 4, [1, 0] * 3 + [1])
    assert evidence_of(spec, 1, games).reached.futile is None
    assert kind(spec, 1, games) == "stay"
    games += match([0], step=1, start=500)
    decision = judge(spec, 1, games)
    assert decision.kind == "pause"
    assert decision.why.startswith(
        "The test is inconclusive: the candidate won 12, tied 0 and lost 8 of 20 pairs, and the "
        "e-value is "
    )
    assert decision.why.endswith("(20 is needed); the champion may stay.")


def test_a_proof_leaves_nothing_undecided_however_many_pairs_there_are():
    spec = RolloutSpec(strategy="canary", steps=(10, 50, 100), max_pairs=20, min_sessions=12)
    games = ramp([1] * 12, [1] * 11)
    assert why(spec, 1, games).startswith("11 of 12 candidate sessions")
    assert kind(spec, 1, games) == "stay"


def test_the_limit_of_pairs_holds_only_where_quality_is_asked():
    spec = RolloutSpec(strategy="canary", steps=(1, 10, 50, 100), max_pairs=20, min_sessions=22)
    games = ramp([1, 0, 1] * 7)
    assert kind(spec, 0, games) == "stay"
    assert kind(spec, 2, games) == "pause"


def test_a_rollout_that_was_resumed_gets_as_many_pairs_again():
    spec = RolloutSpec(strategy="canary", steps=(10, 50, 100), max_pairs=20)
    games = ramp([1, 0] * 5, [1, 0] * 5)
    assert kind(spec, 1, games) == "pause"
    assert kind(spec, 1, games, resumed_after=20) == "stay"
    games += match([1, 0] * 10, step=1, start=500)
    assert kind(spec, 1, games, resumed_after=20) == "pause"


def test_no_traffic_pauses_and_never_promotes():
    spec = RolloutSpec(strategy="canary", quiet_seconds=600.0)
    assert kind(spec, 0, [], quiet_for=599.0) == "stay"
    decision = judge(spec, 0, [], quiet_for=1200.0)
    assert decision == Decision(
        kind="pause",
        why="No game has come for 1,200 seconds: 0 of 10 candidate sessions of different players "
        "that step 1 needs have ended.",
    )


def test_a_step_that_has_all_it_needs_does_not_wait_for_more_traffic():
    assert kind(CANARY, 0, ramp([1] * 10), quiet_for=1e6) == "advance"


def test_a_pause_of_no_traffic_ends_with_the_traffic():
    assert kind(CANARY, 0, [], quiet_for=3600.0) == "pause"
    assert kind(CANARY, 0, ramp([1]), quiet_for=0.0) == "stay"


def test_a_paused_rollout_moves_only_by_an_alarm():
    assert judge(CANARY, 0, ramp([1] * 10), paused=True) == Decision(
        kind="stay", why="An operator paused the rollout."
    )
    assert kind(CANARY, 0, [], paused=True, quiet_for=1e6) == "stay"
    assert kind(CANARY, 0, ramp([0] * 11), paused=True) == "roll_back"


def test_claims_move_a_canary_only_if_they_count():
    own = {"seed": None, "proven": False}
    games = [
        game(n, role, 0.0, claimed=claim, step=n // 20, **own)
        for n, (role, claim) in enumerate([("candidate", 9.0), ("control", 1.0)] * 20)
    ]
    assert kind(CANARY, 1, games) == "stay"
    trusting = RolloutSpec(strategy="canary", steps=(10, 50, 100), gate_on_claims=True)
    assert kind(trusting, 1, games) == "advance"


# Health, in every strategy


@pytest.mark.parametrize("name", SPECS)
def test_errors_roll_back_in_every_strategy(name):
    spec = SPECS[name]
    games = alone(16) + [failed(n, "candidate") for n in range(16, 20)]
    for step in range(spec.num_steps):
        decision = judge(spec, step, games)
        assert decision.kind == "roll_back"
    assert re.match(
        r"4 of 20 candidate sessions had errors: the e-value against a share of at most 0.01 "
        r"reached [\d,]+ \(alarm at 100\); the candidate touched 20 games\.$",
        decision.why,
    )
    assert kind(spec, 0, games[:-2]) != "roll_back"


def test_an_error_counts_while_its_game_is_still_playing():
    games = [game(n, "candidate", errors=True) for n in range(4)]
    assert kind(CANARY, 0, games) == "roll_back"


def test_errors_of_the_champion_are_none_of_the_candidate():
    games = [failed(n, role) for n in range(20) for role in ("champion", "control")]
    assert kind(CANARY, 0, games) == "stay"


def test_slow_sessions_roll_back():
    games = [game(n, "candidate", slow=True) for n in range(10)]
    assert "candidate sessions took more than 0.25 seconds a step" in why(CANARY, 0, games)
    assert kind(CANARY, 0, games) == "roll_back"
    patient = RolloutSpec(strategy="canary", slow_seconds=None)
    assert kind(patient, 0, games) == "stay"
    assert evidence_of(patient, 0, games).slowness is None


def test_the_acceptable_rates_are_settings():
    games = alone(16) + [failed(n, "candidate") for n in range(16, 20)]
    assert kind(RolloutSpec(strategy="canary", error_rate=0.2), 0, games) == "stay"
    assert kind(RolloutSpec(strategy="canary", alpha_alarm=1e-6), 0, games) == "stay"
    slow = [game(n, "candidate", slow=n >= 16) for n in range(20)]
    assert kind(RolloutSpec(strategy="canary", slow_rate=0.01), 0, slow) == "roll_back"
    assert kind(RolloutSpec(strategy="canary", slow_rate=0.2), 0, slow) == "stay"


# The shares


@pytest.mark.parametrize("name", ["canary", "ab"])
def test_sessions_that_miss_their_shares_pause(name):
    games = [game(n, "candidate") for n in range(10)]
    games += [game(n, "control") for n in range(10, 60)]
    decision = judge(SPECS[name], 0, games)
    assert decision.kind == "pause"
    assert decision.why.startswith(
        "Sessions do not reach the candidate and the control with the planned shares"
    )
    assert kind(SPECS[name], 0, games[:25]) == "stay"


def test_the_shares_are_counted_anew_at_each_step_and_by_player():
    games = [game(n, "control") for n in range(60)]
    games += [game(n, "control", step=1, key="ann") for n in range(100, 160)]
    assert evidence_of(CANARY, 0, games).sample_ratio > 100
    assert evidence_of(CANARY, 1, games).sample_ratio < 2
    assert evidence_of(CANARY, 2, games).sample_ratio == 1


def test_a_control_that_is_smaller_by_plan_is_no_wrong_share():
    spec = RolloutSpec(strategy="canary", steps=(80, 100))
    games = [game(n, "control" if n % 5 == 0 else "candidate") for n in range(500)]
    assert evidence_of(spec, 0, games).sample_ratio < 1


# The other strategies


def test_a_big_bang_succeeds_as_soon_as_the_candidate_is_ready():
    assert judge(SPECS["big-bang"], 0, []) == Decision(
        kind="succeed", why="The candidate is ready."
    )


def test_a_phase_needs_sessions_of_its_own_group():
    spec = SPECS["phased"]
    games = alone(9, group="staff")
    assert kind(spec, 0, games) == "stay"
    games += alone(1, start=50, group="staff")
    assert kind(spec, 0, games) == "advance"
    assert kind(spec, 1, games) == "stay"
    games += alone(30, step=1, start=100, group="staff")
    assert why(spec, 1, games).startswith("0 of 10")
    games += alone(10, step=1, start=200, group="beta")
    assert kind(spec, 1, games) == "succeed"


def test_a_rolling_rollout_moves_on_whenever_a_worker_is_replaced():
    spec = SPECS["rolling"]
    assert [kind(spec, step, []) for step in range(3)] == ["advance", "advance", "succeed"]
    assert why(spec, 1, []) == "2 of 3 replicas are replaced."


def test_a_shadow_never_moves_by_itself():
    games = alone(200)
    decision = judge(SPECS["shadow"], 0, games)
    assert decision.kind == "stay"
    assert decision.why == (
        "A shadow has no scores, so the rollout goes on until somebody ends it."
    )
    assert kind(SPECS["shadow"], 0, games, quiet_for=1e6) == "pause"


def twins(outcomes):
    games = []
    for number, outcome in enumerate(outcomes):
        told = {"pair": number, "seed": number, "key": "ann"}
        games.append(game(2 * number, "champion", 100.0, **told))
        games.append(game(2 * number + 1, "candidate", 50.0 + 100 * outcome, **told))
    return games


def test_twins_decide_like_a_canary_even_for_one_player():
    spec = SPECS["twin"]
    assert kind(spec, 0, twins([1] * 9)) == "stay"
    assert kind(spec, 0, twins([1] * 10)) == "succeed"
    assert kind(spec, 0, twins([1, 0] * 5)) == "stay"
    assert kind(spec, 0, twins([0] * 10)) == "stay"
    assert kind(spec, 0, twins([0] * 11)) == "roll_back"
    assert kind(spec, 0, twins([0.5] * 10 + [1, 0] * 150)) == "stay"
    assert kind(spec, 0, twins([0.5] * 100 + [1, 0] * 150)) == "pause"
    assert evidence_of(spec, 0, twins([1, 0])).repeated == 0


def test_an_experiment_never_moves_by_itself_whatever_it_finds():
    spec = SPECS["ab"]
    assert why(spec, 0, ramp([1, 0])) == (
        "The experiment goes on until somebody decides; not enough data: the candidate won 1, tied "
        "0 and lost 1 of 2 pairs."
    )
    for outcome, word in ((1, "better"), (0, "worse")):
        games = ramp([outcome] * 30)
        decision = judge(spec, 0, games)
        assert decision.kind == "stay"
        assert f"enough data: the candidate is {word}, it won {30 * outcome}," in decision.why
    assert kind(spec, 0, ramp([1, 0] * 400)) == "stay"


def test_the_first_finding_of_an_experiment_stands():
    games = ramp([1] * 12 + [0] * 200)
    assert "the candidate is better" in why(SPECS["ab"], 0, games)
    games = ramp([0] * 12 + [1] * 200)
    assert "the candidate is worse" in why(SPECS["ab"], 0, games)


# Killed and started again


@settings(max_examples=100)
@given(
    games=rollouts(), shuffled=st.randoms(), name=st.sampled_from(sorted(SPECS)),
    paused=st.booleans(), quiet=st.sampled_from([0.0, 1e5]),
)  # fmt: skip
def test_the_decision_is_a_function_of_the_games_in_any_order(games, shuffled, name, paused, quiet):
    spec = SPECS[name]
    first = [judge(spec, step, games, paused, quiet_for=quiet) for step in range(spec.num_steps)]
    shuffled.shuffle(games)
    stored = [type(one).model_validate_json(one.model_dump_json()) for one in games]
    again = [judge(spec, step, stored, paused, quiet_for=quiet) for step in range(spec.num_steps)]
    assert first == again


@settings(max_examples=60)
@given(
    outcomes=st.lists(st.sampled_from([0, 0.5, 1]), min_size=8, max_size=40),
    completion=st.randoms(),
    alarming=st.booleans(),
)
def test_what_was_decided_on_the_way_is_decided_at_the_end_whatever_ends_first(
    outcomes, completion, alarming
):
    if alarming:
        outcomes = [0] * 11 + outcomes
    ended = ramp(outcomes)
    now = [game(one.number, one.role) for one in ended]
    order = list(range(len(now)))
    completion.shuffle(order)
    seen = [kind(CANARY, 0, now)]
    for place in order:
        now[place] = ended[place]
        seen.append(kind(CANARY, 0, now))
    final = kind(CANARY, 0, ended)
    assert seen[-1] == final
    if "roll_back" in seen:
        assert set(seen[seen.index("roll_back") :]) == {"roll_back"}
    assert (final == "roll_back") == (evidence_of(CANARY, 0, ended).reached.worse is not None)
