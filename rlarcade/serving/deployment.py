"""One game online: who plays it, and how open games go over to another version."""

from dataclasses import dataclass, field

from rlarcade.games.protocols import Protocol
from rlarcade.serving.assignment import Plan, assign
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.sessions import Sessions
from rlarcade.serving.stock import Stocked


@dataclass
class Deployment:
    """One game online: its plan, its versions, and its rollout if there is one."""

    game: str
    plan: Plan
    generation: int
    """Generation of the champion's alias; 0: agents that come with rlarcade."""
    stock: dict[int, Stocked] = field(default_factory=dict)
    """Loaded versions by number: those of the plan, and those that open sessions still play."""
    live: LiveRollout | None = None

    @property
    def champion(self) -> Stocked:
        """The champion's version."""
        variant = self.plan.variant("champion")
        assert variant is not None  # every plan has one
        return self.stock[variant.version]

    @property
    def protocol(self) -> Protocol:
        """The protocol under which the champion plays."""
        return self.champion.protocol

    @property
    def needed(self) -> set[int]:
        """Versions that may be given new games, or whose games of the rollout are not over."""
        needed = {variant.version for variant in self.plan.variants}
        if self.live is not None:
            needed |= {game.version for game in self.live.open_games()}
            needed.add(self.live.rollout.version)
        return needed


def hand_over(
    sessions: Sessions, deployment: Deployment, live: LiveRollout, *, only: int | None = None
) -> None:
    """Hands open games over to the versions that the plan has for them, from their next step.

    Games whose protocol the other version does not play stay, and so do those for which a
    client has chosen the version.

    Args:
        sessions: the open sessions.
        deployment: the game, with its new plan.
        live: the rollout that changed the plan. Its games that are handed over count no more.
        only: hand over games of this version only; None: of all.
    """
    for session in sessions:
        if session.game != deployment.game or session.role is None:
            continue
        if only is not None and session.version != only:
            continue
        variant = assign(deployment.plan, session.key, session.group)
        protocol = deployment.stock[variant.version].protocol
        if variant.version == session.version or protocol != session.protocol:
            continue
        if session.counted is not None and session.rollout == live.rollout.id:
            live.end(session.counted, None, ended="truncated", steps=session.steps, mixed=True)
        session.version, session.role = variant.version, variant.role
        session.counted, session.mixed = None, True
