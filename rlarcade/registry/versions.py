"""Rows of the table of versions: making, checking and finding them."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, Select, func, select

from rlarcade.checked import reason
from rlarcade.checkpoint import FORMAT_VERSION, Manifest
from rlarcade.errors import DamagedPartError, RegistryError
from rlarcade.files import LARGEST_TEXT
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import FRAMESKIP, SCREEN, STACK, Protocol
from rlarcade.json_text import parse_json
from rlarcade.registry import tables
from rlarcade.registry.audit import canonical_json, storable
from rlarcade.registry.blobs import Blobs, DamagedBlobError, sha256
from rlarcade.registry.documents import Version
from rlarcade.text import quoted

ALIAS_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_PREFIX = re.compile(r"[0-9a-fA-F]{6,64}")
_COLUMNS = tuple(tables.versions.columns.keys())
_LARGEST = 2**63 - 1  # integer of SQL

Record = dict[str, Any]
"""A row of the table of versions."""


def contract(game: str, protocol: Protocol, num_actions: int) -> str:
    """Returns the sha256 of everything that a player of a version must match."""
    document = {
        "game": game,
        "protocol": protocol.model_dump(),
        "num_actions": num_actions,
        "observation": {"shape": [STACK, SCREEN, SCREEN], "dtype": "uint8"},
        "frameskip": FRAMESKIP,
    }
    return sha256(canonical_json(document).encode())


def described(manifest: Manifest, manifest_digest: str) -> Record:
    """Returns the columns of a version's row that follow from its manifest.

    Raises:
        GameError: the manifest names a game that does not exist.
        RegistryError: it has a number that is too large for a database.
    """
    game = resolve_game(manifest.game)
    record = {
        "digest": manifest.weights_sha256,
        "game": game,
        "protocol": canonical_json(manifest.protocol.model_dump()),
        "num_actions": manifest.num_actions,
        "contract": contract(game, manifest.protocol, manifest.num_actions),
        "manifest_digest": manifest_digest,
        "parent": manifest.parent,
        "preset": _storable(manifest.preset),
        "seed": manifest.seed,
        "steps": manifest.counters.steps,
        "frames": manifest.counters.frames,
        "updates": manifest.counters.updates,
        "git_commit": _storable(manifest.git_commit),
        "libraries": canonical_json(manifest.libraries),
    }
    for name, value in record.items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise RegistryError(
                f"{name} {value} is too large to be registered: a registry keeps whole numbers up "
                f"to {_LARGEST}. Train again with another one."
            )
    return record


def _storable(text: str | None) -> str | None:
    return None if text is None else storable(text)


def read_manifest(data: bytes) -> Manifest:
    """Parses the manifest of a registered version.

    Raises:
        DamagedBlobError: the manifest is invalid, or has another format.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        what = reason(error).rstrip(".")
        raise DamagedBlobError(f"its manifest is invalid: {what}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise DamagedBlobError(
            f"its manifest has format version {manifest.format_version}, not {FORMAT_VERSION}"
        )
    return manifest


def read_version(blobs: Blobs, row: Row[Any]) -> tuple[bytes, Manifest]:
    """Reads a version's weights and manifest, and checks that both agree with the row.

    Raises:
        DamagedBlobError: something is missing or altered; the message says what.
        RegistryError: a file cannot be read, so its damage is unknown.
    """
    try:
        weights = blobs.get(row.digest, row.weights_bytes)
        manifest = read_manifest(blobs.get(row.manifest_digest, limit=LARGEST_TEXT))
        true = described(manifest, row.manifest_digest)
    except DamagedBlobError:
        raise
    except (ValueError, TypeError) as error:  # an invalid game or digest
        raise DamagedBlobError(f"its row or manifest was altered: {error}") from error
    for column, value in true.items():
        found = getattr(row, column)
        if found != value:
            raise DamagedBlobError(
                f"its row was altered: {column} is {quoted(found)}, its manifest says "
                f"{quoted(value)}"
            )
    return weights, manifest


def damage(blobs: Blobs, row: Row[Any]) -> str | None:
    """Describes the damage of a version's files and row; None if it is intact.

    Raises:
        RegistryError: a file cannot be read, so its damage is unknown.
    """
    try:
        read_version(blobs, row)
    except DamagedBlobError as error:
        return str(error)
    return None


def documents(rows: Iterable[Row[Any]], aliases: Iterable[Row[Any]]) -> list[Version]:
    """Turns rows into documents.

    Raises:
        RegistryError: a row was altered and is no longer valid.
    """
    names: dict[int, list[str]] = {}
    for alias in aliases:
        names.setdefault(alias.version, []).append(alias.name)
    return [_document(row, tuple(sorted(map(str, names.get(row.number, ()))))) for row in rows]


