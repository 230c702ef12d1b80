"""rlarcade.runs.metrics: a run's figures are one unbroken curve, whatever happened to it."""

import errno
import gc
import json
import os
import threading
import tracemalloc
import weakref
from collections import deque
from unittest.mock import Mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from rlarcade.learning.training import TrainingProgress
from rlarcade.runs.metrics import MetricWriter, TrainingLog, each_metric, read_metrics


def write(folder, steps, *, resumed_at=0):
    writer = MetricWriter(folder, resumed_at=resumed_at)
    for step in steps:
        writer.write(step, {"train/loss": step / 8})
    writer.close()


def steps(folder):
    return [line["step"] for line in read_metrics(folder)]


def test_figures_are_read_as_they_were_written(tmp_path):
    write(tmp_path, [8, 16])
    assert read_metrics(tmp_path) == [
        {"step": 8, "train/loss": 1.0},
        {"step": 16, "train/loss": 2.0},
    ]


def test_a_run_without_figures_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("torn", ['{"step": 24, "train/lo', '{"st', "3", '{"step": null}', "\x00"])
def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path, torn):
    write(tmp_path, [8, 16])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert steps(tmp_path) == [8, 16]
    write(tmp_path, [24], resumed_at=16)
    assert steps(tmp_path) == [8, 16, 24]


def test_figures_of_work_that_was_lost_are_dropped(tmp_path):
    write(tmp_path, [8, 16, 24, 32])
    write(tmp_path, [20, 28], resumed_at=16)
    assert steps(tmp_path) == [8, 16, 20, 28]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [8, 16, 20, 28]


def test_figures_before_the_first_save_are_dropped_when_the_run_begins_again(tmp_path):
    write(tmp_path, [8, 16, 24])
    write(tmp_path, [8, 20])
    assert steps(tmp_path) == [8, 20]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [8, 20]


def long_record(folder, lines=4_000):
    figures = {"rollout/ep_rew_mean": 0.5, "time/fps": 1.0, "train/loss": 2.0}
    text = "".join(json.dumps({"step": n, **figures}) + "\n" for n in range(lines))
    (folder / "metrics.jsonl").write_text(text)
    return text


def peak_of(work):
    """Bytes of Python's memory that the work takes at its most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resume(folder, step):
    writer = MetricWriter(folder, resumed_at=step)
    writer.close()
    return writer


def test_a_long_record_is_read_and_written_line_by_line(tmp_path, monkeypatch):
    text = long_record(tmp_path)
    assert peak_of(lambda: deque(each_metric(tmp_path), maxlen=0)) < len(text) / 4
    monkeypatch.setattr("rlarcade.runs.metrics.SummaryWriter", lambda *_, **__: Mock())
    assert peak_of(lambda: resume(tmp_path, 2_000)) < len(text) / 4
    kept = (tmp_path / "metrics.jsonl").read_text()
    assert kept == "".join(text.splitlines(keepends=True)[:2_001])


def test_a_record_that_grows_is_read_as_far_as_it_went_when_it_was_opened(tmp_path):
    write(tmp_path, [8, 16])
    found = []
    for line in each_metric(tmp_path):
        found.append(line["step"])
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 24}\n')
    assert found == [8, 16]
    assert steps(tmp_path) == [8, 16, 24, 24]


@pytest.mark.parametrize("length", [9_999, 10_000, 10_001, 20_002, 100_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_of_a_line_of_any_length_the_next_one_is_whole(tmp_path, length, end):
    first = '{"step": 1, "x": "' + "y" * (length - 20) + '"}'
    (tmp_path / "metrics.jsonl").write_text(first + "\n" + '{"step": 2}' + end)
    assert len(first) == length
    assert steps(tmp_path) == ([1, 2] if length <= 10_000 else [2])


def test_the_last_hundred_games_and_the_last_evaluation_are_known_after_a_resume(tmp_path):
    lines = [
        {"step": n, "charts/episodic_return": n, "charts/episodic_length": 2 * n}
        for n in range(1, 151)
    ]
    lines.insert(50, {"step": 50, "eval/mean_reward": 1.0})
    lines.insert(120, {"step": 119, "eval/mean_reward": 1.0})
    lines.append({"step": 200, "charts/episodic_return": 9.0, "charts/episodic_length": 9})
    lines.append({"step": 150, "charts/episodic_return": 7.0})  # somebody has cut it
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    writer = resume(tmp_path, 150)
    assert list(writer.games) == [(n, 2 * n) for n in range(51, 151)]
    assert writer.evaluated_at == 119


def test_a_full_disk_is_told_by_an_error_that_keeps_nobody_alive(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(self, data):
        raise full

    class Games:
        pass

    def train():
        games = Games()
        kept.append(weakref.ref(games))
        writer.write(8, {"train/loss": 1.0})
        writer.flush()

    kept = []
    writer = MetricWriter(tmp_path)
    writer.flush()
    monkeypatch.setattr(RecordWriter, "write", fail)
    monkeypatch.setattr(threading, "excepthook", lambda what: None)
    with pytest.raises(OSError, match="No space left on device"):
        train()
    gc.collect()
    assert kept[0]() is None
    with pytest.raises(OSError, match="No space left on device"):
        writer.close()


def test_the_learning_rate_written_is_that_of_the_step(tmp_path):
    writer = MetricWriter(tmp_path)
    log = TrainingLog(writer)
    for steps, rate in ((1_000, 0.4), (2_000, 0.3), (3_000, 0.1)):
        progress = TrainingProgress(steps, 0, 0.1, rate, (), None, {"learn": 1.0})
        log.observe(steps - 1_000, progress)
    writer.close()
    rates = [line["train/learning_rate"] for line in read_metrics(tmp_path)]
    assert rates == [0.4, 0.3, 0.1]
