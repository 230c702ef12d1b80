"""rlarcade.learning.torsos against forward passes in plain NumPy and torch's own layers."""

import numpy as np
import pytest
import torch

from rlarcade.config import NetworkSettings, TrainConfig
from rlarcade.errors import CheckpointError
from rlarcade.learning.frames import block_frames
from rlarcade.learning.learner import Learner
from rlarcade.learning.networks import QNetwork
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.replay import Batch
from rlarcade.learning.torsos import ForeignTorso, make_norm, make_torso, with_channels

NORMS = ["none", "layer", "channel"]
TORSOS = {
    "nature": {"torso": "nature", "conv_channels": (4, 6, 5)},
    "one look": {"torso": "nature", "conv_channels": (4, 6, 5), "first_kernel": 4},
    "impala": {"torso": "impala"},
    "spectral": {"torso": "impala", "spectral_norm": True, "pool_size": 6},
}


def seeded(seed=0, **settings):
    torch.manual_seed(seed)
    return make_torso(NetworkSettings(**settings)).eval()


def random_frames(batch, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, 4, 84, 84), dtype=np.uint8)


def features_of(torso, frames, dtype=torch.float32):
    with torch.no_grad():
        return torso(torch.from_numpy(frames), dtype)


def randomise_norms(torso):
    """Other weights than the ones and zeros they start with, different at every place."""
    rng = torch.Generator().manual_seed(5)
    for name, parameter in torso.named_parameters():
        if "norm" in name:
            parameter.data = torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize(("least", "channels"), [(8, 8), (4, 4), (2, 4)])
def test_channels_of_zeros_change_no_convolution(least, channels):
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=rng) for shape in ((2, 4, 9, 9), (5, 4, 3, 3)))
    padded = with_channels(least, x), with_channels(least, weight)
    assert [part.shape[1] for part in padded] == [channels, channels]
    torch.testing.assert_close(
        torch.nn.functional.conv2d(*padded), torch.nn.functional.conv2d(x, weight)
    )


# In NumPy


def convolve(x, weight, bias):
    """3×3 cross-correlation, zeros around: x (B, C, H, W), weight (O, C, 3, 3)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True) + bias[:, None, None]


def halve(x):
    """The largest of every 3×3 pixels around each second one."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows[:, :, ::2, ::2].max(axis=(4, 5))


