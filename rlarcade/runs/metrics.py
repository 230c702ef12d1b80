"""Writes a run's figures to metrics.jsonl and to its trackers, under the same names."""

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from rlarcade.evaluation import Evaluation
from rlarcade.files import check_own, open_own, write_file
from rlarcade.games.protocols import FRAMESKIP
from rlarcade.learning.schedules import crossed
from rlarcade.learning.training import TrainingProgress
from rlarcade.runs.listener import Tell, warn_in_python
from rlarcade.runs.metrics_file import DIVERGED, METRICS_FILE, each_metric
from rlarcade.runs.trackers import Tracker
from rlarcade.runs.tracking import Tracking

_LOG_INTERVAL = 1_000  # agent steps between figures
_RECENT_EPISODES = 100


class MetricWriter:
    """Writes figures by agent step. After a resume every record shows one unbroken curve.

    Attributes:
        games: score and length of the last hundred games before the resume, oldest first.
        evaluated_at: agent step of the last evaluation before the resume; 0 if there was none.
        finally_evaluated_at: agent step of the last evaluation at a run's end; 0 if there was none.
        seconds: training time before the resume.
        tracking: the trackers: TensorBoard and those that were given.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        resumed_at: int = 0,
        trackers: Sequence[Tracker] = (),
        warn: Tell = warn_in_python,
    ) -> None:
        """Opens the records.

        Args:
            run_folder: the run's folder.
            resumed_at: agent step of the resume. Later figures come from lost work and are dropped.
            trackers: trackers beside TensorBoard. They receive figures after each save.
            warn: told once of each tracker that fails. Figures are written to the file all the
                same.

        Raises:
            OSError: the file or TensorBoard's folder cannot be written.
        """
        path = run_folder / METRICS_FILE
        check_own(run_folder / "tensorboard")
        self.games: deque[tuple[float, float]] = deque(maxlen=_RECENT_EPISODES)
        self.evaluated_at = self.finally_evaluated_at = 0
        self.seconds = 0.0
        kept = 0

        def lines() -> Iterator[bytes]:
            nonlocal kept
            for line in each_metric(run_folder, any_size=True):
                if line["step"] <= resumed_at:
                    self._note(line)
                    kept += 1
                    yield (json.dumps(line) + "\n").encode()

        # A new file replaces the old one, so a full disk leaves the old file unchanged. It is
        # written line by line, because a long run has hundreds of megabytes of figures.
        write_file(path, lines())
        descriptor = open_own(path, os.O_WRONLY | os.O_APPEND)
        self._lines: TextIO = os.fdopen(descriptor, "a", encoding="utf-8")
        try:
            self.tracking = Tracking(
                run_folder,
                resumed_at=resumed_at,
                trackers=trackers,
                earlier=lambda: islice(each_metric(run_folder, any_size=True), kept),
                warn=warn,
            )
        except BaseException:
            self._lines.close()
            raise

    def _note(self, line: Mapping[str, Any]) -> None:
        """Notes what an earlier line says about games, evaluations and time."""
        if line.keys() >= {"charts/episodic_return", "charts/episodic_length"}:
            self.games.append((line["charts/episodic_return"], line["charts/episodic_length"]))
        if "eval/mean_reward" in line:
            self.evaluated_at = max(self.evaluated_at, line["step"])
        if "eval/final_mean_reward" in line:
            self.finally_evaluated_at = max(self.finally_evaluated_at, line["step"])
        elapsed = line.get("time/time_elapsed")
        if isinstance(elapsed, int | float):
            self.seconds = float(elapsed)

    def write(self, steps: int, figures: Mapping[str, float]) -> None:
        """Writes some figures of one agent step.

        Raises:
            OSError: these figures, or earlier ones, cannot be written to the file.
        """
        self._lines.write(json.dumps({"step": steps, **figures}) + "\n")
        self.tracking.line(steps, figures)

    def flush(self) -> None:
        """Hands the file and TensorBoard's to the operating system; raises as `write` does."""
        self._lines.flush()
        self.tracking.flush()

    def saved(self, steps: int) -> None:
        """Tells the trackers that the run is saved: figures up to agent step `steps` are final."""
        self.tracking.saved(steps)

    def close(self) -> None:
        """Flushes and closes the records; raises as `write` does."""
        try:
            self._lines.close()
        finally:
            self.tracking.close()


