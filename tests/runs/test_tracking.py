"""Trackers follow a run: each step once, none missing, whatever happens to the run or to them."""

import errno
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from recording_trackers import RecordingTracker
from toy_games import weights_digest
from toy_runs import config, trained

from rlarcade import TrainingRun
from rlarcade.runs import following, metrics_file
from rlarcade.runs.listener import Listener
from rlarcade.runs.metrics import MetricWriter
from rlarcade.runs.metrics_file import read_metrics

pytestmark = pytest.mark.usefixtures("short_games")


def opened(folder, *trackers, **settings):
    settings = {"save_interval": 100, "eval_interval": 100, "eval_episodes": 1} | settings
    return TrainingRun.open(config(), folder, trackers=trackers, **settings)


def written(folder, steps, **settings):
    """A writer with a line of figures for each step."""
    writer = MetricWriter(folder, **settings)
    for step in steps:
        writer.write(step, {"train/loss": step / 8})
    return writer


# What is told, and when


def test_a_tracker_is_told_all_that_the_run_writes_in_a_thread_of_its_own(tmp_path):
    tracker = RecordingTracker()
    with opened(tmp_path / "run", tracker) as run:
        trained(run).finish()
    lines = read_metrics(tmp_path / "run")
    assert tracker.lines == lines
    assert [line["step"] for line in lines if "eval/mean_reward" in line] == [100, 200, 300, 400]
    assert [call[0] for call in tracker.calls[:2]] == ["open", "hyper_parameters"]
    assert [call[0] for call in tracker.calls[-3:]] == ["artefact", "flush", "close"]
    assert tracker.named("artefact") == [
        ("checkpoint", tmp_path / "run" / "checkpoints" / "step-000000000400")
    ]
    assert tracker.threads.isdisjoint({threading.main_thread()})
    assert len(tracker.threads) == 1
    assert not any(thread.is_alive() for thread in tracker.threads)


def test_the_hyper_parameters_are_those_that_the_run_has_resolved(tmp_path):
    tracker = RecordingTracker()
    with opened(tmp_path / "run", tracker, preset="mine") as run:
        trained(run, until=8)
    (settings,) = tracker.named("hyper_parameters")[0]
    resolved = run.config
    assert settings["preset"] == "mine"
    assert settings["game"] == "pong"
    assert settings["learning_rate"] == resolved["learning_rate"]
    assert settings["exploration_steps"] == resolved["exploration_steps"] == 80
    assert settings["conv_channels"] == "4 4 4"
    assert set(settings) == {"preset"} | {n for n, v in resolved.flat().items() if v is not None}
    ((step, name, text),) = tracker.named("text")
    assert (step, name) == (0, "run")
    assert "| `exploration_steps` | 80 |" in text


def test_figures_are_told_after_the_save_of_their_step_and_not_before(tmp_path):
    tracker = RecordingTracker()
    writer = written(tmp_path, [8, 16], trackers=[tracker])
    writer.tracking.settle()
    assert tracker.lines == []
    writer.saved(16)
    writer.tracking.settle()
    assert [line["step"] for line in tracker.lines] == [8, 16]
    writer.write(16, {"eval/mean_reward": 1.0})  # of a step that is saved already
    writer.tracking.settle()
    assert [line["step"] for line in tracker.lines] == [8, 16, 16]
    writer.write(24, {"train/loss": 3.0})
    writer.close()
    assert [line["step"] for line in tracker.lines] == [8, 16, 16]  # 24 was never saved


def test_values_of_a_batch_are_told_at_each_save(tmp_path):
    tracker = RecordingTracker()
    with opened(tmp_path / "run", tracker) as run:
        trained(run)
    told = [(step, name, values.size) for step, name, values in tracker.named("histogram")]
    assert told == [
        row
        for step in (200, 300, 400)
        for row in ((step, "train/q_values", 16 * 6), (step, "train/td_error", 16))
    ]


def test_values_that_are_not_finite_are_left_out_of_a_histogram(tmp_path):
    tracker = RecordingTracker()
    writer = MetricWriter(tmp_path, trackers=[tracker])
    writer.tracking.histogram(0, "a", np.array([[1.0, np.nan], [np.inf, 2.0]], dtype=np.float32))
    writer.tracking.histogram(0, "b", np.array([np.nan], dtype=np.float32))
    writer.close()
    ((_, name, values),) = tracker.named("histogram")
    assert (name, values.tolist()) == ("a", [1.0, 2.0])


# Resuming


def test_a_run_that_is_stopped_and_resumed_is_one_unbroken_run(tmp_path):
    trackers = [RecordingTracker() for _ in range(3)]
    for tracker, until in zip(trackers, (150, 152, 10**9), strict=True):
        with opened(tmp_path / "run", tracker) as run:
            trained(run, until)
    assert [tracker.named("open") for tracker in trackers] == [
        [(None,)],
        [("first",)],
        [("first",)],
    ]
    lines = [line for tracker in trackers for line in tracker.lines]
    assert lines == read_metrics(tmp_path / "run")


