"""The Q-network: a torso turns frames into features, a head turns features into returns."""

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
            settings: parts and sizes; by default the network of Mnih et al. (2015).
            torso: your own module instead of the torso, uint8 (B, 4, 84, 84) to float (B, F).

        Raises:
            ValueError: `torso` returns another shape or dtype.
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
        """Returns the head's prediction of the returns of each action."""
        returns: Returns = self.head(self.features(frames), draws)
        return returns

    def features(self, frames: Tensor) -> Tensor:
        """Returns the torso's features, (B, F) of `dtype`."""
        features: Tensor = self.torso(frames, self.dtype)
        return features


def weights_bytes(network: NetworkSettings | dict[str, Any], num_actions: int) -> int:
    """Returns the bytes of a network's tensors, without allocating them.

    A file of the weights has some thousand bytes more, for the tensors' names.

    Raises:
        ValueError: the settings are not those of a network, or the network could not exist.
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
    """Builds a network from the settings in a checkpoint's manifest.

    Raises:
        ValueError: the settings are not those of a network.
    """
    return QNetwork(num_actions, validated(NetworkSettings, settings), torso=torso)
