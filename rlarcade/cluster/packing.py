"""Players as bytes, for other processes.

An agent is sent as its checkpoint, whose digest is checked where it arrives. Any other policy is
pickled, with what it refers to; the modules that it comes from must be installed there.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rlarcade.checkpoint import Package, load_checkpoint, packed_checkpoint, unpacked_checkpoint
from rlarcade.cluster.connection import import_ray
from rlarcade.errors import CheckpointError, ConfigError
from rlarcade.foreign import own_words
from rlarcade.games.protocols import Protocol
from rlarcade.learning.playable import load_agent
from rlarcade.playing.players import AgentPlayer, Player

if TYPE_CHECKING:
    from rlarcade.learning.policy import DQNAgent


@dataclass(frozen=True)
class PackedAgent:
    """A player around an agent with a checkpoint."""

    package: Package
    name: str
    protocol: Protocol

    def unpacked(self) -> Player:
        """Returns the player, on this machine's CPU.

        Raises:
            CheckpointError: the bytes are not those of the digest.
            ConfigError: the agent has a torso of its own.
        """
        checkpoint = unpacked_checkpoint(self.package, Path(self.name))
        try:
            agent = load_agent(checkpoint)
        except CheckpointError as error:
            raise ConfigError(
                f"{self.name} cannot be sent to a cluster: {error} An agent with a torso of your "
                "own plays there as module:factory."
            ) from error
        return AgentPlayer(agent, protocol=self.protocol, name=self.name)


@dataclass(frozen=True)
class PickledPlayer:
    """Any other player."""

    data: bytes
    name: str

    def unpacked(self) -> Player:
        """Returns the player.

        Raises:
            ConfigError: it cannot be unpickled here.
        """
        try:
            player: Player = import_ray().cloudpickle.loads(self.data)
        except Exception as error:  # it is the user's code
            raise ConfigError(
                f"{self.name} cannot be made on a node of the cluster: {own_words(error)}. Its "
                "modules must be installed on every node."
            ) from error
        return player


PackedPlayer = PackedAgent | PickledPlayer


def packed_player(player: Player) -> PackedPlayer:
    """Returns a player as bytes.

    Raises:
        ConfigError: its agent is not on the CPU, or it cannot be pickled.
    """
    from rlarcade.learning.policy import DQNAgent  # here: torch takes seconds to import

    agent: Any = getattr(player, "agent", None)
    if not isinstance(agent, DQNAgent):
        return _pickled(player)
    if agent.device.type != "cpu":
        raise ConfigError(
            f"{player.name} is on {agent.device}, and games on a cluster are played on CPUs. Load "
            "it with device cpu."
        )
    if not isinstance(player, AgentPlayer):  # such as one that looks ahead
        return _pickled(player)
    return PackedAgent(_package_of(agent), player.name, player.protocol)


def _package_of(agent: "DQNAgent") -> Package:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "agent"
        agent.save(path)
        return packed_checkpoint(load_checkpoint(path))


def _pickled(player: Player) -> PickledPlayer:
    try:
        return PickledPlayer(import_ray().cloudpickle.dumps(player), player.name)
    except Exception as error:  # it is the user's code
        raise ConfigError(
            f"{player.name} cannot be sent to a cluster: {own_words(error)}. A policy there must "
            "be picklable."
        ) from error
