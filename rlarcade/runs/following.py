"""Follows a run with one tracker, in a thread of its own.

The run's figures are in `metrics.jsonl`; a tracker receives a copy. Two rules keep the copy whole:

- A figure is sent only after the run has saved its step. A kill loses the steps after the newest
  save, and the resumed run plays them again: they were never sent, so nothing comes twice.
- RUN/trackers/NAME.json says how far the copy goes. A resumed run sends what is missing from
  `metrics.jsonl` first. That is also how a tracker that failed, or was added later, catches up.
"""

import json
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rlarcade.files import own_folder, read_own, remove_own, write_file
from rlarcade.foreign import own_words
from rlarcade.json_text import parse_json
from rlarcade.runs.trackers import Display, TrackedRun, Tracker

FOLDER = "trackers"
_MOST_WAITING = 1_000_000  # figures and the like; one that takes none must not fill the memory
_CHUNK = 1_000  # figures and the like that are sent at once
PATIENCE = 60.0  # seconds at the end of a run for a tracker to take what is left

Call = Callable[[Display], None]
"""Something to tell a tracker."""


class Told(NamedTuple):
    """Something to tell a tracker once its step is saved."""

    step: int
    call: Call
    is_line: bool
    """Whether it is a line of `metrics.jsonl`. Lines are counted, and sent again if they were not
    received."""


class _Position(NamedTuple):
    """How far a tracker's copy goes: all lines before `step`, and the first `lines` of `step`."""

    key: str
    id: str | None = None
    step: int = 0
    lines: int = 0
    sending: bool = False
    """Whether more lines were on their way when this was written."""


