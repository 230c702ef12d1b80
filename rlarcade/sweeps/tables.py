"""What a sweep shows: the progress of its runs, and their scores at the end."""

import sys
import time
from contextlib import AbstractContextManager
from itertools import zip_longest
from typing import Any, Self

from rich import box
from rich.console import Console, OverflowMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlarcade import console
from rlarcade.checked import reason
from rlarcade.errors import RlarcadeError
from rlarcade.progress import duration
from rlarcade.runs.folder import read_record
from rlarcade.runs.metrics import newest_metrics
from rlarcade.sweeps.file import SweepRun
from rlarcade.text import printable

_HEADERS = ("steps", "mean", "median", "human-normalised", "minutes")
_PADDING = 2 * (len(_HEADERS) + 2)  # characters between columns and beside the table
_PLAIN_SECONDS = 10.0  # between lines of progress, without a terminal
_LIVE_SECONDS = 1.0  # between updates of the progress on a terminal


class View(AbstractContextManager["View"]):
    """Shows each run's progress: a live line on a terminal, otherwise a plain line at times."""

    def __init__(self) -> None:
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

    def show(self, running: list[SweepRun]) -> None:
        """Shows the progress of the running runs, if enough time has passed."""
        now = time.monotonic()
        if now - self._shown < (_PLAIN_SECONDS if self._live is None else _LIVE_SECONDS):
            return
        self._shown = now
        lines = [printable(_progress_of(run)) for run in running]
        if self._live is not None:
            self._live.update(Text("\n".join(lines), overflow="fold"), refresh=True)
        else:
            for line in lines:
                console.deliver(sys.stderr, f"{line}\n")


def _progress_of(run: SweepRun) -> str:
    """Returns one line with steps, speed, time left and score, as far as they are known."""
    try:
        record, figures = read_record(run.folder), newest_metrics(run.folder)
    except (OSError, RlarcadeError) as error:
        return f"{run.label}  {reason(error)}"
    if record is None:
        return f"{run.label}  beginning"
    steps, total = figures.get("step", 0), record.train.schedule.total_timesteps
    parts = [run.label, f"{steps:,}/{total:,} steps"]
    speed = figures.get("time/fps")
    if isinstance(speed, int | float) and 0 < speed < 1e9:
        parts.append(f"{speed:,.0f} steps/s")
        parts.append(f"ETA {duration(max(0, total - steps) / speed)}")
    score = figures.get("rollout/ep_rew_mean")
    if isinstance(score, int | float):
        parts.append(f"score {score:.1f}")
    return "  ".join(parts)


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
        return ["not started" if outcome["exit"] is None else "not finished"]
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
    length = next(n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    shared = first[: first[:length].rfind("-") + 1]
    return shared.rstrip("-"), [label[len(shared) :] for label in labels]
