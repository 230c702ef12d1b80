"""How a command runs: any exception becomes one line on stderr and an exit code."""

import _thread
import atexit
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rlarcade.command_line import HelpShown
from rlarcade.console.exits import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK
from rlarcade.console.saying import deliver, say_error, say_warning
from rlarcade.errors import RlarcadeError
from rlarcade.interrupts import TRACEBACK, after_the_outcome
from rlarcade.text import said

_SOON = 0.02  # seconds
_LONGEST_UNFORESEEN = 300  # characters of an error that rlarcade did not expect


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Runs a command; turns any exception into one line on stderr and an exit code.

    Only the command's own result gives the exit code of a result (0, 3, 4 or 5). A command that is
    stopped before its result exits with 1, 2 or 130. Output that cannot be written does not change
    the exit code. SIGTERM is treated like Ctrl-C.
    """
    _open_standard_streams()
    # At exit Python looks for garbage among all objects, which takes half a second with those of
    # torch. It does not look at frozen ones.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
    before = threading.excepthook, warnings.showwarning, sys.unraisablehook
    threading.excepthook = partial(_tell_unless_told, before[0])
    sys.unraisablehook = partial(_interrupt_again, before[2])
    warnings.showwarning = _say_library_warning
    try:
        code = _code_of(command, sys.argv[1:] if argv is None else argv)
        after_the_outcome(code)
        return code
    finally:
        threading.excepthook, warnings.showwarning, sys.unraisablehook = before
        # Flush here. If Python's own flush at exit failed, the exit code would be 120.
        for stream in (sys.stdout, sys.stderr):
            deliver(stream, "")


def _code_of(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    try:
        return command(argv)
    except HelpShown:
        return EXIT_OK
    except BaseException as error:
        if os.environ.get(TRACEBACK):
            deliver(sys.stderr, "".join(traceback.format_exception(error)))
        code, line = _said_of(error)
        say_error(line)
        return code


def _said_of(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the error line for an exception that ended a command."""
    if isinstance(error, RlarcadeError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted."
    if isinstance(error, SystemExit):  # from other code; its exit code 0 would mean "promoted"
        return EXIT_ERROR, f"something ended the process (exit {error.code}) before the result."
    return EXIT_ERROR, _unforeseen(error)


def _unforeseen(error: BaseException) -> str:
    """Returns one line for an error that is not one of rlarcade's own."""
    if isinstance(error, MemoryError):
        line = "out of memory"
    elif isinstance(error, OSError):
        where = f": {error.filename}" if error.filename is not None else ""
        line = f"{error.strerror or error or type(error).__name__}{where}"
    else:
        text = " ".join(said(error).split())
        text = text if len(text) <= _LONGEST_UNFORESEEN else text[:_LONGEST_UNFORESEEN] + " …"
        line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{line.rstrip('.')}. {TRACEBACK}=1 shows where it happened."


def _open_standard_streams() -> None:
    """Opens standard streams that the caller has closed.

    Otherwise a file of ours could get their descriptors, and output would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # Python's sign for a closed stream
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def _tell_unless_told(tell: Callable[[Any], object], what: threading.ExceptHookArgs) -> None:
    """Ignores an OSError of TensorBoard's thread; the next write of a figure reports it."""
    told = issubclass(what.exc_type, OSError) and _is_of("tensorboard", what.exc_traceback)
    if not told:
        tell(what)


def _interrupt_again(tell: Callable[[Any], object], what: "sys.UnraisableHookArgs") -> None:
    """Repeats a Ctrl-C that would be lost because it came during a destructor or callback."""
    if not issubclass(what.exc_type, KeyboardInterrupt):
        tell(what)
        return
    again = threading.Timer(_SOON, _thread.interrupt_main)
    again.daemon = True
    again.start()


def _is_of(package: str, trace: TracebackType | None) -> bool:
    """Whether a traceback contains a function of a package."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(trace))
    return any(name.partition(".")[0] == package for name in modules)


def _say_library_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Shows a library's warning without its source line, which does not help a user."""
    del category, filename, lineno, file, line
    say_warning(str(message))
