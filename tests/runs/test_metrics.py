"""rlarcade.runs.metrics: a run's figures are one unbroken curve, whatever happened to it."""

import errno
import json
import os
import tracemalloc
from collections import deque
from unittest.mock import Mock

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlarcade.evaluation import Evaluation
from rlarcade.games import get_protocol
from rlarcade.learning.training import TrainingProgress
from rlarcade.playing import EpisodeResult
from rlarcade.runs.metrics import MetricWriter, TrainingLog
from rlarcade.runs.metrics_file import each_metric, read_metrics


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
    monkeypatch.setattr("rlarcade.runs.tracking.TensorBoard", lambda *_, **__: Mock())
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


def test_a_full_disk_is_told_by_an_error(tmp_path):
    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            pass

    writer = MetricWriter(tmp_path)
    writer._lines.close()
    writer._lines = Full()
    with pytest.raises(OSError, match="No space left on device"):
        writer.write(8, {"train/loss": 1.0})
    writer.close()


def test_the_time_of_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("rlarcade.runs.metrics.time.monotonic", lambda: clock[0])

    def train(resumed_at, *looks):
        writer = MetricWriter(tmp_path, resumed_at=resumed_at)
        log, before = TrainingLog(writer), resumed_at
        for now, steps in looks:
            clock[0] = now
            progress = TrainingProgress(steps, 0, 0.1, 0.1, (), None, {"learn": 0.0})
            log.observe(before, progress)
            before = steps
        writer.close()

    train(0, (100.0, 8), (110.0, 1_000), (130.0, 2_000), (150.0, 2_900))
    train(2_000, (9_000.0, 2_008), (9_020.0, 3_000))
    told = [
        (line["step"], line["time/time_elapsed"], line["charts/SPS"], line["time/fps"])
        for line in read_metrics(tmp_path)
    ]
    assert told == [
        (1_000, 10.0, 100.0, 100.0),
        (2_000, 30.0, 2_000 / 30, 50.0),
        (3_000, 50.0, 60.0, 50.0),
    ]


def test_the_evaluation_at_the_end_is_written_once_even_if_a_kill_repeats_it(tmp_path):
    games = [EpisodeResult(seed=n, score=10.0 * n, steps=7, ended="terminated") for n in range(4)]
    evaluation = Evaluation(
        checkpoint="x",
        version=None,
        game="breakout",
        protocol=get_protocol("v5"),
        epsilon=0.01,
        seed=0,
        episodes=tuple(games),
    )
    for resumed_at in (0, 800):
        writer = MetricWriter(tmp_path, resumed_at=resumed_at)
        TrainingLog(writer).last_evaluation(800, evaluation)
        writer.close()
    means, last = read_metrics(tmp_path)
    assert means == {"step": 800, "eval/mean_reward": 15.0, "eval/mean_ep_length": 7.0}
    assert last["eval/final_mean_reward"] == last["eval/final_median_reward"] == 15.0
    low, middle, high = (last[f"eval/final_iqm_{name}"] for name in ("low", "reward", "high"))
    assert low <= middle <= high
    # random 1.7, human 30.5: Mnih et al. (2015), Extended Data Table 2
    assert last["eval/final_human_normalized"] == pytest.approx((15 - 1.7) / (30.5 - 1.7), abs=0.01)
    # a run that was lengthened has two ends; an evaluation on the way at the end is not repeated
    writer = MetricWriter(tmp_path, resumed_at=800)
    log = TrainingLog(writer)
    log.evaluation(1_600, [1.0], [2])
    log.last_evaluation(1_600, evaluation)
    writer.close()
    added = read_metrics(tmp_path)[2:]
    assert [("eval/mean_reward" in x, "eval/final_mean_reward" in x) for x in added] == [
        (True, False),
        (False, True),
    ]


def test_the_learning_rate_written_is_that_of_the_step(tmp_path):
    writer = MetricWriter(tmp_path)
    log = TrainingLog(writer)
    for steps, rate in ((1_000, 0.4), (2_000, 0.3), (3_000, 0.1)):
        progress = TrainingProgress(steps, 0, 0.1, rate, (), None, {"learn": 1.0})
        log.observe(steps - 1_000, progress)
    writer.close()
    rates = [line["train/learning_rate"] for line in read_metrics(tmp_path)]
    assert rates == [0.4, 0.3, 0.1]
