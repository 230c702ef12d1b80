"""The audit log: every change and its actor, in entries that are chained by their digests.

Each entry holds the digest of the entry before. So an entry that is altered, missing or out of
place does not fit its neighbours. If the last entries are cut off, the log does not fit the count
and digest in the table `meta`. But a person who can write the whole file can also change `meta`, or
rewrite the whole log. Only a receipt that is kept elsewhere reveals that.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Row, select, update

from rlarcade.errors import ConfigError, DamagedPartError, RegistryError, UnusableRegistryError
from rlarcade.json_text import parse_json
from rlarcade.registry.blobs import sha256
from rlarcade.registry.documents import Event, Problem, Receipt
from rlarcade.registry.tables import events, meta
from rlarcade.text import quoted

_RECEIPT = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
GENESIS = "0" * 64
"""In the first entry, in place of the digest of the entry before."""
_LAST = 2**63 - 1  # largest integer of SQLite


def canonical_json(document: Any) -> str:
    """Returns a document as canonical JSON, from which its digest is computed.

    Raises:
        RegistryError: JSON cannot represent the document, for example infinity.
    """
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistryError(
            f"the document cannot be stored: {error}. Use only text, finite numbers, lists and "
            "tables."
        ) from error


def altered(what: str, error: ValidationError) -> DamagedPartError:
    """Returns the error for a row that was altered and is no longer valid."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "it"
    found = quoted(first["input"])
    return DamagedPartError(
        f"{what} cannot be read, because its row was altered: {field} is {found}. For details run "
        "`promote verify --all`, or import the newest export into another folder."
    )


def storable(text: str) -> str:
    r"""Returns text that every database can keep.

    An invalid byte of a file name becomes an escape, and so does NUL, which PostgreSQL refuses.
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", r"\x00")


def now() -> str:
    """Returns the UTC time for display. Nothing depends on it, since clocks may be set back."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def append(
    connection: Connection, kind: str, document: Mapping[str, Any], actor: str, time: str
) -> None:
    """Writes the next entry, in a transaction of `Database.write`.

    Raises:
        RegistryError: JSON cannot represent the document, or the log's count in `meta` is invalid.
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
            f"the registry was altered: the number of its audit log's entries is given as "
            f"{quoted(count)}. Import the newest export of it into another folder."
        )
    return int(count), head


def read(connection: Connection, since: int = 0, kinds: tuple[str, ...] = ()) -> Iterator[Event]:
    """Yields entries in order.

    Args:
        connection: to the registry's database.
        since: yield only entries after this sequence number.
        kinds: yield only entries of these kinds; empty: of all kinds.

    Raises:
        RegistryError: an entry was altered and cannot be read.
    """
    since = min(max(since, 0), _LAST)
    query = select(events).where(events.c.sequence > since).order_by(events.c.sequence)
    if kinds:
        query = query.where(events.c.kind.in_(kinds))
    for row in connection.execute(query):
        try:
            yield _event(row)
        except (ValueError, TypeError) as error:
            raise UnusableRegistryError(
                f"event {row.sequence} of the audit log was altered and cannot be read. For "
                "details run `promote audit verify`, and import the newest export into another "
                "folder."
            ) from error


def _event(row: Row[Any]) -> Event:
    return Event.model_validate(row._asdict() | {"document": parse_json(row.document)})


def head(connection: Connection) -> Receipt:
    """Returns a receipt of the current log.

    Raises:
        UnusableRegistryError: the log was altered.
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
    """Reads a receipt: `COUNT:DIGEST`, or a receipt as JSON.

    Raises:
        ConfigError: the text is not a receipt.
    """
    found = _RECEIPT.fullmatch(text.strip())
    try:
        if found:
            return Receipt(count=int(found[1]), digest=found[2])
        return Receipt.model_validate_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{quoted(text.strip())} is not a receipt of an audit log. Give the COUNT:DIGEST that "
            "`promote audit head` printed, or the file that its --json wrote."
        ) from error


def against(connection: Connection, receipt: Receipt) -> Problem | None:
    """Checks that the log begins with the entries of a receipt; None: it does."""
    if receipt.count == 0:
        return None
    count, _ = _head(connection)
    query = select(events.c.digest).where(events.c.sequence == receipt.count)
    digest = connection.scalar(query)
    if digest is None:
        return Problem(
            where=f"event {count + 1}",
            what=f"is missing: the receipt says {receipt.count:,} entries, the audit log has "
            f"{count:,}",
        )
    if digest != receipt.digest:
        return Problem(
            where=f"event {receipt.count}",
            what=f"was altered: its digest is {str(digest)[:12]}…, the receipt says "
            f"{receipt.digest[:12]}…",
        )
    return None


def first_problem(connection: Connection) -> Problem | None:
    """Finds the first entry that was altered, is missing or is out of place; None: there is none.

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
            what=f"is missing: the audit log had {count:,} entries and ends before this one",
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
    except (ValueError, TypeError, RegistryError):
        return "was altered: it is no longer an entry of an audit log"
    if digest != row.digest or text != row.document:
        return f"was altered: its digest is {digest[:12]}…, not {str(row.digest)[:12]}…"
    return None
