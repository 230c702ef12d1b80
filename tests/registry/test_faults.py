"""What goes wrong outside the registry: disks, permissions, locks, other files."""

import errno
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from registry_helpers import LATE, blob_file, sql, tiny, whole
from sqlalchemy import text

from rlarcade import Rule
from rlarcade.errors import RegistryError, RlarcadeError, StaleError
from rlarcade.registry import tables
from rlarcade.registry.registry import DEFAULT_REGISTRY, Registry

NOBODY = 65534


@pytest.fixture
def store():
    """SQLite's file, and what happens to its disk."""
    return "sqlite"


@pytest.fixture
def readable():
    """A folder that every user can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    for folder in [path, *path.rglob("*/")]:
        folder.chmod(0o777)
    shutil.rmtree(path)


@contextmanager
def unprivileged():
    """Becomes somebody whom permissions hold back, if we are root."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_errors_of_the_registry_are_rlarcades():
    assert issubclass(StaleError, RegistryError)
    assert issubclass(RegistryError, RlarcadeError)


def test_a_registry_is_one_folder_that_is_made_when_it_is_first_opened(tmp_path):
    folder = tmp_path / "a" / "b"
    with Registry.open(folder) as made:
        assert made.folder == folder
        assert made.versions() == []
    assert sorted(p.name for p in folder.iterdir()) == ["blobs", "registry.sqlite"]
    with Registry.open(folder, create=False) as again:
        assert again.verify() == []
    assert Path("checkpoints/registry") == DEFAULT_REGISTRY


def test_the_database_waits_for_the_disk_and_checks_its_references(registry, folder):
    assert sql(folder, "PRAGMA journal_mode") == [("wal",)]
    with registry._database.read() as connection:
        for name, value in (("synchronous", 2), ("foreign_keys", 1), ("trusted_schema", 0)):
            assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value
    with (
        pytest.raises(RegistryError, match="FOREIGN KEY constraint failed"),
        registry.change() as change,
    ):
        change.execute(text("INSERT INTO aliases VALUES ('pong', 'x', 77, 1)"))


@pytest.mark.parametrize("name", ["odd?name", "a%20b", "c#d", "e&f=g", "odd?mode=memory", "ü 🎮"])
def test_a_folder_of_any_name_holds_its_own_registry(tmp_path, name):
    for folder in (tmp_path / name, tmp_path / f"{name}x"):
        with Registry.open(folder) as registry:
            registry.put_document(Rule())
            assert registry.verify() == []
        assert sorted(path.name for path in folder.iterdir()) == ["blobs", "registry.sqlite"]
        with Registry.open(folder, create=False) as again:
            assert again.versions() == []
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}x"}


def test_a_folder_without_a_registry_is_refused_with_the_remedy(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            RegistryError, match="holds no registry. Name its folder with --registry"
        ):
            Registry.open(path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError, match="cannot be used: (Not a directory|File exists)"):
        Registry.open(tmp_path / "file")


def test_another_format_is_refused(registry, folder):
    sql(folder, "UPDATE meta SET value = '7' WHERE key = 'format'")
    with pytest.raises(
        RegistryError, match="has format '7'; this rlarcade reads format 1. Install"
    ):
        Registry.open(folder)
    sql(folder, "DELETE FROM meta")
    with pytest.raises(RegistryError, match="has format None"):
        Registry.open(folder)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / "registry.sqlite")) as database:
        database.execute("CREATE TABLE mine (x)")
    with pytest.raises(RegistryError, match="is a database, but not a registry's. Choose another"):
        Registry.open(tmp_path)
    assert sql(tmp_path, "SELECT name FROM sqlite_master") == [("mine",)]


def test_a_database_that_could_run_code_is_refused(registry, folder):
    sql(folder, "CREATE VIEW sneaky AS SELECT * FROM versions")
    with pytest.raises(
        RegistryError, match="triggers, views or virtual tables.*: sneaky. They mig"
    ):
        Registry.open(folder)


def test_a_registry_that_was_killed_while_it_was_made_is_made(tmp_path):
    (tmp_path / "registry.sqlite").touch()
    with pytest.raises(RegistryError, match="but not a registry's"):
        Registry.open(tmp_path, create=False)
    with Registry.open(tmp_path) as made:
        assert whole(made)


def test_tables_that_came_later_are_made_when_a_registry_is_opened(registry, add, folder):
    add(1)
    registry.close()
    sql(folder, "DROP TABLE approvals")
    with Registry.open(folder) as again:
        assert whole(again)
    assert sql(folder, "SELECT count(*) FROM approvals") == [(0,)]


def test_a_damaged_database_is_told_and_not_a_traceback(registry, add, folder):
    for content in range(3):
        add(content)
    registry.close()
    path = folder / "registry.sqlite"
    good = path.read_bytes()
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(RegistryError, match="is not a SQLite database, or is damaged. Import"):
        Registry.open(folder)
    path.write_bytes(good[:8192] + b"\xff" * (len(good) - 8192))
    with pytest.raises(RegistryError, match="is damaged"):
        read_and_write(folder)


def read_and_write(folder):
    with Registry.open(folder) as opened:
        opened.versions()
        opened.register(tiny(folder.parent / "c", 77))


