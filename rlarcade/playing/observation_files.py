"""Reads observations from NumPy's files, which may come from a stranger, a batch at a time.

`numpy.load` allocates as much memory as a file's header claims. Here a claim is compared with the
file first, no pickle is read, and only one batch is in memory.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rlarcade.errors import ConfigError
from rlarcade.files import open_regular
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.text import counted, printable, quoted, shown_path

ARRAY = "observation"
"""Name of the array in a `.npz` file."""
ENDINGS = (".npz", ".npy")

_SHAPE = (STACK, SCREEN, SCREEN)
_BYTES = math.prod(_SHAPE)
_MOST = 10_000_000  # observations; their actions and values stay in memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_WANTED = f"Save observations as uint8 (N, {STACK}, {SCREEN}, {SCREEN}), newest frame last"
_HOW = f"{_WANTED}: numpy.savez(FILE, {ARRAY}=array), or numpy.save(FILE, array)."


@dataclass(frozen=True)
class ObservationFile:
    """An open file of observations."""

    path: Path
    count: int
    """Number of observations, N."""
    stream: BinaryIO
    """Stands at the first observation."""

    def batches(self, rows: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the observations in order, uint8 (B, 4, 84, 84) with B ≤ `rows`. Can run once.

        Raises:
            ConfigError: the file is damaged.
        """
        for first in range(0, self.count, rows):
            size = min(rows, self.count - first) * _BYTES
            try:
                data = self.stream.read(size)
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise _unreadable(self.path, f"it is damaged ({error})") from error
            if len(data) < size:
                last = first + len(data) // _BYTES
                raise _unreadable(self.path, f"it ends in observation {last:,} of {self.count:,}")
            # a bytearray, because torch warns of arrays that cannot be written
            yield np.frombuffer(bytearray(data), dtype=np.uint8).reshape(-1, *_SHAPE)


@contextmanager
def open_observations(path: Path) -> Iterator[ObservationFile]:
    """Opens the observations of a `.npy` file, or the array `observation` of a `.npz` file.

    Args:
        path: the file.

    Raises:
        ConfigError: there is no such file, it holds something else or nothing, it is larger or
            smaller than its header says, or has more than ten million observations.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(path))
            if path.suffix.lower() == ".npz":
                stream, size = _member(path, file, stack)
            else:
                stream, size = file, os.fstat(file.fileno()).st_size
            count = _count(path, stream, size)
        except OSError as error:
            raise _unreadable(path, str(error.strerror or error)) from error
        yield ObservationFile(path, count, stream)


def _member(path: Path, file: BinaryIO, stack: ExitStack) -> tuple[BinaryIO, int]:
    """Opens the array in an archive; returns its stream and its uncompressed bytes."""
    member = f"{ARRAY}.npy"
    with _reading(path):
        archive = stack.enter_context(zipfile.ZipFile(file))
    names = archive.namelist()
    if member not in names:
        found = ", ".join(quoted(name.removesuffix(".npy"), 20) for name in names[:5])
        raise _unreadable(
            path, f"it has no array {ARRAY!r}, only {found or 'nothing'}", remedy=_HOW
        )
    info = archive.getinfo(member)
    if info.compress_type not in _METHODS:  # numpy has no others; LZMA can ask for gigabytes
        raise _unreadable(path, "it is compressed in a way that numpy does not use")
    with _reading(path):
        stream = stack.enter_context(archive.open(info))
    return cast(BinaryIO, stream), info.file_size


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what `zipfile` raises into an error that names the file."""
    try:
        yield
    # RuntimeError: it is encrypted; NotImplementedError: a later version of the format
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
        raise _unreadable(path, f"it is no .npz file ({error})", remedy=_HOW) from error


def _count(path: Path, stream: BinaryIO, size: int) -> int:
    """Reads NumPy's header, compares it with the bytes that follow; returns the observations."""
    try:
        version = npy.read_magic(stream)
        if version != (1, 0):  # later ones are for arrays with many fields
            raise ValueError(f"version {version[0]}.{version[1]} of NumPy's format")
        shape, in_columns, dtype = npy.read_array_header_1_0(stream)
    except Exception as error:  # NumPy's parser of a stranger's text may raise any error
        what = printable(str(error) or type(error).__name__, 100).rstrip(".")
        raise _unreadable(path, f"it holds no array of numbers ({what})", remedy=_HOW) from error
    if dtype != np.uint8 or shape[1:] != _SHAPE:
        raise _unreadable(path, f"it holds {dtype} {quoted(shape)}", remedy=_HOW)
    if in_columns:
        raise _unreadable(
            path, "its array is in Fortran order: save numpy.ascontiguousarray(array)"
        )
    if not 1 <= shape[0] <= _MOST:
        many = counted(shape[0], "observation")
        raise _unreadable(path, f"it says that it holds {many}; 1 to {_MOST:,} are allowed")
    rest = size - stream.tell()
    if rest != shape[0] * _BYTES:
        raise _unreadable(
            path,
            f"{counted(shape[0], 'observation')} take {shape[0] * _BYTES:,} bytes, but it holds "
            f"{rest:,}. It is cut off or damaged",
        )
    return int(shape[0])


def _unreadable(
    path: Path, why: str, remedy: str = "Save it again, or choose another."
) -> ConfigError:
    return ConfigError(f"cannot read observations from {shown_path(path)}: {why}. {remedy}")
