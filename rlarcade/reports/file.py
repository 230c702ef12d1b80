"""Writes the file of a report."""

from pathlib import Path

from rlarcade.errors import RlarcadeError
from rlarcade.files import write_file
from rlarcade.outputs import check_output


def check_writable(path: Path | None, what: str = "report") -> None:
    """Checks that a file can be written, before hours of play.

    The check leaves no file behind and does not change an existing file.

    Args:
        path: the file; None if the user asked for none.
        what: name of the file in the error.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is not None:
        check_output(path, what)


def write_report(path: Path, html: str) -> None:
    """Writes a report. It replaces an existing file only when it is complete.

    Raises:
        RlarcadeError: the file cannot be written.
    """
    check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, html.encode("utf-8"))
    except OSError as error:
        raise RlarcadeError(
            f"report {path} cannot be written: {error.strerror}. Choose another file."
        ) from error
