"""The registry's folder: a database with the audit log, and blobs.

FOLDER/
  registry.sqlite            tables, the audit log among them
  blobs/sha256/ab/abcd…      weights, manifests and documents, named by their digests

Blobs are written before the transaction that names them, so every listed blob exists. Nothing is
ever deleted.
"""

import errno
import getpass
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import RowMapping, Select

from rlarcade.checked import path_of, reason, require
from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.files import open_own, own_folder, sync_folder
from rlarcade.registry import audit
from rlarcade.registry.blobs import LARGEST_DOCUMENT, Blobs, DamagedBlobError
from rlarcade.registry.change import Change
from rlarcade.registry.database import DATABASE, LARGEST, Database
from rlarcade.registry.documents import Event, Problem, Receipt
from rlarcade.text import shown_path

_Model = TypeVar("_Model", bound=BaseModel)


class Store:
    """The registry's folder. Many processes and threads may use it at once."""

    def __init__(self, folder: Path, database: Database) -> None:
        """Use `open`."""
        self.folder = folder
        self._database = database
        self._blobs = Blobs(folder / "blobs" / "sha256")

    @classmethod
    def open(cls, folder: str | Path, *, create: bool = True, busy_seconds: float = 10.0) -> Self:
        """Opens a registry.

        Args:
            folder: the registry's folder.
            create: create the registry if it does not exist.
            busy_seconds: how long to wait for other writers.

        Raises:
            ConfigError: `folder` is not a path.
            RegistryError: the folder holds no registry, or one of an unknown format.
            UnusableRegistryError: it is damaged, locked or hostile, or the folder cannot be used.
        """
        folder = path_of(folder, "a registry")
        require(busy_seconds, Real, "busy_seconds", "10.0")
        path = folder / DATABASE
        if not create and not is_registry(folder):
            raise RegistryError(
                f"{folder} holds no registry. Name its folder with --registry, or create one by "
                "registering a checkpoint: `promote register CHECKPOINT`."
            )
        try:
            for name in ("", "-wal", "-shm", "-journal"):
                _require_own_file(Path(f"{path}{name}"))
            database = Database(path, busy_seconds)
            if not database.read_only:
                for part in (folder / "blobs", folder / "blobs" / "sha256"):
                    own_folder(part)
                sync_folder(folder)
            with _closed_on_error(database):
                database.set_up(create=create)
        except OSError as error:
            where = f" ({shown_path(error.filename)})" if error.filename else ""
            raise UnusableRegistryError(
                f"registry {shown_path(folder)} cannot be used: {error.strerror}{where}. Choose "
                "another folder with --registry, or fix its permissions."
            ) from error
        return cls(folder, database)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put_document(self, document: BaseModel) -> str:
        """Stores a document as canonical JSON.

        Returns:
            The document's digest.

        Raises:
            RegistryError: JSON cannot represent it, or the disk is full or cannot be written.
        """
        return self._blobs.put(audit.canonical_json(document.model_dump(mode="json")).encode())

    def get_document(self, digest: str, model: type[_Model]) -> _Model:
        """Reads a document and checks its bytes.

        Raises:
            UnusableRegistryError: it is missing, altered, or another kind of document.
        """
        try:
            return model.model_validate_json(self._blobs.get(digest, limit=LARGEST_DOCUMENT))
        except DamagedBlobError as error:
            raise UnusableRegistryError(
                f"document {digest[:12]}… cannot be read: {error}. Import the newest export of the "
                "registry into another folder."
            ) from error
        except ValidationError as error:
            raise UnusableRegistryError(
                f"document {digest[:12]}… is not a valid {model.__name__}: {reason(error)} It was "
                "written by another rlarcade, or is another kind of document."
            ) from error

    @contextmanager
    def change(self, actor: str | None = None) -> Iterator[Change]:
        """Begins a change: everything in the block happens with its audit entries, or nothing.

            with registry.change("anna") as change:
                change.move_alias("pong", "champion", 3, expected_generation=1, kind="force")

        The block is the registry's only writer meanwhile. If it raises, nothing was changed.

        Args:
            actor: recorded in the audit log; None: the user of this process.

        Raises:
            UnusableRegistryError: the database is locked, full, read-only or damaged.
            ValueError: the block changed rows and recorded nothing in the audit log.
        """
        with self._database.write() as connection:
            change = Change(connection, self._blobs, default_actor(actor))
            yield change
            change.require_recorded()

    def rows(self, *queries: Select[Any]) -> list[Sequence[RowMapping]]:
        """Returns the rows of each query, all from the same state of the database.

        Raises:
            RegistryError: the database is locked or damaged.
        """
        with self._database.read() as connection:
            return [connection.execute(query).mappings().all() for query in queries]

    def events(self, since: int = 0, kinds: tuple[str, ...] = ()) -> Iterator[Event]:
        """Yields entries of the audit log, in order.

        Args:
            since: only entries after this sequence number.
            kinds: only entries of these kinds; empty: of all kinds.

        Raises:
            RegistryError: an entry was altered, or the database cannot be read.
        """
        with self._database.read() as connection:
            yield from audit.read(connection, since, kinds)

    def verify_audit(self, receipt: Receipt | None = None) -> Problem | None:
        """Finds the first entry of the audit log that was altered, is missing or out of place.

        Args:
            receipt: an earlier result of `audit_head`. Only a receipt reveals that the newest
                entries were cut off, or that the whole log was rewritten.

        Raises:
            RegistryError: the database cannot be read.
        """
        with self._database.read() as connection:
            problem = audit.first_problem(connection)
            if problem is None and receipt is not None:
                problem = audit.against(connection, receipt)
            return problem

    def audit_head(self) -> Receipt:
        """Returns a receipt of the current audit log, to be kept elsewhere.

        Raises:
            UnusableRegistryError: the log was altered, or cannot be read.
        """
        with self._database.read() as connection:
            return audit.head(connection)


def is_registry(folder: Path) -> bool:
    """Whether a folder has a file with the name of a registry's database."""
    return os.path.lexists(folder / DATABASE)


def _require_own_file(path: Path) -> None:
    """Refuses a FIFO, a link, a folder or a huge file in the place of one of SQLite's files."""
    if os.path.lexists(path):
        os.close(open_own(path, os.O_RDONLY))
        if path.stat().st_size > LARGEST:
            raise OSError(errno.EFBIG, f"it has more than {LARGEST:,} bytes", str(path))


@contextmanager
def _closed_on_error(database: Database) -> Iterator[None]:
    """Closes the database if the block raises."""
    try:
        yield
    except BaseException:
        database.close()
        raise


def default_actor(actor: str | None = None) -> str:
    """Returns the actor's name, by default that of the user of this process."""
    if actor is None:
        try:
            actor = getpass.getuser()
        except (KeyError, OSError, ImportError):  # a container without a user database
            actor = "unknown"
    require(actor, str, "actor", "'anna'")
    return audit.storable(actor)
