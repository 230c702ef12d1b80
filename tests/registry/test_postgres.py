"""A registry on PostgreSQL: its address, its errors, what a crash leaves, and copies of it.

Every other test of the registry runs on PostgreSQL, too: see conftest.
"""

import json
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from postgres_server import drop_database, new_database
from registry_helpers import EARLY, LATE, note, tiny, whole
from serving_process import serving

from rlarcade import promote
from rlarcade.errors import ConfigError, RegistryError, StaleError, UnusableRegistryError
from rlarcade.registry import postgres
from rlarcade.registry.registry import Registry

pytestmark = pytest.mark.slow

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"


@pytest.fixture
def store():
    return "postgres"


def executed(address, statement):
    with psycopg.connect(address.partition("?")[0], autocommit=True) as connection:
        found = connection.execute(statement)
        return found.fetchall() if found.description is not None else []


# Addresses and what can be wrong with them


def test_the_first_to_open_says_where_the_blobs_are_and_the_others_need_not(address, tmp_path):
    with Registry.open(address) as registry:
        registry.register(tiny(tmp_path / "c", 1))
    plain = address.partition("?")[0]
    with Registry.open(plain, create=False) as again:
        assert [version.number for version in again.versions()] == [1]
        assert whole(again)
    with pytest.raises(ConfigError, match="are in .*, not in /elsewhere"):
        Registry.open(f"{plain}?blobs=/elsewhere")


def test_without_a_place_for_blobs_nothing_can_be_registered(database_url):
    with pytest.raises(ConfigError, match=r"does not say where its blobs are.*\?blobs="):
        Registry.open(database_url)
    assert executed(database_url, TABLES) == []


def test_a_registry_whose_place_of_blobs_was_removed_asks_for_it(address):
    Registry.open(address).close()
    executed(address, "DELETE FROM meta WHERE key = 'blobs'")
    with pytest.raises(ConfigError, match=r"does not say where its blobs are.*\?blobs="):
        Registry.open(address.partition("?")[0])
    Registry.open(address).close()


@pytest.mark.parametrize("blobs", ["relative/folder", "nosuchscheme://bucket/folder"])
def test_a_place_that_cannot_hold_blobs_is_refused_and_leaves_no_tables(database_url, blobs):
    with pytest.raises(ConfigError, match="blobs="):
        Registry.open(f"{database_url}?blobs={blobs}")
    assert executed(database_url, TABLES) == []


def test_no_registry_is_told_and_not_made(database_url):
    with pytest.raises(RegistryError, match="holds no registry"):
        Registry.open(database_url, create=False)


def test_a_database_of_another_program_is_refused_and_left_alone(address):
    executed(address, "CREATE TABLE invoices (number int)")
    with pytest.raises(RegistryError, match="a database, but not a registry's"):
        Registry.open(address)
    assert executed(address, TABLES) == [("invoices",)]


def test_two_registries_live_in_two_schemas_of_one_database(address, tmp_path):
    plain, _, query = address.partition("?")
    for name, content in (("one", 1), ("two", 2)):
        executed(plain, f"CREATE SCHEMA {name}")
        path = f"options=-csearch_path%3D{name}"
        with Registry.open(f"{plain}?{query}&{path}") as registry:
            assert registry.register(tiny(tmp_path / name, content)).number == 1


def test_a_schema_that_does_not_exist_is_told(address):
    with pytest.raises(UnusableRegistryError, match="names a schema that does not exist. Create"):
        Registry.open(f"{address}&options=-csearch_path%3Dnowhere")


def test_a_server_that_is_too_old_is_told(address, monkeypatch):
    monkeypatch.setattr(postgres, "OLDEST", 99)
    with pytest.raises(RegistryError, match=r"on PostgreSQL \d+, and rlarcade needs 99 or later"):
        Registry.open(address)


