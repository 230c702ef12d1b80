"""Files named by the sha256 of their content, such as `blobs/sha256/ab/abcd…`."""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from rlarcade.checked import reason
from rlarcade.errors import DamagedPartError, UnusableRegistryError
from rlarcade.files import sync_folder
from rlarcade.text import quoted

DIGEST = re.compile(r"[0-9a-f]{64}")
LARGEST = 1 << 30
"""Most bytes of a blob; the largest ones are weights."""
LARGEST_DOCUMENT = 100_000_000
"""Most bytes of a document; the largest ones are matches with every action."""
_CHUNK = 1 << 20
_Model = TypeVar("_Model", bound=BaseModel)


class DamagedBlobError(DamagedPartError):
    """A blob is missing, or its content does not fit its name."""


def sha256(data: bytes) -> str:
    """Returns the sha256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


class Blobs:
    """A folder of files that are named by the sha256 of their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Returns the path of a blob, whether it exists or not.

        Raises:
            DamagedBlobError: it is not a digest, so it might name a file outside the folder.
        """
        if not DIGEST.fullmatch(digest):
            raise DamagedBlobError(f"{quoted(digest)} is not a sha256 digest: 64 digits of 0-9a-f")
        return self.folder / digest[:2] / digest

    def check_own(self, digest: str | None = None) -> None:
        """Requires that the folders are not links, which might lead out of the registry.

        Args:
            digest: the blob's digest. The blob's folder is checked, too.

        Raises:
            DamagedBlobError: a folder is a link.
        """
        folders = [self.folder.parent, self.folder]
        if digest is not None:
            folders.append(self.path(digest).parent)
        for folder in folders:
            if folder.is_symlink():
                raise DamagedBlobError(
                    f"{folder} is a link and might lead out of the registry. Replace it by the "
                    "folder that it points to"
                )

    def put(self, data: bytes, digest: str | None = None) -> str:
        """Stores bytes. An intact blob is left alone; a damaged one is replaced.

        Args:
            data: the bytes.
            digest: their sha256, if the caller has hashed exactly these bytes; None: unknown.

        Returns:
            The digest of the bytes.

        Raises:
            UnusableRegistryError: the disk is full or cannot be written, or a folder is a link; no
                part of the blob is left behind.
        """
        digest = sha256(data) if digest is None else digest
        path = self.path(digest)
        try:
            self.check_own(digest)
        except DamagedBlobError as error:
            raise UnusableRegistryError(f"{error}.") from error
        if self.damage(digest) is None:
            return digest
        try:
            new = not path.parent.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            if new:
                sync_folder(path.parent.parent)
            _write(path, data)
        except OSError as error:
            raise UnusableRegistryError(
                f"{path} cannot be written: {error.strerror}. Nothing was changed. Free some space "
                "or fix the permissions of its folder, and repeat the command."
            ) from error
        return digest

    def get(self, digest: str, size: int | None = None, limit: int = LARGEST) -> bytes:
        """Reads a blob and checks its digest.

        Args:
            digest: the blob's name.
            size: its expected size in bytes, if known; a blob of another size is not read.
            limit: most bytes that it may have.

        Raises:
            DamagedBlobError: it is missing, altered, too large, a link or not a regular file.
            UnusableRegistryError: it cannot be read, for example for lack of permission.
        """
        with self._opened(digest, size, limit) as file:
            data = file.read(os.fstat(file.fileno()).st_size + 1)
        _require(sha256(data), digest)
        return data

    @contextmanager
    def _opened(self, digest: str, size: int | None, limit: int) -> Iterator[BinaryIO]:
        self.check_own(digest)
        path = self.path(digest)
        try:
            # A stranger's registry might hold a link out of it, or a FIFO on which open() hangs.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _require_size(os.fstat(descriptor), path, size, limit)
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    yield file
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise DamagedBlobError(f"{_short(path)} is missing") from error
        except OSError as error:
            if path.is_symlink():
                raise DamagedBlobError(f"{_short(path)} is a link, not a file") from error
            raise UnusableRegistryError(
                f"{path} cannot be read: {error.strerror}. Fix its permissions or the disk."
            ) from error

    def holds(self, digest: str) -> bool:
        """Whether a file with this name exists; its content is not checked."""
        return DIGEST.fullmatch(str(digest)) is not None and os.path.lexists(self.path(digest))

    def damage(self, digest: str, size: int | None = None) -> str | None:
        """Describes the damage of a blob; None if it is intact.

        Raises:
            RegistryError: the blob cannot be read, so its damage is unknown.
        """
        found = hashlib.sha256()
        try:
            with self._opened(digest, size, LARGEST) as file:
                while data := file.read(_CHUNK):
                    found.update(data)
            _require(found.hexdigest(), digest)
        except DamagedBlobError as error:
            return str(error)
        return None

    def digests(self) -> Iterator[str]:
        """Yields the names of all blobs in order, damaged ones too; skips other files.

        Raises:
            UnusableRegistryError: a folder cannot be read.
        """
        for folder in _entries(self.folder):
            if re.fullmatch("[0-9a-f]{2}", folder.name) and not folder.is_symlink():
                for path in _entries(folder):
                    if DIGEST.fullmatch(path.name) and path.name.startswith(folder.name):
                        yield path.name


def read_document(blobs: Blobs, digest: str, model: type[_Model]) -> _Model:
    """Reads a document and checks its bytes.

    Raises:
        DamagedPartError: it is missing, altered, or another kind of document.
        UnusableRegistryError: it cannot be read, for example for lack of permission.
    """
    try:
        return model.model_validate_json(blobs.get(digest, limit=LARGEST_DOCUMENT))
    except DamagedBlobError as error:
        raise DamagedPartError(
            f"document {digest[:12]}… cannot be read: {error}. Import the newest export of the "
            "registry into another folder."
        ) from error
    except ValidationError as error:
        raise DamagedPartError(
            f"document {digest[:12]}… is not a valid {model.__name__}: {reason(error)} It was "
            "written by another rlarcade, or is another kind of document."
        ) from error


def _entries(folder: Path) -> list[Path]:
    """Returns a folder's entries; none if it does not exist or is not a folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnusableRegistryError(
            f"{folder} cannot be read: {error.strerror}. Fix its permissions or the disk."
        ) from error


def _short(path: Path) -> str:
    """Returns a blob's path from the registry on: messages are stored, and registries move."""
    return "/".join(path.parts[-4:])


def _require_size(status: os.stat_result, path: Path, size: int | None, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DamagedBlobError(f"{_short(path)} is not a regular file")
    if size is not None and status.st_size != size:
        found = f"{status.st_size} bytes, not {size}"
        raise DamagedBlobError(f"{_short(path)} was altered: it has {found}")
    if status.st_size > limit:
        raise DamagedBlobError(
            f"{_short(path)} has {status.st_size:,} bytes, more than the {limit:,} that it may have"
        )


def _require(found: str, digest: str) -> None:
    if found != digest:
        where = f"blobs/sha256/{digest[:2]}/{digest}"
        raise DamagedBlobError(f"{where} was altered: its sha256 is {found[:12]}…")


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
