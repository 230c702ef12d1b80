"""Checks before a command's work that its output files can be written."""

import argparse
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from rlarcade.errors import ConfigError
from rlarcade.files import unfinished
from rlarcade.text import printable, shown_path

KINDS = {
    "--report": (".html", ".htm"),
    "--video": (".mp4",),
    "--picture": (".png",),
    "--output": (".npz",),
    "--onnx": (".onnx",),
}
"""Allowed endings of outputs that have only one format; other outputs may have any name."""

_TRIES = 10


def check_outputs(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path] = {}) -> None:
    """Checks that a command can write its outputs, before it works for hours.

    The check leaves no files behind and changes no existing ones. It never hangs, since it does not
    open a FIFO or a device.

    Args:
        outputs: each file by its flag, such as `--json`; None: the flag was not given.
        inputs: files that the command reads, by their names in messages. No output may replace an
            input.

    Raises:
        ConfigError: a file has an unsupported ending, is given twice, is an input, or cannot be
            written.
    """
    taken: dict[str, str] = {os.path.realpath(path): name for name, path in inputs.items()}
    for flag, path in outputs.items():
        if path is None:
            continue
        check_output(path, flag, KINDS.get(flag, ()))
        place = os.path.realpath(path)
        if place in taken:
            raise ConfigError(
                f"{taken[place]} and {flag} are the same file, {path}: one would overwrite the "
                "other. Choose another file."
            )
        taken[place] = flag


def check_output(path: Path, what: str, endings: tuple[str, ...] = ()) -> None:
    """Checks that one file can be written, as `check_outputs` does.

    Args:
        path: the file.
        what: its name in the error message.
        endings: allowed endings of its name; empty: any.

    Raises:
        ConfigError: the file has another ending, or cannot be written.
    """
    try:
        reason = _obstacle(path) or _other_ending(path, endings) or _trial(path)
    except ValueError as error:  # a NUL character in a path
        reason = str(error)
    if reason is not None:
        raise ConfigError(
            f"{what} {shown_path(path)} cannot be written: {reason}. Choose another file."
        )


def output_file(text: str) -> Path:
    """Checks an output file on a script's command line: `type=output_file` for argparse.

    Raises:
        argparse.ArgumentTypeError: the file cannot be written, or its folder does not exist.
    """
    path = Path(text)
    try:
        check_output(path, "the file")
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent} does not exist. Create that folder first.")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(printable(error)) from error
    return path


def _other_ending(path: Path, endings: tuple[str, ...]) -> str | None:
    if not endings or path.suffix.lower() in endings:
        return None
    return f"{path} must end in {' or '.join(endings)}, since no other format is supported"


def _obstacle(path: Path) -> str | None:
    """Returns why a file cannot replace what exists at the path; None if it can."""
    try:
        if path.is_dir():
            return os.strerror(errno.EISDIR)
        if path.exists() and not path.is_file():  # a FIFO, a device or a socket
            return "it is not a file"
        if path.exists() and not os.access(path, os.W_OK):
            return os.strerror(errno.EACCES)
    except OSError as error:  # e.g. a parent folder may not be read, or the name is too long
        return error.strerror
    return None


def _trial(path: Path) -> str | None:
    """Writes an empty file beside the path, then removes it and the folders created for it.

    Returns:
        Why this failed; None if it worked.
    """
    for _ in range(_TRIES):
        made: list[Path] = []
        try:
            _make_folders(path.parent, made)
            trial = unfinished(path)
            os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
            trial.unlink(missing_ok=True)
            return None
        except FileNotFoundError as error:
            # another process may have tried the same path and removed its folders just now
            reason: str | None = error.strerror
        except OSError as error:
            return error.strerror
        finally:
            for folder in reversed(made):
                try:
                    folder.rmdir()
                except OSError:  # another process uses it by now
                    break
    return reason


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Creates a folder and its missing parents; appends each created one to `made`."""
    if folder.is_dir():
        return
    _make_folders(folder.parent, made)
    try:
        folder.mkdir()
    except FileExistsError:  # `new/..`, or another process was faster
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    else:
        made.append(folder)
