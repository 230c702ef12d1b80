"""The versions that can be served: from a registry, or those that come with rlarcade."""

from collections.abc import Callable
from dataclasses import dataclass

from rlarcade.checkpoint import Checkpoint
from rlarcade.games.protocols import Protocol
from rlarcade.learning.playable import load_playable
from rlarcade.learning.policy import DQNAgent
from rlarcade.registry.documents import Version
from rlarcade.registry.registry import CHAMPION, Registry
from rlarcade.serving.engine import ValuesActions
from rlarcade.zoo import zoo_games, zoo_name


@dataclass(frozen=True)
class Stocked:
    """A version, ready to be loaded into an engine."""

    number: int
    digest: str
    game: str
    protocol: Protocol
    num_actions: int
    agent: ValuesActions
    steps: int
    """Agent steps of its training."""
    checkpoint: Checkpoint | None = None
    """What the agent was made of; an engine of several workers needs it."""


Loader = Callable[[Checkpoint], ValuesActions]
"""Makes an agent of a checkpoint; `DQNAgent.load`, or another engine's."""


def read(registry: Registry, number: int) -> tuple[Version, Checkpoint]:
    """Reads a version and checks its bytes.

    Raises:
        RegistryError: the version does not exist or is broken.
    """
    return registry.version(number), registry.load(number)


def stocked(version: Version, checkpoint: Checkpoint, loader: Loader = DQNAgent.load) -> Stocked:
    """Makes the agent of a version.

    Raises:
        CheckpointError: the checkpoint describes a network that cannot be built.
        RlarcadeError: see `loader`.
    """
    agent = loader(checkpoint)
    agent.name = f"version {version.number}"
    return Stocked(
        version.number,
        version.digest,
        version.game,
        version.protocol,
        version.num_actions,
        agent,
        version.steps,
        checkpoint,
    )


def champions(registry: Registry) -> dict[str, tuple[int, int]]:
    """Returns (version, generation of the alias) of each game's champion.

    Raises:
        RegistryError: the registry cannot be read.
    """
    found = (alias for alias in registry.aliases() if alias.name == CHAMPION)
    return {alias.game: (alias.version, alias.generation) for alias in found}


def packaged(loader: Loader = DQNAgent.load) -> list[Stocked]:
    """Returns the agents of the zoo; their versions are numbered from 1."""
    return [
        unregistered(number, zoo_name(game), load_playable(zoo_name(game)), loader)
        for number, game in enumerate(zoo_games(), start=1)
    ]


def unregistered(number: int, name: str, checkpoint: Checkpoint, loader: Loader) -> Stocked:
    """Makes the agent of a checkpoint that is in no registry.

    Args:
        number: stands for the version.
        name: of the agent.
        checkpoint: the checkpoint.
        loader: makes the agent.

    Raises:
        RlarcadeError: see `loader`.
    """
    agent = loader(checkpoint)
    agent.name = name
    manifest = checkpoint.manifest
    return Stocked(
        number,
        manifest.weights_sha256,
        manifest.game,
        manifest.protocol,
        manifest.num_actions,
        agent,
        manifest.counters.steps,
        checkpoint,
    )
