"""Accepts only a database whose tables and indexes are exactly those that rlarcade creates.

The database may come from a stranger. Triggers, views, virtual tables and computed columns can make
SQLite run code or use all memory when a row is read. So a table is read only if its definition is
identical to rlarcade's.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.registry import tables

_SHOWN, _LONGEST = 5, 40  # names in a message; characters of each
_MOST = 1000  # tables, indexes etc. that are examined; a registry has a dozen
_Key = tuple[str, str]
"""Kind (such as `table`) and name of something in a database."""


def tables_found(connection: Connection, path: Path) -> set[str]:
    """Returns the names of the registry's tables in a database; none for an empty file.

    Raises:
        RegistryError: the database belongs to another program, or has another format.
        UnusableRegistryError: it holds something that rlarcade does not create.
    """
    found = _found(connection)
    if not found:
        return set()
    expected = _expected()
    if ("table", tables.meta.name) not in found:
        raise RegistryError(
            f"{path} is a database, but not a registry's. Choose another folder with --registry."
        )
    meta = ("table", tables.meta.name)
    if found[meta] == expected[meta]:  # an altered table proves nothing about the format
        _require_format(connection, path)
    names = {name for kind, name in found if kind == "table"}
    indexes = {key for key in expected if key[0] == "index" and _table_of(key[1]) in names}
    wrong = [key for key, text in found.items() if expected.get(key) != text]
    wrong += sorted(indexes - found.keys())
    if wrong:
        told = ", ".join(name[:_LONGEST] for _, name in wrong[:_SHOWN])
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UnusableRegistryError(
            f"registry {path} was altered: it has tables, indexes, triggers, views or virtual "
            f"tables that rlarcade did not create, or not in this form: {told}{more}. They might "
            "run code or use all memory, so the registry is not used. Get it from somebody you "
            "trust."
        )
    return names


def _require_format(connection: Connection, path: Path) -> None:
    query = tables.meta.select().where(tables.meta.c.key == "format")
    row = connection.execute(query).first()
    number = None if row is None else row.value
    if number != tables.FORMAT:
        raise RegistryError(
            f"registry {path} has format {number!r:.80}; this rlarcade reads format "
            f"{tables.FORMAT}. Install the rlarcade that wrote it."
        )


def _found(connection: Connection) -> dict[_Key, str]:
    """Returns the SQL of everything in the database, except SQLite's automatic indexes."""
    query = f"SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT {_MOST}"
    found: dict[_Key, str] = {}
    for kind, name, table, text in connection.exec_driver_sql(query):
        if kind == "index" and text is None and name == f"sqlite_autoindex_{table}_1":
            continue  # SQLite creates it for a primary key or UNIQUE
        key = str(kind), str(name)
        # rlarcade creates nothing twice, so a duplicate must not match.
        found[key] = "twice" if key in found else " ".join(str(text).split())
    return found


@cache
def _expected() -> dict[_Key, str]:
    return {key: " ".join(text.split()) for key, text in _made()}


def _made() -> Iterator[tuple[_Key, str]]:
    dialect = sqlite.dialect()
    for table in tables.metadata.sorted_tables:
        yield ("table", table.name), str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            yield ("index", str(index.name)), str(CreateIndex(index).compile(dialect=dialect))


@cache
def _table_of(index: str) -> str:
    for table in tables.metadata.sorted_tables:
        if index in {str(one.name) for one in table.indexes}:
            return table.name
    return ""
