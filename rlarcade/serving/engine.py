"""Where forward passes run: from observations to action values, in batches.

Requests of many games wait while a forward pass runs, and the next pass takes all of them. So
batches grow with the load, and nobody waits for a timer. An observation has the same bits in every
batch (see `DQNAgent.q_values`), so batching changes no action.

Sessions, assignment and rollouts know only `Engine`. They do not know where it runs.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from rlarcade.checkpoint import Checkpoint
from rlarcade.errors import PolicyError
from rlarcade.foreign import own_words
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.learning.acting import not_finite
from rlarcade.serving.refusals import Refusal

Observations = NDArray[np.uint8]
Values = NDArray[np.float32]

MOST_ROWS = 32
"""Most observations of one forward pass. On a CPU, more cost the same time each, and whoever waits
for them has not sent the next request yet."""
_MOST_WAITING = 4096  # observations of one version; at 1 ms each, the last waits for 4 seconds
_WARM_ROWS = (1, 4, 8, 12, 16, MOST_ROWS)  # sizes that torch and `q_values` prepare separately


class ValuesActions(Interface):
    """What an engine needs of an agent."""

    name: str
    num_actions: int

    def q_values(self, observation: Observations, /) -> Values:
        """Returns float32 (B, A) values of uint8 (B, 4, 84, 84) observations."""


class Replica(NamedTuple):
    """One worker that computes forward passes."""

    name: str
    healthy: bool
    versions: tuple[int, ...]
    """Numbers of the versions that it has loaded."""


class Engine(Interface):
    """Computes action values of loaded versions."""

    async def load(
        self,
        version: int,
        agent: ValuesActions,
        *,
        at_once: bool,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Loads a version into every replica and warms it up; it is ready when this returns.

        Args:
            version: number of the version.
            agent: its agent.
            at_once: whether the version is trusted. Only then a single observation is computed
                without waiting for a thread: meanwhile the server answers nobody.
            checkpoint: what the agent was made of. An engine that computes in other processes
                needs it.

        Raises:
            PolicyError: the version crashes, or returns values that are not finite.
        """

    async def replace(
        self, old: int, new: int, agent: ValuesActions, checkpoint: Checkpoint | None
    ) -> None:
        """Replaces one replica that serves a version by one that serves another version instead.

        The replica that is replaced finishes what it computes. The last replica of the old version
        is replaced by one that serves both, until the old version is unloaded.

        Args:
            old: number of a loaded version.
            new: number of the other version.
            agent: agent of the other version.
            checkpoint: what this agent was made of.

        Raises:
            PolicyError: the new version crashes, or returns values that are not finite. Nothing was
                replaced.
            Refusal: the engine has no replicas that could be replaced.
        """

    async def unload(self, version: int) -> None:
        """Forgets a version. Its waiting requests are still answered."""

    async def values(self, version: int, observations: Observations) -> Values:
        """Returns float32 (N, A) values of uint8 (N, 4, 84, 84) observations.

        Raises:
            PolicyError: the version crashed.
            Refusal: the version is not loaded, or too many requests wait.
        """

    def replicas(self) -> list[Replica]:
        """Returns the workers."""

    async def close(self) -> None:
        """Ends the workers."""


class LocalEngine:
    """Computes in this process, in one thread for each version.

    A version that hangs or is slow delays no other version.
    """

    def __init__(self, name: str = "local") -> None:
        """Makes the engine.

        Args:
            name: how its only replica is called; another one if its agents compute otherwise.
        """
        self._name = name
        self._lanes: dict[int, _Lane] = {}

    async def load(
        self,
        version: int,
        agent: ValuesActions,
        *,
        at_once: bool,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """See `Engine.load`."""
        del checkpoint
        lane = self._lanes.get(version)
        if lane is None:
            lane = _Lane(agent, version)
            await lane.warm_up()
            self._lanes[version] = lane
        lane.at_once = at_once

    async def replace(
        self, old: int, new: int, agent: ValuesActions, checkpoint: Checkpoint | None
    ) -> None:
        """See `Engine.replace`. This engine is the server itself, which cannot be replaced."""
        del old, new, agent, checkpoint
        raise Refusal(
            409,
            "this server computes in its own process, so it has no workers to replace. Start "
            "`serve` with --engine processes, or choose the strategy big-bang.",
        )

    async def unload(self, version: int) -> None:
        """See `Engine.unload`."""
        lane = self._lanes.pop(version, None)
        if lane is not None:
            lane.retire()

    async def values(self, version: int, observations: Observations) -> Values:
        """See `Engine.values`."""
        lane = self._lanes.get(version)
        if lane is None:
            raise Refusal(503, f"version {version} is not loaded. Try again.", retry_after=1)
        return await lane.values(observations)

    def replicas(self) -> list[Replica]:
        """See `Engine.replicas`."""
        return [Replica(self._name, True, tuple(sorted(self._lanes)))]

    async def close(self) -> None:
        """See `Engine.close`."""
        for version in list(self._lanes):
            await self.unload(version)


@dataclass
class Request:
    """Observations that wait for their values."""

    observations: Observations
    answer: "asyncio.Future[Values]"
    lost: int = 0
    """How often a worker died while it computed them."""


class Requests:
    """The waiting requests of one version, oldest first."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._waiting: deque[Request] = deque()
        self.rows = 0
        """Observations that wait."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, observations: Observations) -> "asyncio.Future[Values]":
        """Adds a request; returns its answer.

        Raises:
            Refusal: too many requests wait.
        """
        if self.rows + len(observations) > _MOST_WAITING and self._waiting:
            raise Refusal(
                503,
                f"{self.rows:,} observations wait for version {self._version}. Try again.",
                retry_after=1,
            )
        request = Request(observations, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self.rows += len(observations)
        return request.answer

    def next_batch(self, most: int = MOST_ROWS) -> list[Request]:
        """Takes out the oldest requests, at least one, with at most so many observations."""
        batch: list[Request] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].observations) <= most):
            request = self._waiting.popleft()
            self.rows -= len(request.observations)
            if not request.answer.done():  # else its client is gone
                rows += len(request.observations)
                batch.append(request)
        return batch

    def put_back(self, batch: Iterable[Request]) -> None:
        """Makes requests that were taken out the oldest again."""
        again = list(batch)
        self._waiting.extendleft(reversed(again))
        self.rows += sum(len(request.observations) for request in again)