def _document(row: Row[Any], aliases: tuple[str, ...]) -> Version:
    record = dict(zip(_COLUMNS, row, strict=True))  # for thousands of rows; row._asdict() is slow
    archived = record.pop("archived")
    broken = record["broken_reason"] is not None
    try:
        return Version(
            **record
            | {
                "protocol": _protocol(row.protocol),
                "libraries": dict(_libraries(row.libraries)),
                "aliases": aliases,
                "state": "broken" if broken else "archived" if archived else "ok",
            }
        )
    except (ValueError, TypeError) as error:
        raise DamagedPartError(
            f"version {row.number} cannot be read: its row was altered. For details run `promote "
            "verify --all`, or import the newest export into another folder."
        ) from error


@lru_cache(maxsize=64)  # thousands of versions share a few protocols
def _protocol(text: str) -> Protocol:
    return Protocol.model_validate_json(text)


@lru_cache(maxsize=64)
def _libraries(text: str) -> dict[str, str]:
    libraries: dict[str, str] = parse_json(text)
    return libraries


def alias_rows(connection: Connection) -> list[Row[Any]]:
    """Returns the aliases that point to a version."""
    query = select(tables.aliases).where(tables.aliases.c.version.is_not(None))
    return list(connection.execute(query.order_by(tables.aliases.c.game, tables.aliases.c.name)))


def find(connection: Connection, reference: int | str) -> Row[Any]:
    """Finds the version with this number, digest, beginning of a digest, or alias@game.

    Raises:
        GameError: the game after the @ does not exist.
        RegistryError: no version matches, or several do; the message lists what there is.
    """
    text = str(reference).strip()
    if "@" in text:
        return _by_alias(connection, text)
    if re.fullmatch(r"[0-9]{1,19}", text):
        row = by_number(connection, int(text))
        if row is not None:
            return row
    if isinstance(reference, str) and _PREFIX.fullmatch(text):
        return _by_prefix(connection, text.lower())
    count = connection.scalar(select(func.count()).select_from(tables.versions))
    known = f"Its versions are numbered 1 to {count}" if count else "It holds no version"
    raise RegistryError(
        f"the registry has no version {quoted(text)}. {known}. Name a version by its number, its "
        "digest, the first six or more digits of that, or alias@game, such as "
        "champion@space_invaders."
    )


def by_number(connection: Connection, number: int) -> Row[Any] | None:
    """Returns the row with this number, if there is one."""
    if not 0 < number <= _LARGEST:
        return None
    return _first(connection, select(tables.versions).where(tables.versions.c.number == number))


def by_digest(connection: Connection, digest: str) -> Row[Any] | None:
    """Returns the row whose weights have this digest, if there is one."""
    return _first(connection, select(tables.versions).where(tables.versions.c.digest == digest))


def _first(connection: Connection, query: Select[Any]) -> Row[Any] | None:
    return connection.execute(query).first()


def _by_prefix(connection: Connection, prefix: str) -> Row[Any]:
    column = tables.versions.c.digest
    query = select(tables.versions).where(column.like(f"{prefix}%"))
    rows = connection.execute(query.order_by(tables.versions.c.number).limit(6)).all()
    if not rows:
        raise RegistryError(
            f"the registry has no version whose digest begins with {prefix}. List them with "
            "`promote versions`."
        )
    if len(rows) > 1:
        found = ", ".join(f"{row.number} ({row.digest[: len(prefix) + 6]}…)" for row in rows[:5])
        more = " and more" if len(rows) > 5 else ""
        raise RegistryError(
            f"{prefix} is the beginning of several digests: versions {found}{more}. Give more "
            "digits, or the version's number."
        )
    return rows[0]


def _by_alias(connection: Connection, text: str) -> Row[Any]:
    name, _, spelling = text.partition("@")
    check_name(name)
    game = resolve_game(spelling)
    table = tables.aliases
    query = (
        select(tables.versions)
        .join(table, table.c.version == tables.versions.c.number)
        .where(table.c.game == game, table.c.name == name)
    )
    row = _first(connection, query)
    if row is None:
        found = ", ".join(f"{row.name}@{row.game}" for row in alias_rows(connection)[:10])
        raise RegistryError(
            f"{game} has no {name}. "
            f"{f'Aliases in use: {found}' if found else 'No alias is in use yet'}. Name a version "
            "by its number, or create the alias with `promote promote` or `promote alias set`."
        )
    return row


def check_name(name: str) -> None:
    """Requires a valid name for an alias.

    Raises:
        RegistryError: the name is empty, too long or has an invalid character.
    """
    if not ALIAS_NAME.fullmatch(name):
        raise RegistryError(
            f"{quoted(name)} cannot be an alias. Begin with a-z and continue with at most 63 of "
            "a-z, 0-9, _ and -."
        )
