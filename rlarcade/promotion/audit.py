"""The audit log: every change with who made it, each entry sealed by the digest of the one before.

An entry that is altered, missing or out of place no longer fits the digests after it; a tail that
was cut off no longer fits the count and digest that `meta` holds. Whoever can write the whole file
can cut off the tail and set those back, or write another log: nothing in the file shows that. A
receipt, which is kept elsewhere, does.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select, update

from rlarcade.errors import ConfigError, RegistryError, UnusableRegistryError
from rlarcade.promotion.blobs import sha256
from rlarcade.promotion.documents import Event, Problem, Receipt
from rlarcade.promotion.tables import events, meta
from rlarcade.text import quoted

_RECEIPT = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
GENESIS = "0" * 64
_LAST = 2**63 - 1  # no row of SQLite has a larger number
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
    found = quoted(first["input"])
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
        raise UnusableRegistryError(
            f"the registry was altered: its audit log is said to have {quoted(count)} entries. "
            "Import the newest export of it into another folder."
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
    since = min(max(since, 0), _LAST)
    query = select(events).where(events.c.sequence > since).order_by(events.c.sequence)
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    for row in connection.execute(query):
        try:
            yield _event(row)
        except (ValueError, TypeError, RecursionError) as error:
            raise UnusableRegistryError(
                f"event {row.sequence} of the audit log was altered and cannot be read. See with "
                "`promote audit verify`, and import the newest export into another folder."
            ) from error


def _event(row: Row[Any]) -> Event:
    return Event.model_validate(row._asdict() | {"document": json.loads(row.document)})


def head(connection: Connection) -> Receipt:
    """Returns the receipt of the log as it is.

    Raises:
        UnusableRegistryError: it was altered, so a receipt would be of something else.
    """
    problem = first_problem(connection)
    if problem is not None:
        raise UnusableRegistryError(
            f"the audit log was altered: {problem.where} {problem.what}. Import the newest export "
            "of the registry into another folder."
        )
    count, digest = _head(connection)
    return Receipt(count=count, digest=digest)


def read_receipt(text: str) -> Receipt:
    """Reads a receipt: `COUNT:DIGEST`, or the JSON of one.

    Raises:
        ConfigError: it is none.
    """
    found = _RECEIPT.fullmatch(text.strip())
    try:
        if found:
            return Receipt(count=int(found[1]), digest=found[2])
        return Receipt.model_validate_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{quoted(text.strip())} is no receipt of an audit log. Give what `promote audit head` "
            "printed, COUNT:DIGEST, or the file that its --json wrote."
        ) from error


def against(connection: Connection, receipt: Receipt) -> Problem | None:
    """Finds out whether the log still begins with what a receipt is of; None: it does."""
    if receipt.count == 0:
        return None
    count, _ = _head(connection)
    query = select(events.c.digest).where(events.c.sequence == receipt.count)
    digest = connection.scalar(query)
    if digest is None:
        return Problem(
            where=f"event {count + 1}",
            what=f"is missing: the receipt is of {receipt.count:,} entries, the audit log has "
            f"{count:,}",
        )
    if digest != receipt.digest:
        return Problem(
            where=f"event {receipt.count}",
            what=f"is not what it was: its digest is {str(digest)[:12]}…, the receipt says "
            f"{receipt.digest[:12]}…",
        )
    return None


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
            f"was altered or is out of place: it follows {str(row.previous)[:12]}…, but the entry "
            f"before it is {previous[:12]}…"
        )
    try:
        event = _event(row)
        text = canonical_json(event.document)
        digest = sha256(canonical_json(event.model_dump(exclude={"digest"})).encode())
    except (ValueError, TypeError, RecursionError, RegistryError):
        return "was altered: it is no entry of an audit log any more"
    if digest != row.digest or text != row.document:
        return f"was altered: its digest is {digest[:12]}…, not {str(row.digest)[:12]}…"
    return None
