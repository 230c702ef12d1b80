"""What the gradient steps between two looks say: mean loss, mean Q and the gradient's norm.

Nothing is looked at on the way, so a GPU is not waited for: each update only leaves references to
its tensors here. The sums are exact about their order. So a run that is saved between two looks and
resumed has the same means, bit for bit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlarcade.learning.learner import Learner, Update

_MOST_WAITING = 8192  # updates; a caller that never looks must not fill the memory


class UpdateFigures:
    """Collects the figures of updates until somebody takes them."""

    def __init__(self, learner: Learner) -> None:
        """Begins with no update.

        Args:
            learner: its newest gradient is measured when the figures are taken.
        """
        self._learner = learner
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._loss = self._mean_q = 0.0
        self._count = 0

    def add(self, update: Update) -> None:
        """Adds an update, without looking at its numbers."""
        self._waiting.append((update.loss, update.mean_q))
        if len(self._waiting) >= _MOST_WAITING:
            self._look()

    def take(self) -> dict[str, float]:
        """Returns the figures of all updates since the last call, by name; {} if there were none.

        `loss` and `q_mean` are means over these updates. `grad_norm` is the norm of the newest
        update's gradient before clipping.
        """
        self._look()
        if not self._count:
            return {}
        figures = {"loss": self._loss / self._count, "q_mean": self._mean_q / self._count}
        self._loss = self._mean_q = 0.0
        self._count = 0
        norm = self._learner.gradient_norm()
        return figures if norm is None else {**figures, "grad_norm": norm.item()}

    def _look(self) -> None:
        """Adds up the waiting numbers one after the other: the order decides on the last bits."""
        if not self._waiting:
            return
        losses, means = (torch.stack(column) for column in zip(*self._waiting, strict=True))
        for loss, mean_q in zip(losses.tolist(), means.tolist(), strict=True):
            self._loss += loss
            self._mean_q += mean_q
        self._count += len(self._waiting)
        self._waiting.clear()

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns the sums so far, to resume from: `sums`, float64 (2,), and `count`, int64 ()."""
        self._look()
        sums = np.array([self._loss, self._mean_q], dtype=np.float64)
        return {"sums": sums, "count": np.array(self._count, dtype=np.int64)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restores what `state` returned. States of rlarcade 0.1.0 have no sums: nothing happens.

        Raises:
            KeyError, TypeError, ValueError: the arrays were altered.
        """
        if not arrays:
            return
        self._loss, self._mean_q = map(float, arrays["sums"])
        self._count = int(arrays["count"])
        if self._count < 0:
            raise ValueError(f"figures.count is {self._count}, but it counts updates")