def test_another_format_and_other_columns_are_refused(address):
    Registry.open(address).close()
    executed(address, "UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(RegistryError, match="has format '99'; this rlarcade reads format"):
        Registry.open(address)
    executed(address, "UPDATE meta SET value = '1' WHERE key = 'format'")
    executed(address, "ALTER TABLE aliases ADD COLUMN more text")
    with pytest.raises(UnusableRegistryError, match="was altered: .*aliases"):
        Registry.open(address)


def test_tables_that_came_later_are_made_when_a_registry_is_opened(address, tmp_path):
    with Registry.open(address) as registry:
        registry.register(tiny(tmp_path / "c", 1))
    executed(address, "DROP TABLE shadows")
    with Registry.open(address) as registry:
        assert whole(registry)
    assert executed(address, "SELECT count(*) FROM shadows") == [(0,)]


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("postgres@{host}/nowhere", "does not exist. Create the database first: createdb"),
        ("nobody_here@{host}/postgres", "refuses the user or the password"),
        ("postgres@127.0.0.1:9/postgres", "cannot be reached. Check the address, the user"),
    ],
)
def test_a_server_that_cannot_be_used_is_a_line_with_a_remedy(server_url, server, message, capsys):
    host = server_url.partition("@")[2].partition("/")[0]
    address = f"postgresql://{server.format(host=host)}"
    assert promote.main(["versions", "--registry", address]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_password_is_never_shown(address, capsys):
    host = address.partition("@")[2].partition("/")[0]
    code = promote.main(["versions", "--registry", f"postgresql://anna:secret@{host}/nowhere"])
    told = capsys.readouterr()
    assert code != 0
    assert "secret" not in told.out + told.err
    assert "anna:***@" in told.err


def test_a_user_who_may_only_read_reads_and_is_told(address, tmp_path):
    with Registry.open(address) as registry:
        registry.register(tiny(tmp_path / "c", 1))
    executed(address, "DROP ROLE IF EXISTS reader")
    executed(address, "CREATE ROLE reader LOGIN")
    executed(address, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    as_reader = address.replace("postgres@", "reader@")
    with Registry.open(as_reader, create=False) as registry:
        assert registry.verify() == []
        with pytest.raises(UnusableRegistryError, match="does not let this user do that"):
            registry.register(tiny(tmp_path / "d", 2))


def test_a_server_without_the_extra_names_it(address, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"postgres.*pip install"):
        Registry.open(address)


# What text PostgreSQL cannot keep


@pytest.mark.parametrize("where", ["actor", "reason", "document"])
def test_text_with_a_nul_is_kept_or_refused_and_never_a_traceback(address, tmp_path, where):
    with Registry.open(address) as registry:
        registry.register(tiny(tmp_path / "c", 1))
        text = "before\0after"
        if where == "actor":
            note(registry, "hello", actor=text)
        elif where == "document":
            note(registry, "hello", {"text": text})
        else:
            registry.move_alias(
                "pong", "champion", 1, expected_generation=0, kind="set", reason=text
            )
        assert whole(registry)


def test_a_name_that_is_too_long_is_refused_and_changes_nothing(address, tmp_path):
    with Registry.open(address) as registry:
        registry.register(tiny(tmp_path / "c", 1))
        with pytest.raises(RegistryError):
            registry.move_alias("pong", "a" * 65, 1, expected_generation=0, kind="set")
        assert whole(registry)


# Writers


def test_who_writes_elsewhere_is_not_named(address, tmp_path):
    plain, _, query = address.partition("?")
    executed(plain, "CREATE SCHEMA two")
    one, two = address, f"{plain}?{query}&options=-csearch_path%3Dtwo"
    with Registry.open(one) as first, Registry.open(two) as second:
        with first.change("anna") as change:
            change.record("hello", {})
            note(second, "hello")  # another registry's writer does not wait
        with closing(second.alone()) as lock, closing(first.alone()) as other:
            assert lock.holder() is None
            assert other.holder() is None


def test_writers_take_turns_and_who_waits_too_long_is_told_by_whom(address):
    with (
        Registry.open(address) as first,
        Registry.open(address, busy_seconds=0.2) as second,
        first.change("anna") as change,
    ):
        change.record("hello", {})
        with pytest.raises(UnusableRegistryError, match=r"in use by rlarcade, process \d+ on"):
            note(second, "hello")
    with Registry.open(address) as registry:
        assert [event.kind for event in registry.events()] == ["hello"]


def test_a_writer_that_waited_sees_what_was_committed_meanwhile(address, tmp_path):
    """A snapshot from before the wait would lose the first writer's change."""
    with Registry.open(address) as first, Registry.open(address) as second:
        first.register(tiny(tmp_path / "c", 1))
        entered, outcomes = threading.Event(), []

        def move():
            entered.wait()
            try:
                second.move_alias("pong", "champion", 1, expected_generation=0, kind="set")
            except StaleError as error:
                outcomes.append(error)

        thread = threading.Thread(target=move)
        thread.start()
        with first.change() as change:
            change.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
            entered.set()
            time.sleep(0.5)  # the other one waits for the lock by now
        thread.join()
        assert len(outcomes) == 1
        assert [move.kind for move in first.history("pong")] == ["promote"]


def test_reads_see_one_state_while_others_write(address, tmp_path):
    with Registry.open(address) as reader, Registry.open(address) as writer:
        writer.register(tiny(tmp_path / "c", 1))
        events = reader.events()
        next(events)
        note(writer, "later")
        assert list(events) == []


# Crashes of the server


def test_a_server_that_restarts_is_used_again(fragile_server, tmp_path):
    database = new_database(fragile_server.url)
    with Registry.open(f"{database}?blobs={tmp_path / 'b'}") as registry:
        note(registry, "before")
        fragile_server.stop()
        with pytest.raises(UnusableRegistryError, match="cannot be reached"):
            note(registry, "meanwhile")
        fragile_server.start()
        note(registry, "after")
        assert [event.kind for event in registry.events()] == ["before", "after"]
        assert whole(registry)
    drop_database(fragile_server.url, database)


class Line:
    """A connection to a server that can break at the next commit: before it arrives, or after."""

    def __init__(self, url):
        host = url.partition("@")[2].partition("/")[0]
        name, _, port = host.rpartition(":")
        self._server = name, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(host, f"127.0.0.1:{self._listening.getsockname()[1]}")
        self.breaks = None
        self._passing = []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._passing:
            thread.join()

    def _accept(self):
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                thread = threading.Thread(target=self._pass_on, args=(client, server), daemon=True)
                thread.start()
                self._passing.append(thread)

    def _pass_on(self, client, server):
        with client, server:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source, target in ((client, server), (server, client)):
                    if source not in ready:
                        continue
                    data = source.recv(65_536)
                    if source is client and self.breaks is not None and b"COMMIT\0" in data:
                        breaks, self.breaks = self.breaks, None
                        if breaks == "after":
                            server.sendall(data)
                            server.recv(65_536)  # it says that it has committed
                        return
                    if not data:
                        return
                    target.sendall(data)


@pytest.mark.parametrize("breaks", ["before", "after"])
def test_a_commit_whose_connection_is_lost_is_looked_up(database_url, tmp_path, breaks):
    with (
        Line(database_url) as line,
        Registry.open(f"{line.url}?blobs={tmp_path / 'b'}") as registry,
    ):
        note(registry, "first")
        line.breaks = breaks
        if breaks == "after":
            note(registry, "second")
        else:
            with pytest.raises(UnusableRegistryError, match="nothing was changed. Repeat"):
                note(registry, "second")
        assert line.breaks is None
        kinds = [event.kind for event in registry.events()]
        assert kinds == (["first", "second"] if breaks == "after" else ["first"])
        assert whole(registry)


def test_the_token_of_a_change_is_kept_for_a_day(address):
    with Registry.open(address) as registry:
        note(registry, "first")
        assert executed(address, "SELECT count(*) FROM commits") == [(2,)]  # one is of the opening
        executed(address, "UPDATE commits SET time = time - interval '25 hours'")
        note(registry, "second")
        assert executed(address, "SELECT count(*) FROM commits") == [(1,)]


def test_an_outcome_that_nobody_can_tell_is_not_guessed(fragile_server, tmp_path, monkeypatch):
    monkeypatch.setattr(postgres, "_LOOK_UP_SECONDS", 1.0)
    database = new_database(fragile_server.url)
    with Registry.open(f"{database}?blobs={tmp_path / 'b'}") as registry:
        commit = postgres.RootTransaction.commit

        def crashed(transaction):
            monkeypatch.setattr(postgres.RootTransaction, "commit", commit)
            fragile_server.stop()
            commit(transaction)

        monkeypatch.setattr(postgres.RootTransaction, "commit", crashed)
        with pytest.raises(UnusableRegistryError, match="could not be asked .*`promote audit log`"):
            note(registry, "unknown")
        fragile_server.start()
        assert whole(registry)
    drop_database(fragile_server.url, database)


WRITER = """
import sys
from rlarcade.errors import UnusableRegistryError
from rlarcade.registry.registry import Registry
with Registry.open(sys.argv[1], create=False, busy_seconds=60.0) as registry:
    print("ready", flush=True)
    for number in range(100_000):
        try:
            with registry.change(sys.argv[2]) as change:
                change.record("hello", {"number": number})
        except UnusableRegistryError:
            continue  # told that nothing was changed, or that the server is away
        print(number, flush=True)
"""


def test_a_server_that_crashes_again_and_again_keeps_what_was_told(fragile_server, tmp_path):
    database = new_database(fragile_server.url)
    address = f"{database}?blobs={tmp_path / 'b'}"
    Registry.open(address).close()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, address, f"writer {number}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for pause in (0.5, 0.2, 0.8):
        time.sleep(pause)
        fragile_server.stop()
        fragile_server.start()
    time.sleep(1.0)
    told = []
    for writer in writers:
        writer.kill()
        lines = writer.communicate()[0].splitlines(keepends=True)
        told.append([int(line) for line in lines if line.endswith("\n")])
    with Registry.open(address) as registry:
        assert whole(registry)
        for number, mine in enumerate(told):
            its = [event for event in registry.events() if event.actor == f"writer {number}"]
            kept = [event.document["number"] for event in its]
            # Told is kept. The last one may be kept and not told, because the kill came first.
            assert [one for one in kept if one in set(mine)] == mine
            assert len(kept) - len(mine) <= 1
            assert len(mine) > 3
    drop_database(fragile_server.url, database)


# The lock of the server that drives rollouts


def test_one_server_drives_until_it_ends_or_loses_its_connection(fragile_server, tmp_path):
    database = new_database(fragile_server.url)
    address = f"{database}?blobs={tmp_path / 'b'}"
    with (
        Registry.open(address) as one,
        Registry.open(address) as other,
        closing(one.alone()) as first,
        closing(other.alone()) as second,
    ):
        assert first.holder() is None
        assert "rlarcade, process" in second.holder()
        assert first.holder() is None
        note(other, "the lock is no writer's")
        connection = first._connection
        connection.close, close = lambda: None, connection.close  # the server hears of it later
        first.close()
        assert second.holder() is None
        close()
        assert "rlarcade, process" in first.holder()
        fragile_server.stop()
        with pytest.raises(UnusableRegistryError, match="cannot be reached"):
            second.holder()
        fragile_server.start()
        assert first.holder() is None
        assert "rlarcade, process" in second.holder()
    drop_database(fragile_server.url, database)


# Copies


def filled(registry, tmp_path):
    for content in range(3):
        registry.register(tiny(tmp_path / f"c{content}", content))
    for generation, version in enumerate((1, 3, 2)):
        registry.move_alias(
            "pong", "champion", version, expected_generation=generation, kind="promote"
        )
    registry.rollback("pong")
    note(registry, "hello", {"text": "naïve"})


def contents(registry):
    return {
        "versions": [version.model_dump() for version in registry.versions(archived=True)],
        "aliases": [alias.model_dump() for alias in registry.aliases()],
        "events": [event.model_dump() for event in registry.events()],
        "head": registry.audit_head(),
    }


def test_a_registry_goes_to_a_server_and_back_with_its_history(address, tmp_path, capsys):
    folder, back = tmp_path / "folder", tmp_path / "back"
    with Registry.open(folder) as registry:
        filled(registry, tmp_path)
        expected = contents(registry)
    assert promote.main(["copy", address, "--registry", str(folder)]) == 0
    with Registry.open(address, create=False) as there:
        assert contents(there) == expected
        assert whole(there)
        note(there, "later")
        there.copy(back)
        expected = contents(there)
    with Registry.open(back, create=False) as again:
        assert contents(again) == expected
        assert whole(again)
    assert f"copied to {address.partition('?')[0]}" in capsys.readouterr().out


def test_an_export_of_a_server_is_imported_into_a_folder(address, tmp_path):
    with Registry.open(address) as registry:
        filled(registry, tmp_path)
        registry.export(tmp_path / "all.tar")
        expected = contents(registry)
    with Registry.import_(tmp_path / "all.tar", tmp_path / "folder") as imported:
        assert contents(imported) == expected
        assert whole(imported)
    with pytest.raises(RegistryError, match="imported into a folder"):
        Registry.import_(tmp_path / "all.tar", address)


def test_nothing_is_copied_over_a_history(address, tmp_path):
    folder = tmp_path / "folder"
    with Registry.open(folder) as registry, Registry.open(address) as there:
        filled(registry, tmp_path)
        note(there, "hello")
        with pytest.raises(RegistryError, match="holds a registry with a history already"):
            registry.copy(address)
        assert [event.kind for event in there.events()] == ["hello"]


def test_a_copy_that_is_killed_can_be_made_again(address, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    with Registry.open(folder) as registry:
        filled(registry, tmp_path)

        def killed(number):
            if number == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            registry.copy(address, killed)
        registry.copy(address)
        with Registry.open(address, create=False) as there:
            assert contents(there) == contents(registry)


# Blobs elsewhere


def test_blobs_lie_at_any_address_of_fsspec(database_url, tmp_path):
    import fsspec

    place = f"memory://{database_url.rpartition('/')[2]}/blobs"
    with Registry.open(f"{database_url}?blobs={place}") as registry:
        version = registry.register(tiny(tmp_path / "c", 1))
        assert registry.load(1).manifest.game == "pong"
        assert whole(registry)
        files, root = fsspec.core.url_to_fs(place)
        path = f"{root}/{version.digest[:2]}/{version.digest}"
        assert files.exists(path)
        files.pipe_file(path, b"damaged")
        assert [problem.where for problem in registry.verify()] == ["version 1"]
        assert registry.register(tiny(tmp_path / "c", 1)).state == "ok"  # it is repaired
        files.rm(path)
        with pytest.raises(RegistryError, match="is missing"):
            registry.load(1)


def test_a_place_that_cannot_be_written_makes_no_registry(database_url, monkeypatch):
    """The first command says the place for ever. A slip in it must not be kept."""
    from fsspec.implementations.memory import MemoryFileSystem

    def refused(*_):
        raise PermissionError("Access Denied")

    address = f"{database_url}?blobs=memory://refused/blobs"
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", refused)
        with pytest.raises(UnusableRegistryError, match="the blobs in memory.*Access Denied"):
            Registry.open(address)
    with pytest.raises(RegistryError, match="holds no registry"):
        Registry.open(database_url, create=False)
    Registry.open(f"{database_url}?blobs=memory://other/blobs").close()


@pytest.mark.parametrize("left", ["an empty folder", "nothing"])
def test_a_machine_that_lacks_the_shared_folder_marks_nothing_broken(address, tmp_path, left):
    """Its mount failed. The other machines see the files, and their champion stays."""
    folder = Path(address.partition("blobs=")[2])
    checkpoint, plain = tiny(tmp_path / "c", 1), address.partition("?")[0]
    with Registry.open(address) as running:
        running.register(checkpoint)
        there = folder.rename(tmp_path / "there")
        if left == "an empty folder":
            folder.mkdir()
        lacks = "on this machine. Mount the folder"
        for use in (lambda: running.load(1), running.verify, lambda: running.register(checkpoint)):
            with pytest.raises(UnusableRegistryError, match=lacks):
                use()
        for again in (plain, address):
            with pytest.raises(UnusableRegistryError, match=lacks):
                Registry.open(again)
        assert folder.exists() == (left == "an empty folder")
        if left == "an empty folder":
            folder.rmdir()
        there.rename(folder)
        assert running.load(1).manifest.game == "pong"
        assert [event.kind for event in running.events()] == ["register"]
        assert whole(running)


def test_the_folder_of_a_new_registry_is_never_empty(address):
    folder = Path(address.partition("blobs=")[2])
    Registry.open(address).close()
    assert [path.name for path in folder.iterdir()] == ["README.txt"]
    Registry.open(address, create=False).close()


# Everything else that takes a registry's address


def test_the_commands_take_the_address(address, tmp_path, capsys):
    checkpoint = tiny(tmp_path / "c", 1)
    assert promote.main(["register", str(checkpoint), "--registry", address]) == 0
    plain = address.partition("?")[0]
    out = tmp_path / "v.json"
    assert promote.main(["versions", "--registry", plain, "--json", str(out)]) == 0
    assert [version["number"] for version in json.loads(out.read_text())["versions"]] == [1]
    assert promote.main(["verify", "--all", "--registry", plain]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_training_sends_its_checkpoints_to_a_registry_on_a_server(address, tmp_path, command):
    tiny_run = ("--total-timesteps", 40, "--num-envs", 2, "--buffer-size", 20, "--eval-episodes", 1)
    flags = ("--learning-starts", 20, "--conv-channels", 2, 2, 2, "--hidden-units", 4, *tiny_run)
    words = ("--game", "Pong", "--preset", "dqn", *flags, "--pipeline", "ci")
    plain = address.partition("?")[0]
    code, _, err = command("train", *words, "--registry", plain, "--run-dir", tmp_path / "a")
    assert code == 2
    assert "does not say where its blobs are" in err
    code, out, err = command("train", *words, "--registry", address, "--run-dir", tmp_path / "b")
    assert code == 0, err
    assert "submission 1: version 1 of Pong" in out
    again = ("--init-from", "1", "--registry", plain, "--run-dir", tmp_path / "c")
    code, _, err = command("train", *words[:-2], *again)
    assert code == 0, err


def test_a_gate_and_a_server_use_a_registry_on_a_server(address, tmp_path, command):
    """From a checkpoint to a served champion, as in a folder."""
    plain = address.partition("?")[0]
    (tmp_path / "gate.toml").write_text("[random]\nenabled = false\n")
    flags = ("--gate", tmp_path / "gate.toml", "--mode", "deployment", "--registry")
    code, out, _ = command("promote", "pipeline", "run", EARLY, *flags, address)
    assert (code, "PROMOTED" in out) == (0, True)
    code, out, _ = command("promote", "pipeline", "run", LATE, *flags, plain)
    assert (code, "PROMOTED" in out) == (0, True)
    with serving(tmp_path, "--registry", plain) as server:
        assert "version 2" in server.run("play", "--games", "1")
        server.run("rollout", "start", "1", "--strategy", "big-bang")
        server.until(lambda: server.rollout()["state"] == "succeeded")
        assert "version 1" in server.run("play", "--games", "1")
        assert server.end() == 0
    with Registry.open(plain, create=False) as registry:
        assert registry.alias("space_invaders").version == 1
        assert whole(registry)
