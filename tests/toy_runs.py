"""A run of Pong that takes a second or two, for tests of what a run leaves in its folder."""

from rlarcade import TrainConfig

SIZES = {
    "conv_channels": (4, 4, 4),
    "hidden_units": 16,
    "num_envs": 4,
    "batch_size": 16,
    "learning_starts": 100,
    "train_freq": 20,
    "target_update_interval": 100,
    "n_steps": 3,
    "torch_threads": 1,
    "device": "cpu",
}


def config(**changes):
    return TrainConfig(game="Pong", **{"total_timesteps": 400} | SIZES | changes)


def trained(run, until=None):
    """Iterates over a run, to its end or until a step."""
    for progress in run:
        if until is not None and progress.steps >= until:
            break
    return run
