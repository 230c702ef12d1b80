"""Copies a run's folder to a machine, and what the training changes there back again.

The copy at home can be resumed at any moment, even while it is being brought up to date: a training
state appears in one step, after the files that belong to it, and an older one is removed only then.
The policy checkpoint of a step comes after its state, as in the run itself: a run cannot be resumed
from checkpoints alone.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rlarcade.files import (
    check_own,
    open_own,
    remove_own,
    write_file,
    write_folder,
    write_synced,
)

STATES, CHECKPOINTS = "state", "checkpoints"
PART = 8_000_000
"""Most bytes of a file that travel at a time."""
_GROWING = re.compile(r"(metrics\.jsonl|commands\.jsonl|tensorboard/[^/]+)")
"""Files to which a run only appends."""
_WHOLE = re.compile(rf"(({STATES}|{CHECKPOINTS})/step-\d+)/[^/]+")
"""Files that appear together, since the run writes their folder in one step."""
_ORDER = ("run.json", "", f"{STATES}/rows", "metrics.jsonl", STATES, CHECKPOINTS, "result.json")
"""What is copied first: the beginnings of names; `""` is for all others."""


class Entry(NamedTuple):
    """A file of a run's folder."""

    path: str
    """Relative to the folder, with slashes."""
    size: int
    """Bytes."""
    inode: int
    changed: int
    """Nanoseconds; another number after any change of the content."""

    @property
    def unit(self) -> str:
        """The folder that appears in one step; for any other file, its own path."""
        whole = _WHOLE.fullmatch(self.path)
        return whole[1] if whole else self.path


Listing = Mapping[str, Entry]
"""The files of a folder, by their paths."""
Fetch = Callable[[str, int, int], bytes]
"""Returns at most so many bytes of a file from a position on."""


def listing(folder: Path) -> Listing:
    """Lists the files of a run that travel: all but its lock, links and unfinished files."""
    found: dict[str, Entry] = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            inside = path.relative_to(folder).as_posix()
            if name.startswith(".") or inside == "lock":
                continue
            try:
                of = path.lstat()
            except FileNotFoundError:  # the run has removed it just now
                continue
            if stat.S_ISREG(of.st_mode):
                found[inside] = Entry(inside, of.st_size, of.st_ino, of.st_mtime_ns)
    return found


def to_resume(folder: Path) -> list[str]:
    """Returns the files that a machine needs to go on with a run.

    They are all but videos and older checkpoints.
    """
    found = listing(folder)
    units = {entry.unit for entry in found.values() if entry.unit.startswith(f"{CHECKPOINTS}/")}
    left = {*sorted(units)[:-1]}
    return [
        path
        for path, entry in found.items()
        if entry.unit not in left and not path.startswith("videos/")
    ]


def parts_of(path: Path) -> Iterator[bytes]:
    """Yields a file's content in parts that may travel; at least one, which may be empty."""
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        yield file.read(PART)
        while part := file.read(PART):
            yield part


def part_of(folder: Path, path: str, position: int, length: int) -> bytes:
    """Reads a part of a file in a run's folder.

    Raises:
        OSError: it is not there any more, or is a link.
    """
    with os.fdopen(open_own(_inside(folder, path), os.O_RDONLY), "rb") as file:
        file.seek(position)
        return file.read(length)


def _inside(folder: Path, path: str) -> Path:
    """Returns the path of a file in a folder.

    Raises:
        ValueError: it would lie outside.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts:
        raise ValueError(f"{path!r} does not lie in a run's folder")
    return folder / pure


class Mirror:
    """The copy of a run's folder at home, brought up to date with the one on a machine."""

    def __init__(self, folder: Path, known: Listing) -> None:
        """Changes nothing.

        Args:
            folder: the copy.
            known: files on the machine that the copy has as they are.
        """
        self._folder = folder
        self._known = dict(known)

    def update(self, there: Listing, fetch: Fetch) -> None:
        """Fetches what is new or different, and removes what the run has removed.

        Args:
            there: the files on the machine now.
            fetch: reads one of them. If one is gone meanwhile, a later update fetches the rest.

        Raises:
            OSError: a file is not on the machine any more, or the copy cannot be written.
        """
        changed = [entry for path, entry in there.items() if self._known.get(path) != entry]
        units = {entry.unit for entry in changed}
        entries = sorted(
            (entry for entry in there.values() if entry.unit in units),
            key=lambda entry: (_rank(entry.path), entry.unit, entry.path),
        )
        for unit, group in groupby(entries, key=lambda entry: entry.unit):
            files = list(group)
            if unit == files[0].path:
                self._fetch_file(files[0], fetch)
            else:
                self._fetch_folder(unit, files, fetch)
            self._known |= {entry.path: entry for entry in files}
        self._remove_all_but(there)

    def _fetch_file(self, entry: Entry, fetch: Fetch) -> None:
        path, before = _inside(self._folder, entry.path), self._known.get(entry.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_own(path.parent)
        grown = (
            before is not None
            and _GROWING.fullmatch(entry.path)
            and before.inode == entry.inode
            and before.size <= entry.size
            and path.is_file()
            and path.lstat().st_size == before.size
        )
        if not grown or before is None:
            write_file(path, _fetched(entry, fetch))
            return
        with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            for part in _fetched(entry, fetch, before.size):
                file.write(part)

    def _fetch_folder(self, unit: str, files: list[Entry], fetch: Fetch) -> None:
        folder = _inside(self._folder, unit)
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_own(folder.parent)
        write_folder(
            folder, {PurePosixPath(e.path).name: b"".join(_fetched(e, fetch)) for e in files}
        )

    def _remove_all_but(self, there: Listing) -> None:
        """Removes states, their rows and an outcome that are gone on the machine."""
        kept = {entry.unit for entry in there.values()}
        for path, entry in listing(self._folder).items():
            if entry.unit not in kept and (path.startswith(f"{STATES}/") or path == "result.json"):
                remove_own(_inside(self._folder, entry.unit))
        self._known = {path: entry for path, entry in self._known.items() if path in there}


def _rank(path: str) -> int:
    fitting = [place for place, start in enumerate(_ORDER) if path.startswith(start)]
    return max(fitting, key=lambda place: len(_ORDER[place]))


def _fetched(entry: Entry, fetch: Fetch, position: int = 0) -> Iterator[bytes]:
    """Yields the content of a file up to the size that it was listed with.

    Raises:
        OSError: the file has become shorter.
    """
    while position < entry.size:
        part = fetch(entry.path, position, min(PART, entry.size - position))
        if not part:
            raise FileNotFoundError(2, "it became shorter while it was fetched", entry.path)
        position += len(part)
        yield part


def received(folder: Path, path: str, data: bytes, *, first: bool) -> None:
    """Writes a part of a file that has travelled, into a folder that nobody else uses yet."""
    place = _inside(folder, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if first:
        write_synced(place, data)
        return
    with os.fdopen(open_own(place, os.O_WRONLY | os.O_APPEND), "ab") as file:
        file.write(data)
