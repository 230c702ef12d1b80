"""A run folder writes to itself alone: links in it lead nowhere, foreign files stay."""

import errno
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from rlarcade.errors import RunFolderError
from rlarcade.learning.state import TrainingState
from rlarcade.locks import try_lock
from rlarcade.runs import folder as run_folder
from rlarcade.runs.folder import RunFolder, code_commit, process_in
from rlarcade.runs.metrics import MetricWriter
from rlarcade.runs.metrics_file import newest_metrics, read_metrics
from rlarcade.runs.state_store import StateStore

GOLDEN = Path(__file__).parents[1] / "data" / "written-by-0.1.0"


@pytest.fixture
def golden(tmp_path):
    return shutil.copytree(GOLDEN / "interrupted", tmp_path / "run")


@pytest.fixture
def precious(tmp_path):
    folder = tmp_path / "precious"
    folder.mkdir()
    for name in ("a.txt", "000000000000-000000000005.safetensors", "step-000000000001"):
        (folder / name).write_text("precious")
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["lock", "run.json", "commands.jsonl", "metrics.jsonl", "result.json"]
)
@pytest.mark.parametrize("target", ["a.txt", "not-there"])
def test_a_link_in_the_place_of_a_file_is_refused_and_what_it_points_to_stays(
    golden, precious, name, target
):
    (golden / name).unlink(missing_ok=True)
    (golden / name).symlink_to(precious / target)
    before = contents(precious)
    with pytest.raises(RunFolderError, match=f"its {name} is a link.*Remove"):
        RunFolder(golden)
    assert contents(precious) == before


@pytest.mark.parametrize("name", ["state", "state/rows", "checkpoints", "tensorboard"])
def test_a_link_in_the_place_of_a_folder_is_refused_and_what_it_points_to_stays(
    golden, precious, name
):
    shutil.rmtree(golden / name, ignore_errors=True)
    (golden / name).symlink_to(precious)
    before = contents(precious)
    with pytest.raises(RunFolderError, match=f"its {name} is a link"):
        RunFolder(golden)
    assert contents(precious) == before


