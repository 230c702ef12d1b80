"""The engine of several worker processes.

Each worker is a pure function from observations to values. So a worker may be killed at any
moment: another one computes its batch again, and the worker is started again. It is healthy once it
has loaded and warmed its versions.

Requests wait here, one queue for each version. Each worker computes one batch at a time, and a
batch goes to an idle worker, so the least busy one. If several are idle, the waiting requests are
divided among them.

A version that is not trusted, such as a candidate, never occupies the last worker: whatever it
does, other versions are answered. If it hangs, its worker is killed. If its batch ends several
workers, the batch fails.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rlarcade.checkpoint import Checkpoint
from rlarcade.errors import PolicyError, ResourceError
from rlarcade.serving.engine import (
    MOST_ROWS,
    Observations,
    Replica,
    Request,
    Requests,
    Values,
    ValuesActions,
    give_answers,
)
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.worker_process import (
    Package,
    WorkerDied,
    WorkerHung,
    WorkerProcess,
    packed,
)

_log = logging.getLogger(__name__)

_MOST_DEATHS = 3
"""Workers that a batch, or the loading of a version, may end before it has failed."""
_FEWEST_ROWS = 4  # a forward pass of fewer observations takes as long
_LONGEST_PAUSE = 5.0  # seconds between two starts of a worker that does not come up


@dataclass(eq=False)
class _Version:
    """A version, what is sent to workers, and its requests."""

    number: int
    package: Package
    waiting: Requests
    trusted: bool = False
    unanswered: int = 0
    """Requests that wait or are computed."""
    unloading: bool = False
    """Whether it will be forgotten as soon as all its requests are answered."""
    deaths: int = 0
    """Workers that did not come up with it, one after the other."""


@dataclass(eq=False)
class _Replica:
    """A place for a worker. Its worker changes when it dies or is replaced."""

    name: str
    worker: WorkerProcess | None = None
    """None: it is being started."""
    versions: set[int] = field(default_factory=set)
    """What it serves, or will serve once it has been started again."""
    batches: int = 0
    """Batches that it was given."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while versions are loaded or unloaded, and while a worker is started."""
    up: asyncio.Event = field(default_factory=asyncio.Event)


