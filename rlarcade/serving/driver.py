"""The one server that drives the rollouts of a registry.

Two of them would play each other's open games to their ends, and move one rollout twice. So the
first server takes a lock, and others only serve champions until it has ended.
"""

import os
from contextlib import suppress

from rlarcade.locks import try_lock
from rlarcade.registry.locks import holder_of
from rlarcade.registry.registry import Registry


class Driver:
    """A server's place among those that may drive a registry's rollouts.

    It is the lock of the folder `blobs`, which nobody else locks. The kernel frees a dead server's.

    Attributes:
        registry: the registry.
    """

    def __init__(self, registry: Registry) -> None:
        """Takes no lock yet."""
        self.registry = registry
        self._folder = registry.folder / "blobs"
        self._descriptor: int | None = None
        with suppress(OSError):  # no folder: nothing can be driven
            self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)

    def other(self) -> str | None:
        """Returns which other server drives, such as "process 4711"; None: this one may."""
        if self._descriptor is None or try_lock(self._descriptor):
            return None
        return holder_of(self._folder)

    def close(self) -> None:
        """Lets another server drive."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
