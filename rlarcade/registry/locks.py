"""Locks between processes: waiting for one ends after a time and names the holder."""

import os
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlarcade.errors import UnusableRegistryError
from rlarcade.locks import try_lock

_PROC = Path("/proc")  # Linux only; on other systems the holder is unknown
_SHOWN = 3  # processes
_PAUSE = 0.05  # seconds between attempts


@contextmanager
def only_one(folder: Path, seconds: float) -> Iterator[None]:
    """Lets only one process at a time into the block. The kernel frees a dead process's lock.

    Args:
        folder: the folder to lock.
        seconds: how long to wait for the lock.

    Raises:
        OSError: the folder cannot be opened.
        UnusableRegistryError: another process held the lock all the time; the message names it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + seconds
        while not try_lock(descriptor):
            if time.monotonic() >= until:
                raise UnusableRegistryError(
                    f"registry {folder} is in use by {holder_of(folder)}, for longer than "
                    f"{seconds:g} seconds. Try again when it has finished, or end it."
                )
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


class FolderLock:
    """The lock of a folder, asked for again and again. The kernel frees a dead process's lock."""

    def __init__(self, folder: Path) -> None:
        """Takes no lock yet."""
        self._folder = folder
        self._descriptor: int | None = None
        with suppress(OSError):  # there is no such folder, so nobody can hold its lock
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)

    def holder(self) -> str | None:
        """See `database.Alone`."""
        if self._descriptor is None or try_lock(self._descriptor):
            return None
        return holder_of(self._folder)

    def close(self) -> None:
        """See `database.Alone`."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder_of(*paths: Path) -> str:
    """Describes the processes that hold a lock on any of some files or folders.

    If the kernel does not tell (in some containers), the processes that have one of them open.

    Args:
        *paths: files or folders; any of them may be missing.
    """
    wanted = set()
    for path in paths:
        with suppress(OSError):
            wanted.add(_identity(path))
    others = sorted((_holders(wanted) or _openers(wanted)) - {os.getpid()})
    if not others:
        return "another process"
    return f"process {' or '.join(map(str, others[:_SHOWN]))}"


_Identity = tuple[int, int]
"""Device and inode."""


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return status.st_dev, status.st_ino


def _holders(wanted: Container[_Identity]) -> set[int]:
    """Returns process ids from /proc/locks: `1: FLOCK ADVISORY WRITE 4711 00:2d:271 0 EOF`."""
    try:
        lines = (_PROC / "locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        fields = line.split()
        # "->" marks a process that waits for a lock.
        if len(fields) < 6 or fields[1] == "->" or fields[3] != "WRITE":
            continue
        major, minor, inode = fields[5].split(":")
        if (os.makedev(int(major, 16), int(minor, 16)), int(inode)) in wanted:
            found.add(int(fields[4]))
    return found


def _openers(wanted: Container[_Identity]) -> set[int]:
    found = set()
    for place in _PROC.glob("[0-9]*/fd/*"):  # other users' processes are not readable
        with suppress(OSError):
            if _identity(place) in wanted:
                found.add(int(place.parts[-3]))
    return found
