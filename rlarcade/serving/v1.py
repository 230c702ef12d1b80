"""The routes of deployments and rollouts, and of the server itself."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from rlarcade.errors import RegistryError
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import Rollout, RolloutState
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Role
from rlarcade.serving.driving import by_operator
from rlarcade.serving.follow_on import counts_of
from rlarcade.serving.live import LiveRollout, kept, readable
from rlarcade.serving.metrics import Metrics
from rlarcade.serving.requests import REFUSALS, Asked, DocumentRoute, Online, Told, online_of
from rlarcade.serving.sessions import LONGEST_KEY
from rlarcade.serving.strategies import RolloutSpec
from rlarcade.serving.v1_documents import (
    Deployments,
    ReplicaDocument,
    RolloutDocument,
    Rollouts,
    deployment_document,
    rollout_document,
)

router = APIRouter(tags=["deployments and rollouts"], responses=REFUSALS, route_class=DocumentRoute)

_MOST_ENDED = 64  # documents that are kept, of about 0.1 MB each
_Actor = Annotated[str, Field(min_length=1, max_length=200)]


class NewRollout(Asked):
    """An order to roll out a version."""

    version: Annotated[str, Field(min_length=1, max_length=200)]
    spec: RolloutSpec
    game: Annotated[str, Field(max_length=LONGEST_KEY)] | None = None
    """The game that the version must be of; null: any."""
    actor: _Actor = "operator"


class Order(Asked):
    """An order about a rollout."""

    actor: _Actor = "operator"


class NewOutcome(Order):
    """What somebody knows of a session later."""

    session: Annotated[str, Field(min_length=1, max_length=LONGEST_KEY)]
    """Id of the session, or the key of its user."""
    value: Annotated[float, Field(ge=-1e15, le=1e15)]
    note: Annotated[str, Field(max_length=1_000)] | None = None
    """What the value means."""
    rollout: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """The rollout, if the same key plays in several; null: the newest."""


class KnownOutcome(Told):
    """An outcome, and the version that it is about."""

    rollout: int
    role: Role
    version: int
    value: float
    note: str | None
    reported: str


class Choice(Order):
    """The end of an experiment."""

    winner: Literal["candidate", "champion"]


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Returns counters in Prometheus's text format."""
    service = online_of(request).service
    service.metrics.replicas(service.engine.replicas())
    text = service.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/deployments")
async def deployments(request: Request) -> Deployments:
    """Lists the games online, who plays them, and how well."""
    online = online_of(request)
    service = online.service
    found = sorted(service.deployments.values(), key=lambda one: one.game)
    return Deployments(
        deployments=tuple(deployment_document(one, service.metrics) for one in found),
        replicas=tuple(ReplicaDocument(**one._asdict()) for one in service.engine.replicas()),
        registry=online.registry,
        run=None if online.run is None else str(online.run.folder),
        stale=None if online.controller is None else online.controller.stale,
    )


