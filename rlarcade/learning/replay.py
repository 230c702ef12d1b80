"""Replay: a ring of single frames, from which stacks and n-step returns are built.

The ring has one row per step of the lanes and one cell per (row, lane). A cell holds the newest
frame of the observation that the lane acted on, its action and the outcome. Each frame is stored
once (7,056 bytes), not in all eight stacks that contain it. A million transitions take 7.1 GB.

A cell is one of:
- a transition: observation, action, reward, and how the step ended;
- a reset row: the last observation of an episode. Its action was ignored, because the environment
  reset itself. It is not a transition, but a truncated transition bootstraps from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlarcade.games.protocols import STACK
from rlarcade.learning.hardware import sent_to
from rlarcade.learning.priorities import SumTree
from rlarcade.learning.targets import n_step_return

_SMALLEST_ERROR = 1e-10
BYTES_BESIDE_FRAME = 9  # action 1, reward 4, flags 3, age 1


@dataclass(frozen=True, slots=True)
class Batch:
    """B transitions on the learner's device."""

    observation: Tensor
    """uint8 (B, 4, *frame), newest frame last, zeros before the episode's start."""
    action: Tensor
    """int64 (B,)."""
    reward: Tensor
    """float32 (B,), discounted n-step sum."""
    discount: Tensor
    """float32 (B,), γⁿ, or 0 where the game terminated within the n steps."""
    next_observation: Tensor
    """uint8 (B, 4, *frame), n steps later, or at the episode's end if that came earlier."""
    weight: Tensor | None = None
    """float32 (B,), the weight of each transition, at most 1; None: all weigh the same."""
    cell: NDArray[np.int64] | None = None
    """(B,), the transitions' cells, for `Replay.set_priorities`; None without priorities."""

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch with its tensors on a device; tensors already there are not copied."""
        return Batch(
            observation=self.observation.to(device),
            action=self.action.to(device),
            reward=self.reward.to(device),
            discount=self.discount.to(device),
            next_observation=self.next_observation.to(device),
            weight=None if self.weight is None else self.weight.to(device),
            cell=self.cell,
        )


@dataclass(frozen=True, slots=True)
class Cells:
    """One row of the ring without its frames: one cell for each of E lanes."""

    action: NDArray[np.uint8]
    reward: NDArray[np.float32]
    """(E,), raw points."""
    terminal: NDArray[np.bool_]
    """(E,), whether not to bootstrap after this step (game over, or a life lost if that counts)."""
    last: NDArray[np.bool_]
    """(E,), whether the episode ended with this step (game over or truncated)."""
    reset: NDArray[np.bool_]
    """(E,), whether the action was ignored, so that the cell is not a transition."""
    age: NDArray[np.uint8]
    """(E,), steps since the episode's first observation, at most 255."""


