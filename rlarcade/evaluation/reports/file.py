"""The file of a report."""

from pathlib import Path

from rlarcade.errors import RlarcadeError
from rlarcade.files import write_file
from rlarcade.outputs import check_output


def check_writable(path: Path | None, what: str = "report") -> None:
    """Finds out whether a file, if one is asked for, can be written: before hours go into it.

    Nothing is left behind, and what stands at `path` stays as it is.

    Args:
        path: the file; None if none was asked for.
        what: it is called in the error.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is not None:
        check_output(path, what)


def write_report(path: Path, html: str) -> None:
    """Writes a report; what stood at `path` is replaced only by a whole one.

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
