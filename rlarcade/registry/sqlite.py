"""A registry's SQLite file: connections, transactions and clear errors."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.registry import tables
from rlarcade.registry.database import Database
from rlarcade.registry.locks import FolderLock, holder_of, only_one
from rlarcade.registry.schema import tables_found

DATABASE = "registry.sqlite"
LARGEST = 1 << 30
"""Most bytes of a database; one with a million versions has fewer."""
LARGEST_VALUE = 10_000_000
"""Most bytes of a row; an entry of the audit log has some thousands."""

_REMEDIES = {
    "SQLITE_FULL": "cannot grow: the disk is full. Free some space and repeat the command",
    "SQLITE_READONLY": "cannot be written. Fix the folder's permissions, or copy it elsewhere",
    "SQLITE_CANTOPEN": "cannot be opened. Fix the permissions of its folder and of its files",
    "SQLITE_PERM": "cannot be opened. Fix the permissions of its folder and of its files",
    "SQLITE_CORRUPT": "is damaged. Import the newest export of it into another folder",
    "SQLITE_NOTADB": "is not a SQLite database, or is damaged. Import the newest export of it "
    "into another folder",
    "SQLITE_IOERR": "cannot be read or written: the disk failed, or is full. Free some space, "
    "check the disk, and repeat the command",
    "SQLITE_TOOBIG": "holds a value that is too large to be from rlarcade. Get it from somebody "
    "you trust",
}
_DAMAGED = (
    "is damaged or was altered. For details run `promote verify --all`, or import the newest "
    "export of it into another folder"
)


class SqliteDatabase(Database):
    """The SQLite file of a registry, in WAL mode: many processes can read while one writes.

    If the process may not write the file or its folder, it opens the database for reading only.
    """

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self.path, self.busy_seconds = path, busy_seconds
        self.name = str(path.parent)
        self._missing: list[str] = []
        self.read_only = path.exists() and not (_writable(path) and _writable(path.parent))
        self._engine: Engine = (
            create_engine("sqlite://", creator=self._connect_to_read, poolclass=NullPool)
            if self.read_only
            else create_engine(
                # A path in a text would end at a question mark.
                URL.create("sqlite", database=str(path.absolute())),
                connect_args={"timeout": busy_seconds},
            )
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)

    def _connect_to_read(self) -> sqlite3.Connection:
        # In WAL mode, a reader creates two more files, but here it may not. If there is no WAL,
        # nobody is writing (immutable). If there is one, its writer has created the two files.
        written = Path(f"{self.path}-wal")
        how = "mode=ro" if written.exists() and written.stat().st_size else "immutable=1"
        address = f"file:{quote(str(self.path.absolute()))}?{how}"
        connection = sqlite3.connect(
            address, uri=True, timeout=self.busy_seconds, check_same_thread=False
        )
        # Tables that an older rlarcade did not have are empty ones, in the connection's memory.
        connection.execute("PRAGMA temp_store = MEMORY")
        for name in self._missing:
            text = str(CreateTable(tables.metadata.tables[name]).compile(dialect=sqlite.dialect()))
            connection.execute(text.strip().replace("CREATE", "CREATE TEMP", 1))
        return connection

    def close(self) -> None:
        """See `Database.close`."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """See `Database.read`."""
        with self.errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """See `Database.write`."""
        if self.read_only:
            raise UnusableRegistryError(
                f"registry {self.name} cannot be written, only read. Fix its permissions, "
                "or copy it elsewhere."
            )
        with self.errors(), self._engine.connect() as opened:
            connection = opened.execution_options(rlarcade_write=True)
            with connection.begin():
                yield connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        """See `Database.errors`. Some calls use the driver without SQLAlchemy."""
        try:
            with super().errors():
                yield
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: BaseException | None) -> UnusableRegistryError:
        name = str(getattr(error, "sqlite_errorname", None))
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            remedy = f"is in use by {self._writer()}. Try again when it has finished"
        else:
            remedies = (text for start, text in _REMEDIES.items() if name.startswith(start))
            remedy = next(remedies, _DAMAGED)
        return UnusableRegistryError(f"registry {self.path} {remedy} ({error}).")

    def _writer(self) -> str:
        return holder_of(Path(f"{self.path}-shm"), self.path)

    def set_up(self, *, create: bool) -> None:
        """See `Database.set_up`."""
        if self.read_only:
            with self.read() as connection:
                found = tables_found(connection, self.path)
            self._require_registry(found)
            self._missing = sorted(set(tables.metadata.tables) - found)
            return
        with only_one(self.path.parent, self.busy_seconds), self.errors():
            with self.read() as connection:
                found = tables_found(connection, self.path)
            if not found and not create:
                self._require_registry(found)
            self._use_wal()
            if set(tables.metadata.tables) <= found:
                return
            with self.write() as connection:
                tables.metadata.create_all(connection)
                if not found:
                    row = {"key": "format", "value": tables.FORMAT}
                    connection.execute(tables.meta.insert(), [row])

    def _require_registry(self, found: set[str]) -> None:
        if not found:
            raise RegistryError(
                f"{self.path} is a database, but not a registry's. Choose another folder with "
                "--registry."
            )

    def _use_wal(self) -> None:
        with self._engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            if raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                raw.execute("PRAGMA journal_mode = WAL")

    def damage(self, connection: Connection) -> str | None:
        """See `Database.damage`."""
        pages = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        return None if pages == "ok" else str(pages)

    def alone(self) -> FolderLock:
        """See `Database.alone`. Nobody else locks the folder of the blobs."""
        return FolderLock(self.path.parent / "blobs")

    def copy_to(self, path: Path) -> None:
        """See `Database.copy_to`."""
        with self.read() as connection, self.errors():
            source: Any = connection.connection.driver_connection
            copy = sqlite3.connect(path)
            try:
                source.backup(copy)
                _leave_one_file(copy)
            finally:
                copy.close()

    def close_to_one_file(self) -> None:
        """Writes everything into one file, and closes it."""
        with self.errors(), self._engine.connect() as connection:
            _leave_one_file(connection.connection.driver_connection)
        self.close()


def _leave_one_file(connection: Any) -> None:
    connection.execute("PRAGMA journal_mode = DELETE")  # no second file beside it


def _set_up(connection: Any, record: object) -> None:
    del record
    connection.isolation_level = None  # _begin begins transactions, not the driver
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    # The file may come from a stranger.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("rlarcade_write")
    # A transaction that first reads and then writes could fail without waiting for other writers.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.W_OK, effective_ids=effective)
