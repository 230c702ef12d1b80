"""Drives one rollout: it is prepared, judged by its games, and moved on, in the registry first.

All that a decision needs is in the registry: the rollout's state and step, its settings and its
games. So a controller that is killed and started again decides the same.
"""

import logging
import time
from contextlib import suppress

from rlarcade.errors import (
    DamagedPartError,
    RegistryError,
    RlarcadeError,
    StaleError,
)
from rlarcade.registry.registry import Registry, default_actor
from rlarcade.registry.rollouts import Rollout, RolloutState
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Plan, Variant
from rlarcade.serving.deployment import Deployment, hand_over
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.loading import UNLOADABLE, Loading
from rlarcade.serving.records import write_games, write_shadow
from rlarcade.serving.rolling import Rolling
from rlarcade.serving.service import Service
from rlarcade.serving.strategies import Decision, judge

_log = logging.getLogger(__name__)


class Driving:
    """Moves the rollouts of a service on."""

    def __init__(
        self, service: Service, registry: Registry, loading: Loading, rolling: Rolling
    ) -> None:
        self._service, self._registry = service, registry
        self._loading, self._rolling = loading, rolling

    async def drive(self, deployment: Deployment, running: LiveRollout) -> None:
        """Moves a rollout on as far as it can go now."""
        state = running.rollout.state
        try:
            if state == "preparing":
                await self._prepare(deployment, running)
            elif state in ("progressing", "paused"):
                await self._judge(deployment, running)
            if running.rollout.state == "rolling_back":
                await self._roll_back(deployment, running)
        except StaleError as error:
            _log.warning("rollout %d: %s", running.rollout.id, error)
            deployment.live = None  # it is read again from the registry
            deployment.plan = champion_only(running.rollout.champion)
        if not running.rollout.is_open and deployment.live is not None:
            await self.let_go(deployment, running)

    async def _prepare(self, deployment: Deployment, running: LiveRollout) -> None:
        """Loads the candidate, when it is its turn. Only then it gets its first game."""
        if not await self._is_its_turn(running):
            return
        try:
            if not await self._loading.candidate(deployment, running):
                return
        except UNLOADABLE as error:
            await self.move(running, "rolling_back", note=f"it cannot be loaded: {error}")
            return
        await self.move(running, "progressing", step=0, note="the candidate is loaded")
        self.switch(deployment, running, running.plan)
        self._service.begin_shadow(running)

    async def _is_its_turn(self, running: LiveRollout) -> bool:
        """Whether the rollout before has succeeded. If it has failed, this one is aborted."""
        if running.spec.after is None:
            return True
        first = await self._service.at_registry(store.rollout, self._registry, running.spec.after)
        if first.state in ("rolled_back", "aborted"):
            failed = first.state.replace("_", " ")
            note = f"rollout {first.id}, which had to succeed first, was {failed}"
            await self.move(running, "aborted", note=note)
        return first.state == "succeeded"

    async def _judge(self, deployment: Deployment, running: LiveRollout) -> None:
        ordered = running.rollout.state == "paused" and is_by_operator(running.rollout)
        decision = judge(
            running.spec,
            running.evidence(),
            ordered,
            quiet_for=time.monotonic() - running.last_assigned,
            resumed_after=running.rollout.resumed_after,
        )
        if running.spec.strategy == "rolling":
            try:
                decision = self._rolling.decision(deployment, running, decision)
            except RlarcadeError as error:
                decision = Decision(kind="roll_back", why=f"it cannot be loaded: {error}")
        await self._act(deployment, running, decision, ordered)

    async def _act(
        self, deployment: Deployment, running: LiveRollout, decision: Decision, ordered: bool
    ) -> None:
        """Does what was decided."""
        now = running.rollout
        match decision.kind:
            case "roll_back":
                await self.move(running, "rolling_back", note=decision.why)
            case "pause" if now.state == "progressing":
                await self.move(running, "paused", note=decision.why)
            case "stay" if now.state == "paused" and not ordered:
                await self.move(running, "progressing", note=decision.why)
            case "advance":
                await self.move(running, "progressing", step=now.step + 1, note=decision.why)
                self.switch(deployment, running, running.plan)
            case "succeed":
                await self._succeed(deployment, running, decision.why)

    async def _succeed(self, deployment: Deployment, running: LiveRollout, why: str) -> None:
        number = running.rollout.version
        try:
            running.rollout = await self._service.at_registry(
                store.succeed, self._registry, running.rollout, default_actor(), why
            )
        except RegistryError as error:
            if store.is_unusable(error) or isinstance(error, StaleError):
                raise
            note = f"it cannot become the champion: {error}"
            await self.move(running, "rolling_back", note=note)
            return
        await self._loading.ready(deployment, number, at_once=True)
        self.switch(deployment, running, champion_only(number))
        deployment.generation += 1

    async def _roll_back(self, deployment: Deployment, running: LiveRollout) -> None:
        """Sends all new games to the champion."""
        self.switch(deployment, running, champion_only(running.rollout.champion))
        await self.move(running, "rolled_back", note=running.rollout.note)

    def switch(self, deployment: Deployment, running: LiveRollout, plan: Plan) -> None:
        """Puts a plan in force for new games, and for open ones if the settings say so."""
        deployment.plan = plan
        if running.spec.cut == "now":
            hand_over(self._service.sessions, deployment, running)

    async def let_go(self, deployment: Deployment, running: LiveRollout) -> None:
        """Forgets a rollout that has ended, once what it has learnt is written."""
        with suppress(DamagedPartError, StaleError):  # there is no better time to write it
            await write_games(self._service, self._registry, running)
        await write_shadow(self._service, self._registry, running)
        deployment.live = None

    async def move(
        self, running: LiveRollout, state: RolloutState, **changes: int | str | None
    ) -> None:
        """Moves a rollout to its next state; arguments and errors are those of `store.move`."""
        running.rollout = await self.moved(running.rollout, state, **changes)

    async def moved(
        self, current: Rollout, state: RolloutState, **changes: int | str | None
    ) -> Rollout:
        """The same for a rollout that does not run here; returns it as it is then."""

        def moved() -> Rollout:
            return store.move(self._registry, current, state, default_actor(), **changes)  # type: ignore[arg-type]

        after = await self._service.at_registry(moved)
        _log.info("rollout %d is %s: %s", after.id, state, after.note)
        return after


_OPERATOR = "operator"


def by_operator(actor: str, what: str) -> str:
    """Returns the note of an operator's order, by which a pause of theirs is recognised."""
    who = _OPERATOR if actor == _OPERATOR else f"{_OPERATOR} {actor}"  # it is who gives no name
    return f"{who}: {what}"


def is_by_operator(current: Rollout) -> bool:
    """Whether the rollout's state was ordered by an operator."""
    return (current.note or "").startswith(_OPERATOR)


def champion_only(number: int) -> Plan:
    """Returns the plan in which the champion plays all games."""
    champion = Variant(role="champion", version=number, share=1.0)
    return Plan(variants=(champion,), salt="champion")
