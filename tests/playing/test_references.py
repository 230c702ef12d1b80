"""Versions of a registry, named wherever a checkpoint is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from promoting import play_by_strength, saved_agent

from rlarcade.errors import CheckpointError, RegistryError, RlarcadeError
from rlarcade.playing.named import named_players
from rlarcade.playing.references import is_reference, load_named
from rlarcade.registry.registry import Registry


@pytest.fixture
def digests(tmp_path, monkeypatch):
    """Two versions of pong in the default registry; the second is the champion."""
    monkeypatch.chdir(tmp_path)
    with Registry.open(Path("checkpoints/registry")) as registry:
        versions = [registry.register(saved_agent(tmp_path / name, seed))
                    for seed, name in enumerate("ab")]  # fmt: skip
        registry.move_alias("pong", "champion", 2, expected_generation=0, kind="set")
    return [one.digest for one in versions]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("7", True),
        ("champion@pong", True),
        ("champion@Space Invaders", True),
        ("my-own@pong", True),
        ("a", False),  # a folder that is there
        ("runs/7", False),
        ("module:factory", False),
        ("Champion@pong", False),
        ("@pong", False),
        ("random", False),
    ],
)
def test_numbers_and_aliases_are_references_unless_a_file_is_called_so(digests, name, expected):
    assert is_reference(name) is expected
    if expected:
        Path(name).mkdir()
        assert not is_reference(name)


def test_a_version_is_loaded_by_number_or_alias_and_called_as_it_was_asked_for(digests):
    for name, digest in (("1", digests[0]), ("2", digests[1]), ("champion@Pong", digests[1])):
        loaded = load_named(name)
        assert loaded.manifest.weights_sha256 == digest
        assert str(loaded.path) == name
    assert load_named("a").manifest.weights_sha256 == digests[0]
    moved = Path("checkpoints/registry").rename("elsewhere")
    assert load_named("1", moved).manifest.weights_sha256 == digests[0]


def test_players_may_be_versions_of_any_registry(digests):
    one, champion = named_players(["1", "champion@pong"])
    assert [one.version, champion.version] == digests
    assert [one.name, champion.name] == ["1", "champion@pong"]
    moved = Path("checkpoints/registry").rename("elsewhere")
    (one,) = named_players(["1"], registry=moved)
    assert one.version == digests[0]
    with pytest.raises(RegistryError, match="holds no registry"):
        named_players(["1"])


def test_a_checkpoint_by_its_path_needs_no_database(digests):
    code = (
        "import sys\n"
        "from rlarcade.playing.named import named_players\n"
        "named_players(['a'])\n"
        "print('sqlalchemy' in sys.modules)\n"
        "named_players(['1'])\n"
        "print('sqlalchemy' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]


def test_what_is_not_there_is_told(digests):
    with pytest.raises(RegistryError, match="3"):
        load_named("3")
    with pytest.raises(RegistryError, match="challenger"):
        load_named("challenger@pong")
    with pytest.raises(CheckpointError, match="nothing does not exist"):
        load_named("nothing")
    with pytest.raises(RegistryError, match="nowhere holds no registry"):
        load_named("1", Path("nowhere"))


def test_evaluate_and_compare_take_versions(digests, command, monkeypatch):
    play_by_strength(monkeypatch, {digests[0]: 1, digests[1]: 2})
    code, out, _ = command("compare", "1", "champion@pong", "--json", "match.json")
    assert code == 0
    assert "champion@pong" in out
    match = json.loads(Path("match.json").read_text())
    assert [match[side]["version"] for side in ("champion", "candidate")] == digests
    code, _, err = command("compare", "1", "9")
    assert code == 2
    assert "9" in err
    moved = Path("checkpoints/registry").rename("elsewhere")
    assert command("compare", "1", "2")[0] == 2
    assert command("compare", "1", "2", "--registry", moved)[0] == 0


def test_watch_shows_a_version(digests, command, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "rlarcade.watch._played", lambda player, *_: (shown.append(player), None, None)
    )
    monkeypatch.setattr("rlarcade.watch._list", lambda _: None)
    code, _, _ = command("watch", "champion@pong")
    assert (code, shown[0].version, shown[0].name) == (0, digests[1], "champion@pong")


def test_training_begins_from_a_version_and_records_it_as_its_parent(digests, command, newest):
    settings = ["--total-timesteps", 64, "--learning-starts", 32, "--num-envs", 2]
    tiny = ["--conv-channels", 2, 2, 2, "--hidden-units", 4, "--preset", "dqn"]
    ending = ["--eval-episodes", 1, "--run-dir", "run", "--buffer-size", 64]
    code, _, err = command(
        "train", "--game", "Pong", *settings, *tiny, *ending, "--init-from", "champion@pong"
    )
    assert code == 0, err
    manifest = json.loads((newest(Path("run")) / "manifest.json").read_text())
    assert manifest["parent"] == digests[1]


@pytest.mark.parametrize("name", ["9" * 5000, "9" * 19, "champion@" + "x" * 5000, "0" * 400])
def test_a_name_that_is_far_too_long_is_no_version_and_no_file(digests, name):
    assert is_reference(name)
    with pytest.raises(RlarcadeError) as told:
        load_named(name)
    assert "Traceback" not in str(told.value)


def test_digits_of_other_scripts_are_no_number_of_a_version(digests):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_named("\u0661")
