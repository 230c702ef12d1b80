"""The audit log: every change with who made it, each entry sealed by the digest of the one before.

An entry that is altered, missing or out of place no longer fits the digests after it; a tail that
was cut off no longer fits the count and digest that `meta` holds. Who can write the whole file can
of course write another log: keep the digest of the last entry elsewhere if that matters.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select, update

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.promotion.blobs import sha256
from rlarcade.promotion.documents import Event, Problem
from rlarcade.promotion.tables import events, meta

GENESIS = "0" * 64
"""What the first entry has for the digest of the one before."""


def canonical_json(document: Any) -> str:
    """Returns the one way of writing a document that its digest is made from.

    Raises:
        RegistryError: it holds what JSON cannot say, such as infinity.
    """
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistryError(
            f"the document cannot be kept: {error}. Keep text, whole and finite numbers, lists "
            "and tables of these."
        ) from error


def altered(what: str, error: ValidationError) -> UnusableRegistryError:
    """Returns the error of a row that is none any more."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "it"
    found = repr(first["input"])[:80]
    return UnusableRegistryError(
        f"{what} cannot be read, because its row was altered: {field} is {found}. See how with "
        "`promote verify --all`, or import the newest export into another folder."
    )


def storable(text: str) -> str:
    """Returns text as UTF-8 can hold it: an odd byte of a file name becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def now() -> str:
    """Returns the time for display. Nothing depends on it, and it may well go backwards."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def append(
    connection: Connection, kind: str, document: Mapping[str, Any], actor: str, time: str
) -> None:
    """Writes the next entry. The transaction that it belongs to must be the only writer's.

    Raises:
        RegistryError: the document is none that JSON can say, or the log has lost its head.
    """
    count, head = _head(connection)
    entry = {
        "sequence": count + 1,
        "time": time,
        "actor": storable(actor),
        "kind": kind,
        "document": dict(document),
        "previous": head,
    }
    digest = sha256(canonical_json(entry).encode())
    text = canonical_json(entry["document"])
    connection.execute(events.insert(), [{**entry, "document": text, "digest": digest}])
    if count == 0:
        keys = [{"key": "audit_count", "value": "1"}, {"key": "audit_head", "value": digest}]
        connection.execute(meta.insert(), keys)
        return
    for key, value in (("audit_count", str(count + 1)), ("audit_head", digest)):
        connection.execute(update(meta).where(meta.c.key == key).values(value=value))


def _head(connection: Connection) -> tuple[int, str]:
    found = {row.key: row.value for row in connection.execute(select(meta))}
    count, head = found.get("audit_count", "0"), found.get("audit_head", GENESIS)
    if not count.isascii() or not count.isdigit() or len(count) > 18:
        raise RegistryError(
            f"the registry was altered: its audit log is said to have {count!r} entries. Import "
            "the newest export of it into another folder."
        )
    return int(count), head


def read(connection: Connection, since: int = 0, kinds: tuple[str, ...] = ()) -> Iterator[Event]:
    """Yields the entries after one, in order.

    Args:
        connection: to the registry's database.
        since: the sequence number after which to begin.
        kinds: yield only entries of these kinds; none means all.

    Raises:
        RegistryError: an entry cannot be read, since it was altered.
    """
    query = select(events).where(events.c.sequence > since).order_by(events.c.sequence)
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    for row in connection.execute(query):
        try:
            yield _event(row)
        except (ValueError, RecursionError) as error:
            raise RegistryError(
                f"event {row.sequence} of the audit log was altered and cannot be read. See with "
                "`promote audit verify`, and import the newest export into another folder."
            ) from error


def _event(row: Row[Any]) -> Event:
    return Event.model_validate(row._asdict() | {"document": json.loads(row.document)})


def first_problem(connection: Connection) -> Problem | None:
    """Finds the first entry that was altered, is missing or is out of place; None: all is well.

    Raises:
        RegistryError: the database cannot be read.
    """
    previous, expected = GENESIS, 1
    for row in connection.execute(select(events).order_by(events.c.sequence)):
        if row.sequence != expected:
            return Problem(where=f"event {expected}", what="is missing from the audit log")
        wrong = _wrong(row, previous)
        if wrong:
            return Problem(where=f"event {expected}", what=wrong)
        previous, expected = row.digest, expected + 1
    count, head = _head(connection)
    if count >= expected:
        return Problem(
            where=f"event {expected}",
            what=f"is missing: the audit log had {count:,} entries, and ends before it",
        )
    if (count, head) != (expected - 1, previous):
        return Problem(
            where=f"event {expected - 1}",
            what=f"is not the last that was written: that was event {count}, {head[:12]}…",
        )
    return None


def _wrong(row: Row[Any], previous: str) -> str | None:
    if row.previous != previous:
        return (
            f"was altered or is out of place: it follows {row.previous[:12]}…, but the entry "
            f"before it is {previous[:12]}…"
        )
    try:
        event = _event(row)
        text = canonical_json(event.document)
        digest = sha256(canonical_json(event.model_dump(exclude={"digest"})).encode())
    except (ValueError, RecursionError, RegistryError):
        return "was altered: it is no entry of an audit log any more"
    if digest != row.digest or text != row.document:
        return f"was altered: its digest is {digest[:12]}…, not {str(row.digest)[:12]}…"
    return None