class ProcessEngine:
    """Computes in several worker processes."""

    def __init__(
        self, replicas: int, *, loader: str | None = None, hang_seconds: float = 10.0
    ) -> None:
        """Makes the engine. Its workers are started when the first version is loaded.

        Args:
            replicas: number of workers.
            loader: makes agents of checkpoints, MODULE:NAME; None: `DQNAgent.load`.
            hang_seconds: a worker that takes longer for a batch is killed.
        """
        self._replicas = [_Replica(f"worker-{index}") for index in range(1, replicas + 1)]
        self._versions: dict[int, _Version] = {}
        """Those that were served last come last."""
        self._loader, self._hang_seconds = loader, hang_seconds
        self._starting = asyncio.Lock()
        self._begun = self._scheduled = self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._processes: set[WorkerProcess] = set()
        """All that were started and have not ended, the retired ones as well."""

    # Versions

    async def load(
        self,
        version: int,
        agent: ValuesActions,
        *,
        at_once: bool,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """See `Engine.load`.

        Raises:
            ResourceError: the workers cannot be started.
            ValueError: the checkpoint is missing.
        """
        del agent
        known = version in self._versions
        loaded = self._versions.get(version) or await _version(version, checkpoint)
        await self._begin()
        self._versions[version] = loaded
        loaded.unloading = False
        try:
            for replica in self._replicas:
                await self._place(replica, loaded)
        except BaseException:
            if not known:
                await self._forget(loaded)
            raise
        loaded.trusted = at_once

    async def unload(self, version: int) -> None:
        """See `Engine.unload`."""
        loaded = self._versions.get(version)
        if loaded is not None:
            loaded.unloading = True
            if not loaded.unanswered:
                await self._forget(loaded)

    async def replace(
        self, old: int, new: int, agent: ValuesActions, checkpoint: Checkpoint | None
    ) -> None:
        """See `Engine.replace`. The new worker is started and warmed before the old one ends.

        So as many workers are healthy as before, for the price of one more process meanwhile. If
        no worker serves the old version alone, nothing is replaced.

        Raises:
            PolicyError: see `Engine.replace`.
            ResourceError: no process can be started.
            ValueError: the checkpoint is missing.
        """
        del agent
        serving = [replica for replica in self._replicas if old in replica.versions]
        chosen = next((one for one in serving if new not in one.versions), None)
        if chosen is None:
            return
        if new not in self._versions:
            self._versions[new] = await _version(new, checkpoint)
        try:
            async with chosen.changing:
                leaving = {old} if len(serving) > 1 else set()
                versions = (chosen.versions - leaving) | {new}
                worker = await self._tried_worker(versions, new)
                before, chosen.versions = chosen.worker, versions
                self._install(chosen, worker)
        except BaseException:
            if not self._serving(new):
                self._versions.pop(new, None)
            raise
        if before is not None:
            self._in_background(before.retire())

    async def _place(self, replica: _Replica, version: _Version) -> None:
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
                    self._lost(replica, worker)
                    deaths += 1
                    if deaths == _MOST_DEATHS:
                        raise PolicyError(
                            f"version {version.number} cannot be served: loading it ended "
                            f"{deaths} workers."
                        ) from error
                else:
                    replica.versions.add(version.number)
                    self._schedule()
                    return

    async def _forget(self, version: _Version) -> None:
        self._versions.pop(version.number, None)
        for replica in self._replicas:
            async with replica.changing:
                if version.number in self._versions:
                    return  # it was loaded again
                if version.number in replica.versions:
                    replica.versions.remove(version.number)
                    if replica.worker is not None:
                        with suppress(WorkerDied):  # it will be started without the version
                            await replica.worker.unload(version.number)

    def _serving(self, version: int) -> int:
        """Counts the workers that serve a version."""
        return sum(version in replica.versions for replica in self._replicas)

    # Requests

    async def values(self, version: int, observations: Observations) -> Values:
        """See `Engine.values`."""
        loaded = self._versions.get(version)
        if loaded is None or loaded.unloading or self._closed:
            raise Refusal(503, f"version {version} is not loaded. Try again.", retry_after=1)
        if not self._serving(version):
            raise PolicyError("no worker can load it any more.")
        answer = loaded.waiting.add(observations)
        self._schedule()
        loaded.unanswered += 1
        try:
            return await answer
        finally:
            loaded.unanswered -= 1
            if loaded.unloading and not loaded.unanswered:
                self._in_background(self._forget(loaded))

    def _schedule(self) -> None:
        """Gives out batches soon: requests that arrived together shall be computed together."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._give_out)

    def _give_out(self) -> None:
        """Gives waiting requests to idle workers."""
        self._scheduled = False
        if self._closed:
            return
        for version in list(self._versions.values()):
            while version.waiting:
                idle = self._idle(version)
                if not idle:
                    break
                part = -(-version.waiting.rows // len(idle))
                batch = version.waiting.next_batch(min(max(part, _FEWEST_ROWS), MOST_ROWS))
                if batch:
                    self._give(idle[0], version, batch)

    def _idle(self, version: _Version) -> list[_Replica]:
        """Returns the replicas that may compute a batch of a version now, the least used first."""
        up = [(one, one.worker) for one in self._replicas if one.worker is not None]
        idle = [one for one, worker in up if worker.idle and version.number in one.versions]
        if not version.trusted and len(self._replicas) > 1:
            safe = sum(not self._at_risk(worker) for _, worker in up)
            idle = idle[: max(safe - 1, 0)]
        return sorted(idle, key=lambda replica: replica.batches)

    def _at_risk(self, worker: WorkerProcess) -> bool:
        """Whether the worker computes a batch of a version that is not trusted."""
        version = None if worker.computes is None else self._versions.get(worker.computes)
        return version is not None and not version.trusted

    def _give(self, replica: _Replica, version: _Version, batch: list[Request]) -> None:
        assert replica.worker is not None
        replica.worker.computes = version.number
        replica.batches += 1
        self._versions[version.number] = self._versions.pop(version.number)
        self._in_background(self._compute(replica, replica.worker, version, batch))

    async def _compute(
        self, replica: _Replica, worker: WorkerProcess, version: _Version, batch: list[Request]
    ) -> None:
        """Computes a batch. If its worker dies, the batch waits for another one."""
        parts = [request.observations for request in batch]
        result: Values | Exception = _ENDS
        try:
            result = await worker.values(version.number, parts, self._hang_seconds)
        except WorkerHung:
            self._lost(replica, worker)
            result = PolicyError(f"it took longer than {self._hang_seconds:g} seconds.")
        except WorkerDied:
            self._lost(replica, worker)
            for request in batch:
                request.lost += 1
            version.waiting.put_back(one for one in batch if one.lost < _MOST_DEATHS)
            batch = [one for one in batch if one.lost >= _MOST_DEATHS]
            result = PolicyError(f"it ended {_MOST_DEATHS} workers.")
        except PolicyError as error:
            result = error
        finally:
            worker.computes = None
            give_answers(batch, result)
            self._schedule()

    # Workers

    def replicas(self) -> list[Replica]:
        """See `Engine.replicas`."""
        return [
            Replica(one.name, one.worker is not None, tuple(sorted(one.versions)))
            for one in self._replicas
        ]

    async def close(self) -> None:
        """See `Engine.close`. Requests that wait are refused."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for version in self._versions.values():
            while version.waiting:
                give_answers(version.waiting.next_batch(), _ENDS)
        await asyncio.gather(*(worker.end() for worker in self._processes))
        for replica in self._replicas:
            replica.worker = None

    async def _begin(self) -> None:
        """Starts all workers, the first time.

        Raises:
            ResourceError: one of them cannot be started.
        """
        async with self._starting:
            if self._begun:
                return
            starts = (self._new_worker(()) for _ in self._replicas)
            began = await asyncio.gather(*starts, return_exceptions=True)
            failures = [one for one in began if isinstance(one, BaseException)]
            if failures:
                for worker in began:
                    if isinstance(worker, WorkerProcess):
                        await worker.end()
                raise failures[0]
            self._begun = True
            for replica, worker in zip(self._replicas, began, strict=True):
                assert isinstance(worker, WorkerProcess)
                self._install(replica, worker)

    async def _new_worker(self, versions: Collection[int]) -> WorkerProcess:
        """Starts a worker and loads versions, trusted ones first.

        Raises:
            PolicyError: a version cannot be served.
            ResourceError: no process can be started.
            WorkerDied: it ended while a version was loaded.
        """
        try:
            worker = await WorkerProcess.start(self._loader)
        except (OSError, WorkerDied) as error:
            raise ResourceError(
                f"a worker process cannot be started: {error}. Its standard error says why; "
                "--engine local needs none."
            ) from error
        self._processes.add(worker)
        try:
            loading = [self._versions[one] for one in versions if one in self._versions]
            for version in sorted(loading, key=lambda one: not one.trusted):
                version.deaths += 1
                await worker.load(version.number, version.package)
                version.deaths = 0
        except BaseException:
            await worker.end()
            self._processes.discard(worker)
            raise
        return worker

    async def _tried_worker(self, versions: Collection[int], new: int) -> WorkerProcess:
        """Starts a worker with a new version, again if it dies.

        Raises:
            PolicyError: the version cannot be served.
            ResourceError: no process can be started.
        """
        for _ in range(_MOST_DEATHS):
            with suppress(WorkerDied):
                return await self._new_worker(versions)
        raise PolicyError(
            f"version {new} cannot be served: loading it ended {_MOST_DEATHS} workers."
        )

    def _install(self, replica: _Replica, worker: WorkerProcess) -> None:
        """Lets a warm worker compute for a replica."""
        replica.worker = worker
        replica.up.set()
        self._in_background(self._watch(replica, worker))
        self._schedule()

    def _lost(self, replica: _Replica, worker: WorkerProcess) -> None:
        """Gives a worker that has ended nothing more."""
        if replica.worker is worker:
            replica.worker = None
            replica.up.clear()

    async def _watch(self, replica: _Replica, worker: WorkerProcess) -> None:
        """Starts a replica's worker again when it has ended."""
        await worker.ended()
        self._processes.discard(worker)
        if worker.retired:
            return
        _log.warning("%s ended (%s); it is started again", replica.name, worker.process.returncode)
        self._lost(replica, worker)
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

    def _leave_out(self, replica: _Replica) -> None:
        """Does without versions that are not trusted and that workers did not come up with."""
        for number in tuple(replica.versions):
            version = self._versions.get(number)  # None: it is being unloaded
            if version is None or (version.deaths >= _MOST_DEATHS and not version.trusted):
                replica.versions.remove(number)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_ENDS = Refusal(503, "the server ends. Try again later.", retry_after=10)


async def _version(number: int, checkpoint: Checkpoint | None) -> _Version:
    if checkpoint is None:
        raise ValueError(f"an engine of several processes needs the checkpoint of version {number}")
    return _Version(number, await asyncio.to_thread(packed, checkpoint), Requests(number))