def test_pages_that_contradict_each_other_are_found_by_verify(registry, add, folder):
    add(1)
    (root,) = sql(folder, "SELECT rootpage FROM sqlite_master WHERE name = 'ix_events_kind'")[0]
    registry.close()
    path = folder / "registry.sqlite"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    # The index's only entry goes missing, the table's stays: quick_check alone does not look.
    data[(root - 1) * size + 3 : (root - 1) * size + 5] = b"\0\0"
    data[(root - 1) * size + 5 : (root - 1) * size + 7] = b"\xff\xff"
    path.write_bytes(bytes(data))
    with Registry.open(folder) as again:
        problems = again.verify()
        assert problems[0].where == "database"
        assert "is damaged" in problems[0].what


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_registry_as_it_was(registry, add, tmp_path, monkeypatch, call):
    add(1)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr("rlarcade.registry.blobs.os.fdopen", _Full)
        elif call == "fsync":
            patch.setattr("rlarcade.registry.blobs.os.fsync", full)
        else:
            patch.setattr(Path, "replace", full)
        with pytest.raises(RegistryError, match="cannot be written: No space left on device. Noth"):
            registry.register(LATE)
        with pytest.raises(RegistryError, match="cannot be written: No space left on device"):
            registry.put_document(Rule())
    assert [v.number for v in registry.versions()] == [1]
    assert not list(registry.folder.rglob(".writing*"))
    assert registry.register(tiny(tmp_path / "again", 2)).number == 2
    assert whole(registry)


class _Full:
    """A file that reads, but has no room."""

    def __init__(self, descriptor, mode, **settings):
        self._file = open(descriptor, mode, **settings)  # noqa: PTH123, SIM115

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        self._file.__exit__(*error)

    def read(self, *most):
        return self._file.read(*most)

    def fileno(self):
        return self._file.fileno()

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def fill(change, row):
    change.execute(text("PRAGMA max_page_count = 1"))  # as large as it is now
    change.execute(tables.meta.insert().values(row))


def test_a_database_that_cannot_grow_is_told_and_unchanged(registry, add, folder, tmp_path):
    add(1)
    row = {"key": "much", "value": "x" * 1_000_000}
    with (
        pytest.raises(RegistryError, match="cannot grow: the disk is full. Free some space and"),
        registry.change() as change,
    ):
        fill(change, row)
    with Registry.open(folder) as again:
        assert whole(again)
        assert again.register(tiny(tmp_path / "c", 2)).number == 2


def test_a_folder_that_may_not_be_written_is_told(readable):
    folder = readable / "registry"
    checkpoint = shutil.copytree(LATE, readable / "c")
    with unprivileged():
        with Registry.open(folder) as made:
            made.register(tiny(readable / "tiny", 1))
            for path in [*folder.rglob("*/"), folder]:
                path.chmod(0o555)
            with pytest.raises(RegistryError, match="cannot be written: Permission denied"):
                made.register(checkpoint)
            assert made.version(1).game == "pong"
        for path in folder.rglob("*.sqlite*"):
            path.chmod(0o444)
        with (
            pytest.raises(RegistryError, match="cannot be (written|opened|used).*[Ff]ix"),
            Registry.open(folder) as opened,
        ):
            opened.move_alias("pong", "champion", 1, expected_generation=0, kind="set")
        (readable / "other").mkdir(mode=0o555)
        with pytest.raises(RegistryError, match="cannot be used: Permission denied"):
            Registry.open(readable / "other" / "registry")


def test_a_file_that_may_not_be_read_is_no_damage(readable):
    with unprivileged(), Registry.open(readable / "registry") as made:
        version = made.register(tiny(readable / "tiny", 1))
        path = blob_file(readable / "registry", version.digest)
        path.chmod(0)
        for use in (made.load, made.verify):
            with pytest.raises(RegistryError, match="cannot be read: Permission denied. Fix its"):
                use(1)
        path.chmod(0o444)
        assert made.version(1).state == "ok"
        assert whole(made)


def test_damage_is_told_even_if_it_cannot_be_noted(registry, add, folder):
    blob_file(folder, add(1).digest).unlink()
    with closing(sqlite3.connect(folder / "registry.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            Registry.open(folder, busy_seconds=0.1) as impatient,
            pytest.raises(RegistryError, match="version 1 is broken: blobs/.* is missing"),
        ):
            impatient.load(1)
    assert registry.version(1).state == "ok"


def test_a_locked_database_is_waited_for_and_then_told(registry, add, folder, tmp_path):
    add(1)
    with closing(sqlite3.connect(folder / "registry.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        with Registry.open(folder, busy_seconds=0.1) as impatient:
            assert impatient.version(1).game == "pong"  # who only reads need not wait
            with pytest.raises(RegistryError, match="is in use by another process. Try again when"):
                impatient.move_alias("pong", "champion", 1, expected_generation=0, kind="set")
            with pytest.raises(RegistryError, match="is in use by another process"):
                impatient.register(tiny(tmp_path / "c", 2))
        with Registry.open(folder, busy_seconds=30) as patient:
            worker = threading.Thread(target=_promote, args=(patient,))
            worker.start()
            time.sleep(0.3)
            assert registry.alias("pong") is None
            other.rollback()
            worker.join(timeout=30)
    assert registry.alias("pong").version == 1
    assert whole(registry)


def _promote(registry):
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")


def test_threads_share_a_registry(registry, add):
    for content in range(4):
        add(content)
    errors = []

    def work(number):
        try:
            for _ in range(10):
                generation = registry.generation("pong", f"a{number}")
                registry.move_alias(
                    "pong", f"a{number}", number, expected_generation=generation, kind="set"
                )
                registry.versions()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [a.generation for a in registry.aliases("pong")] == [10] * 4
    assert whole(registry)


def test_a_number_that_no_database_holds_is_refused(registry, tmp_path):
    with pytest.raises(RegistryError, match="too large"):
        registry.register(tiny(tmp_path / "c", 1, seed=2**70))
    assert registry.versions() == []
