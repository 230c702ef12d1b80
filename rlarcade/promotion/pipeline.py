"""Pipelines: how a version becomes the champion of its game, with or without human approval.

Continuous integration runs the gate's checks and stops. Continuous delivery then waits for a
person's approval. Continuous deployment promotes without one. `promote` is for a person who wants
to promote one version now; the gate may require further approvals.

Every step is one transaction. A pipeline that was killed can be resumed with the same call and ends
the same way. If two run at once, only one of them wins.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rlarcade.errors import (
    ConfigError,
    RegistryError,
    RlarcadeError,
    StaleError,
    UnusableRegistryError,
)
from rlarcade.evaluation.record import RecordInUseError
from rlarcade.promotion.attempts import attempt_of
from rlarcade.promotion.checks import CheckBegins, PairDone, make_verdict
from rlarcade.promotion.gate import Gate, GateVerdict
from rlarcade.promotion.submissions import (
    add_approval,
    is_rolled_out,
    move,
    moving,
    open_submission,
    submission,
    submissions_of,
)
from rlarcade.registry.audit import storable
from rlarcade.registry.documents import Alias, Version
from rlarcade.registry.people import checked_name
from rlarcade.registry.registration import read as read_checkpoint
from rlarcade.registry.registry import CHAMPION, Registry, default_actor
from rlarcade.registry.states import Approval, Mode, Submission

Release = Callable[[Registry, Submission, str], Submission]
"""Releases an approved submission in the actor's name; returns it promoted or stale."""

_MATCHES = ("random", "match")  # checks that play matches


class _RolledOutError(Exception):
    """A rollout of the submission is open."""


def move_alias_at_once(registry: Registry, approved: Submission, actor: str) -> Submission:
    """Makes the approved version the champion, unless the champion has changed since the verdict.

    This is the default `release` of `run_pipeline` and `approve`; a live rollout can replace it. If
    one is open already, nothing changes: the version does not pass by it.

    Raises:
        RegistryError: the version is broken, or the registry cannot be written.
    """
    try:
        with moving(registry, approved, "promoted", actor) as change:
            if is_rolled_out(change, approved):
                raise _RolledOutError
            change.move_alias(
                approved.game,
                CHAMPION,
                approved.version,
                expected_generation=approved.champion_generation,
                kind="promote",
                verdict=approved.verdict,
            )
        return submission(registry, approved.id)
    except _RolledOutError:  # the change was taken back
        return approved
    except StaleError as error:
        return move(registry, approved, "stale", actor, note=str(error).removeprefix("STALE: "))


def run_pipeline(
    registry: Registry,
    version: Version,
    mode: Mode,
    gate: Gate,
    *,
    actor: str | None = None,
    release: Release = move_alias_at_once,
    on_check: CheckBegins | None = None,
    on_pair: PairDone | None = None,
) -> Submission:
    """Takes a version through the gate, as far as the mode allows.

    Repeating the call returns the same submission, or resumes one that was interrupted.

    Args:
        registry: the registry that holds the version.
        version: the candidate.
        mode: `ci`: checks only. `delivery`: stops at awaiting_approval. `deployment`: approved by
            policy. `promote`: approved by the caller, if the gate requires no approvals.
        gate: the checks and their limits.
        actor: recorded in the audit log; None: the user of this process.
        release: called with an approved submission.
        on_check: called before each check.
        on_pair: called after each pair of games.

    Returns:
        The submission, with the `state` that it reached.

    Raises:
        ConfigError: the gate requires approvals, which a deployment cannot get.
        RegistryError: the version is broken or archived; or it became the champion without passing
            a gate; or the registry cannot be used.
        StaleError: another process changed the submission in the meantime.
        RecordInUseError: another process is playing the match.
    """
    if mode == "deployment" and gate.approvals.required:
        raise ConfigError(
            f"the gate requires {gate.approvals.required} approvals, but continuous deployment "
            "asks nobody. Use --mode delivery, or a gate with approvals.required = 0."
        )
    _require_sound(version)
    actor = default_actor(actor)
    if reigning(registry, version) is not None:
        return _promotion_of(registry, version)
    digest = registry.put_document(gate)
    current = open_submission(registry, version, mode=mode, gate=digest, actor=actor)
    if current.state in ("submitted", "verifying", "matching", "error"):
        current = _verified(registry, current, version, gate, actor, on_check, on_pair)
    if current.state == "passed":
        current = _after_the_gate(registry, current, gate, actor)
    if current.state == "awaiting_approval":
        current = _still_waiting(registry, current, gate, actor)
    if current.state == "approved":
        current = release(registry, current, _approver(current))
    return current


