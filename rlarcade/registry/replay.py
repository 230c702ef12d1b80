"""Rebuilds the tables from the audit log, and compares them with the real ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, select, true

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.registry import aliases, audit, registration, tables
from rlarcade.registry.documents import Event, Problem
from rlarcade.registry.states import TRANSITIONS, Submission, SubmissionState
from rlarcade.text import quoted

Rows = dict[Any, dict[str, Any]]
"""Rows of a table by their key."""

DECISIONS = ("approve", "deny")
_SUBMISSION = "submission."
_STATES: tuple[str, ...] = get_args(SubmissionState)
_APPROVAL = tables.approvals.columns.keys()
_TABLES = (tables.versions, tables.aliases, tables.submissions, tables.approvals)
CHAMPION = "champion"


class ReplayError(UnusableRegistryError):
    """An entry of the audit log is impossible after the entries before it."""

    def __init__(self, sequence: int, kind: str) -> None:
        super().__init__(
            f"event {sequence} of the audit log is no valid {kind} event. Import the newest export "
            "of the registry into another folder."
        )
        self.problem = Problem(where=f"event {sequence}", what=f"is no valid {kind} event")


@dataclass
class Told:
    """The rows that follow from the audit log."""

    versions: Rows = field(default_factory=dict)
    """By number."""
    aliases: Rows = field(default_factory=dict)
    """By name and game."""
    submissions: Rows = field(default_factory=dict)
    """By id."""
    approvals: Rows = field(default_factory=dict)
    """By submission and person's name."""

    def denied_by(self, version: str, generation: int) -> str | None:
        """Returns who denied a version against a champion's generation; None if nobody did.

        Args:
            version: the version's digest.
            generation: of the champion's alias.
        """
        for (number, by), said in self.approvals.items():
            about = self.submissions[number]
            if (
                said["decision"] == "deny"
                and about["digest"] == version
                and about["champion_generation"] == generation
            ):
                return str(by)
        return None


def replay(connection: Connection) -> Told:
    """Rebuilds the tables from the audit log.

    Raises:
        ReplayError: an entry is impossible after those before it; the message names it.
        RegistryError: an entry cannot be read.
    """
    told = Told()
    for event in audit.read(connection):
        try:
            _take(event, told)
        except (KeyError, TypeError, ValueError, RegistryError) as error:
            raise ReplayError(event.sequence, event.kind) from error
    return told


def _take(event: Event, told: Told) -> None:
    document = event.document
    if event.kind == "register":
        told.versions[document["number"]] = {**document, "archived": False, "broken_reason": None}
    elif event.kind in registration.CHANGES:
        changes: dict[str, dict[str, Any]] = {
            "broken": {"broken_reason": document.get("reason")},
            "repair": {"broken_reason": None},
            "archive": {"archived": True},
        }
        # No row: it was added by hand and then marked. The comparison of the tables finds it.
        told.versions.get(document["number"], {}).update(changes[event.kind])
    elif event.kind in aliases.MOVES:
        move = aliases.move_of(event)
        told.aliases[move.name, move.game] = {
            "version": move.version,
            "generation": move.generation,
        }
    elif event.kind.startswith(_SUBMISSION):
        _take_step(event.kind.removeprefix(_SUBMISSION), document, told)


def _take_step(step: str, document: Mapping[str, Any], told: Told) -> None:
    """Replays one event of a submission."""
    if step == "opened":
        number = document["id"]
        if number in told.submissions or document["state"] != "submitted":
            raise ValueError(f"submission {number} was opened before")
        told.submissions[number] = {"verdict": None, "note": None, **document}
        return
    row = told.submissions[document["submission"]]
    if step in DECISIONS:
        if row["state"] != "awaiting_approval" or document["decision"] != step:
            raise ValueError(f"a submission that is {row['state']} awaits no decision")
        told.approvals[row["id"], document["by"]] = {name: document[name] for name in _APPROVAL}
    elif step in _STATES:
        if document["from"] != row["state"] or document["to"] != step:
            raise ValueError(f"a submission that is {row['state']} was not {document['from']}")
        if step not in TRANSITIONS[row["state"]]:
            raise ValueError(f"a submission that is {row['state']} cannot become {step}")
        if document["version"] != row["digest"]:
            raise ValueError("it is about another version")
        kept = {name: document[name] for name in ("verdict", "note") if name in document}
        row |= {"state": step, **kept}


def differences(connection: Connection, told: Told) -> Iterator[Problem]:
    """Finds all rows that differ from the audit log."""
    yield from _compared(connection, told, [true()] * len(_TABLES))


def differences_about(connection: Connection, told: Told, about: Submission) -> Iterator[Problem]:
    """Finds rows of one submission, its version and champion that differ from the audit log."""
    some = Told(
        versions=_only(told.versions, about.version),
        aliases=_only(told.aliases, (CHAMPION, about.game)),
        submissions=_only(told.submissions, about.id),
        approvals={key: row for key, row in told.approvals.items() if key[0] == about.id},
    )
    where = (
        tables.versions.c.number == about.version,
        (tables.aliases.c.name == CHAMPION) & (tables.aliases.c.game == about.game),
        tables.submissions.c.id == about.id,
        tables.approvals.c.submission == about.id,
    )
    yield from _compared(connection, some, where)


def _only(rows: Rows, key: object) -> Rows:
    return {key: rows[key]} if key in rows else {}


def _compared(
    connection: Connection, told: Told, where: Sequence[ColumnElement[bool]]
) -> Iterator[Problem]:
    """Compares rows of versions, aliases, submissions and approvals with the audit log.

    Args:
        connection: to the registry's database.
        told: the rows that follow from the audit log.
        where: which rows of each table to compare, in the order of `_TABLES`.
    """
    versions, named, submitted, said = (
        [dict(row) for row in connection.execute(select(table).where(only)).mappings()]
        for table, only in zip(_TABLES, where, strict=True)
    )
    by_number = {row["number"]: row for row in versions}
    yield from _unlike(by_number, told.versions, "version {}")
    by_name = {
        (row["name"], row["game"]): {"version": row["version"], "generation": row["generation"]}
        for row in named
    }
    yield from _unlike(by_name, told.aliases, "alias {0[0]}@{0[1]}")
    by_id = {row["id"]: row for row in submitted}
    yield from _unlike(by_id, told.submissions, "submission {}")
    by_person = {(row["submission"], row["by"]): row for row in said}
    yield from _unlike(by_person, told.approvals, "submission {0[0]}", "decision of {0[1]}: ")


def _unlike(found: Rows, told: Rows, where: str, row: str = "") -> Iterable[Problem]:
    for key in sorted({*found, *told}, key=str):
        if key not in told:
            wrong: str | None = "was added by hand: the audit log does not have it"
        elif key not in found:
            wrong = "is missing from its table: the audit log has it"
        else:
            wrong = _altered(found[key], told[key])
        if wrong is not None:
            yield Problem(where=where.format(key), what=row.format(key) + wrong)


def _altered(found: Mapping[str, Any], told: Mapping[str, Any]) -> str | None:
    for name, value in found.items():
        if name not in told or told[name] != value:
            true = told.get(name)
            return (
                f"its row was altered: {name} is {quoted(value)}, the audit log says {quoted(true)}"
            )
    return None
