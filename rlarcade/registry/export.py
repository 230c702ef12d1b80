"""A registry as one file: a plain tar of the database and the blobs, which `tar -t` can list.

The file may come from a stranger. So the reader accepts only what `write` writes: regular files
with two patterns of names, in one order, each with exactly the header that `write` gives it. It
refuses links, folders, devices, extensions of the format and names outside the folder.
"""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.files import open_regular, sync_folder
from rlarcade.registry import verification
from rlarcade.registry.blobs import LARGEST as LARGEST_BLOB
from rlarcade.registry.blobs import Blobs, DamagedBlobError, FolderBlobs
from rlarcade.registry.database import Database
from rlarcade.registry.sqlite import DATABASE
from rlarcade.registry.sqlite import LARGEST as LARGEST_DATABASE
from rlarcade.registry.store import open_database
from rlarcade.text import quoted

_BLOCK = 512
_CHUNK = 1 << 20
_LARGEST = 8**11 - 1  # bytes of a member; the header has eleven octal digits for it
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/((?:\1)[0-9a-f]{62})")


def write(path: Path, database: Database, blobs: Blobs) -> None:
    """Writes a registry into one file. A failure leaves no file under that name.

    Raises:
        RegistryError: the file exists already or cannot be written, or the database cannot be read.
    """
    if os.path.lexists(path):
        raise _taken(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    copy = temporary.with_name(f"{temporary.name}.sqlite")
    try:
        database.copy_to(copy)  # before the blobs: all blobs that it names exist already
        with temporary.open("xb") as file:
            with copy.open("rb") as source:
                _add(file, DATABASE, source, copy.stat().st_size)
            for digest in blobs.digests():
                _add_blob(file, blobs, digest)
            file.write(bytes(2 * _BLOCK))
            file.flush()
            os.fsync(file.fileno())
        _named(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UnusableRegistryError(
            f"export {path} cannot be written: {error.strerror}. Free some space, or choose "
            "another place."
        ) from error
    finally:
        for left in (temporary, copy):
            with suppress(OSError):
                left.unlink()


def _named(temporary: Path, path: Path) -> None:
    """Gives the export its name, and replaces no file that another command wrote meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise _taken(path) from None
        temporary.rename(path)


def _taken(path: Path) -> RegistryError:
    return RegistryError(f"{path} exists already. Choose another name for the export.")


def _add_blob(file: IO[bytes], blobs: Blobs, digest: str) -> None:
    try:
        data = blobs.get(digest)
    except DamagedBlobError:
        return  # its version is marked broken
    name = f"blobs/sha256/{digest[:2]}/{digest}"
    file.write(_header(name, len(data)))
    file.write(data + bytes(-len(data) % _BLOCK))


def _add(file: IO[bytes], name: str, source: IO[bytes], size: int) -> None:
    file.write(_header(name, size))
    shutil.copyfileobj(source, file, _CHUNK)
    file.write(bytes(-size % _BLOCK))


def _header(name: str, size: int) -> bytes:
    """Returns the only valid header (POSIX.1-1988 ustar) of a member with this name and size."""
    assert size <= _LARGEST, "no network is that large"
    before = b"".join(
        (
            name.encode().ljust(100, b"\0"),
            b"0000444\0" + 2 * b"0000000\0",  # mode, user, group
            b"%011o\0" % size,
            b"00000000000\0",  # time
        )
    )
    after = b"".join(
        (
            b"0" + bytes(100),  # a regular file, no target of a link
            b"ustar\0" + b"00",
            bytes(64),  # names of user and group
            2 * b"0000000\0",  # device
            bytes(155 + 12),
        )
    )
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return before + b"%06o\0 " % checksum + after


def import_(file: Path, folder: Path) -> None:
    """Imports an export. The folder appears under its name after everything was checked.

    Raises:
        RegistryError: the file is not an export, was altered or is hostile; or the folder is in use
            or cannot be written.
    """
    with unpacked(file, folder) as temporary:
        try:
            with (
                closing(open_database(temporary, create=False)) as database,
                database.read() as connection,
            ):
                blobs = FolderBlobs(temporary / "blobs" / "sha256")
                first = next(iter(verification.whole(database, connection, blobs)), None)
        except RegistryError as error:  # it names the temporary folder, which is removed
            why = str(error).replace(str(temporary), str(file))
            raise UnusableRegistryError(f"nothing was imported: {why}") from error
        if first is not None:
            raise UnusableRegistryError(
                f"{file} was altered: {first.where}: {first.what}. Nothing was imported; get "
                "the file again from its source."
            )


@contextmanager
def unpacked(file: Path, folder: Path) -> Iterator[Path]:
    """Unpacks an export into a temporary folder, and renames it at the end of the block.

    If the block raises, the temporary folder is removed.

    Args:
        file: the export.
        folder: the final folder; must be empty or not exist.

    Yields:
        The temporary folder.

    Raises:
        RegistryError: the file is not an export or hostile, or the folder is in use or cannot be
            written; no files are left behind.
    """
    if not folder.name:
        raise RegistryError(f"{file} cannot be imported into {folder}. Name a new folder.")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise RegistryError(
            f"{folder} is in use already. Import into a folder that does not exist yet."
        )
    try:
        opened = open_regular(file)
    except OSError as error:
        raise RegistryError(
            f"{file} cannot be imported into {folder}: {error.strerror}. Give a file that "
            "`promote export` wrote."
        ) from error
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        temporary.mkdir(parents=True)
        with opened as source:
            _unpack(source, file, temporary)
        yield temporary
        for path in (*temporary.glob("blobs/sha256/*"), temporary):
            sync_folder(path)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise UnusableRegistryError(
            f"{file} cannot be imported into {folder}: {error.strerror}. Free some space, choose "
            "another place, or fix its permissions."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(source: IO[bytes], file: Path, folder: Path) -> None:
    before: tuple[bool, str] | None = None
    while True:
        block = source.read(_BLOCK)
        if block == bytes(_BLOCK):
            break
        name, size = _member(block, file)
        place = (name != DATABASE, name)  # the database first, then blobs in order
        if (place <= before) if before else (name != DATABASE):
            raise _refused(file, f"{name} is out of order")
        _copy(source, file, folder / name, size)
        before = place
    if before is None or source.read(_BLOCK + 1) != bytes(_BLOCK):
        raise _refused(file, "its end is not that of an export")


def _member(block: bytes, file: Path) -> tuple[str, int]:
    if len(block) < _BLOCK:
        raise _refused(file, "it is cut off")
    if block[257:262] != b"ustar":
        raise _refused(file, "it is not a tar file, or it is compressed")
    name = block[:100].rstrip(b"\0").decode("ascii", "backslashreplace")
    if block[156:157] != b"0":
        raise _refused(
            file, f"{quoted(name)} is a link, a folder or something else, not a regular file"
        )
    if name != DATABASE and not _BLOB.fullmatch(name):
        raise _refused(file, f"it contains {quoted(name)}, which no registry has")
    digits = re.fullmatch(rb"([0-7]{11})\0", block[124:136])
    size = int(digits[1], 8) if digits else -1
    if size < 0 or block != _header(name, size):
        raise _refused(file, f"the header of {name} differs from that of an export")
    largest = LARGEST_DATABASE if name == DATABASE else LARGEST_BLOB
    if size > largest:
        raise _refused(
            file, f"{name} has {size:,} bytes, more than the {largest:,} that it may have"
        )
    return name, size


def _copy(source: IO[bytes], file: Path, path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), size
    with path.open("xb") as target:
        while left:
            data = source.read(min(left, _CHUNK))
            if not data:
                raise _refused(file, f"{path.name} is cut off: {left:,} of its bytes are missing")
            digest.update(data)
            target.write(data)
            left -= len(data)
        target.flush()
        os.fsync(target.fileno())
    if source.read(-size % _BLOCK) != bytes(-size % _BLOCK):
        raise _refused(file, f"the padding after {path.name} is not empty")
    if path.name != DATABASE:
        path.chmod(0o444)
        if digest.hexdigest() != path.name:
            raise _refused(file, f"blob {path.name} was altered")


def _refused(file: Path, why: str) -> UnusableRegistryError:
    return UnusableRegistryError(
        f"{file} is not a registry's export, or was altered: {why}. Nothing was imported; get the "
        "file again from its source."
    )
