"""What a command writes: lines of its result, errors, warnings, and `--json FILE`."""

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel

from rlarcade.errors import RlarcadeError
from rlarcade.files import write_file
from rlarcade.text import error_line, printable

_PLAINER = str.maketrans({"–": "-", "…": "...", "×": "x", "→": "->", "ε": "e", "α": "a", "≥": ">="})
"""Replacements on a terminal that has only ASCII."""


def say(line: str = "") -> None:
    """Prints one line of the result to stdout and flushes. Control characters are escaped."""
    deliver(sys.stdout, printable(line) + "\n")


def say_lines(lines: Iterable[str]) -> None:
    """Prints lines of the result to stdout."""
    for line in lines:
        say(line)


def say_error(line: str) -> None:
    """Prints an error to stderr, in one line."""
    deliver(sys.stderr, f"rlarcade: error: {error_line(line)}\n")


def say_warning(line: str) -> None:
    """Prints a warning to stderr, in one line."""
    deliver(sys.stderr, f"rlarcade: warning: {error_line(line)}\n")


def deliver(stream: TextIO | None, text: str) -> None:
    """Writes text and flushes. Errors such as a closed pipe or a full disk are ignored.

    The reader of a command's output must not influence its result.
    """
    if stream is None:
        return
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:  # e.g. an ASCII terminal
        text = text.translate(_PLAINER).encode("ascii", "backslashreplace").decode("ascii")
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):  # ValueError: the stream is closed
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Redirects a stream to /dev/null, with the text in its buffer and all later text."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is an open terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def write_json(path: Path | None, document: BaseModel | dict[str, Any]) -> None:
    """Writes a document to `--json FILE`, if that flag was given.

    Raises:
        RlarcadeError: the file cannot be written.
    """
    if path is None:
        return
    data = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(data, indent=2) + "\n").encode())
    except OSError as error:
        raise RlarcadeError(
            f"--json {path} cannot be written: {error.strerror}. Choose another file."
        ) from error
