"""Writes a run to TensorBoard's event files, in the run's own folder."""

import io
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary as _summary

from rlarcade.files import own_folder
from rlarcade.runs.gif import gif_of
from rlarcade.runs.trackers import Setting

summary: Any = _summary  # PyTorch's functions have no types
FOLDER = "tensorboard"
_SHOWN = ("rollout/ep_rew_mean", "eval/mean_reward", "eval/final_mean_reward")
"""Figures beside the hyper-parameters in the HPARAMS tab."""
_BINS = 64
_SECOND = 10**9  # nanoseconds
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})(?:\.(\d{9}))?\..*")


class TensorBoard:
    """The tracker that every run has. It can take figures back, so it gets them at once."""

    name = "tensorboard"

    def __init__(self, run_folder: Path, *, resumed_at: int = 0) -> None:
        """Opens a new event file. TensorBoard joins all files of the folder into one curve.

        Args:
            run_folder: the run's folder.
            resumed_at: agent step of the resume. Later figures in older files come from lost work:
                TensorBoard is told to drop them.

        Raises:
            OSError: the file cannot be written, or the folder is a link.
        """
        folder = own_folder(run_folder / FOLDER)
        seconds, rest = divmod(max(time.time_ns(), _newest(folder) + 1), _SECOND)
        path = folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}.{os.getpid()}"
        # Written here and not by `SummaryWriter`: its thread prints a traceback on a full disk.
        self._file = path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        # Purged also from step 0: a kill before the first save leaves events of lost work.
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=resumed_at + 1, session_log=start))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def hyper_parameters(self, settings: Mapping[str, Setting]) -> None:
        """Fills the HPARAMS tab, as Stable-Baselines3 does: in the run, not in one beside it."""
        for part in summary.hparams(dict(settings), dict.fromkeys(_SHOWN, 0.0)):
            self._write(Event(summary=part))

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes figures."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def histogram(self, step: int, name: str, values: NDArray[np.float32]) -> None:
        """Writes a histogram."""
        self._write(Event(step=step, summary=summary.histogram(name, values, _BINS)))

    def text(self, step: int, name: str, text: str) -> None:
        """Writes a text in Markdown."""
        self._write(Event(step=step, summary=summary.text(name, text)))

    def video(self, step: int, name: str, path: Path) -> None:
        """Writes the beginning of a video as a GIF, which the IMAGES tab plays.

        Raises:
            RlarcadeError: the video cannot be read.
        """
        from PIL import Image

        gif = gif_of(path)
        with Image.open(io.BytesIO(gif)) as opened:
            width, height = opened.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        value = Summary.Value(tag=name, image=image)
        self._write(Event(step=step, summary=Summary(value=[value])))

    def artefact(self, name: str, path: Path) -> None:
        """Does nothing: TensorBoard keeps no files, and the run's folder has them."""

    def flush(self) -> None:
        """Hands the events to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()


def _newest(folder: Path) -> int:
    """Returns the newest time in the names of event files, in nanoseconds; 0 without any.

    TensorBoard reads the files in the order of their names. The clock may have gone back since the
    last one. A new file must come after it all the same, or TensorBoard drops what the new file
    holds.
    """
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    # the files of other writers have no nanoseconds
    times = (int(name[1]) * _SECOND + int(name[2] or _SECOND - 1) for name in found if name)
    return max(times, default=0)
