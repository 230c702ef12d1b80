"""A run that is killed again and again is one run in Weights & Biases and in MLflow."""

import signal
import subprocess
import sys
import time

import mlflow
import pytest
from tracker_readers import curves, curves_of, files, rows, runs

from rlarcade.runs.metrics_file import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SMALL = (
    *("--game", "Pong", "--preset", "quick", "--device", "cpu", "--num-envs", "4"),
    *("--total-timesteps", "8000", "--learning-starts", "500", "--save-interval", "500"),
    *("--conv-channels", "4", "4", "4", "--hidden-units", "16", "--batch-size", "16"),
    *("--eval-episodes", "1", "--run-dir", "run", "--track", "wandb", "--track", "mlflow"),
)


@pytest.mark.first
@pytest.mark.slow
@pytest.mark.recorded
def test_killed_runs_are_whole_in_both_trackers(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "home"))
    command = [sys.executable, "-m", "rlarcade.train", *SMALL]

    def begun():
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    # MLflow makes the tables of its store at first use, and a kill meanwhile leaves half of them.
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.search_experiments()
    kills = 0
    for seconds in (0.6, 1.4):
        with begun() as process:
            for line in process.stdout:
                if "run folder" in line:
                    time.sleep(seconds)
                    process.kill()
        kills += process.returncode == -signal.SIGKILL
    with begun() as process:
        process.communicate(timeout=600)
    assert (process.returncode, kills >= 1) == (0, True)
    lines = read_metrics(tmp_path / "run")
    (run,) = runs(client)
    assert curves(client, run.info.run_id) == curves_of(tmp_path / "run")
    others = {"run", "train/q_values", "train/td_error"}
    told = [row for row in rows(tmp_path / "run") if not others & row.keys()]
    assert len({path.name for path in files(tmp_path / "run")}) == 1  # of one id
    # W&B cannot say what it has, so a kill while figures are on their way may repeat them.
    once = [row for n, row in enumerate(told) if row not in told[:n]]
    assert once == lines
