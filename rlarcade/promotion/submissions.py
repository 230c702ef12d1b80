"""Submissions: they take a version through a gate, from state to state.

A submission is bound to the version's digest, the gate, and the champion with the generation of its
alias. When the champion changes, the submission becomes stale.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Select, func, insert, select, update

from rlarcade.errors import DamagedPartError, RegistryError, StaleError
from rlarcade.games.names import display_name
from rlarcade.promotion.gate import Gate, GateVerdict
from rlarcade.registry import audit, replay
from rlarcade.registry.change import Change
from rlarcade.registry.documents import Problem, Version
from rlarcade.registry.people import same_person, system_user
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import OPEN_STATES
from rlarcade.registry.states import TRANSITIONS, Approval, Mode, Submission, SubmissionState
from rlarcade.registry.tables import approvals, rollouts, submissions
from rlarcade.text import quoted

_TOWARDS_PROMOTION = ("approved", "promoted")
# Fields that never change after a submission has passed.
_FIXED = ("version", "digest", "game", "mode", "champion_generation", "gate", "verdict")


def open_submission(
    registry: Registry, version: Version, *, mode: Mode, gate: str, actor: str
) -> Submission:
    """Submits a version to the gate, or returns the equal submission that exists already.

    Equal submissions have the same version, mode, gate and champion. So submitting again gives a
    version no second chance. Only an expired submission is replaced by a new one.

    Raises:
        RegistryError: the registry cannot be written.
    """
    alias = registry.alias(version.game)
    generation = alias.generation if alias else registry.generation(version.game)
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
    with registry.change(actor) as change:
        if change.execute(same).first() is None:  # else another process opened it first
            row["id"] = (change.execute(select(func.max(submissions.c.id))).scalar() or 0) + 1
            change.execute(insert(submissions).values(**row))
            change.record("submission.opened", row)
    return _found(registry, same)[0]


def submission(registry: Registry, number: int) -> Submission:
    """Returns a submission by its number.

    Raises:
        KeyError: there is no such submission.
    """
    found = _found(registry, select(submissions).where(submissions.c.id == number))
    if not found:
        raise KeyError(number)
    return found[0]


def submissions_of(
    registry: Registry, *, version: int | None = None, game: str | None = None
) -> list[Submission]:
    """Returns submissions, newest first: all of them, or those of one version or game."""
    query = select(submissions).order_by(submissions.c.id.desc())
    if version is not None:
        query = query.where(submissions.c.version == version)
    if game is not None:
        query = query.where(submissions.c.game == game)
    return _found(registry, query)


def move(
    registry: Registry, current: Submission, state: SubmissionState, actor: str, **changes: str
) -> Submission:
    """Moves a submission to its next state. Arguments and errors are those of `moving`."""
    with moving(registry, current, state, actor, **changes):
        pass
    return submission(registry, current.id)


@contextmanager
def moving(
    registry: Registry, current: Submission, state: SubmissionState, actor: str, **changes: str
) -> Iterator[Change]:
    """Moves a submission to its next state, in one change with what the block adds to it.

    Args:
        registry: the registry that holds the submission.
        current: the submission as the caller read it.
        state: the next state. For `approved` and `promoted`, all evidence is checked again.
        actor: recorded in the audit log.
        **changes: `verdict` or `note`.

    Raises:
        RegistryError: the version was denied.
        StaleError: another process moved the submission in the meantime.
        DamagedPartError: it was altered by hand, or its verdict did not pass.
        ValueError: no transition leads from its state to the next.
    """
    with registry.change(actor) as change:
        _change_state(registry, change, current, state, changes)
        yield change
        change.record(f"submission.{state}", _step(current, state, changes))


def is_rolled_out(change: Change, approved: Submission) -> bool:
    """Whether a rollout of this submission is open. It will promote the version, or not."""
    its = (rollouts.c.submission == approved.id, rollouts.c.state.in_(OPEN_STATES))
    return change.execute(select(rollouts.c.id).where(*its)).first() is not None


def _step(
    current: Submission, state: SubmissionState, changes: Mapping[str, str]
) -> dict[str, Any]:
    told = {"submission": current.id, "version": current.digest, "from": current.state}
    return {**told, "to": state, **changes}


def _change_state(
    registry: Registry,
    change: Change,
    current: Submission,
    state: SubmissionState,
    changes: Mapping[str, str],
) -> None:
    if state not in TRANSITIONS[current.state]:
        raise ValueError(f"a submission that is {current.state} cannot become {state}")
    if state in _TOWARDS_PROMOTION:
        _require_passed(registry, change, current)
    here = (submissions.c.id == current.id, submissions.c.state == current.state)
    changed = update(submissions).where(*here).values(state=state, **changes)
    if change.execute(changed).rowcount != 1:
        raise StaleError(
            f"submission {current.id} is no longer {current.state}: somebody else has changed it. "
            "Look at it again (promote show) and decide again."
        )


def add_approval(
    registry: Registry, current: Submission, approval: Approval, required: int = 1
) -> Submission:
    """Records a person's decision and its consequence, in one transaction.

    A denial ends the submission. The last required approval approves it. A person's newer decision
    replaces the older one.

    Args:
        registry: the registry that holds the submission.
        current: a submission that awaits approval.
        approval: the decision.
        required: number of people who must approve.

    Raises:
        RegistryError: the version was denied.
        StaleError: the submission no longer awaits approval.
        DamagedPartError: it was altered by hand, or its verdict did not pass.
    """
    with registry.change(approval.by) as change:
        state = change.execute(select(submissions.c.state).filter_by(id=current.id)).scalar()
        if state != "awaiting_approval":
            raise StaleError(
                f"submission {current.id} is {state} and no longer awaits approval. Look at it "
                "again: promote show."
            )
        if approval.decision == "approve":
            _require_passed(registry, change, current)
        said = _spoken(change, current.id)
        approval = approval.model_copy(update={"by": _spelled(approval.by, said)})
        _write_down(change, current.id, approval)
        told = {"submission": current.id, **approval.model_dump(), "os_user": system_user()}
        change.record(f"submission.{approval.decision}", told, approval.by)
        after = _outcome_of(approval, said, required)
        if after is not None:
            # Not `_change_state`: the evidence was checked above, and this approval is part of it.
            changes = {"note": approval.note}
            change.execute(
                update(submissions).filter_by(id=current.id).values(state=after, **changes)
            )
            change.record(f"submission.{after}", _step(current, after, changes), approval.by)
    return submission(registry, current.id)


def _outcome_of(
    approval: Approval, said: Iterable[Approval], required: int
) -> SubmissionState | None:
    """Returns the submission's next state; None: it still awaits approval."""
    if approval.decision == "deny":
        return "denied"
    agreed = {same_person(one.by) for one in said if one.decision == "approve"}
    people = (agreed | {same_person(approval.by)}) - {""}
    return "approved" if len(people) >= required else None


