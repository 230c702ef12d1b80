"""Pipelines: from a version to a champion, whatever happens on the way."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from promoting import play_by_strength, saved_agent
from promoting import quick_gate as gate_with
from sqlalchemy import update

from rlarcade.errors import ConfigError, RegistryError, RunFolderError, StaleError
from rlarcade.evaluation.record import RecordInUseError
from rlarcade.promotion import pipeline as pipelines
from rlarcade.promotion import submissions
from rlarcade.promotion.gate import GateVerdict
from rlarcade.promotion.pipeline import approve, deny, run_pipeline, verdict_of
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry import tables
from rlarcade.registry.registry import Registry
from rlarcade.registry.states import TRANSITIONS


def quick_gate(**parts):
    """Without the check that needs an emulator."""
    return gate_with(smoke={"enabled": False}, **parts)


class House:
    """A registry with a champion and two that are better."""

    def __init__(self, folder, monkeypatch):
        self.registry = Registry.open(folder / "registry")
        paths = [saved_agent(folder / f"agent{seed}", seed) for seed in range(4)]
        self.champion, self.better, self.best, self.worse = map(self.registry.register, paths)
        self.registry.move_alias(
            "pong", "champion", self.champion.number, expected_generation=0, kind="set"
        )
        self.script = play_by_strength(
            monkeypatch,
            {
                "random": 0,
                self.champion.digest: 1,
                self.better.digest: 2,
                self.best.digest: 3,
                self.worse.digest: 0.5,
            },
        )

    def run(self, version, mode, **settings):
        gate = settings.pop("gate", quick_gate())
        return run_pipeline(self.registry, version, mode, gate, actor="tester", **settings)

    @property
    def crowned(self):
        return self.registry.alias("pong").version


@pytest.fixture
def house(tmp_path, monkeypatch):
    made = House(tmp_path, monkeypatch)
    yield made
    made.registry.close()


# What the modes do


def test_continuous_integration_checks_and_changes_nothing(house):
    current = house.run(house.better, "ci")
    assert (current.state, current.mode, current.over) == ("passed", "ci", True)
    assert house.crowned == house.champion.number
    assert verdict_of(house.registry, current).outcome == "passed"


@pytest.mark.parametrize("mode", ["ci", "delivery", "deployment", "promote"])
def test_a_worse_version_is_rejected_in_every_mode(house, mode):
    current = house.run(house.worse, mode)
    assert (current.state, current.over) == ("rejected", True)
    assert house.crowned == house.champion.number


def test_an_undecided_match_is_inconclusive_and_the_champion_stays(house):
    current = house.run(house.better, "deployment", gate=quick_gate(match={"max_pairs": 3}))
    assert (current.state, house.crowned) == ("inconclusive", house.champion.number)


def test_continuous_delivery_waits_for_a_person_who_promotes(house):
    current = house.run(house.better, "delivery")
    assert (current.state, current.over) == ("awaiting_approval", False)
    assert house.crowned == house.champion.number
    done = approve(house.registry, house.better, by="ada", note="looks good")
    assert (done.state, house.crowned) == ("promoted", house.better.number)
    (said,) = done.approvals
    assert (said.by, said.decision, said.note) == ("ada", "approve", "looks good")
    bound = (said.version, said.verdict, said.champion_generation)
    assert bound == (house.better.digest, current.verdict, 1)
    move = house.registry.history("pong")[-1]
    assert (move.kind, move.actor, move.verdict) == ("promote", "ada", current.verdict)
    verdict = house.registry.get_document(move.verdict, GateVerdict)
    assert (verdict.version, verdict.outcome) == (house.better.digest, "passed")


def test_a_person_who_says_no_ends_it(house):
    house.run(house.better, "delivery")
    done = deny(house.registry, house.better, by="ada", note="too slow")
    assert (done.state, done.note, done.over) == ("denied", "too slow", True)
    assert house.crowned == house.champion.number
    with pytest.raises(RegistryError, match="awaits no approval: its last submission is denied"):
        approve(house.registry, house.better, by="bob", note="")
    assert house.run(house.better, "delivery").state == "denied", "asking again asks nobody again"


def test_as_many_people_as_the_gate_asks_for_must_agree_each_once(house):
    gate = quick_gate(approvals={"required": 2})
    house.run(house.better, "delivery", gate=gate)
    for _ in range(2):
        waiting = approve(house.registry, house.better, by="ada", note="yes")
        assert waiting.state == "awaiting_approval"
    assert len(waiting.approvals) == 1
    done = approve(house.registry, house.better, by="bob", note="yes")
    assert (done.state, house.crowned) == ("promoted", house.better.number)
    assert {said.by for said in done.approvals} == {"ada", "bob"}


def test_continuous_deployment_promotes_by_itself_in_the_name_of_the_policy(house):
    current = house.run(house.better, "deployment")
    assert (current.state, house.crowned) == ("promoted", house.better.number)
    assert house.registry.history("pong")[-1].actor == f"policy:{current.gate[:12]}"


def test_continuous_deployment_has_nobody_to_approve(house):
    gate = quick_gate(approvals={"required": 1})
    with pytest.raises(ConfigError, match=r"requires 1 approvals.*--mode delivery"):
        house.run(house.better, "deployment", gate=gate)


def test_a_person_promotes_alone_unless_the_gate_asks_for_others(house):
    assert house.run(house.better, "promote").state == "promoted"
    assert house.registry.history("pong")[-1].actor == "tester"
    gate = quick_gate(approvals={"required": 1})
    assert house.run(house.best, "promote", gate=gate).state == "awaiting_approval"
    assert house.crowned == house.better.number


def test_another_release_can_take_the_place_of_moving_the_alias_at_once(house):
    seen = []

    def rollout(registry, approved, actor):
        seen.append((approved.state, approved.version, actor))
        return pipelines.move_alias_at_once(registry, approved, actor)

    house.run(house.better, "deployment", release=rollout)
    assert [state for state, *_ in seen] == ["approved"]
    house.run(house.best, "delivery")
    approve(house.registry, house.best, by="ada", note="", release=rollout)
    assert seen[1] == ("approved", house.best.number, "ada")


# What is asked twice


@pytest.mark.parametrize("mode", ["ci", "delivery", "deployment", "promote"])
def test_the_same_call_again_returns_the_same_and_plays_nothing(house, mode):
    first = house.run(house.better, mode)
    begun = house.script.begun
    if mode in ("ci", "delivery"):  # the others have moved the champion on
        assert house.run(house.better, mode) == first
    assert house.script.begun == begun
    assert len(submissions_of(house.registry, version=house.better.number)) == 1


def test_a_submission_is_the_same_only_for_the_same_gate_mode_and_champion(house):
    house.run(house.better, "ci")
    house.run(house.better, "ci", gate=quick_gate(match={"max_pairs": 100}))
    house.run(house.better, "delivery")
    house.run(house.best, "deployment")
    house.run(house.better, "ci")
    found = submissions_of(house.registry, version=house.better.number)
    assert [one.mode for one in found] == ["ci", "delivery", "ci", "ci"]
    assert found[0].champion == house.best.number
    assert found[0].state == "rejected", "what was better than the last champion need not be now"


def test_the_champion_is_told_how_it_became_one_and_is_not_played_again(house):
    promoted = house.run(house.better, "deployment")
    begun = house.script.begun
    for mode in ("ci", "delivery", "deployment", "promote"):
        assert house.run(house.better, mode) == promoted
    assert house.script.begun == begun
    house.registry.rollback("pong")
    with pytest.raises(RegistryError, match="champion of pong already. It was promoted by force"):
        house.run(house.champion, "promote")


def test_what_was_said_already_can_be_said_again(house):
    house.run(house.better, "delivery")
    promoted = approve(house.registry, house.better, by="ada", note="yes")
    assert approve(house.registry, house.better, by="ada", note="yes") == promoted
    house.run(house.best, "delivery")
    denied = deny(house.registry, house.best, by="ada", note="no")
    assert deny(house.registry, house.best, by="ada", note="no") == denied
    assert len(house.registry.history("pong")) == 2


def test_a_game_whose_champion_was_taken_away_gets_one_by_the_gate(house):
    house.registry.move_alias("pong", "champion", None, expected_generation=1, kind="set")
    current = house.run(house.worse, "deployment")
    assert (current.state, current.champion_generation) == ("promoted", 2)
    assert house.crowned == house.worse.number


# What happens meanwhile


def test_an_approval_is_void_once_the_champion_has_changed(house):
    house.run(house.better, "delivery")
    house.run(house.best, "deployment")
    with pytest.raises(StaleError, match="compared with an earlier champion"):
        approve(house.registry, house.better, by="ada", note="")
    assert house.crowned == house.best.number
    newest = submissions_of(house.registry, version=house.better.number)[0]
    assert (newest.state, newest.approvals) == ("stale", ())


def test_of_two_promotions_that_race_one_wins_and_the_other_is_stale(house, monkeypatch):
    """Both are approved; the other moves the alias just before this one does."""
    others = []

    def slower(registry, approved, actor):
        if not others:
            others.append(house.run(house.best, "deployment"))
        return pipelines.move_alias_at_once(registry, approved, actor)

    current = house.run(house.better, "deployment", release=slower)
    assert (current.state, others[0].state) == ("stale", "promoted")
    assert "generation" in current.note
    assert house.crowned == house.best.number


def test_a_verdict_about_a_champion_that_changed_during_the_match_is_stale(house):
    def meanwhile(name):
        if name == "latency":
            house.registry.move_alias(
                "pong", "champion", house.best.number, expected_generation=1, kind="force"
            )

    current = house.run(house.better, "deployment", on_check=meanwhile)
    assert (current.state, house.crowned) == ("stale", house.best.number)


def test_an_approval_that_is_not_given_in_time_expires_and_can_be_asked_for_anew(house):
    gate = quick_gate(approvals={"expire_days": 1})
    first = house.run(house.better, "delivery", gate=gate)
    yesterday = (datetime.now(UTC) - timedelta(days=1, minutes=1)).isoformat()
    with house.registry.change() as change:
        change.execute(update(tables.submissions).values(opened=yesterday))
        change.record("test", {})
    with pytest.raises(RegistryError, match="has expired: not approved within 1 days"):
        approve(house.registry, house.better, by="ada", note="")
    again = house.run(house.better, "delivery", gate=gate)
    assert (again.state, again.id > first.id) == ("awaiting_approval", True)
    assert approve(house.registry, house.better, by="ada", note="").state == "promoted"


def test_a_clock_that_goes_backwards_makes_nothing_expire(house):
    current = house.run(house.better, "delivery")
    opened = datetime.fromisoformat(current.opened)
    assert not current.expired(30, opened - timedelta(days=400))
    assert not current.expired(30, opened + timedelta(days=29))
    assert current.expired(30, opened + timedelta(days=31))


def test_what_was_approved_cannot_be_denied_any_more(house, monkeypatch):
    house.run(house.better, "delivery")

    def killed(registry, approved, actor):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        approve(house.registry, house.better, by="ada", note="", release=killed)
    with pytest.raises(RegistryError, match="version 2 has been approved already"):
        deny(house.registry, house.better, by="bob", note="")
    assert approve(house.registry, house.better, by="ada", note="").state == "promoted"


def test_an_approval_for_what_no_longer_waits_is_refused(house):
    house.run(house.better, "delivery")
    waiting = submissions_of(house.registry, version=house.better.number)[0]
    approve(house.registry, house.better, by="ada", note="")
    with pytest.raises(StaleError, match="is promoted and no longer awaits approval"):
        submissions.add_approval(
            house.registry, waiting, pipelines._said(waiting, "bob", "approve", "")
        )


def test_who_was_never_submitted_awaits_no_approval(house):
    with pytest.raises(RegistryError, match="version 2 awaits no approval: it was never submitted"):
        approve(house.registry, house.better, by="ada", note="")


@pytest.mark.parametrize("state", ["broken", "archived"])
def test_a_version_that_is_not_sound_is_refused(house, state):
    if state == "archived":
        version = house.registry.archive(house.better.number)
    else:
        blob = house.registry.folder / "blobs/sha256" / house.better.digest[:2]
        (blob / house.better.digest).unlink()
        house.registry.verify()
        version = house.registry.version(house.better.number)
    with pytest.raises(RegistryError, match=f"version 2 is {state}.*It cannot be promoted"):
        house.run(version, "deployment")


def test_a_version_whose_submission_is_open_cannot_be_archived(house):
    house.run(house.better, "delivery")
    with pytest.raises(RegistryError, match="in use as submission 1"):
        house.registry.archive(house.better.number)
    deny(house.registry, house.better, by="ada", note="")
    assert house.registry.archive(house.better.number).state == "archived"


def test_a_match_that_cannot_be_played_is_an_error_that_can_be_repeated(house, monkeypatch):
    def full(*args, **settings):
        raise RunFolderError("the record of the match cannot be written: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("rlarcade.promotion.checks.compare_agents", full)
        with pytest.raises(RunFolderError):
            house.run(house.better, "deployment")
    (failed,) = submissions_of(house.registry, version=house.better.number)
    assert failed.state == "error"
    assert failed.note == "the record of the match cannot be written: No space left on device"
    assert house.run(house.better, "deployment").state == "promoted"


def test_of_two_pipelines_at_once_the_one_that_plays_wins(house):
    """CI repeats the command while the first one plays its match."""
    refused = []

    def pair_done(_):
        if not refused:
            with pytest.raises(
                RecordInUseError, match="is being played by another process"
            ) as error:
                house.run(house.better, "deployment")
            refused.append(error.value)

    assert house.run(house.better, "deployment", on_pair=pair_done).state == "promoted"
    assert refused
    assert "submission.error" not in [event.kind for event in house.registry.events()]


# Killed at any step


@pytest.mark.slow
def test_a_pipeline_killed_at_any_step_goes_on_to_the_same_end(tmp_path, monkeypatch):
    """Before and after every transition, in a registry each."""
    expected = None
    for step in range(40):
        folder = tmp_path / str(step)
        folder.mkdir()
        with monkeypatch.context() as patched:
            house = House(folder, patched)
            done = interrupted(house, step, patched)
            end = [
                house.crowned,
                [one.state for one in submissions_of(house.registry)],
                [(move.kind, move.version) for move in house.registry.history("pong")],
            ]
            assert house.registry.verify() == []
            assert house.registry.verify_audit() is None
            house.registry.close()
        expected = expected or end
        assert end == expected, f"killed at step {step}"
        if done:
            break
    assert step > 10, "every transition was interrupted, before and after"
    assert expected == [2, ["promoted"], [("set", 1), ("promote", 2)]]


class Killed(BaseException):
    """Stands for kill -9: nothing that catches errors catches it."""


class Transactions:
    """The registry's transactions, one of which is killed before it begins or after it ended."""

    def __init__(self, step):
        self.step, self.count, self.real = step, 0, Registry.change

    @contextmanager
    def __call__(self, *args, **settings):
        before, after = 2 * self.count, 2 * self.count + 1
        self.count += 1
        if before == self.step:
            raise Killed
        with self.real(*args, **settings) as opened:
            yield opened
        if after == self.step:
            raise Killed


