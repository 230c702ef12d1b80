"""The routes of deployments and rollouts, and of the server itself."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from rlarcade.errors import RegistryError
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import OPEN_STATES, Rollout, RolloutState, ShadowCounts
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Role
from rlarcade.serving.driving import by_operator
from rlarcade.serving.evidence import Evidence
from rlarcade.serving.follow_on import FollowOnSummary, summary
from rlarcade.serving.live import LiveRollout, kept
from rlarcade.serving.requests import REFUSALS, Asked, Online, Told, online_of
from rlarcade.serving.service import Deployment
from rlarcade.serving.sessions import LONGEST_KEY
from rlarcade.serving.strategies import RolloutSpec

router = APIRouter(tags=["deployments and rollouts"], responses=REFUSALS)

_MOST_VALUES = 1_000  # of an e-value's history

_Actor = Annotated[str, Field(min_length=1, max_length=200)]


class VariantDocument(Told):
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
    outcomes: FollowOnSummary | None = None


class ShadowDocument(Told):
    """What a candidate would have done with the frames that the champion played."""

    compared: int
    """Decisions that both versions made."""
    agreed: int
    """Decisions for which both chose the same action."""
    failed: int
    """Decisions that the candidate did not make: it crashed, took too long, or gave no numbers."""
    dropped: int
    """Decisions that it did not see, because too many waited."""
    slow: int
    """Decisions that took more than the rollout's `slow_seconds`."""
    mean_seconds: float | None
    """Mean time of a decision, with the time in the queue of the engine."""
    mean_gap: float | None
    """Mean difference of the two versions' own largest values."""
    mean_regret: float | None
    """Mean loss with the candidate's action, by the champion's values; 0 where both agree."""


class RolloutDocument(Told):
    """A rollout with its evidence."""

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
    after: int | None
    """The rollout that must have succeeded before this one begins."""
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
    """Games in which the candidate acted."""
    mixed: int
    """Games that one version began and the other took over; they count for neither."""
    untwinned: int
    """Games of the champion that got no twin because the referee was behind."""
    shadow: ShadowDocument | None
    """Counts of a candidate that runs as a shadow."""
    opened: str
    opened_by: str


class Rollouts(Told):
    """All rollouts, oldest first."""

    rollouts: tuple[RolloutDocument, ...]


class DeploymentDocument(Told):
    """One game online."""

    game: str
    generation: int
    variants: tuple[VariantDocument, ...]
    rollout: int | None
    """The open rollout."""


class ReplicaDocument(Told):
    """A place where forward passes run."""

    name: str
    healthy: bool
    versions: tuple[int, ...]
    """Numbers of the versions that it serves."""


class Deployments(Told):
    """All games online."""

    deployments: tuple[DeploymentDocument, ...]
    replicas: tuple[ReplicaDocument, ...]
    """Worker processes, or the server itself."""
    registry: str | None
    """Folder of the registry; null: the agents that come with rlarcade."""
    stale: str | None
    """Why the registry cannot be used now; null: it can."""


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
    found = online.service.deployments.values()
    return Deployments(
        deployments=tuple(_deployment(one) for one in sorted(found, key=lambda one: one.game)),
        replicas=tuple(
            ReplicaDocument(**one._asdict()) for one in online.service.engine.replicas()
        ),
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
            running[one.id] if one.id in running else kept(registry, one)
            for one in store.rollouts_of(registry)
        ]

    all_of_them = await online.service.at_registry(found)
    return Rollouts(rollouts=tuple(_rollout(one) for one in all_of_them))


@router.post("/v1/rollouts", status_code=201)
async def start(request: Request, order: NewRollout) -> RolloutDocument:
    """Starts the rollout of a version."""
    online = online_of(request)
    controller = online.require_operator(request)
    opened = await controller.start(order.version, order.spec, order.actor, order.game)
    spec = await online.service.at_registry(store.spec_of, controller.registry, opened)
    return _rollout(LiveRollout(opened, spec))


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
    return _rollout(await online.service.at_registry(kept, registry, current))


# Documents


def _rollout(running: LiveRollout) -> RolloutDocument:
    now, evidence = running.rollout, running.evidence()
    return RolloutDocument(
        **now.model_dump(
            include={"id", "game", "strategy", "version", "champion", "state", "step", "note"}
        ),
        steps=running.spec.num_steps,
        after=running.spec.after,
        variants=_variants(running, evidence),
        **evidence.counts._asdict(),
        e_value=evidence.e_value,
        e_value_worse=evidence.e_value_worse,
        touched=evidence.touched,
        mixed=evidence.mixed,
        untwinned=running.untwinned,
        shadow=None if running.seen is None else _shadow(running.seen),
        bound=1 / evidence.rule.alpha,
        bound_worse=1 / evidence.alpha_alarm,
        history=evidence.history[-_MOST_VALUES:],
        history_worse=evidence.history_worse[-_MOST_VALUES:],
        opened=now.opened,
        opened_by=now.opened_by,
    )


def _shadow(seen: ShadowCounts) -> ShadowDocument:
    def mean(total: float) -> float | None:
        return total / seen.compared if seen.compared else None

    return ShadowDocument(
        **seen.model_dump(include={"compared", "agreed", "failed", "dropped", "slow"}),
        mean_seconds=mean(seen.seconds),
        mean_gap=mean(seen.gap),
        mean_regret=mean(seen.regret),
    )


def _variants(running: LiveRollout, evidence: Evidence) -> tuple[VariantDocument, ...]:
    playing = running.rollout.state in OPEN_STATES and running.rollout.state != "preparing"
    return tuple(
        VariantDocument(
            role=variant.role,
            version=variant.version,
            share=variant.share if playing else float(variant.role == "champion"),
            **evidence.role(variant.role).model_dump(exclude={"role"}),
            outcomes=summary(running.games.values(), running.outcomes, variant.role)
            if running.outcomes
            else None,
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