@pytest.mark.parametrize("name", ["lock", "run.json", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_without_waiting(golden, name, make):
    (golden / name).unlink(missing_ok=True)
    make(golden / name)
    with pytest.raises(RunFolderError, match=f"its {name} is not a file"):
        RunFolder(golden)


@pytest.mark.parametrize("name", ["run.json", "result.json", "metrics.jsonl"])
def test_a_file_of_sixty_gigabytes_is_not_read(golden, name):
    with (golden / name).open("wb") as file:
        file.truncate(60_000_000_000)
    folder = RunFolder(golden)
    try:
        if name == "run.json":
            with pytest.raises(RunFolderError, match="60,000,000,000 bytes"):
                folder.record()
        elif name == "result.json":
            assert folder.finished() is None
        else:
            with pytest.raises(OSError, match="60,000,000,000 bytes"):
                read_metrics(golden)
            assert newest_metrics(golden) == {}
    finally:
        folder.close()


def test_the_folder_that_the_user_names_may_be_a_link(golden, tmp_path):
    (tmp_path / "link").symlink_to(golden)
    folder = RunFolder(tmp_path / "link")
    assert folder.record().preset == "quick"
    folder.close()


def test_a_lock_that_holds_something_else_is_not_overwritten(golden):
    (golden / "lock").write_text("my notes")
    with pytest.raises(RunFolderError, match="its lock holds something other"):
        RunFolder(golden)
    assert (golden / "lock").read_text() == "my notes"


def test_who_works_on_a_folder_is_told_to_others(golden):
    assert process_in(golden) is None
    folder = RunFolder(golden)
    assert process_in(golden) == str(os.getpid())
    folder.close()
    assert process_in(golden) is None
    assert process_in(golden / "nowhere") is None


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("77 node-7.lan", "77 on node-7.lan"),
        ("77", "77"),
        ("77 a\x1bb", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_process_of_another_machine_is_told_with_its_machine(golden, text, who):
    (golden / "lock").write_text(text)
    with (golden / "lock").open("r+") as held:
        assert try_lock(held.fileno())
        assert process_in(golden) == who
        with pytest.raises(RunFolderError, match=f"is in use by process {who}. Wait"):
            RunFolder(golden)


@pytest.mark.parametrize("text", ["77", "77 node-7"])
def test_the_lock_of_a_process_that_has_ended_is_taken(golden, text):
    (golden / "lock").write_text(text)
    RunFolder(golden).close()
    assert (golden / "lock").read_text() == f"{os.getpid()} {socket.gethostname()}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 20_000, "run.json cannot be read"),
        ('{"preset": ' + "9" * 5_000 + "}", "run.json cannot be read"),
        ('{"preset": 3}', "run.json cannot be read"),
    ],
)
def test_a_record_that_means_nothing_is_one_line(golden, text, message):
    (golden / "run.json").write_text(text)
    folder = RunFolder(golden)
    with pytest.raises(RunFolderError, match=message) as refused:
        folder.record()
    folder.close()
    said = str(refused.value)
    assert "\n" not in said
    assert "validation error" not in said
    assert "pydantic" not in said


@pytest.mark.parametrize("name", ["buffer_size", "exploration_steps", "n_steps_duration", "device"])
def test_a_record_with_a_setting_that_is_not_resolved_is_refused(golden, name):
    document = json.loads((golden / "run.json").read_text())
    document["train"][name] = "auto" if name == "device" else None
    (golden / "run.json").write_text(json.dumps(document))
    folder = RunFolder(golden)
    with pytest.raises(RunFolderError, match=f"{name} is not resolved"):
        folder.record()
    folder.close()


# States


@pytest.fixture(scope="module")
def state(tiny_config):
    return TrainingState.create(tiny_config.model_copy(update={"total_timesteps": 20}))


@pytest.mark.parametrize("name", ["state", "state/rows"])
def test_a_state_is_not_saved_through_a_link(state, precious, tmp_path, name):
    store = StateStore(tmp_path / "state")
    link = tmp_path / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(precious)
    before = contents(precious)
    with pytest.raises(OSError, match="it is a link"):
        store.save(state)
    assert contents(precious) == before


def test_only_what_has_our_names_is_pruned(state, precious, tmp_path):
    store = StateStore(tmp_path / "state")
    store.save(state)
    foreign = {
        *(tmp_path / "state" / name for name in ("notes.txt", "step-old", "step-7", "backup")),
        *(tmp_path / "state" / "rows" / name for name in ("notes.txt", "7-9.safetensors")),
    }
    for path in foreign:
        path.write_text("mine")
    ours = [
        tmp_path / "state" / "step-000000000001",
        tmp_path / "state" / ".step-000000000002.old",
        tmp_path / "state" / "rows" / ".000000000000-000000000003.safetensors.writing",
        tmp_path / "state" / "rows" / ".000000000000-000000000004.safetensors.0a1b2c3d.writing",
    ]
    for path in ours:
        path.symlink_to(precious / "a.txt")
    store.save(state)
    assert all(path.read_text() == "mine" for path in foreign)
    assert not any(path.is_symlink() for path in ours)
    assert (precious / "a.txt").read_text() == "precious"


# Figures


def test_figures_are_not_written_through_links(precious, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(precious / "a.txt")
    with pytest.raises(OSError, match="it is a link"):
        MetricWriter(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / ".metrics.jsonl.writing").symlink_to(precious / "a.txt")
    MetricWriter(tmp_path).close()
    (tmp_path / "events").mkdir()
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "tensorboard").symlink_to(tmp_path / "events")
    with pytest.raises(OSError, match="it is a link"):
        MetricWriter(tmp_path)
    assert not [*(tmp_path / "events").iterdir()]
    assert (precious / "a.txt").read_text() == "precious"


def test_a_disk_that_is_full_when_a_run_goes_on_leaves_its_figures_as_they_were(
    tmp_path, monkeypatch
):
    lines = "".join(json.dumps({"step": n, "train/loss": 0.5}) + "\n" for n in range(3_000))
    (tmp_path / "metrics.jsonl").write_text(lines)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("rlarcade.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            MetricWriter(tmp_path, resumed_at=2_000)
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    MetricWriter(tmp_path, resumed_at=2_000).close()
    assert len(read_metrics(tmp_path)) == 2_001


def test_a_line_of_figures_that_is_nested_without_end_is_left_out(tmp_path):
    text = '{"step": 1}\n{"step": 2, "x": ' + "[" * 9_000 + '\n{"step": 3}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3]


def test_the_newest_figures_are_read_from_the_end_of_the_file(tmp_path):
    assert newest_metrics(tmp_path) == {}
    lines = [{"step": n, "time/fps": n / 2} for n in range(1, 5_000)]
    lines[100]["eval/mean_reward"] = 7.0
    lines.append({"step": 5_000, "charts/episodic_return": 3.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    newest = {"step": 5_000, "time/fps": 4_999 / 2, "charts/episodic_return": 3.0}
    assert newest_metrics(tmp_path) == newest


# The code's commit


def test_the_commit_is_asked_for_once_so_that_a_later_one_is_not_taken_for_it(monkeypatch):
    code_commit.cache_clear()
    answers = iter(("a" * 40, "", "b" * 40, ""))

    def git(command, **_):
        return subprocess.CompletedProcess(command, 0, stdout=next(answers))

    monkeypatch.setattr(run_folder.subprocess, "run", git)
    monkeypatch.setattr(run_folder.Path, "exists", lambda path: True)
    try:
        assert [code_commit(), code_commit()] == ["a" * 40] * 2
    finally:
        code_commit.cache_clear()
