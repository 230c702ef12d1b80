"""Blobs in an object store or on another machine, through fsspec.

Its addresses begin with s3://, gs://, sftp:// and others: https://filesystem-spec.readthedocs.io
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from rlarcade.errors import ConfigError, UnusableRegistryError
from rlarcade.foreign import own_words
from rlarcade.registry.blobs import (
    DIGEST,
    LARGEST,
    PURPOSE,
    PURPOSE_TEXT,
    Blobs,
    DamagedBlobError,
    FolderBlobs,
    digest_of,
    require_digest,
    require_size,
    sha256,
)
from rlarcade.text import printable, quoted

_LOCAL = ("", "file", "local")


def blobs_at(place: str) -> "FolderBlobs | RemoteBlobs":
    """Opens the place of a registry's blobs.

    Args:
        place: an absolute path, or an address that fsspec knows, such as `s3://bucket/folder`.

    Raises:
        ConfigError: it is a relative path, or the library for this kind of address is missing.
    """
    if urlsplit(place).scheme in _LOCAL:
        folder = Path(place.removeprefix("file://").removeprefix("local://"))
        if not folder.is_absolute():
            raise ConfigError(
                f"blobs={quoted(place)} is a relative path, which is another folder for every "
                "process. Give an absolute path that all machines share, or an address such as "
                "s3://BUCKET/FOLDER."
            )
        return FolderBlobs(folder, shared=True)
    return RemoteBlobs(place)


class RemoteBlobs(Blobs):
    """Blobs at an address of fsspec, named `PLACE/ab/abcd…`.

    An upload that breaks off may leave a part of a blob. Its digest does not fit its name, so it is
    damaged, and the next upload replaces it. A version is only named after its blobs are there.
    """

    def __init__(self, place: str) -> None:
        """Connects.

        Raises:
            ConfigError: fsspec does not know this kind of address, or needs another library for it.
        """
        self._place = place
        try:
            self._files, self._root = url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"blobs={quoted(_without_password(place))} cannot be used: {printable(error)}."
            ) from error

    def begin(self) -> None:
        """Writes a file that says what the place of a new registry is for.

        Raises:
            UnusableRegistryError: it cannot be written: there is no such bucket, for example.
        """
        with self._errors("", "written"):
            self._write(f"{self._root.rstrip('/')}/{PURPOSE}", PURPOSE_TEXT)

    def put(self, data: bytes, digest: str | None = None) -> str:
        """See `Blobs.put`."""
        digest = sha256(data) if digest is None else digest
        path = self._path(digest)
        if self.damage(digest) is not None:
            with self._errors(digest, "written"):
                self._write(path, data)
        return digest

    def get(self, digest: str, size: int | None = None, limit: int = LARGEST) -> bytes:
        """See `Blobs.get`."""
        path = self._path(digest)
        with self._errors(digest, "read"):
            try:
                found = self._files.info(path)
                if found["type"] != "file":
                    raise DamagedBlobError(f"{_short(digest)} is not a regular file")
                require_size(int(found["size"]), _short(digest), size, limit)
                data: bytes = self._files.cat_file(path)
            except FileNotFoundError as error:
                raise DamagedBlobError(f"{_short(digest)} is missing") from error
        require_digest(sha256(data), digest)
        return data

    def holds(self, digest: str) -> bool:
        """See `Blobs.holds`."""
        if DIGEST.fullmatch(str(digest)) is None:
            return False
        with self._errors(digest, "looked up"):
            return bool(self._files.exists(self._path(digest)))

    def damage(self, digest: str, size: int | None = None) -> str | None:
        """See `Blobs.damage`."""
        try:
            self.get(digest, size)
        except DamagedBlobError as error:
            return str(error)
        return None

    def digests(self) -> Iterator[str]:
        """See `Blobs.digests`."""
        with self._errors("", "listed"):
            self._files.invalidate_cache()
            paths = sorted(self._files.find(self._root))
        for path in paths:
            *_, folder, name = path.split("/")
            if DIGEST.fullmatch(name) and name.startswith(folder) and len(folder) == 2:
                yield name

    def place(self, digest: str) -> Path:
        """See `Blobs.place`."""
        return Path(self._path(digest))

    def _write(self, path: str, data: bytes) -> None:
        """Writes a file and the folders that it needs.

        It makes no bucket, container or share: somebody else decides on those, and the name may be
        a slip.
        """
        try:
            self._files.pipe_file(path, data)
        except Exception:  # where folders exist, this one may be missing; each store says so anew
            bucket = self._root.partition("/")[0]  # empty in an absolute path
            if bucket and not self._files.exists(bucket):
                raise
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)

    def _path(self, digest: str) -> str:
        return f"{self._root.rstrip('/')}/{digest_of(digest)[:2]}/{digest}"

    @contextmanager
    def _errors(self, digest: str, what: str) -> Iterator[None]:
        """Turns errors of the store, which may be of any type, into one with a remedy."""
        try:
            yield
        except DamagedBlobError:
            raise
        except Exception as error:
            which = f"blob {digest[:12]}… in " if digest else "the blobs in "
            raise UnusableRegistryError(
                f"{which}{_without_password(self._place)} cannot be {what}: "
                f"{printable(own_words(error), 300)}. Nothing was changed. Check the address, its "
                "credentials and the network, and repeat the command."
            ) from error


def _short(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _without_password(place: str) -> str:
    parts: Any = urlsplit(place)
    return printable(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
