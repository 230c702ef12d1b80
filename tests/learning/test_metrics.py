"""rlarcade.learning.metrics: a run's figures are one unbroken curve, whatever happened to it."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlarcade.learning.metrics import MetricWriter, read_metrics


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
