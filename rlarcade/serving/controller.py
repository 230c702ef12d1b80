"""Drives rollouts: it follows the registry, judges the open rollouts and moves them on.

The controller can be killed at any moment. All that it decides from is in the registry: the
rollout's state and step, its settings and its games. Started again, it decides the same.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from rlarcade.errors import PolicyError, RegistryError, RlarcadeError, StaleError
from rlarcade.registry.registry import Registry, default_actor
from rlarcade.registry.rollouts import OPEN_STATES, FollowOn, Rollout, RolloutState, ServedGame
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Plan, Variant
from rlarcade.serving.follow_on import report
from rlarcade.serving.live import LiveRollout, kept
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.rolling import Rolling
from rlarcade.serving.service import Deployment, Service
from rlarcade.serving.shadow import record_shadow
from rlarcade.serving.stock import Loader, Stocked, champions, from_registry
from rlarcade.serving.strategies import Decision, RolloutSpec, judge

_log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two looks at the registry; games that end are judged at once."""
_SHADOW_PERIOD = 1_000  # decisions of a shadow that a kill may lose


class Controller:
    """Keeps a service's deployments as the registry says.

    Attributes:
        registry: the registry that it follows. Used in the service's thread for it only.
        stale: why the registry cannot be used now; None: it can. The last plan stays in force.
    """

    def __init__(self, service: Service, registry: Registry, loader: Loader) -> None:
        self._service = service
        self.registry = registry
        self._load = loader
        self._rolling = Rolling(service)
        self._one_at_a_time = asyncio.Lock()
        self.stale: str | None = None

    async def run(self) -> None:
        """Looks at the registry again and again, until cancelled."""
        try:
            while True:
                self._service.changed.clear()
                self._service.end_idle()
                try:
                    await self.look()
                except Exception:  # a mistake of ours must not end the loop: games go on
                    _log.exception("the controller failed; it tries again")
                with suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD):
                        await self._service.changed.wait()
        finally:
            await self._rolling.stop()

    async def look(self) -> None:
        """Follows the registry once. An error of the registry leaves everything as it is."""
        async with self._one_at_a_time:
            waiters, self._service.waiters = self._service.waiters, []
            try:
                for deployment in list(self._service.deployments.values()):
                    if deployment.live is not None:
                        await self._write_games(deployment.live)
                        await self._write_shadow(deployment.live, _SHADOW_PERIOD)
                await self._follow_champions()
                for deployment in list(self._service.deployments.values()):
                    if deployment.live is not None:
                        await self._drive(deployment, deployment.live)
                    self._rolling.settle(deployment)
                    await self._put_away(deployment)
                self.stale = None
            except RegistryError as error:
                if self.stale is None:
                    _log.warning("the registry cannot be used, so the last plan stays: %s", error)
                self.stale = str(error)
            finally:
                self._service.metrics.stale(self.stale is not None)
                for waiter in waiters:
                    if not waiter.cancelled():
                        waiter.set_result(None)

    # Following the registry

    async def _follow_champions(self) -> None:
        """Serves each game's champion, and takes up its open rollout."""
        found = await self._service.at_registry(champions, self.registry)
        opened = await self._service.at_registry(self._open_rollouts)
        for game, (number, generation) in found.items():
            deployment = self._service.deployments.get(game)
            if deployment is None or deployment.generation != generation:
                deployment = await self._serve_champion(game, number, generation)
            current = opened.get(game)
            if deployment is not None and current is not None and deployment.live is None:
                await self._take_up(deployment, current)
        for game in self._service.deployments.keys() - found.keys():  # its alias was taken away
            deployment = self._service.deployments.pop(game)
            if deployment.live is not None:
                await self._void(deployment, deployment.live)

    def _open_rollouts(self) -> dict[str, Rollout]:
        rollouts = store.rollouts_of(self.registry)
        return {one.game: one for one in rollouts if one.state in OPEN_STATES}

    async def _serve_champion(self, game: str, number: int, generation: int) -> Deployment | None:
        """Serves a new champion. Games that are being played stay with their version."""
        deployment = self._service.deployments.get(game)
        plan = _champion_only(number)
        if deployment is None:
            deployment = Deployment(game, plan, generation)
        try:
            await self._ready(deployment, number, at_once=True)
        except (RlarcadeError, Refusal) as error:
            _log.error("version %d of %s cannot be served: %s", number, game, error)
            return None
        deployment.generation = generation
        if deployment.live is not None:  # somebody else moved the alias
            await self._void(deployment, deployment.live)
        deployment.plan = plan
        self._service.deployments[game] = deployment
        await self._put_away(deployment)
        return deployment

    async def _void(self, deployment: Deployment, running: LiveRollout) -> None:
        """Ends a rollout whose champion was replaced by somebody."""
        note = "the champion was changed in the meantime, so the comparison is void"
        current = running.rollout
        after: RolloutState = "rolled_back" if current.state == "rolling_back" else "aborted"
        if current.state in OPEN_STATES:
            await self._move(running, after, note=note)
        await self._write_shadow(running)
        deployment.live = None

    async def _take_up(self, deployment: Deployment, current: Rollout) -> None:
        """Goes on with a rollout from the registry, such as after a kill."""
        running = await self._service.at_registry(kept, self.registry, current)
        deployment.live = running
        if current.champion_generation != deployment.generation:
            await self._void(deployment, running)
            return
        if current.state in ("progressing", "paused"):
            try:
                if running.spec.strategy == "rolling":
                    deployment.stock[current.version] = await self._read(current.version)
                    await self._rolling.catch_up(deployment, running)
                else:
                    await self._ready(deployment, current.version, at_once=False)
            except (RlarcadeError, Refusal) as error:
                await self._move(running, "rolling_back", note=f"it cannot be loaded: {error}")
                return
            deployment.plan = running.plan
            self._service.begin_shadow(running)
            for game in running.open_games():  # their clients lost the server
                if game.seed is None:
                    running.end(game.number, None, ended="terminated", abandoned=True)
                else:
                    told = {"abandoned": not game.is_twin}
                    self._service.referee(running, game.number, None, told)

    async def _ready(self, deployment: Deployment, number: int, *, at_once: bool) -> Stocked:
        """Loads and warms a version, before it gets any game."""
        stocked = deployment.stock.get(number) or await self._read(number)
        await self._service.engine.load(
            number, stocked.agent, at_once=at_once, checkpoint=stocked.checkpoint
        )
        deployment.stock[number] = stocked
        return stocked

    async def _read(self, number: int) -> Stocked:
        return await self._service.at_registry(from_registry, self.registry, number, self._load)

    async def _put_away(self, deployment: Deployment) -> None:
        """Unloads versions that nobody plays any more."""
        needed = {variant.version for variant in deployment.plan.variants}
        if deployment.live is not None:
            needed |= {game.version for game in deployment.live.open_games()}
            needed.add(deployment.live.rollout.version)
        for number in list(deployment.stock):
            if number not in needed and not self._service.sessions.of_version(number):
                del deployment.stock[number]
                await self._service.engine.unload(number)

    # Driving a rollout

    async def _drive(self, deployment: Deployment, running: LiveRollout) -> None:
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
            deployment.plan = _champion_only(running.rollout.champion)
        if running.rollout.state not in OPEN_STATES and deployment.live is not None:
            await self._let_go(deployment, running)

    async def _prepare(self, deployment: Deployment, running: LiveRollout) -> None:
        """Loads the candidate, when it is its turn. Only then it gets its first game."""
        if not await self._is_its_turn(running):
            return
        number = running.rollout.version
        try:
            if running.spec.strategy == "rolling":
                if number not in deployment.stock:
                    deployment.stock[number] = await self._read(number)
                if not self._rolling.begun(deployment, running):
                    return
            else:
                await self._ready(deployment, number, at_once=False)
        except (PolicyError, RlarcadeError, Refusal) as error:
            await self._move(running, "rolling_back", note=f"it cannot be loaded: {error}")
            return
        await self._move(running, "progressing", step=0, note="the candidate is loaded")
        self._switch(deployment, running, running.plan)
        self._service.begin_shadow(running)

    async def _is_its_turn(self, running: LiveRollout) -> bool:
        """Whether the rollout before has succeeded. If it has failed, this one is aborted."""
        if running.spec.after is None:
            return True
        first = await self._service.at_registry(store.rollout, self.registry, running.spec.after)
        if first.state in ("rolled_back", "aborted"):
            failed = first.state.replace("_", " ")
            note = f"rollout {first.id}, which had to succeed first, was {failed}"
            await self._move(running, "aborted", note=note)
        return first.state == "succeeded"

    async def _judge(self, deployment: Deployment, running: LiveRollout) -> None:
        by_operator = running.rollout.state == "paused" and is_by_operator(running.rollout)
        decision = judge(
            running.spec,
            running.rollout.step,
            running.as_games(),
            by_operator,
            quiet_for=time.monotonic() - self._service.last_assigned,
            resumed_after=running.rollout.resumed_after,
        )
        if running.spec.strategy == "rolling":
            try:
                decision = self._rolling.decision(deployment, running, decision)
            except RlarcadeError as error:
                decision = Decision(kind="roll_back", why=f"it cannot be loaded: {error}")
        await self._act(deployment, running, decision, by_operator)

    async def _act(
        self, deployment: Deployment, running: LiveRollout, decision: Decision, by_operator: bool
    ) -> None:
        """Does what was decided."""
        now = running.rollout
        match decision.kind:
            case "roll_back":
                await self._move(running, "rolling_back", note=decision.why)
            case "pause" if now.state == "progressing":
                await self._move(running, "paused", note=decision.why)
            case "stay" if now.state == "paused" and not by_operator:
                await self._move(running, "progressing", note=decision.why)
            case "advance":
                await self._move(running, "progressing", step=now.step + 1, note=decision.why)
                self._switch(deployment, running, running.plan)
            case "succeed":
                await self._succeed(deployment, running, decision.why)

    async def _succeed(self, deployment: Deployment, running: LiveRollout, why: str) -> None:
        actor = default_actor()
        running.rollout = await self._service.at_registry(
            store.succeed, self.registry, running.rollout, actor, why
        )
        number = running.rollout.version
        await self._ready(deployment, number, at_once=True)
        self._switch(deployment, running, _champion_only(number))
        deployment.generation += 1

    async def _roll_back(self, deployment: Deployment, running: LiveRollout) -> None:
        """Sends all new games to the champion."""
        self._switch(deployment, running, _champion_only(running.rollout.champion))
        await self._move(running, "rolled_back", note=running.rollout.note)

    def _switch(self, deployment: Deployment, running: LiveRollout, plan: Plan) -> None:
        """Puts a plan in force for new games, and for open ones if the settings say so."""
        deployment.plan = plan
        if running.spec.cut == "now":
            self._service.cut(deployment, running)

    async def _let_go(self, deployment: Deployment, running: LiveRollout) -> None:
        """Forgets a rollout that has ended, once its games are written."""
        await self._write_games(running)
        deployment.live = None

    async def _move(
        self, running: LiveRollout, state: RolloutState, **changes: int | str | None
    ) -> None:
        def moved() -> Rollout:
            return store.move(self.registry, running.rollout, state, default_actor(), **changes)  # type: ignore[arg-type]

        running.rollout = await self._service.at_registry(moved)
        _log.info("rollout %d is %s: %s", running.rollout.id, state, running.rollout.note)

    # Games

    async def _write_games(self, running: LiveRollout) -> None:
        """Writes new games and results. What cannot be written now is written the next time."""
        assigned, ended = list(running.assigned), list(running.ended)
        if not assigned and not ended:
            return

        def written() -> list[ServedGame]:
            results = [self._with_record(running, game) for game in ended]
            store.record_games(
                self.registry,
                running.rollout.id,
                default_actor(),
                assigned=assigned,
                ended=results,
            )
            return results

        for game in await self._service.at_registry(written):
            running.games[game.number] = game  # with the digest of its record
            running.episodes.pop(game.number, None)
        del running.assigned[: len(assigned)]
        del running.ended[: len(ended)]

    async def _write_shadow(self, running: LiveRollout, least: int = 1) -> None:
        """Writes what the shadow has counted, if that is at least so many decisions more."""
        shadow = running.shadow
        if shadow is not None and shadow.unwritten >= least:
            counts = shadow.counts
            await self._service.at_registry(record_shadow, self.registry, counts, default_actor())
            shadow.written = counts

    def _live(self, number: int) -> LiveRollout | None:
        """Returns a rollout if it is driven here now."""
        running = (deployment.live for deployment in self._service.deployments.values())
        return next((one for one in running if one is not None and one.rollout.id == number), None)

    def _with_record(self, running: LiveRollout, game: ServedGame) -> ServedGame:
        episode = running.episodes.get(game.number)
        if episode is None:
            return game
        return game.model_copy(update={"record": self.registry.put_document(episode)})

    # Operators

    async def start(
        self, number: int | str, spec: RolloutSpec, actor: str, game: str | None = None
    ) -> Rollout:
        """Opens the rollout of a version.

        Args:
            number: the version.
            spec: the strategy and its settings.
            actor: recorded in the audit log.
            game: the game that it must be of; None: any.

        Raises:
            RegistryError: see `open_rollout`.
            Refusal: 404: the game is not served here; 409: the version is of another game, or this
                server cannot roll out so.
        """
        version = await self._service.at_registry(self.registry.version, number)
        self._service.deployment(version.game)
        if game is not None and self._service.deployment(game).game != version.game:
            raise Refusal(409, f"version {version.number} is of {version.game}, not {game}.")
        spec = self._rolling.fitted(spec)

        def opened() -> Rollout:
            return store.open_rollout(self.registry, version, spec, actor=actor)

        current = await self._service.at_registry(opened)
        self._service.changed.set()
        return current

    async def order(self, number: int, what: Callable[[Rollout], Rollout]) -> Rollout:
        """Carries out an operator's order about a rollout.

        Args:
            number: the rollout.
            what: changes the rollout in the registry, in the registry's thread.

        Raises:
            RegistryError: the order does not fit the rollout's state.
        """
        async with self._one_at_a_time:
            current = await self._service.at_registry(store.rollout, self.registry, number)
            running = self._live(number)
            if running is not None:
                await self._write_shadow(running)
            after = await self._service.at_registry(what, current)
            if running is not None:
                running.rollout = after
                if after.state not in OPEN_STATES:
                    await self._ordered_to_end(running)
        self._service.changed.set()
        return after

    async def outcome(
        self, session: str, value: float, note: str | None, actor: str, number: int | None = None
    ) -> tuple[FollowOn, ServedGame]:
        """Records what somebody reports about a session later; see `follow_on.report`.

        Raises:
            Refusal: there is no such session, or it is too late.
            RegistryError: the registry cannot be used.
        """

        def reported() -> tuple[FollowOn, ServedGame]:
            return report(self.registry, session, value, note, actor, rollout=number)

        async with self._one_at_a_time:
            told, game = await self._service.at_registry(reported)
            running = self._live(told.rollout)
            if running is not None:
                running.outcomes.append(told)
        return told, game

    async def _ordered_to_end(self, running: LiveRollout) -> None:
        after = running.rollout
        winner = after.version if after.state == "succeeded" else after.champion
        deployment = self._service.deployments[after.game]
        self._switch(deployment, running, _champion_only(winner))
        with suppress(RegistryError):  # the order is carried out; the next look writes the games
            await self._let_go(deployment, running)


_OPERATOR = "operator"


def by_operator(actor: str, what: str) -> str:
    """Returns the note of an operator's order, by which a pause of theirs is recognised."""
    who = _OPERATOR if actor == _OPERATOR else f"{_OPERATOR} {actor}"  # it is who gives no name
    return f"{who}: {what}"


def is_by_operator(current: Rollout) -> bool:
    """Whether the rollout's state was ordered by an operator."""
    return (current.note or "").startswith(_OPERATOR)


def _champion_only(number: int) -> Plan:
    champion = Variant(role="champion", version=number, share=1.0)
    return Plan(variants=(champion,), salt="champion")
