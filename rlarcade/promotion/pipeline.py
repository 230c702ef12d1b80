"""Pipelines: how a version becomes its game's champion, with people in between or without.

Continuous integration makes the gate's checks and stops there. Continuous delivery goes on until a
person approves. Continuous deployment goes all the way by itself. `promote` is a person who wants
one version promoted now; the gate may ask others to agree.

Every step is one transaction, so a pipeline that was killed goes on with the same call to the same
end, and two that run at once have one winner.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from rlarcade.errors import (
    ConfigError,
    RegistryError,
    RlarcadeError,
    StaleError,
    UnusableRegistryError,
)
from rlarcade.promotion.attempts import attempt_of
from rlarcade.promotion.audit import storable
from rlarcade.promotion.checks import CheckBegins, PairDone, make_verdict
from rlarcade.promotion.documents import Alias, Version
from rlarcade.promotion.gate import Gate, GateVerdict
from rlarcade.promotion.people import checked_name
from rlarcade.promotion.registration import check as check_checkpoint
from rlarcade.promotion.registry import CHAMPION, Registry, default_actor
from rlarcade.promotion.states import Approval, Mode, Submission
from rlarcade.promotion.store import is_registry
from rlarcade.promotion.submissions import add_approval, move, open_submission, submissions_of

Release = Callable[[Registry, Submission, str], Submission]
"""Takes an approved submission into use, as the actor named; returns it promoted or stale."""

_MATCHES = ("random", "match")  # checks that play matches


def move_alias_at_once(registry: Registry, approved: Submission, actor: str) -> Submission:
    """Makes the approved version the champion, if the champion is still the one it was measured by.

    A live rollout may take this place in `run_pipeline` and `approve`.

    Raises:
        RegistryError: the version is broken, or the registry cannot be written.
    """

    def take_over(connection: Connection) -> None:
        registry.move_alias(
            approved.game,
            CHAMPION,
            approved.version,
            expected_generation=approved.champion_generation,
            kind="promote",
            actor=actor,
            verdict=approved.verdict,
            connection=connection,
        )

    try:
        return move(registry, approved, "promoted", actor, also=take_over)
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
    """Takes a version as far as the mode lets it go.

    Args:
        registry: holds it.
        version: the candidate.
        mode: `ci`: checks only. `delivery`: stops at awaiting_approval. `deployment`: approved by
            policy. `promote`: approved by who calls, if the gate asks for nobody else.
        gate: what is asked for.
        actor: who runs it. Unset: the user.
        release: what is done with an approved version.
        on_check: called before each check.
        on_pair: called after each pair of games.

    Returns:
        The submission, where it came to rest: see `Submission.state`. The same call after that
        returns the same again, and goes on with one that was interrupted.

    Raises:
        ConfigError: the gate asks for approvals, which a deployment has nobody to give.
        RegistryError: the version is broken or archived, or is the champion without ever having
            passed a gate; or the registry cannot be used.
        StaleError: somebody else has moved the submission meanwhile.
        RunFolderError: the match is being played by another process.
    """
    if mode == "deployment" and gate.approvals.required:
        raise ConfigError(
            f"the gate asks for {gate.approvals.required} approvals, and continuous deployment has "
            "nobody to give them. Use --mode delivery, or a gate with approvals.required = 0."
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
    folder: Path,
    checkpoint: Path,
    mode: Mode,
    gate: Gate,
    *,
    on_pair: PairDone | None = None,
) -> Submission:
    """Registers a checkpoint and takes it as far as the mode lets it go: `run_pipeline`.

    Args:
        folder: of the registry; it is made if there is none.
        checkpoint: a policy checkpoint.
        mode: as of `run_pipeline`.
        gate: as of `run_pipeline`.
        on_pair: called after each pair of games.

    Raises:
        CheckpointError: it is damaged.
        RlarcadeError: as of `run_pipeline`.
    """
    if not is_registry(folder):
        check_checkpoint(checkpoint)  # a damaged one leaves no empty registry behind
    with Registry.open(folder) as registry:
        return run_pipeline(registry, registry.register(checkpoint), mode, gate, on_pair=on_pair)


def approve(
    registry: Registry,
    version: Version,
    *,
    by: str,
    note: str,
    release: Release = move_alias_at_once,
) -> Submission:
    """Says yes, as one person, to a version that awaits approval; the last one needed releases it.

    The approval is bound to the version, the verdict and the champion's generation as they are now.
    Of the champion, which an approval has made it, it is no news. The name is taken on trust; the
    user of the operating system is written down beside it.

    Raises:
        ConfigError: the name is none.
        RegistryError: nothing of this version awaits approval, it was denied, or it has expired.
        StaleError: the champion has changed since the verdict; nothing is approved.
        UnusableRegistryError: the submission was altered by hand, or its verdict did not pass.
    """
    by = checked_name(by)
    if reigning(registry, version) is not None:
        return _promotion_of(registry, version)  # killed after the release, say
    waiting, gate = _waiting(registry, version)
    if waiting.state == "denied":
        raise _awaits_nothing(version, waiting)
    if waiting.state == "approved":  # killed before the release
        return release(registry, waiting, by)
    said = _said(waiting, by, "approve", note)
    current = add_approval(registry, waiting, said, gate.approvals.required)
    return release(registry, current, by) if current.state == "approved" else current


def deny(registry: Registry, version: Version, *, by: str, note: str) -> Submission:
    """Says no to a version that awaits approval; one person is enough. Errors as of `approve`."""
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
    """Returns what the gate found, or None while it is still looking.

    Raises:
        RegistryError: the document is missing or damaged.
    """
    if current.verdict is None:
        return None
    return registry.get_document(current.verdict, GateVerdict)


def reigning(registry: Registry, version: Version) -> Alias | None:
    """Returns the champion's alias if the version is its game's champion already."""
    alias = registry.alias(version.game)
    return alias if alias is not None and alias.version == version.number else None


def _promotion_of(registry: Registry, champion: Version) -> Submission:
    """The submission that made a version the champion, which it is."""
    for one in submissions_of(registry, version=champion.number):
        if one.state == "promoted":
            return one
    raise RegistryError(
        f"version {champion.number} is the champion of {champion.game} already, by force or by "
        "hand: there is nothing to promote."
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
    """Makes the checks; what one of them played before a kill is not played again."""
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
    except StaleError:
        raise
    except (RlarcadeError, OSError) as error:
        move(registry, current, "error", actor, note=str(error))
        raise
    if verdict.champion_generation != current.champion_generation:
        return move(registry, current, "stale", actor, note="the champion changed meanwhile")
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
    """Looks whether an approval could still mean anything."""
    # Older versions of rlarcade could be killed between a denial and what follows from it.
    for one in current.approvals:
        if one.decision == "deny":
            return move(registry, current, "denied", one.by, note=one.note)
    if registry.generation(current.game) != current.champion_generation:
        note = "the champion changed meanwhile: the verdict is about another one"
        return move(registry, current, "stale", actor, note=note)
    if current.expired(gate.approvals.expire_days, datetime.now(UTC)):
        note = f"not approved within {gate.approvals.expire_days:g} days"
        return move(registry, current, "expired", actor, note=note)
    return current


def _waiting(registry: Registry, version: Version) -> tuple[Submission, Gate]:
    """The version's newest submission that awaits approval, is approved or turns out denied."""
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
            f"version {version.number} was measured against another champion than the one of now: "
            "nothing was approved. Submit it again."
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
            f"submission {current.id} was altered: it is {current.state}, and has no verdict. See "
            "how with `promote verify --all`."
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