def delivered(house):
    house.run(house.better, "delivery")
    approve(house.registry, house.better, by="ada", note="yes")


def interrupted(house, step, monkeypatch):
    """Delivers and approves, killed once, and again; returns whether there was nothing to kill."""
    transactions = Transactions(step)

    def change(registry, actor=None):
        return transactions(registry, actor)

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "change", change)
        try:
            delivered(house)
        except Killed:
            pass
        else:
            return True
    delivered(house)
    return False


# The states


def test_open_states_are_those_that_lead_somewhere():
    assert set(tables.OPEN_STATES) == {state for state, after in TRANSITIONS.items() if after}


def test_every_state_can_be_reached_and_only_an_approval_leads_to_a_promotion():
    reached, waiting = set(), ["submitted"]
    while waiting:
        state = waiting.pop()
        if state not in reached:
            reached.add(state)
            waiting += TRANSITIONS[state]
    assert reached == set(TRANSITIONS)
    before = {state: {one for one in TRANSITIONS if state in TRANSITIONS[one]} for state in reached}
    assert before["promoted"] == {"approved"}
    assert before["approved"] == {"passed", "awaiting_approval"}
    assert before["passed"] == {"verifying", "matching"}


def test_a_submission_moves_only_along_its_transitions_and_from_where_it_is(house):
    current = house.run(house.better, "delivery")
    with pytest.raises(ValueError, match="that is awaiting_approval cannot become promoted"):
        submissions.move(house.registry, current, "promoted", "tester")
    submissions.move(house.registry, current, "denied", "ada")
    with pytest.raises(StaleError, match="no longer awaiting_approval"):
        submissions.move(house.registry, current, "approved", "bob")


def test_there_is_no_submission_of_a_number_that_was_never_given(house):
    with pytest.raises(KeyError):
        submissions.submission(house.registry, 7)


def test_the_submissions_of_a_game_are_those_of_no_other(tmp_path):
    """Of games whose names come before and after it, too."""
    with Registry.open(tmp_path / "registry") as registry:
        for seed, (game, actions) in enumerate((("breakout", 4), ("pong", 6), ("qbert", 6))):
            path = saved_agent(tmp_path / game, seed, game=game, num_actions=actions)
            run_pipeline(registry, registry.register(path), "ci", quick_gate())
        for game in ("breakout", "pong", "qbert"):
            (found,) = submissions_of(registry, game=game)
            assert found.game == game
        assert len(submissions_of(registry)) == 3


def test_a_submission_is_matching_while_matches_are_played_and_not_before(house):
    states = {}

    def look(check):
        (current,) = submissions_of(house.registry, version=house.better.number)
        states[check] = current.state

    house.run(house.better, "ci", on_check=look)
    before = {name: state for name, state in states.items() if name not in ("match", "guard")}
    assert set(before.values()) == {"verifying"}
    assert states["match"] == "matching"