class Follower:
    """Sends a run to one tracker.

    Attributes:
        problem: why the tracker gets nothing any more; None while all is well.
    """

    def __init__(
        self,
        tracker: Tracker,
        run_folder: Path,
        *,
        saved: int,
        earlier: Callable[[], Iterator[dict[str, Any]]],
    ) -> None:
        """Starts the thread.

        Args:
            tracker: receives the run.
            run_folder: the run's folder.
            saved: agent step of the run's newest save.
            earlier: returns the lines of `metrics.jsonl` up to that step.
        """
        self._tracker, self._folder, self._earlier = tracker, run_folder, earlier
        self._path = run_folder / FOLDER / f"{tracker.name}.json"
        self._position = self._there = _Position("")
        self._skipped = 0  # lines of the step that `_there` names
        self._saved = self._resumed_at = saved
        self._waiting: deque[Told] = deque()  # only the training thread may touch it
        self._queue: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
        self._left = 0  # in the queue and in the tracker's hands
        self._changed = threading.Condition()
        self.problem: str | None = None
        self._thread = threading.Thread(
            target=self._work, name=f"tracker {tracker.name}", daemon=True
        )
        self._thread.start()

    # Called by the training thread, which waits only at the end

    def tell(self, told: Told) -> None:
        """Takes something to tell the tracker after the save of its step."""
        self._waiting.append(told)
        if told.step <= self._saved:
            self.saved(self._saved)
        if len(self._waiting) + self._left > _MOST_WAITING:
            self._fail("it does not keep up with the run")
        if self.problem is not None:
            self._waiting.clear()

    def saved(self, steps: int) -> None:
        """Sends what belongs to agent steps up to `steps`, which the run has saved."""
        self._saved = steps
        if self.problem is not None:
            self._waiting.clear()
        while self._waiting and self._waiting[0].step <= steps:
            with self._changed:
                self._left += 1
            self._queue.put(self._waiting.popleft())

    def settle(self, patience: float | None = None) -> None:
        """Waits until the tracker has all that was sent, has failed, or is slower than `patience`.

        Args:
            patience: seconds; by default `PATIENCE`.
        """
        seconds = PATIENCE if patience is None else patience
        with self._changed:
            done = self._changed.wait_for(
                lambda: not self._left or self.problem is not None, seconds
            )
        if not done:
            self._fail(f"it has not taken everything after {seconds:g} seconds")

    def close(self) -> None:
        """Ends the thread, after the tracker has what was sent. The rest is forgotten."""
        until = time.monotonic() + PATIENCE
        self._queue.put(None)
        self.settle()
        if self.problem is None:
            self._thread.join(max(0.1, until - time.monotonic()))
            if self._thread.is_alive():
                self._fail(f"it has not ended after {PATIENCE:g} seconds")

    def _fail(self, problem: str) -> None:
        with self._changed:
            self.problem = self.problem or problem
            self._changed.notify_all()

    # The tracker's thread

    def _work(self) -> None:
        try:
            self._open()
            self._catch_up()
            ended = False
            while not ended and self.problem is None:
                batch, ended = self._next()
                if batch:
                    self._send(batch)
                with self._changed:
                    self._left -= len(batch)
                    self._changed.notify_all()
            if self.problem is None:
                self._tracker.close()
        except BaseException as error:  # a library may raise anything, even SystemExit
            self._fail(own_words(error))

    def _next(self) -> tuple[list[Told], bool]:
        """Waits for something to tell; returns all that is there, and whether it is the end."""
        batch: list[Told] = []
        told = self._queue.get()
        while told is not None:
            batch.append(told)
            if len(batch) >= _CHUNK or self._queue.empty():
                return batch, False
            told = self._queue.get()
        return batch, True

    def _open(self) -> None:
        own_folder(self._path.parent)
        for left in self._path.parent.glob(f".{self._path.name}.*"):  # a kill left it behind
            remove_own(left)
        self._position = read = _read_position(self._path) or _Position(secrets.token_hex(8))
        # The key is on the disk before the tracker begins a run under it, which takes seconds.
        self._write_position(sending=read.sending)
        found = self._tracker.open(TrackedRun(self._folder, read.key, read.id, read.sending))
        # Another id is another run in the tracker, which has nothing yet.
        self._position = self._there = read if found == read.id else _Position(read.key, found)
        self._write_position(sending=False)

    def _catch_up(self) -> None:
        """Sends the lines that were saved before this process began, as far as they are missing."""
        lines = map(_line_from_file, self._earlier())
        while chunk := [*islice(lines, _CHUNK)]:
            self._send(chunk)

    def _send(self, batch: Iterable[Told]) -> None:
        new = [told for told in batch if not self._was_sent(told)]
        if not new:
            return
        self._write_position(sending=True)
        for told in new:
            told.call(self._tracker)
            if told.is_line:
                now = self._position
                lines = now.lines + 1 if told.step == now.step else 1
                self._position = now._replace(step=told.step, lines=lines)
        self._tracker.flush()
        self._write_position(sending=False)

    def _was_sent(self, told: Told) -> bool:
        """Whether an earlier process has sent this. Asked once for everything, in its order.

        A run may resume from an older save than the tracker knows, because the newest was damaged.
        """
        there = self._there
        if not told.is_line:
            return self._resumed_at < there.step and 0 < told.step <= there.step
        if told.step == there.step and self._skipped < there.lines:
            self._skipped += 1
            return True
        return told.step < there.step

    def _write_position(self, *, sending: bool) -> None:
        document = self._position._replace(sending=sending)._asdict()
        write_file(self._path, (json.dumps(document) + "\n").encode())


def line_of(step: int, figures: dict[str, float]) -> Told:
    """Returns a line of `metrics.jsonl` as something to tell a tracker."""
    return Told(step, lambda tracker: tracker.scalars(step, figures), is_line=True)


def _line_from_file(line: dict[str, Any]) -> Told:
    # The folder may come from a stranger: anything may stand in its figures.
    numbers = {k: v for k, v in line.items() if k != "step" and type(v) in (int, float)}
    return line_of(line["step"], numbers)


def _read_position(path: Path) -> _Position | None:
    """Reads how far a copy goes. If that is unknown, the tracker begins a new run."""
    try:
        position = _Position(**parse_json(read_own(path)))
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        return None
    kinds = [type(value) for value in position]
    known = kinds in ([str, str, int, int, bool], [str, type(None), int, int, bool])
    return position if known else None
