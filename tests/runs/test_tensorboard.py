"""TensorBoard shows a run: read back with TensorBoard's own reader."""

import errno
import gc
import io
import os
import weakref

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from rlarcade.errors import RecordingError
from rlarcade.runs.gif import gif_of
from rlarcade.runs.metrics import MetricWriter
from rlarcade.runs.metrics_file import read_metrics
from rlarcade.runs.tensorboard import TensorBoard


def board(folder):
    every = {"images": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=every).Reload()


def tensors(folder, name):
    """What TensorBoard's pages read, where everything is a tensor."""
    every = {"tensors": 0}
    read = PluginEventAccumulator(str(folder / "tensorboard"), size_guidance=every).Reload()
    return read.Tensors(name)


def values(*numbers):
    return np.array(numbers, dtype=np.float32)


@pytest.fixture
def video(tmp_path):
    """Three seconds of a film, red and then blue."""
    import imageio_ffmpeg

    path = tmp_path / "film.mp4"
    writer = imageio_ffmpeg.write_frames(str(path), (320, 208), fps=60, ffmpeg_log_level="error")
    writer.send(None)
    for number in range(180):
        picture = np.zeros((208, 320, 3), dtype=np.uint8)
        picture[..., 0 if number < 90 else 2] = 255
        writer.send(picture.tobytes())
    writer.close()
    return path


def test_every_kind_of_figure_is_read_back(tmp_path, video):
    writer = TensorBoard(tmp_path)
    writer.scalars(8, {"a/b": 0.5, "c": 3})
    writer.histogram(8, "values", values(-1, 0, 0, 2))
    writer.text(8, "note", "**bold** é")
    writer.video(8, "videos", video)
    writer.artefact("checkpoint", tmp_path)
    writer.close()
    read = board(tmp_path)
    assert [(e.step, e.value) for e in read.Scalars("a/b")] == [(8, 0.5)]
    assert [(e.step, e.value) for e in read.Scalars("c")] == [(8, 3.0)]
    (histogram,) = read.Histograms("values")
    told = histogram.histogram_value
    assert (told.num, told.min, told.max, told.sum, told.sum_squares) == (4, -1, 2, 1, 5)
    assert sum(told.bucket) == 4
    (text,) = read.Tensors("note/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "**bold** é"
    (image,) = read.Images("videos")
    assert (image.step, image.width) == (8, 260)
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        assert (gif.format, gif.size, gif.n_frames) == ("GIF", (image.width, image.height), 30)
        colours = []
        for frame in (3, 27):
            gif.seek(frame)
            colours.append(gif.convert("RGB").getpixel((100, 100)))
    assert colours[0][0] > 200 > colours[0][2]
    assert colours[1][2] > 200 > colours[1][0]


def test_hyper_parameters_are_in_the_run_itself_with_their_types(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.hyper_parameters({"learning_rate": 1e-4, "double": True, "game": "pong", "n_steps": 3})
    writer.scalars(8, {"rollout/ep_rew_mean": 2.0})
    writer.close()
    content = board(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["learning_rate"].number_value == 1e-4
    assert told["game"].string_value == "pong"
    assert told["n_steps"].number_value == 3
    assert told["double"].number_value == 1  # True is an int to PyTorch's writer
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {
        path.name for path in (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    }


def test_figures_of_lost_work_are_dropped_whatever_their_kind(tmp_path, video):
    for resumed_at, steps in ((0, (8, 16, 24)), (16, (20, 24))):
        writer = TensorBoard(tmp_path, resumed_at=resumed_at)
        for step in steps:
            writer.scalars(step, {"a": step})
            writer.histogram(step, "values", values(step))
            writer.text(step, "note", str(step))
            writer.video(step, "videos", video)
        writer.close()
    read, wanted = board(tmp_path), [8, 16, 20, 24]
    assert [e.step for e in read.Scalars("a")] == wanted
    assert [e.step for e in read.Histograms("values")] == wanted
    for name in ("a", "values", "note/text_summary", "videos"):
        assert [event.step for event in tensors(tmp_path, name)] == wanted
    assert [e.step for e in read.Images("videos")] == wanted


def test_files_of_two_processes_in_one_second_are_read_in_their_order(tmp_path):
    for number in range(12):
        TensorBoard(tmp_path, resumed_at=number).close()
    names = [path.name for path in (tmp_path / "tensorboard").iterdir()]
    assert len(names) == 12
    times = sorted(names)
    opened = sorted((tmp_path / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    assert [path.name for path in opened] == times


@pytest.mark.parametrize("name", [None, "events.out.tfevents.1900000000.host.17.0"])
def test_a_run_that_is_resumed_after_the_clock_went_back_keeps_its_curve(
    tmp_path, monkeypatch, name
):
    clock = iter([1_900_000_000_999_999_999, 1_800_000_000 * 10**9, 1_700_000_000 * 10**9])
    monkeypatch.setattr("rlarcade.runs.tensorboard.time.time_ns", lambda: next(clock))
    for resumed_at, step in ((0, 8), (8, 16), (16, 24)):
        writer = TensorBoard(tmp_path, resumed_at=resumed_at)
        writer.scalars(step, {"a": step})
        writer.close()
        if name is not None and step == 8:  # as PyTorch's own writer names it
            (written,) = (tmp_path / "tensorboard").iterdir()
            written.rename(written.with_name(name))
    assert [event.step for event in board(tmp_path).Scalars("a")] == [8, 16, 24]
    assert [event.step for event in tensors(tmp_path, "a")] == [8, 16, 24]


def test_a_full_disk_is_told_once_and_the_file_has_every_figure(tmp_path, monkeypatch):
    class Games:
        pass

    def fail(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def train():
        games = Games()
        kept.append(weakref.ref(games))
        for step in (16, 24):
            writer.write(step, {"train/loss": 1.0})

    kept, heard = [], []
    writer = MetricWriter(tmp_path, warn=heard.append)
    writer.write(8, {"train/loss": 1.0})
    monkeypatch.setattr(RecordWriter, "write", fail)
    train()
    writer.flush()
    writer.close()
    (message,) = heard
    assert message.startswith("TensorBoard gets no more figures (OSError: [Errno 28] No space left")
    assert message.endswith("Training goes on, and metrics.jsonl has them all.")
    assert [line["step"] for line in read_metrics(tmp_path)] == [8, 16, 24]
    gc.collect()
    assert kept[0]() is None  # an error that is kept would keep the emulators, past Python's end


def test_what_is_no_video_cannot_be_shown(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(RecordingError, match=r"film.mp4 cannot be shown as a GIF: "):
        gif_of(path)


def test_a_video_that_cannot_be_shown_is_told_and_figures_go_on(tmp_path):
    path, heard = tmp_path / "film.mp4", []
    path.write_bytes(b"no video")
    writer = MetricWriter(tmp_path, warn=heard.append)
    writer.tracking.video(8, "videos", path)
    writer.write(16, {"a": 1.0})
    writer.close()
    assert len(heard) == 1
    assert "cannot be shown as a GIF" in heard[0]
    assert [event.step for event in board(tmp_path).Scalars("a")] == [16]


def test_of_a_long_video_only_the_beginning_is_shown(video, monkeypatch):
    monkeypatch.setattr("rlarcade.runs.gif._SECONDS", 1)
    with Image.open(io.BytesIO(gif_of(video))) as gif:
        assert gif.n_frames == 10
