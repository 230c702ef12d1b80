"""What a sweep shows: the progress of its runs, and their scores at the end."""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol, Self

from rich import box
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlarcade import console
from rlarcade.checked import reason
from rlarcade.errors import RlarcadeError
from rlarcade.progress import duration
from rlarcade.runs.folder import read_record
from rlarcade.runs.metrics_file import newest_metrics
from rlarcade.sweeps.file import SweepRun
from rlarcade.sweeps.results import state_of
from rlarcade.text import printable

_HEADERS = ("steps", "mean", "median", "human-normalised", "minutes")
_PADDING = 2 * (len(_HEADERS) + 2)  # characters between columns and beside the table
_PLAIN_SECONDS = 10.0  # between lines of progress, without a terminal
_LIVE_SECONDS = 1.0  # between updates of the progress on a terminal


class Working(Protocol):
    """A run that trains, and where."""

    run: SweepRun
    where: str


@dataclass(frozen=True)
class Progress:
    """How far a run is, as far as it is known."""

    label: str
    where: str = ""
    """Name of the machine; empty: this one."""
    steps: int | None = None
    total: int = 0
    speed: float | None = None
    """Agent steps per second."""
    score: float | None = None
    note: str = ""
    """Why nothing else is known."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until its last step, at the newest speed."""
        if self.steps is None or self.speed is None:
            return None
        return max(0, self.total - self.steps) / self.speed

    @property
    def cells(self) -> list[str]:
        """Steps, speed, time left and score; empty where unknown."""
        if self.steps is None:
            return [self.note, "", "", ""]
        left = self.seconds_left
        return [
            f"{self.steps:,}/{self.total:,}",
            "" if self.speed is None else f"{self.speed:,.0f}",
            "" if left is None else duration(left),
            "" if self.score is None else f"{self.score:.1f}",
        ]

    @property
    def line(self) -> str:
        """All of it in one line."""
        where = f"on {self.where}" if self.where else ""
        if self.steps is None:
            return "  ".join(part for part in (self.label, where, self.note) if part)
        steps, speed, left, score = self.cells
        parts = [self.label, where, f"{steps} steps", speed and f"{speed} steps/s"]
        parts += [left and f"ETA {left}", score and f"score {score}"]
        return "  ".join(part for part in parts if part)


class View(AbstractContextManager["View"]):
    """Shows each run's progress: a live table on a terminal, otherwise plain lines at times."""

    def __init__(self, runs: int) -> None:
        """Shows nothing yet.

        Args:
            runs: number of runs of the sweep.
        """
        self.runs = runs
        self._live: Live | None = None
        self._shown = time.monotonic()
        if console.is_terminal(sys.stdout) and console.is_terminal(sys.stderr):
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, running: Sequence[Working], waiting: Sequence[SweepRun], ended: int) -> None:
        """Shows the progress of the running runs, if enough time has passed."""
        now = time.monotonic()
        if now - self._shown < (_PLAIN_SECONDS if self._live is None else _LIVE_SECONDS):
            return
        self._shown = now
        rows = [_progress_of(job) for job in running]
        head = headline(rows, waiting, ended, self.runs)
        if self._live is not None:
            self._live.update(live_table(head, rows, self._live.console), refresh=True)
        else:
            for line in (head, *(row.line for row in rows)):
                console.deliver(sys.stderr, f"{printable(line)}\n")


def headline(rows: Sequence[Progress], waiting: Sequence[SweepRun], ended: int, runs: int) -> str:
    """Returns how many runs have ended, train and wait, and the time until the last one's end.

    The time is known once every running run tells its speed, if all lengths are in steps.
    """
    counts = f"{ended}/{runs} runs ended, {len(rows)} running, {len(waiting)} waiting"
    speed = sum(row.speed or 0 for row in rows)
    steps = [row.total - row.steps for row in rows if row.steps is not None]
    steps += [run.settings.train.schedule.total_timesteps for run in waiting]
    if not rows or any(row.seconds_left is None for row in rows) or _in_minutes(waiting):
        return counts
    last = max(row.seconds_left or 0 for row in rows)
    return f"{counts}, ETA {duration(max(last, sum(steps) / speed))}"


def _in_minutes(runs: Sequence[SweepRun]) -> bool:
    return any(run.settings.run.minutes is not None for run in runs)


