"""Measures how fast this machine trains, to turn a length in minutes into agent steps."""

import time
from collections.abc import Container

from rlarcade.config import TrainConfig
from rlarcade.errors import ConfigError
from rlarcade.learning.schedules import following_length
from rlarcade.learning.state import TrainingState
from rlarcade.learning.training import train_agent
from rlarcade.seeding import SeedUse, derived_seed

_ROUNDS = 5


def measured_speed(config: TrainConfig, seconds: float = 8.0) -> tuple[float, float]:
    """Measures this machine's speed on a short trial run, which is thrown away.

    Returns:
        Agent steps per second before and after learning starts.
    """
    trial = config.model_copy(
        update={
            "seed": derived_seed(config.seed, SeedUse.CALIBRATION),
            "total_timesteps": 10**9,
            "learning_starts": 64 * config.schedule.num_envs,
            "buffer_size": 256 * config.schedule.num_envs,
            "exploration_steps": 0,  # the network acts, as it will for most of the run
        }
    )
    state = TrainingState.create(trial)
    started, random_speed, learning_from = time.perf_counter(), 0.0, 0.0
    steps_then = 0
    for progress in train_agent(state):
        now = time.perf_counter()
        if progress.steps <= trial.warm_up:
            random_speed = progress.steps / (now - started)
        elif progress.updates >= 3 and not learning_from:  # the first updates are slow
            learning_from, steps_then = now, progress.steps
        elif learning_from and now - learning_from > seconds:
            break
    return random_speed, (progress.steps - steps_then) / (now - learning_from)


def steps_in(minutes: float, config: TrainConfig, given: Container[str] = ()) -> int:
    """Returns how many agent steps fit into `minutes`, from the measured speed.

    A tenth of the time is reserved. It is for the start, the saves and the evaluation at the end;
    and a run gets some percent slower once its replay is larger than the caches.

    Args:
        minutes: wall time.
        config: settings of the run; its length is not used.
        given: settings that do not follow the length, see `following_length`.

    Raises:
        ConfigError: the measurement takes longer than `minutes`.
    """
    started = time.perf_counter()
    random_speed, learning_speed = measured_speed(config)
    left = minutes * 60 * 0.9 - (time.perf_counter() - started)
    steps = _steps_in_seconds(left, config.warm_up, random_speed, learning_speed)
    for _ in range(_ROUNDS):  # a shorter warm-up leaves fewer steps, which have a shorter one
        if steps < 1:
            break
        timed = config.model_copy(update={"total_timesteps": steps})
        warm_up = following_length(timed, given).warm_up
        steps = _steps_in_seconds(left, warm_up, random_speed, learning_speed)
    if steps < config.schedule.num_envs:
        raise ConfigError(
            f"minutes = {minutes:g} is too short: measuring this machine's speed takes longer. "
            "Raise --minutes, or give --total-timesteps."
        )
    return steps


def _steps_in_seconds(
    seconds: float, warm_up: int, random_speed: float, learning_speed: float
) -> int:
    warm_up_seconds = warm_up / random_speed if warm_up else 0.0
    if seconds < warm_up_seconds:
        return int(seconds * random_speed)
    return int(warm_up + (seconds - warm_up_seconds) * learning_speed)
