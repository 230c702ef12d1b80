"""The engine of several workers: processes of this machine, or actors of a Ray cluster.

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

from rlarcade.checkpoint import Checkpoint, packed_checkpoint
from rlarcade.errors import PolicyError
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
from rlarcade.serving.worker_pool import MOST_DEATHS, PoolReplica, PoolVersion, WorkerPool
from rlarcade.serving.workers import StartWorker, Worker, WorkerDied, WorkerHung

_FEWEST_ROWS = 4  # a forward pass of fewer observations takes as long


class WorkerEngine:
    """Computes in several workers."""

    def __init__(self, replicas: int, start: StartWorker, *, hang_seconds: float = 10.0) -> None:
        """Makes the engine. Its workers are started when the first version is loaded.

        Args:
            replicas: number of workers.
            start: starts a worker.
            hang_seconds: a worker that takes longer for a batch is killed.
        """
        self._pool = WorkerPool(replicas, start, self._schedule)
        self._hang_seconds = hang_seconds
        self._scheduled = self._closed = False

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
        known = version in self._pool.versions
        loaded = self._pool.versions.get(version) or await _version(version, checkpoint)
        await self._pool.begin()
        self._pool.versions[version] = loaded
        loaded.unloading = False
        try:
            for replica in self._pool.replicas:
                await self._pool.place(replica, loaded)
        except BaseException:
            if not known:
                await self._pool.forget(loaded)
            raise
        loaded.trusted = at_once

    async def unload(self, version: int) -> None:
        """See `Engine.unload`."""
        loaded = self._pool.versions.get(version)
        if loaded is not None:
            loaded.unloading = True
            if not loaded.unanswered:
                await self._pool.forget(loaded)

    async def replace(
        self, old: int, new: int, agent: ValuesActions, checkpoint: Checkpoint | None
    ) -> None:
        """See `Engine.replace`. The new worker is started and warmed before the old one ends.

        So as many workers are healthy as before, for the price of one more worker meanwhile. If
        no worker serves the old version alone, nothing is replaced.

        Raises:
            PolicyError: see `Engine.replace`.
            ResourceError: no worker can be started.
            ValueError: the checkpoint is missing.
        """
        del agent
        if new not in self._pool.versions:
            self._pool.versions[new] = await _version(new, checkpoint)
        try:
            await self._pool.replace(old, self._pool.versions[new])
        except BaseException:
            if not self._pool.serving(new):
                self._pool.versions.pop(new, None)
            raise

    # Requests

    async def values(self, version: int, observations: Observations) -> Values:
        """See `Engine.values`."""
        loaded = self._pool.versions.get(version)
        if loaded is None or loaded.unloading or self._closed:
            raise Refusal(503, f"version {version} is not loaded. Try again.", retry_after=1)
        if not self._pool.serving(version):
            raise PolicyError("no worker can load it any more.")
        answer = loaded.waiting.add(observations)
        self._schedule()
        loaded.unanswered += 1
        try:
            return await answer
        finally:
            loaded.unanswered -= 1
            if loaded.unloading and not loaded.unanswered:
                self._pool.in_background(self._pool.forget(loaded))

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
        for version in list(self._pool.versions.values()):
            while version.waiting:
                idle = self._idle(version)
                if not idle:
                    break
                part = -(-version.waiting.rows // len(idle))
                batch = version.waiting.next_batch(min(max(part, _FEWEST_ROWS), MOST_ROWS))
                if batch:
                    self._give(idle[0], version, batch)

    def _idle(self, version: PoolVersion) -> list[PoolReplica]:
        """Returns the replicas that may compute a batch of a version now, the least used first."""
        up = [(one, one.worker) for one in self._pool.replicas if one.worker is not None]
        idle = [one for one, worker in up if worker.idle and version.number in one.versions]
        if not version.trusted and len(self._pool.replicas) > 1:
            safe = sum(not self._at_risk(worker) for _, worker in up)
            idle = idle[: max(safe - 1, 0)]
        return sorted(idle, key=lambda replica: replica.batches)

    def _at_risk(self, worker: Worker) -> bool:
        """Whether the worker computes a batch of a version that is not trusted."""
        version = None if worker.computes is None else self._pool.versions.get(worker.computes)
        return version is not None and not version.trusted

    def _give(self, replica: PoolReplica, version: PoolVersion, batch: list[Request]) -> None:
        assert replica.worker is not None
        replica.worker.computes = version.number
        replica.batches += 1
        self._pool.versions[version.number] = self._pool.versions.pop(version.number)
        self._pool.in_background(self._compute(replica, replica.worker, version, batch))

    async def _compute(
        self,
        replica: PoolReplica,
        worker: Worker,
        version: PoolVersion,
        batch: list[Request],
    ) -> None:
        """Computes a batch. If its worker dies, the batch waits for another one."""
        parts = [request.observations for request in batch]
        result: Values | Exception = _ENDS
        try:
            result = await worker.values(version.number, parts, self._hang_seconds)
        except WorkerHung:
            self._pool.lost(replica, worker)
            result = PolicyError(f"it took longer than {self._hang_seconds:g} seconds.")
        except WorkerDied:
            self._pool.lost(replica, worker)
            for request in batch:
                request.lost += 1
            version.waiting.put_back(one for one in batch if one.lost < MOST_DEATHS)
            batch = [one for one in batch if one.lost >= MOST_DEATHS]
            result = PolicyError(f"it ended {MOST_DEATHS} workers.")
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
            for one in self._pool.replicas
        ]

    async def close(self) -> None:
        """See `Engine.close`. Requests that wait are refused."""
        self._closed = True
        await self._pool.close()
        for version in self._pool.versions.values():
            while version.waiting:
                give_answers(version.waiting.next_batch(), _ENDS)


_ENDS = Refusal(503, "the server ends. Try again later.", retry_after=10)


async def _version(number: int, checkpoint: Checkpoint | None) -> PoolVersion:
    if checkpoint is None:
        raise ValueError(f"an engine of several workers needs the checkpoint of version {number}")
    return PoolVersion(
        number, await asyncio.to_thread(packed_checkpoint, checkpoint), Requests(number)
    )
