"""What a tracker is: TensorBoard, Weights & Biases, MLflow, or one of your own.

A run's own record is `metrics.jsonl`. A tracker shows the same run elsewhere. It cannot change what
is learned, and if it fails, training goes on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlarcade.config.run import TrackerName

Setting = bool | int | float | str
"""A hyper-parameter as every tracker can store it."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is about to follow."""

    folder: Path
    """The run's folder; its name is the run's name."""
    key: str
    """16 hexadecimal digits that name the run for this tracker, the same in every process. A kill
    may come after the tracker has begun a run and before `open` returns; the key finds it again."""
    id: str | None
    """What `open` returned when this tracker began to follow the run; None if it begins now."""
    interrupted: bool = False
    """Whether the process was killed while it sent figures, so that the next ones may be there."""


class Display(Protocol):
    """Shows what a run says. Every method may raise any error."""

    def hyper_parameters(self, settings: Mapping[str, Setting]) -> None:
        """Shows the run's settings. When a run continues, some may have changed."""

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Shows some figures of one agent step. Steps never decrease, but may repeat."""

    def histogram(self, step: int, name: str, values: NDArray[np.float32]) -> None:
        """Shows how values, of any shape, are distributed."""

    def text(self, step: int, name: str, text: str) -> None:
        """Shows a text in Markdown."""

    def video(self, step: int, name: str, path: Path) -> None:
        """Shows a video, an MP4 file."""

    def artefact(self, name: str, path: Path) -> None:
        """Keeps a file, or a folder with its files."""

    def flush(self) -> None:
        """Hands over everything so far. What was handed over is not sent again after a kill."""

    def close(self) -> None:
        """Ends showing the run in this process."""


class Tracker(Display, Protocol):
    """Shows a run elsewhere.

    All methods are called from one thread, which is not the training thread. They get what belongs
    to a step after the run has saved that step. So work that a kill has lost is never shown, and no
    step comes twice. If a method raises an error, the user is told once, and the tracker gets no
    more calls in this process; the next one sends what is missing.
    """

    name: str
    """A word for messages and for the file RUN/trackers/NAME.json."""

    def open(self, run: TrackedRun) -> str:
        """Begins or continues to follow a run; returns the run's id in this tracker.

        If it is not `run.id`, the run's figures are sent again from its first step.
        """


def make_trackers(names: Iterable[TrackerName]) -> list[Tracker]:
    """Returns the named trackers, each once, with settings from the environment.

    Raises:
        ConfigError: the library of one is not installed; the message names the extra.
    """
    # Imported here, because these modules import this one.
    from rlarcade.runs.mlflow_tracker import MlflowTracker
    from rlarcade.runs.wandb_tracker import WandbTracker

    kinds: dict[TrackerName, type[WandbTracker | MlflowTracker]] = {
        "wandb": WandbTracker,
        "mlflow": MlflowTracker,
    }
    return [kinds[name]() for name in dict.fromkeys(names)]
