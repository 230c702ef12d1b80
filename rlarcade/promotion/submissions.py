"""Submissions: a version on its way through a gate, and the states it can be in.

A submission is bound to what it was submitted against: the version's digest, the gate, and the
champion with the generation of its alias. Once the champion has moved on, it is stale.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Row, Select, func, insert, select, update

from rlarcade.errors import StaleError
from rlarcade.promotion.documents import Version
from rlarcade.promotion.registry import Registry
from rlarcade.promotion.tables import approvals, submissions

Mode = Literal["promote", "ci", "delivery", "deployment"]
SubmissionState = Literal[
    "submitted",
    "verifying",
    "matching",
    "passed",
    "rejected",
    "inconclusive",
    "error",
    "awaiting_approval",
    "approved",
    "denied",
    "expired",
    "stale",
    "promoted",
]

TRANSITIONS: dict[SubmissionState, tuple[SubmissionState, ...]] = {
    "submitted": ("verifying", "stale"),
    "verifying": ("matching", "passed", "rejected", "inconclusive", "error", "stale"),
    "matching": ("passed", "rejected", "inconclusive", "error", "stale"),
    "error": ("verifying", "stale"),
    "passed": ("awaiting_approval", "approved", "stale"),
    "awaiting_approval": ("approved", "denied", "expired", "stale"),
    "approved": ("promoted", "stale"),
    "rejected": (),
    "inconclusive": (),
    "denied": (),
    "expired": (),
    "stale": (),
    "promoted": (),
}
"""Where a submission can go from each state. Only `passed` leads on, by approval, to `promoted`."""


class Approval(BaseModel):
    """What a person said, and of what exactly they said it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    decision: Literal["approve", "deny"]
    note: str
    version: str
    """Digest of the version."""
    verdict: str
    """Digest of the gate's verdict."""
    champion_generation: int
    time: str


class Submission(BaseModel):
    """A version on its way through a gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    version: int
    digest: str
    game: str
    mode: Mode
    state: SubmissionState
    champion: int | None
    """Number of the champion that it is measured against."""
    champion_generation: int
    gate: str
    """Digest of the gate."""
    verdict: str | None = None
    """Digest of what the gate found."""
    note: str | None = None
    """Why it is where it is, where the state does not say it."""
    opened: str
    opened_by: str
    approvals: tuple[Approval, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing can happen to it any more."""
        return not TRANSITIONS[self.state] or (self.mode == "ci" and self.state == "passed")

    def expired(self, days: float, now: datetime) -> bool:
        """Whether it has waited for longer. A clock that went backwards makes nothing expire."""
        return now - datetime.fromisoformat(self.opened) > timedelta(days=days)


def open_submission(
    registry: Registry, version: Version, *, mode: Mode, gate: str, actor: str
) -> Submission:
    """Submits a version to its game's gate, or finds the submission that is the same.

    The same is one of the same version, mode, gate and champion: asking again throws no dice again.

    Raises:
        RegistryError: the registry cannot be written.
    """
    alias = registry.alias(version.game)
    generation = registry.generation(version.game)
    wanted = {
        "version": version.number,
        "mode": mode,
        "gate": gate,
        "champion_generation": generation,
    }
    row = wanted | {
        "digest": version.digest,
        "game": version.game,
        "state": "submitted",
        "champion": alias.version if alias else None,
        "opened": _now(),
        "opened_by": actor,
    }
    same = select(submissions).filter_by(**wanted).where(submissions.c.state != "expired")
    earlier = _found(registry, same)
    if earlier:
        return earlier[0]
    with suppress(_OpenedMeanwhile), registry.transaction("submission.opened", row, actor) as base:
        if base.execute(same).first() is not None:
            raise _OpenedMeanwhile
        row["id"] = (base.execute(select(func.max(submissions.c.id))).scalar() or 0) + 1
        base.execute(insert(submissions).values(**row))
    return _found(registry, same)[0]


class _OpenedMeanwhile(Exception):
    """Another process was faster, so this transaction changes nothing."""


def submission(registry: Registry, number: int) -> Submission:
    """Returns a submission by its number.

    Raises:
        KeyError: there is none.
    """
    found = _found(registry, select(submissions).where(submissions.c.id == number))
    if not found:
        raise KeyError(number)
    return found[0]


def submissions_of(
    registry: Registry, *, version: int | None = None, game: str | None = None
) -> list[Submission]:
    """Returns submissions, newest first, of one version, of one game or all."""
    query = select(submissions).order_by(submissions.c.id.desc())
    if version is not None:
        query = query.where(submissions.c.version == version)
    if game is not None:
        query = query.where(submissions.c.game == game)
    return _found(registry, query)


def move(
    registry: Registry,
    current: Submission,
    state: SubmissionState,
    actor: str,
    also: Callable[[Connection], object] | None = None,
    **changes: str,
) -> Submission:
    """Moves a submission to its next state, in one transaction with its audit event.

    Args:
        registry: holds it.
        current: the submission as it was looked at.
        state: where it goes.
        actor: who moves it.
        also: changes something else in the same transaction.
        **changes: `verdict` or `note`.

    Raises:
        StaleError: somebody else has moved it meanwhile.
        ValueError: no transition leads there.
    """
    if state not in TRANSITIONS[current.state]:
        raise ValueError(f"a submission that is {current.state} cannot become {state}")
    document = {
        "submission": current.id,
        "version": current.digest,
        "from": current.state,
        "to": state,
        **changes,
    }
    with registry.transaction(f"submission.{state}", document, actor) as connection:
        moved = connection.execute(
            update(submissions)
            .where(submissions.c.id == current.id, submissions.c.state == current.state)
            .values(state=state, **changes)
        )
        if moved.rowcount != 1:
            raise StaleError(
                f"submission {current.id} is no longer {current.state}: somebody else has moved it "
                "meanwhile. Look at it again (promote show) and decide anew."
            )
        if also is not None:
            also(connection)
    return submission(registry, current.id)


def add_approval(registry: Registry, current: Submission, approval: Approval) -> Submission:
    """Writes down what a person said; who spoke before is taken at their last word.

    Raises:
        StaleError: the submission does not wait for approval any more.
    """
    row = approval.model_dump()
    document = {"submission": current.id, **row}
    with registry.transaction(f"submission.{approval.decision}", document, approval.by) as database:
        state = database.execute(
            select(submissions.c.state).where(submissions.c.id == current.id)
        ).scalar()
        if state != "awaiting_approval":
            raise StaleError(
                f"submission {current.id} is {state} and waits for no approval any more. Look at "
                "it again: promote show."
            )
        mine = (approvals.c.submission == current.id, approvals.c.by == approval.by)
        if database.execute(update(approvals).where(*mine).values(**row)).rowcount == 0:
            database.execute(insert(approvals).values(submission=current.id, **row))
    return submission(registry, current.id)


def _found(registry: Registry, query: Select[Any]) -> list[Submission]:
    with registry.reading() as connection:
        rows = list(connection.execute(query).mappings())
        said: dict[int, list[Approval]] = {row["id"]: [] for row in rows}
        spoken: Row[Any]
        for spoken in connection.execute(select(approvals).order_by(approvals.c.time)):
            fields = dict(spoken._mapping)
            number = fields.pop("submission")
            if number in said:
                said[number].append(Approval(**fields))
    return [Submission(**row, approvals=tuple(said[row["id"]])) for row in rows]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
