"""What people decide; and that no hand in the tables promotes what the audit log does not tell."""

import getpass
import hashlib
import json
import os
import pwd

import pytest
from promoting import play_by_strength, quick_gate, saved_agent
from registry_helpers import blob_file, sql, whole
from sqlalchemy import insert

from rlarcade.errors import ConfigError, RegistryError
from rlarcade.promotion import submissions
from rlarcade.promotion.pipeline import approve, deny, move_alias_at_once, run_pipeline, verdict_of
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry import states, tables
from rlarcade.registry.audit import canonical_json
from rlarcade.registry.registry import Registry
from rlarcade.registry.sqlite import SqliteDatabase

GATE = quick_gate(smoke={"enabled": False})
TWO = quick_gate(smoke={"enabled": False}, approvals={"required": 2})


class Killed(BaseException):
    """Stands for kill -9."""


class House:
    """A registry of pong: version 1 is the champion, 2 is better, 3 is worse."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder / "registry"
        self.registry = Registry.open(self.folder)
        found = [self.registry.register(saved_agent(folder / f"a{n}", n)) for n in range(3)]
        self.champion, self.better, self.worse = found
        self.registry.move_alias("pong", "champion", 1, expected_generation=0, kind="set")
        strength = dict(zip((one.digest for one in found), (1, 2, 0), strict=True))
        play_by_strength(monkeypatch, strength)

    def run(self, version, mode="delivery", gate=GATE):
        return run_pipeline(self.registry, version, mode, gate, actor="tester")

    @property
    def crowned(self):
        return self.registry.alias("pong").version

    @property
    def problems(self):
        return [(one.where, one.what) for one in self.registry.verify()]


@pytest.fixture
def house(tmp_path, monkeypatch):
    made = House(tmp_path, monkeypatch)
    yield made
    made.registry.close()


# A denial is one step


def test_a_denial_that_is_killed_anywhere_is_whole_or_did_not_happen(house, monkeypatch):
    """Before and after every commit; an approval after a whole denial promotes nobody."""
    outcomes = set()
    for step in range(8):
        name = f"gate {step}"
        gate = quick_gate(smoke={"enabled": False}, match={"max_pairs": 300 + step})
        house.run(house.better, gate=gate)
        commits = 0
        real = SqliteDatabase.write

        def write(self, step=step, real=real):
            return _Killing(real(self), step, count)

        def count():
            nonlocal commits
            commits += 1
            return commits

        with monkeypatch.context() as patched:
            patched.setattr(SqliteDatabase, "write", write)
            try:
                deny(house.registry, house.better, by="ada", note=name)
                ended = True
            except Killed:
                ended = False
        newest = submissions_of(house.registry, version=house.better.number)[0]
        said = [one.decision for one in newest.approvals]
        outcomes.add((newest.state, tuple(said)))
        assert whole(house.registry)
        if newest.state == "denied" or said:
            with pytest.raises(RegistryError):
                approve(house.registry, house.better, by="bob", note="")
            assert house.crowned == 1
            break
        deny(house.registry, house.better, by="ada", note=name)
        if ended:
            break
    assert outcomes <= {("awaiting_approval", ()), ("denied", ("deny",))}


class _Killing:
    """A transaction that dies before it begins (even steps) or just after it ended (odd ones)."""

    def __init__(self, real, step, count):
        self.real, self.step, self.count = real, step, count

    def __enter__(self):
        self.number = 2 * (self.count() - 1)
        if self.number == self.step:
            raise Killed
        return self.real.__enter__()

    def __exit__(self, *error):
        done = self.real.__exit__(*error)
        if self.number + 1 == self.step:
            raise Killed
        return done


def test_a_denial_that_an_older_rlarcade_did_not_finish_blocks(house):
    """It wrote down what was said in one transaction, and what follows from it in the next."""
    current = house.run(house.better)
    row = {
        "by": "ada",
        "decision": "deny",
        "note": "no",
        "version": current.digest,
        "verdict": current.verdict,
        "champion_generation": 1,
        "time": "2026-01-01T00:00:00+00:00",
    }
    document = {"submission": current.id, **row}
    with house.registry.change("ada") as change:
        change.execute(insert(tables.approvals).values(document))
        change.record("submission.deny", document)
    with pytest.raises(RegistryError, match="awaits no approval: its last submission is denied"):
        approve(house.registry, house.better, by="bob", note="")
    assert house.crowned == 1
    assert house.run(house.better).state == "denied"
    assert whole(house.registry)


def test_a_denied_version_is_not_promoted_by_another_submission_against_the_same_champion(house):
    other = quick_gate(smoke={"enabled": False}, match={"max_pairs": 200})
    house.run(house.better)
    house.run(house.better, gate=other)
    deny(house.registry, house.better, by="ada", note="no")
    with pytest.raises(RegistryError, match="version 2 was denied by ada against this champion"):
        approve(house.registry, house.better, by="bob", note="")
    with pytest.raises(RegistryError, match="version 2 was denied by ada"):
        house.run(house.better, "deployment")
    assert house.crowned == 1
    house.registry.move_alias("pong", "champion", 3, expected_generation=1, kind="force")
    assert house.run(house.better, "deployment").state == "promoted"


def test_of_several_who_were_asked_one_who_denies_is_no_agreement(house):
    house.run(house.better, gate=TWO)
    assert approve(house.registry, house.better, by="ada", note="").state == "awaiting_approval"
    assert deny(house.registry, house.better, by="bob", note="").state == "denied"
    assert house.crowned == 1


def test_who_denied_does_not_make_up_the_number(house):
    """A denial that stayed without its effect (older rlarcade) is no second agreement."""
    current = house.run(house.better, gate=TWO)
    denied = states.Approval(
        by="bob",
        decision="deny",
        note="",
        version=current.digest,
        verdict=current.verdict,
        champion_generation=1,
        time="2026",
    )
    agreed = denied.model_copy(update={"by": "ada", "decision": "approve"})
    assert submissions._outcome_of(agreed, [denied], 2) is None
    assert submissions._outcome_of(agreed, [denied.model_copy(update={"decision": "approve"})], 2)
    assert submissions._outcome_of(denied, [agreed], 1) == "denied"


# People


SPELLINGS = ["bob ", " bob", "Bob", "BOB", "\uff42\uff4f\uff42", "bob\t"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_person_is_one_however_the_name_is_spelled(house, spelling):
    house.run(house.better, gate=TWO)
    for by in ("bob", spelling):
        assert approve(house.registry, house.better, by=by, note="").state == "awaiting_approval"
    waiting = submissions_of(house.registry, version=2)[0]
    assert [said.by for said in waiting.approvals] == ["bob"]
    assert approve(house.registry, house.better, by="ada", note="").state == "promoted"
    assert whole(house.registry)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("", "is empty"),
        ("  \t ", "is empty"),
        ("bob\u200b", r"invisible character \(U\+200B\)"),
        ("bo\u00adb", r"invisible character \(U\+00AD\)"),
        ("bob\x1b[31m", r"invisible character \(U\+001B\)"),
        ("bob\nada", r"invisible character \(U\+000A\)"),
        ("\u3164", r"invisible character \(U\+3164\)"),
        ("bob\ufe0f", r"invisible character \(U\+FE0F\)"),
        ("bob\udc80", r"invisible character \(U\+DC80\)"),
        ("b" * 256, "has 256 characters; at most 255 are"),
        ("Policy:0123", "is reserved for a gate's policy"),
    ],
)
def test_a_name_that_nobody_can_read_is_refused(house, by, message):
    house.run(house.better)
    before = len(list(house.registry.events()))
    for decide in (approve, deny):
        with pytest.raises(ConfigError, match=message):
            decide(house.registry, house.better, by=by, note="")
    assert len(list(house.registry.events())) == before
    assert house.crowned == 1


def test_five_spellings_of_an_older_rlarcade_are_as_many_people_as_can_be_seen(house):
    """They are rows of their own there: bob, bob with a space, Bob, nobody, and an unseen one."""
    current = house.run(
        house.better, gate=quick_gate(smoke={"enabled": False}, approvals={"required": 3})
    )
    for by in ("bob", "bob ", "Bob", "", "bob\u200b"):
        row = {
            "submission": current.id, "by": by, "decision": "approve", "note": "",
            "version": current.digest, "verdict": current.verdict, "champion_generation": 1,
            "time": "2026-01-01T00:00:00+00:00",
        }  # fmt: skip
        with house.registry.change(by) as change:
            change.execute(insert(tables.approvals).values(row))
            change.record("submission.approve", row)
    assert approve(house.registry, house.better, by="ada", note="").state == "awaiting_approval"
    assert approve(house.registry, house.better, by="eve", note="").state == "promoted"
    assert whole(house.registry)


def test_the_user_of_the_system_is_written_down_beside_the_name(house, monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    assert getpass.getuser() == "somebody-else"
    house.run(house.better)
    approve(house.registry, house.better, by="ada", note="yes")
    (event,) = [one for one in house.registry.events() if one.kind == "submission.approve"]
    try:
        true = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        true = f"uid {os.geteuid()}"
    assert (event.actor, event.document["os_user"]) == ("ada", true)


# The tables say no more than the log


def test_submissions_and_approvals_that_were_altered_are_found(house):
    house.run(house.better, gate=TWO)
    approve(house.registry, house.better, by="ada", note="yes")
    assert whole(house.registry)
    changes = [
        ("submissions", "state", "promoted"),
        ("submissions", "note", "all is well"),
        ("submissions", "verdict", "ab" * 32),
        ("submissions", "champion_generation", 7),
        ("submissions", "mode", "ci"),
        ("approvals", "decision", "deny"),
        ("approvals", "note", "no"),
        ("approvals", "verdict", "ab" * 32),
    ]
    for table, column, value in changes:
        ((good,),) = sql(house.folder, f"SELECT {column} FROM {table}")
        sql(house.folder, f"UPDATE {table} SET {column} = ?", value)
        where, what = house.problems[0]
        assert where == "submission 1"
        assert f"{column} is {value!r}, the audit log says {good!r}" in what
        assert house.registry.verify(1) == [], "it is none of version 1"
        assert house.registry.verify(2)
        sql(house.folder, f"UPDATE {table} SET {column} = ?", good)
    assert whole(house.registry)


def test_rows_of_submissions_and_approvals_that_were_put_in_or_taken_out_are_found(house):
    current = house.run(house.better)
    sql(
        house.folder,
        "INSERT INTO approvals VALUES (1, 'eve', 'approve', '', ?, ?, 1, '2026')",
        current.digest,
        current.verdict,
    )
    assert house.problems == [
        ("submission 1", "decision of eve: was added by hand: the audit log does not have it")
    ]
    sql(house.folder, "DELETE FROM approvals")
    sql(house.folder, "DELETE FROM submissions")
    assert house.problems == [("submission 1", "is missing from its table: the audit log has it")]


def test_a_verdict_that_is_missing_is_found(house):
    current = house.run(house.better)
    blob_file(house.folder, current.verdict).unlink()
    what = f"its verdict, document {current.verdict[:12]}…, is missing"
    assert house.problems == [("submission 1", what)]


@pytest.mark.parametrize("state", ["approved", "awaiting_approval", "passed"])
def test_a_rejected_submission_that_was_set_to_another_state_is_not_promoted(house, state):
    assert house.run(house.worse).state == "rejected"
    sql(house.folder, "UPDATE submissions SET state = ?", state)
    if state == "passed":
        assert house.run(house.worse).state == "awaiting_approval", "that harms nobody yet"
    with pytest.raises(RegistryError, match="nothing was promoted.*submission 1|event") as told:
        approve(house.registry, house.worse, by="eve", note="")
    assert told.value.exit_code == 1
    assert house.crowned == 1


@pytest.mark.parametrize("mode", ["deployment", "promote"])
def test_a_rejected_submission_that_was_set_to_passed_is_not_deployed(house, mode):
    assert house.run(house.worse, mode).state == "rejected"
    for state in ("passed", "approved"):
        sql(house.folder, "UPDATE submissions SET state = ?", state)
        message = f"nothing was promoted. submission 1: its row was altered: state is '{state}', "
        with pytest.raises(RegistryError, match=message):
            house.run(house.worse, mode)
    assert house.crowned == 1


def test_an_approval_that_was_put_in_by_hand_counts_for_nothing(house):
    current = house.run(house.better, gate=TWO)
    sql(
        house.folder,
        "INSERT INTO approvals VALUES (1, 'eve', 'approve', '', ?, ?, 1, '2026')",
        current.digest,
        current.verdict,
    )
    with pytest.raises(RegistryError, match="submission 1: decision of eve: was added by hand"):
        approve(house.registry, house.better, by="bob", note="")
    assert house.crowned == 1


def test_a_generation_that_was_set_back_makes_no_old_verdict_new(house):
    house.run(house.better)
    house.registry.move_alias("pong", "champion", 3, expected_generation=1, kind="force")
    sql(house.folder, "UPDATE aliases SET generation = 1")
    with pytest.raises(RegistryError, match="alias champion@pong: its row was altered: .* is 1"):
        approve(house.registry, house.better, by="eve", note="")
    assert house.crowned == 3


@pytest.mark.parametrize(
    "part", ["outcome", "version", "champion_generation", "an earlier generation", "gate"]
)
def test_a_verdict_that_does_not_say_passed_of_this_very_submission_promotes_nothing(house, part):
    """Whoever can write the log anew, digest by digest, still needs a verdict that passed."""
    current = house.run(house.better)
    verdict = verdict_of(house.registry, current)
    changes = {
        "version": {"version": house.worse.digest},
        "champion_generation": {"champion_generation": 7},
        "an earlier generation": {"champion_generation": 0},
        "gate": {"gate": TWO},
        "outcome": {
            "checks": (
                verdict.checks[0].model_copy(update={"outcome": "fail"}),
                *verdict.checks[1:],
            )
        },
    }
    forged = house.registry.put_document(verdict.model_copy(update=changes[part]))
    told = {
        "outcome": "it says rejected",
        "version": "it is about version",
        "champion_generation": "it is about generation 7 of the champion, not 1",
        "an earlier generation": "it is about generation 0 of the champion, not 1",
        "gate": "it is of another gate",
    }
    write_log_anew(house, current, forged)
    with pytest.raises(RegistryError, match=f"The verdict of submission 1 does not.*{told[part]}"):
        approve(house.registry, house.better, by="ada", note="")
    assert house.crowned == 1


def write_log_anew(house, current, forged):
    """Has the log tell of another verdict, with digests that fit."""
    previous = "0" * 64
    rows = sql(house.folder, "SELECT sequence, time, actor, kind, document FROM events")
    for sequence, time, actor, kind, text in rows:
        document = json.loads(text)
        if document.get("verdict") == current.verdict:
            document["verdict"] = forged
        entry = {
            "sequence": sequence, "time": time, "actor": actor, "kind": kind,
            "document": document, "previous": previous,
        }  # fmt: skip
        digest = hashlib.sha256(canonical_json(entry).encode()).hexdigest()
        sql(
            house.folder,
            "UPDATE events SET document = ?, previous = ?, digest = ? WHERE sequence = ?",
            canonical_json(document),
            previous,
            digest,
            sequence,
        )
        previous = digest
    sql(house.folder, "UPDATE meta SET value = ? WHERE key = 'audit_head'", previous)
    sql(house.folder, "UPDATE submissions SET verdict = ?", forged)
    assert whole(house.registry), "the log alone shows nothing"


def test_the_release_looks_again_at_what_was_approved(house):
    """Between the approval and the release somebody alters the row."""

    def altered(registry, approved, actor):
        sql(house.folder, "UPDATE submissions SET digest = ?", house.worse.digest)
        return move_alias_at_once(registry, approved, actor)

    house.run(house.better)
    with pytest.raises(RegistryError, match="nothing was promoted. submission 1: its row was alt"):
        approve(house.registry, house.better, by="ada", note="", release=altered)
    assert house.crowned == 1


def test_what_was_read_before_the_row_was_mended_promotes_nothing(house):
    """Somebody alters the row, has it read, and puts it right before it is looked at again."""
    seen = []

    def forged(registry, approved, actor):
        seen.append(approved)
        another = {"version": house.worse.number, "digest": house.worse.digest}
        return move_alias_at_once(registry, approved.model_copy(update=another), actor)

    house.run(house.better)
    with pytest.raises(RegistryError, match="submission 1: version was 3, the audit log says 2"):
        approve(house.registry, house.better, by="ada", note="", release=forged)
    assert (len(seen), house.crowned) == (1, 1)


def test_a_log_that_was_altered_promotes_nothing(house):
    house.run(house.better)
    sql(house.folder, "UPDATE events SET actor = 'eve' WHERE sequence = 2")
    with pytest.raises(RegistryError, match="nothing was promoted. event 2: was altered"):
        approve(house.registry, house.better, by="ada", note="")
    assert house.crowned == 1


def test_a_registry_whose_submissions_were_altered_is_not_exported(house, tmp_path):
    house.run(house.worse)
    sql(house.folder, "UPDATE submissions SET state = 'approved'")
    with pytest.raises(RegistryError, match="cannot be exported: submission 1 its row was altered"):
        house.registry.export(tmp_path / "e.tar")
