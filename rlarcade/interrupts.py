"""What a command's process needs before its libraries load.

Interrupts and errors meanwhile are one line, no traceback. Threads of PyTorch that wait sleep.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType, TracebackType

TRACEBACK = "RLARCADE_TRACEBACK"
"""Environment variable that shows the traceback of an unexpected error."""

_STOPS = (signal.SIGINT, signal.SIGTERM)


def until_ready() -> None:
    """Handles interrupts and errors until `run_command` takes over, and prepares OpenMP.

    Ctrl-C and SIGTERM end the process at once, with exit code 130. If a library cannot be loaded,
    for example for lack of memory, the exit code is 1. If the working directory was removed, it is
    2; otherwise MKL would end the process with an unclear message of its own.
    """
    for number in _STOPS:
        signal.signal(number, _end)
    sys.excepthook = _tell
    # Threads of OpenMP wait for each other after every operation. By default they stay awake for
    # 300,000 turns, which takes the core from the thread that they wait for as soon as another
    # process runs. After 2,000 turns (microseconds) they sleep. Figures: docs/training.md.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        os.getcwd()  # noqa: PTH109 - importing pathlib takes time
    except OSError:
        _say("the working directory was removed. Change to one that exists.")
        os._exit(2)


def after_the_outcome(code: int) -> None:
    """Keeps the exit code of a finished command: from now on Ctrl-C ends the process with it.

    Otherwise a Ctrl-C while Python waits for threads at exit would print a traceback. If the
    process was not started as a command of rlarcade, nothing changes.
    """
    if sys.excepthook is _tell:
        for number in _STOPS:
            signal.signal(number, lambda *_: os._exit(code))


def loads_a_command() -> bool:
    """Whether this process was started as `python -m rlarcade.VERB` and is still importing it.

    While Python looks for the module, sys.argv[0] is `-m`.
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
    text = ascii(str(error))[1:-1][:300].rstrip(".")  # no control characters for the terminal
    _say(
        f"the libraries cannot be loaded: {kind.__name__}: {text}. {TRACEBACK}=1 shows where it "
        "happened."
    )


def _say(text: str) -> None:
    with suppress(OSError):  # stderr is closed
        os.write(2, f"rlarcade: error: {text}\n".encode())
