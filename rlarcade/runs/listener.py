"""What a run says while it works, and to whom."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

Update = Callable[[int, int], None]
"""Called with (amount done, total) of some work."""


Tell = Callable[[str], None]
"""Called with one sentence."""


def warn_in_python(message: str) -> None:
    """Shows a sentence as a Python warning."""
    warnings.warn(message, UserWarning, stacklevel=2)


def nothing(*_: object) -> None:
    """Ignores what it is called with."""


def _unshown(*_: object) -> AbstractContextManager[Update]:
    return nullcontext(nothing)


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Listener:
    """Receives what a run has to say. By default only warnings are shown."""

    say: Tell = nothing
    """Called with one sentence about the run."""
    warn: Tell = warn_in_python
    """Called with one sentence about something that may be unexpected."""
    work: Callable[[str, int, str], AbstractContextManager[Update]] = _unshown
    """Called with (name, total, unit) when longer work begins; its result receives the progress."""
    stop: Callable[[], bool] = _never
    """Asked between games and steps. After True the run stops, and can be resumed."""
    saved: Callable[[Path], None] = nothing
    """Called with the folder of each policy checkpoint after it is saved, and on resume with that
    of the newest: a kill may have come between the save and this call."""
