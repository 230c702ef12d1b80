import shutil
from pathlib import Path

import pytest
from registry_helpers import (
    blob_file,
    columns_of,
    flip_a_byte,
    needs_untyped_columns,
    note,
    sql,
    whole,
)

from rlarcade import Rule
from rlarcade.errors import GameError, RegistryError, UnusableRegistryError


@pytest.fixture
def three(registry, add):
    """Three versions, the second is champion after it was the first."""
    for content in range(3):
        add(content)
    for number in (1, 2):
        registry.move_alias(
            "pong", "champion", number, expected_generation=number - 1, kind="promote"
        )
    return registry


def found(registry, reference=None):
    return [(p.where, p.what) for p in registry.verify(reference)]


def test_a_registry_as_it_was_written_has_no_problems(three):
    three.archive(3)
    three.rollback("pong")
    note(three, "note", {"number": 99})
    assert three.verify() == []
    assert three.verify("champion@pong") == []
    assert len(list(three.events())) == 8


@pytest.mark.parametrize("half", ["digest", "manifest_digest"])
def test_any_flipped_byte_is_found_and_its_version_marked(three, folder, half):
    path = blob_file(folder, getattr(three.version(2), half))
    good = path.read_bytes()
    path.chmod(0o644)
    for position in range(0, len(good), max(1, len(good) // 10)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(bad))
        ((where, what),) = found(three, 2)
        assert where == "version 2"
        assert "was altered: its sha256 is" in what
    assert [v.state for v in three.versions()] == ["ok", "broken", "ok"]
    assert [e.kind for e in three.events(5)] == ["broken"]
    assert [p[0] for p in found(three)] == ["version 2"]
    assert found(three, 1) == []


def test_a_broken_version_that_is_whole_again_loses_its_mark(three, folder):
    """As after a disk was mounted, or a backup was played back."""
    path = blob_file(folder, three.version(3).digest)
    good = path.read_bytes()
    path.unlink()
    ((where, what),) = found(three)
    assert (where, what.split("/")[-1]) == ("version 3", f"{path.name} is missing")
    assert found(three) == [(where, what)]
    with pytest.raises(UnusableRegistryError, match="`promote verify` says so"):
        three.load(3)
    path.write_bytes(good)
    assert found(three, 1) == []
    assert three.version(3).state == "broken"  # it was not looked at
    assert found(three, 3) == []
    assert three.version(3).state == "ok"
    assert three.load(3).manifest.weights_sha256 == three.version(3).digest
    (repair,) = [event for event in three.events() if event.kind == "repair"]
    assert repair.document["source"] == "verify"
    assert found(three) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps = 9", "steps is 9, the audit log says 10"),
        ("steps = '10x'", "steps is '10x', the audit log says 10"),
        ("source = 'elsewhere'", "source is 'elsewhere', the audit log says"),
        ("registered = 'never'", "registered is 'never'"),
        ("archived = true", "archived is True, the audit log says False"),
        ("libraries = '{}'", "libraries is '{}'"),
    ],
)
def test_an_altered_row_is_found(three, folder, change, message):
    if "'10x'" in change:
        needs_untyped_columns(folder)
    sql(folder, f"UPDATE versions SET {change} WHERE number = 3")
    problems = found(three)
    assert problems[0][0] == "version 3"
    assert f"its row was altered: {message}" in problems[0][1]
    assert sql(folder, "SELECT broken_reason IS NULL FROM versions") == [(1,), (1,), (0,)]
    assert found(three)[0][1] == problems[0][1]
    assert found(three, 3)[0][1] == problems[0][1]
    assert found(three, 1) == []


def test_a_mark_that_was_taken_away_or_made_by_hand_is_found(three, folder):
    sql(folder, "UPDATE versions SET broken_reason = 'I do not like it' WHERE number = 1")
    assert "broken_reason is 'I do not like it', the audit log says None" in found(three)[0][1]
    flip_a_byte(blob_file(folder, three.version(3).digest))
    three.verify(3)
    sql(folder, "UPDATE versions SET broken_reason = NULL WHERE number = 3")
    where, what = found(three)[1]
    assert where == "version 3"
    assert "broken_reason is None, the audit log says 'blobs/" in what