class TrainingLog:
    """Decides what training writes: every game, and figures every thousand steps.

    Attributes:
        evaluated_at: agent step of the last evaluation; 0 if there was none.
    """

    def __init__(self, metrics: MetricWriter) -> None:
        self._metrics = metrics
        self._recent = metrics.games.copy()
        self._mark: tuple[float, int, dict[str, float]] | None = None
        self._began = 0.0
        self.evaluated_at = metrics.evaluated_at

    def observe(self, before: int, progress: TrainingProgress) -> None:
        """Records one step of all lanes, which began at agent step `before`."""
        if self._mark is None:
            self._mark = (time.monotonic(), before, dict.fromkeys(progress.seconds, 0.0))
            self._began = time.monotonic() - self._metrics.seconds
        for episode in progress.episodes:
            self._recent.append((episode.score, episode.steps))
            self._metrics.write(
                progress.steps,
                {"charts/episodic_return": episode.score, "charts/episodic_length": episode.steps},
            )
        if crossed(_LOG_INTERVAL, before, progress.steps):
            self._metrics.write(progress.steps, self._figures(progress, self._mark))
            self._metrics.flush()  # a sweep and TensorBoard show them during training
            self._mark = (time.monotonic(), progress.steps, dict(progress.seconds))

    def _figures(
        self, progress: TrainingProgress, mark: tuple[float, int, dict[str, float]]
    ) -> dict[str, float]:
        then, steps, seconds = mark
        now = time.monotonic()
        elapsed, whole = max(now - then, 1e-9), max(now - self._began, 1e-9)
        figures: dict[str, float] = {
            "time/frames": progress.steps * FRAMESKIP,
            "time/fps": (progress.steps - steps) / elapsed,
            "time/time_elapsed": whole,
            "charts/SPS": progress.steps / whole,
            "rollout/exploration_rate": progress.epsilon,
            "train/learning_rate": progress.learning_rate,
            "train/n_updates": progress.updates,
        }
        for part, spent in progress.seconds.items():
            figures[f"time/{part}_share"] = (spent - seconds[part]) / elapsed
        if self._recent:
            figures["rollout/ep_rew_mean"] = fmean(score for score, _ in self._recent)
            figures["rollout/ep_len_mean"] = fmean(steps for _, steps in self._recent)
        if progress.figures is not None:
            learned = progress.figures.take()
            figures |= {f"train/{name}": value for name, value in learned.items()}
        return figures

    def diverged(self, steps: int) -> None:
        """Notes that training cannot go on from agent step `steps`, for whoever watches the run.

        A resume drops the note, because it stands after the newest save.

        Raises:
            OSError: it cannot be written.
        """
        self._metrics.write(steps + 1, {DIVERGED: 1.0})
        self._metrics.flush()

    def evaluation(self, steps: int, scores: list[float], lengths: list[int]) -> None:
        """Writes an evaluation during training."""
        self.evaluated_at = steps
        self._metrics.write(
            steps, {"eval/mean_reward": fmean(scores), "eval/mean_ep_length": fmean(lengths)}
        )

    def last_evaluation(self, steps: int, evaluation: Evaluation) -> None:
        """Writes the evaluation at the run's end. A run that was killed there writes it once."""
        if self._metrics.finally_evaluated_at == steps:
            return
        scores = [game.score for game in evaluation.episodes]
        if self.evaluated_at != steps:
            self.evaluation(steps, scores, [game.steps for game in evaluation.episodes])
        figures = {
            "eval/final_mean_reward": evaluation.mean,
            "eval/final_median_reward": evaluation.median,
            "eval/final_iqm_reward": evaluation.iqm,
        }
        if evaluation.human_normalized is not None:
            figures["eval/final_human_normalized"] = evaluation.human_normalized
        if evaluation.iqm_interval is not None:
            figures["eval/final_iqm_low"], figures["eval/final_iqm_high"] = evaluation.iqm_interval
        self._metrics.write(steps, figures)

    def summary(self, progress: TrainingProgress) -> str:
        """Returns the figures of the progress line, the most important first."""
        parts = []
        if self._recent:
            parts.append(f"score {fmean(score for score, _ in self._recent):.1f}")
        if progress.update is not None:
            parts.append(f"loss {progress.update.loss.item():.4f}")
        parts.append(f"epsilon {progress.epsilon:.2f}")
        return "  ".join(parts)
