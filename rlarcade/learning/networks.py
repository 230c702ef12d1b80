"""Networks: a torso that turns frames into features, and a head that turns features into values.

Frames are uint8 and enter as (B, 4, 84, 84), or *blocked* as (B, 4, 21, 21, 16): every 4×4 block of
pixels laid side by side. The first convolution (8×8, stride 4) then is a 2×2 convolution over 64
channels with the same weights, which is faster on every processor; replay stores frames that way.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rlarcade.games.protocols import SCREEN, STACK

_BLOCK = 4
_GRID = SCREEN // _BLOCK  # 21
BLOCKED_FRAME = (_GRID, _GRID, _BLOCK * _BLOCK)


def block_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lays the 4×4 blocks of frames side by side: uint8 (…, 84, 84) -> (…, 21, 21, 16)."""
    *batch, _, _ = frames.shape
    split = frames.reshape(*batch, _GRID, _BLOCK, _GRID, _BLOCK)
    return np.ascontiguousarray(split.swapaxes(-3, -2)).reshape(*batch, *BLOCKED_FRAME)


class NatureTorso(nn.Module):
    """Three convolutions, as in Mnih et al. (2015), https://www.nature.com/articles/nature14236.

    Parameters have the published shapes whatever layout the frames have, and PyTorch's default
    initialisation, which is U(±1/√fan_in) for weights and biases as in DQN Zoo.
    """

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 64)) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(STACK, first, kernel_size=8, stride=4)
        self.conv2 = nn.Conv2d(first, second, kernel_size=4, stride=2)
        self.conv3 = nn.Conv2d(second, third, kernel_size=3, stride=1)
        self.num_features = third * 7 * 7

    def forward(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns features of `dtype`, (B, num_features), from uint8 frames in either layout."""
        x = F.conv2d(
            _blocks_as_channels(frames, dtype),
            _blocked_kernel(self.conv1.weight).to(dtype),
            _cast(self.conv1.bias, dtype),
        ).relu_()
        for conv in (self.conv2, self.conv3):
            x = F.conv2d(
                x, conv.weight.to(dtype), _cast(conv.bias, dtype), stride=conv.stride
            ).relu_()
        return x.flatten(1)


class ExpectedHead(nn.Module):
    """One hidden layer and one expected return per action."""

    def __init__(self, num_features: int, hidden_units: int, num_actions: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, hidden_units)
        self.values = nn.Linear(hidden_units, num_actions)

    def forward(self, features: Tensor) -> Tensor:
        """Returns Q(s, ·), float32 (B, A), from features (B, F) of any dtype."""
        dtype = features.dtype
        hidden = F.linear(features, self.hidden.weight.to(dtype), _cast(self.hidden.bias, dtype))
        # fp32 from here: the gaps between actions are smaller than bf16's spacing
        q_values: Tensor = self.values(hidden.relu_().float())
        return q_values


class QNetwork(nn.Module):
    """A torso and a head.

    Attributes:
        dtype: arithmetic of everything but the last layer; parameters are always float32.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        conv_channels: tuple[int, int, int] = (32, 64, 64),
        hidden_units: int = 512,
    ) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.torso = NatureTorso(conv_channels)
        self.head = ExpectedHead(self.torso.num_features, hidden_units, num_actions)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> Tensor:
        """Returns Q(s, ·), float32 (B, A).

        Args:
            frames: uint8 (B, 4, 84, 84), or blocked (B, 4, 21, 21, 16); newest frame last.
        """
        features: Tensor = self.torso(frames, self.dtype)
        q_values: Tensor = self.head(features)
        return q_values


def build_network(num_actions: int, settings: dict[str, Any]) -> QNetwork:
    """Builds a network from the settings kept in a checkpoint's manifest.

    Raises:
        KeyError, TypeError, ValueError: the settings are not a network's.
    """
    settings = dict(settings)
    channels = tuple(int(width) for width in settings.pop("conv_channels"))
    if len(channels) != 3 or min(channels) < 1:
        raise ValueError(f"conv_channels must be three positive widths, got {channels}")
    first, second, third = channels
    return QNetwork(num_actions, conv_channels=(first, second, third), **settings)


def _blocks_as_channels(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns `dtype` (B, 64, 21, 21) in channels-last memory, scaled to [0, 1]."""
    batch = frames.shape[0]
    if frames.dim() == 4:
        split = frames.reshape(batch, STACK, _GRID, _BLOCK, _GRID, _BLOCK)
        blocked = split.permute(0, 2, 4, 1, 3, 5)
    else:
        blocked = frames.permute(0, 2, 3, 1, 4)
    x = blocked.to(dtype, memory_format=torch.contiguous_format)
    x = x.view(batch, _GRID, _GRID, STACK * _BLOCK * _BLOCK)
    return x.mul_(1 / 255).permute(0, 3, 1, 2)


def _blocked_kernel(weight: Tensor) -> Tensor:
    """Returns the 8×8 kernels (C, 4, 8, 8) as 2×2 kernels over blocks, (C, 64, 2, 2)."""
    split = weight.reshape(-1, STACK, 2, _BLOCK, 2, _BLOCK)
    kernel = split.permute(0, 2, 4, 1, 3, 5).reshape(-1, 2, 2, STACK * _BLOCK * _BLOCK)
    return kernel.permute(0, 3, 1, 2)  # channels-last memory


def _cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    assert bias is not None
    return bias.to(dtype)