def pool(x, size):
    """The largest of each of size × size overlapping boxes that cover the map."""
    side = x.shape[2]
    cuts = [(i * side // size, -(-(i + 1) * side // size)) for i in range(size)]
    rows = [[x[:, :, a:b, c:d].max(axis=(2, 3)) for c, d in cuts] for a, b in cuts]
    return np.moveaxis(np.array(rows), (0, 1), (2, 3))


def normalise(x, norm, weight, bias):
    """`layer` over the whole map, `channel` over each position's channels; weights lie (…, C)."""
    if norm == "none":
        return x
    axes = (1, 2, 3) if norm == "layer" else (1,)
    scaled = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(
        x.var(axis=axes, keepdims=True) + 1e-5
    )
    return np.moveaxis(np.moveaxis(scaled, 1, -1) * weight + bias, -1, 1)


def impala_forward(torso, frames, norm="none", pool_size=0):
    """Espeholt et al. (2018), figure 3, the large network without its LSTM, in float64."""

    def numbers(module):
        weight, bias = (t.detach().numpy().astype(np.float64) for t in (module.weight, module.bias))
        return weight, bias

    x = frames.astype(np.float64) / 255
    for stack in torso.stacks:
        x = halve(convolve(x, *numbers(stack.stem)))
        if norm != "none":
            x = normalise(x, norm, *numbers(stack.norm))
        for first, second in ((0, 1), (2, 3)):
            inner = convolve(np.maximum(x, 0), *numbers(stack.residual[first]))
            x = x + convolve(np.maximum(inner, 0), *numbers(stack.residual[second]))
    x = np.maximum(x, 0)
    return (pool(x, pool_size) if pool_size else x).reshape(len(x), -1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pool_size", [0, 6])
def test_impala_features_are_those_of_a_forward_pass_in_numpy(norm, pool_size):
    torso, frames = seeded(torso="impala", norm=norm, pool_size=pool_size), random_frames(2)
    randomise_norms(torso)
    expected = impala_forward(torso, frames, norm, pool_size)
    features = features_of(torso, frames)
    assert features.shape == expected.shape == (2, torso.num_features)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features.numpy(), expected, rtol=0, atol=2e-6 * scale)
    assert np.ptp(expected, axis=0).max() > 0.01 * scale, "the frames make a difference"


def test_spectrally_normalised_features_are_those_of_the_normalised_weights():
    torso, frames = seeded(**TORSOS["spectral"], impala_width=2), random_frames(1)
    expected = impala_forward(torso, frames, pool_size=6)  # `weight` is the normalised one
    np.testing.assert_allclose(
        features_of(torso, frames).numpy(), expected, rtol=0, atol=2e-6 * expected.max()
    )


@pytest.mark.parametrize(("name", "first"), [("nature", 20), ("one look", 21)])
@pytest.mark.parametrize("norm", NORMS)
def test_nature_features_are_those_of_torchs_own_layers(norm, name, first):
    torso, frames = seeded(**TORSOS[name], norm=norm), random_frames(3)
    randomise_norms(torso)
    x = torch.from_numpy(frames).float() / 255
    with torch.no_grad():
        for i, (stride, side) in enumerate(((4, first), (2, 9), (1, 7))):
            conv = getattr(torso, f"conv{i + 1}")
            x = torch.nn.functional.conv2d(x, conv.weight, conv.bias, stride=stride)
            x = torchs_norm(norm, torso.norms[i], x.shape[1], side)(x).relu()
    torch.testing.assert_close(features_of(torso, frames), x.flatten(1), rtol=0, atol=1e-5)


# Features


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 64 * 7 * 7),
        ({"conv_channels": (4, 6, 5)}, 5 * 7 * 7),
        ({"conv_channels": (4, 6, 5), "first_kernel": 4}, 5 * 7 * 7),
        ({"torso": "impala"}, 3872),  # 32 maps of 11 × 11
        ({"torso": "impala", "impala_width": 2, "pool_size": 6}, 2304),  # 64 maps of 6 × 6, BTR
        ({"torso": "impala", "pool_size": 1}, 32),
        ({"torso": "impala", "pool_size": 11}, 3872),
    ],
)
def test_torsos_have_this_many_features(settings, count):
    torso = seeded(**settings)
    assert torso.num_features == count
    features = features_of(torso, random_frames(1))
    assert (tuple(features.shape), features.dtype) == ((1, count), torch.float32)


