import hashlib
import io
import shutil
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest
from registry_helpers import blob_file, flip_a_byte, sql, whole

from rlarcade import Rule
from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.registry.registry import Registry


@pytest.fixture
def exported(registry, add, tmp_path):
    """An export of two versions, an alias and a document."""
    add(1), add(2)
    registry.put_document(Rule())
    registry.move_alias("pong", "champion", 2, expected_generation=0, kind="promote")
    registry.export(tmp_path / "export.tar")
    return tmp_path / "export.tar"


def refused(file, tmp_path, message):
    with pytest.raises(RegistryError, match=message):
        Registry.import_(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def members(file):
    """Names and contents of an export, by another reader."""
    with tarfile.open(file, "r:") as tar:
        return [(m.name, tar.extractfile(m).read()) for m in tar]


def pack(file, contents):
    """Packs members as `write` would, but with any contents."""
    from rlarcade.registry.export import _header

    with file.open("wb") as target:
        for name, data in contents:
            target.write(_header(name, len(data)) + data + bytes(-len(data) % 512))
        target.write(bytes(1024))
    return file


def test_an_imported_registry_is_the_exported_one(registry, exported, tmp_path):
    with Registry.import_(exported, tmp_path / "new") as new:
        assert new.versions() == registry.versions()
        assert new.aliases() == registry.aliases()
        assert list(new.events()) == list(registry.events())
        assert new.load("champion@pong").manifest == registry.load(2).manifest
        assert whole(new)
        new.move_alias("pong", "champion", 1, expected_generation=1, kind="promote")
        assert registry.alias("pong").version == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "export.tar", "new", "pong-1", "pong-2", "registry",
    ]  # fmt: skip
    blobs = [p for p in (tmp_path / "new" / "blobs").rglob("*") if p.is_file()]
    assert len(blobs) == 5
    assert all(p.stat().st_mode & 0o777 == 0o444 for p in blobs)
    assert all(hashlib.sha256(p.read_bytes()).hexdigest() == p.name for p in blobs)


def test_an_export_is_a_tar_that_other_programs_read(exported, tmp_path):
    listed = subprocess.run(
        ["tar", "-tf", exported], check=True, capture_output=True, text=True
    ).stdout.split()
    assert listed[0] == "registry.sqlite"
    assert len(listed) == 6
    assert all(name.startswith("blobs/sha256/") for name in listed[1:])
    (tmp_path / "t").mkdir()
    subprocess.run(["tar", "-xf", exported, "-C", tmp_path / "t"], check=True)
    with Registry.open(tmp_path / "t", create=False) as unpacked:
        assert whole(unpacked)
    assert [name for name, _ in members(exported)] == listed


def test_an_export_is_consistent_while_others_write(registry, add, tmp_path, monkeypatch):
    from rlarcade.registry.sqlite import SqliteDatabase

    copy_to = SqliteDatabase.copy_to

    def then_another(self, path):
        copy_to(self, path)
        add(99)

    add(1)
    monkeypatch.setattr(SqliteDatabase, "copy_to", then_another)
    registry.export(tmp_path / "e.tar")
    with Registry.import_(tmp_path / "e.tar", tmp_path / "new") as new:
        assert [v.number for v in new.versions()] == [1]
        assert whole(new)


def test_an_empty_registry_travels_too(registry, tmp_path):
    registry.export(tmp_path / "e.tar")
    with Registry.import_(tmp_path / "e.tar", tmp_path / "new") as new:
        assert new.versions() == []


def test_an_export_does_not_write_over_a_file(registry, exported):
    before = exported.read_bytes()
    with pytest.raises(RegistryError, match=r"export\.tar exists already. Choose another name"):
        registry.export(exported)
    assert exported.read_bytes() == before


