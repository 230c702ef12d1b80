"""Estimates the memory that learning takes from the settings, before anything is built."""

import torch
from torch import nn

from rlarcade import machine
from rlarcade.config import TrainConfig
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.learning.networks import unallocated, weights_bytes
from rlarcade.learning.torsos import NATURE_SIDES

_FLOAT = 4
_COPIES = 5  # of the weights: online, target, gradient, and Adam's two moments
_BESIDE = 2  # a layer's output is kept for the backward pass, and its gradient is as large
_SMALL = 256_000_000  # bytes; less is never refused


def require_memory_to_learn(
    config: TrainConfig, num_actions: int, torso: nn.Module | None = None
) -> None:
    """Refuses settings if an update with them does not fit into memory.

    An example is a large batch with many quantiles.

    Args:
        config: settings of learning.
        num_actions: actions of the game.
        torso: your own module instead of the torso.

    Raises:
        ResourceError: it does not fit; the message names both sizes and the settings to lower.
    """
    needed = learning_bytes(config, num_actions, torso)
    if needed < _SMALL:
        return
    available = None
    if config.machine.device == "cuda":
        available = torch.cuda.mem_get_info()[0]
    fractions = dict.fromkeys(("categorical", "gauss"), "--num-atoms")
    fractions["quantile"] = "--num-quantiles"
    sizes = ["--batch-size", "--num-envs", fractions.get(config.network.head, "--num-taus")]
    if config.network.head == "expected":
        del sizes[-1]
    machine.require_memory(
        needed,
        f"an update of batch_size = {config.schedule.batch_size:,} with this network",
        f"Lower {', '.join(sizes)}, or the width of the network.",
        available,
    )


def learning_bytes(config: TrainConfig, num_actions: int, torso: nn.Module | None = None) -> int:
    """Returns about how many bytes the networks, acting in all lanes and one update take.

    Replay is counted elsewhere; emulators take little and are not counted. Of a torso of your own
    only the weights, the frames and the features are counted, because its layers are not known.
    """
    features = unallocated(num_actions, config.network, torso)[0].num_features
    inside = _torso_numbers(config) if torso is None else STACK * SCREEN**2 + features
    row = inside + _head_numbers(config, features, num_actions)
    steps = config.target.n_steps if config.memory.kind == "replay" else 1
    frames = config.schedule.batch_size * (2 * STACK + steps) * SCREEN**2
    loss = config.schedule.batch_size * _outputs(config) ** 2 * _BESIDE * _FLOAT
    update = config.schedule.batch_size * row * _BESIDE * _FLOAT
    acting = config.schedule.num_envs * row * _FLOAT
    weights = _COPIES * weights_bytes(config.network, num_actions, torso)
    return weights + frames + loss + max(update, acting)


def _outputs(config: TrainConfig) -> int:
    """Returns the number of possible returns of an action."""
    return {
        "categorical": config.network.num_atoms,
        "gauss": config.network.num_atoms,
        "quantile": config.network.num_quantiles,
        "implicit": config.network.num_taus,
    }.get(config.network.head, 1)


def _torso_numbers(config: TrainConfig) -> int:
    """Returns how many numbers the torso's layers compute for one observation."""
    pixels = STACK * SCREEN**2
    if config.network.torso == "nature":
        sides = NATURE_SIDES[config.network.first_kernel]
        maps = zip(config.network.conv_channels, sides, strict=True)
        return pixels + sum(2 * channels * side**2 for channels, side in maps)
    numbers, side = pixels, SCREEN
    for filters in (16, 32, 32):
        stem = side**2
        side = (side + 1) // 2
        numbers += filters * config.network.impala_width * (stem + 6 * side**2)
    return numbers


def _head_numbers(config: TrainConfig, features: int, num_actions: int) -> int:
    streams = 2 if config.network.dueling else 1
    if config.network.head == "implicit":  # each fraction has its own forward pass
        return config.network.num_taus * (
            3 * features + streams * (2 * config.network.hidden_units + num_actions)
        )
    return streams * (2 * config.network.hidden_units + 2 * num_actions * _outputs(config))
