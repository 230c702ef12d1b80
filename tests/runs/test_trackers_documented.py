"""docs/howto/trackers.md tells the truth: its examples run, its names exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rlarcade
from rlarcade.runs.metrics_file import read_metrics

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "trackers.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.+?)```", PAGE, flags=re.DOTALL)
SMALL = (
    *("--num-envs", "4", "--total-timesteps", "6000", "--learning-starts", "500"),
    *("--conv-channels", "4", "4", "4", "--hidden-units", "16", "--batch-size", "16"),
    *("--eval-episodes", "1", "--video-interval", "5000"),
)


def test_every_name_that_an_example_imports_is_public():
    for names in re.findall(r"from rlarcade import (.+)", PAGE):
        assert set(names.split(", ")) <= set(rlarcade.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_python_examples_run_as_written_but_shorter(tmp_path, number):
    code = EXAMPLES[number].replace("100_000", "64").replace("episodes=10", "episodes=1")
    (tmp_path / "example.py").write_text(code)
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, timeout=200)


@pytest.mark.slow
def test_the_command_shows_in_every_tracker_what_the_page_says(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (command,) = re.findall(r"^python (-m rlarcade\.train .+)$", PAGE, re.MULTILINE)
    words = [sys.executable, *shlex.split(command), *SMALL, "--run-dir", "run"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    subprocess.run(words, cwd=tmp_path, check=True, timeout=280)
    folder = tmp_path / "run"
    assert {path.name for path in (folder / "trackers").iterdir()} == {"wandb.json", "mlflow.json"}
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = board.Tags()
    shown = {name for line in read_metrics(folder) for name in line} - {"step"}
    assert shown == set(tags["scalars"])
    table = "".join(line for line in PAGE.splitlines(keepends=True) if line.startswith("| `"))
    named = set(re.findall(r"`([a-z]+/\w+)`", table))
    histograms = {"train/q_values", "train/td_error"}
    assert named - histograms <= shown
    assert {n for n in shown if not n.startswith(("eval/final_", "time/"))} <= named
    assert set(tags["histograms"]) == histograms
    assert tags["images"] == ["videos"]
