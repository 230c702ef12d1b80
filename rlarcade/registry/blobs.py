"""Blobs: bytes named by the sha256 of their content, and the folder that keeps them as files."""

import hashlib
import os
import re
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from rlarcade.checked import reason
from rlarcade.errors import DamagedPartError, UnusableRegistryError
from rlarcade.files import own_folder, sync_folder, write_file
from rlarcade.text import quoted, shown_path

DIGEST = re.compile(r"[0-9a-f]{64}")
LARGEST = 1 << 30
"""Most bytes of a blob; the largest ones are weights."""
LARGEST_DOCUMENT = 100_000_000
"""Most bytes of a document; the largest ones are matches with every action."""
PURPOSE = "README.txt"
"""File that says what a place of blobs is for; no blob has such a name."""
PURPOSE_TEXT = b"Files of an rlarcade registry, each with its SHA-256 as its name.\n"
_CHUNK = 1 << 20
_Model = TypeVar("_Model", bound=BaseModel)


class DamagedBlobError(DamagedPartError):
    """A blob is missing, or its content does not fit its name."""


def digest_of(name: str) -> str:
    """Returns the name of a blob.

    Raises:
        DamagedBlobError: it is not a digest, so it might name a file elsewhere.
    """
    if not DIGEST.fullmatch(name):
        raise DamagedBlobError(f"{quoted(name)} is not a sha256 digest: 64 digits of 0-9a-f")
    return name


def sha256(data: bytes) -> str:
    """Returns the sha256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


class Blobs(ABC):
    """Bytes that are named by their sha256. Nothing is deleted; only damaged ones are replaced."""

    @abstractmethod
    def put(self, data: bytes, digest: str | None = None) -> str:
        """Stores bytes. An intact blob is left alone; a damaged one is replaced.

        Args:
            data: the bytes.
            digest: their sha256, if the caller has hashed exactly these bytes; None: unknown.

        Returns:
            The digest of the bytes.

        Raises:
            UnusableRegistryError: they cannot be written, for example because the disk is full. No
                part of them is taken for a blob.
        """

    @abstractmethod
    def get(self, digest: str, size: int | None = None, limit: int = LARGEST) -> bytes:
        """Reads a blob and checks its digest.

        Args:
            digest: the blob's name.
            size: its expected size in bytes, if known; a blob of another size is not read.
            limit: most bytes that it may have.

        Raises:
            DamagedBlobError: it is missing, altered or too large, or no blob of this registry.
            UnusableRegistryError: it cannot be read, for example for lack of permission.
        """

    @abstractmethod
    def holds(self, digest: str) -> bool:
        """Whether there is a blob with this name; its content is not checked."""

    @abstractmethod
    def damage(self, digest: str, size: int | None = None) -> str | None:
        """Describes the damage of a blob; None if it is intact.

        Raises:
            RegistryError: the blob cannot be read, so its damage is unknown.
        """

    @abstractmethod
    def digests(self) -> Iterator[str]:
        """Yields the names of all blobs in order, damaged ones too.

        Raises:
            UnusableRegistryError: they cannot be listed.
        """

    @abstractmethod
    def place(self, digest: str) -> Path:
        """Returns where a blob is, for messages."""


class FolderBlobs(Blobs):
    """A folder of files, such as `blobs/sha256/ab/abcd…`."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        """Opens the folder.

        Args:
            folder: the folder; it may not exist yet.
            shared: whether other machines use it, too. Then it may be missing on this one only.
        """
        self.folder, self._shared = folder, shared

    def begin(self) -> None:
        """Makes the folder for a new registry.

        Raises:
            UnusableRegistryError: it cannot be made or written.
        """
        try:
            own_folder(self.folder)
            write_file(self.folder / PURPOSE, PURPOSE_TEXT)
        except OSError as error:
            raise UnusableRegistryError(
                f"blobs={shown_path(self.folder)} cannot be used: {error.strerror}. Mount the "
                "folder that all machines share, or fix its permissions."
            ) from error

    def require_there(self) -> None:
        """Requires that a shared folder has the files of its registry, whichever they are.

        On a machine that has not mounted it, every file would count as lost.

        Raises:
            UnusableRegistryError: it is empty or does not exist.
        """
        if not self._shared:
            return
        try:
            with os.scandir(self.folder) as entries:
                if next(entries, None) is not None:
                    return
            wrong = "is empty"
        except FileNotFoundError:
            wrong = "does not exist"
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
        raise UnusableRegistryError(
            f"the blobs' folder {shown_path(self.folder)} {wrong} on this machine. Mount the "
            "folder that all machines share, and repeat the command."
        )

    def place(self, digest: str) -> Path:
        """See `Blobs.place`."""
        return self.path(digest)

    def path(self, digest: str) -> Path:
        """Returns the path of a blob, whether it exists or not.

        Raises:
            DamagedBlobError: it is not a digest, so it might name a file outside the folder.
        """
        return self.folder / digest_of(digest)[:2] / digest

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
        """See `Blobs.put`. A link in place of a folder is refused, too."""
        digest = sha256(data) if digest is None else digest
        path = self.path(digest)
        try:
            self.check_own(digest)
        except DamagedBlobError as error:
            raise UnusableRegistryError(f"{error}.") from error
        self.require_there()
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
        """See `Blobs.get`. A link or a FIFO in place of a file is damage."""
        with self._opened(digest, size, limit) as file:
            data = file.read(os.fstat(file.fileno()).st_size + 1)
        require_digest(sha256(data), digest)
        return data

    @contextmanager
    def _opened(self, digest: str, size: int | None, limit: int) -> Iterator[BinaryIO]:
        self.check_own(digest)
        path = self.path(digest)
        try:
            # A stranger's registry might hold a link out of it, or a FIFO on which open() hangs.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise DamagedBlobError(f"{_short(path)} is not a regular file")
                require_size(status.st_size, _short(path), size, limit)
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    yield file
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            self.require_there()
            raise DamagedBlobError(f"{_short(path)} is missing") from error
        except OSError as error:
            if path.is_symlink():
                raise DamagedBlobError(f"{_short(path)} is a link, not a file") from error
            raise UnusableRegistryError(
                f"{path} cannot be read: {error.strerror}. Fix its permissions or the disk."
            ) from error

    def holds(self, digest: str) -> bool:
        """See `Blobs.holds`."""
        return DIGEST.fullmatch(str(digest)) is not None and os.path.lexists(self.path(digest))

    def damage(self, digest: str, size: int | None = None) -> str | None:
        """See `Blobs.damage`."""
        found = hashlib.sha256()
        try:
            with self._opened(digest, size, LARGEST) as file:
                while data := file.read(_CHUNK):
                    found.update(data)
            require_digest(found.hexdigest(), digest)
        except DamagedBlobError as error:
            return str(error)
        return None

    def digests(self) -> Iterator[str]:
        """See `Blobs.digests`. Other files are skipped."""
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


def require_size(found: int, name: str, size: int | None, limit: int) -> None:
    """Requires a blob to have the size that it should have.

    Args:
        found: its bytes.
        name: names it in messages.
        size: the bytes that it should have, if known.
        limit: most bytes that it may have.

    Raises:
        DamagedBlobError: it has another size, or is too large.
    """
    if size is not None and found != size:
        raise DamagedBlobError(f"{name} was altered: it has {found} bytes, not {size}")
    if found > limit:
        raise DamagedBlobError(
            f"{name} has {found:,} bytes, more than the {limit:,} that it may have"
        )


def require_digest(found: str, digest: str) -> None:
    """Requires the sha256 of a blob's content to be its name.

    Raises:
        DamagedBlobError: it was altered.
    """
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
