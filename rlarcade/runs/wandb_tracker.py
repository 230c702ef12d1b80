"""Follows a run with Weights & Biases, https://docs.wandb.ai."""

import html
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlarcade.foreign import from_extra
from rlarcade.runs.trackers import Setting, TrackedRun

_PROJECT = "rlarcade"
_STEP = "global_step"
_BINS = 64
_WRITES_EVERY = 0.2  # seconds


class WandbTracker:
    """A run in Weights & Biases. W&B's own environment variables hold: WANDB_PROJECT and so on.

    Whoever is not logged in gets an offline run in RUN/wandb, which `wandb sync` uploads.
    """

    name = "wandb"

    def __init__(self, project: str | None = None, **settings: Any) -> None:
        """Opens nothing yet.

        Args:
            project: project of the run. Unset: WANDB_PROJECT, or rlarcade.
            settings: further arguments of `wandb.init`, such as entity, group or tags.

        Raises:
            ConfigError: the extra `wandb` is not installed.
        """
        with from_extra("wandb", "Weights & Biases needs"):
            import wandb
        self._wandb: Any = wandb
        self._project = project or os.environ.get("WANDB_PROJECT") or _PROJECT
        self._settings = settings
        self._run: Any = None

    def open(self, run: TrackedRun) -> str:
        """Begins a run in W&B, or continues the one with the same id."""
        # Asked here, because W&B itself might wait for an answer on the terminal.
        mode = os.environ.get("WANDB_MODE")
        if mode is None:
            logged_in = self._wandb.login(prompt=False, verify=False)
            mode = "online" if logged_in else "offline"
        given: dict[str, Any] = {
            "project": self._project,
            "name": run.folder.resolve().name,
            "dir": str(run.folder.resolve()),  # its own process may have another directory
            "mode": mode,
            **self._settings,
        }
        self._run = self._wandb.init(
            id=run.key,
            resume="allow",
            # W&B would wrap stdout, and write its own lines between those of the run
            settings=self._wandb.Settings(
                console="off", silent=True, x_transaction_log_flush_interval=_WRITES_EVERY
            ),
            **given,
        )
        # A row of W&B is one line of figures; the x axis of every chart is the agent step. W&B's
        # own step would keep only one of two games that end with the same agent step.
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)
        return str(self._run.id)

    def hyper_parameters(self, settings: Mapping[str, Setting]) -> None:
        """Fills the run's config."""
        self._run.config.update(dict(settings), allow_val_change=True)

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a row."""
        self._run.log({_STEP: step, **figures})

    def histogram(self, step: int, name: str, values: NDArray[np.float32]) -> None:
        """Adds a row with a histogram."""
        bins = np.histogram(values, bins=_BINS)
        self._run.log({_STEP: step, name: self._wandb.Histogram(np_histogram=bins)})

    def text(self, step: int, name: str, text: str) -> None:
        """Adds a row with the text as it is written."""
        page = self._wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
        self._run.log({_STEP: step, name: page})

    def video(self, step: int, name: str, path: Path) -> None:
        """Adds a row with the whole video."""
        self._run.log({_STEP: step, name: self._wandb.Video(str(path), format="mp4")})

    def artefact(self, name: str, path: Path) -> None:
        """Keeps a file or folder as an artifact of the type model."""
        artifact = self._wandb.Artifact(f"{self._run.id}-{name}", type="model")
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def flush(self) -> None:
        """Waits until every row is in the file that `wandb sync` reads.

        W&B's own process writes that file from time to time. It ends at once when this process is
        killed, and loses what it has not written.
        """
        self._run.status()  # an answer to this comes after all rows have arrived there
        time.sleep(3 * _WRITES_EVERY)  # W&B does not tell when it has written

    def close(self) -> None:
        """Ends the run in this process. Online, it waits for the upload."""
        self._run.finish()
