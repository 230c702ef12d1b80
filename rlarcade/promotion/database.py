"""The registry's SQLite file: how it is opened, written to in one step, and what can go wrong."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from rlarcade.errors import RegistryError
from rlarcade.promotion import tables

DATABASE = "registry.sqlite"

_REMEDIES = {
    "SQLITE_BUSY": "is in use by another process. Try again when it has finished",
    "SQLITE_LOCKED": "is in use by another process. Try again when it has finished",
    "SQLITE_FULL": "cannot grow: the disk is full. Free some space and repeat the command",
    "SQLITE_READONLY": "cannot be written. Mend the folder's permissions, or copy it elsewhere",
    "SQLITE_CANTOPEN": "cannot be opened. Mend the permissions of its folder and of its files",
    "SQLITE_PERM": "cannot be opened. Mend the permissions of its folder and of its files",
    "SQLITE_CORRUPT": "is damaged. Import the newest export of it into another folder",
    "SQLITE_NOTADB": "is no SQLite database, or a damaged one. Import the newest export of it "
    "into another folder",
    "SQLITE_IOERR": "cannot be read or written: the disk failed, or is full. Free some space, "
    "check the disk, and repeat the command",
}
_DAMAGED = (
    "is damaged or was altered. See what with `promote verify --all`, or import the newest export "
    "of it into another folder"
)


class Database:
    """The SQLite file of a registry, in WAL mode: many read while one writes."""

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self.path = path
        self._engine: Engine = create_engine(
            f"sqlite:///{path.absolute()}", connect_args={"timeout": busy_seconds}
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)

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
            RegistryError: the database is locked, full, read-only or damaged.
        """
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

    def _explained(self, error: BaseException | None) -> RegistryError:
        name = str(getattr(error, "sqlite_errorname", None))
        for prefix, remedy in _REMEDIES.items():
            if name.startswith(prefix):
                return RegistryError(f"registry {self.path} {remedy} ({error}).")
        return RegistryError(f"registry {self.path} {_DAMAGED} ({error}).")

    def set_up(self, *, create: bool) -> None:
        """Makes the tables that are missing; a registry of another format is left alone.

        Args:
            create: make a registry of an empty file.

        Raises:
            RegistryError: the file is no registry, has another format or runs code of its own.
        """
        with _only_one(self.path.parent), self.errors():
            with self.read() as connection:
                found = _names(connection)
                if found or not create:
                    self._check(connection, found)
            self._use_wal()
            if set(tables.metadata.tables) <= set(found):
                return
            with self.write() as connection:
                tables.metadata.create_all(connection)
                if not found:
                    row = {"key": "format", "value": tables.FORMAT}
                    connection.execute(tables.meta.insert(), [row])

    def _use_wal(self) -> None:
        with self._engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            if raw.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                raw.execute("PRAGMA journal_mode = WAL")

    def _check(self, connection: Connection, found: dict[str, str]) -> None:
        if "meta" not in found:
            raise RegistryError(
                f"{self.path} is a database, but not a registry's. Choose another folder with "
                "--registry."
            )
        foreign = sorted(name for name, kind in found.items() if kind != "table")
        if foreign:
            raise RegistryError(
                f"registry {self.path} holds triggers, views or virtual tables, which rlarcade did "
                f"not put there: {', '.join(foreign)}. They might run code, so it is not used. Get "
                "it from somebody you trust."
            )
        query = select(tables.meta.c.value).where(tables.meta.c.key == "format")
        number = connection.scalar(query)
        if number != tables.FORMAT:
            raise RegistryError(
                f"registry {self.path} has format {number!r}; this rlarcade reads format "
                f"{tables.FORMAT}. Install the rlarcade that wrote it."
            )

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
    connection.execute("PRAGMA trusted_schema = OFF")  # the file may come from a stranger


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("rlarcade_write")
    # A reader that became a writer halfway would fail without waiting for its turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _names(connection: Connection) -> dict[str, str]:
    """Returns what the database holds: plain tables as such, and whatever could run code."""
    rows = connection.exec_driver_sql(
        "SELECT name, CASE WHEN sql LIKE 'create virtual%' THEN 'virtual table' ELSE type END "
        "FROM sqlite_master WHERE type <> 'index'"
    )
    return {str(name): str(kind) for name, kind in rows}


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Lets one process at a time set a registry up; the kernel frees the lock of a dead one."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
