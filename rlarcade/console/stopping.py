"""How a command stops cleanly after Ctrl-C or SIGTERM."""

import os
import signal
import stat
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, Self

from rlarcade.console.exits import EXIT_INTERRUPTED

PARENT_PIPE = "RLARCADE_PARENT_PIPE"
"""Environment variable of a sweep's runs: the descriptor of a pipe that closes with the sweep."""


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


def stop_with_the_sweep() -> None:
    """Makes this process stop, as after a Ctrl-C, when the sweep that started it has ended.

    It must be called before the process opens files. The variable may be a left-over of a sweep's
    environment, and its descriptor would then be the next file that is opened.
    """
    pipe = os.environ.pop(PARENT_PIPE, "")
    if pipe.isdecimal() and _is_pipe(int(pipe)):
        threading.Thread(target=_interrupt_at_the_end_of, args=(int(pipe),), daemon=True).start()


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (OSError, OverflowError):  # there is none
        return False


def _interrupt_at_the_end_of(pipe: int) -> None:
    os.read(pipe, 1)  # nothing is ever written; it returns when the sweep's end is closed
    os.kill(os.getpid(), signal.SIGINT)
