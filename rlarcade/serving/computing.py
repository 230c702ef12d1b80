"""What every worker does, wherever it runs: it holds agents, and computes their action values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlarcade.checkpoint import Checkpoint, Package, unpacked_checkpoint
from rlarcade.errors import PolicyError
from rlarcade.foreign import imported, own_words
from rlarcade.serving.engine import Observations, Values, ValuesActions, tried, trouble

_Loader = Callable[[Checkpoint], ValuesActions]


class LoadedAgents:
    """The agents of a worker, by the numbers of their versions. They have one thread."""

    def __init__(self, loader: str | None) -> None:
        """Loads nothing yet.

        Args:
            loader: makes agents of checkpoints, MODULE:NAME; None: `DQNAgent.load`.

        Raises:
            ConfigError: the loader cannot be imported.
        """
        self._load: _Loader
        if loader is not None:
            self._load = imported(loader, "the loader")
        else:
            import torch

            from rlarcade.learning.policy import DQNAgent

            torch.set_num_threads(1)
            self._load = DQNAgent.load
        self._agents: dict[int, ValuesActions] = {}

    def load(self, version: int, package: Package) -> None:
        """Makes an agent and warms it up.

        Raises:
            Exception: whatever is wrong with the version; see `failure`.
        """
        agent = self._load(unpacked_checkpoint(package, Path(f"version {version}")))
        agent.name = f"version {version}"
        problem = trouble(agent)
        if problem is not None:
            raise PolicyError(problem)
        self._agents[version] = agent

    def unload(self, version: int) -> None:
        """Forgets an agent."""
        self._agents.pop(version, None)

    def values(self, version: int, observations: Observations) -> Values:
        """Returns float32 (N, A) values of uint8 (N, 4, 84, 84) observations.

        Raises:
            Exception: the agent's failure; see `failure`.
        """
        values = tried(self._agents[version], observations)
        if isinstance(values, Exception):
            raise values
        return values.astype(np.float32, copy=False)


def failure(error: Exception) -> str:
    """Returns what went wrong with a version, as text for the server."""
    return str(error) if isinstance(error, PolicyError) else own_words(error)