def send_checkpoint(
    address: str | Path,
    checkpoint: Path,
    mode: Mode,
    gate: Gate,
    *,
    on_pair: PairDone | None = None,
) -> Submission:
    """Registers a checkpoint and calls `run_pipeline`.

    Args:
        address: the registry's folder, or its database; created if it does not exist.
        checkpoint: a policy checkpoint.
        mode: see `run_pipeline`.
        gate: see `run_pipeline`.
        on_pair: called after each pair of games.

    Raises:
        CheckpointError: the checkpoint is damaged.
        RlarcadeError: see `run_pipeline`.
    """
    candidate = read_checkpoint(checkpoint)  # a damaged one must not leave an empty registry behind
    with Registry.open(address) as registry:
        return run_pipeline(registry, registry.register(candidate), mode, gate, on_pair=on_pair)


def approve(
    registry: Registry,
    version: Version,
    *,
    by: str,
    note: str,
    release: Release = move_alias_at_once,
) -> Submission:
    """Records one person's approval of a waiting version; the last required one releases it.

    The approval is bound to the version, the verdict and the champion's current generation.
    Approving the current champion again does nothing. The name is not verified; the audit log also
    records the user of the operating system.

    Raises:
        ConfigError: the name is invalid.
        RegistryError: no submission of this version awaits approval, or it was denied or expired.
        StaleError: the champion has changed since the verdict; nothing is approved.
        UnusableRegistryError: the submission was altered by hand, or its verdict did not pass.
    """
    by = checked_name(by)
    if reigning(registry, version) is not None:
        return _promotion_of(registry, version)  # e.g. the process was killed after the release
    waiting, gate = _waiting(registry, version)
    if waiting.state == "denied":
        raise _awaits_nothing(version, waiting)
    if waiting.state == "approved":  # the process was killed before the release
        return release(registry, waiting, by)
    said = _said(waiting, by, "approve", note)
    current = add_approval(registry, waiting, said, gate.approvals.required)
    return release(registry, current, by) if current.state == "approved" else current


def deny(registry: Registry, version: Version, *, by: str, note: str) -> Submission:
    """Denies a version that awaits approval; one person is enough. Raises as `approve` does."""
    by = checked_name(by)
    last = next(iter(submissions_of(registry, version=version.number)), None)
    if last is not None and last.state == "denied":
        return last
    waiting, _ = _waiting(registry, version)
    if waiting.state == "approved":
        raise RegistryError(f"version {version.number} has been approved already.")
    if waiting.state == "denied":
        return waiting
    return add_approval(registry, waiting, _said(waiting, by, "deny", note))


def verdict_of(registry: Registry, current: Submission) -> GateVerdict | None:
    """Returns the gate's verdict, or None if there is none yet.

    Raises:
        RegistryError: the document is missing or damaged.
    """
    if current.verdict is None:
        return None
    return registry.get_document(current.verdict, GateVerdict)


def reigning(registry: Registry, version: Version) -> Alias | None:
    """Returns the champion's alias if the version is the champion already, else None."""
    alias = registry.alias(version.game)
    return alias if alias is not None and alias.version == version.number else None


def _promotion_of(registry: Registry, champion: Version) -> Submission:
    """Returns the submission that made the current champion the champion."""
    for one in submissions_of(registry, version=champion.number):
        if one.state == "promoted":
            return one
    raise RegistryError(
        f"version {champion.number} is the champion of {champion.game} already. It was promoted by "
        "force or by hand, so there is nothing to do."
    )


def _require_sound(version: Version) -> None:
    if version.state == "broken":
        raise UnusableRegistryError(
            f"version {version.number} is broken: {version.broken_reason}. It cannot be promoted."
        )
    if version.state == "archived":
        raise RegistryError(f"version {version.number} is archived. It cannot be promoted.")