def _spelled(by: str, said: list[Approval]) -> str:
    """Returns the spelling under which this person decided before: Bob and bob are one person."""
    known = (one.by for one in said if same_person(one.by) == same_person(by))
    return next(known, by)


def _write_down(change: Change, number: int, approval: Approval) -> None:
    row = approval.model_dump()
    mine = (approvals.c.submission == number, approvals.c.by == approval.by)
    if change.execute(update(approvals).where(*mine).values(**row)).rowcount == 0:
        change.execute(insert(approvals).values(submission=number, **row))


# The evidence for a promotion


def _require_passed(registry: Registry, change: Change, current: Submission) -> None:
    """Requires an unaltered submission, no denial, and a verdict that passed."""
    told = _require_unaltered(change, current)
    denied = told.denied_by(current.digest, current.champion_generation)
    if denied is not None:
        raise RegistryError(
            f"version {current.version} was denied by {denied} against this champion, so it is not "
            "promoted. Submit it again when the champion has changed, or use promote VERSION "
            "--force --reason TEXT."
        )
    _require_verdict(registry, current)


def _require_unaltered(change: Change, current: Submission) -> replay.Told:
    """Requires that the submission, its version and the champion agree with the audit log."""
    told, problem = change.replayed(current)
    if problem is None:
        problem = _unlike_its_row(current, told)
    if problem is not None:
        raise DamagedPartError(
            f"nothing was promoted. {problem.where}: {problem.what}. List all problems with "
            "`promote verify --all`, and import the newest export of the registry into another "
            "folder."
        )
    return told


def _unlike_its_row(current: Submission, told: replay.Told) -> Problem | None:
    """Compares the caller's copy with the log: the row may have been altered since it was read."""
    true = told.submissions.get(current.id, {})
    for name in _FIXED:
        if getattr(current, name) != true.get(name):
            was, logged = quoted(getattr(current, name)), quoted(true.get(name))
            what = f"{name} was {was}, the audit log says {logged}"
            return Problem(where=f"submission {current.id}", what=what)
    return None


def _require_verdict(registry: Registry, current: Submission) -> None:
    """Reads the verdict again: it must pass this version, with this gate and champion."""
    wrong = None
    if current.verdict is None:
        wrong = "there is none"
    else:
        verdict = registry.get_document(current.verdict, GateVerdict)
        if verdict.outcome != "passed":
            wrong = f"it says {verdict.outcome}"
        elif (verdict.version, verdict.game) != (current.digest, current.game):
            wrong = f"it is about version {verdict.version[:12]}… of {display_name(verdict.game)}"
        elif verdict.champion_generation != current.champion_generation:
            wrong = (
                f"it is about generation {verdict.champion_generation} of the champion, not "
                f"{current.champion_generation}"
            )
        elif verdict.gate != registry.get_document(current.gate, Gate):
            wrong = "it is of another gate"
    if wrong is not None:
        raise DamagedPartError(
            f"nothing was promoted. The verdict of submission {current.id} does not allow it: "
            f"{wrong}. See `promote verify --all`, or submit the version to another gate."
        )


# Reading


def _found(registry: Registry, query: Select[Any]) -> list[Submission]:
    rows, spoken = registry.rows(query, select(approvals).order_by(approvals.c.time))
    said: dict[int, list[Approval]] = {row["id"]: [] for row in rows}
    for one in spoken:
        if one["submission"] in said:
            said[one["submission"]].append(_approval(dict(one)))
    return [_submission(dict(row), tuple(said[row["id"]])) for row in rows]


def _spoken(change: Change, number: int) -> list[Approval]:
    query = select(approvals).filter_by(submission=number).order_by(approvals.c.time)
    return [_approval(dict(row)) for row in change.execute(query).mappings()]


def _approval(row: dict[str, Any]) -> Approval:
    number = row.pop("submission")
    try:
        return Approval.model_validate(row)
    except ValidationError as error:
        raise audit.altered(f"a decision on submission {number}", error) from error


def _submission(row: dict[str, Any], said: tuple[Approval, ...]) -> Submission:
    try:
        return Submission.model_validate({**row, "approvals": said})
    except ValidationError as error:
        raise audit.altered(f"submission {row['id']}", error) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
