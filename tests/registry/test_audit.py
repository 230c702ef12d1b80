import hashlib
import json
from datetime import UTC, datetime

import pytest
from registry_helpers import blob_file, note, sql, whole
from sqlalchemy import event, func, select

from rlarcade import Rule
from rlarcade.errors import ConfigError, RegistryError
from rlarcade.registry import tables
from rlarcade.registry.audit import read_receipt
from rlarcade.registry.documents import Event, Problem
from rlarcade.registry.registry import Registry


@pytest.fixture
def log(registry):
    """Five entries of a log."""
    for number in range(1, 6):
        note(registry, "note", {"number": number}, f"actor {number}")
    return registry


def digest_of(sequence, time, actor, kind, document, previous):
    """The digest as the documentation has it, by hand."""
    text = json.dumps(
        {
            "actor": actor,
            "document": document,
            "kind": kind,
            "previous": previous,
            "sequence": sequence,
            "time": time,
        },
        separators=(",", ":"),
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_entry_is_sealed_by_the_digest_of_the_one_before(log, folder):
    rows = sql(folder, "SELECT sequence, time, actor, kind, document, previous, digest FROM events")
    previous = "0" * 64
    for expected, (sequence, time, actor, kind, document, before, digest) in enumerate(rows, 1):
        assert (sequence, before) == (expected, previous)
        previous = digest_of(sequence, time, actor, kind, json.loads(document), before)
        assert digest == previous
    assert len(rows) == 5
    kept = dict(sql(folder, "SELECT key, value FROM meta WHERE key <> 'blobs'"))
    assert kept == {"format": "1", "audit_count": "5", "audit_head": previous}
    assert log.verify_audit() is None


def test_events_are_told_in_order_from_any_one_on(log):
    events = list(log.events())
    assert [(e.sequence, e.actor, e.document) for e in events] == [
        (n, f"actor {n}", {"number": n}) for n in range(1, 6)
    ]
    assert [e.sequence for e in log.events(3)] == [4, 5]
    assert all(Event.model_validate_json(e.model_dump_json()) == e for e in events)


@pytest.mark.parametrize(
    "change",
    [
        "time = '1999-01-01T00:00:00+00:00'",
        "actor = 'eve'",
        "kind = 'other'",
        "document = '{\"number\":7}'",
        "document = '{ \"number\":3}'",  # the same, but not as it was written
        "document = 'x'",
        "document = '[]'",
        "document = '" + "[" * 5000 + "'",
        "document = x'ff'",
        "previous = '" + "0" * 64 + "'",
        "digest = '" + "0" * 64 + "'",
    ],
)
def test_the_first_altered_entry_is_found(log, folder, change):
    sql(folder, f"UPDATE events SET {change} WHERE sequence = 3")
    sql(folder, "UPDATE events SET actor = 'eve' WHERE sequence = 5")
    problem = log.verify_audit()
    assert problem.where == "event 3"
    assert "was altered" in problem.what
    assert log.verify()[0] == problem


def test_an_entry_that_was_written_anew_with_a_fitting_digest_is_found_by_the_next(log, folder):
    (row,) = sql(folder, "SELECT sequence, time, kind, previous FROM events WHERE sequence = 3")
    digest = digest_of(row[0], row[1], "eve", row[2], {"number": 3}, row[3])
    sql(folder, "UPDATE events SET actor = 'eve', digest = ? WHERE sequence = 3", digest)
    problem = log.verify_audit()
    assert problem.where == "event 4"
    assert "altered or is out of place: it follows" in problem.what


@pytest.mark.parametrize("missing", [1, 3])
def test_a_missing_entry_is_found(log, folder, missing):
    sql(folder, "DELETE FROM events WHERE sequence = ?", missing)
    assert log.verify_audit() == Problem(
        where=f"event {missing}", what="is missing from the audit log"
    )
    # with those after it moved up
    sql(folder, "UPDATE events SET sequence = sequence - 1 WHERE sequence > ?", missing)
    problem = log.verify_audit()
    assert problem.where == f"event {missing}"
    assert "altered or is out of place" in problem.what


def test_reordered_entries_are_found(log, folder):
    for old, new in ((2, 20), (3, 2), (20, 3)):
        sql(folder, "UPDATE events SET sequence = ? WHERE sequence = ?", new, old)
    problem = log.verify_audit()
    assert problem.where == "event 2"
    assert "altered or is out of place" in problem.what


@pytest.mark.parametrize("left", [0, 1, 4])
def test_a_tail_that_was_cut_off_is_found(log, folder, left):
    sql(folder, "DELETE FROM events WHERE sequence > ?", left)
    problem = log.verify_audit()
    assert problem.where == f"event {left + 1}"
    assert "is missing: the audit log had 5 entries and ends before this" in problem.what


def test_entries_that_were_added_by_hand_are_found(log, folder):
    (previous,) = sql(folder, "SELECT digest FROM events WHERE sequence = 5")[0]
    digest = digest_of(6, "t", "eve", "note", {}, previous)
    sql(folder, "INSERT INTO events VALUES (6, 't', 'eve', 'note', '{}', ?, ?)", previous, digest)
    problem = log.verify_audit()
    assert problem.where == "event 6"
    assert "is not the last that was written: that was event 5" in problem.what
    with pytest.raises(RegistryError, match="is damaged or was altered"):
        note(log, "x")


def test_another_head_or_count_is_found(log, folder):
    sql(folder, "UPDATE meta SET value = ? WHERE key = 'audit_head'", "0" * 64)
    assert log.verify_audit().where == "event 5"
    sql(folder, "UPDATE meta SET value = 'many' WHERE key = 'audit_count'")
    with pytest.raises(RegistryError, match="audit log's entries is given as 'many'"):
        log.verify_audit()


def test_an_entry_that_cannot_be_read_is_named(log, folder):
    sql(folder, "UPDATE events SET document = 'x' WHERE sequence = 2")
    with pytest.raises(
        RegistryError, match="event 2 of the audit log was altered and cannot be re"
    ):
        list(log.events())


def note_and_add(log, row):
    with log.change() as change:
        change.record("note", {})
        change.execute(tables.meta.insert().values(row))


def add_unnoted(log, row):
    with log.change() as change:
        change.execute(tables.meta.insert().values(row))


def test_a_transaction_that_fails_leaves_neither_change_nor_entry(log):
    row = {"key": "mine", "value": "1"}
    with pytest.raises(RegistryError, match="(?i)unique"):
        note_and_add(log, [row, row])
    (keys,) = log.rows(select(tables.meta.c.key))
    assert {row["key"] for row in keys} - {"blobs"} == {"format", "audit_count", "audit_head"}
    assert len(list(log.events())) == 5


def test_a_change_without_an_entry_in_the_log_is_refused_and_undone(log):
    row = {"key": "mine", "value": "1"}
    for first in (False, True):  # an entry before the change does not tell of it
        with pytest.raises(ValueError, match="changed without an entry in the audit log"):
            note_and_add(log, row) if first else add_unnoted(log, row)
    (keys,) = log.rows(select(tables.meta.c.key).where(tables.meta.c.key == "mine"))
    assert keys == []
    assert len(list(log.events())) == 5


def test_a_change_that_only_reads_needs_no_entry(log):
    with log.change() as change:
        assert change.execute(select(tables.meta)).first() is not None
    assert len(list(log.events())) == 5


def test_several_queries_see_the_same_state_whoever_writes_between_them(log, folder):
    count = select(func.count().label("entries")).select_from(tables.events)

    @event.listens_for(log._database._engine, "after_cursor_execute")
    def write(connection, cursor, statement, *_):
        if "entries" in statement and not written:
            written.append(True)
            with Registry.open(folder) as other:
                note(other, "note")

    written = []
    first, second = log.rows(count, count)
    assert first == second == [{"entries": 5}]
    assert log.rows(count) == [[{"entries": 6}]]


def test_a_transaction_changes_tables_with_its_entries_each_of_its_actor(log):
    document = {"result": [1, None, "ü", 0.5]}
    with log.change("ann") as change:
        change.execute(tables.meta.insert().values({"key": "mine", "value": "1"}))
        change.record("note", document)
        change.record("note", {}, "bob")
    assert [event.actor for event in log.events(5)] == ["ann", "bob"]
    assert next(iter(log.events(5))).document == {"result": [1, None, "ü", 0.5]}
    assert log.verify_audit() is None


def test_what_json_cannot_say_is_refused_and_nothing_changes(log):
    for odd in (float("inf"), float("nan"), object(), {1, 2}):
        with pytest.raises(RegistryError, match="cannot be stored"):
            note(log, "x", {"a": odd})
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RegistryError, match="cannot be stored"):
        note(log, "x", {"a": deep})
    assert len(list(log.events())) == 5