def test_a_stop_between_two_figures_changes_none_of_them(tmp_path):
    small = config(total_timesteps=1_200, train_freq=4)
    for name, stops in (("whole", []), ("stopped", [504, 900])):
        for until in (*stops, 10**9):
            with TrainingRun.open(small, tmp_path / name) as run:
                trained(run, until)
    whole, stopped = (without_time(read_metrics(tmp_path / n)) for n in ("whole", "stopped"))
    assert stopped == whole
    (figures,) = (line for line in whole if "train/loss" in line)
    assert {"train/q_mean", "train/grad_norm"} <= figures.keys()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from recording_trackers import FileTracker
from rlarcade import TrainingRun
from toy_runs import config
told = FileTracker(Path(sys.argv[1] + ".told"))
small = config(total_timesteps=3_000)
run = TrainingRun.open(small, sys.argv[1], save_interval=400, trackers=[told])
for progress in run:
    if progress.steps >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
run.close()
"""


def without_time(lines):
    wall = ("time/", "charts/SPS")
    return [{k: v for k, v in line.items() if not k.startswith(wall)} for line in lines]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_is_told_as_one(tmp_path):
    folder, tests = tmp_path / "run", Path(__file__).parents[1]

    def train(folder, until):
        words = [sys.executable, "-c", KILLED, folder, until, tests]
        return subprocess.run([*map(str, words)], check=False, timeout=120).returncode

    for until in (300, 1_100, 1_700, 1_704, 2_500):
        assert train(folder, until) == -signal.SIGKILL
    assert train(folder, 10**9) == 0
    assert train(tmp_path / "whole", 10**9) == 0
    told = [json.loads(line) for line in (tmp_path / "run.told").read_text().splitlines()]
    assert told == read_metrics(folder)
    assert [line["step"] for line in told if "train/loss" in line] == [1_000, 2_000, 3_000]
    assert without_time(told) == without_time(read_metrics(tmp_path / "whole"))


def test_a_tracker_that_is_added_later_gets_the_whole_curve(tmp_path):
    written(tmp_path, [8, 16, 24, 32]).close()
    tracker = RecordingTracker()
    writer = written(tmp_path, [28], resumed_at=24, trackers=[tracker])
    writer.saved(28)
    writer.close()
    assert [line["step"] for line in tracker.lines] == [8, 16, 24, 28]


def test_a_run_that_the_tracker_has_lost_is_sent_again_from_its_first_step(tmp_path):
    first = RecordingTracker(ids=["first"])
    writer = written(tmp_path, [8, 16], trackers=[first])
    writer.saved(16)
    writer.close()

    class Forgetful(RecordingTracker):
        def open(self, run):
            self.opened.append(run)
            return "second"

    second = Forgetful()
    written(tmp_path, [], resumed_at=16, trackers=[second]).close()
    assert [run.id for run in second.opened] == ["first"]
    assert [line["step"] for line in second.lines] == [8, 16]
    document = json.loads((tmp_path / "trackers" / "recorder.json").read_text())
    assert document["key"] == first.opened[0].key == second.opened[0].key
    assert len(document.pop("key")) == 16
    assert document == {"id": "second", "step": 16, "lines": 1, "sending": False}


def test_a_kill_while_a_tracker_begins_a_run_leaves_its_key(tmp_path):
    keys = []

    class Slow(RecordingTracker):
        def open(self, run):
            keys.append(run.key)
            document = json.loads((tmp_path / "trackers" / "recorder.json").read_text())
            assert (document["key"], document["id"]) == (run.key, None)
            raise SystemExit  # the process ends here

    for _ in range(2):
        written(tmp_path, [8], trackers=[Slow()], warn=lambda _: None).close()
    assert keys[0] == keys[1]


def test_of_several_lines_of_one_step_those_that_are_missing_are_sent(tmp_path):
    tracker = RecordingTracker()
    writer = written(tmp_path, [8, 16, 16], trackers=[tracker])
    writer.saved(16)
    writer.tracking.settle()
    writer.write(16, {"eval/mean_reward": 2.0})
    # a kill: nothing is closed, and the last line has not reached the tracker
    document = tmp_path / "trackers" / "recorder.json"
    writer.tracking.settle()
    killed = {"key": "5a", "id": "first", "step": 16, "lines": 2, "sending": True}
    document.write_text(json.dumps(killed))
    writer.close()
    again = RecordingTracker()
    written(tmp_path, [], resumed_at=16, trackers=[again]).close()
    assert again.lines == [{"step": 16, "eval/mean_reward": 2.0}]
    assert [run.interrupted for run in again.opened] == [True]
    last = RecordingTracker()
    written(tmp_path, [], resumed_at=16, trackers=[last]).close()
    assert (last.lines, [run.interrupted for run in last.opened]) == ([], [False])


def test_a_run_that_goes_on_from_an_older_save_sends_no_step_twice(tmp_path):
    tracker = RecordingTracker()
    writer = written(tmp_path, [8, 16, 24], trackers=[tracker])
    writer.saved(24)
    writer.close()
    again = RecordingTracker()  # the save at 24 was damaged
    writer = written(tmp_path, [12, 24, 32], resumed_at=8, trackers=[again])
    for step in (24, 32):
        writer.tracking.histogram(step, "a", np.ones(1, dtype=np.float32))
    writer.saved(32)
    writer.close()
    assert [line["step"] for line in again.lines] == [32]
    assert [step for step, *_ in again.named("histogram")] == [32]


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[1]", "null", "[" * 9_000, '{"key": "a", "id": 3}', '{"id": "first"}'),
        '{"key": "a", "id": "first", "step": "8", "lines": 1, "sending": false}',
    ],
)
def test_a_tracker_whose_file_is_damaged_begins_a_new_run(tmp_path, damage):
    written(tmp_path, [8]).close()
    (tmp_path / "trackers").mkdir()
    (tmp_path / "trackers" / "recorder.json").write_text(damage)
    tracker = RecordingTracker()
    written(tmp_path, [], resumed_at=8, trackers=[tracker]).close()
    assert tracker.named("open") == [(None,)]
    assert [line["step"] for line in tracker.lines] == [8]


def test_figures_from_a_stranger_that_are_no_numbers_are_not_sent(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 8, "a": "x", "b": [1], "c": true, "d": 2}\n')
    tracker = RecordingTracker()
    written(tmp_path, [], resumed_at=8, trackers=[tracker]).close()
    assert tracker.lines == [{"step": 8, "d": 2}]


# Trackers that fail


@pytest.mark.parametrize("call", ["open", "scalars", "artefact", "flush", "close"])
def test_a_tracker_that_fails_is_told_once_and_training_goes_on(tmp_path, call):
    heard = []
    bad, good = RecordingTracker("bad", fails_at=call), RecordingTracker("good")
    with opened(tmp_path / "run", bad, good, listener=Listener(warn=heard.append)) as run:
        trained(run).finish()
    assert len(heard) == 1
    assert heard[0].startswith("bad gets no more figures (RuntimeError: no network")
    assert "metrics.jsonl has them all" in heard[0]
    assert bad.calls[-1][0] == call  # it is left alone from then on
    assert good.lines == read_metrics(tmp_path / "run")
    assert run.outcome is not None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OSError(errno.ENOSPC, "x")])
def test_whatever_a_library_raises_ends_only_the_tracker(tmp_path, error):
    heard = []
    tracker = RecordingTracker(fails_at="open", error=error)
    writer = written(tmp_path, [8], trackers=[tracker], warn=heard.append)
    writer.close()
    assert len(heard) == 1
    assert type(error).__name__ in heard[0]


def test_a_tracker_that_fails_while_the_run_hands_figures_over_does_not_end_training(tmp_path):
    class Failing(RecordingTracker):
        def open(self, run):
            assert handing_over.wait(60)
            raise RuntimeError("no network")

    class Step(int):
        def __le__(self, saved):
            if saved == 8:
                handing_over.set()
                follower._thread.join(60)
            return super().__le__(saved)

    handing_over = threading.Event()
    follower = following.Follower(Failing(), tmp_path, saved=0, earlier=lambda: iter(()))
    follower.tell(following.line_of(Step(8), {"train/loss": 1.0}))
    follower.saved(8)
    assert "no network" in follower.problem
    follower.tell(following.line_of(16, {"train/loss": 1.0}))
    follower.saved(16)
    assert not follower._waiting, "nothing is kept for a tracker that takes nothing"
    follower.close()


def test_a_tracker_that_has_failed_catches_up_when_the_run_is_resumed(tmp_path):
    bad = RecordingTracker(fails_at="scalars")
    with opened(tmp_path / "run", bad, listener=Listener(warn=lambda _: None)) as run:
        trained(run, until=250)
    good = RecordingTracker(ids=["second"])
    with opened(tmp_path / "run", good) as run:
        trained(run)
    assert good.opened[0].interrupted
    assert good.lines == read_metrics(tmp_path / "run")


def test_a_finished_run_that_is_opened_again_sends_what_a_tracker_lacks(tmp_path):
    heard, quiet = [], Listener(warn=lambda _: None)
    with opened(tmp_path / "run", RecordingTracker(fails_at="scalars"), listener=quiet) as run:
        trained(run).finish()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    trackers = [RecordingTracker(), RecordingTracker("new"), RecordingTracker("bad")]
    trackers[2].open = None
    opened(tmp_path / "run", *trackers, listener=Listener(warn=heard.append)).close()
    for tracker in trackers[:2]:
        assert tracker.lines == read_metrics(tmp_path / "run")
        assert tracker.calls[-1][0] == "close"
        assert tracker.named("hyper_parameters")[0][0]["total_timesteps"] == 400
    assert len(heard) == 1
    assert heard[0].startswith("bad gets no more figures (TypeError")
    assert "The run is finished, and metrics.jsonl has them all" in heard[0]
    again = RecordingTracker()
    opened(tmp_path / "run", again).close()
    assert again.lines == []
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_whose_record_is_too_large_to_read_at_once_is_resumed_and_tracked(
    tmp_path, monkeypatch
):
    with opened(tmp_path / "run", save_interval=40) as run:
        trained(run, until=200)
    trackers = [RecordingTracker(), RecordingTracker("later")]
    with monkeypatch.context() as patched:
        patched.setattr(metrics_file, "_LARGEST_FILE", 50)
        with opened(tmp_path / "run", trackers[0]) as again:
            trained(again).finish()
        opened(tmp_path / "run", trackers[1]).close()  # the run is finished
        with pytest.raises(OSError, match=r"has [\d,]+ bytes, more than the 50 that"):
            read_metrics(tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["step"] == 400
    for tracker in trackers:
        assert tracker.lines == lines


class Hanging(RecordingTracker):
    """Takes nothing until it is let go."""

    def __init__(self):
        super().__init__("slow")
        self.go = threading.Event()

    def scalars(self, step, figures):
        self.go.wait()
        super().scalars(step, figures)


def test_a_tracker_that_hangs_delays_only_the_end_and_that_by_a_minute_at_most(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(following, "PATIENCE", 0.05)
    tracker, heard = Hanging(), []
    run = opened(tmp_path / "run", tracker, listener=Listener(warn=heard.append))
    trained(run)
    assert (run.steps, heard) == (400, [])
    run.finish()
    run.close()
    assert heard == [
        "slow gets no more figures (it has not taken everything after 0.05 seconds). Training goes "
        "on, and metrics.jsonl has them all. When the run is opened again, those that are missing "
        "are sent."
    ]
    tracker.go.set()


def test_a_tracker_that_never_catches_up_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "_MOST_WAITING", 50)
    tracker, heard = Hanging(), []
    writer = written(tmp_path, range(0, 400, 8), trackers=[tracker], warn=heard.append)
    for step in range(400, 4_000, 8):
        writer.write(step, {"train/loss": 1.0})
        writer.saved(step)
    assert len(heard) == 1
    assert "it does not keep up with the run" in heard[0]
    tracker.go.set()
    writer.close()
    assert len(read_metrics(tmp_path)) == 500


def test_the_folder_of_the_trackers_is_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trackers").symlink_to(tmp_path / "elsewhere")
    heard, tracker = [], RecordingTracker()
    written(tmp_path, [8], trackers=[tracker], warn=heard.append).close()
    assert len(heard) == 1
    assert "it is a link" in heard[0]
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_what_a_kill_left_of_a_trackers_file_is_removed(tmp_path):
    left = tmp_path / "trackers" / ".recorder.json.0a1b2c3d.writing"
    left.parent.mkdir()
    left.write_text("{")
    written(tmp_path, [8], trackers=[RecordingTracker()]).close()
    assert [path.name for path in left.parent.iterdir()] == ["recorder.json"]


# Training is not touched


def test_the_weights_are_the_same_bit_for_bit_with_and_without_trackers(tmp_path):
    digests = []
    for name, trackers in (("alone", ()), ("followed", (RecordingTracker(), Hanging()))):
        run = opened(tmp_path / name, *trackers, listener=Listener(warn=lambda _: None))
        digests.append((weights_digest(trained(run).state), run.state.updates))
        for tracker in trackers[1:]:
            tracker.go.set()
        run.close()
    assert digests[0] == digests[1]


def test_telling_a_tracker_takes_the_training_thread_no_time(tmp_path):
    """A tracker that sleeps a second a call would take minutes."""
    tracker = RecordingTracker("sleeper")
    tracker.scalars = lambda *_: time.sleep(1)
    writer = MetricWriter(tmp_path, trackers=[tracker], warn=lambda _: None)
    started = time.monotonic()
    for step in range(1_000):
        writer.write(step, {"train/loss": 1.0})
        writer.saved(step)
    assert time.monotonic() - started < 60
    following_threads = [t for t in threading.enumerate() if t.name == "tracker sleeper"]
    assert len(following_threads) == 1
    tracker.scalars = lambda *_: None
    writer.close()
    assert len(read_metrics(tmp_path)) == 1_000
