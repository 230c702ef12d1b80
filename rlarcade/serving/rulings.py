"""The referee at work: it plays games of rollouts to their ends, off the critical path.

One thread plays the games that clients have finished or left, another one the twins (see
`Service`). So a candidate that is slow delays no other result.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import PolicyError
from rlarcade.serving.emulators import Emulators
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.metrics import Metrics
from rlarcade.serving.referee import Served, ValuesOf, rule
from rlarcade.serving.stock import Stocked

_log = logging.getLogger(__name__)

DECISION_SECONDS = 10.0
"""A version that takes longer for a decision has failed."""
SLOW_SHARE = 0.5
"""A session is slow if more than this share of its decisions were: its median was."""
_RETRY_SECONDS = 10.0  # until a game that could not be played is tried again
_MOST_TWINS = 8  # that wait; with a core for them, the last one waits for half a minute


class Rulings:
    """Games that the referee plays now, or soon.

    Attributes:
        most_twins: most twins that wait. Later games of the champion get none.
    """

    def __init__(self, metrics: Metrics, emulators: Emulators, changed: asyncio.Event) -> None:
        """Starts no thread yet.

        Args:
            metrics: counts what is played.
            emulators: where emulators come from.
            changed: set after each result.
        """
        self.most_twins = _MOST_TWINS
        self._metrics, self._emulators, self._changed = metrics, emulators, changed
        self._referee = ThreadPoolExecutor(1, thread_name_prefix="referee")
        self._twins = ThreadPoolExecutor(1, thread_name_prefix="twins")
        self._tasks: set[asyncio.Task[None]] = set()
        self._twins_waiting = 0

    @property
    def behind(self) -> bool:
        """Whether no further twin should be played now."""
        return self._twins_waiting >= self.most_twins

    @property
    def busy(self) -> bool:
        """Whether any game is being played or waits."""
        return bool(self._tasks)

    def begin(
        self,
        live: LiveRollout,
        number: int,
        stock: Stocked,
        served: Served | None,
        told: dict[str, Any],
    ) -> None:
        """Plays a game of a rollout to its end; the result counts when it is there.

        Args:
            live: the rollout.
            number: number of the game.
            stock: the version that plays it.
            served: what the client was given; None: nothing is known, since the server was killed
                or the game is a twin.
            told: further fields of the game's result.
        """
        is_twin = live.games[number].is_twin
        task = asyncio.get_running_loop().create_task(
            self._ruled(live, number, stock, served, told)
        )
        self._tasks.add(task)
        self._twins_waiting += is_twin

        def done(_: object) -> None:
            self._tasks.discard(task)
            self._twins_waiting -= is_twin

        task.add_done_callback(done)

    async def _ruled(
        self,
        live: LiveRollout,
        number: int,
        stock: Stocked,
        served: Served | None,
        told: dict[str, Any],
    ) -> None:
        game = live.games[number]
        assert game.seed is not None  # without one, nobody can play it
        thread = self._twins if game.is_twin else self._referee
        while True:
            timed = Timed(stock.agent.q_values, live.spec.slow_seconds)
            playing = partial(
                rule,
                stock.game,
                stock.protocol,
                game.seed,
                timed,
                stock.agent.name,
                self._emulators,
                served,
            )
            try:
                ruling = await asyncio.get_running_loop().run_in_executor(thread, playing)
                break
            except Exception:  # no emulator could be started, such as without memory
                _log.exception("game %d of rollout %d is tried again", number, live.rollout.id)
                await asyncio.sleep(_RETRY_SECONDS)  # pairs wait for its result
        episode = ruling.episode
        self._metrics.ruled(live.rollout.game, game.role, ruling)
        if episode.ended == "failed":
            told = told | {"errors": True}
        if game.is_twin:  # nobody else has seen how fast it is
            told = told | {"slow": timed.slow > SLOW_SHARE * max(timed.decisions, 1)}
        score = None if episode.ended == "failed" else episode.score
        live.end(number, episode, score=score, ended=episode.ended, steps=episode.steps, **told)
        self._changed.set()

    def close(self) -> None:
        """Ends all work. Games that are not finished are played by the next server."""
        for task in list(self._tasks):
            task.cancel()
        for thread in (self._referee, self._twins):
            thread.shutdown(wait=False, cancel_futures=True)


class Timed:
    """A version's action values, and how long they took.

    Attributes:
        decisions: number of calls.
        slow: number of slow ones.
    """

    def __init__(self, values_of: ValuesOf, slow_seconds: float | None) -> None:
        """Takes the version.

        Args:
            values_of: the version.
            slow_seconds: a call that takes longer is slow; None: none is.
        """
        self._values_of, self._limit = values_of, slow_seconds
        self.decisions = self.slow = 0

    def __call__(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns float32 (B, A) values of uint8 (B, 4, 84, 84) observations.

        Raises:
            PolicyError: it took longer than `DECISION_SECONDS`.
        """
        began = time.perf_counter()
        values = self._values_of(observation)
        took = time.perf_counter() - began
        if took > DECISION_SECONDS:
            raise PolicyError(f"it took longer than {DECISION_SECONDS:g} seconds.")
        self.decisions += 1
        self.slow += self._limit is not None and took > self._limit
        return values
