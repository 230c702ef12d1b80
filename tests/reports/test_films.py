"""A run films its agent every so many steps; each video once, also over stops and kills."""

import io
import shutil

import pytest
from PIL import Image
from recording_trackers import RecordingTracker
from toy_runs import config

from rlarcade import TrainingRun
from rlarcade.errors import RecordingError
from rlarcade.reports import films as module
from rlarcade.reports.films import Films, filmed_steps
from rlarcade.runs.listener import Listener

pytestmark = pytest.mark.usefixtures("short_games")


def opened(folder, *trackers, listener=None):
    return TrainingRun.open(
        config(), folder, save_interval=100, trackers=trackers, listener=listener
    )


@pytest.fixture
def drawn(monkeypatch):
    """Videos are drawn by somebody else, and tested there; here it counts when and of what."""
    told = []

    def write_video(path, recording, values, on_step):
        on_step(1, 1)
        told.append((int(path.stem.removeprefix("step-")), recording, values))
        path.write_bytes(b"film")

    monkeypatch.setattr(module, "write_video", write_video)
    gif = io.BytesIO()
    Image.new("RGB", (4, 4)).save(gif, "GIF")
    monkeypatch.setattr("rlarcade.runs.tensorboard.gif_of", lambda path: gif.getvalue())
    return told


def film(run, interval, until=10**9, listener=None):
    films = Films(run, interval, listener)
    for progress in run:
        films.film_if_due(progress.steps)
        if progress.steps >= until:
            break


def test_a_game_is_filmed_at_every_interval_and_shown_in_the_trackers(tmp_path, drawn):
    tracker = RecordingTracker()
    with opened(tmp_path / "run", tracker) as run:
        film(run, 150)
    assert [step for step, *_ in drawn] == [152, 300]
    assert sorted(filmed_steps(tmp_path / "run")) == [152, 300]
    paths = [tmp_path / "run" / "videos" / f"step-{step:012d}.mp4" for step in (152, 300)]
    assert tracker.named("video") == [
        (152, "videos", paths[0]),
        (300, "videos", paths[1]),
    ]
    first, second = (recording for _, recording, _ in drawn)
    assert first.episode.seed == second.episode.seed  # the same game of another agent
    assert first.version != second.version
    assert [len(values) for *_, values in drawn] == [r.episode.steps for _, r, _ in drawn]


def test_without_an_interval_nothing_is_filmed(tmp_path, drawn):
    with opened(tmp_path / "run") as run:
        film(run, 0)
    assert (drawn, (tmp_path / "run" / "videos").exists()) == ([], False)


def test_after_a_stop_each_video_is_made_once(tmp_path, drawn):
    for until in (160, 220, 10**9):
        with opened(tmp_path / "run") as run:
            film(run, 100, until)
    assert [step for step, *_ in drawn] == [100, 200, 300, 400]


def test_a_video_of_lost_work_is_made_again(tmp_path, drawn):
    with opened(tmp_path / "run") as run:
        film(run, 150, until=200)
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
        film(run, 150, until=320)
    later = tmp_path / "run" / "videos" / "step-000000000300.mp4"
    shutil.copy(later, tmp_path / "killed" / "videos")
    (tmp_path / "killed" / "lock").unlink()
    drawn.clear()
    with opened(tmp_path / "killed") as run:
        film(run, 150)
    assert [step for step, *_ in drawn] == [300]


def test_a_video_that_fails_is_told_once_and_training_goes_on(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RecordingError("films cannot be made here.")

    monkeypatch.setattr(module, "write_video", fail)
    heard = []
    listener = Listener(warn=heard.append)
    with opened(tmp_path / "run", listener=listener) as run:
        film(run, 100, listener=listener)
        assert run.steps == 400
    assert heard == ["no more videos are made: films cannot be made here."]


def test_a_stop_ends_a_video_and_the_resumed_run_makes_it(tmp_path, monkeypatch, drawn):
    asked = []
    listener = Listener(stop=lambda: bool(asked))
    real = module.write_video

    def stopped(path, recording, values, on_step):
        asked.append(1)
        real(path, recording, values, on_step)

    with opened(tmp_path / "run", listener=listener) as run:
        monkeypatch.setattr(module, "write_video", stopped)
        film(run, 100, listener=listener)
        assert run.steps == 100
    monkeypatch.setattr(module, "write_video", real)
    with opened(tmp_path / "run") as run:
        film(run, 100, until=150)
    assert [step for step, *_ in drawn] == [100]


def test_a_real_video_is_a_video(tmp_path):
    import imageio_ffmpeg

    with opened(tmp_path / "run") as run:
        film(run, 100, until=100)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "run" / "videos" / "step-000000000100.mp4"))
    meta = next(reader)
    reader.close()
    assert meta["fps"] == 60.0
    assert meta["duration"] > 1