class Replay:
    """A ring of E × `num_rows` cells.

    Row r of the run lies at ring position r mod num_rows. The random generator (and the priorities,
    if there are any) decide which cells are drawn. So a restored ring draws the same batches from a
    restored generator.

    With priorities (Schaul et al. 2016, https://arxiv.org/abs/1511.05952, the proportional kind) a
    transition is drawn in proportion to its error^α. New transitions get the largest priority so
    far. Cells that are not transitions, or that lack some of their frames, have priority 0.

    Attributes:
        rows_added: rows of the run so far.
        first_row: the first row of the run that was written into this ring. It can exceed 0 after a
            resume, such as one with a larger ring.
    """

    def __init__(
        self,
        capacity: int,
        *,
        num_envs: int,
        frame_shape: tuple[int, ...],
        n_steps: int = 1,
        gamma: float = 0.99,
        reward_clip: bool = True,
        priority_exponent: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Reserves the ring. Its memory is used only as rows are written.

        Args:
            capacity: cells, rounded down to whole rows of `num_envs`.
            num_envs: lanes, E.
            frame_shape: shape of one uint8 frame.
            n_steps: rewards in a return, at most.
            gamma: discount per step.
            reward_clip: learn from the sign of rewards.
            priority_exponent: α; None draws uniformly.
            device: device that stores the frames and builds the batches.

        Raises:
            ValueError: the ring is too small for one window.
        """
        self.num_rows = capacity // num_envs
        self.num_envs, self.n_steps, self.gamma = num_envs, n_steps, gamma
        self.reward_clip = reward_clip
        self.device = torch.device(device)
        if self.num_rows < STACK + n_steps + 1:
            raise ValueError(
                f"a replay of {capacity} cells has {self.num_rows} rows of {num_envs} lanes; with "
                f"windows of {STACK + n_steps} frames it needs {STACK + n_steps + 1} to draw from"
            )
        self.frame_shape = frame_shape
        frame_bytes = int(np.prod(frame_shape))
        # One more frame than cells: it stays zero, and is used for frames before an episode.
        self._frames = torch.empty(
            (self.num_rows * num_envs + 1, frame_bytes), dtype=torch.uint8, device=self.device
        )
        self._frames[-1] = 0
        shape = (self.num_rows, num_envs)
        self._action = np.zeros(shape, dtype=np.uint8)
        self._reward = np.zeros(shape, dtype=np.float32)
        self._terminal = np.zeros(shape, dtype=np.bool_)
        self._last = np.zeros(shape, dtype=np.bool_)
        self._reset = np.zeros(shape, dtype=np.bool_)
        self._age = np.zeros(shape, dtype=np.uint8)
        self.rows_added = 0
        self.first_row = 0
        self._alpha = priority_exponent
        self._tree = None if priority_exponent is None else SumTree(self.num_rows * num_envs)
        self._largest_priority = 1.0
        self._gathered: dict[tuple[int, bool], Tensor] = {}

    @staticmethod
    def bytes_needed(capacity: int, frame_shape: tuple[int, ...]) -> int:
        """Returns the bytes that a full ring takes."""
        return capacity * (int(np.prod(frame_shape)) + BYTES_BESIDE_FRAME)

    def __len__(self) -> int:
        """Number of cells held."""
        return (self.rows_added - self.oldest) * self.num_envs

    @property
    def oldest(self) -> int:
        """The oldest row of the run that the ring holds."""
        return max(self.first_row, self.rows_added - self.num_rows)

    @property
    def can_sample(self) -> bool:
        """Whether the ring holds at least one transition with all its frames.

        Two drawable rows are enough: a transition always follows a lane's reset row.
        """
        low, high = self._rows_to_draw()
        return high - low >= 2

    def add(self, frame: NDArray[np.uint8], cells: Cells) -> None:
        """Writes one row.

        Args:
            frame: uint8 (E, *frame_shape), newest frame of each observation that was acted on.
            cells: the rest of the row.
        """
        row = self.rows_added % self.num_rows
        start = row * self.num_envs
        flat = torch.from_numpy(frame.reshape(self.num_envs, -1))
        self._frames[start : start + self.num_envs].copy_(sent_to(self.device, flat))
        self._write(slice(row, row + 1), cells)
        before = self._rows_to_draw()
        self.rows_added += 1
        if self._tree is not None:
            self._admit(before, self._rows_to_draw())

    def sample(
        self,
        batch_size: int,
        rng: np.random.Generator,
        *,
        importance_exponent: float = 1.0,
        n_steps: int | None = None,
    ) -> Batch:
        """Draws transitions with replacement: uniformly, or by priority.

        The next call of the same size overwrites the batch's tensors.

        Args:
            batch_size: transitions, B.
            rng: random generator of the draw.
            importance_exponent: β, how much of the bias of drawing by priority the weights correct.
                A weight is (P_min/P)^β over the batch, so the largest weight is 1.
            n_steps: rewards in a return, if fewer than the replay was made for.

        Raises:
            ValueError: nothing can be drawn yet, or `n_steps` is out of range.
        """
        if not self.can_sample:
            raise ValueError("replay holds no complete transition yet")
        if self._tree is None:
            return self.at(*self._draw(batch_size, rng), n_steps)
        total = self._tree.total
        # a product that rounds up to the total would be out of range
        cell = self._tree.find(np.minimum(rng.random(batch_size) * total, np.nextafter(total, 0)))
        batch = self.at(*np.divmod(cell, self.num_envs), n_steps)
        priority = self._tree.of(cell)
        weight = (priority.min() / priority) ** importance_exponent
        weights = torch.from_numpy(weight.astype(np.float32))
        return replace(batch, weight=sent_to(self.device, weights), cell=cell)

    def set_priorities(self, cell: NDArray[np.int64], error: NDArray[np.float32]) -> None:
        """Sets the priorities of drawn transitions from their errors.

        Args:
            cell: (B,), from the batch.
            error: (B,), at least 0. α is applied here, and nowhere else.

        Raises:
            ValueError: the replay has no priorities, or an error is negative or not a number.
        """
        if self._tree is None or self._alpha is None:
            raise ValueError("this replay draws uniformly: it was made without priority_exponent")
        if not (error >= 0).all():
            raise ValueError(f"errors are at least 0, got {error.min()} … {error.max()}")
        # a transition without any error can still be drawn
        priority = ((error + _SMALLEST_ERROR) ** self._alpha).astype(np.float32)
        self._tree.set(cell, priority)
        self._largest_priority = max(self._largest_priority, float(priority.max()))

    def priorities(self) -> dict[str, NDArray[np.generic]]:
        """Returns all priorities, for `restore_priorities`; empty if the ring has none."""
        if self._tree is None:
            return {}
        largest = np.array(self._largest_priority, dtype=np.float64)
        return {"priority": self._tree.values(), "largest_priority": largest}

    def restore_priorities(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Restores what `priorities` returned."""
        if self._tree is not None:
            cells = np.arange(self.num_rows * self.num_envs)
            self._tree.set(cells, arrays["priority"].astype(np.float32))
            self._largest_priority = float(arrays["largest_priority"])

    def _admit(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Gives a priority to rows that have become drawable, and clears that of dropped rows.

        A row is admitted when n rows follow it. It is dropped before its frames are overwritten.
        """
        assert self._tree is not None
        lanes = np.arange(self.num_envs)
        for row in range(max(0, before[1]), max(0, after[1])):
            at = row % self.num_rows
            fresh = np.where(self._reset[at], 0.0, self._largest_priority).astype(np.float32)
            self._tree.set(at * self.num_envs + lanes, fresh)
        for row in range(before[0], after[0]):
            cells = row % self.num_rows * self.num_envs + lanes
            self._tree.set(cells, np.zeros(self.num_envs, dtype=np.float32))

    def _rows_to_draw(self) -> tuple[int, int]:
        """Returns the range of rows that the ring holds with their whole windows."""
        oldest = self.oldest
        # The run's first rows have no earlier frames. All others need the frames of their stack.
        low = oldest + STACK - 1 if oldest else 0
        return low, self.rows_added - self.n_steps

    def _draw(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        low, high = self._rows_to_draw()
        cell = rng.integers(low * self.num_envs, high * self.num_envs, batch_size)
        while True:
            row, lane = np.divmod(cell, self.num_envs)
            reset = self._reset[row % self.num_rows, lane]
            if not reset.any():
                return row, lane
            cell[reset] = rng.integers(low * self.num_envs, high * self.num_envs, int(reset.sum()))

    def at(
        self, row: NDArray[np.int64], lane: NDArray[np.int64], n_steps: int | None = None
    ) -> Batch:
        """Returns the transitions of given rows and lanes.

        The next call of the same size overwrites the batch's tensors.

        Args:
            row: (B,), rows of the run, or their positions in the ring.
            lane: (B,), lanes.
            n_steps: rewards in a return, if fewer than the replay was made for.

        Raises:
            ValueError: `n_steps` is below 1, or exceeds the replay's own: the frames of such a
                window may be overwritten already.
        """
        batch_size, n = len(row), self.n_steps if n_steps is None else n_steps
        if not 1 <= n <= self.n_steps:
            raise ValueError(f"n_steps is {n}, but this replay was made for 1 … {self.n_steps}")
        reward, discount, length = self._returns(row, lane, n)
        # Each frame of row-3 … row+n is copied once; both stacks are cut from this window.
        window = row[:, None] + np.arange(-STACK + 1, n + 1)
        born = row - self._age[row % self.num_rows, lane]
        # The age is capped at 255, but it matters only below STACK, where it is exact.
        cell = (window % self.num_rows) * self.num_envs + lane[:, None]
        cell[window < born[:, None]] = self.num_rows * self.num_envs
        frames = self._gather(cell, self._frames)
        observation = frames[:, :STACK]
        if n == 1:
            next_observation = frames[:, 1 : STACK + 1]
        else:
            # A window that ends early bootstraps from its end.
            width = STACK + n
            index = np.arange(batch_size)[:, None] * width + length[:, None] + np.arange(STACK)
            next_observation = self._gather(index, frames.view(batch_size * width, -1))
        return Batch(
            observation=observation,
            action=self._to_device(self._action[row % self.num_rows, lane].astype(np.int64)),
            reward=sent_to(self.device, reward),
            discount=sent_to(self.device, discount),
            next_observation=next_observation,
        )

    def _returns(
        self, row: NDArray[np.int64], lane: NDArray[np.int64], n: int
    ) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Returns n-step returns, bootstrap discounts, and each window's number of steps."""
        window = (row[:, None] + np.arange(n)) % self.num_rows
        lane = lane[:, None]
        terminal = self._terminal[window, lane]
        ends = terminal | self._last[window, lane]
        inside = np.ones_like(ends)
        inside[:, 1:] = ~np.logical_or.accumulate(ends, axis=1)[:, :-1]
        reward = self._reward[window, lane]
        if self.reward_clip:
            reward = np.sign(reward)
        discount = np.where(inside, np.where(terminal, 0.0, self.gamma), 1.0)
        total, bootstrap = n_step_return(
            torch.from_numpy(np.where(inside, reward, 0.0).astype(np.float32)),
            torch.from_numpy(discount.astype(np.float32)),
        )
        return total, bootstrap, inside.sum(axis=1)

    def _gather(self, cell: NDArray[np.int64], source: Tensor) -> Tensor:
        """Copies frames into a reused buffer: fresh memory would cost page faults."""
        index = self._to_device(cell.reshape(-1))
        key = (len(index), source is self._frames)
        out = self._gathered.get(key)
        if out is None:
            out = torch.empty((len(index), source.shape[1]), dtype=torch.uint8, device=self.device)
            self._gathered[key] = out
        torch.index_select(source, 0, index, out=out)
        return out.view(*cell.shape, *self.frame_shape)

    def _to_device(self, array: NDArray[np.int64]) -> Tensor:
        return sent_to(self.device, torch.from_numpy(array))

    def _write(self, rows: slice, cells: Cells) -> None:
        self._action[rows] = cells.action
        self._reward[rows] = cells.reward
        self._terminal[rows] = cells.terminal
        self._last[rows] = cells.last
        self._reset[rows] = cells.reset
        self._age[rows] = cells.age

    def export(self, first: int, last: int) -> dict[str, NDArray[np.generic]]:
        """Copies rows first … last - 1 of the run out of the ring, in order.

        Raises:
            ValueError: the ring does not hold all of these rows.
        """
        oldest = self.oldest
        if not oldest <= first < last <= self.rows_added:
            raise ValueError(
                f"rows {first} … {last} are not in a ring that holds {oldest} … {self.rows_added}"
            )
        rows = np.arange(first, last) % self.num_rows
        cells = (rows[:, None] * self.num_envs + np.arange(self.num_envs)).reshape(-1)
        frames = self._frames.index_select(0, self._to_device(cells)).cpu().numpy()
        return {
            "frames": frames.reshape(len(rows), self.num_envs, -1),
            "action": self._action[rows],
            "reward": self._reward[rows],
            "terminal": self._terminal[rows],
            "last": self._last[rows],
            "reset": self._reset[rows],
            "age": self._age[rows],
        }

    def restore(self, first: int, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Puts exported rows back in their places, and sets `rows_added` after the last of them.

        There may be more rows than the ring holds; later rows then overwrite the oldest.
        """
        count = len(arrays["action"])
        frames = arrays["frames"]
        for offset in range(count):
            row = (first + offset) % self.num_rows
            start = row * self.num_envs
            self._frames[start : start + self.num_envs].copy_(
                torch.from_numpy(np.ascontiguousarray(frames[offset], dtype=np.uint8))
            )
        self.restore_columns(first, arrays)

    def restore_columns(self, first: int, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Does what `restore` does, without the frames."""
        count = len(columns["action"])
        rows = np.arange(first, first + count) % self.num_rows
        for name in ("action", "reward", "terminal", "last", "reset", "age"):
            getattr(self, f"_{name}")[rows] = columns[name]
        self.rows_added = first + count

    def restore_frames(self, cell: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        """Writes frames, uint8 (n, bytes), into cells of the ring, int64 (n,)."""
        flat = torch.from_numpy(np.ascontiguousarray(frames))
        self._frames[self._to_device(cell)] = flat.to(self.device)

    def share_of_transitions(self) -> float:
        """Returns the share of transitions among the drawable cells; 1 if no cell is drawable.

        Drawing retries until it finds a transition, so the share must not be too small.
        """
        low, high = self._rows_to_draw()
        rows = np.arange(low, high) % self.num_rows
        return 1.0 - float(self._reset[rows].mean()) if high > low else 1.0

    @property
    def total_priority(self) -> float:
        """Sum of all priorities; 0 if the ring has none."""
        return 0.0 if self._tree is None else self._tree.total