def give_answers(batch: Iterable[Request], values: Values | Exception) -> None:
    """Gives each request of a batch its part of the values, or all of them an error."""
    first = 0
    for request in batch:
        rows = len(request.observations)
        if not request.answer.done():  # else its client is gone
            if isinstance(values, Exception):
                request.answer.set_exception(values)
            else:
                request.answer.set_result(values[first : first + rows])
        first += rows


@dataclass
class _Lane:
    """The waiting requests of one version, and the thread that answers them."""

    agent: ValuesActions
    version: int
    at_once: bool = False
    _busy: bool = False
    _scheduled: bool = False
    _retired: bool = False

    def __post_init__(self) -> None:
        self._waiting = Requests(self.version)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"version-{self.version}")

    async def warm_up(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            problem = await loop.run_in_executor(self._thread, trouble, self.agent)
            if problem is not None:
                raise PolicyError(f"version {self.version} cannot be served: {problem}.")
        except BaseException:
            self.retire()
            raise

    def values(self, observations: Observations) -> "asyncio.Future[Values]":
        answer = self._waiting.add(observations)
        if not self._busy and not self._scheduled:
            # Not now: requests that arrived together shall be computed together.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)
        return answer

    def _begin(self) -> None:
        """Begins the next forward pass, with as many waiting requests as fit."""
        self._scheduled = False
        batch = self._waiting.next_batch()
        if self.at_once and len(batch) == 1 and len(batch[0].observations) == 1:
            give_answers(batch, tried(self.agent, batch[0].observations))
            batch = []
        if not batch:
            self._go_on()
            return
        self._busy = True
        loop = asyncio.get_running_loop()
        parts = [request.observations for request in batch]
        together = parts[0] if len(parts) == 1 else np.concatenate(parts)
        computing = self._thread.submit(tried, self.agent, together)

        def finished(_: object) -> None:
            loop.call_soon_threadsafe(self._finish, batch, computing)

        computing.add_done_callback(finished)

    def _finish(self, batch: list[Request], computing: "Future[Values | Exception]") -> None:
        self._busy = False
        give_answers(batch, computing.result())
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._begin)
        elif self._retired:
            self.retire()

    def retire(self) -> None:
        """Ends the thread as soon as nobody waits any more."""
        self._retired = True
        if not self._busy and not self._waiting:
            self._thread.shutdown(wait=False)


def trouble(agent: ValuesActions) -> str | None:
    """Computes every size of batch once: the first call of a size takes 0.2 s.

    Returns:
        Why the agent cannot be served; None: it can.
    """
    noise = np.random.default_rng(0).integers(
        0, 256, (MOST_ROWS, STACK, SCREEN, SCREEN), dtype=np.uint8
    )
    for rows in _WARM_ROWS:
        values = tried(agent, noise[:rows])
        if isinstance(values, Exception):
            return own_words(values)
        problem = not_finite(values, agent.name)
        if problem is not None:
            return problem
    return None


def tried(agent: ValuesActions, observations: Observations) -> Values | Exception:
    """Computes values, float32 (N, A), or returns the error."""
    try:
        values = agent.q_values(observations)
        if values.shape != (len(observations), agent.num_actions):
            raise PolicyError(
                f"it returned values of shape {values.shape} for {len(observations)} observations "
                f"and {agent.num_actions} actions"
            )
    except Exception as error:  # any error counts as the version's failure
        return error
    return values
