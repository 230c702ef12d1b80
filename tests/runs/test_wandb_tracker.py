"""Weights & Biases, the real library in offline mode, has a run as its own file has it."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from tracked_runs import told_of_an_absent_server, train_with_a_stop, write
from tracker_readers import files, rows, written

from rlarcade.errors import ConfigError
from rlarcade.runs import following
from rlarcade.runs.metrics_file import read_metrics
from rlarcade.runs.trackers import TrackedRun
from rlarcade.runs.wandb_tracker import WandbTracker


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def test_a_run_that_was_resumed_is_one_run_with_every_figure_once(tmp_path):
    write(tmp_path / "run", WandbTracker(), [8, 16, 16, 24, 32], saved=24)  # a kill loses the rest
    write(tmp_path / "run", WandbTracker(), [28, 36], resumed_at=24)
    assert rows(tmp_path / "run") == read_metrics(tmp_path / "run")
    began = [
        record.run
        for path in files(tmp_path / "run")
        for record in written(path)
        if record.WhichOneof("record_type") == "run"
    ]
    assert len({one.run_id for one in began}) == 1
    assert {(one.project, one.display_name) for one in began} == {("rlarcade", "run")}
    document = json.loads((tmp_path / "run" / "trackers" / "wandb.json").read_text())
    id_ = began[0].run_id
    assert document == {"key": id_, "id": id_, "step": 36, "lines": 1, "sending": False}


KILLED = """
import os, signal, sys
from pathlib import Path
from rlarcade.runs.trackers import TrackedRun
from rlarcade.runs.wandb_tracker import WandbTracker
tracker = WandbTracker()
tracker.open(TrackedRun(Path(sys.argv[1]), "5a", None))
for step in range(3):
    tracker.scalars(step, {"train/loss": step / 8})
    tracker.flush()
os.killpg(0, signal.SIGKILL)  # with the process of W&B
"""


def test_a_kill_right_after_a_flush_loses_no_row(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    command = [sys.executable, "-c", KILLED, folder]
    ended = subprocess.run(command, check=False, start_new_session=True, timeout=60, env=own)
    assert ended.returncode == -signal.SIGKILL
    assert rows(folder) == [{"step": step, "train/loss": step / 8} for step in range(3)]


def test_every_kind_is_kept_with_the_agent_step_as_the_axis(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "step-8.mp4").write_bytes(b"film")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "manifest.json").write_text("{}")
    tracker = WandbTracker(project="mine", tags=["a"])
    id_ = tracker.open(TrackedRun(folder, "5a", None))
    tracker.hyper_parameters({"learning_rate": 1e-4, "game": "pong"})
    tracker.hyper_parameters({"learning_rate": 2e-4})
    tracker.scalars(8, {"train/loss": 0.5})
    tracker.histogram(8, "train/q_values", np.array([0, 1, 1], dtype=np.float32))
    tracker.text(8, "run", "<b> & é")
    tracker.video(8, "videos", tmp_path / "step-8.mp4")
    tracker.artefact("checkpoint", tmp_path / "checkpoint")
    tracker.artefact("film", tmp_path / "step-8.mp4")
    tracker.flush()
    tracker.close()
    found = rows(folder)
    assert [row["step"] for row in found] == [8, 8, 8, 8]
    assert found[0]["train/loss"] == 0.5
    histogram = found[1]["train/q_values"]
    assert (histogram["_type"], sum(histogram["values"])) == ("histogram", 3)
    media = next((folder / "wandb").glob("offline-run-*")) / "files" / "media"
    (page,) = media.glob("html/*.html")
    assert "&lt;b&gt; &amp; é" in page.read_text()
    (film,) = media.glob("videos/*.mp4")
    assert film.read_bytes() == b"film"
    (path,) = files(folder)
    by_kind = {}
    for record in written(path):
        by_kind.setdefault(record.WhichOneof("record_type"), []).append(record)
    config = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for kind in ("run", "config")
        for record in by_kind.get(kind, [])
        for item in (record.run.config if kind == "run" else record.config).update
    }
    assert (config["learning_rate"], config["game"]) == (2e-4, "pong")
    metrics = [record.metric for record in by_kind["metric"]]
    assert any(one.glob_name == "*" and one.step_metric == "global_step" for one in metrics)
    run = by_kind["run"][0].run
    assert (run.project, list(run.tags), run.run_id) == ("mine", ["a"], id_)


def test_nothing_is_said_on_the_terminal_but_by_the_run_itself(tmp_path, capfd):
    write(tmp_path / "run", WandbTracker(), [8])
    assert capfd.readouterr() == ("", "")


def test_who_is_not_logged_in_gets_an_offline_run_and_is_asked_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    write(tmp_path / "run", WandbTracker(), [8])
    assert len(files(tmp_path / "run")) == 1


def test_a_server_that_is_not_there_is_told_once_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setattr(following, "PATIENCE", 3.0)
    (told,) = told_of_an_absent_server(tmp_path, WandbTracker())
    assert told.startswith("wandb gets no more figures (")


def test_a_missing_library_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"Weights & Biases needs the extra `wandb` \("):
        WandbTracker()


@pytest.mark.slow
@pytest.mark.usefixtures("short_games")
def test_the_command_follows_a_run_with_wandb_over_a_stop(tmp_path):
    train_with_a_stop("wandb")
    others = {"run", "train/q_values", "train/td_error"}
    told = rows(tmp_path / "run")
    assert [row for row in told if not others & row.keys()] == read_metrics(tmp_path / "run")
    assert [row["step"] for row in told if "run" in row] == [0]
    assert [row["step"] for row in told if "train/q_values" in row] == [1200, 2400]
