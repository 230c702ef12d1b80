"""Checks versions against their files, and tables against the audit log."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Row, select

from rlarcade.checkpoint import Checkpoint, parse_tensors
from rlarcade.errors import (
    CheckpointError,
    DamagedPartError,
    RegistryError,
    UnusableRegistryError,
)
from rlarcade.registry import aliases, audit, registration, tables, versions
from rlarcade.registry.blobs import Blobs, DamagedBlobError
from rlarcade.registry.database import Database
from rlarcade.registry.documents import Problem
from rlarcade.registry.replay import CHAMPION, ReplayError, differences, replay


def load(database: Database, blobs: Blobs, row: Row[Any], actor: str) -> Checkpoint:
    """Reads a version and checks its bytes; a damaged version is marked broken.

    Raises:
        DamagedPartError: the version is broken; the message names the newest intact champion.
        UnusableRegistryError: it cannot be read, so its damage is unknown.
    """
    wrong = row.broken_reason
    if wrong is None:
        try:
            weights, manifest = versions.read_version(blobs, row)
            where = blobs.place(row.digest)
            return Checkpoint(where, manifest, parse_tensors(weights, where))
        except (DamagedBlobError, CheckpointError) as error:
            wrong = str(error)
        try_to_mark(database, row.number, wrong, actor)
    raise DamagedPartError(
        f"version {row.number} is broken: {wrong}. {_instead(database, blobs, row)} Register its "
        "checkpoint again to repair it. If its files are whole again, `promote verify` says so."
    )


def find_damage(database: Database, blobs: Blobs, row: Row[Any], actor: str) -> str | None:
    """Describes the damage of a version's files and row, and marks it broken; None if it is intact.

    Raises:
        RegistryError: a file cannot be read, so its damage is unknown.
    """
    wrong = versions.damage(blobs, row)
    if wrong is not None:
        try_to_mark(database, row.number, wrong, actor)
    return wrong


def first_whole(database: Database, blobs: Blobs, numbers: Iterable[int], actor: str) -> int | None:
    """Returns the first undamaged version, and marks the damaged ones before it broken."""
    with database.read() as connection:
        rows = [versions.by_number(connection, number) for number in numbers]
    for row in rows:
        if row is not None and not find_damage(database, blobs, row, actor):
            return int(row.number)
    return None


def try_to_mark(database: Database, number: int, wrong: str, actor: str) -> None:
    """Marks a version broken. Does nothing if the registry cannot be written."""
    with suppress(RegistryError), database.write() as connection:  # the caller reports the damage
        registration.mark_broken(connection, number, wrong, actor)


def _instead(database: Database, blobs: Blobs, broken: Row[Any]) -> str:
    with suppress(RegistryError), database.read() as connection:
        for row in aliases.champions(connection, broken.game, CHAMPION):
            sound = row.number != broken.number and row.broken_reason is None
            if sound and versions.damage(blobs, row) is None:
                return f"Use version {row.number}, the newest intact champion of {row.game}."
    return f"No other champion of {broken.game} is intact."


def verify(database: Database, blobs: Blobs, number: int | None, actor: str) -> list[Problem]:
    """Checks the tables and one version, or all versions and blobs; marks damaged versions broken.

    A version that is marked and whole again, such as after a disk was mounted, loses the mark.

    Raises:
        RegistryError: the database or a file cannot be read, so the result is unknown.
    """
    with database.read() as connection:
        problems = structure(database, connection)
        query = select(tables.versions).order_by(tables.versions.c.number)
        if number is not None:
            query = query.where(tables.versions.c.number == number)
        rows = connection.execute(query).all()
        submitted = _submissions(connection, number)
    if not problems and [row for row in rows if _is_repaired(database, blobs, row, actor)]:
        with database.read() as connection:
            rows = connection.execute(query).all()
    if number is not None:
        about = (f"version {number}", "database", *(f"submission {row.id}" for row in submitted))
        problems = [p for p in problems if p.where in about or p.where.startswith("event ")]
    problems += versions_and_blobs(blobs, rows, all_blobs=number is None)
    problems += _documents(blobs, submitted)
    for row in rows:
        wrong = next((p.what for p in problems if p.where == f"version {row.number}"), None)
        if wrong is not None and row.broken_reason is None:
            try_to_mark(database, row.number, wrong, actor)
    return problems


def _is_repaired(database: Database, blobs: Blobs, row: Row[Any], actor: str) -> bool:
    """Whether a broken version was found whole, and has lost its mark."""
    if row.broken_reason is None or versions.damage(blobs, row) is not None:
        return False
    with suppress(RegistryError), database.write() as connection:
        registration.mend(connection, blobs, row, {"source": "verify"}, actor)
        return True
    return False  # the registry can only be read


def _submissions(connection: Connection, number: int | None) -> Sequence[Row[Any]]:
    query = select(tables.submissions).order_by(tables.submissions.c.id)
    if number is not None:
        query = query.where(tables.submissions.c.version == number)
    return connection.execute(query).all()


def _documents(blobs: Blobs, submitted: Iterable[Row[Any]]) -> list[Problem]:
    """Finds submissions whose gate or verdict is missing.

    `versions_and_blobs` finds those that were altered.
    """
    problems = []
    for row in submitted:
        for name in ("gate", "verdict"):
            digest = getattr(row, name)
            if digest is not None and not blobs.holds(digest):
                what = f"its {name}, document {str(digest)[:12]}…, is missing"
                problems.append(Problem(where=f"submission {row.id}", what=what))
    return problems


def versions_and_blobs(blobs: Blobs, rows: Iterable[Row[Any]], *, all_blobs: bool) -> list[Problem]:
    """Finds versions with damaged files or rows, and other damaged blobs.

    Raises:
        RegistryError: a file cannot be read.
    """
    problems, seen = [], set()
    for row in rows:
        seen |= {row.digest, row.manifest_digest}
        wrong = versions.damage(blobs, row)
        if wrong is None and row.broken_reason is not None:
            wrong = (
                f"is marked broken ({row.broken_reason}), but is whole again. Run `promote verify` "
                "as a user who may write"
            )
        if wrong is not None:
            problems.append(Problem(where=f"version {row.number}", what=wrong))
    for digest in blobs.digests() if all_blobs else ():
        wrong = None if digest in seen else blobs.damage(digest)
        if wrong is not None:
            problems.append(Problem(where=f"document {digest}", what=wrong))
    return problems


def whole(database: Database, connection: Connection, blobs: Blobs) -> list[Problem]:
    """Finds all problems of a registry, except versions that are marked broken.

    Raises:
        RegistryError: a file cannot be read.
    """
    sound = select(tables.versions).where(tables.versions.c.broken_reason.is_(None))
    problems = structure(database, connection)
    return problems or versions_and_blobs(blobs, connection.execute(sound), all_blobs=True)


def structure(database: Database, connection: Connection) -> list[Problem]:
    """Checks the database, the audit log, and the tables against a replay of the log."""
    damaged = database.damage(connection)
    if damaged is not None:
        return [Problem(where="database", what=f"is damaged: {damaged}")]
    broken = audit.first_problem(connection)
    if broken is not None:
        return [broken]  # an altered log proves nothing about the tables
    try:
        return list(differences(connection, replay(connection)))
    except ReplayError as error:
        return [error.problem]


def require_structure(database: Database, done: str) -> None:
    """Requires a sound database, an unaltered audit log, and tables that agree with it.

    Args:
        database: the database.
        done: what shall be done with it: "exported".

    Raises:
        UnusableRegistryError: there is a problem.
    """
    with database.read() as connection:
        first = next(iter(structure(database, connection)), None)
    if first is not None:
        raise UnusableRegistryError(
            f"registry {database.name} cannot be {done}: {first.where} {first.what}. "
            "Import the newest export of it into another folder, and continue with that one."
        )
