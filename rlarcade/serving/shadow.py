"""A shadow: a candidate that sees the champion's frames and whose actions are never played.

It shows whether the candidate runs, how fast, and how often it would act otherwise. It cannot show
a score: its own actions would lead to other frames.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from sqlalchemy import insert, select, update

from rlarcade.errors import PolicyError
from rlarcade.registry import audit
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import SHADOW, ShadowCounts
from rlarcade.registry.tables import shadows
from rlarcade.serving.refusals import Refusal

_MOST_WAITING = 256  # observations, of 28 KB each
_MOST_ROWS = 16  # of one forward pass: more would make the champion's own wait for a core

ValuesOf = Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]]
"""From observations, uint8 (N, 4, 84, 84), to action values, float32 (N, A)."""
Seen = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""An observation, uint8 (4, 84, 84), and the champion's values, float32 (A,)."""


class Shadow:
    """Lets a candidate decide what the champion has decided, later and apart.

    No caller ever waits for it. What it cannot keep up with is dropped and counted.

    Attributes:
        written: the counts that the registry has.
    """

    def __init__(
        self,
        counts: ShadowCounts,
        values_of: ValuesOf,
        *,
        slow_seconds: float | None = None,
        on_count: Callable[[str, int], None] | None = None,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        """Takes the candidate.

        Args:
            counts: what was counted before, by an earlier server.
            values_of: the candidate.
            slow_seconds: a decision that takes longer is slow; None: none is.
            on_count: called with "agreed", "differed", "failed" or "dropped", and how many
                decisions.
            most_waiting: most observations that wait.
        """
        self.written = counts
        self._sums: Counter[str] = Counter()
        self._sums.update(counts.model_dump(exclude={"rollout"}))
        self._values_of, self._slow_seconds = values_of, slow_seconds
        self._on_count, self._most_waiting = on_count, most_waiting
        self._waiting: deque[Seen] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def counts(self) -> ShadowCounts:
        """What was counted so far."""
        return ShadowCounts(rollout=self.written.rollout, **self._sums)

    @property
    def unwritten(self) -> int:
        """Decisions that the registry does not know of."""
        names = ("compared", "failed", "dropped")
        return sum(self._sums[name] - getattr(self.written, name) for name in names)

    def see(self, observation: NDArray[np.uint8], values: NDArray[np.float32]) -> None:
        """Shows it what the champion saw and thought. Returns at once.

        Args:
            observation: uint8 (4, 84, 84).
            values: the champion's values, float32 (A,).
        """
        if len(self._waiting) >= self._most_waiting:
            self._count("dropped", 1)
            return
        self._waiting.append((observation, values))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._compare_all())

    async def _compare_all(self) -> None:
        while self._waiting:
            most = min(len(self._waiting), _MOST_ROWS)
            batch = [self._waiting.popleft() for _ in range(most)]
            began = time.perf_counter()
            try:
                own = await self._values_of(np.stack([observation for observation, _ in batch]))
                self._compare(own, np.stack([values for _, values in batch]))
            except PolicyError:
                self._count("failed", most)
            except Refusal:  # the engine has no room for it now
                self._count("dropped", most)
            else:
                self._judge_time(most, time.perf_counter() - began)

    def _compare(self, own: NDArray[np.float32], champions: NDArray[np.float32]) -> None:
        if own.shape != champions.shape:
            raise PolicyError(f"it has {own.shape[1]} actions, the champion {champions.shape[1]}.")
        rows = np.arange(len(own))
        action, executed = own.argmax(axis=1), champions.argmax(axis=1)
        best = champions[rows, executed].astype(np.float64)
        agreed = int((action == executed).sum())
        self._count("agreed", agreed)
        self._count("differed", len(own) - agreed)
        self._sums["compared"] += len(own)
        self._add("gap", float(np.abs(own[rows, action] - best).sum()))
        self._add("regret", float((best - champions[rows, action]).sum()))

    def _judge_time(self, decisions: int, seconds: float) -> None:
        self._add("seconds", seconds * decisions)
        if self._slow_seconds is not None and seconds > self._slow_seconds:
            self._sums["slow"] += decisions

    def _add(self, name: str, value: float) -> None:
        sums: Any = self._sums  # some are no whole numbers
        sums[name] += value

    def _count(self, name: str, decisions: int) -> None:
        if name != "differed":
            self._sums[name] += decisions
        if self._on_count is not None and decisions:
            self._on_count(name, decisions)

    def close(self) -> None:
        """Ends it. What waits is forgotten."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()


# In the registry


def record_shadow(registry: Registry, counts: ShadowCounts, actor: str) -> None:
    """Records what a shadow has counted so far, in place of what was recorded before.

    Raises:
        UnusableRegistryError: the registry cannot be written.
    """
    row = counts.model_dump()
    with registry.change(actor) as change:
        here = update(shadows).where(shadows.c.rollout == counts.rollout)
        if change.execute(here.values(**row)).rowcount == 0:
            change.execute(insert(shadows).values(**row))
        change.record(SHADOW, row)


def shadow_of(registry: Registry, number: int) -> ShadowCounts | None:
    """Returns what the shadow of a rollout has counted; None: nothing is recorded.

    Raises:
        UnusableRegistryError: it was altered.
    """
    (rows,) = registry.rows(select(shadows).where(shadows.c.rollout == number))
    try:
        return ShadowCounts.model_validate(dict(rows[0])) if rows else None
    except ValidationError as error:
        raise audit.altered(f"the shadow of rollout {number}", error) from error
