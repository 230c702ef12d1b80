"""rlarcade.learning.networks against a forward pass in plain NumPy, and against arithmetic."""

import numpy as np
import pytest
import torch

from rlarcade.learning.frames import BLOCKED_FRAME, block_frames, whole_frames
from rlarcade.learning.networks import QNetwork, build_network

SMALL = {"conv_channels": [4, 6, 5], "hidden_units": 16}
LAYOUTS = {"plain": lambda frames: frames, "blocked": block_frames}


def seeded(num_actions=5, seed=0, **settings):
    torch.manual_seed(seed)
    return build_network(num_actions, {"conv_channels": [32, 64, 64], **settings})


def random_frames(batch, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, 4, 84, 84), dtype=np.uint8)


def convolve(x, weight, bias, stride):
    """Cross-correlation without padding: x (B, C, H, W), weight (O, C, K, K)."""
    kernel = weight.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True) + bias[:, None, None]


def nature_forward(parameters, frames):
    """Mnih et al. (2015), "Model architecture", in float64; features lie as (C, H, W)."""
    p = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in parameters.items()}
    x = frames.astype(np.float64) / 255
    for name, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        x = convolve(x, p[f"torso.{name}.weight"], p[f"torso.{name}.bias"], stride)
        x = np.maximum(x, 0)
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ p["head.hidden.weight"].T + p["head.hidden.bias"], 0)
    return x @ p["head.values.weight"].T + p["head.values.bias"]


def plain_torch(network):
    """The same net from torch's own layers, sharing no code with the package."""
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(4, 32, 8, 4), torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 4, 2), torch.nn.ReLU(),
        torch.nn.Conv2d(64, 64, 3, 1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(3136, 512), torch.nn.ReLU(), torch.nn.Linear(512, 5),
    )  # fmt: skip
    with torch.no_grad():
        for own, given in zip(layers.parameters(), network.parameters(), strict=True):
            own.copy_(given)
    return layers


