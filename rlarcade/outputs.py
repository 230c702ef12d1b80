"""The files that a command is to write: what cannot be written is told before the work is done."""

import argparse
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from rlarcade.errors import ConfigError
from rlarcade.files import unfinished
from rlarcade.text import printable, shown_path

KINDS = {"--report": (".html", ".htm"), "--video": (".mp4",), "--picture": (".png",)}
"""Endings of the outputs that are made in one format only; the others may be called anything."""

_TRIES = 10


def check_outputs(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path] = {}) -> None:
    """Finds out whether the outputs of a command can be written: before hours go into them.

    Nothing is left behind, and what stands at a path stays as it is. Nothing that could wait, such
    as a FIFO, is opened.

    Args:
        outputs: each file by its flag, such as `--json`; None if it was not asked for.
        inputs: files that the command reads, by what it calls them. No output may replace one.

    Raises:
        ConfigError: a file has an ending whose format cannot be made, is named twice or is an
            input, or cannot be written.
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
    """Finds out whether one file can be written, as `check_outputs` does.

    Args:
        path: the file.
        what: it is called in the error.
        endings: that its name may have; none for any.

    Raises:
        ConfigError: it has another ending, or cannot be written.
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
    """Reads a file to write from a script's command line: `type=output_file` for argparse.

    Raises:
        argparse.ArgumentTypeError: it cannot be written; scripts make no folders.
    """
    path = Path(text)
    try:
        check_output(path, "the file")
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is not there. Make that folder first.")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(printable(error)) from error
    return path


def _other_ending(path: Path, endings: tuple[str, ...]) -> str | None:
    if not endings or path.suffix.lower() in endings:
        return None
    return f"{path} must end in {' or '.join(endings)}, since no other format can be made"


def _obstacle(path: Path) -> str | None:
    """What stands at the path, if a file must not replace it."""
    try:
        if path.is_dir():
            return os.strerror(errno.EISDIR)
        if path.exists() and not path.is_file():  # a FIFO, a device or a socket
            return "it is not a file"
        if path.exists() and not os.access(path, os.W_OK):
            return os.strerror(errno.EACCES)
    except OSError as error:  # a folder on the way that may not be looked into, a name too long
        return error.strerror
    return None


def _trial(path: Path) -> str | None:
    """Writes an empty file beside the path and removes it, with the folders that it needed."""
    for _ in range(_TRIES):
        made: list[Path] = []
        try:
            _make_folders(path.parent, made)
            trial = unfinished(path)
            os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
            trial.unlink(missing_ok=True)
            return None
        except FileNotFoundError as error:
            # another process may have tried the same path, and removed its folders meanwhile
            reason: str | None = error.strerror
        except OSError as error:
            return error.strerror
        finally:
            for folder in reversed(made):
                try:
                    folder.rmdir()
                except OSError:  # somebody else uses it by now
                    break
    return reason


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Makes a folder and what is missing above it; `made` grows by what was made."""
    if folder.is_dir():
        return
    _make_folders(folder.parent, made)
    try:
        folder.mkdir()
    except FileExistsError:  # `new/..`, or another process was quicker
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    else:
        made.append(folder)
