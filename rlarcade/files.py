"""Safe reading of files from outside, and atomic writing of our own.

A file that a user names may be anything: a FIFO on which reading hangs, a device, a folder, a
sparse file of a terabyte. It is read only if it is a regular file within a size limit. Our own
folders may have been copied from a stranger. Links in them are not followed, because writing
through a link would destroy a file somewhere else.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

UNFINISHED = r"(\.[0-9a-f]{8})?\.writing"
"""Pattern of the ending of unfinished files' names; rlarcade 0.1.0 wrote no digits."""
LARGEST_TEXT = 10_000_000
"""Most bytes of a settings file, manifest or state document; real ones have a few thousand."""

_LINK = "it is a link, and links in such a folder are not followed: remove it"


class UnfitFileError(OSError):
    """The file is not a regular one, is too large, or is a link in one of our own folders.

    As in the system's errors, `strerror` says which.
    """


def open_regular(path: str | Path, limit: int | None = None) -> BinaryIO:
    """Opens a file from outside for reading; never hangs, not even on a FIFO.

    Args:
        path: the file; a link is followed, since the user named it.
        limit: most bytes that it may have.

    Raises:
        OSError: it cannot be opened.
        UnfitFileError: it is a FIFO, a device, a folder or a socket, or is larger than `limit`.
    """
    return os.fdopen(_opened(path, os.O_RDONLY, limit), "rb")


def read_bounded(path: str | Path, limit: int = LARGEST_TEXT) -> bytes:
    """Reads a whole file from outside. Args and errors are those of `open_regular`."""
    with open_regular(path, limit) as file:
        return _whole(file, path)


def read_bounded_text(path: str | Path, limit: int = LARGEST_TEXT) -> str:
    """Reads a whole text file from outside.

    Raises:
        OSError: see `open_regular`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bounded(path, limit).decode("utf-8")


def _opened(path: str | Path, flags: int, limit: int | None = None) -> int:
    """Opens a regular file within a size limit; returns its descriptor."""
    # Without O_NONBLOCK, opening a FIFO waits for a writer.
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    except ValueError as error:
        raise _unfit("its name holds a NUL character", path) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _unfit(f"it is {_kind(found.st_mode)}, not a regular file", path)
        if limit is not None and found.st_size > limit:
            raise _unfit(
                f"it has {found.st_size:,} bytes, more than the {limit:,} that such a file may "
                "have",
                path,
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _whole(file: BinaryIO, path: str | Path) -> bytes:
    size = os.fstat(file.fileno()).st_size
    data = file.read(size + 1)
    if len(data) > size:
        raise _unfit("it grew while it was read", path)
    return data


def _unfit(why: str, path: str | Path) -> UnfitFileError:
    return UnfitFileError(errno.EINVAL, why, str(path))


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "something else"


# Our own folders and files


def own_folder(path: Path) -> Path:
    """Creates one of our own folders if it does not exist; returns its path.

    Raises:
        OSError: it cannot be created, or is not a folder.
        UnfitFileError: it is a link.
    """
    path.mkdir(parents=True, exist_ok=True)
    check_own(path)
    return path


def check_own(path: Path) -> None:
    """Requires that a path in one of our own folders is not a link. It need not exist.

    Raises:
        UnfitFileError: it is a link.
    """
    if path.is_symlink():
        raise _unfit(_LINK, path)


def open_own(path: Path, flags: int, limit: int | None = None) -> int:
    """Opens a file in one of our own folders, creates it if `flags` say so; returns its descriptor.

    Args:
        path: the file.
        flags: of `os.open`.
        limit: most bytes that it may have.

    Raises:
        OSError: it cannot be opened.
        UnfitFileError: it is a link, a FIFO, a device or a folder, or is larger than `limit`.
    """
    try:
        return _opened(path, flags | os.O_NOFOLLOW, limit)
    except OSError as error:
        # O_NOFOLLOW refuses the link. A check before opening would leave time to create one.
        if error.errno == errno.ELOOP and path.is_symlink():
            raise _unfit(_LINK, path) from error
        raise


def read_own(path: Path, limit: int = LARGEST_TEXT) -> bytes:
    """Reads a whole file in one of our own folders.

    Raises:
        OSError: it cannot be read.
        UnfitFileError: it is a link, not a regular file, or larger than `limit`.
    """
    with os.fdopen(open_own(path, os.O_RDONLY, limit), "rb") as file:
        return _whole(file, path)


def remove_own(path: Path) -> None:
    """Removes a file, a folder with its content, or a link (not its target), if it exists.

    Raises:
        OSError: it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder of files, which appears under its final name only when it is complete.

    After a kill at any moment, a new folder is complete or absent. If a folder is replaced, it is
    absent between two renames, because a rename cannot replace a folder that is not empty. So
    callers keep something older to go back to, as the training states do, or can write it again.

    Raises:
        OSError: the disk is full or cannot be written; the temporary folder is removed.
    """
    temporary = path.with_name(f".{path.name}.writing")
    remove_own(temporary)
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_synced(temporary / name, data)
        sync_folder(temporary)
        if path.is_symlink() or path.exists():
            old = path.with_name(f".{path.name}.old")
            remove_own(old)
            path.rename(old)
            temporary.rename(path)
            remove_own(old)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes or replaces a file in one step. Data may come in parts.

    If several processes write at once, the last one's file remains, complete.

    Raises:
        OSError: the disk is full or cannot be written; the old file stays.
    """
    temporary = unfinished(path)
    try:
        write_synced(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:  # the iterable of the parts may raise any exception
        temporary.unlink(missing_ok=True)
        raise


def unfinished(path: Path) -> Path:
    """Returns the name of a temporary file beside `path`, different for each writer.

    The name is a dot, the file's name and `UNFINISHED`. Only a kill leaves such a file behind.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")


def write_synced(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes a new file, whole or part by part, and waits until it is on the disk.

    Raises:
        OSError: the file exists already, or the disk is full or cannot be written.
    """
    # "x" follows no link, which somebody who knows the name could have created.
    with path.open("xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
