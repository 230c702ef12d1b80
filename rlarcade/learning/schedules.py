"""Schedules: pure functions of the configuration and the agent steps so far.

Because they depend on nothing else, schedules need not be saved, and a resumed run continues them
exactly.
"""

import math
from collections.abc import Container

from rlarcade.config import TrainConfig

_FIRST_TENTH = 10
LENGTH_TO_LEARN = 40_000
"""Agent steps after which an agent can be expected to play better than chance: those of preset
quick."""


def epsilon(config: TrainConfig, steps: int) -> float:
    """Returns the share of random actions: initial ε until learning starts, then linear to final ε.

    Needs a resolved configuration (`exploration_steps` set).
    """
    assert config.exploration.steps is not None, "epsilon() needs a resolved configuration"
    into = steps - config.warm_up
    if into < 0:
        return config.exploration.initial_eps
    if into >= config.exploration.steps:
        return config.exploration.final_eps
    done = into / config.exploration.steps
    return config.exploration.initial_eps + done * (
        config.exploration.final_eps - config.exploration.initial_eps
    )


def importance_exponent(config: TrainConfig, steps: int) -> float:
    """Returns β of prioritised replay: linear from its first to its final value.

    Needs a resolved configuration (`importance_steps` set).
    """
    assert config.memory.importance_steps is not None, (
        "importance_exponent() needs a resolved config"
    )
    first, final = config.memory.importance_exponent, config.memory.importance_final_exponent
    return _linear(first, final, steps, config.memory.importance_steps)


def learning_rate(config: TrainConfig, steps: int) -> float:
    """Returns Adam's step size: constant, or linear from its first to its final value.

    Needs a resolved configuration (`learning_rate_steps` set).
    """
    first, final = config.optimizer.learning_rate, config.optimizer.learning_rate_final
    if final is None:
        return first
    assert config.optimizer.learning_rate_steps is not None, (
        "learning_rate() needs a resolved config"
    )
    return _linear(first, final, steps, config.optimizer.learning_rate_steps)


def n_steps(config: TrainConfig, steps: int) -> int:
    """Returns the rewards in a return: constant, or a geometric decay from first to final value.

    As in Schwarzer et al. (2023), https://arxiv.org/abs/2305.19452, section 4. Needs a resolved
    configuration (`n_steps_duration` set).
    """
    first, final = config.target.n_steps, config.target.n_steps_final
    if final is None:
        return first
    assert config.target.n_steps_duration is not None, "n_steps() needs a resolved config"
    return round(first * math.pow(final / first, min(1.0, steps / config.target.n_steps_duration)))


def _linear(first: float, final: float, steps: int, length: int) -> float:
    return first + min(1.0, steps / length) * (final - first)


def updates_due(config: TrainConfig, steps: int) -> int:
    """Returns how many gradient steps are due after `steps` agent steps."""
    if config.memory.kind == "none":
        return steps // config.rollout_size * config.memory.num_epochs * config.rollout_batches
    into = max(0, steps - config.schedule.learning_starts)
    return into // config.schedule.train_freq * config.schedule.gradient_steps


def most_updates(config: TrainConfig, steps: int) -> int:
    """Returns the most gradient steps that a run can have taken after `steps` agent steps.

    Without replay they depend on the games that ran side by side, because a rollout ends with its
    last whole batch. Their number may have changed whenever the run was lengthened. This bound
    holds for all numbers of games.
    """
    if config.memory.kind == "none":
        return steps * config.memory.num_epochs // config.schedule.batch_size
    return updates_due(config, steps)


def whole_length(config: TrainConfig) -> int:
    """Returns the run's agent steps: total_timesteps, rounded up to whole steps of all lanes.

    Without replay it is rounded up to whole rollouts.
    """
    unit = config.rollout_size if config.memory.kind == "none" else config.schedule.num_envs
    return -(-config.schedule.total_timesteps // unit) * unit


def following_length(config: TrainConfig, given: Container[str]) -> TrainConfig:
    """Shortens warm-up and exploration if the run is too short for them.

    A preset's warm-up and exploration are made for its own length. In a run of a few minutes they
    would take the whole run, and the agent would end worse than random play. A run is not changed
    if learning begins within its first tenth and exploration takes at most two fifths of it.

    Args:
        config: settings of a new run, its length known.
        given: settings that were set by flags; they are not changed.
    """
    length, changes = config.schedule.total_timesteps, dict[str, int]()
    warm_up, explored = config.schedule.learning_starts, config.exploration.steps
    if config.memory.kind == "replay" and warm_up * _FIRST_TENTH > length:
        changes["learning_starts"] = length // 20
    if explored is not None and explored > 0.4 * length:
        changes["exploration_steps"] = int(0.3 * length)
    if (
        changes
        and config.target.n_steps_duration is not None
        and config.target.n_steps_duration > length
    ):
        changes["n_steps_duration"] = length
    return config.model_copy(update={k: v for k, v in changes.items() if k not in given})


def crossed(interval: int, before: int, after: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]; never for interval 0."""
    return interval > 0 and after // interval > before // interval