def test_two_exports_to_one_name_share_no_file_and_the_first_one_stays(
    registry, add, tmp_path, monkeypatch
):
    """Two backups overlap: the second ends while the first still reads its copy."""
    add(1)
    path, seen, real = tmp_path / "all.tar", [], registry._database.copy_to

    def copied(copy):
        seen.append(copy)
        real(copy)
        if len(seen) == 1:
            registry.export(path)
            first.append(path.read_bytes())

    first = []
    monkeypatch.setattr(registry._database, "copy_to", copied)
    with pytest.raises(RegistryError, match=r"all\.tar exists already. Choose another name"):
        registry.export(path)
    assert len(set(seen)) == 2
    assert [path.read_bytes()] == first
    with Registry.import_(path, tmp_path / "new") as new:
        assert len(new.versions()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.tar", "new", "pong-1", "registry"]


def test_an_export_is_named_where_there_are_no_links(registry, add, tmp_path, monkeypatch):
    add(1)

    def unlinked(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("rlarcade.registry.export.os.link", unlinked)
    registry.export(tmp_path / "all.tar")
    with Registry.import_(tmp_path / "all.tar", tmp_path / "new") as new:
        assert len(new.versions()) == 1


def test_an_export_that_cannot_be_written_leaves_nothing(registry, add, tmp_path, monkeypatch):
    add(1)
    with pytest.raises(RegistryError, match="cannot be|unable to open"):
        registry.export(tmp_path / "nowhere" / "e.tar")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlarcade.registry.export.os.fsync", full)
    with pytest.raises(RegistryError, match=r"e\.tar cannot be written: No space left on device"):
        registry.export(tmp_path / "e.tar")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pong-1", "registry"]


def test_an_import_that_cannot_be_written_leaves_nothing(exported, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlarcade.registry.export.os.fsync", full)
    refused(exported, tmp_path, "cannot be imported into .*new: No space left on device")
    refused(tmp_path / "nothing.tar", tmp_path, "cannot be imported .*No such file")


def test_a_broken_version_travels_as_broken_and_can_be_mended_there(
    registry, add, tmp_path, folder
):
    add(1)
    digest = add(2).digest
    flip_a_byte(blob_file(folder, digest))
    registry.export(tmp_path / "e.tar")
    with Registry.import_(tmp_path / "e.tar", tmp_path / "new") as new:
        assert [v.state for v in new.versions()] == ["ok", "broken"]
        assert not blob_file(tmp_path / "new", digest).exists()
        assert new.register(tmp_path / "pong-2").state == "ok"
        assert whole(new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE versions SET steps = 9", "version 1 its row was altered: steps is 9"),
        ("UPDATE events SET actor = 'eve'", "event 1 was altered"),
    ],
)
def test_a_registry_that_was_altered_is_neither_exported_nor_copied(
    registry, add, folder, tmp_path, change, message
):
    add(1)
    sql(folder, change)
    with pytest.raises(RegistryError, match=f"cannot be exported: {message}"):
        registry.export(tmp_path / "e.tar")
    with pytest.raises(RegistryError, match=f"cannot be copied: {message}"):
        registry.copy(tmp_path / "copy")
    assert not any((tmp_path / name).exists() for name in ("e.tar", "copy"))


def test_nothing_is_imported_over_something_else(exported, tmp_path, folder):
    with pytest.raises(
        RegistryError, match="registry is in use already. Import into a folder that"
    ):
        Registry.import_(exported, folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RegistryError, match="file is in use already"):
        Registry.import_(exported, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with Registry.import_(exported, tmp_path / "empty") as new:
        assert len(new.versions()) == 2


def test_a_folder_without_a_name_is_refused(exported, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path(), Path("/")):
        with pytest.raises(RegistryError, match="Name a new folder") as caught:
            Registry.import_(exported, folder)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/tmp/outside",
        "blobs/../../outside",
        "registry.sqlite/../../outside",
        "blobs/sha256/ab/../../../../outside",
        "./registry.sqlite",
        "extra",
        "registry.sqlite-wal",
        "blobs/sha256/ab/" + "cd" * 32,  # in the folder of another
        "blobs/sha256/ab/" + "AB" * 32,
        "blobs/sha256/ab/ab",
        "blobs/sha256/ab/" + "ab" * 32 + "\n",
    ],
)
def test_a_member_that_would_land_elsewhere_is_refused(exported, tmp_path, name):
    file = pack(tmp_path / "hostile.tar", [*members(exported), (name, b"x")])
    refused(file, tmp_path, "it contains .*, which no registry has")
    file = pack(tmp_path / "hostile.tar", [(name, b"x"), *members(exported)])
    refused(file, tmp_path, "it contains .*, which no registry has")
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
     tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE],
)  # fmt: skip
@pytest.mark.parametrize("name", ["registry.sqlite", "blobs/sha256/ab/" + "ab" * 32])
def test_a_member_that_is_no_plain_file_is_refused(tmp_path, kind, name):
    with tarfile.open(tmp_path / "hostile.tar", "w:", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    refused(tmp_path / "hostile.tar", tmp_path, "is a link, a folder or something else")


def test_extensions_of_the_format_are_refused(exported, tmp_path):
    for form, kind in (
        (tarfile.PAX_FORMAT, "link, a folder"),
        (tarfile.GNU_FORMAT, "a link, a fo"),
    ):
        with tarfile.open(tmp_path / "hostile.tar", "w:", format=form) as tar:
            member = tarfile.TarInfo("registry.sqlite/" + "é" * 200)
            tar.addfile(member)
        refused(tmp_path / "hostile.tar", tmp_path, kind)
    with tarfile.open(tmp_path / "foreign.tar", "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members(exported):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o4777
            tar.addfile(member, io.BytesIO(data))
    refused(tmp_path / "foreign.tar", tmp_path, "the header of registry.sqlite differs from")


def test_a_header_that_promises_another_size_is_refused(exported, tmp_path):
    good = exported.read_bytes()
    file = tmp_path / "hostile.tar"
    for field in (b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b" " * 12):
        file.write_bytes(good[:124] + field + good[136:])
        refused(file, tmp_path, "the header of registry.sqlite differs from that of")


def test_members_twice_missing_or_in_another_order_are_refused(exported, tmp_path):
    contents = members(exported)
    file = tmp_path / "hostile.tar"
    for wrong in (
        [contents[0], *contents],
        [*contents, contents[-1]],
        [*contents, contents[0]],
        contents[1:],
        [contents[0], *reversed(contents[1:])],
    ):
        refused(pack(file, wrong), tmp_path, "is out of order")
    for missing in range(1, 6):
        pack(file, contents[:missing] + contents[missing + 1 :])
        with Registry.open(tmp_path / "registry") as original:
            named = {d for v in original.versions() for d in (v.digest, v.manifest_digest)}
        if contents[missing][0].rpartition("/")[2] in named:
            refused(file, tmp_path, r"was altered: version [12]: blobs/.* is missing")


def test_any_altered_blob_is_refused(exported, tmp_path):
    contents = members(exported)
    for index in range(1, 6):
        name, data = contents[index]
        changed = contents.copy()
        changed[index] = (name, data[:-1] + bytes([data[-1] ^ 1]))
        file = pack(tmp_path / "hostile.tar", changed)
        refused(file, tmp_path, f"blob {name[-64:]} was altered")


def test_an_export_that_was_cut_off_anywhere_or_goes_on_is_refused(exported, tmp_path):
    good = exported.read_bytes()
    file = tmp_path / "cut.tar"
    for length in (0, 100, 512, 700, 40_000, len(good) - 1500, len(good) - 1024, len(good) - 1):
        file.write_bytes(good[:length])
        refused(file, tmp_path, "cut off|its end is not|not a tar file")
    for more in (b"x", bytes(512), bytes(511)):
        file.write_bytes(good + more)
        refused(file, tmp_path, "its end is not that of an export")
    file.write_bytes(bytes(1024))
    refused(file, tmp_path, "its end is not that of an export")


def test_what_hides_between_members_is_refused(exported, tmp_path):
    name, data = members(exported)[1]
    good = exported.read_bytes()
    at = good.index(name.encode()) + 512 + len(data)
    assert len(data) % 512
    (tmp_path / "h.tar").write_bytes(good[:at] + b"x" + good[at + 1 :])
    refused(tmp_path / "h.tar", tmp_path, "the padding after .* is not empty")


@pytest.mark.parametrize("text", [b"", b"x" * 5000, b"\x1f\x8b" + b"\0" * 5000, b"PK\3\4" * 500])
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "x").write_bytes(text)
    refused(tmp_path / "x", tmp_path, "is not a registry's export, .*: it is (cut|not a tar)")


def with_database(exported, tmp_path, *statements):
    """The export with statements run on its database."""
    contents = members(exported)
    (tmp_path / "x.sqlite").write_bytes(contents[0][1])
    database = sqlite3.connect(tmp_path / "x.sqlite")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    contents[0] = ("registry.sqlite", (tmp_path / "x.sqlite").read_bytes())
    return pack(tmp_path / "hostile.tar", contents)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END", "triggers.*: t"),
        ("CREATE VIEW v AS SELECT 1", "triggers, views or virtual tables.*: v"),
        ("CREATE VIRTUAL TABLE w USING rtree(id, a, b)", "triggers, views or virtual tables.*: w"),
        ("UPDATE meta SET value = '2' WHERE key = 'format'", "has format '2'; this rlarcade reads"),
        ("DROP TABLE meta", "is a database, but not a registry's"),
        ("DROP TABLE events", "event 1: is missing"),
        (
            "DELETE FROM events WHERE sequence = 2",
            "was altered: event 2: is missing from the audit",
        ),
        (
            "UPDATE aliases SET version = 1",
            "alias champion@pong: its row was altered: version is 1",
        ),
        ("UPDATE versions SET manifest_digest = '../../x' WHERE number = 1", "version 1: its row"),
    ],
)
def test_a_database_that_was_altered_is_refused(exported, tmp_path, statement, message):
    refused(with_database(exported, tmp_path, statement), tmp_path, message)


def test_a_database_that_is_none_is_refused(exported, tmp_path):
    contents = members(exported)
    page = contents[0][1]
    for text, message in (
        (b"", "but not a registry's"),
        (b"not a database" * 100, "is not a SQLite database, or is damaged"),
        (page[:4096] + b"\xff" * (len(page) - 4096), "damaged"),
    ):
        file = pack(tmp_path / "hostile.tar", [("registry.sqlite", text), *contents[1:]])
        refused(file, tmp_path, message)
        # the file is what the user knows, and damage is no wrong command
        with pytest.raises(UnusableRegistryError, match="nothing was imported.*hostile.tar/reg"):
            Registry.import_(file, tmp_path / "new")


def test_somebody_who_takes_the_folder_meanwhile_keeps_it(exported, tmp_path, monkeypatch):
    from rlarcade.registry import verification

    def meanwhile(database, connection, blobs):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").write_text("x")
        return []

    monkeypatch.setattr(verification, "whole", meanwhile)
    with pytest.raises(RegistryError, match="cannot be imported into .*new: Directory not empty"):
        Registry.import_(exported, tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["theirs"]
    shutil.rmtree(tmp_path / "new")
