"""The file of a report."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlarcade.errors import RlarcadeError
from rlarcade.files import write_file


def check_writable(path: Path | None, what: str = "report") -> None:
    """Finds out whether a file, if one is asked for, can be written: before hours go into it.

    Its folder is made; what stands at `path` stays as it is.

    Args:
        path: the file; None if none was asked for.
        what: it is called in the error.

    Raises:
        RlarcadeError: the file cannot be written.
    """
    if path is None:
        return
    with _told(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device, say, which would be replaced
            reason = os.strerror(errno.EISDIR) if path.is_dir() else "it is not a file"
            raise OSError(errno.EISDIR, reason)
        trial = path.with_name(f".{path.name}.writing")  # as `write_file` calls it
        trial.touch()
        trial.unlink()


def write_report(path: Path, html: str) -> None:
    """Writes a report; what stood at `path` is replaced only by a whole one.

    Raises:
        RlarcadeError: the file cannot be written.
    """
    check_writable(path)
    with _told(path, "report"):
        write_file(path, html.encode("utf-8"))


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RlarcadeError(
            f"{what} {path} cannot be written: {error.strerror}. Choose another file."
        ) from error
