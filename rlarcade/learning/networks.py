"""The Q-network: a torso turns frames into features, a head turns features into returns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlarcade.checked import validated
from rlarcade.config import NetworkSettings
from rlarcade.errors import CheckpointError
from rlarcade.learning.heads import Draws, Returns, make_head
from rlarcade.learning.torsos import ForeignTorso, ImpalaTorso, NatureTorso, make_torso


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
            frames: uint8 (B, 4, 84, 84), or blocked (B, 4, 21, 21, 16); newest frame last. Floats,
                0 … 255, give the same values and may require gradients.
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


def weights_bytes(
    network: NetworkSettings | dict[str, Any], num_actions: int, torso: nn.Module | None = None
) -> int:
    """Returns the bytes of a network's tensors, without allocating them.

    A file of the weights has some thousand bytes more, for the tensors' names.

    Args:
        network: settings of the network.
        num_actions: actions of the game, A.
        torso: your own module instead of the torso.

    Raises:
        ValueError: the settings are not those of a network, the network could not exist, or `torso`
            returns another shape or dtype.
    """
    settings = validated(NetworkSettings, network)
    try:
        parts = unallocated(num_actions, settings, torso)
    except RuntimeError as error:  # sizes beyond 64 bits
        raise ValueError(f"a network of such a size cannot exist: {settings}") from error
    tensors = [tensor for part in parts for tensor in part.state_dict().values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def unallocated(
    num_actions: int, settings: NetworkSettings, torso: nn.Module | None = None
) -> tuple[NatureTorso | ImpalaTorso | ForeignTorso, nn.Module]:
    """Returns the torso and the head of a network, without memory for what the settings describe.

    Args:
        num_actions: actions of the game, A.
        settings: parts and sizes.
        torso: your own module instead of the torso. It is tried once, where its weights are.

    Raises:
        ValueError: `torso` returns another shape or dtype.
        RuntimeError: the sizes are beyond 64 bits, or `torso` raised it.
    """
    foreign = None if torso is None else ForeignTorso(torso)
    with torch.device("meta"):
        own = make_torso(settings) if foreign is None else foreign
        return own, make_head(own.num_features, num_actions, settings)


def build_network(
    num_actions: int, settings: dict[str, Any], torso: nn.Module | None = None
) -> QNetwork:
    """Builds a network from the settings in a checkpoint's manifest.

    Raises:
        ValueError: the settings are not those of a network.
    """
    return QNetwork(num_actions, validated(NetworkSettings, settings), torso=torso)


def arrays_of(network: QNetwork) -> dict[str, NDArray[Any]]:
    """Returns copies of the network's tensors by name, float32."""
    return {name: t.detach().cpu().numpy().copy() for name, t in network.state_dict().items()}


def as_float16(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float16]]:
    """Returns arrays rounded to float16; values above 65,504 become infinite."""
    with np.errstate(over="ignore"):
        return {name: array.astype(np.float16) for name, array in arrays.items()}


def are_rounded(tensors: Mapping[str, NDArray[Any]]) -> bool:
    """Whether all arrays are float16, as those of an agent after `DQNAgent.round_weights`."""
    return all(array.dtype == np.float16 for array in tensors.values())


def fill(network: QNetwork, tensors: Mapping[str, NDArray[Any]], where: Path | str) -> None:
    """Copies arrays into a network's parameters, keeping their memory order.

    Args:
        network: the network to fill.
        tensors: arrays by name, as `arrays_of` returns them.
        where: source of the arrays, for messages.

    Raises:
        CheckpointError: the arrays do not fit the network.
    """
    check_fit(network, tensors, where)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(torch.from_numpy(np.array(tensors[name])))


def check_fit(network: QNetwork, tensors: Mapping[str, NDArray[Any]], where: Path | str) -> None:
    """Refuses arrays that are not the network's parameters, in float32 or all rounded to float16.

    Raises:
        CheckpointError: a name, a shape or a dtype differs; the message says which.
    """
    own = network.state_dict()
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in own.items()}
    if are_rounded(tensors):
        kinds = {name: kind.replace("float32", "float16") for name, kind in kinds.items()}
    foreign_torso = any(name.startswith("torso.module.") for name in tensors)
    if foreign_torso and not isinstance(network.torso, ForeignTorso):
        raise CheckpointError(
            f"{where} was made with a torso of your own. Pass the same module: "
            "DQNAgent.load(path, torso=module)."
        )
    foreign = {name: array.shape for name, array in tensors.items() if name not in own}
    missing = sorted(set(own) - set(tensors))
    wrong = [
        f"{name} is {tensors[name].dtype} {tensors[name].shape}, "
        f"not {kinds[name]} {tuple(own[name].shape)}"
        for name in own
        if name in tensors
        and (tensors[name].shape != tuple(own[name].shape) or tensors[name].dtype != kinds[name])
    ]
    if foreign or missing or wrong:
        problem = wrong[0] if wrong else f"missing {missing[:2]}, unknown {sorted(foreign)[:2]}"
        raise CheckpointError(
            f"the tensors of {where} do not fit the network that its manifest describes: {problem}."
        )
