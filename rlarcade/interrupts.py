"""A Ctrl-C while a command still loads its libraries: one line, not their traceback."""

import os
import signal
import sys
from types import FrameType


def until_ready() -> None:
    """Lets Ctrl-C end the process at once, with exit code 130, until `run_command` takes over."""
    signal.signal(signal.SIGINT, _end)


def loads_a_command() -> bool:
    """Whether this process was started as `python -m rlarcade.VERB` and is still importing it.

    Python says `-m` in the place of the script while it looks for the module.
    """
    return sys.argv[:1] == ["-m"]


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    os.write(2, b"rlarcade: error: interrupted.\n")
    os._exit(130)
