"""`rlarcade promote`: from a checkpoint to a champion and back, with an exit code for each end."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from promoting import play_by_strength, saved_agent

from rlarcade.learning.policy import DQNAgent

GATE = """
[smoke]
enabled = false
[latency]
max_milliseconds = 10_000
[random]
enabled = false
"""
DELIVERY = ("--mode", "delivery", "--gate", "gate.toml")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to run in, with three agents of pong, of which each is better than the last."""
    monkeypatch.chdir(tmp_path)
    paths = [saved_agent(tmp_path / name, seed) for seed, name in enumerate(("a", "b", "c"))]
    strength = {DQNAgent.load(path).version: place for place, path in enumerate(paths)}
    play_by_strength(monkeypatch, strength)
    Path("gate.toml").write_text(GATE)
    return tmp_path


@pytest.fixture
def promote(command, here):
    """Runs a subcommand; returns its exit code and output, and what it wrote as JSON."""

    def run(*arguments, json_too=True):
        Path("out.json").unlink(missing_ok=True)
        extra = ["--json", "out.json"] if json_too else []
        code, out, err = command("promote", *arguments, *extra)
        assert "Traceback" not in err
        file = Path("out.json")
        return code, out + err, json.loads(file.read_text()) if file.exists() else None

    return run


@pytest.fixture
def crowned(promote):
    """Version 1 is the champion, version 2 is registered."""
    promote("register", "a")
    promote("register", "b")
    assert promote("promote", "1", "--gate", "gate.toml")[0] == 0


def champions(promote):
    listed = promote("versions")[2]["versions"]
    return [one["number"] for one in listed if "champion" in one["aliases"]]


def test_the_same_weights_twice_are_one_version(promote, here):
    for _ in range(2):
        code, out, document = promote("register", "a")
        assert (code, document["number"], document["game"]) == (0, 1, "pong")
        assert out.startswith(f"version 1 of pong: {document['digest'][:12]}")
    code, out, document = promote("versions")
    assert (code, len(document["versions"])) == (0, 1)
    assert (here / "checkpoints" / "registry" / "registry.sqlite").exists(), "the default place"


def test_versions_are_listed_by_game_and_shown_by_number_digest_or_alias(promote, here):
    saved_agent(here / "other", 7, game="boxing", num_actions=18)
    promote("register", "a")
    digest = promote("register", "other")[2]["digest"]
    assert [v["number"] for v in promote("versions", "--game", "Boxing")[2]["versions"]] == [2]
    promote("alias", "set", "challenger", "2")
    for name in ("2", digest[:10], "challenger@boxing"):
        code, out, document = promote("show", name)
        assert (code, document["version"]["digest"]) == (0, digest)
        assert "version 2 of Boxing, challenger" in out


def test_the_whole_way_with_a_person_in_between(promote, crowned):
    code, out, document = promote("pipeline", "run", "b", *DELIVERY)
    assert code == 5
    assert document["submission"]["state"] == "awaiting_approval"
    assert [check["outcome"] for check in document["verdict"]["checks"]] == ["pass"] * 6
    assert "9 won, 0 tied, 0 lost of 9 pairs" in out
    assert "next: python -m rlarcade.promote approve 2 --by NAME --note TEXT" in out
    assert champions(promote) == [1]
    code, out, document = promote("approve", "2", "--by", "ada", "--note", "fine")
    assert (code, document["submission"]["state"]) == (0, "promoted")
    assert "PROMOTED" in out
    assert "approved by ada (fine)" in out
    assert champions(promote) == [2]
    code, out, document = promote("rollback", "--reason", "it hung")
    assert (code, document["version"], document["generation"]) == (0, 1, 3)
    assert champions(promote) == [1]
    code, out, document = promote("alias", "history")
    assert [(m["kind"], m["version"]) for m in document["moves"]] == [
        ("promote", 1),
        ("promote", 2),
        ("rollback", 1),
    ]
    assert "rollback  2 → 1" in out
    assert "it hung" in out
    assert promote("audit", "verify")[:2] == (0, "the audit log is unaltered\n")


@pytest.mark.parametrize("mode", ["ci", "delivery", "deployment"])
def test_exit_codes_tell_a_version_that_is_worse_or_too_close(promote, here, crowned, mode):
    promote("promote", "2", "--gate", "gate.toml")
    code, out, _ = promote("pipeline", "run", "a", "--mode", mode, "--gate", "gate.toml")
    assert code == 3
    assert "REJECTED" in out
    Path("short.toml").write_text(GATE + "[match]\nmax_pairs = 2\n")
    code, out, _ = promote("pipeline", "run", "c", "--mode", mode, "--gate", "short.toml")
    assert code == 4
    assert "INCONCLUSIVE" in out
    assert champions(promote) == [2]


