"""The routes of versions that passed the gate and wait for a person's approval."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from rlarcade.errors import DamagedPartError
from rlarcade.promotion.gate import Outcome
from rlarcade.promotion.pipeline import approve, deny, move_alias_at_once, verdict_of
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.people import LONGEST
from rlarcade.registry.registry import Registry
from rlarcade.registry.states import Submission, SubmissionState
from rlarcade.serving.handover import by_rollout
from rlarcade.serving.requests import REFUSALS, Asked, DocumentRoute, Told, online_of
from rlarcade.serving.settings import RolloutSpec

router = APIRouter(
    prefix="/v1/approvals", tags=["approvals"], responses=REFUSALS, route_class=DocumentRoute
)


class CheckDocument(Told):
    """What one check of the gate found."""

    name: str
    outcome: Outcome
    evidence: str


class WaitingDocument(Told):
    """A version that waits for approval."""

    submission: int
    version: int
    game: str
    champion: int | None
    """Number of the version that it would replace; null: the game has none."""
    opened: str
    opened_by: str
    checks: tuple[CheckDocument, ...]
    approved_by: tuple[str, ...]
    """Names of the people who have approved it so far."""
    required: int
    """Number of approvals that it needs."""
    trouble: str | None
    """Why it cannot be approved now; null: it can."""


class Waiting(Told):
    """All versions that wait for approval, oldest first."""

    waiting: tuple[WaitingDocument, ...]


class Answer(Asked):
    """A person's decision about a waiting version."""

    decision: Literal["approve", "deny"]
    by: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    """The person's name."""
    note: Annotated[str, Field(min_length=1, max_length=1_000)]
    """The person's reason."""
    rollout: RolloutSpec | None = None
    """How an approved version takes over; null: at once."""


class AnsweredDocument(Told):
    """The submission after a decision."""

    submission: int
    version: int
    game: str
    state: SubmissionState
    """`awaiting_approval`: more approvals are needed. `approved`: its rollout has been opened."""
    note: str | None


@router.get("")
async def waiting(request: Request) -> Waiting:
    """Lists the versions that wait for approval."""
    online = online_of(request)
    if online.controller is None:
        return Waiting(waiting=())
    return await online.service.at_registry(_waiting, online.controller.registry)


@router.post("/{version}")
async def answer(request: Request, version: int, said: Answer) -> AnsweredDocument:
    """Approves or denies a waiting version; the last required approval releases it."""
    online = online_of(request)
    controller = online.require_operator(request)
    registry = controller.registry

    def answered() -> Submission:
        found = registry.version(version)
        if said.decision == "deny":
            return deny(registry, found, by=said.by, note=said.note)
        release = move_alias_at_once if said.rollout is None else by_rollout(said.rollout)
        return approve(registry, found, by=said.by, note=said.note, release=release)

    after = await online.service.at_registry(answered)
    online.service.changed.set()  # the controller takes up what has been released
    return AnsweredDocument(
        submission=after.id,
        **after.model_dump(include={"version", "game", "state", "note"}),
    )


def _waiting(registry: Registry) -> Waiting:
    found = [one for one in submissions_of(registry) if one.state == "awaiting_approval"]
    return Waiting(waiting=tuple(_document(registry, one) for one in reversed(found)))


def _document(registry: Registry, one: Submission) -> WaitingDocument:
    trouble = None
    if registry.generation(one.game) != one.champion_generation:
        trouble = "The champion has changed since the verdict. Submit the version again."
    try:
        verdict = verdict_of(registry, one)
    except DamagedPartError as error:  # the other versions can still be approved
        verdict, trouble = None, str(error)
    return WaitingDocument(
        submission=one.id,
        **one.model_dump(include={"version", "game", "champion", "opened", "opened_by"}),
        checks=()
        if verdict is None
        else tuple(
            CheckDocument(**check.model_dump(include={"name", "outcome", "evidence"}))
            for check in verdict.checks
        ),
        approved_by=tuple(said.by for said in one.approvals),
        required=1 if verdict is None else max(1, verdict.gate.approvals.required),
        trouble=trouble,
    )