def live_table(head: str, rows: Sequence[Progress], terminal: Console) -> RenderableType:
    """Returns a table of running runs, fitted to a terminal. What does not fit is counted."""
    room = max(1, terminal.height - 5)
    labels = [row.label for row in rows]
    if max(map(len, labels), default=0) > terminal.width // 2:
        labels = _without_what_is_shared(labels)[1]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("run", overflow="fold")
    somewhere = any(row.where for row in rows)
    if somewhere:
        table.add_column("machine", overflow="fold")
    for name in ("steps", "steps/s", "ETA", "score"):
        table.add_column(name, no_wrap=True, justify="left" if name == "steps" else "right")
    for label, row in zip(labels[:room], rows, strict=False):
        where = [Text(printable(row.where))] if somewhere else []
        table.add_row(Text(printable(label)), *where, *(Text(cell) for cell in row.cells))
    parts: list[RenderableType] = [Text(head)]
    parts += [table] * bool(rows)
    if len(rows) > room:
        parts.append(Text(f"… and {len(rows) - room} more"))
    return Group(*parts)


def _progress_of(job: Working) -> Progress:
    run = job.run
    try:
        record, figures = read_record(run.folder), newest_metrics(run.folder)
    except (OSError, RlarcadeError) as error:
        return Progress(run.label, job.where, note=reason(error))
    if record is None:
        return Progress(run.label, job.where, note="beginning")
    speed, score = figures.get("time/fps"), figures.get("rollout/ep_rew_mean")
    return Progress(
        run.label,
        job.where,
        figures.get("step", 0),
        record.train.schedule.total_timesteps,
        speed if isinstance(speed, int | float) and 0 < speed < 1e9 else None,
        score if isinstance(score, int | float) else None,
    )


def tell_table(outcomes: list[dict[str, Any]]) -> None:
    """Prints the table. Rich does not write it directly, so that a closed pipe is no error."""
    on_terminal = console.is_terminal(sys.stdout)
    terminal = Console(width=None if on_terminal else 200)  # in a file, labels are not wrapped
    with terminal.capture() as written:
        show_table(outcomes, terminal)
    console.deliver(sys.stdout, written.get())


def show_table(outcomes: list[dict[str, Any]], terminal: Console) -> None:
    """Prints one row per run. If the terminal is narrow, labels omit their common beginning."""
    rows = [_cells(outcome) for outcome in outcomes]
    labels = [outcome["label"] for outcome in outcomes]
    table = _table("human-normalised", labels, rows)
    widest = [max(map(len, column)) for column in zip_longest(*rows, _HEADERS, fillvalue="")]
    if max(map(len, labels)) + sum(widest) + _PADDING > terminal.width:
        shared, labels = _without_what_is_shared(labels)
        if shared:
            terminal.print(Text(f"runs of {shared}"), soft_wrap=True)
        table = _table("human", labels, rows, overflow="fold")
    terminal.print(table)


def _table(
    human: str, labels: list[str], rows: list[list[str]], overflow: OverflowMethod = "ellipsis"
) -> Table:
    table = Table(box=box.SIMPLE)
    # nothing is cut: if labels do not fit, `overflow` is "fold", and they get several lines
    table.add_column("run", no_wrap=overflow != "fold", overflow=overflow)
    for name in (*_HEADERS[:-2], human, _HEADERS[-1]):
        table.add_column(name, no_wrap=True)
    for label, cells in zip(labels, rows, strict=True):
        table.add_row(Text(printable(label)), *cells)
    return table


def _cells(outcome: dict[str, Any]) -> list[str]:
    result = outcome["result"]
    if not result:
        return [state_of(outcome)]
    scores, normalised = result["evaluation"], result["evaluation"]["human_normalized"]
    return [
        f"{result['steps']:,}",
        f"{scores['mean']:.1f}",
        f"{scores['median']:.1f}",
        "–" if normalised is None else f"{normalised:.1%}",
        f"{result['seconds']['total'] / 60:.1f}",
    ]


def _without_what_is_shared(labels: list[str]) -> tuple[str, list[str]]:
    """Splits off the leading parts that all labels share."""
    if len(labels) < 2:
        return "", labels
    first, last = min(labels), max(labels)  # their common prefix is that of all
    places = enumerate(zip(first, last, strict=False))
    length = next((n for n, (a, b) in places if a != b), len(first))
    shared = first[: first[:length].rfind("-") + 1]
    return shared.rstrip("-"), [label[len(shared) :] for label in labels]