def test_continuous_integration_and_deployment_need_nobody(promote, crowned):
    assert promote("pipeline", "run", "b", "--mode", "ci", "--gate", "gate.toml")[0] == 0
    assert champions(promote) == [1]
    assert promote("pipeline", "run", "b", "--mode", "deployment", "--gate", "gate.toml")[0] == 0
    assert champions(promote) == [2]
    code, out, _ = promote("pipeline", "run", "b", "--mode", "ci")
    assert (code, out) == (0, "version 2 is the champion of pong already\n")
    listed = promote("pipeline", "list", "--game", "pong")
    assert [one["state"] for one in listed[2]["submissions"]] == ["promoted", "passed", "promoted"]
    assert "deployment: PROMOTED" in listed[1]


def test_a_denied_version_stays_out(promote, crowned):
    promote("pipeline", "run", "b", *DELIVERY)
    code, out, _ = promote("deny", "2", "--by", "ada", "--note", "no")
    assert code == 0
    assert "DENIED" in out
    assert promote("pipeline", "run", "b", *DELIVERY)[0] == 3


def test_force_passes_the_gate_by_with_a_reason_and_is_recorded_as_such(promote, crowned):
    code, out, _ = promote("promote", "2", "--force")
    assert code == 2
    assert "needs a --reason" in out
    code, out, document = promote("promote", "2", "--force", "--reason", "demo")
    assert (code, document["alias"]["version"]) == (0, 2)
    assert "FORCED, demo" in out
    move = promote("alias", "history")[2]["moves"][-1]
    assert (move["kind"], move["reason"], move["verdict"]) == ("force", "demo", None)
    assert promote("promote", "1", "--reason", "x")[0] == 2, "a reason is no force"
    for again in (["promote", "2", "--force", "--reason", "demo"], ["rollback", "--to", "2"]):
        code, out, _ = promote(*again)
        assert (code, out) == (0, "version 2 is the champion of pong already\n")
    assert len(promote("alias", "history")[2]["moves"]) == 2


def test_an_alias_is_set_by_compare_and_swap_and_the_champion_is_not_set_by_hand(promote, crowned):
    assert promote("alias", "set", "challenger", "2")[0] == 0
    code, out, _ = promote("alias", "set", "challenger", "1", "--generation", "0")
    assert code == 1
    assert "STALE" in out
    code, out, _ = promote("alias", "set", "champion", "2")
    assert code == 2
    assert "promote VERSION, which asks the gate" in out
    listed = promote("alias", "list")[2]["aliases"]
    assert [(one["name"], one["version"]) for one in listed] == [("challenger", 2), ("champion", 1)]
    assert promote("alias", "history", "challenger")[2]["moves"][0]["kind"] == "set"


def test_the_game_must_be_named_once_two_have_champions(promote, here, crowned):
    saved_agent(here / "other", 7, game="boxing", num_actions=18)
    promote("register", "other")
    assert promote("promote", "3", "--gate", "gate.toml")[0] == 0
    for words in (["rollback"], ["alias", "history"]):
        code, out, _ = promote(*words)
        assert code == 2
        assert "which game? boxing, pong have champions. Name it with --game" in out
    code, out, _ = promote("rollback", "--game", "Boxing")
    assert code == 2
    assert "no intact earlier version to roll back to" in out
    for other in ("3", "champion@boxing"):
        code, out, _ = promote("rollback", "--game", "pong", "--to", other)
        assert (code, "already" in out) == (2, False), "nothing was rolled back"
        assert "version 3 plays Boxing and cannot be the champion of Pong" in out


def test_a_flipped_byte_is_found_and_the_version_is_never_promoted(promote, here, crowned):
    digest = promote("show", "2")[2]["version"]["digest"]
    blob = here / "checkpoints/registry/blobs/sha256" / digest[:2] / digest
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[1000] ^= 1
    blob.write_bytes(data)
    assert promote("verify", "1")[0] == 0
    code, out, document = promote("verify", "--all")
    assert (code, len(document["problems"])) == (1, 1)
    assert promote("verify")[0] == 1
    for flags in ([], ["--force", "--reason", "anyway"]):
        code, out, _ = promote("promote", "2", *flags)
        assert code == 1
        assert "broken" in out
    assert champions(promote) == [1]
    code, out, _ = promote("verify", "2", "--all")
    assert code == 2
    assert "name a version or --all, not both" in out


