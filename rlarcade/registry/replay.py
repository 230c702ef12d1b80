"""Rebuilds the tables from the audit log, and compares them with the real ones."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, select, true

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.registry import aliases, audit, registration, rollouts, tables
from rlarcade.registry.documents import Event, Problem
from rlarcade.registry.rollouts import Rows
from rlarcade.registry.states import TRANSITIONS, Submission, SubmissionState
from rlarcade.text import quoted

DECISIONS = ("approve", "deny")
_SUBMISSION = "submission."
_STATES: tuple[str, ...] = get_args(SubmissionState)
_APPROVAL = tables.approvals.columns.keys()
_ALIAS = {*tables.aliases.columns.keys()}
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
    rollouts: Rows = field(default_factory=dict)
    """By id."""
    served_games: Rows = field(default_factory=dict)
    """By rollout and number."""
    follow_ons: Rows = field(default_factory=dict)
    """By rollout and number."""
    shadows: Rows = field(default_factory=dict)
    """By rollout."""

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
        told.aliases[move.name, move.game] = move.model_dump(include=_ALIAS)
    elif event.kind.startswith(_SUBMISSION):
        _take_step(event.kind.removeprefix(_SUBMISSION), document, told)
    else:
        rollouts.replayed(event.kind, document, told)


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


@dataclass(frozen=True)
class _Compared:
    """A table, and how its rows are compared with the audit log."""

    name: str
    """Name of the table, and of its rows in `Told`."""
    key: tuple[str, ...]
    """Columns of a row's key, in the order of the keys in `Told`."""
    where: str
    """Where a problem is, in messages; the key fills {0}."""
    row: str = ""
    """Which row it is, in messages."""

    def key_of(self, row: Mapping[str, Any]) -> Any:
        values = tuple(row[column] for column in self.key)
        return values if len(values) > 1 else values[0]


_COMPARED = (
    _Compared("versions", ("number",), "version {0}"),
    _Compared("aliases", ("name", "game"), "alias {0[0]}@{0[1]}"),
    _Compared("submissions", ("id",), "submission {0}"),
    _Compared("approvals", ("submission", "by"), "submission {0[0]}", "decision of {0[1]}: "),
    _Compared("rollouts", ("id",), "rollout {0}"),
    _Compared("served_games", ("rollout", "number"), "rollout {0[0]}", "game {0[1]}: "),
    _Compared("follow_ons", ("rollout", "number"), "rollout {0[0]}", "outcome {0[1]}: "),
    _Compared("shadows", ("rollout",), "rollout {0}", "its shadow: "),
)


def differences(connection: Connection, told: Told) -> Iterator[Problem]:
    """Finds all rows that differ from the audit log."""
    yield from _compared(connection, told, {one.name: true() for one in _COMPARED})


def differences_about(connection: Connection, told: Told, about: Submission) -> Iterator[Problem]:
    """Finds rows of one submission, its version and champion that differ from the audit log."""
    some = Told(
        versions=_only(told.versions, about.version),
        aliases=_only(told.aliases, (CHAMPION, about.game)),
        submissions=_only(told.submissions, about.id),
        approvals={key: row for key, row in told.approvals.items() if key[0] == about.id},
    )
    where = {
        "versions": tables.versions.c.number == about.version,
        "aliases": (tables.aliases.c.name == CHAMPION) & (tables.aliases.c.game == about.game),
        "submissions": tables.submissions.c.id == about.id,
        "approvals": tables.approvals.c.submission == about.id,
    }
    yield from _compared(connection, some, where)


def _only(rows: Rows, key: object) -> Rows:
    return {key: rows[key]} if key in rows else {}


def _compared(
    connection: Connection, told: Told, where: Mapping[str, ColumnElement[bool]]
) -> Iterator[Problem]:
    """Compares rows of tables with the audit log.

    Args:
        connection: to the registry's database.
        told: the rows that follow from the audit log.
        where: which rows to compare, by the names of the tables to compare.
    """
    for compared in _COMPARED:
        if compared.name not in where:
            continue
        query = select(tables.metadata.tables[compared.name]).where(where[compared.name])
        rows = [dict(row) for row in connection.execute(query).mappings()]
        found = {compared.key_of(row): row for row in rows}
        yield from _unlike(found, getattr(told, compared.name), compared.where, compared.row)


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
