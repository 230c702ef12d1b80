"""`rlarcade export`: a checkpoint's network as an ONNX file that was compared with torch."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rlarcade.learning.onnx_values import OnnxValues
from rlarcade.learning.policy import DQNAgent

LATE = Path(__file__).parent.parent / "data" / "space-invaders-late"
VERSION = json.loads((LATE / "manifest.json").read_text())["weights_sha256"]


@pytest.fixture(scope="module")
def exported():
    """An export takes seconds: the commands of this module share one."""
    from rlarcade.learning.onnx_file import onnx_model

    return onnx_model(DQNAgent.load(LATE))


@pytest.fixture
def shared(monkeypatch, exported):
    monkeypatch.setattr("rlarcade.learning.onnx_file.onnx_model", lambda agent: exported)


def test_a_checkpoint_becomes_a_file_and_nothing_else_is_printed(command, tmp_path, shared):
    path = tmp_path / "new" / "late.onnx"
    code, out, err = command("export", LATE, "--onnx", path, "--json", tmp_path / "check.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:3] == [
        "SpaceInvaders, protocol v5",
        f"  {LATE}, version {VERSION[:12]}",
        "  compared with torch on 256 observations of a game:",
    ]
    assert lines[3].endswith("100.0% of actions are equal")
    assert lines[4] == f"onnx: {path} ({path.stat().st_size / 1e6:.2f} MB)"
    assert lines[5].startswith("note: the last bits differ")
    assert len(lines) == 6

    check = json.loads((tmp_path / "check.json").read_text())
    said = (check["version"], check["game"], check["onnx"], check["checkpoint"])
    assert said == (VERSION, "space_invaders", str(path), str(LATE))
    assert check["largest_difference"] < 1e-5 < check["allowed_difference"]
    assert (check["equal_actions"], check["observations"]) == (1.0, 256)
    assert check["file_bytes"] == path.stat().st_size
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)
    values = OnnxValues.load(path)
    assert values.description.version == VERSION
    assert np.allclose(values.q_values(frames), DQNAgent.load(LATE).q_values(frames), atol=1e-5)


def test_a_version_of_a_registry_is_exported_by_its_number(command, tmp_path, shared):
    assert command("promote", "register", LATE, "--registry", tmp_path / "registry")[0] == 0
    flags = ["--registry", tmp_path / "registry", "--onnx", tmp_path / "1.onnx"]
    code, out, _ = command("export", 1, *flags)
    assert code == 0
    assert f"  1, version {VERSION[:12]}" in out


def test_a_network_and_a_card_are_exported_at_once(command, tmp_path, shared):
    flags = ["--onnx", tmp_path / "late.onnx", "--card", tmp_path / "card", "--games", 1]
    code, out, err = command("export", LATE, *flags, "--json", tmp_path / "told.json")
    assert (code, err) == (0, "")
    assert f"onnx: {tmp_path / 'late.onnx'}" in out
    assert f"card: {tmp_path / 'card'} (5 files," in out
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["onnx"], told["card"]) == (str(tmp_path / "late.onnx"), str(tmp_path / "card"))
    assert (tmp_path / "late.onnx").is_file()


def test_a_file_that_computes_something_else_is_an_error_and_is_not_written(
    command, tmp_path, shared, monkeypatch
):
    monkeypatch.setattr("rlarcade.learning.onnx_file.TOLERANCE", 0)
    path = tmp_path / "late.onnx"
    code, out, err = command("export", LATE, "--onnx", path, "--json", tmp_path / "check.json")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "computes something else: on 256 observations of a game its Q-values differ by" in err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_in_one_line(command, tmp_path, shared, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlarcade.learning.onnx_file.write_file", full)
    code, _, err = command("export", LATE, "--onnx", tmp_path / "late.onnx")
    assert code == 2
    assert f"--onnx {tmp_path / 'late.onnx'} cannot be written: No space left on device." in err


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    command, tmp_path, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    code, out, err = command("export", LATE, "--onnx", tmp_path / "late.onnx")
    assert (code, out) == (2, "")
    assert err == (
        f"rlarcade: error: ONNX needs the extra `onnx` ({missing} is missing): "
        "pip install -c constraints.txt '.[onnx]'.\n"
    )


@pytest.mark.slow
def test_the_command_itself_is_silent_but_for_its_result_in_a_real_game(run_verb, tmp_path):
    done = run_verb("export", LATE, "--onnx", tmp_path / "late.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 6
    assert "100.0% of actions are equal" in done.stdout
