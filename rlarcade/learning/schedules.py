"""What is due when: pure functions of the configuration and the agent steps so far.

Being functions of the step alone, they need no saving, and a resumed run cannot lose its place.
"""

import math
from collections.abc import Container

from rlarcade.config import TrainConfig

_FIRST_TENTH = 10
LENGTH_TO_LEARN = 40_000
"""Agent steps from which an agent can be expected to play better than chance: preset quick's."""


def epsilon(config: TrainConfig, steps: int) -> float:
    """Share of random actions: the initial ε until learning starts, then linear to the final ε.

    Needs a resolved configuration (`exploration_steps` set).
    """
    assert config.exploration_steps is not None, "epsilon() needs a resolved configuration"
    into = steps - config.warm_up
    if into < 0:
        return config.exploration_initial_eps
    if into >= config.exploration_steps:
        return config.exploration_final_eps
    done = into / config.exploration_steps
    return config.exploration_initial_eps + done * (
        config.exploration_final_eps - config.exploration_initial_eps
    )


def importance_exponent(config: TrainConfig, steps: int) -> float:
    """β of prioritised replay: linear from its first to its final value.

    Needs a resolved configuration (`importance_steps` set).
    """
    assert config.importance_steps is not None, "importance_exponent() needs a resolved config"
    first, final = config.importance_exponent, config.importance_final_exponent
    return _linear(first, final, steps, config.importance_steps)


def learning_rate(config: TrainConfig, steps: int) -> float:
    """Adam's step size: constant, or linear from its first to its final value.

    Needs a resolved configuration (`learning_rate_steps` set).
    """
    first, final = config.learning_rate, config.learning_rate_final
    if final is None:
        return first
    assert config.learning_rate_steps is not None, "learning_rate() needs a resolved config"
    return _linear(first, final, steps, config.learning_rate_steps)


def n_steps(config: TrainConfig, steps: int) -> int:
    """Rewards in a return: constant, or falling geometrically from its first to its final value.

    As in Schwarzer et al. (2023), https://arxiv.org/abs/2305.19452, section 4. Needs a resolved
    configuration (`n_steps_duration` set).
    """
    first, final = config.n_steps, config.n_steps_final
    if final is None:
        return first
    assert config.n_steps_duration is not None, "n_steps() needs a resolved config"
    return round(first * math.pow(final / first, min(1.0, steps / config.n_steps_duration)))


def _linear(first: float, final: float, steps: int, length: int) -> float:
    return first + min(1.0, steps / length) * (final - first)


def updates_due(config: TrainConfig, steps: int) -> int:
    """Gradient steps that should have been taken after so many agent steps."""
    if config.memory == "none":
        return steps // config.rollout_size * config.num_epochs * config.rollout_batches
    into = max(0, steps - config.learning_starts)
    return into // config.train_freq * config.gradient_steps


def whole_length(config: TrainConfig) -> int:
    """Agent steps of the run: total_timesteps, rounded up to whole steps, or rollouts, of all."""
    unit = config.rollout_size if config.memory == "none" else config.num_envs
    return -(-config.total_timesteps // unit) * unit


def following_length(config: TrainConfig, given: Container[str]) -> TrainConfig:
    """Lets what happens at the beginning of a run follow a length that leaves it no room.

    A preset's warm-up and exploration are made for its own length. In a run of a few minutes they
    would take all of it, and the agent would end worse than random play. Runs in which learning
    begins within the first tenth, and exploration ends within two fifths, stay as they are.

    Args:
        config: settings of a run that begins, its length known.
        given: settings that were asked for one by one, and stay as they are.
    """
    length, changes = config.total_timesteps, dict[str, int]()
    warm_up, explored = config.learning_starts, config.exploration_steps
    if config.memory == "replay" and warm_up * _FIRST_TENTH > length:
        changes["learning_starts"] = length // 20
    if explored is not None and explored > 0.4 * length:
        changes["exploration_steps"] = int(0.3 * length)
    if changes and config.n_steps_duration is not None and config.n_steps_duration > length:
        changes["n_steps_duration"] = length
    return config.model_copy(update={k: v for k, v in changes.items() if k not in given})


def crossed(interval: int, before: int, after: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]; never for interval 0."""
    return interval > 0 and after // interval > before // interval
