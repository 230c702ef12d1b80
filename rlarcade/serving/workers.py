"""What a worker is: it computes action values elsewhere, and may end at any moment."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol as Interface
from typing import runtime_checkable

from rlarcade.checkpoint import Package
from rlarcade.serving.engine import Observations, Values

START_SECONDS = 120.0
"""How long a worker may take to begin: importing torch takes 2 to 5 s, on a busy machine more."""
LOAD_SECONDS = 60.0
"""How long it may take to build a network and to compute each size of batch once."""


class WorkerDied(Exception):
    """A worker ended, or was killed because it did not answer."""


class WorkerHung(WorkerDied):
    """A worker did not answer in time, so it was killed."""


@runtime_checkable
class Worker(Interface):
    """One worker. It does one thing at a time.

    Attributes:
        retired: whether it was ended on purpose, so that nobody starts it again.
        computes: number of the version of the batch that it was given; None: no batch.
    """

    retired: bool
    computes: int | None

    @property
    def idle(self) -> bool:
        """Whether it can be given a batch."""

    @property
    def how_it_ended(self) -> str:
        """How it ended, for the log."""

    async def load(self, version: int, package: Package) -> None:
        """Loads a version and warms it up.

        Raises:
            PolicyError: it cannot be served.
            WorkerDied: the worker ended or hung.
        """

    async def unload(self, version: int) -> None:
        """Forgets a version.

        Raises:
            WorkerDied: the worker ended or hung.
        """

    async def values(
        self, version: int, observations: Sequence[Observations], seconds: float
    ) -> Values:
        """Returns float32 (N, A) values of all observations together.

        Args:
            version: number of a loaded version.
            observations: parts of uint8 (N, 4, 84, 84).
            seconds: how long it may take.

        Raises:
            PolicyError: the version crashed.
            WorkerDied: the worker ended.
            WorkerHung: it took longer, and was killed.
        """

    async def retire(self) -> None:
        """Ends the worker when it has finished what it does."""

    async def end(self) -> None:
        """Ends the worker at once; returns when it has gone."""

    async def ended(self) -> None:
        """Waits until the worker has ended, by itself or killed."""


StartWorker = Callable[[], Awaitable[Worker]]
"""Starts a worker, which is ready for `load` then. Raises OSError if it cannot be started, and
`WorkerDied` if it ended at once."""