def test_an_altered_audit_log_is_found(promote, here, crowned):
    with sqlite3.connect(here / "checkpoints/registry/registry.sqlite") as database:
        database.execute("UPDATE events SET actor = 'nobody' WHERE sequence = 2")
    database.close()
    code, _, document = promote("audit", "verify")
    assert code == 1
    assert "2" in document["problem"]["where"]


def test_the_audit_log_tells_everything_that_was_done(promote, crowned):
    code, out, document = promote("audit", "log")
    kinds = [event["kind"] for event in document["events"]]
    assert (code, kinds[:2]) == (0, ["register", "register"])
    assert kinds[2] == "submission.opened"
    assert "promote" in kinds
    assert "contract" not in out, "the line tells what a reader looks for"
    later = promote("audit", "log", "--since", "2")[2]["events"]
    assert [event["sequence"] for event in later] == list(range(3, len(kinds) + 1))
    for since, count in (("-1", len(kinds)), ("-" + "9" * 19, len(kinds)), ("9" * 19, 0)):
        code, _, document = promote("audit", "log", "--since", since)
        assert (code, len(document["events"])) == (0, count)


def test_archived_versions_are_hidden_and_those_in_use_stay(promote, crowned):
    assert promote("archive", "2")[0] == 0
    assert [one["number"] for one in promote("versions")[2]["versions"]] == [1]
    assert len(promote("versions", "--archived")[2]["versions"]) == 2
    code, out, _ = promote("archive", "1")
    assert code == 2
    assert "in use as champion@pong" in out


