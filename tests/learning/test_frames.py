"""rlarcade.learning.frames: layouts hold the same pixels in another order."""

import numpy as np
import pytest
import torch

from rlarcade.learning.frames import block_frames, blocks_as_channels, whole_frames

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)
BLOCKED = block_frames(FRAMES)


@pytest.fixture(scope="module")
def expected():
    """Pixel (4y + i, 4x + j) of frame f in channel 16f + 4i + j at (y, x), one by one."""
    maps = np.empty((3, 64, 21, 21), dtype=np.float32)
    for f in range(4):
        for i in range(4):
            for j in range(4):
                maps[:, 16 * f + 4 * i + j] = FRAMES[:, f, i::4, j::4]
    return torch.from_numpy(maps)


def test_blocking_is_undone():
    assert torch.equal(whole_frames(torch.from_numpy(BLOCKED)), torch.from_numpy(FRAMES))


@pytest.mark.parametrize("frames", [FRAMES, BLOCKED], ids=["whole", "blocked"])
def test_blocks_become_channels(frames, expected):
    maps = blocks_as_channels(torch.from_numpy(frames), torch.float32)
    assert torch.equal(maps, expected)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    half = blocks_as_channels(torch.from_numpy(frames), torch.bfloat16)
    assert torch.equal(half.float(), expected), "bf16 holds 0 … 255 exactly"


@pytest.mark.parametrize("frames", [FRAMES, BLOCKED], ids=["whole", "blocked"])
def test_frames_may_be_views_in_any_order(frames, expected):
    whole = torch.from_numpy(np.concatenate((frames, frames), axis=1))
    assert torch.equal(blocks_as_channels(whole[:, :4], torch.float32), expected)
    assert torch.equal(blocks_as_channels(whole[1:, 4:], torch.float32), expected[1:])
    assert torch.equal(blocks_as_channels(whole[::2, :4], torch.float32), expected[::2])
    turned = torch.from_numpy(np.ascontiguousarray(frames.swapaxes(0, 1))).transpose(0, 1)
    assert torch.equal(blocks_as_channels(turned, torch.float32), expected)


def test_no_observations_make_no_maps():
    for frames in (FRAMES, BLOCKED):
        maps = blocks_as_channels(torch.from_numpy(frames[:0]), torch.float32)
        assert maps.shape == (0, 64, 21, 21)


def test_frames_at_an_odd_place_in_memory_are_read_all_the_same(expected):
    memory = np.empty(FRAMES.size + 1, dtype=np.uint8)
    for frames in (FRAMES, BLOCKED):
        odd = memory[1:].reshape(frames.shape)
        odd[:] = frames
        assert torch.equal(blocks_as_channels(torch.from_numpy(odd), torch.float32), expected)
        behind = torch.zeros(FRAMES.size + 1, dtype=torch.uint8)[1:].view(frames.shape)
        behind.copy_(torch.from_numpy(frames))
        assert torch.equal(blocks_as_channels(behind, torch.float32), expected)
