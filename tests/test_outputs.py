"""Outputs that cannot be written are refused before the work, by every command, leaving nothing."""

import argparse
import os
import threading
from pathlib import Path

import pytest

from rlarcade.errors import ConfigError, RlarcadeError
from rlarcade.outputs import check_output, check_outputs, output_file
from rlarcade.reports.pictures import write_picture, write_video

LATE = Path(__file__).parent / "data" / "space-invaders-late"
MATCH = Path(__file__).parent / "data" / "written-by-0.1.0" / "comparison.json"


def refusal(outputs, inputs=None):
    """What is said, within seconds: waiting for ever is what it must not do."""
    said = []

    def check():
        try:
            check_outputs(outputs, inputs or {})
            said.append(None)
        except ConfigError as error:
            said.append(str(error))

    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    thread.join(5)
    assert said, "it still waits"
    return said[0]


@pytest.fixture
def files(tmp_path):
    """Returns all that is below the test's folder, as often as asked."""
    return lambda: sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))


def test_what_can_be_written_passes_and_nothing_is_left_behind(tmp_path, files):
    (tmp_path / "old.json").write_text("old")
    before = files()
    outputs = {
        "--json": tmp_path / "old.json",
        "--report": tmp_path / "a" / "b" / "r.html",
        "--video": tmp_path / "a" / "v.MP4",
        "--picture": None,
    }
    assert refusal(outputs) is None
    assert files() == before
    assert (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize(
    ("flag", "name", "remedy"),
    [
        ("--video", "x.avi", ".mp4"),
        ("--video", "x", ".mp4"),
        ("--picture", "x.txt", ".png"),
        ("--picture", "x.png.jpg", ".png"),
        ("--report", "r.txt", ".html"),
        ("--report", "r", ".html"),
    ],
)
def test_a_format_that_cannot_be_made_is_refused_with_the_one_that_can(
    tmp_path, files, flag, name, remedy
):
    said = refusal({flag: tmp_path / name})
    assert f"{flag} {tmp_path / name} cannot be written" in said
    assert f"{name} must end in {remedy}" in said
    assert files() == []


def test_a_fifo_a_device_a_folder_and_a_file_on_the_way_are_refused_as_they_are(tmp_path, files):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("kept")
    before = files()
    for path, reason in (
        (tmp_path / "pipe", "it is not a file"),
        (Path("/dev/zero"), "it is not a file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "x.json", "Not a directory"),
        (tmp_path / "file" / "deeper" / "x.json", "Not a directory"),
        (Path("/proc/x"), "No such file or directory"),
        (Path("/proc/new/x"), "No such file or directory"),
        (tmp_path / f"{'x' * 300}.json", "File name too long"),
        (tmp_path / ("y" * 300) / "x.json", "File name too long"),
        (Path("a\0b"), "null"),
    ):
        said = refusal({"--json": path})
        assert said is not None, path
        assert reason in said, path
        assert "\n" not in said
    assert files() == before
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may write everywhere")
def test_a_place_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in refusal({"--json": tmp_path / "x.json"})


def test_a_file_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text("kept")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "Permission denied" in refusal({"--json": tmp_path / "x.json"})


def test_two_outputs_in_one_file_and_an_output_in_an_input_are_refused(tmp_path):
    one = tmp_path / "x.html"
    said = refusal({"--json": one, "--report": tmp_path / "." / "new" / ".." / "x.html"})
    assert "--json and --report are the same file" in said
    (tmp_path / "sweep.toml").write_text("name = 'mine'")
    (tmp_path / "link").symlink_to("sweep.toml")
    said = refusal({"--json": tmp_path / "link"}, {"the sweep's file": tmp_path / "sweep.toml"})
    assert "the sweep's file and --json are the same file" in said


def test_another_process_that_tries_the_same_new_folder_disturbs_nobody(tmp_path):
    wrong = []

    def look():
        for _ in range(100):
            try:
                check_output(tmp_path / "new" / "x.json", "--json")
            except ConfigError as error:
                wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Every command


@pytest.mark.parametrize("output", ["/proc/x", "FOLDER", "FIFO"])
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", LATE, "--json"],
        ["compare", LATE, LATE, "--json"],
        ["predict", LATE, "--input", MATCH, "--output"],
        ["predict", LATE, "--input", MATCH, "--output", "actions.npz", "--json"],
        ["export", LATE, "--onnx"],
        ["export", LATE, "--onnx", "agent.onnx", "--json"],
        ["promote", "register", LATE, "--json"],
        ["promote", "versions", "--json"],
        ["promote", "export"],
        ["sweep", "sweep.toml", "--json"],
        ["train", "--game", "pong", "--preset", "quick", "--json"],
        ["watch", MATCH, "--picture"],
        ["watch", MATCH, "--video"],
    ],
    ids=lambda words: " ".join(map(str, words[:1] + words[2:][-1:])),
)
def test_every_command_refuses_an_output_before_its_work(
    command, tmp_path, monkeypatch, files, words, output
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text('[settings]\ngame = "pong"\npreset = "quick"\n')
    (tmp_path / "FOLDER").mkdir()
    os.mkfifo("FIFO")
    before = files()
    code, out, err = command(*words, output)
    assert code == 2, err
    assert f"{output} cannot be written" in err
    assert "Choose another file" in err
    assert err.count("\n") == 1
    assert out == ""
    assert files() == before, "no run folder, no registry, no record"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["evaluate", LATE, "--video", "x.avi"], "x.avi must end in .mp4"),
        (["evaluate", LATE, "--report", "r.txt"], "r.txt must end in .html"),
        (["compare", LATE, LATE, "--report", "r.txt"], "r.txt must end in .html"),
        (["watch", LATE, "--video", "x.avi"], "x.avi must end in .mp4"),
        (["watch", LATE, "--picture", "x.txt"], "x.txt must end in .png"),
        (["predict", LATE, "--input", MATCH, "--output", "x.json"], "x.json must end in .npz"),
        (["export", LATE, "--onnx", "x.pt"], "x.pt must end in .onnx"),
    ],
)
def test_every_command_refuses_a_format_that_it_cannot_make(
    command, tmp_path, monkeypatch, files, words, remedy
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlarcade.playing.play.GameEnv", None)  # no game is played
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert remedy in err
    assert files() == []


def test_a_document_is_not_overwritten_by_what_is_drawn_of_it(command, tmp_path):
    recording = tmp_path / "games.json"
    recording.write_bytes(MATCH.read_bytes())
    (tmp_path / "game.png").symlink_to("games.json")
    code, _, err = command("watch", recording, "--picture", tmp_path / "game.png")
    assert code == 2
    assert "what is watched and --picture are the same file" in err


@pytest.mark.parametrize(("write", "name"), [(write_video, "x.mp4"), (write_picture, "x.png")])
def test_the_writers_refuse_what_stands_there_before_they_draw(tmp_path, write, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(RlarcadeError, match="cannot be written: it is not a file"):
        write(tmp_path / name, None)
    assert (tmp_path / name).is_fifo()


def test_a_scripts_output_is_tried_when_its_command_line_is_read(tmp_path, files, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=output_file)
    path = tmp_path / "new.json"
    assert parser.parse_args(["--json", str(path)]).json == path
    for wrong, said in ((tmp_path, "Is a directory"), (tmp_path / "no" / "x", "does not exist")):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(["--json", str(wrong)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert files() == []
