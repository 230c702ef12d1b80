"""Torsos turn frames into features.

A torso is a module with `num_features` and `forward(frames, dtype)`. `forward` takes uint8 frames,
(B, 4, 84, 84) or blocked, and returns features (B, num_features) of `dtype`. Parameters are always
float32.

Frames may also be floats, 0 … 255, for gradients with respect to the frames. Convolutions are
modules that can be hooked. For uint8 frames, as in play and training, a ReLU overwrites the maps of
a convolution. For frames of floats it does not, so a hook may keep the maps and their gradients.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from rlarcade.checked import require
from rlarcade.config import NetworkSettings
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.learning.frames import blocked_kernel, blocks_as_channels, whole_frames

NATURE_SIDES = {8: (20, 9, 7), 4: (21, 9, 7)}
"""Sides of the maps after each convolution, by the side of the first kernels."""
_IMPALA_FILTERS = (16, 32, 32)
_IMPALA_SIDE = 11
# For the four channels of an observation cuDNN falls back to a slow kernel, which took a sixth of
# an update's time (H200, bf16). Channels of zeros are added, so that it can use its usual kernels.
_GPU_CHANNELS = 8


class _Conv(nn.Conv2d):
    """A convolution in the arithmetic of its input; parameters stay float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns maps of maps, in x's dtype."""
        weight, bias = self.weight.to(x.dtype), cast(self.bias, x.dtype)
        if x.device.type == "cuda":
            x, weight = with_channels(_GPU_CHANNELS, x), with_channels(_GPU_CHANNELS, weight)
        return F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)


