"""MLflow, the real library and a real store, has a run as its own file has it."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from tracked_runs import told_of_an_absent_server, train_with_a_stop, write
from tracker_readers import curves, curves_of, runs

from rlarcade.errors import ConfigError
from rlarcade.runs.listener import Listener
from rlarcade.runs.mlflow_tracker import MlflowTracker
from rlarcade.runs.trackers import TrackedRun

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store whose tables are made, which takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def uri(tmp_path, empty_store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def client(uri):
    return mlflow.MlflowClient(uri)


def test_a_run_that_was_resumed_is_one_run_with_every_figure_once(tmp_path, uri, client):
    # a kill loses what comes after the save
    write(tmp_path / "run", MlflowTracker("x", uri), range(8, 2_000, 8), saved=1_000)
    write(tmp_path / "run", MlflowTracker("x", uri), range(1_004, 3_000, 8), resumed_at=1_000)
    (run,) = runs(client, "x")
    assert curves(client, run.info.run_id) == curves_of(tmp_path / "run")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    steps = [step for step, _ in curves(client, run.info.run_id)["train/loss"]]
    assert steps == sorted(set(steps))
    assert len(steps) == 375


def test_figures_that_were_on_their_way_at_a_kill_come_once(tmp_path, uri, client):
    write(tmp_path / "run", MlflowTracker("x", uri), [8, 16, 24])
    path = tmp_path / "run" / "trackers" / "mlflow.json"
    document = json.loads(path.read_text())
    assert (document["step"], document["lines"], document["sending"]) == (24, 1, False)
    # as if the kill had come after half of the figures, before the position was written
    path.write_text(json.dumps(document | {"step": 8, "sending": True}))
    write(tmp_path / "run", MlflowTracker("x", uri), [32], resumed_at=24)
    (run,) = runs(client, "x")
    assert curves(client, run.info.run_id) == curves_of(tmp_path / "run")


def test_settings_texts_videos_and_the_checkpoint_are_there(tmp_path, uri, client):
    tracker = MlflowTracker("x", uri)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "manifest.json").write_text("{}")
    (tmp_path / "step-8.mp4").write_bytes(b"film")
    id_ = tracker.open(TrackedRun(tmp_path / "run", "5a", None))
    tracker.hyper_parameters({"learning_rate": 1e-4, "double": True, "game": "pong"})
    tracker.hyper_parameters({"learning_rate": 2e-4, "double": True, "n_steps": 3})
    tracker.text(8, "run", "# é")
    tracker.video(8, "videos", tmp_path / "step-8.mp4")
    tracker.histogram(8, "values", np.zeros(3, dtype=np.float32))
    tracker.artefact("checkpoint", tmp_path / "checkpoint")
    tracker.artefact("films", tmp_path / "step-8.mp4")
    tracker.flush()
    tracker.close()
    data = client.get_run(id_).data
    assert data.params == {
        "learning_rate": "0.0001",
        "double": "True",
        "game": "pong",
        "n_steps": "3",
    }
    assert data.tags["changed.learning_rate"] == "0.0002"
    assert "changed.double" not in data.tags
    assert {one.path for one in client.list_artifacts(id_)} == {
        *("run.md", "videos", "checkpoint", "films")
    }
    assert [one.path for one in client.list_artifacts(id_, "videos")] == ["videos/step-8.mp4"]
    local = client.download_artifacts(id_, "checkpoint/manifest.json", str(tmp_path))
    assert Path(local).read_text() == "{}"


def test_a_run_that_was_deleted_there_is_sent_again_whole(tmp_path, uri, client):
    write(tmp_path / "run", MlflowTracker("x", uri), [8, 16])
    client.delete_run(runs(client, "x")[0].info.run_id)
    write(tmp_path / "run", MlflowTracker("x", uri), [24], resumed_at=16)
    (run,) = runs(client, "x")
    assert [step for step, _ in curves(client, run.info.run_id)["train/loss"]] == [8, 16, 24]


def test_another_store_gets_the_whole_run(tmp_path, uri, empty_store):
    write(tmp_path / "run", MlflowTracker("x", uri), [8, 16])
    (tmp_path / "other.db").write_bytes(empty_store)
    other = f"sqlite:///{tmp_path}/other.db"
    write(tmp_path / "run", MlflowTracker("x", other), [24], resumed_at=16)
    client = mlflow.MlflowClient(other)
    (run,) = runs(client, "x")
    assert [step for step, _ in curves(client, run.info.run_id)["train/loss"]] == [8, 16, 24]


def test_store_and_experiment_come_from_the_environment(tmp_path, uri, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "named")
    tracker = MlflowTracker()
    tracker.open(TrackedRun(tmp_path / "run", "5a", None))
    tracker.close()
    assert len(runs(client, "named")) == 1


def test_a_server_that_is_not_there_is_told_once_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = MlflowTracker("x", "http://127.0.0.1:9")  # the discard port: nobody listens
    (told,) = told_of_an_absent_server(tmp_path, tracker)
    assert told.startswith("mlflow gets no more figures (MlflowException: ")


@pytest.mark.slow
@pytest.mark.usefixtures("short_games")
def test_the_command_follows_a_run_with_mlflow_over_a_stop(tmp_path, uri, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    train_with_a_stop("mlflow")
    (run,) = runs(client)
    assert curves(client, run.info.run_id) == curves_of(tmp_path / "run")
    finals = curves(client, run.info.run_id)["eval/final_mean_reward"]
    assert [step for step, _ in finals] == [1200, 2400]
    assert run.data.params["total_timesteps"] == "1200"
    assert run.data.tags["changed.total_timesteps"] == "2400"
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"run.md", "checkpoint"}


def test_a_missing_library_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"MLflow needs the extra `mlflow` \(.*\[mlflow\]"):
        MlflowTracker()


def test_training_says_nothing_of_its_own_accord(tmp_path, uri, capfd):
    write(tmp_path / "run", MlflowTracker("x", uri), [8])
    assert capfd.readouterr() == ("", "")
    assert Listener().warn
