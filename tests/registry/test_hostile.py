"""A registry from a stranger, or one that was altered by hand: told in a line, never obeyed."""

import hashlib
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from promoting import play_by_strength, quick_gate, saved_agent
from registry_helpers import blob_file, sql, tiny, whole
from tiers import quick_first

from rlarcade import promote
from rlarcade.checkpoint import load_checkpoint
from rlarcade.errors import CheckpointError, ConfigError, RegistryError, RlarcadeError
from rlarcade.evaluation import Rule
from rlarcade.playing.references import load_named
from rlarcade.promotion.checks import make_verdict
from rlarcade.promotion.gate import load_gate
from rlarcade.promotion.pipeline import approve, run_pipeline, verdict_of
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry import locks, registration
from rlarcade.registry.export import _header
from rlarcade.registry.registry import Registry

GOLDEN = Path(__file__).parent.parent / "data" / "written-by-0.1.0" / "registry"
AGENTS = [GOLDEN.parent.parent / f"space-invaders-{name}" for name in ("early", "late")]
MEGABYTES = 400  # that a command may take more of than it did before


@pytest.fixture
def store():
    """SQLite's file, which may come from a stranger."""
    return "sqlite"


@pytest.fixture
def golden(tmp_path):
    """A registry that rlarcade 0.1.0 wrote, with the weights that are not kept twice."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    for agent in AGENTS:
        data = (agent / "weights.safetensors").read_bytes()
        path = blob_file(folder, hashlib.sha256(data).hexdigest())
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return folder


def within(seconds, call):
    """Calls in a thread; fails if it takes longer, as it does when something is waited for."""
    said = []

    def run():
        try:
            call()
            said.append(None)
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert said, f"not done after {seconds} seconds"
    return said[0]


# What older code wrote


def test_a_registry_of_an_older_rlarcade_is_read_verified_and_gone_on_with(golden, tmp_path):
    with Registry.open(golden, create=False) as registry:
        assert whole(registry)
        assert [one.number for one in registry.versions()] == [1, 2]
        assert registry.alias("space_invaders").generation == 3
        assert [m.kind for m in registry.history("space_invaders")] == [
            "promote", "promote", "rollback",
        ]  # fmt: skip
        assert [m.os_user for m in registry.history("space_invaders")] == [None] * 3
        found = submissions_of(registry)
        assert [one.state for one in found] == ["rejected", "promoted", "promoted"]
        (said,) = found[1].approvals
        assert (said.by, said.decision, said.note) == ("anna", "approve", "ok")
        verdicts = [verdict_of(registry, one) for one in found]
        assert [one.outcome for one in verdicts] == ["rejected", "passed", "passed"]
        assert registry.load("champion@space_invaders").manifest.game == "space_invaders"
        registry.export(tmp_path / "e.tar")
        registry.register(tiny(tmp_path / "c", 1))
        assert whole(registry)
    with Registry.import_(tmp_path / "e.tar", tmp_path / "new") as new:
        assert whole(new)


# The schema


SCHEMAS = [
    "CREATE TABLE more (x)",
    "CREATE/**/VIRTUAL TABLE w USING rtree(id, a, b)",
    "CREATE VIRTUAL/* */TABLE w USING rtree(id, a, b)",
    "ALTER TABLE aliases ADD COLUMN much BLOB GENERATED ALWAYS AS (zeroblob(1000000000))",
    "ALTER TABLE versions ADD COLUMN note TEXT",
    "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events; END",
    "CREATE VIEW v AS SELECT * FROM versions",
    "CREATE INDEX i ON versions (digest)",
    "CREATE INDEX i ON versions (zeroblob(100))",
    "CREATE UNIQUE INDEX i ON events (kind) WHERE abs(sequence) > 0",
    "DROP INDEX ix_events_kind",
    "ALTER TABLE submissions RENAME COLUMN note TO remark",
]


@pytest.mark.parametrize("statement", SCHEMAS)
def test_a_database_of_another_schema_is_refused_before_a_row_is_read(
    registry, add, folder, statement
):
    add(1)
    sql(folder, statement)
    for create in (True, False):
        with pytest.raises(
            RegistryError,
            match=r"was altered: it has tables, .* that rlarcade did not create, or not",
        ) as told:
            Registry.open(folder, create=create)
        assert told.value.exit_code == 1


def test_a_column_that_is_computed_takes_no_memory(registry, add, folder, tmp_path):
    """The column replaces one of ours, so that whatever reads versions computes it."""
    add(1)
    (text,) = sql(folder, "SELECT sql FROM sqlite_master WHERE name = 'versions'")[0]
    with closing(sqlite3.connect(folder / "registry.sqlite")) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(
            "UPDATE sqlite_master SET sql = ? WHERE name = 'versions'",
            (text.replace("source TEXT NOT NULL", "source AS (zeroblob(900000000))"),),
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        with pytest.raises(RegistryError), Registry.open(folder) as opened:
            opened.versions()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1000


def test_a_value_larger_than_any_of_a_registry_is_not_read(registry, add, folder):
    add(1)
    sql(folder, "UPDATE versions SET source = zeroblob(50000000)")
    for use in (registry.versions, lambda: registry.version(1), registry.verify):
        with pytest.raises(RegistryError, match="too large to be from rlarcade"):
            use()


def test_the_schema_is_that_of_every_form_that_was_released(golden, registry, folder):
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    assert set(sql(golden, query)) <= set(sql(folder, query))
    with Registry.open(golden):  # what came later is added
        assert sql(golden, query) == sql(folder, query)


# Rows that were altered by hand


COMMANDS = [
    ["versions", "--archived"], ["show", "1"], ["show", "2"], ["show", "champion@pong"],
    ["verify"], ["verify", "2"], ["promote", "2", "--gate", "gate.toml"],
    ["promote", "3", "--force", "--reason", "x"], ["rollback"], ["rollback", "--to", "1"],
    ["pipeline", "list"], ["pipeline", "run", "agent1", "--mode", "ci", "--gate", "gate.toml"],
    ["approve", "2", "--by", "ada", "--note", "x"], ["deny", "2", "--by", "ada", "--note", "x"],
    ["alias", "list"], ["alias", "history"], ["alias", "set", "mine", "1"],
    ["audit", "log"], ["audit", "verify"], ["archive", "3"], ["register", "agent1"],
    ["export", "out.tar"],
]  # fmt: skip
VALUES = ["'abc'", "x'ff00'", "-1", "1.5", "9223372036854775807", "''", "NULL", "'[[[['"]
GATE = """
smoke.enabled = false
latency.max_milliseconds = 10_000
random.enabled = false
"""


@pytest.fixture(scope="module")
def altered(tmp_path_factory):
    """A registry that has something of everything, and a copy of it to alter."""
    memory = Path("/dev/shm")  # on a busy disk thousands of fsyncs take minutes
    place = memory if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("altered")
    folder = Path(tempfile.mkdtemp(dir=place))
    with pytest.MonkeyPatch.context() as patch, Registry.open(folder / "good") as registry:
        versions = [registry.register(saved_agent(folder / f"agent{n}", n)) for n in range(3)]
        strength = {one.digest: one.number for one in versions}
        play_by_strength(patch, strength)
        gate = quick_gate(smoke={"enabled": False})
        run_pipeline(registry, versions[0], "deployment", gate)
        two = quick_gate(smoke={"enabled": False}, approvals={"required": 2})
        run_pipeline(registry, versions[1], "delivery", two)
        approve(registry, versions[1], by="eve", note="")
    (folder / "gate.toml").write_text(GATE)
    yield folder, strength
    shutil.rmtree(folder)


def columns():
    with closing(sqlite3.connect(GOLDEN / "registry.sqlite")) as database:
        for table in ("versions", "aliases", "submissions", "approvals", "events", "meta"):
            for row in database.execute(f"PRAGMA table_info({table})").fetchall():
                yield table, row[1]


@pytest.mark.slow
@pytest.mark.recorded
@pytest.mark.parametrize(("table", "column"), list(columns()))
def test_a_row_that_was_altered_by_hand_is_a_line_in_every_subcommand(
    altered, monkeypatch, capsys, table, column
):
    turn = list(columns()).index((table, column))
    for place, value in enumerate(VALUES):  # each command meets each value in every fifth column
        some = [one for n, one in enumerate(COMMANDS) if (turn + place + n) % 5 == 0]
        hit(altered, monkeypatch, capsys, table, column, [value], some)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    quick_first(
        [
            ("aliases", "generation", "'abc'"),
            ("submissions", "state", "'yolo'"),
            ("submissions", "verdict", "NULL"),
            ("approvals", "decision", "'perhaps'"),
            ("versions", "protocol", "'[[[['"),
            ("aliases", "version", "'abc'"),
            ("submissions", "opened", "'abc'"),
            ("aliases", "generation", "NULL"),
            ("submissions", "opened", "NULL"),
            ("approvals", "note", "NULL"),
            ("versions", "protocol", "NULL"),
            ("versions", "archived", "NULL"),
            ("events", "document", "NULL"),
            ("meta", "value", "NULL"),
            ("submissions", "champion_generation", "x'ff00'"),
            ("versions", "archived", "'abc'"),
        ],
        5,
    ),
)
def test_what_was_altered_by_hand_is_a_line(altered, monkeypatch, capsys, table, column, value):
    words = (
        "show",
        "verify",
        "promote",
        "rollback",
        "list",
        "approve",
        "deny",
        "alias",
        "pipeline",
    )
    few = [one for one in COMMANDS if one[0] in words]
    hit(altered, monkeypatch, capsys, table, column, [value], few)


def hit(altered, monkeypatch, capsys, table, column, values, commands):
    folder, strength = altered
    play_by_strength(monkeypatch, strength)
    monkeypatch.chdir(folder)
    for value in values:
        for command in commands:
            shutil.rmtree("copy", ignore_errors=True)
            Path("out.tar").unlink(missing_ok=True)
            shutil.copytree("good", "copy")
            if not put(Path("copy"), table, column, value):
                break
            code = promote.main([*command, "--registry", "copy"])  # a traceback fails the test
            captured = capsys.readouterr()
            asked = f"{table}.{column} = {value}: {' '.join(command)}"
            assert code in (0, 1, 2, 3, 4, 5), asked
            assert captured.err.count("\n") <= (9 if command[0] == "verify" else 1), asked
            assert "validation error" not in captured.err, asked


def put(folder, table, column, value):
    """Alters a column of all rows, NULL where none can be; returns whether that is possible."""
    with closing(sqlite3.connect(folder / "registry.sqlite")) as base, base:
        query = "SELECT sql FROM sqlite_master WHERE name = ?"
        ((good,),) = base.execute(query, (table,)).fetchall()
    rewrite(folder, table, good.replace(" NOT NULL", ""))
    try:
        sql(folder, f"UPDATE {table} SET {column} = {value}")
    except sqlite3.IntegrityError:  # a key
        return False
    finally:
        rewrite(folder, table, good)
    return True


def rewrite(folder, table, text):
    """Has the database believe that a table was made in another way."""
    with closing(sqlite3.connect(folder / "registry.sqlite")) as base, base:
        base.execute("PRAGMA writable_schema = ON")
        base.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (text, table))


# Files


@pytest.mark.parametrize("what", ["blobs", "blobs/sha256"])
def test_a_link_in_place_of_the_store_is_not_followed(registry, add, folder, tmp_path, what):
    add(1)
    outside = tmp_path / "outside"
    shutil.move(folder / what, outside)
    (folder / what).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    for create in (True, False):
        with pytest.raises(RegistryError, match="it is a link, and links in such a folder are not"):
            Registry.open(folder, create=create)
    for use in (lambda: registry.load(1), lambda: registry.register(tiny(tmp_path / "c", 5))):
        with pytest.raises(RegistryError, match="is a link and might lead out of the registry"):
            use()
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("empty", ["", "/sha256"])
def test_an_empty_folder_that_a_link_leads_to_stays_empty(tmp_path, empty):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / f"r{'/blobs' if empty else ''}").mkdir(parents=True)
    (tmp_path / f"r/blobs{empty}").symlink_to(outside)
    with pytest.raises(RegistryError, match="it is a link"):
        Registry.open(tmp_path / "r")
    assert list(outside.iterdir()) == []


def test_records_of_matches_are_not_written_through_a_link(registry, tmp_path, monkeypatch):
    versions = [registry.register(saved_agent(tmp_path / f"a{n}", n)) for n in range(2)]
    play_by_strength(monkeypatch, {one.digest: one.number for one in versions})
    champion = registry.move_alias("pong", "champion", 1, expected_generation=0, kind="set")
    (tmp_path / "outside").mkdir()
    registry.matches.symlink_to(tmp_path / "outside")
    gate = quick_gate(smoke={"enabled": False})
    with pytest.raises(RlarcadeError, match="it is a link"):
        make_verdict(registry, versions[1], champion, gate)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("what", ["fifo", "link", "folder", "sparse"])
def test_whatever_lies_in_place_of_the_database_is_told_at_once(folder, tmp_path, name, what):
    with Registry.open(folder) as made:
        made.register(tiny(tmp_path / "c", 1))
    path = folder / f"registry.sqlite{name}"
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        (tmp_path / "outside").touch()
        path.symlink_to(tmp_path / "outside")
    else:
        with path.open("wb") as file:
            file.truncate(60 << 30)
    for create in (True, False):
        told = within(5, lambda create=create: Registry.open(folder, create=create))
        assert isinstance(told, RegistryError)
        assert {
            "fifo": "it is a FIFO, not a regular file",
            "folder": "folder",
            "link": "it is a link",
            "sparse": "it has more than 1,073,741,824 bytes",
        }[what].lower() in str(told).lower().replace("a directory", "a folder")
    if what == "link":
        assert (tmp_path / "outside").read_bytes() == b""


def test_a_sparse_blob_of_sixty_gigabytes_is_damage(registry, add, folder):
    version = add(1)
    document = registry.put_document(Rule())
    for digest in (version.digest, version.manifest_digest, document):
        blob_file(folder, digest).chmod(0o644)
        os.truncate(blob_file(folder, digest), 60 << 30)
    sql(folder, "UPDATE versions SET weights_bytes = ?", 60 << 30)
    for use in (lambda: registry.load(1), lambda: registry.get_document(document, Rule)):
        told = within(10, use)
        assert isinstance(told, RegistryError)
        assert "64,424,509,440 bytes, more than the" in str(told)
    assert within(10, registry.verify) is None
    assert len(registry.verify()) >= 2


@pytest.mark.parametrize("what", ["fifo", "device", "sparse"])
@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_a_checkpoint_exchanged_after_it_was_loaded_is_neither_waited_for_nor_read(
    tmp_path, name, what
):
    checkpoint = load_checkpoint(tiny(tmp_path / "c", 1))
    path = tmp_path / "c" / name
    whole = (tmp_path / "c" / "weights.safetensors").read_bytes()
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 60 << 30)
    read = []
    told = within(5, lambda: read.append(registration.files_of(checkpoint)))
    if name == "weights.safetensors":  # what was loaded and hashed is stored, not the file now
        assert told is None
        assert read[0][0] == whole
        return
    assert isinstance(told, CheckpointError)
    assert "changed while it was read" in str(told)


@pytest.mark.parametrize("what", ["fifo", "device"])
def test_a_blob_an_export_or_a_gate_that_never_answers_is_told_at_once(
    registry, add, folder, tmp_path, what
):
    def put(path):
        path.unlink(missing_ok=True)
        if what == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")

    put(blob_file(folder, add(1).digest))
    put(tmp_path / "export.tar")
    put(tmp_path / "gate.toml")
    told = within(5, lambda: registry.load(1))
    assert isinstance(told, RegistryError)
    told = within(5, lambda: Registry.import_(tmp_path / "export.tar", tmp_path / "new"))
    assert f"it is a {'FIFO' if what == 'fifo' else 'device'}, not a regular file" in str(told)
    assert isinstance(told, RegistryError)
    told = within(5, lambda: load_gate(tmp_path / "gate.toml"))
    assert f"it is a {'FIFO' if what == 'fifo' else 'device'}, not a regular file" in str(told)
    assert isinstance(told, ConfigError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 20_000, "cannot read gate|is nested too deeply"),
        ("size.max_megabytes = " + "9" * 5000, "cannot read gate|is nested too deeply"),
        ("smoke.steps = 3_000_000_000", "'smoke.steps' must be at most"),
        ("latency.decisions = 3_000_000_000", "'latency.decisions' must be at most"),
        ("match.max_pairs = 3_000_000_000", "'match.max_pairs' must be at most"),
        ("approvals.expire_days = 1e300", "'approvals.expire_days' must be at most"),
        ("approvals.required = 1_000_000_000", "'approvals.required' must be at most"),
        ("x" * 10_000_001, "it has 10,000,001 bytes, more than the 1,000,000"),
    ],
    ids=["deep", "digits", "steps", "decisions", "pairs", "days", "people", "long"],
)
def test_a_gate_file_that_asks_for_too_much_is_refused_in_a_line(tmp_path, text, message):
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_gate(tmp_path / "gate.toml")


def test_an_export_that_claims_more_than_any_registry_has_is_refused(tmp_path):
    for name, size in (("registry.sqlite", 4 << 30), ("blobs/sha256/aa/" + "aa" * 32, 4 << 30)):
        with (tmp_path / "e.tar").open("wb") as file:
            if name.startswith("blobs"):
                file.write(_header("registry.sqlite", 512) + bytes(512))
            file.write(_header(name, size))
            file.truncate(5 << 30)
        told = within(10, lambda: Registry.import_(tmp_path / "e.tar", tmp_path / "new"))
        assert "has 4,294,967,296 bytes, more than the 1,073,741,824" in str(told)
        assert not (tmp_path / "new").exists()
        (tmp_path / "e.tar").unlink()


# A registry that may only be read


@pytest.fixture
def only_read(golden, monkeypatch):
    """The golden registry, which we may not write: root may write everything, so it is told no."""
    before = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}
    real = os.access

    def access(path, mode, **settings):
        inside = Path(path).absolute().is_relative_to(golden)
        return not (inside and mode & os.W_OK) and real(path, mode, **settings)

    monkeypatch.setattr(os, "access", access)
    yield golden
    after = {path: path.read_bytes() for path in golden.rglob("*") if path.is_file()}
    assert after == before, "nothing was written, and no file was left"


def test_a_read_only_registry_is_listed_shown_verified_and_played_from(only_read, capsys):
    for words in (["versions"], ["show", "2"], ["verify"], ["alias", "list"], ["alias", "history"],
                  ["pipeline", "list"], ["audit", "log"], ["audit", "verify"]):  # fmt: skip
        assert promote.main([*words, "--registry", str(only_read)]) == 0, words
    capsys.readouterr()
    checkpoint = load_named("champion@space_invaders", only_read)
    assert checkpoint.manifest.counters.steps == 2000
    with Registry.open(only_read) as registry:
        message = "cannot be written, only read. Fix its permissions, or copy it"
        for change in (
            lambda: registry.register(AGENTS[0]),
            lambda: registry.rollback("space_invaders", to=1),
            lambda: registry.archive(2),
        ):
            with pytest.raises(RegistryError, match=message):
                change()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_who_may_not_write_the_folder_reads_it(golden):
    """In another process, by permissions of the system; twice, as the first might leave files."""
    reader = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        reader.chmod(0o755)
        folder = Path(shutil.copytree(golden, reader / "registry"))
        code = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from rlarcade.registry.registry import Registry\n"
            "def look(folder):\n"
            "    with Registry.open(Path(folder), create=False) as r:\n"
            "        return len(r.versions()), r.verify(), r.load(1).manifest.game\n"
            "look(sys.argv[2])  # imports what it needs while it may\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "print(*look(sys.argv[1]))\n"
        )
        command = [sys.executable, "-c", code, str(folder), str(golden)]
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.stdout, done.returncode) == ("2 [] space_invaders\n", 0), done.stderr
        with Registry.open(folder) as writer:  # it keeps its WAL while it is open
            writer.archive(2)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.stdout, done.returncode) == ("1 [] space_invaders\n", 0), done.stderr
    finally:
        shutil.rmtree(reader)


# Locks


HOLD = """
import fcntl, os, sqlite3, sys, time
folder, how = sys.argv[1:]
if how == "flock":
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
else:
    held = sqlite3.connect(folder + "/registry.sqlite", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nobody tells who holds a lock")
@pytest.mark.parametrize("how", ["flock", "sqlite"])
def test_a_lock_that_another_process_holds_is_told_after_seconds_with_its_process(
    registry, add, folder, how
):
    add(1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, how], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"

            def write():
                with Registry.open(folder, busy_seconds=0.3) as other:
                    other.archive(1)

            told = within(20, write)
        finally:
            holder.kill()
    assert isinstance(told, RegistryError)
    assert re.search(rf"is in use by process {holder.pid}\b", str(told)), told
    assert told.exit_code == 1
    assert whole(registry)


def test_who_holds_a_lock_is_read_from_the_kernels_list_if_there_is_one(tmp_path, monkeypatch):
    status = tmp_path.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    (tmp_path / "locks").write_text(
        f"1: POSIX  ADVISORY  READ  11 {place} 0 EOF\n"
        f"2: FLOCK  ADVISORY  WRITE 12 {place}9 0 EOF\n"
        f"3: FLOCK  ADVISORY  WRITE 13 {place} 0 EOF\n"
        f"3: -> FLOCK  ADVISORY  WRITE 14 {place} 0 EOF\n"
        "nonsense\n"
    )
    monkeypatch.setattr(locks, "_PROC", tmp_path)
    assert locks.holder_of(tmp_path, tmp_path / "missing") == "process 13"
    assert locks.holder_of(tmp_path / "missing") == "another process"
