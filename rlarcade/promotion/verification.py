"""Is everything as it was written? Versions against their files, tables against the audit log."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Row, select

from rlarcade.checkpoint import Checkpoint, parse_tensors
from rlarcade.errors import CheckpointError, RegistryError
from rlarcade.promotion import aliases, audit, registration, tables, versions
from rlarcade.promotion.blobs import Blobs, DamagedBlobError
from rlarcade.promotion.database import Database
from rlarcade.promotion.documents import Event, Problem

CHAMPION = "champion"

_Rows = dict[Any, dict[str, Any]]


def load(database: Database, blobs: Blobs, row: Row[Any], actor: str) -> Checkpoint:
    """Reads a version and checks its bytes; one that is damaged is marked broken.

    Raises:
        RegistryError: it is broken; with the newest champion to use in its place.
    """
    wrong = row.broken_reason
    if wrong is None:
        try:
            weights, manifest = versions.read_version(blobs, row)
            where = blobs.path(row.digest)
            return Checkpoint(where, manifest, parse_tensors(weights, where))
        except (DamagedBlobError, CheckpointError) as error:
            wrong = str(error)
        _try_to_mark(database, row.number, wrong, actor)
    raise RegistryError(
        f"version {row.number} is broken: {wrong}. {_instead(database, blobs, row)} Registering "
        "its checkpoint again mends it."
    )


def find_damage(database: Database, blobs: Blobs, row: Row[Any], actor: str) -> str | None:
    """Says what is wrong with a version's files and row, and marks it broken; None if nothing is.

    Raises:
        RegistryError: a file cannot be read, so that nothing is known.
    """
    wrong = versions.damage(blobs, row)
    if wrong is not None:
        _try_to_mark(database, row.number, wrong, actor)
    return wrong


def _try_to_mark(database: Database, number: int, wrong: str, actor: str) -> None:
    with suppress(RegistryError), database.write() as connection:  # it is told in any case
        registration.mark_broken(connection, number, wrong, actor)


def _instead(database: Database, blobs: Blobs, broken: Row[Any]) -> str:
    with suppress(RegistryError), database.read() as connection:
        for row in aliases.champions(connection, broken.game, CHAMPION):
            sound = row.number != broken.number and row.broken_reason is None
            if sound and versions.damage(blobs, row) is None:
                return f"Use version {row.number}, the newest whole champion of {row.game}."
    return f"No other champion of {broken.game} is whole."


def verify(database: Database, blobs: Blobs, number: int | None, actor: str) -> list[Problem]:
    """Checks one version, or all of them and every blob, and the tables; marks what is broken.

    Raises:
        RegistryError: the database or a file cannot be read, so that nothing is known.
    """
    with database.read() as connection:
        problems = structure(connection)
        query = select(tables.versions).order_by(tables.versions.c.number)
        if number is not None:
            query = query.where(tables.versions.c.number == number)
        rows = connection.execute(query).all()
    if number is not None:
        problems = [
            p
            for p in problems
            if not p.where.startswith(("version ", "alias ")) or p.where == f"version {number}"
        ]
    problems += versions_and_blobs(blobs, rows, all_blobs=number is None)
    for row in rows:
        wrong = next((p.what for p in problems if p.where == f"version {row.number}"), None)
        if wrong is not None and row.broken_reason is None:
            _try_to_mark(database, row.number, wrong, actor)
    return problems


def versions_and_blobs(blobs: Blobs, rows: Iterable[Row[Any]], *, all_blobs: bool) -> list[Problem]:
    """Finds versions whose files or rows are damaged, and other blobs that are.

    Raises:
        RegistryError: a file cannot be read.
    """
    problems, seen = [], set()
    for row in rows:
        seen |= {row.digest, row.manifest_digest}
        wrong = versions.damage(blobs, row)
        if wrong is None and row.broken_reason is not None:
            wrong = f"is marked broken ({row.broken_reason}). Register its checkpoint again"
        if wrong is not None:
            problems.append(Problem(where=f"version {row.number}", what=wrong))
    for digest in blobs.digests() if all_blobs else ():
        wrong = None if digest in seen else blobs.damage(digest)
        if wrong is not None:
            problems.append(Problem(where=f"document {digest}", what=wrong))
    return problems


def whole(connection: Connection, blobs: Blobs) -> list[Problem]:
    """Finds whatever is wrong with a registry, but for versions that say so themselves.

    Raises:
        RegistryError: a file cannot be read.
    """
    sound = select(tables.versions).where(tables.versions.c.broken_reason.is_(None))
    problems = structure(connection)
    return problems or versions_and_blobs(blobs, connection.execute(sound), all_blobs=True)


def structure(connection: Connection) -> list[Problem]:
    """Checks file and audit log, and that its replay gives the versions and aliases there are."""
    pages = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if pages != "ok":
        return [Problem(where="database", what=f"is damaged: {pages}")]
    broken = audit.first_problem(connection)
    if broken is not None:
        return [broken]  # what it tells of the tables is worth nothing
    known: _Rows = {}
    moved: _Rows = {}
    for event in audit.read(connection):
        try:
            _replay(event, known, moved)
        except (KeyError, TypeError, RegistryError):
            return [Problem(where=f"event {event.sequence}", what=f"tells of no {event.kind}")]
    found = {row.number: row._asdict() for row in connection.execute(select(tables.versions))}
    problems = list(_differences(found, known, "version {}"))
    named = {
        (row.name, row.game): {"version": row.version, "generation": row.generation}
        for row in connection.execute(select(tables.aliases))
    }
    return [*problems, *_differences(named, moved, "alias {0[0]}@{0[1]}")]


def _replay(event: Event, known: _Rows, moved: _Rows) -> None:
    told = event.document
    if event.kind == "register":
        known[told["number"]] = {**told, "archived": False, "broken_reason": None}
    elif event.kind in registration.CHANGES:
        changes: dict[str, dict[str, Any]] = {
            "broken": {"broken_reason": told.get("reason")},
            "repair": {"broken_reason": None},
            "archive": {"archived": True},
        }
        # A row that was put in by hand may have been marked; it is found without this.
        known.get(told["number"], {}).update(changes[event.kind])
    elif event.kind in aliases.MOVES:
        move = aliases.move_of(event)
        moved[move.name, move.game] = {"version": move.version, "generation": move.generation}


def _differences(found: _Rows, told: _Rows, where: str) -> Iterable[Problem]:
    for key in sorted({*found, *told}, key=str):
        place = where.format(key)
        if key not in told:
            yield Problem(where=place, what="was put in by hand: the audit log does not know it")
        elif key not in found:
            yield Problem(where=place, what="is missing from its table: the audit log has it")
        else:
            yield from _fields(found[key], told[key], place)


def _fields(found: Mapping[str, Any], told: Mapping[str, Any], place: str) -> Iterable[Problem]:
    for name, value in found.items():
        if name not in told or told[name] != value:
            true = told.get(name)
            yield Problem(
                where=place,
                what=f"its row was altered: {name} is {value!r}, the audit log says {true!r}",
            )
            return
