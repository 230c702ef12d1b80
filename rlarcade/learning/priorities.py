"""A sum tree: draws items with probability in proportion to their priority, in log time.

Schaul et al. (2016), appendix B.2.1, https://arxiv.org/abs/1511.05952.
"""

import numpy as np
from numpy.typing import NDArray


class SumTree:
    """Priorities of a fixed number of items. All operations take arrays of items.

    A node is always computed as the sum of its two children, never adjusted by a difference. So
    rounding errors do not add up, and a tree rebuilt from its leaves is the same, bit for bit.
    """

    def __init__(self, size: int) -> None:
        """Makes a tree of `size` items of priority 0."""
        self._size = size
        self._leaves = 1 << max(0, size - 1).bit_length()
        self._nodes = np.zeros(2 * self._leaves, dtype=np.float64)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._nodes[1])

    def values(self) -> NDArray[np.float32]:
        """Returns all priorities, (size,)."""
        return self._nodes[self._leaves : self._leaves + self._size].astype(np.float32)

    def of(self, item: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the priorities of some items."""
        return self._nodes[self._leaves + item]

    def set(self, item: NDArray[np.int64], priority: NDArray[np.float32]) -> None:
        """Sets the priorities of some items. If an item is given twice, one of the two is kept.

        Priorities are rounded to float32, so that four bytes per item are enough to save the tree.

        Raises:
            ValueError: a priority is negative or not finite.
        """
        if not (priority >= 0).all() or not np.isfinite(priority).all():
            raise ValueError(
                f"priorities are finite and at least 0, got {priority.min()} … {priority.max()}"
            )
        node = self._leaves + item
        self._nodes[node] = priority.astype(np.float32)
        while len(node) and node[0] > 1:
            node = node >> 1
            self._nodes[node] = self._nodes[2 * node] + self._nodes[2 * node + 1]

    def find(self, mass: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns for each mass the item at which the running sum of priorities exceeds it.

        Rounding never leads to an item of priority 0.

        Args:
            mass: (B,), 0 ≤ mass < total.

        Raises:
            ValueError: a mass is out of range, or all priorities are 0.
        """
        if not ((mass >= 0) & (mass < self.total)).all():
            raise ValueError(f"mass must lie in [0, {self.total}), got {mass.min()} … {mass.max()}")
        node = np.ones(len(mass), dtype=np.int64)
        mass = mass.copy()
        while len(node) and node[0] < self._leaves:
            left = self._nodes[2 * node]
            right = (mass >= left) & (self._nodes[2 * node + 1] > 0)
            mass -= np.where(right, left, 0.0)
            node = 2 * node + right
        return node - self._leaves
