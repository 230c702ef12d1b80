"""The routes of deployments and rollouts, and of the server itself."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from rlarcade.errors import RegistryError
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import OPEN_STATES, Rollout, RolloutState
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Role
from rlarcade.serving.controller import by_operator
from rlarcade.serving.evidence import Evidence
from rlarcade.serving.live import LiveRollout, live
from rlarcade.serving.requests import REFUSALS, Online, online_of
from rlarcade.serving.service import Deployment
from rlarcade.serving.strategies import RolloutSpec

router = APIRouter(tags=["deployments and rollouts"], responses=REFUSALS)

_MOST_VALUES = 1_000  # of an e-value's history

_Actor = Annotated[str, Field(min_length=1, max_length=200)]


class VariantDocument(BaseModel):
    """One version that plays a game, and what is known of its games."""

    role: Role
    version: int
    share: float
    sessions: int = 0
    games: int = 0
    failed: int = 0
    abandoned: int = 0
    errors: int = 0
    slow: int = 0
    mean: float | None = None
    scores: tuple[float, ...] = ()


class RolloutDocument(BaseModel):
    """A rollout with its evidence."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: int
    game: str
    strategy: str
    version: int
    """The candidate."""
    champion: int
    state: RolloutState
    step: int
    steps: int
    """Number of steps."""
    note: str | None
    """Reason for the state."""
    variants: tuple[VariantDocument, ...]
    wins: int
    ties: int
    losses: int
    e_value: float
    """Evidence that the candidate is better; 1/α promotes."""
    e_value_worse: float
    """Evidence that the candidate is worse; 1/α of the alarm rolls back."""
    bound: float
    """1/α: from this e-value on, the candidate is better."""
    bound_worse: float
    """1/α of the alarm: from this e-value on, the candidate is worse."""
    history: tuple[float, ...]
    """`e_value` before the first pair and after each, at most the last 1,000."""
    history_worse: tuple[float, ...]
    """`e_value_worse` before the first pair and after each, at most the last 1,000."""
    touched: int
    """Games that the candidate played."""
    opened: str
    opened_by: str


class Rollouts(BaseModel):
    """All rollouts, oldest first."""

    rollouts: tuple[RolloutDocument, ...]


class DeploymentDocument(BaseModel):
    """One game online."""

    game: str
    generation: int
    variants: tuple[VariantDocument, ...]
    rollout: int | None
    """The open rollout."""


class Deployments(BaseModel):
    """All games online."""

    deployments: tuple[DeploymentDocument, ...]
    registry: str | None
    """Folder of the registry; null: the agents that come with rlarcade."""
    stale: str | None
    """Why the registry cannot be used now; null: it can."""


class NewRollout(BaseModel):
    """An order to roll out a version."""

    model_config = ConfigDict(extra="forbid")

    version: Annotated[str, Field(min_length=1, max_length=200)]
    spec: RolloutSpec
    actor: _Actor = "operator"


class Order(BaseModel):
    """An order about a rollout."""

    model_config = ConfigDict(extra="forbid")

    actor: _Actor = "operator"


class Choice(Order):
    """The end of an experiment."""

    winner: Literal["candidate", "champion"]


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Returns counters in Prometheus's text format."""
    text = online_of(request).service.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/deployments")
async def deployments(request: Request) -> Deployments:
    """Lists the games online, who plays them, and how well."""
    online = online_of(request)
    found = online.service.deployments.values()
    return Deployments(
        deployments=tuple(_deployment(one) for one in sorted(found, key=lambda one: one.game)),
        registry=online.registry,
        stale=None if online.controller is None else online.controller.stale,
    )


@router.get("/v1/rollouts")
async def rollouts(request: Request) -> Rollouts:
    """Lists all rollouts, oldest first."""
    online = online_of(request)
    if online.controller is None:
        return Rollouts(rollouts=())
    registry = online.controller.registry
    running = {
        one.live.rollout.id: one.live
        for one in online.service.deployments.values()
        if one.live is not None
    }

    def found() -> list[LiveRollout]:
        return [
            running[one.id] if one.id in running else _kept(registry, one)
            for one in store.rollouts_of(registry)
        ]

    all_of_them = await online.service.at_registry(found)
    return Rollouts(rollouts=tuple(_rollout(one) for one in all_of_them))


def _kept(registry: Registry, current: Rollout) -> LiveRollout:
    """Returns a rollout as the registry has it."""
    return live(current, store.spec_of(registry, current), store.games_of(registry, current.id))


@router.post("/v1/rollouts", status_code=201)
async def start(request: Request, order: NewRollout) -> RolloutDocument:
    """Starts the rollout of a version."""
    online = online_of(request)
    controller = online.require_operator(request)
    opened = await controller.start(order.version, order.spec, order.actor)
    return _rollout(LiveRollout(opened, order.spec))


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
        pairs = _kept(registry, current).evidence().pairs if what == "resume" else None
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
    return _rollout(await online.service.at_registry(_kept, registry, current))


# Documents


def _rollout(running: LiveRollout) -> RolloutDocument:
    now, evidence = running.rollout, running.evidence()
    return RolloutDocument(
        **now.model_dump(
            include={"id", "game", "strategy", "version", "champion", "state", "step", "note"}
        ),
        steps=running.spec.num_steps,
        variants=_variants(running, evidence),
        **evidence.counts._asdict(),
        e_value=evidence.e_value,
        e_value_worse=evidence.e_value_worse,
        bound=1 / evidence.rule.alpha,
        bound_worse=1 / evidence.alpha_alarm,
        history=evidence.history[-_MOST_VALUES:],
        history_worse=evidence.history_worse[-_MOST_VALUES:],
        touched=evidence.role("candidate").sessions,
        opened=now.opened,
        opened_by=now.opened_by,
    )


def _variants(running: LiveRollout, evidence: Evidence) -> tuple[VariantDocument, ...]:
    playing = running.rollout.state in OPEN_STATES and running.rollout.state != "preparing"
    return tuple(
        VariantDocument(
            role=variant.role,
            version=variant.version,
            share=variant.share if playing else float(variant.role == "champion"),
            **evidence.role(variant.role).model_dump(exclude={"role"}),
        )
        for variant in running.plan.variants
    )


def _deployment(deployment: Deployment) -> DeploymentDocument:
    if deployment.live is not None:
        variants = _variants(deployment.live, deployment.live.evidence())
    else:
        variants = tuple(
            VariantDocument(role=one.role, version=one.version, share=one.share)
            for one in deployment.plan.variants
        )
    return DeploymentDocument(
        game=deployment.game,
        generation=deployment.generation,
        variants=variants,
        rollout=None if deployment.live is None else deployment.live.rollout.id,
    )