def test_a_registry_moves_house_as_one_file(promote, here, crowned):
    assert promote("export", "all.tar")[0] == 0
    assert promote("import", "all.tar", "--registry", "copy")[0] == 0
    assert champions(lambda *words: promote(*words, "--registry", "copy")) == [1]
    assert promote("verify", "--registry", "copy")[0] == 0
    code, out, _ = promote("import", "all.tar", "--registry", "copy")
    assert code == 2
    assert "copy" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["versions"], "holds no registry"),
        (["promote", "1"], "holds no registry"),
        (["audit", "verify", "--registry", "nowhere"], "nowhere holds no registry"),
        (["register", "nothing"], "nothing does not exist"),
        (["pipeline", "run", "nothing", "--mode", "ci"], "nothing does not exist"),
        (["pipeline", "run", "a", "--mode", "ci", "--gate", "no.toml"], "cannot read gate no.toml"),
        (["pipeline", "run", "a", "--mode", "yolo"], "--mode is one of ci, delivery, deployment"),
        (["pipeline", "run", "a"], "--mode"),
        (["approve", "1"], "--by"),
        ([], "a subcommand is missing"),
        (["promte"], "promte"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(promote, words, message):
    code, out, _ = promote(*words, json_too=False)
    assert code == 2
    assert message in out
    assert out.count("\n") == 1
    assert not Path("checkpoints").exists(), "no registry was made that nobody asked for"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["promote", "7"], "7"),
        (["show", "abc"], "abc"),
        (["show", "champion@pong"], "champion"),
        (["approve", "2", "--by", "ada", "--note", ""], "awaits no approval"),
        (["deny", "2", "--by", "ada", "--note", ""], "awaits no approval"),
        (["rollback"], "no game has a champion yet"),
        (["rollback", "--game", "pong"], "roll back"),
        (["versions", "--game", "pongg"], "pong"),
        (["alias", "set", "../x", "1"], "../x"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(promote, words, message):
    promote("register", "a")
    promote("register", "b")
    code, out, _ = promote(*words)
    assert code == 2
    assert message in out


def test_a_full_disk_is_told_and_the_same_command_goes_on(promote, here, crowned, monkeypatch):
    def full(*args, **settings):
        raise OSError(28, "No space left on device", "checkpoints/registry")

    with monkeypatch.context() as patched:
        patched.setattr("rlarcade.promotion.pipeline.make_verdict", full)
        code, out, _ = promote("promote", "2", "--gate", "gate.toml")
    assert code == 1
    assert "No space left on device: checkpoints/registry" in out
    assert promote("promote", "2", "--gate", "gate.toml")[0] == 0


def test_a_match_that_is_interrupted_says_how_to_go_on(promote, crowned, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rlarcade.promotion.checks.compare_agents", interrupted)
        code, out, _ = promote("promote", "2", "--gate", "gate.toml")
    assert code == 130
    assert "finished games are kept; the same command resumes from there." in out
    assert promote("promote", "2", "--gate", "gate.toml")[0] == 0


def test_a_receipt_is_printed_and_shows_a_tail_that_was_cut_off(promote, here, crowned):
    code, out, document = promote("audit", "head")
    assert (code, out) == (0, f"{document['count']}:{document['digest']}\n")
    Path("receipt.json").write_text(json.dumps(document))
    Path("receipt.txt").write_text(out)
    for receipt in (out.strip(), "receipt.json", "receipt.txt"):
        code, said, _ = promote("audit", "verify", "--receipt", receipt)
        assert (code, said) == (
            0,
            f"the audit log is unaltered, and begins with the receipt's {document['count']}\n",
        )
    count = document["count"] - 1
    with closing(sqlite3.connect(here / "checkpoints/registry/registry.sqlite")) as base, base:
        base.execute("DELETE FROM events WHERE sequence > ?", (count,))
        ((digest,),) = base.execute("SELECT digest FROM events WHERE sequence = ?", (count,))
        base.execute("UPDATE meta SET value = ? WHERE key = 'audit_count'", (str(count),))
        base.execute("UPDATE meta SET value = ? WHERE key = 'audit_head'", (digest,))
    assert promote("audit", "verify")[0] == 0
    code, said, told = promote("audit", "verify", "--receipt", "receipt.txt")
    assert code == 1
    assert f"event {count + 1}: is missing: the receipt says {count + 1} entries" in said
    assert told["problem"]["where"] == f"event {count + 1}"


def test_a_receipt_that_cannot_be_read_is_refused_in_a_line(promote, here, crowned):
    Path("binary").write_bytes(b"\xff" * 100)
    Path("long").write_bytes(b"1" * 10_001)
    os.mkfifo("fifo")
    for given, message in {
        "nonsense": "is not a receipt of an audit log",
        "binary": "--receipt binary cannot be read: it is not text",
        "long": "cannot be read: it has 10,001 bytes, more than the 10,000",
        "fifo": "cannot be read: it is a FIFO",
    }.items():
        code, out, _ = promote("audit", "verify", "--receipt", given)
        assert (code, message in out, out.count("\n")) == (2, True, 1), out


@pytest.mark.parametrize("harm", ["weights", "manifest", "game", "seed"])
@pytest.mark.parametrize("words", [["register", "a"], ["pipeline", "run", "a", "--mode", "ci"]])
def test_a_checkpoint_that_cannot_be_registered_leaves_no_registry_behind(
    promote, here, words, harm
):
    if harm == "weights":
        path = here / "a" / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        path = here / "a" / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest |= {
            "manifest": {"counters": 1},
            "game": {"game": "chess"},
            "seed": {"seed": 2**70},
        }[harm]
        path.write_text(json.dumps(manifest))
    code, out, _ = promote(*words)
    assert (code, out.count("\n")) == (2, 1), out
    assert not (here / "checkpoints").exists()


def test_stale_is_said_once(promote, crowned):
    promote("alias", "set", "challenger", "2")
    code, out, _ = promote("alias", "set", "challenger", "1", "--generation", "0")
    assert code == 1
    assert out.startswith(
        "rlarcade: error: STALE: the challenger of pong is at generation 1, not 0"
    )
    assert out.count("STALE") == 1


def test_damage_ends_with_1_and_a_wrong_command_with_2(promote, here, crowned):
    file = here / "checkpoints/registry/registry.sqlite"
    good = file.read_bytes()
    for damage in (b"x" * len(good), good[:8192] + b"\xff" * (len(good) - 8192)):
        for more in ("-wal", "-shm"):
            Path(f"{file}{more}").unlink(missing_ok=True)
        file.write_bytes(damage)
        for words in (["versions"], ["register", "c"], ["promote", "2"], ["audit", "log"]):
            code, out, _ = promote(*words)
            assert (code, out.count("\n")) == (1, 1), out
    file.write_bytes(good)
    Path("bad.tar").write_bytes(b"x" * 10_000)
    assert promote("import", "bad.tar", "--registry", "new")[0] == 1
    assert promote("import", "none.tar", "--registry", "new")[0] == 2
    assert promote("show", "9")[0] == 2
    assert promote("approve", "2", "--by", "", "--note", "x")[0] == 2
