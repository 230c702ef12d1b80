"""The network of an agent: a torso, which turns frames into features, and a head."""

from typing import Any

import torch
from torch import Tensor, nn

from rlarcade.checked import validated
from rlarcade.config import NetworkSettings
from rlarcade.learning.heads import Draws, Returns, make_head
from rlarcade.learning.torsos import ForeignTorso, make_torso


class QNetwork(nn.Module):
    """A torso and a head.

    Attributes:
        dtype: arithmetic of everything but the last layer; parameters are always float32.
    """

    def __init__(
        self,
        num_actions: int,
        settings: NetworkSettings | None = None,
        *,
        torso: nn.Module | None = None,
    ) -> None:
        """Builds the network with random weights from torch's generator.

        Args:
            num_actions: actions of the game, A.
            settings: what it is made of; by default the network of Mnih et al. (2015).
            torso: a module of your own in the torso's place, uint8 (B, 4, 84, 84) to float (B, F).

        Raises:
            ValueError: `torso` returns something else.
        """
        super().__init__()
        settings = settings or NetworkSettings()
        self.dtype = torch.float32
        self.torso = make_torso(settings) if torso is None else ForeignTorso(torso)
        self.head = make_head(self.torso.num_features, num_actions, settings)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    def forward(self, frames: Tensor, draws: Draws | None = None) -> Tensor:
        """Returns Q(s, ·), float32 (B, A).

        Args:
            frames: uint8 (B, 4, 84, 84), or blocked (B, 4, 21, 21, 16); newest frame last.
            draws: noise and quantile fractions; None: noise off, fractions at their midpoints.
        """
        return self.returns(frames, draws).mean()

    def returns(self, frames: Tensor, draws: Draws | None = None) -> Returns:
        """Returns what the head says of the returns of each action."""
        returns: Returns = self.head(self.features(frames), draws)
        return returns

    def features(self, frames: Tensor) -> Tensor:
        """Returns what the torso makes of frames, (B, F) in its arithmetic."""
        features: Tensor = self.torso(frames, self.dtype)
        return features


def weights_bytes(network: NetworkSettings | dict[str, Any], num_actions: int) -> int:
    """Returns the bytes of a network's tensors, without taking memory for them.

    A file of its weights has some thousand more, for their names.

    Raises:
        ValueError: the settings are not a network's, or no memory could ever hold it.
    """
    settings = validated(NetworkSettings, network)
    try:
        with torch.device("meta"):
            tensors = QNetwork(num_actions, settings).state_dict().values()
    except RuntimeError as error:  # sizes beyond 64 bits
        raise ValueError(f"a network of such a size cannot exist: {settings}") from error
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def build_network(
    num_actions: int, settings: dict[str, Any], torso: nn.Module | None = None
) -> QNetwork:
    """Builds a network from the settings kept in a checkpoint's manifest.

    Raises:
        ValueError: the settings are not a network's.
    """
    return QNetwork(num_actions, validated(NetworkSettings, settings), torso=torso)
