"""Drives rollouts: it follows the registry, judges the open rollouts and moves them on.

The controller can be killed at any moment. All that it decides from is in the registry: the
rollout's state and step, its settings and its games. Started again, it decides the same.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from rlarcade.errors import (
    DamagedPartError,
    PolicyError,
    RegistryError,
    ResourceError,
    RlarcadeError,
    StaleError,
)
from rlarcade.foreign import own_words
from rlarcade.registry.registry import Registry, default_actor
from rlarcade.registry.rollouts import OPEN_STATES, FollowOn, Rollout, RolloutState, ServedGame
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Plan, Variant
from rlarcade.serving.follow_on import report
from rlarcade.serving.live import LiveRollout, kept
from rlarcade.serving.records import write_games, write_shadow
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.rolling import Rolling
from rlarcade.serving.service import Deployment, Service
from rlarcade.serving.stock import Loader, Stocked, champions, from_registry
from rlarcade.serving.strategies import Decision, RolloutSpec, judge

_log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two looks at the registry; games that end are judged at once."""
LOADING_SECONDS = 120.0
"""A candidate that is not ready after this time cannot be loaded."""
_SHADOW_PERIOD = 1_000  # decisions of a shadow that a kill may lose; a signal loses none


class Controller:
    """Keeps a service's deployments as the registry says.

    Attributes:
        registry: the registry that it follows. Used in the service's thread for it only.
        stale: why the registry cannot be used now, for one game or for all; None: it can. The last
            plan stays in force.
    """

    def __init__(self, service: Service, registry: Registry, loader: Loader) -> None:
        self._service = service
        self.registry = registry
        self._load = loader
        self._rolling = Rolling(service)
        self._one_at_a_time = asyncio.Lock()
        self._loading: dict[int, tuple[float, asyncio.Task[str | None]]] = {}
        """Candidates that are being loaded, by rollout: since when, and the work (`_trouble`)."""
        self._withdrawn: list[LiveRollout] = []
        """Rollouts whose candidate was withdrawn when the champion changed."""
        self._unserved: dict[str, str] = {}
        """Why a game's champion cannot be served, as far as it was logged."""
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
            await self._end()

    async def _end(self) -> None:
        """Ends what runs in the background. What a shadow has counted so far is written."""
        for _, loading in self._loading.values():
            loading.cancel()
        await self._rolling.stop()
        for deployment in self._service.deployments.values():
            if deployment.live is not None:
                with suppress(RegistryError):
                    await write_shadow(self._service, self.registry, deployment.live)

    async def look(self) -> None:
        """Follows the registry once. If it cannot be used, everything stays as it is."""
        async with self._one_at_a_time:
            waiters, self._service.waiters = self._service.waiters, []
            try:
                wrong = await self._look_at_each()
            except RegistryError as error:
                wrong = str(error)
            finally:
                for waiter in waiters:
                    if not waiter.cancelled():
                        waiter.set_result(None)
            if wrong is not None and self.stale is None:
                _log.warning("the registry cannot be used, so the last plan stays: %s", wrong)
            self.stale = wrong
            self._service.metrics.stale(wrong is not None)

    async def _look_at_each(self) -> str | None:
        """Follows the registry for each game. What is wrong with one of them stops no other.

        Returns:
            What was wrong first, or None.

        Raises:
            RegistryError: the registry cannot be used.
        """
        wrong: dict[str, str] = {}

        async def tried(game: str, work: Callable[..., Awaitable[None]], *about: Any) -> None:
            try:
                await work(*about)
            except RegistryError as error:
                if store.is_unusable(error):
                    raise
                wrong.setdefault(game, f"{game}: {error}")
            except Exception as error:  # a mistake of ours must not stop the other games
                _log.exception("the controller failed for %s; it tries again", game)
                wrong.setdefault(game, f"{game}: {own_words(error)}")

        for game, deployment in list(self._service.deployments.items()):
            await tried(game, self._write, deployment)
        found = await self._service.at_registry(champions, self.registry)
        opened = await self._service.at_registry(self._open_rollouts)
        for game, (number, generation) in found.items():
            await tried(game, self._follow, game, number, generation, opened.get(game))
        for game in self._service.deployments.keys() - found.keys():
            await tried(game, self._take_offline, game)
        for game, deployment in list(self._service.deployments.items()):
            if game not in wrong:
                await tried(game, self._go_on, deployment)
        return next(iter(wrong.values()), None)

    async def _write(self, deployment: Deployment) -> None:
        """Writes what a game's rollout has learnt; a rollout that has lost games is rolled back."""
        running = deployment.live
        if running is None:
            return
        try:
            await write_games(self._service, self.registry, running)
            await write_shadow(self._service, self.registry, running, _SHADOW_PERIOD)
        except DamagedPartError as error:
            if running.counts_games:
                note = f"its games cannot be written: {error}"
                await self._move(running, "rolling_back", note=note)

    async def _go_on(self, deployment: Deployment) -> None:
        if deployment.live is not None:
            await self._drive(deployment, deployment.live)
        self._rolling.settle(deployment)
        await self._put_away(deployment)

    # Following the registry

    def _open_rollouts(self) -> dict[str, Rollout]:
        return {one.game: one for one in store.rollouts_of(self.registry) if _is_open(one)}

    async def _follow(
        self, game: str, number: int, generation: int, current: Rollout | None
    ) -> None:
        """Serves a game's champion, and takes up its open rollout."""
        deployment = self._service.deployments.get(game)
        if deployment is None or deployment.generation != generation:
            deployment = await self._serve_champion(game, number, generation)
        await self._hand_back(game)
        if deployment is not None and current is not None and deployment.live is None:
            await self._take_up(deployment, current)

    async def _serve_champion(self, game: str, number: int, generation: int) -> Deployment | None:
        """Serves a new champion. Games that are being played stay with their version."""
        deployment = self._service.deployments.get(game)
        if deployment is None:
            deployment = Deployment(game, _champion_only(number), generation)
        wrong = await self._trouble(self._ready(deployment, number, at_once=True))
        if deployment.live is not None:  # somebody else moved the alias
            champion = deployment.live.rollout.champion
            await self._void(deployment, deployment.live)
            deployment.plan = _champion_only(champion)
        if wrong is not None:
            wrong = f"version {number} of {game} cannot be served: {wrong}"
            if self._unserved.get(game) != wrong:
                _log.error("%s", wrong)
            self._unserved[game] = wrong
            return None
        self._unserved.pop(game, None)
        deployment.generation = generation
        deployment.plan = _champion_only(number)
        self._service.deployments[game] = deployment
        return deployment

    async def _take_offline(self, game: str) -> None:
        """Ends a game whose champion's alias was taken away."""
        deployment = self._service.deployments[game]
        if deployment.live is not None:
            await self._void(deployment, deployment.live)
        del self._service.deployments[game]

    async def _void(self, deployment: Deployment, running: LiveRollout) -> None:
        """Ends a rollout whose champion was replaced by somebody."""
        note = "the champion was changed in the meantime, so the comparison is void"
        current = running.rollout
        with suppress(StaleError):  # somebody else has ended it
            if current.state == "rolling_back":
                await self._move(running, "rolled_back", note=current.note)
            elif _is_open(current):
                await self._move(running, "aborted", note=note)
        await write_shadow(self._service, self.registry, running)
        self._withdrawn.append(running)
        deployment.live = None

    async def _hand_back(self, game: str) -> None:
        """Hands open games of candidates that were withdrawn to the champion, if they shall go."""
        deployment = self._service.deployments.get(game)
        for running in [one for one in self._withdrawn if one.rollout.game == game]:
            if deployment is not None and running.spec.cut == "now":
                self._service.cut(deployment, running, only=running.rollout.version)
                with suppress(DamagedPartError, StaleError):
                    await write_games(self._service, self.registry, running)
            self._withdrawn.remove(running)

    async def _take_up(self, deployment: Deployment, current: Rollout) -> None:
        """Goes on with a rollout from the registry, such as after a kill."""
        try:
            running = await self._service.at_registry(kept, self.registry, current)
        except DamagedPartError as error:
            note = f"it cannot be read: {error}"
            if current.state != "rolling_back":
                current = await self._moved(current, "rolling_back", note=note)
            await self._moved(current, "rolled_back", note=note)
            return
        if current.champion_generation != deployment.generation:
            await self._void(deployment, running)
            return
        if current.state in ("progressing", "paused"):
            wrong = await self._trouble(self._load_again(deployment, running))
            if wrong is not None:
                await self._move(running, "rolling_back", note=f"it cannot be loaded: {wrong}")
        deployment.live = running
        if running.counts_games:
            deployment.plan = running.plan
            self._service.begin_shadow(running)
            for game in running.open_games():  # their clients lost the server
                if game.seed is None:
                    running.end(game.number, None, ended="terminated", abandoned=True)
                else:
                    told = {"abandoned": not game.is_twin}
                    self._service.referee(running, game.number, None, told)

    async def _load_again(self, deployment: Deployment, running: LiveRollout) -> None:
        """Loads a candidate that has had games before."""
        number = running.rollout.version
        if running.spec.strategy == "rolling":
            deployment.stock[number] = await self._read(number)
            await self._rolling.catch_up(deployment, running)
        else:
            await self._ready(deployment, number, at_once=False)

    async def _ready(self, deployment: Deployment, number: int, *, at_once: bool) -> None:
        """Loads and warms a version, before it gets any game."""
        stocked = deployment.stock.get(number) or await self._read(number)
        await self._service.engine.load(
            number, stocked.agent, at_once=at_once, checkpoint=stocked.checkpoint
        )
        deployment.stock[number] = stocked

    async def _read(self, number: int) -> Stocked:
        return await self._service.at_registry(from_registry, self.registry, number, self._load)

    async def _trouble(self, loading: Awaitable[object]) -> str | None:
        """Loads a version; returns why it cannot be served, or None.

        Raises:
            UnusableRegistryError: the registry cannot be used, so nothing is known of the version.
        """
        try:
            await loading
        except Exception as error:  # any other error counts as the version's
            if store.is_unusable(error):
                raise
            return str(error) if isinstance(error, RlarcadeError | Refusal) else own_words(error)
        return None

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
        if not _is_open(running.rollout) and deployment.live is not None:
            await self._let_go(deployment, running)

    async def _prepare(self, deployment: Deployment, running: LiveRollout) -> None:
        """Loads the candidate, when it is its turn. Only then it gets its first game."""
        if not await self._is_its_turn(running):
            return
        try:
            if not await self._loaded(deployment, running):
                return
        except (PolicyError, ResourceError, Refusal) as error:
            await self._move(running, "rolling_back", note=f"it cannot be loaded: {error}")
            return
        await self._move(running, "progressing", step=0, note="the candidate is loaded")
        self._switch(deployment, running, running.plan)
        self._service.begin_shadow(running)

    async def _loaded(self, deployment: Deployment, running: LiveRollout) -> bool:
        """Whether the candidate is loaded. A slow one is waited for while other games go on.

        Raises:
            PolicyError: it cannot be loaded; or an error of `Rolling.begun`.
            UnusableRegistryError: the registry cannot be used, so nothing is known of it.
        """
        number, is_rolling = running.rollout.version, running.spec.strategy == "rolling"

        async def load() -> None:
            if not is_rolling:
                await self._ready(deployment, number, at_once=False)
            elif number not in deployment.stock:
                deployment.stock[number] = await self._read(number)

        if running.rollout.id not in self._loading:
            task = asyncio.get_running_loop().create_task(self._trouble(load()))
            task.add_done_callback(lambda _: self._service.changed.set())
            self._loading[running.rollout.id] = time.monotonic(), task
        began, loading = self._loading[running.rollout.id]
        await asyncio.wait((loading,), timeout=PERIOD)
        if not loading.done() and time.monotonic() - began < LOADING_SECONDS:
            return False
        del self._loading[running.rollout.id]
        if not loading.done():
            loading.cancel()
            raise PolicyError(f"it was not ready within {LOADING_SECONDS:g} seconds.")
        wrong = loading.result()
        if wrong is not None:
            raise PolicyError(wrong)
        return not is_rolling or self._rolling.begun(deployment, running)

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
        number = running.rollout.version
        try:
            running.rollout = await self._service.at_registry(
                store.succeed, self.registry, running.rollout, default_actor(), why
            )
        except RegistryError as error:
            if store.is_unusable(error) or isinstance(error, StaleError):
                raise
            note = f"it cannot become the champion: {error}"
            await self._move(running, "rolling_back", note=note)
            return
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
        """Forgets a rollout that has ended, once what it has learnt is written."""
        with suppress(DamagedPartError):
            await write_games(self._service, self.registry, running)
            await write_shadow(self._service, self.registry, running)
        deployment.live = None

    async def _move(
        self, running: LiveRollout, state: RolloutState, **changes: int | str | None
    ) -> None:
        running.rollout = await self._moved(running.rollout, state, **changes)

    async def _moved(
        self, current: Rollout, state: RolloutState, **changes: int | str | None
    ) -> Rollout:
        def moved() -> Rollout:
            return store.move(self.registry, current, state, default_actor(), **changes)  # type: ignore[arg-type]

        after = await self._service.at_registry(moved)
        _log.info("rollout %d is %s: %s", after.id, state, after.note)
        return after

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
                await write_shadow(self._service, self.registry, running)
            after = await self._service.at_registry(what, current)
            if running is not None:
                running.rollout = after
                if not _is_open(after):
                    await self._ordered_to_end(running)
            elif after.state == "rolled_back":
                await self._undone(after)
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

    def _live(self, number: int) -> LiveRollout | None:
        """Returns a rollout if it is driven here now."""
        running = (deployment.live for deployment in self._service.deployments.values())
        return next((one for one in running if one is not None and one.rollout.id == number), None)

    async def _ordered_to_end(self, running: LiveRollout) -> None:
        after = running.rollout
        winner = after.version if after.state == "succeeded" else after.champion
        deployment = self._service.deployments[after.game]
        self._switch(deployment, running, _champion_only(winner))
        with suppress(RegistryError):  # the order is carried out; the next look writes the games
            await self._let_go(deployment, running)

    async def _undone(self, after: Rollout) -> None:
        """Serves the earlier champion again, and hands open games back if they shall go back."""
        with suppress(RegistryError):  # the order is carried out; the next look does what is left
            self._withdrawn.append(await self._service.at_registry(kept, self.registry, after))
            await self._look_at_each()


_OPERATOR = "operator "


def by_operator(actor: str, what: str) -> str:
    """Returns the note of an operator's order, by which a pause of theirs is recognised."""
    return f"{_OPERATOR}{actor}: {what}"


def is_by_operator(current: Rollout) -> bool:
    """Whether the rollout's state was ordered by an operator."""
    return (current.note or "").startswith(_OPERATOR)


def _is_open(current: Rollout) -> bool:
    return current.state in OPEN_STATES


def _champion_only(number: int) -> Plan:
    champion = Variant(role="champion", version=number, share=1.0)
    return Plan(variants=(champion,), salt="champion")