@pytest.mark.parametrize("torso", TORSOS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_layouts_give_the_same_features(torso, dtype):
    module, frames = seeded(**TORSOS[torso]), random_frames(2)
    plain, blocked = (features_of(module, f, dtype) for f in (frames, block_frames(frames)))
    assert torch.equal(plain, blocked)
    assert plain.dtype == dtype


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("torso", TORSOS)
def test_bf16_features_are_near_those_of_fp32(torso, norm):
    module, frames = seeded(**TORSOS[torso], norm=norm), random_frames(2)
    exact = features_of(module, frames)
    rounded = features_of(module, frames, torch.bfloat16).float()
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.04 * exact.abs().max()


@pytest.mark.parametrize("torso", TORSOS)
def test_frames_are_left_as_they_were(torso):
    frames = random_frames(1)
    before = frames.copy()
    features_of(seeded(**TORSOS[torso]), frames)
    np.testing.assert_array_equal(frames, before)


# Parameters


def impala_parameters(width):
    """Worked out from the paper: per stack one convolution and four between as many filters."""
    total, channels = 0, 4
    for filters in (16 * width, 32 * width, 32 * width):
        total += filters * (9 * channels + 1) + 4 * filters * (9 * filters + 1)
        channels = filters
    return total


@pytest.mark.parametrize(("width", "count"), [(1, 97_744), (2, 389_024)])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_impala_torso_has_the_papers_number_of_parameters(width, count, spectral_norm):
    torso = seeded(torso="impala", impala_width=width, spectral_norm=spectral_norm)
    assert sum(p.numel() for p in torso.parameters()) == impala_parameters(width) == count


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("torso", TORSOS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_reaches_every_parameter(torso, norm, dtype):
    module = seeded(**TORSOS[torso], norm=norm).train()
    features = module(torch.from_numpy(random_frames(2)), dtype).float()
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * weights).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
        assert parameter.grad.abs().max() > 0, name


# Norms


def torchs_norm(norm, own, channels, side):
    """torch.nn.LayerNorm of (B, C, H, W) maps, with the weights of a norm of the package."""
    if norm == "none":
        return torch.nn.Identity()
    weight, bias = own.weight.detach(), own.bias.detach()
    if norm == "layer":
        layer = torch.nn.LayerNorm((channels, side, side))
        weight, bias = weight.permute(2, 0, 1), bias.permute(2, 0, 1)
    else:
        layer = torch.nn.LayerNorm(channels)
    layer.weight.data, layer.bias.data = weight, bias
    if norm == "layer":
        return layer
    return lambda x: layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def maps(batch=3, channels=5, side=4):
    rng = torch.Generator().manual_seed(0)
    return 3 + 2 * torch.randn(batch, channels, side, side, generator=rng)


@pytest.mark.parametrize("norm", ["layer", "channel"])
def test_maps_are_normalised_as_by_torchs_layer_norm(norm):
    own, x = make_norm(norm, 5, 4), maps()
    rng = torch.Generator().manual_seed(1)
    own.weight.data, own.bias.data = (
        torch.randn(own.weight.shape, generator=rng) for _ in range(2)
    )
    torch.testing.assert_close(own(x), torchs_norm(norm, own, 5, 4)(x))


def test_layer_and_channel_norm_are_different_networks():
    x = maps()
    layer, channel = make_norm("layer", 5, 4)(x), make_norm("channel", 5, 4)(x)
    assert (layer - channel).abs().max() > 0.1
    torch.testing.assert_close(layer.mean(dim=(1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(channel.mean(dim=1), torch.zeros(3, 4, 4), rtol=0, atol=1e-5)
    assert layer.mean(dim=1).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["layer", "channel"])
def test_features_are_normalised_as_by_torchs_layer_norm(norm):
    x = maps().flatten(1)
    torch.testing.assert_close(make_norm(norm, 80)(x), torch.nn.LayerNorm(80)(x))


def test_no_norm_leaves_everything_as_it_was():
    x = maps()
    assert make_norm("none", 5, 4)(x) is x


# Spectral norm


def residuals(torso):
    return [conv for stack in torso.stacks for conv in stack.residual]


def largest_singular_value(weight):
    return torch.linalg.svdvals(weight.detach().flatten(1))[0].item()


def test_training_keeps_the_largest_singular_value_of_residual_convolutions_at_one():
    torso, frames = seeded(torso="impala", spectral_norm=True).train(), random_frames(1)
    for _ in range(120):
        features_of(torso, frames)
    torso.eval()
    for conv in residuals(torso):
        assert largest_singular_value(conv.weight) == pytest.approx(1.0, abs=2e-3)


def test_power_iteration_moves_in_training_mode_only():
    torso, frames = seeded(torso="impala", spectral_norm=True), random_frames(1)
    start = {name: t.clone() for name, t in torso.named_buffers()}
    assert len(start) == 2 * 12, "a left and a right vector of each residual convolution"
    one, other = features_of(torso, frames), features_of(torso, frames)
    assert torch.equal(one, other)
    assert all(torch.equal(t, start[name]) for name, t in torso.named_buffers())
    torso.train()
    features_of(torso, frames)
    for name, tensor in torso.named_buffers():
        assert (tensor != start[name]).any(), name


def test_the_size_of_residual_weights_does_not_count_but_that_of_the_stem_does():
    torso, frames = seeded(torso="impala", spectral_norm=True), random_frames(1)
    before = features_of(torso, frames)
    with torch.no_grad():
        for conv in residuals(torso):
            conv.parametrizations.weight.original.mul_(10)
    torch.testing.assert_close(features_of(torso, frames), before, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torso.stacks[0].stem.weight.mul_(10)
    assert (features_of(torso, frames) - before).abs().max() > before.abs().max()


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_stem_is_an_ordinary_convolution(spectral_norm):
    torso = seeded(torso="impala", spectral_norm=spectral_norm)
    for stack in torso.stacks:
        assert "weight" in dict(stack.stem.named_parameters())
        assert not hasattr(stack.stem, "parametrizations")
    assert all(hasattr(c, "parametrizations") == spectral_norm for c in residuals(torso))


# Hooks, and gradients of the frames


def float_frames(batch):
    return torch.from_numpy(random_frames(batch)).float().requires_grad_()


def by_torchs_own_layers(torso, frames):
    """The maps of each convolution of a nature torso, and its features."""
    with torch.no_grad():
        layers = [
            torch.nn.Conv2d(4, 4, 8, stride=4),
            torch.nn.Conv2d(4, 6, 4, stride=2),
            torch.nn.Conv2d(6, 5, 3),
        ]
    x, maps = frames / 255, []
    for layer, own in zip(layers, (torso.conv1, torso.conv2, torso.conv3), strict=True):
        layer.load_state_dict(own.state_dict())
        maps.append(layer(x))
        x = maps[-1].relu()
    return maps, x.flatten(1)


@pytest.mark.parametrize("layout", ["whole", "blocked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("torso", TORSOS)
def test_frames_of_floats_give_the_bits_of_frames_of_bytes_and_stay_as_they_were(
    torso, dtype, layout
):
    torso, frames = seeded(**TORSOS[torso]), random_frames(3)
    frames = frames if layout == "whole" else block_frames(frames)
    floats = torch.from_numpy(frames).float()
    if layout == "whole":
        floats = floats.to(memory_format=torch.channels_last)
    with torch.no_grad():
        features = torso(floats, dtype)
    assert torch.equal(features, features_of(torso, frames, dtype))
    assert torch.equal(floats, torch.from_numpy(frames).float())


def test_hooks_on_convolutions_see_their_maps_and_the_gradients_of_them():
    torso, frames = seeded(**TORSOS["nature"]), float_frames(2)
    maps, gradients = {}, {}
    for name in ("conv1", "conv2", "conv3"):
        layer = getattr(torso, name)
        layer.register_forward_hook(lambda _, __, out, name=name: maps.update({name: out}))
        layer.register_full_backward_hook(
            lambda _, __, out, name=name: gradients.update({name: out[0]})
        )
    features = torso(frames, torch.float32)
    weight = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * weight).sum().backward()

    expected, theirs = by_torchs_own_layers(torso, frames.detach().requires_grad_())
    expected_gradients = torch.autograd.grad((theirs * weight).sum(), expected)
    for name, one, slope in zip(maps, expected, expected_gradients, strict=True):
        torch.testing.assert_close(maps[name], one)
        torch.testing.assert_close(gradients[name], slope)
        assert (one < 0).any(), "before the ReLU"


def test_hooks_see_the_maps_of_play_too_until_the_relu_overwrites_them():
    torso, frames, seen = seeded(**TORSOS["nature"]), random_frames(2), []
    for layer in (torso.conv1, torso.conv2, torso.conv3):
        layer.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    features_of(torso, frames)
    expected, _ = by_torchs_own_layers(torso, torch.from_numpy(frames).float())
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_of_a_value_reaches_the_frames():
    settings = NetworkSettings(conv_channels=(4, 6, 5), hidden_units=16)
    torch.manual_seed(0)
    network, frames = QNetwork(NUM_ACTIONS, settings), float_frames(2)
    (own,) = torch.autograd.grad(network(frames)[:, 1].sum(), frames)
    twin = frames.detach().requires_grad_()
    _, features = by_torchs_own_layers(network.torso, twin)
    hidden = (features @ network.head.hidden.weight.T + network.head.hidden.bias).relu()
    values = hidden @ network.head.values.weight.T + network.head.values.bias
    (expected,) = torch.autograd.grad(values[:, 1].sum(), twin)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-7)
    assert (own != 0).any()


@pytest.mark.parametrize("torso", ["impala", "spectral"])
def test_residual_convolutions_can_be_hooked_and_let_gradients_through(torso):
    torso, frames, seen = seeded(**TORSOS[torso]), float_frames(2), []
    for layer in torso.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_full_backward_hook(lambda *_: seen.append(1))
    torso(frames, torch.float32).sum().backward()
    assert len(seen) == 15, "a stem and four residual convolutions in each of three stacks"
    assert (frames.grad != 0).any()


# A user's own module

NUM_ACTIONS = 3


class Mosaic(torch.nn.Module):
    """Mean brightness of 12×12 tiles, and a layer."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = torch.nn.Linear(4 * 7 * 7, 10)

    def forward(self, frames):
        assert frames.dtype == torch.uint8
        assert frames.shape[1:] == (4, 84, 84)
        tiles = torch.nn.functional.avg_pool2d(frames.float() / 255, 12)
        return self.layer(tiles.flatten(1)).relu()


class Wrong(torch.nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, frames):
        return self.make(frames)


def foreign_learner(seed=0, **settings):
    config = TrainConfig(game="pong", hidden_units=16, learning_rate=1e-2, **settings)
    agent = DQNAgent(config, num_actions=NUM_ACTIONS, seed=seed, torso=Mosaic(seed))
    return Learner(agent, config, seed=seed)


def some_batch(size=4):
    return Batch(
        observation=torch.from_numpy(block_frames(random_frames(size, 1))),
        action=torch.tensor([0, 1, 2, 1][:size]),
        reward=torch.tensor([1.0, -1.0, 0.0, 1.0][:size]),
        discount=torch.tensor([0.9, 0.0, 0.9, 0.9][:size]),
        next_observation=torch.from_numpy(block_frames(random_frames(size, 2))),
    )


def test_a_module_of_ones_own_takes_the_torsos_place():
    module = Mosaic()
    network = QNetwork(NUM_ACTIONS, NetworkSettings(hidden_units=16), torso=module)
    assert network.torso.num_features == 10
    frames = torch.from_numpy(random_frames(2))
    with torch.no_grad():
        expected = network.head(module(frames)).mean()
        assert torch.equal(network(frames), expected)
        blocked = torch.from_numpy(block_frames(frames.numpy()))
        assert torch.equal(network(blocked), expected), "it sees whole frames"


def test_a_module_of_ones_own_gives_features_of_the_networks_arithmetic():
    torso = ForeignTorso(Mosaic())
    features = torso(torch.from_numpy(random_frames(2)), torch.bfloat16)
    assert features.dtype == torch.bfloat16


def test_a_module_of_ones_own_is_tried_on_the_device_where_its_weights_are():
    assert ForeignTorso(Mosaic().to("meta")).num_features == 10


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head": "implicit", "noisy": True, "double": True},
        {"head": "quantile", "norm": "layer"},
    ],
    ids=["dqn", "noisy iqn", "normed qrdqn"],
)
def test_an_agent_acts_learns_and_is_saved_with_it(settings, tmp_path):
    learner, frames = foreign_learner(**settings), random_frames(5)
    agent, layer = learner.agent, learner.online.torso.module.layer
    before, weight = agent.q_values(frames), layer.weight.detach().clone()
    update = learner.update(some_batch())
    assert update.loss.isfinite()
    assert (layer.weight != weight).any()
    learned = agent.q_values(frames)
    assert (learned != before).any()
    agent.save(tmp_path / "policy")

    other = Mosaic(seed=9)
    loaded = DQNAgent.load(tmp_path / "policy", torso=other)
    assert loaded.q_network.torso.module is other
    np.testing.assert_array_equal(loaded.q_values(frames), learned)
    rng = np.random.default_rng
    np.testing.assert_array_equal(loaded.act(frames, 0.1, rng(0)), agent.act(frames, 0.1, rng(0)))


def test_the_target_network_has_a_copy_of_it():
    learner = foreign_learner()
    learner.update(some_batch())
    frozen, learned = learner.target.torso.module, learner.online.torso.module
    assert frozen is not learned
    assert (frozen.layer.weight != learned.layer.weight).any()


def test_loading_without_it_is_refused(tmp_path):
    foreign_learner().agent.save(tmp_path / "policy")
    with pytest.raises(CheckpointError, match=r"with a torso of your own\. Pass the same module"):
        DQNAgent.load(tmp_path / "policy")


def test_a_module_with_running_averages_is_saved_and_goes_on(tmp_path):
    def make():
        return torch.nn.Sequential(Mosaic(), torch.nn.BatchNorm1d(10))

    config = TrainConfig(game="pong", hidden_units=8)
    agent, other = (
        DQNAgent(config, num_actions=NUM_ACTIONS, torso=make(), seed=seed) for seed in (0, 1)
    )
    learner = Learner(agent, config)
    learner.update(some_batch())
    agent.save(tmp_path / "policy")
    loaded = DQNAgent.load(tmp_path / "policy", torso=make())
    frames = random_frames(3)
    np.testing.assert_array_equal(loaded.q_values(frames), agent.q_values(frames))
    Learner(other, config).restore(learner.state(), "a state")
    np.testing.assert_array_equal(other.q_values(frames), agent.q_values(frames))


def test_loading_with_another_module_is_refused(tmp_path):
    foreign_learner().agent.save(tmp_path / "policy")
    flat = Wrong(lambda frames: frames.flatten(1)[:, :10].float())
    with pytest.raises(CheckpointError, match=r"unknown \['torso.module.layer.bias'"):
        DQNAgent.load(tmp_path / "policy", torso=flat)


@pytest.mark.parametrize(
    ("make", "returned"),
    [
        (lambda frames: frames.flatten(1), r"torch\.uint8 \(2, 28224\)"),
        (lambda frames: frames.float(), r"torch\.float32 \(2, 4, 84, 84\)"),
        (lambda frames: frames.float().mean(dim=(1, 2, 3)), r"torch\.float32 \(2,\)"),
        (lambda frames: frames.float().flatten(1)[:1], r"torch\.float32 \(1, 28224\)"),
    ],
)
def test_a_module_that_returns_something_else_is_refused(make, returned):
    message = r"takes uint8 \(B, 4, 84, 84\) and returns float \(B, F\); for two .* returned "
    with pytest.raises(ValueError, match=message + returned):
        QNetwork(NUM_ACTIONS, NetworkSettings(), torso=Wrong(make))
    with pytest.raises(ValueError, match=message + returned):
        DQNAgent(TrainConfig(game="pong"), num_actions=NUM_ACTIONS, torso=Wrong(make))


@pytest.mark.parametrize("norm", ["none", "layer", "channel"])
@pytest.mark.parametrize("torso", ["nature", "impala"])
def test_no_relu_overwrites_a_view(torso, norm):
    """Otherwise autograd copies the gradient of the whole maps, again and again."""
    module = make_torso(NetworkSettings(torso=torso, norm=norm))
    features = module(torch.zeros((2, 4, 84, 84), dtype=torch.uint8), torch.float32)
    seen, waiting = set(), [features.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    assert {type(node).__name__ for node in seen} & {"ReluBackward0", "ReluBackward"}
    assert "CopySlices" not in {type(node).__name__ for node in seen}
