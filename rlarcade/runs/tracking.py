"""All trackers of a run together. If one fails, the run says so once and goes on without it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlarcade.config import TrainConfig
from rlarcade.errors import RecordingError
from rlarcade.foreign import own_words
from rlarcade.runs.following import Call, Follower, Told, line_of
from rlarcade.runs.listener import Tell
from rlarcade.runs.tensorboard import TensorBoard
from rlarcade.runs.trackers import Setting, Tracker


class Tracking:
    """Hands what a run shows to TensorBoard at once, and to other trackers after each save.

    No method raises an error. Only `settle` and `close` wait.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        resumed_at: int,
        trackers: Sequence[Tracker],
        earlier: Callable[[], Iterator[dict[str, Any]]],
        warn: Tell,
    ) -> None:
        """Opens TensorBoard and begins to follow the run with the trackers.

        Args:
            run_folder: the run's folder.
            resumed_at: agent step of the resume.
            trackers: trackers beside TensorBoard.
            earlier: returns the lines of `metrics.jsonl` up to that step.
            warn: told once of each tracker that fails, and why.

        Raises:
            OSError: TensorBoard's folder cannot be written, or is a link.
        """
        self._warn = warn
        self._board: TensorBoard | None = TensorBoard(run_folder, resumed_at=resumed_at)
        self._followers = {
            one.name: Follower(one, run_folder, saved=resumed_at, earlier=earlier)
            for one in trackers
        }

    def line(self, step: int, figures: Mapping[str, float]) -> None:
        """Shows a line of `metrics.jsonl`: some figures of one agent step."""
        self._tell(line_of(step, dict(figures)))

    def hyper_parameters(self, settings: Mapping[str, Setting]) -> None:
        """Shows the run's settings."""
        self._show(0, lambda tracker: tracker.hyper_parameters(settings))

    def histogram(self, step: int, name: str, values: NDArray[np.float32]) -> None:
        """Shows how values, of any shape, are distributed. Values that are not finite are left out.

        Nothing is shown if no value is left.
        """
        finite = values[np.isfinite(values)]
        if finite.size:
            self._show(step, lambda tracker: tracker.histogram(step, name, finite))

    def text(self, step: int, name: str, text: str) -> None:
        """Shows a text in Markdown."""
        self._show(step, lambda tracker: tracker.text(step, name, text))

    def video(self, step: int, name: str, path: Path) -> None:
        """Shows a video, an MP4 file."""
        self._show(step, lambda tracker: tracker.video(step, name, path))

    def artefact(self, name: str, path: Path) -> None:
        """Keeps a file, or a folder with its files."""
        self._show(0, lambda tracker: tracker.artefact(name, path))

    def _show(self, step: int, call: Call) -> None:
        self._tell(Told(step, call, is_line=False))

    def _tell(self, told: Told) -> None:
        self._on_board(told.call)
        for follower in self._followers.values():
            follower.tell(told)
        self._warn_of_problems()

    def flush(self) -> None:
        """Hands TensorBoard's figures to the operating system."""
        self._on_board(lambda board: board.flush())

    def saved(self, steps: int) -> None:
        """Sends what belongs to agent steps up to `steps`: the run has saved them."""
        for follower in self._followers.values():
            follower.saved(steps)
        self._warn_of_problems()

    def settle(self) -> None:
        """Waits until each tracker has received what was sent, for a minute at most."""
        for follower in self._followers.values():
            follower.settle()
        self._warn_of_problems()

    def close(self) -> None:
        """Closes all trackers. They receive what was sent, but nothing that is not saved."""
        self._on_board(lambda board: board.close())
        for follower in self._followers.values():
            follower.close()
        self._warn_of_problems()
        self._board, self._followers = None, {}

    def _on_board(self, call: Callable[[TensorBoard], None]) -> None:
        if self._board is None:
            return
        try:
            call(self._board)
        except RecordingError as error:  # a video that cannot be shown is no reason to show less
            self._warn(str(error))
        except Exception as error:
            with suppress(Exception):
                self._board.close()
            self._board = None
            self._warn(
                f"TensorBoard gets no more figures ({own_words(error)}). Training goes on, and "
                "metrics.jsonl has them all."
            )

    def _warn_of_problems(self) -> None:
        for name, follower in [*self._followers.items()]:
            if follower.problem is not None:
                del self._followers[name]
                self._warn(_failed(name, follower.problem, "Training goes on, and"))


def send_missing(
    run_folder: Path,
    trackers: Sequence[Tracker],
    *,
    steps: int,
    settings: Mapping[str, Setting],
    lines: Callable[[], Iterator[dict[str, Any]]],
    warn: Tell,
) -> None:
    """Sends a finished run to trackers that have only a part of it, or nothing.

    Args:
        run_folder: the run's folder.
        trackers: they receive the settings, and the lines that they lack.
        steps: agent steps of the run.
        settings: the run's settings.
        lines: returns all lines of `metrics.jsonl`.
        warn: told once of each tracker that fails, and why.
    """
    followers = [Follower(one, run_folder, saved=steps, earlier=lines) for one in trackers]
    for tracker, follower in zip(trackers, followers, strict=True):
        follower.tell(Told(0, lambda one: one.hyper_parameters(settings), is_line=False))
        follower.close()
        if follower.problem is not None:
            warn(_failed(tracker.name, follower.problem, "The run is finished, and"))


def _failed(name: str, problem: str, what: str) -> str:
    return (
        f"{name} gets no more figures ({problem}). {what} metrics.jsonl has them all. When the run "
        "is opened again, those that are missing are sent."
    )


def flat_settings(config: TrainConfig) -> dict[str, Setting]:
    """Returns a run's settings as every tracker can store them: no lists, nothing unset."""
    return {
        name: value if isinstance(value, bool | int | float | str) else _as_text(value)
        for name, value in config.flat().items()
        if value is not None
    }


def _as_text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def described(settings: Mapping[str, Setting], commit: str | None) -> str:
    """Returns a run's settings as a table in Markdown, as CleanRL's users know it."""
    rows = [f"| `{name}` | {value} |" for name, value in settings.items()]
    code = f"Commit of rlarcade: {commit}" if commit else "Commit of rlarcade: unknown"
    return "\n".join([code, "", "| setting | value |", "| --- | --- |", *rows])