class _FrameConv(nn.Conv2d):
    """The first convolution: 8×8 or 4×4 with stride 4 over the pixels, scaled to [0, 1]."""

    def forward(self, frames: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        """Returns maps of whole or blocked frames, in `dtype`."""
        x = blocks_as_channels(frames, dtype)
        # A copy of the few weights is scaled by 1/255, not the many pixels. bf16 then holds the
        # pixels exactly, and Adam's steps are those of weights for pixels in [0, 1].
        kernel = (blocked_kernel(self.weight) * (1 / 255)).to(dtype)
        return F.conv2d(x, kernel, cast(self.bias, dtype))


class NatureTorso(nn.Module):
    """Three convolutions, as in Mnih et al. (2015), https://www.nature.com/articles/nature14236.

    Parameters have the published shapes, for whole and for blocked frames. They have PyTorch's
    default initialisation, which is U(±1/√fan_in) for weights and biases, as in DQN Zoo.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        first, second, third = settings.conv_channels
        sides = NATURE_SIDES[settings.first_kernel]
        self.conv1 = _FrameConv(STACK, first, kernel_size=settings.first_kernel, stride=4)
        self.conv2 = _Conv(first, second, kernel_size=4, stride=2)
        self.conv3 = _Conv(second, third, kernel_size=3, stride=1)
        self.norms = nn.ModuleList(
            make_norm(settings.norm, channels, side)
            for channels, side in zip(settings.conv_channels, sides, strict=True)
        )
        self._normed = settings.norm != "none"
        self.num_features = third * sides[-1] ** 2

    def forward(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns features of `dtype`, (B, num_features)."""
        # Normalised maps are a view of rows. If a ReLU overwrote a view, autograd would copy the
        # gradient four times; that took a tenth of the update of `laptop`.
        over = not frames.is_floating_point() and not self._normed
        x = F.relu(self.norms[0](self.conv1(frames, dtype)), inplace=over)
        x = F.relu(self.norms[1](self.conv2(x)), inplace=over)
        # Flattened before the ReLU: the gradient comes in the order of the flat features. A ReLU of
        # maps would have to read two memory orders at once.
        return F.relu(self.norms[2](self.conv3(x)).flatten(1), inplace=over)


class ImpalaTorso(nn.Module):
    """Residual blocks, as in Espeholt et al. (2018), https://arxiv.org/abs/1802.01561.

    The torso of BTR is wider, with spectrally normalised residual convolutions and features pooled
    to 6×6: Clark et al. (2024), https://arxiv.org/abs/2411.03820.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        stacks: list[nn.Module] = []
        channels, side = STACK, SCREEN
        for filters in _IMPALA_FILTERS:
            side = (side + 1) // 2
            stacks.append(_ImpalaStack(channels, filters * settings.impala_width, side, settings))
            channels = filters * settings.impala_width
        self.stacks = nn.ModuleList(stacks)
        self.pool_size = settings.pool_size
        self.num_features = channels * (settings.pool_size or _IMPALA_SIDE) ** 2

    def forward(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns features of `dtype`, (B, num_features)."""
        over = not frames.is_floating_point()
        x = whole_frames(frames).to(dtype, memory_format=torch.channels_last)
        x = x.mul_(1 / 255) if over else x * (1 / 255)
        for stack in self.stacks:
            x = stack(x, over)
        x = x.relu()
        if self.pool_size:
            x = F.adaptive_max_pool2d(x, self.pool_size)
        return x.flatten(1)


class _ImpalaStack(nn.Module):
    """A convolution, a max-pool that halves the sides, and two residual blocks."""

    def __init__(self, channels: int, filters: int, side: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.stem = _Conv(channels, filters, 3, padding=1)
        self.norm = make_norm(settings.norm, filters, side)
        residual = [_Conv(filters, filters, 3, padding=1) for _ in range(4)]
        # The stem has no spectral norm: with it, agents learn worse (Clark et al. 2024).
        self.residual = nn.ModuleList(
            spectral_norm(conv) if settings.spectral_norm else conv for conv in residual
        )

    def forward(self, x: Tensor, over: bool) -> Tensor:
        """Halves the sides of maps; `over` tells whether a ReLU may overwrite its input."""
        x = self.norm(F.max_pool2d(self.stem(x), 3, stride=2, padding=1))
        for first, second in ((0, 1), (2, 3)):
            inner = self.residual[first](x.relu())
            x = x + self.residual[second](F.relu(inner, inplace=over))
        return x


class ForeignTorso(nn.Module):
    """A user's own module as a torso, uint8 (B, 4, 84, 84) to float (B, F)."""

    def __init__(self, module: nn.Module) -> None:
        require(module, nn.Module, "a torso of your own", "torch.nn.Sequential(…)")
        super().__init__()
        self.module = module.eval()  # the trial below must not change running averages
        # a module that has learned on a GPU is still there
        device = next((weights.device for weights in module.parameters()), None)
        with torch.no_grad():
            features = module(
                torch.zeros((2, STACK, SCREEN, SCREEN), dtype=torch.uint8, device=device)
            )
        if features.dim() != 2 or len(features) != 2 or not features.is_floating_point():
            raise ValueError(
                "a torso of your own takes uint8 (B, 4, 84, 84) and returns float (B, F); for two "
                f"observations it returned {features.dtype} {tuple(features.shape)}"
            )
        self.num_features = int(features.shape[1])

    def forward(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns features of `dtype`, (B, num_features)."""
        features: Tensor = self.module(whole_frames(frames))
        return features.to(dtype)


def make_torso(settings: NetworkSettings) -> NatureTorso | ImpalaTorso:
    """Builds the torso that the settings name, with random weights."""
    return NatureTorso(settings) if settings.torso == "nature" else ImpalaTorso(settings)


class _MapNorm(nn.Module):
    """Layer normalisation of maps, Ba et al. (2016), https://arxiv.org/abs/1607.06450.

    `channel` normalises over the channels of each position, as flax does by default. `layer`
    normalises over the whole map. The two give different networks.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (B, C, H, W) maps in channels-last memory, or (B, F) features."""
        rows = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
        normed = F.layer_norm(
            rows, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype)
        )
        return normed.permute(0, 3, 1, 2) if x.dim() == 4 else normed


def make_norm(norm: str, channels: int, side: int | None = None) -> nn.Module:
    """Returns the normalisation of `channels` features, or of maps of side × side."""
    if norm == "none":
        return nn.Identity()
    whole = norm == "layer" and side is not None
    return _MapNorm((side, side, channels) if whole and side is not None else (channels,))


def cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Returns a layer's bias in `dtype`."""
    assert bias is not None
    return bias.to(dtype)


def with_channels(least: int, x: Tensor) -> Tensor:
    """Returns maps (B, C, H, W) with channels of zeros added up to at least `least` channels."""
    missing = least - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing > 0 else x
