"""Aliases: moved by compare-and-swap on their generation, and back along their history."""

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select, update

from rlarcade.errors import DamagedPartError, RegistryError, StaleError, UnusableRegistryError
from rlarcade.games.names import display_name
from rlarcade.registry import audit, tables, versions
from rlarcade.registry.documents import Alias, AliasMove, Event, MoveKind
from rlarcade.registry.people import system_user

MOVES: tuple[str, ...] = get_args(MoveKind)
_table = tables.aliases


def find(connection: Connection, game: str, name: str) -> Alias | None:
    """Returns an alias; None if it does not exist or points to no version."""
    return next(iter(find_all(connection, game, name)), None)


def find_all(
    connection: Connection, game: str | None = None, name: str | None = None
) -> list[Alias]:
    """Returns the aliases of one game or of all games that point to a version."""
    columns = (_table.c.game, _table.c.name, _table.c.version, _table.c.generation)
    query = select(*columns, tables.versions.c.digest).join(tables.versions)
    if game is not None:
        query = query.where(_table.c.game == game)
    if name is not None:
        query = query.where(_table.c.name == name)
    rows = connection.execute(query.order_by(_table.c.game, _table.c.name))
    return [_document(row._asdict()) for row in rows]


def _document(row: dict[str, Any]) -> Alias:
    try:
        return Alias.model_validate(row)
    except ValidationError as error:
        raise audit.altered(f"alias {row['name']}@{row['game']}", error) from error


def generation(connection: Connection, game: str, name: str) -> int:
    """Returns how often an alias was moved; 0 if it never was."""
    row = _row(connection, game, name)
    return 0 if row is None else int(row.generation)


def _row(connection: Connection, game: str, name: str) -> Row[Any] | None:
    query = select(_table).where(_table.c.game == game, _table.c.name == name)
    row = connection.execute(query).first()
    if row is not None and not (
        isinstance(row.generation, int) and isinstance(row.version, int | None)
    ):
        raise UnusableRegistryError(
            f"alias {name}@{game} cannot be read, because its row was altered: version "
            f"{row.version!r:.40}, generation {row.generation!r:.40}. For details run `promote "
            "verify --all`, or import the newest export into another folder."
        )
    return row


def history(connection: Connection, game: str, name: str) -> list[AliasMove]:
    """Returns the moves of an alias, oldest first.

    Raises:
        RegistryError: the audit log was altered.
    """
    moves = audit.read(connection, kinds=MOVES)
    return [
        move_of(event)
        for event in moves
        if (event.document.get("game"), event.document.get("name")) == (game, name)
    ]


def move_of(event: Event) -> AliasMove:
    """Returns the move that an entry of the audit log records.

    Raises:
        RegistryError: the entry was altered and records no move.
    """
    told = {"kind": event.kind, "actor": event.actor, "time": event.time}
    try:
        return AliasMove.model_validate(event.document | told)
    except ValueError as error:
        raise UnusableRegistryError(
            f"event {event.sequence} of the audit log was altered: it records no move. For details "
            "run `promote audit verify`, and import the newest export into another folder."
        ) from error


def stack(moves: Iterable[AliasMove]) -> list[int | None]:
    """Replays moves on a stack: a move pushes its version, a roll back pops all above its version.

    So a second roll back goes further back, and no roll back returns to a version that was popped.
    """
    found: list[int | None] = []
    for move in moves:
        if move.kind != "rollback":
            if not found or found[-1] != move.version:
                found.append(move.version)
            continue
        found = found[:-1]
        while found and found[-1] != move.version:
            found.pop()
    return found


def previous(connection: Connection, game: str, name: str) -> list[Row[Any]]:
    """Returns the versions that an alias can roll back to, newest first.

    Raises:
        RegistryError: the audit log was altered.
    """
    numbers = stack(history(connection, game, name))
    below = dict.fromkeys(n for n in reversed(numbers[:-1]) if n not in (None, numbers[-1]))
    rows = [versions.by_number(connection, number) for number in below if number is not None]
    return [row for row in rows if row is not None and _usable(row)]