def test_a_row_that_was_put_in_by_hand_is_found_and_marked(three, folder, tmp_path):
    kept = ", ".join(name for name in columns_of("versions") if name not in ("number", "digest"))
    sql(
        folder,
        f"INSERT INTO versions (number, digest, {kept}) SELECT 4, '{'ab' * 32}', {kept} "
        "FROM versions WHERE number = 3",
    )
    told = ("version 4", "was added by hand: the audit log does not have it")
    assert found(three)[0] == told
    assert three.version(4).state == "broken"
    assert found(three)[0] == told
    assert {where for where, _ in found(three)} == {"version 4"}


def test_a_row_that_was_taken_out_is_found(three, folder):
    sql(folder, "DELETE FROM versions WHERE number = 3")
    assert found(three) == [("version 3", "is missing from its table: the audit log has it")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE aliases SET version = 3", "version is 3, the audit log says 2"),
        ("UPDATE aliases SET generation = 1", "generation is 1, the audit log says 2"),
        ("UPDATE aliases SET version = NULL", "version is None, the audit log says 2"),
        ("DELETE FROM aliases", "is missing from its table: the audit log has it"),
    ],
)
def test_an_altered_alias_is_found(three, folder, change, message):
    sql(folder, change)
    ((where, what),) = found(three)
    assert where == "alias champion@pong"
    assert message in what
    assert found(three, 2) == []


def test_an_alias_that_was_put_in_by_hand_is_found(three, folder):
    sql(folder, "INSERT INTO aliases VALUES ('pong', 'mine', 3, 1)")
    assert found(three) == [
        ("alias mine@pong", "was added by hand: the audit log does not have it")
    ]


def test_a_damaged_document_is_found(three, folder):
    digest = three.put_document(Rule())
    flip_a_byte(blob_file(folder, digest))
    ((where, what),) = found(three)
    assert where == f"document {digest}"
    assert "was altered" in what
    with pytest.raises(RegistryError, match="cannot be read: blobs/.* was altered"):
        three.get_document(digest, Rule)
    three.put_document(Rule())
    assert whole(three)


def test_other_files_among_the_blobs_are_passed_over(three, folder):
    (folder / "blobs" / "sha256" / "aa").mkdir(exist_ok=True)
    (folder / "blobs" / "sha256" / "aa" / ".writing-left-behind").write_bytes(b"half")
    (folder / "blobs" / "sha256" / "aa" / ("ab" * 32)).write_bytes(b"in the wrong folder")
    assert three.verify() == []


def test_blobs_that_are_all_gone_are_damage_and_a_folder_that_cannot_be_read_is_told(
    three, folder, monkeypatch, store
):
    (folder / "blobs" / "sha256" / "ff").touch()
    assert three.verify() == []
    shutil.move(folder / "blobs", folder / "elsewhere")
    if store == "sqlite":
        assert [where for where, _ in found(three)] == ["version 1", "version 2", "version 3"]
    else:  # another machine may have them
        with pytest.raises(UnusableRegistryError, match="does not exist on this machine"):
            found(three)
    shutil.move(folder / "elsewhere", folder / "blobs")
    assert found(three) == []

    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(RegistryError, match="sha256 cannot be read: Permission denied. Fix its"):
        three.verify()


def test_an_event_that_tells_nothing_is_found(registry, folder):
    note(registry, "note", actor="ann")
    import hashlib
    import json

    (row,) = sql(folder, "SELECT sequence, time, actor, previous FROM events")
    names = ("sequence", "time", "actor", "previous")
    for kind in ("register", "broken", "promote"):
        entry = dict(zip(names, row, strict=True)) | {"kind": kind, "document": {}}
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        sql(folder, "UPDATE events SET kind = ?, digest = ?", kind, digest)
        sql(folder, "UPDATE meta SET value = ? WHERE key = 'audit_head'", digest)
        assert found(registry) == [("event 1", f"is no valid {kind} event")]


def test_what_is_to_be_verified_must_exist(three):
    with pytest.raises(RegistryError, match="no version '9'"):
        three.verify(9)
    with pytest.raises(GameError, match="unknown game"):
        three.verify("champion@chess")
