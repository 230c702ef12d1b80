"""Follows a run with MLflow, https://mlflow.org/docs/latest/ml/tracking."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlarcade.foreign import from_extra
from rlarcade.runs.trackers import Setting, TrackedRun

_EXPERIMENT = "rlarcade"
_KEY = "rlarcade.run"
_MOST_METRICS, _MOST_PARAMS = 1_000, 100  # of one request, by MLflow's own limits


class MlflowTracker:
    """A run in MLflow. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold.

    Without them it is MLflow's local store in the working directory, in the experiment rlarcade.
    """

    name = "mlflow"

    def __init__(self, experiment: str | None = None, tracking_uri: str | None = None) -> None:
        """Opens nothing yet.

        Args:
            experiment: experiment of the run. Unset: MLFLOW_EXPERIMENT_NAME, or rlarcade.
            tracking_uri: server or store. Unset: MLflow's own, see `mlflow.get_tracking_uri`.

        Raises:
            ConfigError: the extra `mlflow` is not installed.
        """
        with from_extra("mlflow", "MLflow needs"):
            import mlflow
            from mlflow import entities
            from mlflow.exceptions import MlflowException
        self._mlflow: Any = mlflow
        self._entities: Any = entities
        self._error: type[Exception] = MlflowException
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        # Named now: the working directory may change, and MLflow would find another store there.
        self._uri = tracking_uri or mlflow.get_tracking_uri()
        self._id = ""
        self._metrics: list[Any] = []
        self._there: dict[str, set[tuple[int, float]]] | None = None

    def open(self, run: TrackedRun) -> str:
        """Begins a run in MLflow, or continues the one with the same id."""
        self._client: Any = self._mlflow.MlflowClient(self._uri)
        experiment = self._experiment_id()
        there = self._client.search_runs([experiment], f"tags.`{_KEY}` = '{run.key}'")
        if there:
            self._id = there[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            self._there = {} if run.interrupted else None
        else:
            name, tags = run.folder.resolve().name, {_KEY: run.key}
            self._id = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
        return self._id

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(self._experiment))
        except self._error:  # another run of a sweep was faster
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def hyper_parameters(self, settings: Mapping[str, Setting]) -> None:
        """Fills the run's parameters. MLflow never changes one: a new value becomes a tag."""
        known = self._client.get_run(self._id).data.params
        new = [
            self._entities.Param(name, str(value))
            for name, value in settings.items()
            if name not in known
        ]
        for first in range(0, len(new), _MOST_PARAMS):
            self._client.log_batch(self._id, params=new[first : first + _MOST_PARAMS])
        changed = [
            self._entities.RunTag(f"changed.{name}", str(value))
            for name, value in settings.items()
            if known.get(name, str(value)) != str(value)
        ]
        if changed:
            self._client.log_batch(self._id, tags=changed)

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a point to each figure's curve."""
        now = time.time_ns() // 1_000_000
        for name, value in figures.items():
            if not self._is_there(name, step, value):
                self._metrics.append(self._entities.Metric(name, float(value), now, step))
        if len(self._metrics) >= _MOST_METRICS:
            self._send()

    def _is_there(self, name: str, step: int, value: float) -> bool:
        """Whether MLflow has a point already that was on its way when a process was killed."""
        if self._there is None:
            return False
        if name not in self._there:
            points = self._client.get_metric_history(self._id, name)
            self._there[name] = {(point.step, point.value) for point in points}
        return (step, float(value)) in self._there[name]

    def histogram(self, step: int, name: str, values: NDArray[np.float32]) -> None:
        """Does nothing: MLflow has no histograms."""

    def text(self, step: int, name: str, text: str) -> None:
        """Keeps a text as a file. A later one of the name replaces it."""
        del step
        self._client.log_text(self._id, text, f"{name}.md")

    def video(self, step: int, name: str, path: Path) -> None:
        """Keeps a video, which MLflow plays beside the run's files."""
        del step  # the file's name has it
        self._client.log_artifact(self._id, str(path), name)

    def artefact(self, name: str, path: Path) -> None:
        """Keeps a file, or a folder with its files."""
        if path.is_dir():
            self._client.log_artifacts(self._id, str(path), name)
        else:
            self._client.log_artifact(self._id, str(path), name)

    def _send(self) -> None:
        for first in range(0, len(self._metrics), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=self._metrics[first : first + _MOST_METRICS])
        self._metrics.clear()

    def flush(self) -> None:
        """Sends the points that wait for a full request."""
        self._send()

    def close(self) -> None:
        """Marks the run as finished until it is continued."""
        self._client.set_terminated(self._id, "FINISHED")