# Values


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_values_are_those_of_a_forward_pass_in_numpy(batch, layout):
    network, frames = seeded(), random_frames(batch)
    values = network(torch.from_numpy(LAYOUTS[layout](frames)))
    assert (values.dtype, tuple(values.shape)) == (torch.float32, (batch, 5))
    expected = nature_forward(network.state_dict(), frames)
    np.testing.assert_allclose(values.detach().numpy(), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).min() > 1e-4 or batch == 1, "the frames make a difference"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_width_has_the_values_of_numpy_too(layout):
    network, frames = seeded(num_actions=3, **SMALL), random_frames(2, seed=1)
    values = network(torch.from_numpy(LAYOUTS[layout](frames))).detach().numpy()
    expected = nature_forward(network.state_dict(), frames)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_white_frames_enter_as_ones_and_black_as_zeros():
    network = seeded(**SMALL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for layer in (network.torso.conv1, network.torso.conv2, network.torso.conv3):
            layer.weight[0, 0, 0, 0] = 1.0  # the top left pixel alone gets through
        network.head.hidden.weight[0, 0] = 1.0
        network.head.values.weight[:, 0] = 1.0
    frames = torch.zeros(2, 4, 84, 84, dtype=torch.uint8)
    frames[1, 0, 0, 0] = 255
    values = network(frames)
    assert values[0].tolist() == [0.0] * 5
    assert values[1].tolist() == pytest.approx([1.0] * 5, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_layouts_give_the_same_values(dtype):
    network, frames = seeded(), random_frames(4)
    network.dtype = dtype
    plain, blocked = torch.from_numpy(frames), torch.from_numpy(block_frames(frames))
    assert torch.equal(network(plain), network(blocked))


def test_frames_are_left_as_they_were():
    network, frames = seeded(**SMALL), torch.from_numpy(random_frames(2))
    before = frames.clone()
    network(frames)
    assert torch.equal(frames, before)


# Blocks


def test_every_pixel_goes_to_its_block():
    frame = np.random.default_rng(0).integers(0, 256, (84, 84), dtype=np.uint8)
    blocked = block_frames(frame)
    assert blocked.shape == BLOCKED_FRAME == (21, 21, 16)
    assert blocked.flags.c_contiguous
    for y in range(84):
        for x in range(84):
            assert blocked[y // 4, x // 4, 4 * (y % 4) + x % 4] == frame[y, x]


def test_blocks_are_put_together_again():
    frames = torch.from_numpy(random_frames(3))
    assert torch.equal(whole_frames(torch.from_numpy(block_frames(frames.numpy()))), frames)
    assert whole_frames(frames) is frames


@pytest.mark.parametrize("lead", [(3,), (2, 4), (0,)])
def test_stacks_are_blocked_frame_by_frame(lead):
    frames = np.random.default_rng(0).integers(0, 256, (*lead, 84, 84), dtype=np.uint8)
    blocked = block_frames(frames)
    assert blocked.dtype == np.uint8
    assert blocked.shape == (*lead, *BLOCKED_FRAME)
    for index in np.ndindex(*lead):
        np.testing.assert_array_equal(blocked[index], block_frames(frames[index]))


# bf16


def test_bf16_stays_close_to_fp32_and_ends_in_fp32():
    network, frames = seeded(), torch.from_numpy(random_frames(8))
    exact = network(frames)
    network.dtype = torch.bfloat16
    rounded = network(frames)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact), "the torso really is bf16"
    # bf16 keeps 8 bits: 0.4 %, a few times over, of values' spread
    assert (rounded - exact).abs().max() < 0.02 * exact.abs().max()
    assert (rounded.bfloat16().float() != rounded).float().mean() > 0.8, "not bf16 at the end"


def test_the_last_layer_multiplies_in_fp32():
    network, frames = seeded(), torch.from_numpy(random_frames(3))
    network.dtype = torch.bfloat16
    seen = {}
    network.head.values.register_forward_hook(
        lambda layer, inputs, output: seen.update(hidden=inputs[0], output=output)
    )
    network(frames)
    hidden = seen["hidden"].detach()
    assert hidden.dtype == seen["output"].dtype == torch.float32
    weight = network.head.values.weight.detach().double()
    expected = hidden.double() @ weight.T + network.head.values.bias.detach().double()
    torch.testing.assert_close(seen["output"].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_and_gradients_are_float32_and_every_parameter_gets_one(dtype):
    network, frames = seeded(), torch.from_numpy(random_frames(2))
    network.dtype = dtype
    (network(frames) ** 2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_torchs_own_layers(layout):
    network, frames = seeded(), random_frames(4)
    reference = plain_torch(network)
    (network(torch.from_numpy(LAYOUTS[layout](frames))) ** 2).sum().backward()
    (reference(torch.from_numpy(frames).float() / 255) ** 2).sum().backward()
    for own, other in zip(network.parameters(), reference.parameters(), strict=True):
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5 * scale)


# Parameters


@pytest.mark.parametrize("num_actions", [3, 6, 18])
def test_the_nature_net_has_the_published_number_of_parameters(num_actions):
    convolutions = 32 * (4 * 8 * 8 + 1) + 64 * (32 * 4 * 4 + 1) + 64 * (64 * 3 * 3 + 1)
    assert convolutions == 77_984
    hidden = (64 * 7 * 7 + 1) * 512  # 84 -> 20 -> 9 -> 7 pixels
    assert hidden == 1_606_144
    count = sum(parameter.numel() for parameter in seeded(num_actions).parameters())
    assert count == 77_984 + 1_606_144 + 513 * num_actions


def test_parameters_have_the_published_shapes():
    assert {name: tuple(p.shape) for name, p in seeded().named_parameters()} == {
        "torso.conv1.weight": (32, 4, 8, 8),
        "torso.conv1.bias": (32,),
        "torso.conv2.weight": (64, 32, 4, 4),
        "torso.conv2.bias": (64,),
        "torso.conv3.weight": (64, 64, 3, 3),
        "torso.conv3.bias": (64,),
        "head.hidden.weight": (512, 3136),
        "head.hidden.bias": (512,),
        "head.values.weight": (5, 512),
        "head.values.bias": (5,),
    }


def test_initial_parameters_fill_plus_minus_one_over_root_fan_in():
    fan_in = {
        "torso.conv1": 4 * 8 * 8,
        "torso.conv2": 32 * 4 * 4,
        "torso.conv3": 64 * 3 * 3,
        "head.hidden": 64 * 7 * 7,
        "head.values": 512,
    }
    for name, parameter in seeded().named_parameters():
        layer, kind = name.rsplit(".", 1)
        bound = fan_in[layer] ** -0.5
        assert parameter.abs().max() <= bound * (1 + 1e-6), name
        if kind == "weight":  # a uniform's standard deviation
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name


# Settings


def test_a_network_is_built_as_its_settings_say():
    settings = dict(SMALL)
    network = build_network(3, settings)
    assert isinstance(network, QNetwork)
    assert [p.shape[0] for p in network.parameters() if p.dim() > 1] == [4, 6, 5, 16, 3]
    assert settings == SMALL, "they are not used up"


@pytest.mark.parametrize("head", ["expected", "categorical", "gauss", "quantile", "implicit"])
@pytest.mark.parametrize("torso", ["nature", "impala"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_torso_goes_with_every_head(torso, head, dtype):
    network = seeded(num_actions=3, **SMALL, torso=torso, head=head)
    network.dtype = dtype
    with torch.no_grad():
        values = network(torch.from_numpy(random_frames(2)))
    assert (values.dtype, tuple(values.shape)) == (torch.float32, (2, 3))
    assert values.isfinite().all()
    assert (values[0] != values[1]).all(), "the frames make a difference"


def test_a_network_is_built_in_evaluation_mode():
    assert not any(module.training for module in seeded(**SMALL).modules())


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([], r"^'conv_channels.0' is missing.$"),
        ([4, 4], r"^'conv_channels.2' is missing.$"),
        ([4, 4, 4, 4], r"'conv_channels' must have at most 3 parts"),
        ([4, 0, 4], r"'conv_channels.1' must be at least 1, not 0"),
        ([4, 4, -1], r"'conv_channels.2' must be at least 1, not -1"),
        (["wide"] * 3, r"'conv_channels.0' must be a whole number, not 'wide'"),
    ],
)
def test_channels_that_are_not_three_positive_widths_are_refused(channels, message):
    with pytest.raises(ValueError, match=message):
        build_network(3, {"conv_channels": channels, "hidden_units": 16})


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match=r"unknown setting 'num_wheels'"):
        build_network(3, {**SMALL, "num_wheels": 4})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"torso": "resnet"}, "'torso' must be 'nature' or 'impala', not 'resnet'"),
        ({"head": "c51"}, "'head' must be 'expected', 'categorical', 'gauss', 'quantile' or 'impl"),
        ({"num_atoms": 1}, "at least 2, not 1"),
        ({"pool_size": 12}, "at most 11, not 12"),
        ({"value_min": 10.0}, r"value_min \(10\) is not below value_max \(10\)"),
        ({"value_max": float("inf")}, "finite number"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_network(3, {**SMALL, **settings})
