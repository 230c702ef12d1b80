"""Loads versions into the engine before they get games, and puts them away afterwards.

What is wrong with a version is told from a registry that cannot be used. Then nothing is known of
the version, and the error goes on.
"""

import asyncio
import time
from collections.abc import Awaitable

from rlarcade.errors import PolicyError, RlarcadeError
from rlarcade.foreign import own_words
from rlarcade.registry.registry import Registry
from rlarcade.serving import rollout_store as store
from rlarcade.serving.deployment import Deployment
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.rolling import Rolling
from rlarcade.serving.service import Service
from rlarcade.serving.stock import Loader, Stocked, read, stocked

LOADING_SECONDS = 120.0
"""A candidate that is not ready after this time cannot be loaded."""
_PATIENCE = 1.0  # seconds; then the other games go on while a candidate is loaded


class Loading:
    """Loads the versions of a registry."""

    def __init__(
        self, service: Service, registry: Registry, loader: Loader, rolling: Rolling
    ) -> None:
        self._service, self._registry = service, registry
        self._load, self._rolling = loader, rolling
        self._working: dict[int, tuple[float, asyncio.Task[str | None]]] = {}
        """Candidates that are being loaded, by rollout: since when, and the work (`_trouble`)."""

    async def champion(self, deployment: Deployment, number: int) -> str | None:
        """Loads a game's champion; returns why it cannot be served, or None.

        Raises:
            UnusableRegistryError: the registry cannot be used.
        """
        return await _trouble(self.ready(deployment, number, at_once=True))

    async def candidate(self, deployment: Deployment, running: LiveRollout) -> bool:
        """Whether the candidate is loaded. A slow one is waited for while other games go on.

        Raises:
            PolicyError: it cannot be loaded; or an error of `Rolling.begun`.
            UnusableRegistryError: the registry cannot be used, so nothing is known of it.
        """
        number, is_rolling = running.rollout.version, running.spec.strategy == "rolling"

        async def load() -> None:
            if not is_rolling:
                await self.ready(deployment, number, at_once=False)
            elif number not in deployment.stock:
                deployment.stock[number] = await self._read(number)

        if running.rollout.id not in self._working:
            task = asyncio.get_running_loop().create_task(_trouble(load()))
            task.add_done_callback(lambda _: self._service.changed.set())
            self._working[running.rollout.id] = time.monotonic(), task
        began, loading = self._working[running.rollout.id]
        await asyncio.wait((loading,), timeout=_PATIENCE)
        if not loading.done() and time.monotonic() - began < LOADING_SECONDS:
            return False
        del self._working[running.rollout.id]
        if not loading.done():
            loading.cancel()
            raise PolicyError(f"it was not ready within {LOADING_SECONDS:g} seconds.")
        wrong = loading.result()
        if wrong is not None:
            raise PolicyError(wrong)
        return not is_rolling or self._rolling.begun(deployment, running)

    async def again(self, deployment: Deployment, running: LiveRollout) -> str | None:
        """Loads a candidate that has had games before; returns why it cannot be served, or None.

        Raises:
            UnusableRegistryError: the registry cannot be used.
        """
        return await _trouble(self._load_again(deployment, running))

    async def _load_again(self, deployment: Deployment, running: LiveRollout) -> None:
        """Loads a candidate that has had games before."""
        number = running.rollout.version
        if running.spec.strategy == "rolling":
            deployment.stock[number] = await self._read(number)
            await self._rolling.catch_up(deployment, running)
        else:
            await self.ready(deployment, number, at_once=False)

    async def ready(self, deployment: Deployment, number: int, *, at_once: bool) -> None:
        """Loads and warms a version, before it gets any game."""
        found = deployment.stock.get(number) or await self._read(number)
        await self._service.engine.load(
            number, found.agent, at_once=at_once, checkpoint=found.checkpoint
        )
        deployment.stock[number] = found

    async def _read(self, number: int) -> Stocked:
        version, checkpoint = await self._service.at_registry(read, self._registry, number)
        # In another thread, because it may take seconds (ONNX), and new games wait to be written.
        return await asyncio.to_thread(stocked, version, checkpoint, self._load)

    def forget(self, running: LiveRollout) -> None:
        """Waits for the candidate of a rollout no more."""
        self._working.pop(running.rollout.id, None)

    async def put_away(self, deployment: Deployment) -> None:
        """Unloads versions that nobody plays any more."""
        needed = {variant.version for variant in deployment.plan.variants}
        if deployment.live is not None:
            needed |= {game.version for game in deployment.live.open_games()}
            needed.add(deployment.live.rollout.version)
        for number in list(deployment.stock):
            if number not in needed and not self._service.sessions.of_version(number):
                del deployment.stock[number]
                await self._service.engine.unload(number)

    def close(self) -> None:
        """Loads nothing any more."""
        for _, loading in self._working.values():
            loading.cancel()


async def _trouble(loading: Awaitable[object]) -> str | None:
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
