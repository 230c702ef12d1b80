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
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

from rlarcade.checked import require
from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.files import open_own, own_folder, sync_folder
from rlarcade.registry import audit
from rlarcade.registry.database import Database
from rlarcade.registry.sqlite import DATABASE, LARGEST, SqliteDatabase
from rlarcade.text import shown_path


def open_database(folder: Path, *, create: bool = True, busy_seconds: float = 10.0) -> Database:
    """Opens the database of a registry's folder, and makes the folders that it lacks.

    Arguments and errors are those of `Registry.open`.
    """
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
        database = SqliteDatabase(path, busy_seconds)
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
    return database


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
