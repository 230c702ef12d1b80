"""While a command still loads its libraries: whatever ends it is one line, not their traceback."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType, TracebackType

TRACEBACK = "RLARCADE_TRACEBACK"
"""Environment variable that asks for the traceback of an error that nobody foresaw."""

_STOPS = (signal.SIGINT, signal.SIGTERM)


def until_ready() -> None:
    """Stands in for `run_command` until that takes over.

    Ctrl-C and SIGTERM end the process at once, with exit code 130. A library that cannot be loaded,
    for lack of memory, say, ends it with 1, and a working directory that is gone with 2: MKL would
    stop the process there, with words about itself.
    """
    for number in _STOPS:
        signal.signal(number, _end)
    sys.excepthook = _tell
    try:
        os.getcwd()  # noqa: PTH109 - pathlib takes its time to load
    except OSError:
        _say("the working directory was removed. Change to one that is there.")
        os._exit(2)


def after_the_outcome(code: int) -> None:
    """Keeps the exit code of an outcome that is there: Ctrl-C now ends the process with that.

    Python still waits for threads then, and would print a traceback. In somebody else's process
    nothing is changed.
    """
    if sys.excepthook is _tell:
        for number in _STOPS:
            signal.signal(number, lambda *_: os._exit(code))


def loads_a_command() -> bool:
    """Whether this process was started as `python -m rlarcade.VERB` and is still importing it.

    Python says `-m` in the place of the script while it looks for the module.
    """
    return sys.argv[:1] == ["-m"]


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    _say("interrupted.")
    os._exit(130)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted.")
        os._exit(130)
    if os.environ.get(TRACEBACK):
        sys.__excepthook__(kind, error, trace)
    text = ascii(str(error))[1:-1][:300].rstrip(".")  # no letter that a terminal obeys
    _say(
        f"the libraries cannot be loaded: {kind.__name__}: {text}. {TRACEBACK}=1 shows where it "
        "happened."
    )


def _say(text: str) -> None:
    with suppress(OSError):  # nobody takes it
        os.write(2, f"rlarcade: error: {text}\n".encode())