def _verified(
    registry: Registry,
    current: Submission,
    version: Version,
    gate: Gate,
    actor: str,
    on_check: CheckBegins | None,
    on_pair: PairDone | None,
) -> Submission:
    """Runs the checks. Games that were played before a kill are not played again."""
    if current.state in ("submitted", "error"):
        current = move(registry, current, "verifying", actor)

    def begins(name: str) -> None:
        nonlocal current
        if name in _MATCHES and current.state == "verifying":
            current = move(registry, current, "matching", actor)
        if on_check is not None:
            on_check(name)

    champion = registry.alias(version.game)
    try:
        attempt = attempt_of(registry, current, gate)
        verdict = make_verdict(
            registry, version, champion, gate, attempt=attempt, on_check=begins, on_pair=on_pair
        )
    except (StaleError, RecordInUseError):  # the submission is another process's to move
        raise
    except (RlarcadeError, OSError) as error:
        move(registry, current, "error", actor, note=str(error))
        raise
    if verdict.champion_generation != current.champion_generation:
        return move(registry, current, "stale", actor, note="the champion changed in the meantime")
    digest = registry.put_document(verdict)
    return move(registry, current, verdict.outcome, actor, verdict=digest)


def _after_the_gate(registry: Registry, current: Submission, gate: Gate, actor: str) -> Submission:
    if current.mode == "ci":
        return current
    if current.mode == "delivery" or gate.approvals.required:
        return move(registry, current, "awaiting_approval", actor)
    if current.mode == "deployment":
        actor = _policy(current)
    return move(registry, current, "approved", actor, note=f"approved by {actor}")


def _policy(current: Submission) -> str:
    return f"policy:{current.gate[:12]}"


def _approver(current: Submission) -> str:
    if current.mode == "deployment":
        return _policy(current)
    return current.approvals[-1].by if current.approvals else current.opened_by


def _still_waiting(registry: Registry, current: Submission, gate: Gate, actor: str) -> Submission:
    """Ends a waiting submission that was denied, has expired or met another champion."""
    # An older rlarcade, killed after a denial, left the submission waiting.
    for one in current.approvals:
        if one.decision == "deny":
            return move(registry, current, "denied", one.by, note=one.note)
    if registry.generation(current.game) != current.champion_generation:
        note = "the champion has changed: the verdict is about an earlier one"
        return move(registry, current, "stale", actor, note=note)
    if current.expired(gate.approvals.expire_days, datetime.now(UTC)):
        note = f"not approved within {gate.approvals.expire_days:g} days"
        return move(registry, current, "expired", actor, note=note)
    return current


def _waiting(registry: Registry, version: Version) -> tuple[Submission, Gate]:
    """Returns the version's newest submission that awaits approval or is approved, and its gate.

    A waiting submission may turn out to be denied by `_still_waiting`; it is returned as denied.
    """
    _require_sound(version)
    found = submissions_of(registry, version=version.number)
    current = next((one for one in found if one.state in ("awaiting_approval", "approved")), None)
    if current is None:
        raise _awaits_nothing(version, found[0] if found else None)
    gate = registry.get_document(current.gate, Gate)
    if current.state == "awaiting_approval":
        current = _still_waiting(registry, current, gate, default_actor())
    if current.state == "stale":
        raise StaleError(
            f"version {version.number} was compared with an earlier champion, so nothing was "
            "approved. Submit it again."
        )
    if current.state == "expired":
        raise RegistryError(
            f"submission {current.id} has expired: {current.note}. Submit it again."
        )
    return current, gate


def _awaits_nothing(version: Version, newest: Submission | None) -> RegistryError:
    last = f"its last submission is {newest.state}" if newest else "it was never submitted"
    return RegistryError(
        f"version {version.number} awaits no approval: {last}. Submit it with "
        "promote pipeline run … --mode delivery."
    )


def _said(
    current: Submission, by: str, decision: Literal["approve", "deny"], note: str
) -> Approval:
    if current.verdict is None:
        raise UnusableRegistryError(
            f"submission {current.id} was altered: it is {current.state} but has no verdict. For "
            "details run `promote verify --all`."
        )
    return Approval(
        by=by,
        decision=decision,
        note=storable(note),
        version=current.digest,
        verdict=current.verdict,
        champion_generation=current.champion_generation,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
