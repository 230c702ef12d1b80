"""How a command stops cleanly after Ctrl-C or SIGTERM."""

import os
import signal
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, Self

from rlarcade.console.exits import EXIT_INTERRUPTED


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