class EndedRollouts:
    """Documents of rollouts that have ended, each made once.

    Reading the games of a long rollout takes a second, in which no new game could be written.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[Rollout, int], RolloutDocument]] = {}
        """By id, those that were asked for last at the end: as of which state, and the document."""

    def document(
        self, registry: Registry, ended: Rollout, outcomes: int, metrics: Metrics
    ) -> RolloutDocument:
        """Returns the document of a rollout, made anew if the rollout or its outcomes changed."""
        state = ended, outcomes
        found = self._known.pop(ended.id, None)
        if found is None or found[0] != state:
            found = state, rollout_document(readable(registry, ended), metrics)
        self._known[ended.id] = found
        if len(self._known) > _MOST_ENDED:
            del self._known[next(iter(self._known))]
        return found[1]


@router.get("/v1/rollouts")
async def rollouts(
    request: Request, newest: Annotated[int, Query(ge=1, lt=2**31)] | None = None
) -> Rollouts:
    """Lists all rollouts, or so many of the newest ones, oldest first."""
    online = online_of(request)
    if online.controller is None:
        return Rollouts(rollouts=(), earlier=0)
    registry, metrics = online.controller.registry, online.service.metrics
    ended: EndedRollouts = request.app.state.ended_rollouts
    running = {
        one.live.rollout.id: one.live
        for one in online.service.deployments.values()
        if one.live is not None
    }

    def found() -> tuple[int, list[LiveRollout | RolloutDocument]]:
        there, outcomes = store.rollouts_of(registry), counts_of(registry)
        asked = there if newest is None else there[-newest:]
        return len(there) - len(asked), [
            running[one.id]
            if one.id in running
            else readable(registry, one)
            if one.is_open
            else ended.document(registry, one, outcomes.get(one.id, 0), metrics)
            for one in asked
        ]

    earlier, listed = await online.service.at_registry(found)
    return Rollouts(
        rollouts=tuple(
            one if isinstance(one, RolloutDocument) else rollout_document(one, metrics)
            for one in listed
        ),
        earlier=earlier,
    )


@router.post("/v1/rollouts", status_code=201)
async def start(request: Request, order: NewRollout) -> RolloutDocument:
    """Starts the rollout of a version."""
    online = online_of(request)
    controller = online.require_operator(request)
    opened = await controller.start(order.version, order.spec, order.actor, order.game)
    spec = await online.service.at_registry(store.spec_of, controller.registry, opened)
    return rollout_document(LiveRollout(opened, spec), online.service.metrics)


@router.post("/v1/outcomes", status_code=201)
async def outcome(request: Request, said: NewOutcome) -> KnownOutcome:
    """Joins what is known of a session only later to the version that played it.

    Nothing is decided by it. It needs the operator's token: nobody can check it.
    """
    controller = online_of(request).require_operator(request)
    told, game = await controller.outcome(
        said.session, said.value, said.note, said.actor, said.rollout
    )
    kept_too = told.model_dump(include={"rollout", "value", "note", "reported"})
    return KnownOutcome(role=game.role, version=game.version, **kept_too)


# Before the next route, whose path fits, too.
@router.post("/v1/rollouts/{number}/decide")
async def decide(request: Request, number: int, said: Choice) -> RolloutDocument:
    """Ends an experiment: the candidate becomes the champion, or the champion stays."""
    online = online_of(request)
    controller = online.require_operator(request)
    registry = controller.registry

    def decided(current: Rollout) -> Rollout:
        _require(current, "progressing", "paused", what="decide")
        note = by_operator(said.actor, f"decided for the {said.winner}")
        if said.winner == "candidate":
            return store.succeed(registry, current, said.actor, note)
        return store.move(registry, current, "aborted", said.actor, note=note)

    after = await controller.order(number, decided)
    return await _shown(online, registry, after)


@router.post("/v1/rollouts/{number}/{what}")
async def order(
    request: Request,
    number: int,
    what: Literal["pause", "resume", "abort", "undo"],
    said: Order,
) -> RolloutDocument:
    """Pauses, resumes, aborts or undoes a rollout."""
    online = online_of(request)
    controller = online.require_operator(request)
    registry = controller.registry
    note = by_operator(said.actor, what)

    def ordered(current: Rollout) -> Rollout:
        if what == "undo":
            return store.undo(registry, current, said.actor)
        _require(current, *_FROM[what], what=what)
        pairs = kept(registry, current).evidence().pairs if what == "resume" else None
        return store.move(registry, current, _TO[what], said.actor, note=note, resumed_after=pairs)

    after = await controller.order(number, ordered)
    return await _shown(online, registry, after)


_FROM: dict[str, tuple[RolloutState, ...]] = {
    "pause": ("progressing",),
    "resume": ("paused",),
    "abort": ("preparing", "progressing", "paused"),
}
_TO: dict[str, RolloutState] = {"pause": "paused", "resume": "progressing", "abort": "aborted"}


def _require(current: Rollout, *states: RolloutState, what: str) -> None:
    if current.state not in states:
        raise RegistryError(
            f"rollout {current.id} is {current.state}; {what} needs one that is "
            f"{' or '.join(states)}."
        )


async def _shown(online: Online, registry: Registry, current: Rollout) -> RolloutDocument:
    shown = await online.service.at_registry(readable, registry, current)
    return rollout_document(shown, online.service.metrics)
