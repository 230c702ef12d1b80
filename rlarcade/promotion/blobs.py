"""Files named by their contents: blobs/sha256/ab/abcd…, written once, whole or not there."""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rlarcade.errors import RegistryError
from rlarcade.files import sync_folder

DIGEST = re.compile(r"[0-9a-f]{64}")


class DamagedBlobError(RegistryError):
    """A blob is missing, or does not hold what its name says."""


def sha256(data: bytes) -> str:
    """Returns the digest of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


class Blobs:
    """A folder of files, each named by the sha256 of what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Returns where a blob is or would be.

        Raises:
            DamagedBlobError: it is no digest, and might name a file outside the store.
        """
        if not DIGEST.fullmatch(digest):
            raise DamagedBlobError(f"{digest[:80]!r} is no sha256 digest, 64 digits of 0-9a-f")
        return self.folder / digest[:2] / digest

    def put(self, data: bytes) -> str:
        """Keeps bytes; a whole blob that is there already stays, a damaged one is replaced.

        Returns:
            Their digest.

        Raises:
            RegistryError: the disk is full or cannot be written; no part of the blob is left.
        """
        digest = sha256(data)
        path = self.path(digest)
        if self.damage(digest) is None:
            return digest
        if path.parent.is_symlink():
            raise RegistryError(
                f"{path.parent} is a link, and might lead out of the registry. Replace it by the "
                "folder that it points to."
            )
        try:
            new = not path.parent.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            if new:
                sync_folder(path.parent.parent)
            _write(path, data)
        except OSError as error:
            raise RegistryError(
                f"{path} cannot be written: {error.strerror}. Free some space or mend the "
                "permissions of its folder, and repeat the command: nothing was changed."
            ) from error
        return digest

    def get(self, digest: str, size: int | None = None) -> bytes:
        """Reads a blob and checks that it holds what its name says.

        Args:
            digest: of its bytes.
            size: the bytes that it should have, if known: more are not read.

        Raises:
            DamagedBlobError: it is missing or altered.
            RegistryError: it cannot be read, for lack of permission, say.
        """
        path = self.path(digest)
        try:
            # A stranger's store might hold a link out of it, or a pipe that never answers.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                data = _read(descriptor, path, size)
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise DamagedBlobError(f"{_short(path)} is missing") from error
        except OSError as error:
            if path.is_symlink():
                raise DamagedBlobError(f"{_short(path)} is a link, not a file") from error
            raise RegistryError(
                f"{path} cannot be read: {error.strerror}. Mend its permissions or the disk."
            ) from error
        found = sha256(data)
        if found != digest:
            raise DamagedBlobError(f"{_short(path)} was altered: its sha256 is {found[:12]}…")
        return data

    def holds(self, digest: str) -> bool:
        """Whether there is a file of this name, whatever is in it."""
        return DIGEST.fullmatch(str(digest)) is not None and os.path.lexists(self.path(digest))

    def damage(self, digest: str, size: int | None = None) -> str | None:
        """Says what is wrong with a blob; None if it is whole.

        Raises:
            RegistryError: it cannot be read, so nothing is known.
        """
        try:
            self.get(digest, size)
        except DamagedBlobError as error:
            return str(error)
        return None

    def digests(self) -> Iterator[str]:
        """Yields the names of all blobs in order, whole or not; other files are passed over."""
        for path in sorted(self.folder.glob("??/*")):
            if DIGEST.fullmatch(path.name) and path.parent.name == path.name[:2]:
                yield path.name


def _short(path: Path) -> str:
    """Names a blob from the registry on: what is wrong with it is kept, and may travel."""
    return "/".join(path.parts[-4:])


def _read(descriptor: int, path: Path, size: int | None) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DamagedBlobError(f"{_short(path)} is no file")
    if size is not None and status.st_size != size:
        found = f"{status.st_size} bytes, not {size}"
        raise DamagedBlobError(f"{_short(path)} was altered: it has {found}")
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def _write(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, 0o444)
            os.fsync(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
