"""A worker process as the server sees it: messages to it, its answers, and its end."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from rlarcade.checkpoint import Package
from rlarcade.errors import PolicyError
from rlarcade.serving.engine import Observations, Values
from rlarcade.serving.worker import COMPUTE, DONE, HEADER, LOAD, MANIFEST_BYTES, UNLOAD
from rlarcade.serving.workers import LOAD_SECONDS, START_SECONDS, WorkerDied, WorkerHung


@dataclass(eq=False)
class WorkerProcess:
    """One worker process; see `Worker`."""

    process: Process
    retired: bool = False
    computes: int | None = None
    _channel: "tuple[asyncio.StreamReader, asyncio.StreamWriter] | None" = None
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def start(cls, loader: str | None = None) -> Self:
        """Starts a worker; it is ready for `load` when this returns.

        Args:
            loader: makes agents of checkpoints, MODULE:NAME; None: `DQNAgent.load`.

        Raises:
            OSError: the process cannot be started.
            WorkerDied: it ended at once; its standard error says why.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            creating = asyncio.ensure_future(_created(theirs.fileno(), loader))
            try:
                worker = cls(await asyncio.shield(creating))
            except asyncio.CancelledError:
                ours.close()
                # asyncio would leave a pipe open if it were cancelled itself.
                await cls(await creating).end()
                raise
            except BaseException:
                ours.close()
                raise
        try:
            worker._channel = await asyncio.open_connection(sock=ours)
            async with worker._one_at_a_time:
                await worker._answer(START_SECONDS)
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
        """The exit code."""
        return f"exit code {self.process.returncode}"

    async def load(self, version: int, package: Package) -> None:
        """See `Worker.load`."""
        parts = [MANIFEST_BYTES.pack(len(package.manifest)), package.manifest, package.weights]
        try:
            await self._ask(LOAD, version, parts, LOAD_SECONDS)
        except PolicyError as error:
            raise PolicyError(f"version {version} cannot be served: {error}.") from error

    async def unload(self, version: int) -> None:
        """See `Worker.unload`."""
        await self._ask(UNLOAD, version, [], LOAD_SECONDS)

    async def values(
        self, version: int, observations: Sequence[Observations], seconds: float
    ) -> Values:
        """See `Worker.values`."""
        parts = [np.ascontiguousarray(part).data.cast("B") for part in observations]
        try:
            answer = await self._ask(COMPUTE, version, parts, seconds)
        except PolicyError as error:
            raise PolicyError(f"{error}.") from error
        rows = sum(len(part) for part in observations)
        return np.frombuffer(answer, dtype=np.float32).reshape(rows, -1)

    async def _ask(
        self, kind: bytes, version: int, parts: Sequence[bytes | memoryview], seconds: float
    ) -> bytes:
        async with self._one_at_a_time:
            assert self._channel is not None
            writer = self._channel[1]
            writer.write(HEADER.pack(kind, version, sum(len(part) for part in parts)))
            for part in parts:
                writer.write(part)
            return await self._answer(seconds)

    async def _answer(self, seconds: float) -> bytes:
        """Waits for an answer. A worker that gives none, or whom nobody waits for, is killed."""
        assert self._channel is not None
        reader, writer = self._channel
        try:
            async with asyncio.timeout(seconds):
                await writer.drain()
                kind, _, size = HEADER.unpack(await reader.readexactly(HEADER.size))
                body = await reader.readexactly(size)
        except TimeoutError as error:
            self.kill()
            raise WorkerHung(f"it did not answer within {seconds:g} seconds") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            self.kill()
            raise WorkerDied("it ended") from error
        except BaseException:
            self.kill()
            raise
        if kind != DONE:
            raise PolicyError(body.decode())
        return body

    def kill(self) -> None:
        """Kills the process, if it still runs."""
        with suppress(ProcessLookupError):
            self.process.kill()

    async def retire(self) -> None:
        """See `Worker.retire`."""
        self.retired = True
        async with self._one_at_a_time:
            await self.end()

    async def end(self) -> None:
        """See `Worker.end`."""
        self.retired = True
        self.kill()
        await self.ended()

    async def ended(self) -> None:
        """See `Worker.ended`."""
        await self.process.wait()
        writers = [self.process.stdin, None if self._channel is None else self._channel[1]]
        for writer in writers:
            if writer is not None:
                writer.close()


async def _created(channel: int, loader: str | None) -> Process:
    """Starts the process, which gets one end of the socket pair."""
    command = [sys.executable, "-P", "-m", "rlarcade.serving.worker", str(channel)]
    return await asyncio.create_subprocess_exec(
        *command,
        *([] if loader is None else [loader]),
        stdin=PIPE,  # closes when this process ends; see the worker
        stdout=DEVNULL,
        pass_fds=[channel],
        env=child_environment(),
        start_new_session=True,  # Ctrl-C ends the server, which ends its workers
    )


def child_environment() -> dict[str, str]:
    """Returns variables for a process that imports what this one imports, and has one thread."""
    folders: Iterable[str] = (folder or str(Path.cwd()) for folder in sys.path)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | threads | {"PYTHONPATH": os.pathsep.join(folders)}