@pytest.mark.parametrize("kind", ["register", "promote", "rollback", "broken", "repair", "archive"])
def test_nobody_else_writes_the_registrys_own_entries(registry, kind):
    with pytest.raises(ValueError, match=f"only the registry writes '{kind}' events"):
        note(registry, kind)
    assert list(registry.events()) == []


def test_a_clock_that_goes_backwards_changes_nothing(registry, add, monkeypatch):
    years = iter(range(2100, 1900, -1))

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(next(years), 1, 1, tzinfo=UTC)

    monkeypatch.setattr("rlarcade.registry.audit.datetime", Backwards)
    for content in range(3):
        add(content)
        registry.move_alias(
            "pong", "champion", content + 1, expected_generation=content, kind="promote"
        )
    assert registry.rollback("pong").version == 2
    times = [event.time for event in registry.events()]
    assert times == sorted(times, reverse=True)
    assert [v.number for v in registry.versions()] == [1, 2, 3]
    assert [m.version for m in registry.history("pong")] == [1, 2, 3, 2]
    assert whole(registry)


def test_documents_are_kept_under_the_digest_of_their_canonical_json(registry, folder):
    rule = Rule()
    digest = registry.put_document(rule)
    text = json.dumps(rule.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    kept = blob_file(folder, digest).stat().st_ino
    assert registry.put_document(Rule()) == digest
    assert blob_file(folder, digest).stat().st_ino == kept  # not written again
    assert registry.get_document(digest, Rule) == rule


def test_a_document_that_is_missing_or_another_kind_is_refused(registry):
    digest = registry.put_document(Rule())
    with pytest.raises(RegistryError, match="is not a valid Event: 'sequence' is missing"):
        registry.get_document(digest, Event)
    with pytest.raises(
        RegistryError, match="document abababababab… cannot be read: blobs/.*missing"
    ):
        registry.get_document("ab" * 32, Rule)
    for outside in ("../../registry.sqlite", "/etc/passwd", "AB" * 32, ""):
        with pytest.raises(RegistryError, match="is not a sha256 digest"):
            registry.get_document(outside, Rule)


def test_a_document_with_numbers_that_json_lacks_is_refused(registry):
    class Odd(Problem):
        number: float

    with pytest.raises(RegistryError, match="the document cannot be stored"):
        registry.put_document(Odd(where="a", what="b", number=float("inf")))


def test_two_registries_open_on_one_folder_see_each_others_changes(registry, add, folder):
    with Registry.open(folder) as other:
        add(1)
        assert other.version(1).game == "pong"
        other.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
        assert registry.alias("pong").generation == 1


# What only a receipt shows


def test_a_tail_that_goes_with_all_that_counts_it_is_shown_by_a_receipt_alone(log, folder):
    before = log.audit_head()
    (row,) = sql(folder, "SELECT digest FROM events WHERE sequence = 5")
    assert (before.count, before.digest) == (5, row[0])
    assert log.verify_audit(before) is None
    note(log, "note")
    after = log.audit_head()
    assert log.verify_audit(before) is None, "what came later harms no receipt"
    sql(folder, "DELETE FROM events WHERE sequence > 4")
    (row,) = sql(folder, "SELECT digest FROM events WHERE sequence = 4")
    sql(folder, "UPDATE meta SET value = '4' WHERE key = 'audit_count'")
    sql(folder, "UPDATE meta SET value = ? WHERE key = 'audit_head'", row[0])
    assert log.verify_audit() is None, "nothing in the file shows it"
    for receipt, count in ((before, 5), (after, 6)):
        problem = log.verify_audit(receipt)
        assert problem.where == "event 5"
        assert problem.what == (
            f"is missing: the receipt says {count} entries, the audit log has 4"
        )
    for _ in range(2):  # as many entries as before, but others
        note(log, "note", {"other": True})
    problem = log.verify_audit(after)
    assert problem.where == "event 6"
    assert "was altered: its digest is" in problem.what


def test_a_receipt_of_an_empty_log_fits_every_log(registry):
    receipt = registry.audit_head()
    assert str(receipt) == f"0:{'0' * 64}"
    note(registry, "note")
    assert registry.verify_audit(receipt) is None


def test_there_is_no_receipt_of_a_log_that_was_altered(log, folder):
    sql(folder, "UPDATE events SET actor = 'eve' WHERE sequence = 3")
    with pytest.raises(RegistryError, match="the audit log was altered: event 3 was altered"):
        log.audit_head()


@pytest.mark.parametrize("text", ["", "5", f"5:{'g' * 64}", f"-5:{'0' * 64}", '{"count": 5}', "[["])
def test_what_is_no_receipt_is_refused(text):
    with pytest.raises(ConfigError, match="is not a receipt of an audit log. Give the"):
        read_receipt(text)


def test_a_receipt_is_read_as_it_was_printed_or_as_json(log):
    receipt = log.audit_head()
    for text in (str(receipt), f" {receipt}\n", receipt.model_dump_json()):
        assert read_receipt(text) == receipt
