"""What the routes of `v1` tell about versions, rollouts and workers."""

from rlarcade.registry.rollouts import OPEN_STATES, RolloutHead, ShadowCounts, ShadowTally
from rlarcade.serving.assignment import Role
from rlarcade.serving.deployment import Deployment
from rlarcade.serving.evidence import Evidence, RoleCounts
from rlarcade.serving.follow_on import FollowOnSummary, summary
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.metrics import Metrics
from rlarcade.serving.requests import Told
from rlarcade.serving.strategies import Finding, finding_of

_MOST_VALUES = 1_000  # of an e-value's history


class LatencyDocument(Told):
    """How long a version's newest decisions took, with the time in the queue."""

    decisions: int
    """How many they are: at most 1,000, since the server started."""
    median_seconds: float
    p99_seconds: float
    """99 of 100 decisions took no longer."""


class _Seat(Told):
    """Who plays, and how much."""

    role: Role
    version: int
    share: float


class VariantDocument(RoleCounts, _Seat):
    """One version that plays a game, and what is known of its games."""

    outcomes: FollowOnSummary | None = None
    latency: LatencyDocument | None = None
    """Of all its decisions, also those outside the rollout; null: there are none, or the rollout
    has ended."""


class ShadowDocument(ShadowTally, Told):
    """What a candidate would have done with the frames that the champion played."""

    mean_seconds: float | None
    """Mean time of a decision, with the time in the queue of the engine."""
    mean_gap: float | None
    """Mean difference of the two versions' own largest values."""
    mean_regret: float | None
    """Mean loss with the candidate's action, by the champion's values; 0 where both agree."""


class RolloutDocument(RolloutHead, Told):
    """A rollout with its evidence."""

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
    """Evidence that the candidate is worse; 1/α of the alarm rolls back, but no experiment."""
    bound: float
    """1/α: from this e-value on, the candidate is better."""
    bound_worse: float
    """1/α of the alarm, in an experiment 1/α: from this e-value on, the candidate is worse."""
    finding: Finding | None
    """What the test of an experiment (ab) says, which may be looked at any time; null: another
    strategy, which acts on its test itself."""
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
    """All rollouts, or the newest ones, oldest first."""

    rollouts: tuple[RolloutDocument, ...]
    earlier: int
    """How many older ones there are, which were not asked for."""


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
    """`local`: the server itself, by torch. `onnx`: the server itself, by onnxruntime. `worker-N`:
    a worker process, by torch."""
    healthy: bool
    versions: tuple[int, ...]
    """Numbers of the versions that it serves."""


class Deployments(Told):
    """All games online."""

    deployments: tuple[DeploymentDocument, ...]
    replicas: tuple[ReplicaDocument, ...]
    """Worker processes, or the server itself."""
    registry: str | None
    """Folder of the registry; null: the agents that come with rlarcade, or a run."""
    run: str | None = None
    """Folder of the run that is followed (see `/v1/run`); null: there is none."""
    stale: str | None
    """Why the registry cannot be used now, or not for everything; null: it can."""


def rollout_document(running: LiveRollout, metrics: Metrics) -> RolloutDocument:
    """Returns a rollout with its evidence at its current step."""
    now, evidence = running.rollout, running.evidence()
    is_experiment = running.spec.strategy == "ab"
    return RolloutDocument(
        **now.model_dump(include=set(RolloutHead.model_fields)),
        steps=running.spec.num_steps,
        after=running.spec.after,
        note=now.note,
        variants=_variants(running, evidence, metrics),
        **evidence.counts._asdict(),
        e_value=evidence.e_value,
        e_value_worse=evidence.e_value_worse,
        touched=evidence.touched,
        mixed=evidence.mixed,
        untwinned=running.untwinned,
        shadow=None if running.seen is None else _shadow(running.seen),
        bound=1 / evidence.rule.alpha,
        bound_worse=1 / (evidence.rule.beta if is_experiment else evidence.alpha_alarm),
        finding=finding_of(evidence) if is_experiment else None,
        history=evidence.history[-_MOST_VALUES:],
        history_worse=evidence.history_worse[-_MOST_VALUES:],
        opened=now.opened,
        opened_by=now.opened_by,
    )


def _shadow(seen: ShadowCounts) -> ShadowDocument:
    def mean(total: float) -> float | None:
        return total / seen.compared if seen.compared else None

    return ShadowDocument(
        **seen.model_dump(include=set(ShadowTally.model_fields)),
        mean_seconds=mean(seen.seconds),
        mean_gap=mean(seen.gap),
        mean_regret=mean(seen.regret),
    )


def _variants(
    running: LiveRollout, evidence: Evidence, metrics: Metrics
) -> tuple[VariantDocument, ...]:
    is_open = running.rollout.state in OPEN_STATES
    playing = is_open and running.rollout.state != "preparing"
    return tuple(
        VariantDocument(
            role=variant.role,
            version=variant.version,
            share=variant.share if playing else float(variant.role == "champion"),
            **evidence.role(variant.role).model_dump(exclude={"role"}),
            outcomes=summary(running.games.values(), running.outcomes, variant.role)
            if running.outcomes
            else None,
            latency=_latency(metrics, variant.version) if is_open else None,
        )
        for variant in running.plan.variants
    )


def _latency(metrics: Metrics, version: int) -> LatencyDocument | None:
    told = metrics.latency(version)
    if told is None:
        return None
    return LatencyDocument(
        decisions=told.decisions, median_seconds=told.median, p99_seconds=told.p99
    )


def deployment_document(deployment: Deployment, metrics: Metrics) -> DeploymentDocument:
    """Returns a game online with the versions that play it."""
    if deployment.live is not None:
        variants = _variants(deployment.live, deployment.live.evidence(), metrics)
    else:
        variants = tuple(
            VariantDocument(
                role=one.role,
                version=one.version,
                share=one.share,
                latency=_latency(metrics, one.version),
            )
            for one in deployment.plan.variants
        )
    return DeploymentDocument(
        game=deployment.game,
        generation=deployment.generation,
        variants=variants,
        rollout=None if deployment.live is None else deployment.live.rollout.id,
    )
