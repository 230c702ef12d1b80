"""The registry's SQLite file: how it is opened, written to in one step, and what can go wrong."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.promotion import tables
from rlarcade.promotion.locks import holder_of, only_one
from rlarcade.promotion.schema import tables_found

DATABASE = "registry.sqlite"
LARGEST = 1 << 30
"""Bytes of a database: a million versions have less."""
LARGEST_VALUE = 10_000_000
"""Bytes of a row of it: entries of the audit log have some thousands."""

_REMEDIES = {
    "SQLITE_FULL": "cannot grow: the disk is full. Free some space and repeat the command",
    "SQLITE_READONLY": "cannot be written. Mend the folder's permissions, or copy it elsewhere",
    "SQLITE_CANTOPEN": "cannot be opened. Mend the permissions of its folder and of its files",
    "SQLITE_PERM": "cannot be opened. Mend the permissions of its folder and of its files",
    "SQLITE_CORRUPT": "is damaged. Import the newest export of it into another folder",
    "SQLITE_NOTADB": "is no SQLite database, or a damaged one. Import the newest export of it "
    "into another folder",
    "SQLITE_IOERR": "cannot be read or written: the disk failed, or is full. Free some space, "
    "check the disk, and repeat the command",
    "SQLITE_TOOBIG": "holds a value that is larger than any that rlarcade keeps. Get it from "
    "somebody you trust",
}
_DAMAGED = (
    "is damaged or was altered. See what with `promote verify --all`, or import the newest export "
    "of it into another folder"
)


class Database:
    """The SQLite file of a registry, in WAL mode: many read while one writes.

    One that may not be written, or lies in a folder that may not, is only read.
    """

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self.path, self.busy_seconds = path, busy_seconds
        self.read_only = path.exists() and not (_writable(path) and _writable(path.parent))
        self._engine: Engine = (
            create_engine("sqlite://", creator=self._connect_to_read, poolclass=NullPool)
            if self.read_only
            else create_engine(
                f"sqlite:///{path.absolute()}", connect_args={"timeout": busy_seconds}
            )
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)

    def _connect_to_read(self) -> sqlite3.Connection:
        # A reader in WAL mode makes two files beside the database, which it cannot here. Without a
        # WAL nobody is writing; with one, its writer has made them.
        written = Path(f"{self.path}-wal")
        how = "mode=ro" if written.exists() and written.stat().st_size else "immutable=1"
        address = f"file:{quote(str(self.path.absolute()))}?{how}"
        return sqlite3.connect(
            address, uri=True, timeout=self.busy_seconds, check_same_thread=False
        )

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Connects, and sees one state of the database however others write meanwhile.

        Raises:
            RegistryError: the database is locked, damaged or cannot be opened.
        """
        with self.errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Connects as the only writer; commits, or changes nothing if an exception leaves it.

        Raises:
            UnusableRegistryError: the database is locked, full, read-only or damaged.
        """
        if self.read_only:
            raise UnusableRegistryError(
                f"registry {self.path.parent} cannot be written, only read. Mend its permissions, "
                "or copy it elsewhere."
            )
        with self.errors(), self._engine.connect() as opened:
            connection = opened.execution_options(rlarcade_write=True)
            with connection.begin():
                yield connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns whatever the database raises into one clear error.

        Raises:
            RegistryError: it raised something.
        """
        try:
            yield
        except DBAPIError as error:
            raise self._explained(error.orig) from error
        except sqlite3.Error as error:
            raise self._explained(error) from error
        except (SQLAlchemyError, OverflowError) as error:
            raise RegistryError(f"registry {self.path}: {error}.") from error

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
        """Makes the tables that are missing; a registry of another format is left alone.

        Args:
            create: make a registry of an empty file.

        Raises:
            RegistryError: the file is no registry, or has another format.
            UnusableRegistryError: it holds what rlarcade does not make, or is locked or damaged.
        """
        if self.read_only:
            with self.read() as connection:
                self._require_all(tables_found(connection, self.path))
            return
        with only_one(self.path.parent, self.busy_seconds), self.errors():
            with self.read() as connection:
                found = tables_found(connection, self.path)
            if not found and not create:
                self._require_all(found)
            self._use_wal()
            if set(tables.metadata.tables) <= found:
                return
            with self.write() as connection:
                tables.metadata.create_all(connection)
                if not found:
                    row = {"key": "format", "value": tables.FORMAT}
                    connection.execute(tables.meta.insert(), [row])

    def _require_all(self, found: set[str]) -> None:
        if not found:
            raise RegistryError(
                f"{self.path} is a database, but not a registry's. Choose another folder with "
                "--registry."
            )
        if missing := sorted(set(tables.metadata.tables) - found):
            raise UnusableRegistryError(
                f"registry {self.path} was made by an older rlarcade and lacks {missing[0]}. Copy "
                "it to where it can be written, and open it there."
            )

    def _use_wal(self) -> None:
        with self._engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            if raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                raw.execute("PRAGMA journal_mode = WAL")

    def copy_to(self, path: Path) -> None:
        """Writes a consistent copy of the database, one file, while others may write.

        Raises:
            RegistryError: it cannot be read or written.
        """
        with self.read() as connection, self.errors():
            source: Any = connection.connection.driver_connection
            copy = sqlite3.connect(path)
            try:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # no second file beside it
            finally:
                copy.close()


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
    # A reader that became a writer halfway would fail without waiting for its turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.W_OK, effective_ids=effective)
