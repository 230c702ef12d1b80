"""Opens a registry's database and its blobs: in a folder, or in PostgreSQL and where that says.

FOLDER/
  registry.sqlite            tables, the audit log among them
  blobs/sha256/ab/abcd…      weights, manifests and documents, named by their digests

Blobs are written before the transaction that names them, so every listed blob exists. Nothing is
ever deleted.
"""

import errno
import getpass
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from rlarcade.checked import require
from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.files import open_own, own_folder, sync_folder
from rlarcade.registry import audit
from rlarcade.registry.address import ServerAddress, address_of
from rlarcade.registry.blobs import Blobs, FolderBlobs
from rlarcade.registry.database import Database
from rlarcade.registry.sqlite import DATABASE, LARGEST, SqliteDatabase
from rlarcade.text import shown_path

BLOBS = Path("blobs/sha256")
"""Folder of the blobs in a registry's folder."""
MATCHES = "matches"
"""Folder of unfinished matches in a registry's folder."""
SERVER_MATCHES = Path("checkpoints/matches/registries")
"""Folder of unfinished matches of registries on servers."""
_LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class Store:
    """Where a registry is kept."""

    name: str
    """Names it in messages."""
    database: Database
    blobs: Blobs
    matches: Path
    """Folder on this machine for matches that are not finished yet."""
    folder: Path | None = None
    """Its folder; None: it is on a server."""


def open_store(address: str | Path, *, create: bool = True, busy_seconds: float = 10.0) -> Store:
    """Opens a registry's database and blobs. Arguments and errors are those of `Registry.open`."""
    require(busy_seconds, Real, "busy_seconds", "10.0")
    where = address_of(address)
    if isinstance(where, ServerAddress):
        return _open_on_server(where, create, busy_seconds)
    database = open_database(where, create=create, busy_seconds=busy_seconds)
    return Store(str(where), database, FolderBlobs(where / BLOBS), where / MATCHES, where)


def _open_on_server(address: ServerAddress, create: bool, busy_seconds: float) -> Store:
    from rlarcade.registry.postgres import PostgresDatabase  # psycopg is in an extra
    from rlarcade.registry.remote_blobs import blobs_at

    database = PostgresDatabase(address, busy_seconds)
    with _closed_on_error(database):
        if create and database.kept_place() is None:  # an error here leaves no tables behind
            if address.blobs is None:
                raise database.without_blobs()
            blobs_at(address.blobs).begin()
        database.set_up(create=create)
        blobs = blobs_at(database.place_of_blobs(address.blobs))
        if isinstance(blobs, FolderBlobs):
            blobs.require_there()
    # The name tells which registry it is, without what only this address has, such as a user.
    known = f"{address.url.host}:{address.url.port}/{address.url.database}"
    folder = SERVER_MATCHES / hashlib.sha256(known.encode()).hexdigest()[:12]
    return Store(database.name, database, blobs, folder)


def open_database(folder: Path, *, create: bool, busy_seconds: float = 10.0) -> Database:
    """Opens the database of a registry's folder, and makes the folders that it lacks.

    Arguments and errors are those of `Registry.open`.
    """
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


def is_registry(address: str | Path) -> bool:
    """Whether a folder has a file with the name of a registry's database, or a server its tables.

    Raises:
        ConfigError: it is no address of a registry.
        RegistryError: the server cannot be reached, or its database holds something else.
    """
    where = address_of(address)
    if isinstance(where, Path):
        return os.path.lexists(where / DATABASE)
    from rlarcade.registry.postgres import PostgresDatabase

    with closing(PostgresDatabase(where, _LOOK_SECONDS)) as database:
        return database.exists()


def require_reachable(address: str | Path) -> None:
    """Requires that a registry can be opened or made there. A folder is not looked at.

    Raises:
        ConfigError: it is no address of a registry, or a new one does not say where its blobs go.
        RegistryError: the server cannot be reached, or its database holds something else.
    """
    where = address_of(address)
    if isinstance(where, Path):
        return
    from rlarcade.registry.postgres import PostgresDatabase

    with closing(PostgresDatabase(where, _LOOK_SECONDS)) as database:
        if database.kept_place() is None and where.blobs is None:
            raise database.without_blobs()


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
