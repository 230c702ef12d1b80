"""What commands share: errors to exit codes, flags to settings, progress, stopping cleanly."""

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stderr
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import tyro
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rlarcade.errors import ConfigError, RlarcadeError

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
EXIT_REJECTED, EXIT_INCONCLUSIVE, EXIT_AWAITING = 3, 4, 5

_PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal
_LIVE_SECONDS = 0.25  # between refreshes where there is one


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Runs a command and turns what a user can cause into one line and an exit code.

    SIGTERM is a Ctrl-C.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = threading.excepthook
    threading.excepthook = partial(_tell_unless_told, before)
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except RlarcadeError as error:
        say_error(str(error))
        return int(getattr(error, "exit_code", EXIT_USAGE))
    except KeyboardInterrupt:
        say_error("interrupted.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `rlarcade … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    finally:
        threading.excepthook = before


def _tell_unless_told(tell: Callable[[Any], object], what: threading.ExceptHookArgs) -> None:
    """A full disk in TensorBoard's thread is told by the thread that next writes a figure."""
    if not issubclass(what.exc_type, OSError):
        tell(what)


def parse_flags(
    flags: Any,
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None,
    config: Sequence[Any] = (),
) -> Any:
    """Reads a command line into flags, a model or a union of some; `--help` prints and exits.

    Raises:
        ConfigError: an unknown or missing flag, or a value of another type, in one line.
    """
    boxed = io.StringIO()
    try:
        with redirect_stderr(boxed):
            return tyro.cli(
                flags, args=list(argv), prog=prog, description=description, config=config
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{_unboxed(boxed.getvalue())}. {prog} --help lists all.") from stop


def _unboxed(text: str) -> str:
    """The words of a box as tyro draws it: its title, then its parts."""
    title, parts = "", list[list[str]]([[]])
    for line in text.splitlines():
        words = line.strip("│ ")
        if words.startswith(("╭", "╰", "─")):
            parts.append([])
            title = title or words.strip("╭─╮ ")
        elif words and not words.startswith(("For full helptext", "rlarcade")):
            parts[-1].append(words)
    said = "; ".join(" ".join(part).rstrip(".:;") for part in parts if part)
    return said if said.startswith(title) else f"{title}: {said}"


def check_seed(seed: int) -> None:
    """Refuses a `--seed` that no stream of random numbers can be made from.

    Raises:
        ConfigError: it is negative, or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be 0 to {2**32 - 1}, got {seed}.")


def say(line: str = "") -> None:
    """Prints a line of the result to stdout at once."""
    print(line, flush=True)  # noqa: T201


def say_error(line: str) -> None:
    """Prints an error to stderr."""
    print(f"rlarcade: error: {' '.join(line.split())}", file=sys.stderr, flush=True)  # noqa: T201


def say_warning(line: str) -> None:
    """Prints a warning to stderr."""
    print(f"rlarcade: warning: {' '.join(line.split())}", file=sys.stderr, flush=True)  # noqa: T201


def write_json(path: Path | None, document: BaseModel | dict[str, Any]) -> None:
    """Writes a command's `--json FILE`, if one was asked for.

    Raises:
        RlarcadeError: the file cannot be written.
    """
    if path is None:
        return
    data = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise RlarcadeError(
            f"--json {path} cannot be written: {error.strerror}. Choose another file."
        ) from error


class ProgressLine(AbstractContextManager["ProgressLine"]):
    """A live line on a terminal; a plain line every ten seconds elsewhere."""

    def __init__(
        self, total: int, what: str, *, done: int = 0, unit: str = "steps", at_most: bool = False
    ) -> None:
        self._total, self._what, self._unit = total, what, unit
        self._eta = "ETA at most" if at_most else "ETA"
        self._speed = _Speed(done)
        self._shown = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[line]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, line="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(
        self, done: int, details: Callable[[], str] | None = None, *, total: int | None = None
    ) -> None:
        """Shows how far the work is.

        Args:
            done: units done.
            details: makes the rest of the line; called only when the line is shown.
            total: units there are, if that has become known only now.
        """
        self._total = self._total if total is None else total
        speed = self._speed.observe(done)
        now = time.monotonic()
        if now - self._shown < (_LIVE_SECONDS if self._bar is not None else _PLAIN_SECONDS):
            return
        self._shown = now
        line = f"{done:,}/{self._total:,} {self._unit}"
        if speed:
            line += f"  {speed:,.0f} {self._unit}/s" if speed >= 10 else ""
            line += f"  {self._eta} {duration((self._total - done) / speed)}"
        if details is not None:
            line += f"  {details()}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total, line=line)
        else:
            say(f"{self._what}: {line}")


class _Speed:
    """Speed over about the last half minute."""

    def __init__(self, done: int) -> None:
        self._marks = [(time.monotonic(), done)]

    def observe(self, done: int) -> float:
        now = time.monotonic()
        if now - self._marks[-1][0] > 1:
            self._marks = [*self._marks[-30:], (now, done)]
        since, then = self._marks[0]
        return (done - then) / (now - since) if now - since > 1 else 0.0


class StopSignal(AbstractContextManager["StopSignal"]):
    """Turns the first Ctrl-C or SIGTERM into a request to stop; the second ends the process."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            os._exit(EXIT_INTERRUPTED)
        self.requested = True
        os.write(2, b"\nrlarcade: stopping after this step; again to quit at once\n")


def duration(seconds: float) -> str:
    """Formats a time: 3725 -> '1:02:05', 65 -> '1:05'."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    tail = f"{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
    return f"{hours}:{tail}" if hours else tail
