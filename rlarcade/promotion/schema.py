"""What a registry's database may hold: the tables and indexes that rlarcade makes, to the letter.

The database may come from a stranger. SQLite can be made to run something or to take all memory
when a row is read: triggers, views, virtual tables, columns that are computed. So nothing is read
from a table whose definition is not the very one that rlarcade writes.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.promotion import tables

_SHOWN, _LONGEST = 5, 40  # names in a message, characters of each
_MOST = 1000  # things that are looked at: a registry has a dozen
_Key = tuple[str, str]
"""Kind and name of a thing in a database."""


def tables_found(connection: Connection, path: Path) -> set[str]:
    """Returns the names of a registry's tables that are there; none in an empty file.

    Raises:
        RegistryError: it is the database of something else, or has another format.
        UnusableRegistryError: it holds something that rlarcade does not make.
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
    if found[meta] == expected[meta]:  # else what it says of the format is worth nothing
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
            f"tables that rlarcade did not make, or not in this form: {told}{more}. They might run "
            "code or take all memory, so it is not used. Get it from somebody you trust."
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
    """Returns what the database holds, with the text that made it; without SQLite's own indexes."""
    query = f"SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT {_MOST}"
    found: dict[_Key, str] = {}
    for kind, name, table, text in connection.exec_driver_sql(query):
        if kind == "index" and text is None and name == f"sqlite_autoindex_{table}_1":
            continue  # of a primary key, or of UNIQUE
        key = str(kind), str(name)
        # What is there twice is not ours, whichever of the two is.
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
