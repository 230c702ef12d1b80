"""Loads versions into the engine before they get games, and puts them away afterwards.

A version that is slow is loaded while the other games go on. What is wrong with a version is told
from a registry that cannot be used: then nothing is known of the version, and the error goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Coroutine
from typing import Any

from rlarcade.errors import PolicyError, ResourceError, RlarcadeError
from rlarcade.foreign import own_words
from rlarcade.registry.registry import Registry
from rlarcade.serving import rollout_store as store
from rlarcade.serving.deployment import Deployment
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.rolling import Rolling
from rlarcade.serving.service import Service
from rlarcade.serving.stock import Loader, Stocked, read, stocked

UNLOADABLE = (PolicyError, ResourceError, Refusal)
"""Errors that say that a version cannot be loaded."""
LOADING_SECONDS = 120.0
"""A version that is not ready after this time cannot be loaded."""
_PAUSE = 9.0
"""After a try that failed, how many times as long as it no other one is made: so a champion that
cannot be loaded takes a tenth of a core at most."""


class Loading:
    """Loads the versions of a registry.

    Attributes:
        patience: seconds to wait for a version; then the other games go on, and it is waited for
            again at the next look.
        listening: whether the first look is over. Until then champions are waited for longer, so
            that a server that listens has its games online.
    """

    def __init__(
        self, service: Service, registry: Registry, loader: Loader, rolling: Rolling
    ) -> None:
        self._service, self._registry = service, registry
        self._load, self._rolling = loader, rolling
        self.patience = 1.0
        self.listening = False
        self._working: dict[tuple[str, int], tuple[float, asyncio.Task[str | None]]] = {}
        """What is being loaded, for a generation of a game's champion or for a rollout: since when,
        and the work (`_trouble`)."""
        self._failed: dict[tuple[str, int], tuple[float, str]] = {}
        """What could not be loaded: until when it is not tried again, and why it failed."""

    async def champion(self, deployment: Deployment, number: int, generation: int) -> bool:
        """Whether a game's champion is loaded.

        Args:
            deployment: the game.
            number: the champion.
            generation: generation of its alias.

        Raises:
            PolicyError: it cannot be loaded; or another one of `UNLOADABLE`.
            UnusableRegistryError: the registry cannot be used, so nothing is known of it.
        """
        patience = self.patience if self.listening else LOADING_SECONDS

        async def load() -> None:
            await self.ready(deployment, number, at_once=True)

        done = await self._wait_for((deployment.game, generation), load, patience)
        return done and number in deployment.stock

    async def candidate(self, deployment: Deployment, running: LiveRollout) -> bool:
        """Whether the candidate is loaded. The errors are those of `champion`."""
        number, is_rolling = running.rollout.version, running.spec.strategy == "rolling"
        is_new = running.rollout.state == "preparing"

        async def load() -> None:
            if not is_rolling:
                await self.ready(deployment, number, at_once=False)
                return
            if number not in deployment.stock:
                deployment.stock[number] = await self._read(number)
            if not is_new:  # it has had games before
                await self._rolling.catch_up(deployment, running)

        done = await self._wait_for(("rollout", running.rollout.id), load, self.patience)
        if not done or number not in deployment.stock:
            return False
        return not (is_rolling and is_new) or self._rolling.begun(deployment, running)

    async def _wait_for(
        self,
        key: tuple[str, int],
        load: Callable[[], Coroutine[Any, Any, None]],
        patience: float,
    ) -> bool:
        """Waits a while for the work, which is begun if it was not begun before.

        Returns:
            Whether it is done.

        Raises:
            PolicyError: the version cannot be loaded.
            UnusableRegistryError: the registry cannot be used.
        """
        until, wrong = self._failed.get(key, (0.0, ""))
        if time.monotonic() < until:
            raise PolicyError(wrong)
        if key not in self._working:
            task = asyncio.get_running_loop().create_task(_trouble(load()))
            task.add_done_callback(lambda _: self._service.changed.set())
            self._working[key] = time.monotonic(), task
        began, loading = self._working[key]
        left = began + LOADING_SECONDS - time.monotonic()
        await asyncio.wait((loading,), timeout=min(patience, max(left, 0.0)))
        if loading.done():
            del self._working[key]
            trouble = loading.result()
            if trouble is not None:
                now = time.monotonic()
                self._failed[key] = now + _PAUSE * (now - began), trouble
                raise PolicyError(trouble)
            self._failed.pop(key, None)
        elif left <= patience:  # it stays here: if it were begun again, it would hang again
            raise PolicyError(f"it was not ready within {LOADING_SECONDS:g} seconds.")
        return loading.done()

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

    async def put_away(self, deployment: Deployment, needed: Container[int]) -> None:
        """Unloads versions that are not needed and that no session plays any more."""
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
