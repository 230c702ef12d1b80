"""The workers of an engine: started, given versions, watched, replaced, ended.

A worker that dies is started again. It computes nothing before it has loaded and warmed its
versions.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rlarcade.checkpoint import Package
from rlarcade.errors import PolicyError, ResourceError
from rlarcade.serving.engine import Requests
from rlarcade.serving.workers import StartWorker, Worker, WorkerDied

_log = logging.getLogger(__name__)

MOST_DEATHS = 3
"""Workers that a batch, or the loading of a version, may end before it has failed."""
_LONGEST_PAUSE = 5.0  # seconds between two starts of a worker that does not come up


@dataclass(eq=False)
class PoolVersion:
    """A version, what is sent to workers, and its requests."""

    number: int
    package: Package
    waiting: Requests
    trusted: bool = False
    """Whether it may occupy all workers."""
    unanswered: int = 0
    """Requests that wait or are computed."""
    unloading: bool = False
    """Whether it will be forgotten as soon as all its requests are answered."""
    deaths: int = 0
    """Workers that did not come up with it, one after the other."""


@dataclass(eq=False)
class PoolReplica:
    """A place for a worker. Its worker changes when it dies or is replaced."""

    name: str
    worker: Worker | None = None
    """None: it is being started."""
    versions: set[int] = field(default_factory=set)
    """What it serves, or will serve once it has been started again."""
    batches: int = 0
    """Batches that it was given."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while versions are loaded or unloaded, and while a worker is started."""
    up: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerPool:
    """A fixed number of workers.

    Attributes:
        replicas: the workers' places.
        versions: what workers may be given, by number. Those that were served last come last.
    """

    def __init__(self, replicas: int, start: StartWorker, freed: Callable[[], None]) -> None:
        """Makes the pool. Its workers are started by `begin`.

        Args:
            replicas: number of workers.
            start: starts a worker.
            freed: called when a worker can be given batches that it could not be given before.
        """
        self.replicas = [PoolReplica(f"worker-{index}") for index in range(1, replicas + 1)]
        self.versions: dict[int, PoolVersion] = {}
        self._start, self._freed = start, freed
        self._begun = False
        self._beginning = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._all: set[Worker] = set()
        """All that were started and have not ended, the retired ones as well."""

    async def begin(self) -> None:
        """Starts all workers, the first time.

        Raises:
            ResourceError: one of them cannot be started.
        """
        async with self._beginning:
            if self._begun:
                return
            starts = (self._new_worker(()) for _ in self.replicas)
            began = await asyncio.gather(*starts, return_exceptions=True)
            failures = [one for one in began if isinstance(one, BaseException)]
            if failures:
                for worker in began:
                    if isinstance(worker, Worker):
                        await worker.end()
                raise failures[0]
            self._begun = True
            for replica, worker in zip(self.replicas, began, strict=True):
                assert isinstance(worker, Worker)
                self._install(replica, worker)

    async def close(self) -> None:
        """Ends all workers at once."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self._all))
        for replica in self.replicas:
            replica.worker = None

    # Versions

    def serving(self, version: int) -> int:
        """Counts the workers that serve a version."""
        return sum(version in replica.versions for replica in self.replicas)

    async def place(self, replica: PoolReplica, version: PoolVersion) -> None:
        """Loads a version into the worker of a replica, unless it has it.

        Raises:
            PolicyError: the version cannot be served.
        """
        deaths = 0
        while True:
            if version.number in replica.versions:
                return
            await replica.up.wait()
            async with replica.changing:
                worker = replica.worker
                if worker is None:
                    continue
                try:
                    await worker.load(version.number, version.package)
                except WorkerDied as error:
                    self.lost(replica, worker)
                    deaths += 1
                    if deaths == MOST_DEATHS:
                        raise PolicyError(
                            f"version {version.number} cannot be served: loading it ended "
                            f"{deaths} workers."
                        ) from error
                else:
                    replica.versions.add(version.number)
                    self._freed()
                    return

    async def replace(self, old: int, new: PoolVersion) -> None:
        """Replaces one worker that serves a version by one that serves another; see `Engine`.

        Raises:
            PolicyError: the new version cannot be served.
            ResourceError: no worker can be started.
        """
        serving = [replica for replica in self.replicas if old in replica.versions]
        chosen = next((one for one in serving if new.number not in one.versions), None)
        if chosen is None:
            return
        async with chosen.changing:
            leaving = {old} if self.serving(old) > 1 else set()
            versions = (chosen.versions - leaving) | {new.number}
            worker = await self._tried_worker(versions, new.number)
            before, chosen.versions = chosen.worker, versions
            self._install(chosen, worker)
        if before is not None:
            self.in_background(before.retire())

    async def forget(self, version: PoolVersion) -> None:
        """Unloads a version from all workers."""
        self.versions.pop(version.number, None)
        for replica in self.replicas:
            async with replica.changing:
                if version.number in self.versions:
                    return  # it was loaded again
                if version.number in replica.versions:
                    replica.versions.remove(version.number)
                    if replica.worker is not None:
                        with suppress(WorkerDied):  # it will be started without the version
                            await replica.worker.unload(version.number)

    # Workers

    async def _new_worker(self, versions: Collection[int]) -> Worker:
        """Starts a worker and loads versions, trusted ones first.

        Raises:
            PolicyError: a version cannot be served.
            ResourceError: no worker can be started.
            WorkerDied: it ended while a version was loaded.
        """
        try:
            worker = await self._start()
        except (OSError, WorkerDied) as error:
            raise ResourceError(
                f"a worker cannot be started: {error}. Its standard error says why; --engine local "
                "needs none."
            ) from error
        self._all.add(worker)
        try:
            loading = [self.versions[one] for one in versions if one in self.versions]
            for version in sorted(loading, key=lambda one: not one.trusted):
                version.deaths += 1
                await worker.load(version.number, version.package)
                version.deaths = 0
        except BaseException:
            await worker.end()
            self._all.discard(worker)
            raise
        return worker

    async def _tried_worker(self, versions: Collection[int], new: int) -> Worker:
        """Starts a worker with a new version, again if it dies.

        Raises:
            PolicyError: the version cannot be served.
            ResourceError: no worker can be started.
        """
        for _ in range(MOST_DEATHS):
            with suppress(WorkerDied):
                return await self._new_worker(versions)
        raise PolicyError(
            f"version {new} cannot be served: loading it ended {MOST_DEATHS} workers."
        )

    def _install(self, replica: PoolReplica, worker: Worker) -> None:
        """Lets a warm worker compute for a replica."""
        replica.worker = worker
        replica.up.set()
        self.in_background(self._watch(replica, worker))
        self._freed()

    def lost(self, replica: PoolReplica, worker: Worker) -> None:
        """Gives a worker that has ended nothing more."""
        if replica.worker is worker:
            replica.worker = None
            replica.up.clear()

    async def _watch(self, replica: PoolReplica, worker: Worker) -> None:
        """Starts a replica's worker again when it has ended."""
        await worker.ended()
        self._all.discard(worker)
        if worker.retired:
            return
        _log.warning("%s ended (%s); it is started again", replica.name, worker.how_it_ended)
        self.lost(replica, worker)
        async with replica.changing:
            pause = 0.1
            while replica.worker is None:
                try:
                    self._install(replica, await self._new_worker(replica.versions))
                except (PolicyError, ResourceError, WorkerDied) as error:
                    _log.warning("%s does not come up: %s", replica.name, error)
                    self._leave_out(replica)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)

    def _leave_out(self, replica: PoolReplica) -> None:
        """Does without versions that are not trusted and that workers did not come up with."""
        for number in tuple(replica.versions):
            version = self.versions.get(number)  # None: it is being unloaded
            if version is None or (version.deaths >= MOST_DEATHS and not version.trusted):
                replica.versions.remove(number)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Does some work until `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
