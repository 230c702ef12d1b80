"""The one server that drives the rollouts of a registry.

Two of them would play each other's open games to their ends, and move one rollout twice. So the
first server takes a lock, and others only serve champions until it has ended.
"""

from rlarcade.errors import UnusableRegistryError
from rlarcade.registry.registry import Registry


class Driver:
    """A server's place among those that may drive a registry's rollouts.

    Attributes:
        registry: the registry.
    """

    def __init__(self, registry: Registry) -> None:
        """Takes no lock yet."""
        self.registry = registry
        self._lock = registry.alone()
        self._drives = False

    def other(self) -> str | None:
        """Returns which other server drives, such as "process 4711"; None: this one does.

        Raises:
            UnusableRegistryError: this one drove, but has lost its lock to another one. That can
                happen when a database server was restarted.
        """
        other = self._lock.holder()
        if other is not None and self._drives:
            raise UnusableRegistryError(
                f"the lock of registry {self.registry.name} was lost, and {other} drives its "
                "rollouts now. Restart this server: it then serves the champions."
            )
        self._drives = other is None
        return other

    def close(self) -> None:
        """Lets another server drive."""
        self._lock.close()