def champions(connection: Connection, game: str, name: str) -> list[Row[Any]]:
    """Returns the version that an alias points to, then those that it can roll back to.

    Raises:
        RegistryError: the audit log was altered.
    """
    alias = find(connection, game, name)
    now = versions.by_number(connection, alias.version) if alias else None
    return [row for row in (now, *previous(connection, game, name)) if row is not None]


def _usable(row: Row[Any]) -> bool:
    return row.broken_reason is None and not row.archived


def move(
    connection: Connection,
    game: str,
    name: str,
    version: int | None,
    *,
    expected_generation: int,
    kind: MoveKind,
    actor: str,
    reason: str | None = None,
    verdict: str | None = None,
) -> Alias | None:
    """Moves an alias and writes the audit log, unless it was moved since the caller read it.

    Raises:
        RegistryError: the version does not exist, is broken, archived or of another game.
        StaleError: somebody else has moved the alias.
        ValueError: there is no such kind of move.
    """
    versions.check_name(name)
    row = _row(connection, game, name)
    found = 0 if row is None else int(row.generation)
    if found != expected_generation:
        raise _stale(connection, game, name, found, expected_generation)
    if version is not None:
        _check_target(connection, game, name, version)
    elif row is None:
        raise RegistryError(f"{game} has no {name} to take away.")
    if kind == "rollback" and version not in {r.number for r in previous(connection, game, name)}:
        raise never_held(game, name, version)
    done = AliasMove(
        game=game,
        name=name,
        version=version,
        previous=None if row is None else row.version,
        generation=found + 1,
        kind=kind,
        actor=actor,
        reason=reason,
        time=audit.now(),
        verdict=verdict,
        os_user=system_user(),
    )
    _write(connection, done)
    told = done.model_dump(exclude={"kind", "actor", "time"})
    audit.append(connection, kind, told, actor, done.time)
    return find(connection, game, name)


def _write(connection: Connection, done: AliasMove) -> None:
    if done.generation == 1:
        row = done.model_dump(include={"game", "name", "version", "generation"})
        connection.execute(_table.insert(), [row])
        return
    connection.execute(
        update(_table)
        .where(_table.c.game == done.game, _table.c.name == done.name)
        .values(version=done.version, generation=done.generation)
    )


def _check_target(connection: Connection, game: str, name: str, number: int) -> None:
    row = versions.by_number(connection, number)
    if row is None:
        raise RegistryError(f"the registry has no version {number}. See `promote versions`.")
    if row.game != game:
        raise RegistryError(
            f"version {number} plays {display_name(row.game)} and cannot be the {name} of "
            f"{display_name(game)}. Choose a version of that game: `promote versions --game "
            f"{game}`."
        )
    if row.broken_reason is not None:
        raise DamagedPartError(
            f"version {number} is broken and cannot become {name}: {row.broken_reason}. Register "
            "its checkpoint again to repair it, or choose another version."
        )
    if row.archived:
        raise RegistryError(
            f"version {number} is archived and cannot become {name}. Choose another version."
        )


def _stale(connection: Connection, game: str, name: str, found: int, expected: int) -> StaleError:
    since = [m for m in history(connection, game, name) if m.generation > expected]
    told = "; ".join(
        f"{m.kind} from {_shown(m.previous)} to {_shown(m.version)} by {m.actor} ({m.time})"
        for m in since[-3:]
    )
    return StaleError(
        f"STALE: the {name} of {game} is at generation {found}, not {expected} as expected"
        f"{f'. Moves since then: {told}' if told else ''}. Nothing was changed. Look at it again "
        "and decide again."
    )


def _shown(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def never_held(game: str, name: str, version: int | None) -> RegistryError:
    """Returns the error for a roll back to a version that the alias cannot return to."""
    return RegistryError(
        f"the {name} of {game} cannot roll back to {_shown(version)}: it is not one of the usable "
        "versions that the alias pointed to before. See `promote alias history`; any version can "
        "be promoted."
    )
