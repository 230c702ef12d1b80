"""A worker as an actor of a Ray cluster.

Sessions, sockets and rollouts stay in the server: only whole batches of observations go to the
cluster. A request that went through Ray's own HTTP server would take ten times as long, and a game
would lose its connection whenever a version changes.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from rlarcade.checkpoint import Package
from rlarcade.cluster.connection import RayCluster
from rlarcade.cluster.nodes import Facts, check_node, facts_of_this_process
from rlarcade.errors import ConfigError, PolicyError
from rlarcade.foreign import own_words
from rlarcade.serving.computing import LoadedAgents, failure
from rlarcade.serving.engine import Observations, Values
from rlarcade.serving.workers import LOAD_SECONDS, START_SECONDS, WorkerDied, WorkerHung


class ServingWorker:
    """What runs on the cluster. Ray makes one call at a time, beside `end`."""

    def __init__(self, loader: str | None) -> None:
        self._loader = loader
        self._agents: LoadedAgents

    def begin(self, server: Facts) -> None:
        """Gets ready; raises ConfigError if the node has other versions than the server."""
        check_node(server)
        self._agents = LoadedAgents(self._loader)

    def load(self, version: int, package: Package) -> None:
        """Loads a version; see `LoadedAgents.load`."""
        try:
            self._agents.load(version, package)
        except Exception as error:
            raise PolicyError(failure(error)) from None  # others may not be known to the server

    def unload(self, version: int) -> None:
        """Forgets a version."""
        self._agents.unload(version)

    def values(self, version: int, observations: Observations) -> Values:
        """Computes values; see `LoadedAgents.values`."""
        try:
            return self._agents.values(version, observations)
        except Exception as error:
            raise PolicyError(failure(error)) from None

    def end(self) -> None:
        """Never returns: whoever waits for it hears when the actor has ended."""
        threading.Event().wait()


class RayWorker:
    """One actor; see `Worker`."""

    def __init__(self, cluster: RayCluster, loader: str | None) -> None:
        """Asks for an actor; `start` waits for it."""
        self.retired = False
        self.computes: int | None = None
        self._cluster, self._errors = cluster, cluster.ray.exceptions
        self._one_at_a_time = asyncio.Lock()
        self._how = "it did not say why"
        self._actor = cluster.start_actor(ServingWorker, loader, concurrency_groups={"end": 1})
        self._end = self._actor.end.options(concurrency_group="end").remote()

    @classmethod
    async def start(cls, cluster: RayCluster, loader: str | None = None) -> Self:
        """Starts a worker; it is ready for `load` when this returns.

        Args:
            cluster: where.
            loader: makes agents of checkpoints, MODULE:NAME; None: `DQNAgent.load`.

        Raises:
            WorkerDied: it ended at once, its node has other versions than this process, or no CPU
                of the cluster became free.
        """
        worker = cls(cluster, loader)
        try:
            async with worker._one_at_a_time:
                await worker._ask("begin", START_SECONDS, facts_of_this_process())
        except ConfigError as error:
            await worker.end()
            raise WorkerDied(str(error).rstrip(".")) from error
        except BaseException:
            await worker.end()
            raise
        return worker

    @property
    def idle(self) -> bool:
        """See `Worker.idle`."""
        return self.computes is None and not self._one_at_a_time.locked()

    @property
    def how_it_ended(self) -> str:
        """Ray's words."""
        return self._how

    async def load(self, version: int, package: Package) -> None:
        """See `Worker.load`."""
        try:
            async with self._one_at_a_time:
                await self._ask("load", LOAD_SECONDS, version, package)
        except PolicyError as error:
            raise PolicyError(f"version {version} cannot be served: {error}.") from error

    async def unload(self, version: int) -> None:
        """See `Worker.unload`."""
        async with self._one_at_a_time:
            await self._ask("unload", LOAD_SECONDS, version)

    async def values(
        self, version: int, observations: Sequence[Observations], seconds: float
    ) -> Values:
        """See `Worker.values`."""
        together = observations[0] if len(observations) == 1 else np.concatenate(observations)
        try:
            async with self._one_at_a_time:
                values: Values = await self._ask("values", seconds, version, together)
        except PolicyError as error:
            raise PolicyError(f"{error}.") from error
        return values

    async def _ask(self, method: str, seconds: float, *arguments: Any) -> Any:
        """Calls the actor. One that gives no answer, or for whom nobody waits, is killed."""
        try:
            async with asyncio.timeout(seconds):
                return await getattr(self._actor, method).remote(*arguments)
        except TimeoutError as error:
            self._kill()
            raise WorkerHung(f"it did not answer within {seconds:g} seconds") from error
        except self._errors.RayTaskError as error:
            if isinstance(error.cause, PolicyError | ConfigError):
                raise error.cause from None
            self._kill()
            raise WorkerDied(own_words(error.cause)) from error
        except self._errors.RayError as error:
            self._kill()
            raise WorkerDied(type(error).__name__) from error
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> None:
        self._cluster.end_actor(self._actor)

    async def retire(self) -> None:
        """See `Worker.retire`."""
        self.retired = True
        async with self._one_at_a_time:
            await self.end()

    async def end(self) -> None:
        """See `Worker.end`."""
        self.retired = True
        self._kill()
        await self.ended()

    async def ended(self) -> None:
        """See `Worker.ended`."""
        try:
            await self._end
        except self._errors.RayError as error:
            self._how = type(error).__name__
