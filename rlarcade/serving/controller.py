"""The controller follows the registry: it serves its champions and has its rollouts driven.

It looks at each game again and again, and carries out the orders of operators. It can be killed at
any moment, since all that it knows is in the registry.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from rlarcade.errors import DamagedPartError, RegistryError, StaleError
from rlarcade.foreign import own_words
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import FollowOn, Rollout, ServedGame
from rlarcade.serving import rollout_store as store
from rlarcade.serving.deployment import Deployment, hand_over
from rlarcade.serving.driving import Driving, champion_only
from rlarcade.serving.follow_on import report
from rlarcade.serving.live import LiveRollout, kept
from rlarcade.serving.loading import UNLOADABLE, Loading
from rlarcade.serving.records import write_games, write_shadow
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.rolling import Rolling
from rlarcade.serving.service import Service
from rlarcade.serving.stock import Loader, champions
from rlarcade.serving.strategies import RolloutSpec

_log = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two looks at the registry; games that end are judged at once."""
ANOTHER = "another server of this registry. End it, and this one takes over."
_SHADOW_PERIOD = 1_000  # decisions of a shadow that a kill may lose; a signal loses none


class Controller:
    """Keeps a service's deployments as the registry says.

    Attributes:
        registry: the registry that it follows. Used in the service's thread for it only.
        stale: why the registry cannot be used now, for one game or for all; None: it can. The last
            plan stays in force.
        other: the server that drives the rollouts instead of this one; None: this one does.
    """

    def __init__(
        self,
        service: Service,
        registry: Registry,
        loader: Loader,
        other_driver: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Takes the registry. Nothing is read yet.

        Args:
            service: what it controls.
            registry: what it follows.
            loader: makes agents of checkpoints.
            other_driver: see `Driver.other`.
        """
        self._service = service
        self._other_driver = other_driver
        self.registry = registry
        self._rolling = Rolling(service)
        self._loading = Loading(service, registry, loader, self._rolling)
        self._driving = Driving(service, registry, self._loading, self._rolling)
        self._one_at_a_time = asyncio.Lock()
        self._aside: dict[str, Deployment] = {}
        """Games that are not online yet, or no more while sessions still play them."""
        self._withdrawn: list[LiveRollout] = []
        """Rollouts whose candidate was withdrawn when the champion changed."""
        self._unserved: dict[str, str] = {}
        """Why a game's champion cannot be served, as far as it was logged."""
        self.stale: str | None = None
        self.other: str | None = None

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
        self._loading.close()
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
                self._loading.listening = True
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
        driven = opened if await self._may_drive() else {}
        for game, (number, generation) in found.items():
            await tried(game, self._follow, game, number, generation, driven.get(game))
        for game in (self._service.deployments.keys() | self._aside.keys()) - found.keys():
            await tried(game, self._take_offline, game)
        for game, deployment in list(self._service.deployments.items()):
            if game not in wrong:
                await tried(game, self._go_on, deployment, driven.get(game))
        self._service.forget_unloaded()
        elsewhere = f"rollouts are open, and {self.other} drives them: {ANOTHER}"
        return next(iter(wrong.values()), elsewhere if opened != driven else None)

    async def _may_drive(self) -> bool:
        """Whether this server drives the rollouts. Once it does, it does so to its end."""
        self.other = await self._service.at_registry(self._other_driver)
        return self.other is None

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
                await self._driving.move(running, "rolling_back", note=note)

    async def _go_on(self, deployment: Deployment, current: Rollout | None) -> None:
        """Drives a game's rollout, and puts away what the game needs no more.

        Args:
            deployment: the game.
            current: its open rollout, as the registry had it at the beginning of this look.
        """
        if deployment.live is not None:
            await self._driving.drive(deployment, deployment.live)
        elif current is not None:
            return  # its candidate is being loaded: nothing may take it for one that has left
        self._rolling.settle(deployment)
        await self._loading.put_away(deployment, needed=deployment.needed)

    # Following the registry

    def _open_rollouts(self) -> dict[str, Rollout]:
        return {one.game: one for one in store.rollouts_of(self.registry) if one.is_open}

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
        """Serves a new champion once it is loaded; returns None before.

        Games that are being played stay with their version.
        """
        deployment = self._service.deployments.get(game)
        if deployment is None:
            first = Deployment(game, champion_only(number), generation)
            deployment = self._aside.setdefault(game, first)
        if deployment.live is not None:  # somebody else moved the alias
            champion = deployment.live.rollout.champion
            await self._void(deployment, deployment.live)
            deployment.plan = champion_only(champion)
        try:
            if not await self._loading.champion(deployment, number, generation):
                return None
        except UNLOADABLE as error:
            wrong = f"version {number} of {game} cannot be served: {error}"
            if self._unserved.get(game) != wrong:
                _log.error("%s", wrong)
            self._unserved[game] = wrong
            return None
        self._unserved.pop(game, None)
        deployment.generation = generation
        deployment.plan = champion_only(number)
        self._service.deployments[game] = deployment
        self._aside.pop(game, None)
        return deployment

    async def _take_offline(self, game: str) -> None:
        """Ends a game whose champion's alias was taken away, and unloads it after its last session.

        Sessions that play are not cut.
        """
        deployment = self._service.deployments.get(game)
        if deployment is not None:
            if deployment.live is not None:
                await self._void(deployment, deployment.live)
            self._aside[game] = self._service.deployments.pop(game)
        await self._loading.put_away(self._aside[game], needed=())
        if not self._aside[game].stock:
            del self._aside[game]

    async def _void(self, deployment: Deployment, running: LiveRollout) -> None:
        """Ends a rollout whose champion was replaced by somebody."""
        note = "the champion was changed in the meantime, so the comparison is void"
        current = running.rollout
        with suppress(StaleError):  # somebody else has ended it
            if current.state == "rolling_back":
                await self._driving.move(running, "rolled_back", note=current.note)
            elif current.is_open:
                await self._driving.move(running, "aborted", note=note)
        await self._driving.let_go(deployment, running)
        self._withdrawn.append(running)

    async def _hand_back(self, game: str) -> None:
        """Hands open games of candidates that were withdrawn to the champion, if they shall go."""
        deployment = self._service.deployments.get(game)
        for running in [one for one in self._withdrawn if one.rollout.game == game]:
            if deployment is not None and running.spec.cut == "now":
                hand_over(self._service.sessions, deployment, running, only=running.rollout.version)
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
                current = await self._driving.moved(current, "rolling_back", note=note)
            await self._driving.moved(current, "rolled_back", note=note)
            return
        if current.champion_generation != deployment.generation:
            await self._void(deployment, running)
            return
        if current.state in ("progressing", "paused"):
            try:
                if not await self._loading.candidate(deployment, running):
                    return  # it is taken up later
            except UNLOADABLE as error:
                note = f"it cannot be loaded: {error}"
                await self._driving.move(running, "rolling_back", note=note)
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
                if not after.is_open:
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
        self._driving.switch(deployment, running, champion_only(winner))
        with suppress(RegistryError):  # the order is carried out; the next look writes the games
            await self._driving.let_go(deployment, running)

    async def _undone(self, after: Rollout) -> None:
        """Serves the earlier champion again, and hands open games back if they shall go back."""
        with suppress(RegistryError):  # the order is carried out; the next look does what is left
            self._withdrawn.append(await self._service.at_registry(kept, self.registry, after))
            await self._look_at_each()
