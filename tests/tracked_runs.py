"""What the tests of Weights & Biases and of MLflow do alike: runs that a tracker follows."""

from rlarcade.runs.metrics import MetricWriter
from rlarcade.runs.metrics_file import read_metrics


def write(folder, tracker, steps, *, resumed_at=0, saved=None):
    """Writes figures of a run at some steps. Those after `saved` are lost by a kill."""
    folder.mkdir(exist_ok=True)
    writer = MetricWriter(folder, resumed_at=resumed_at, trackers=[tracker])
    for step in steps:
        writer.write(step, {"train/loss": step / 8, "charts/SPS": 2.0 * step})
    writer.saved(steps[-1] if saved is None else saved)
    writer.close()


def told_of_an_absent_server(folder, tracker):
    """Writes and saves nine times with a tracker whose server does not answer.

    Returns what the user is told.
    """
    heard = []
    writer = MetricWriter(folder, trackers=[tracker], warn=heard.append)
    for step in range(8, 80, 8):
        writer.write(step, {"train/loss": 1.0})
        writer.saved(step)
    writer.close()
    assert len(read_metrics(folder)) == 9
    return heard


def train_with_a_stop(tracker):
    """Trains by the command in the folder `run`, to 1,200 steps and then to 2,400."""
    from rlarcade.train import main

    flags = ["--game", "Pong", "--preset", "quick", "--num-envs", "4", "--eval-episodes", "1"]
    flags += ["--learning-starts", "100", "--run-dir", "run", "--track", tracker]
    flags += ["--conv-channels", "4", "4", "4", "--hidden-units", "16", "--batch-size", "16"]
    assert main([*flags, "--total-timesteps", "1200"]) == 0
    assert main([*flags, "--total-timesteps", "2400"]) == 0
