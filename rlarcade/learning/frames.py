"""Layouts of frames for the networks.

Frames are uint8 (B, 4, 84, 84), or *blocked*, (B, 4, 21, 21, 16): the 16 pixels of every 4×4 block
lie side by side. On blocked frames a first convolution of 8×8 with stride 4 becomes a 2×2
convolution over 64 channels with the same weights. That is faster on every processor. Replay
stores blocked frames.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlarcade.games.protocols import SCREEN, STACK

_BLOCK = 4
_GRID = SCREEN // _BLOCK  # 21
BLOCKED_FRAME = (_GRID, _GRID, _BLOCK * _BLOCK)


def block_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lays the 4×4 blocks of frames side by side: uint8 (…, 84, 84) -> (…, 21, 21, 16)."""
    *batch, _, _ = frames.shape
    # A row of a block is four bytes. Moving it as one number takes an eighth of the time.
    rows = np.ascontiguousarray(frames).view(np.uint32).reshape(*batch, _GRID, _BLOCK, _GRID)
    blocked = np.ascontiguousarray(rows.swapaxes(-2, -1)).view(np.uint8)
    return blocked.reshape(*batch, *BLOCKED_FRAME)


def whole_frames(frames: Tensor) -> Tensor:
    """Undoes `block_frames`: (B, 4, 21, 21, 16) -> (B, 4, 84, 84). Whole frames are kept as is."""
    if frames.dim() == 4:
        return frames
    batch = frames.shape[0]
    split = frames.reshape(batch, STACK, _GRID, _GRID, _BLOCK, _BLOCK)
    return split.transpose(3, 4).reshape(batch, STACK, SCREEN, SCREEN)


def blocks_as_channels(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns `dtype` (B, 64, 21, 21) in channels-last memory; values are 0 … 255."""
    batch = frames.shape[0]
    # torch.compile fuses reordering and converting into one loop, and views of other dtypes break
    # its graph.
    in_bytes = frames.dtype == torch.uint8 and frames.device.type == "cpu"
    if in_bytes and not torch.compiler.is_compiling():
        blocked = _laid_side_by_side(frames)
    elif frames.dim() == 4:
        split = frames.reshape(batch, STACK, _GRID, _BLOCK, _GRID, _BLOCK)
        blocked = split.permute(0, 2, 4, 1, 3, 5)
    else:
        blocked = frames.permute(0, 2, 3, 1, 4)
    x = blocked.to(dtype, memory_format=torch.contiguous_format)
    # frames of floats were not copied by the conversion, so their elements are not in order yet
    x = x.reshape(batch, _GRID, _GRID, STACK * _BLOCK * _BLOCK)
    return x.permute(0, 3, 1, 2)


def _laid_side_by_side(frames: Tensor) -> Tensor:
    """Returns uint8 (B, 21, 21, 64), contiguous.

    torch reorders elements one by one, also when it converts them at the same time. So a row of a
    block, or a whole block, is moved as one element of that size. The element's dtype does not
    matter, because nothing is computed with it. On a CPU this takes a quarter of the time; before,
    reordering took an eighth of an update.
    """
    batch = frames.shape[0]
    frames = frames.contiguous()
    if frames.storage_offset() % _BLOCK**2:
        frames = frames.clone()  # a view of larger elements needs an aligned start
    if frames.dim() == 4:
        rows = frames.view(torch.int32).view(batch, STACK, _GRID, _BLOCK, _GRID)
        reordered = rows.permute(0, 2, 4, 1, 3)
    else:
        reordered = frames.view(torch.complex128).squeeze(-1).permute(0, 2, 3, 1)
    side_by_side = reordered.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    return side_by_side.view(batch, _GRID, _GRID, STACK * _BLOCK * _BLOCK)


def blocked_kernel(weight: Tensor) -> Tensor:
    """Returns kernels (C, 4, 4n, 4n) as n×n kernels over blocks, (C, 64, n, n)."""
    blocks = weight.shape[-1] // _BLOCK
    split = weight.reshape(-1, STACK, blocks, _BLOCK, blocks, _BLOCK)
    kernel = split.permute(0, 2, 4, 1, 3, 5).reshape(-1, blocks, blocks, STACK * _BLOCK * _BLOCK)
    return kernel.permute(0, 3, 1, 2)  # channels-last memory
