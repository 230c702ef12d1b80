"""Progress of long work: a live line on a terminal, elsewhere a plain line every ten seconds.

Both go to stderr, since stdout is for results.

rich draws the line, but the parts are made here and not by `rich.progress`. On a narrow terminal
rich shortens every column, to "sco…"; here the least important parts are left out. And rich
computes the speed from the last 1,000 updates, which are one second of a fast loop; here it is
from the last 30 seconds.
"""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import NamedTuple, Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from rlarcade.console import deliver
from rlarcade.text import printable

_PLAIN_SECONDS = 10.0  # between lines without a terminal
_LIVE_SECONDS = 0.25  # between refreshes on a terminal
_LONGEST_NAME = 20
_BAR, _SHORT_BAR = 12, 5
_DETAILS = (2, 3, 6)  # ranks of the first three details; later ones are left out first


class ProgressLine(AbstractContextManager["ProgressLine"]):
    """Shows the progress of some work."""

    def __init__(
        self, total: int, what: str, *, done: int = 0, unit: str = "steps", at_most: bool = False
    ) -> None:
        """Starts the clock.

        Args:
            total: number of units of work.
            what: name of the work, one or two words.
            done: units that were done before.
            unit: name of the units, in the plural.
            at_most: the work may end much earlier, so no bar and no ETA are shown.
        """
        self._total, self._what, self._unit, self._at_most = total, what, unit, at_most
        self._done = done
        self._speed = _Speed(done)
        self._started = self._shown = time.monotonic()
        self._details = ""
        self._live: Live | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            self._spinner = Spinner("dots")
            self._live = Live(
                self,
                console=console,
                transient=True,
                refresh_per_second=8,
                # if stdout is a file, rich would redirect it to the terminal
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            with suppress(OSError):  # the terminal was closed
                self._live.stop()

    def update(
        self, done: int, details: Callable[[], str] | None = None, *, total: int | None = None
    ) -> None:
        """Updates the progress.

        Args:
            done: units done.
            details: returns the rest of the line: parts separated by two spaces, the most important
                first. Called only when the line is shown.
            total: new number of units; None: unchanged.
        """
        self._total = self._total if total is None else total
        self._done = done
        self._speed.observe(done)
        now = time.monotonic()
        if now - self._shown < (_LIVE_SECONDS if self._live is not None else _PLAIN_SECONDS):
            return
        self._shown = now
        self._details = "" if details is None else details()
        if self._live is None:
            parts = [part.long for part in self._parts() if part.long and not part.live]
            deliver(sys.stderr, printable(f"{self._what}: {'  '.join(parts)}") + "\n")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws the current line, fitted to the width of the terminal."""
        head = f"{self._spinner.render(time.monotonic())} {printable(self._what, _LONGEST_NAME)}"
        yield Text(fitted(head, self._parts(), options.max_width - 1), no_wrap=True)

    def _parts(self) -> "list[Part]":
        elapsed = time.monotonic() - self._started
        speed = self._speed.now
        time_left = ""
        if speed and not self._at_most and self._done < self._total:
            time_left = f"ETA {duration((self._total - self._done) / speed)}"
        pace = f"{speed:,.0f} {self._unit}/s" if speed >= 10 else ""
        short_pace = f"{_short(speed)}/s" if pace else ""
        most = "at most " if self._at_most else ""
        share = min(1.0, self._done / max(1, self._total))
        bars = ("", "") if self._at_most else (_bar(share, _BAR), _bar(share, _SHORT_BAR))
        details = [part for part in self._details.split("  ") if part.strip()]
        count = Part(
            f"{self._done:,} of {most}{self._total:,} {self._unit}"
            if self._at_most
            else f"{self._done:,}/{self._total:,} {self._unit}",
            f"{_short(self._done)}/{_short(self._total)}",
            0,
        )
        return [
            Part(*bars, 5, live=True),
            count,
            Part(pace, short_pace, 7),
            Part(f"{duration(elapsed)} elapsed", duration(elapsed), 4),
            Part(time_left, time_left, 1),
            *(
                Part(part, part, _DETAILS[place] if place < len(_DETAILS) else 6 + place)
                for place, part in enumerate(details)
            ),
        ]


class Part(NamedTuple):
    """A part of the line."""

    long: str
    short: str
    rank: int
    """The part with the highest rank is shortened or left out first."""
    live: bool = False
    """Shown on a terminal only."""


def fitted(head: str, parts: list[Part], width: int) -> str:
    """Returns a line that fits a width; the least important parts are shortened or left out.

    Args:
        head: beginning of the line; always kept.
        parts: in the order in which they are shown; the lowest rank is the most important.
        width: columns of the terminal.
    """
    shown: dict[int, str] = {place: part.short for place, part in enumerate(parts) if part.short}

    def line() -> str:
        return "  ".join([head, *(printable(shown[place]) for place in sorted(shown))])

    for place in sorted(shown, key=lambda place: -parts[place].rank):
        if cell_len(line()) <= width:
            break
        del shown[place]
    for place in sorted(shown, key=lambda place: parts[place].rank):
        before = shown[place]
        shown[place] = parts[place].long or before
        if cell_len(line()) > width:
            shown[place] = before
    return line()


def _bar(share: float, width: int) -> str:
    done = round(width * share)
    return "━" * done + "─" * (width - done)


class _Speed:
    """Average speed over about the last 30 seconds."""

    def __init__(self, done: int) -> None:
        self._marks = [(time.monotonic(), done)]
        self.now = 0.0

    def observe(self, done: int) -> None:
        now = time.monotonic()
        if now - self._marks[-1][0] > 1:
            self._marks = [*self._marks[-30:], (now, done)]
        since, then = self._marks[0]
        self.now = (done - then) / (now - since) if now - since > 1 else 0.0


def _short(number: float) -> str:
    """Formats a count in a few characters: 1213456 -> '1.21M'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 10 * size or (number >= size and size > 1e3):
            return f"{number / size:.3g}{letter}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Formats a time: 3725 -> '1:02:05', 65 -> '1:05'."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    tail = f"{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
    return f"{hours}:{tail}" if hours else tail
