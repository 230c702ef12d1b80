"""The training loop is a generator: it learns, and its caller logs, saves and stops it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rlarcade.checked import require
from rlarcade.config import TrainConfig
from rlarcade.games.episodes import Episode
from rlarcade.learning import hardware
from rlarcade.learning.learner import Update
from rlarcade.learning.replay import Cells
from rlarcade.learning.schedules import crossed, updates_due
from rlarcade.learning.state import TrainingState
from rlarcade.learning.step_parts import StepParts
from rlarcade.learning.targets import lambda_targets
from rlarcade.learning.update_figures import UpdateFigures


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where training stands after one step of all lanes."""

    steps: int
    """Agent steps, all lanes together."""
    updates: int
    """Gradient steps."""
    epsilon: float
    """Share of random actions in this step."""
    learning_rate: float
    """The optimizer's step size after this step."""
    episodes: tuple[Episode, ...]
    """Games that ended with this step."""
    update: Update | None
    """The newest gradient step; None before the first."""
    seconds: dict[str, float]
    """Wall time since this process began training, by part: env, act, replay, learn."""
    figures: UpdateFigures | None = None
    """The figures of the gradient steps since they were last taken."""


def train_agent(run: TrainConfig | TrainingState) -> Iterator[TrainingProgress]:
    """Deep Q-learning, step by step: with experience replay, or from rollouts without it.

    The number of updates depends only on the agent steps so far, not on how many games run side by
    side. Whenever the generator is suspended the state is complete: the caller may save it,
    evaluate its agent, or stop.

        state = TrainingState.create(TrainConfig(game="Pong", total_timesteps=100_000))
        for progress in train_agent(state):
            ...

    Args:
        run: a configuration, or a state to resume.

    Yields:
        The progress after every step of all lanes (without replay: after every rollout), until
        `total_timesteps`, rounded up to a whole step or rollout, is reached.

    Raises:
        ConfigError: `run` is neither.
        DivergenceError: the loss or a Q-value is not finite.
    """
    require(run, TrainConfig | TrainingState, "run", "TrainConfig(game='Pong')")
    state = run if isinstance(run, TrainingState) else TrainingState.create(run)
    learn = _learn_from_replay if state.config.memory.kind == "replay" else _learn_from_rollouts
    hardware.set_up_torch(state.config.machine)  # another run may have changed it
    return learn(state)


def _learn_from_replay(state: TrainingState) -> Iterator[TrainingProgress]:
    """Deep Q-learning with experience replay: Mnih et al. (2015), Algorithm 1.

    https://www.nature.com/articles/nature14236. The numbers count the lines of that algorithm.
    Lines 1 to 3 are `TrainingState.create`. Lines 4 and 5 are in the lanes, which begin their next
    episode by themselves. A step is stored after the updates, not before: a GPU learns while the
    emulators play the step.
    """
    config, learner, lanes, replay = state.config, state.learner, state.lanes, state.replay
    parts = StepParts(state)
    while state.steps < config.schedule.total_timesteps:  # 6, one step of all lanes
        share = state.epsilon
        actions = parts.act(share)  # 7, 8
        parts.send(actions)  # 9

        after = state.steps + lanes.num_envs
        learner.set_learning_rate(state.step_size)
        while state.updates < updates_due(config, after) and replay.can_sample:
            batch = parts.sample()  # 12
            parts.update(batch)  # 13, 14
        if crossed(config.target.target_update_interval, state.steps, after):
            parts.update_target()  # 15

        step = parts.recv()  # 9, 10
        parts.store(actions, step)  # 11
        state.steps = after
        yield _progress(state, share, state.tracker.observe(step))
    parts.finish()


def _learn_from_rollouts(state: TrainingState) -> Iterator[TrainingProgress]:
    """Q(λ) without replay and target network: PQN, Gallici et al. (2025).

    https://arxiv.org/abs/2407.04811. All lanes play a rollout; then the network learns from it in a
    few passes. The targets are made from the Q-values that acting has computed anyway.
    """
    config, learner, lanes, replay = state.config, state.learner, state.lanes, state.replay
    parts = StepParts(state)
    while state.steps < config.schedule.total_timesteps:
        # Play a rollout.
        first_row = replay.rows_added
        played: list[Cells] = []
        values: list[NDArray[np.float32]] = []
        episodes: list[Episode] = []
        for _ in range(config.memory.rollout_steps):
            share = state.epsilon
            q_values = parts.q_values()
            actions = parts.explore(q_values, share)
            values.append(q_values.max(axis=1))
            parts.send(actions)
            step = parts.recv()
            played.append(parts.store(actions, step))
            episodes.extend(state.tracker.observe(step))
            state.steps += lanes.num_envs
        values.append(parts.q_values().max(axis=1))

        # Make the targets once, backwards from the rollout's end.
        targets = _rollout_targets(config, played, np.array(values[1:]))

        # Learn: several passes over the rollout, in shuffled batches.
        learner.set_learning_rate(state.step_size)
        usable = np.flatnonzero(~np.array([cells.reset for cells in played]))
        for _ in range(config.memory.num_epochs):
            for cell in _minibatches(config, usable, state.replay_rng):
                row, lane = np.divmod(cell, lanes.num_envs)
                parts.fit(parts.at(first_row + row, lane), targets[row, lane])
        yield _progress(state, share, tuple(episodes))


def _rollout_targets(
    config: TrainConfig, played: list[Cells], next_values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns a rollout's Q(λ) targets, float32 (T, E). Those of reset rows have no meaning."""
    reward = np.array([cells.reward for cells in played], dtype=np.float32)
    terminal = np.array([cells.terminal for cells in played])
    last = np.array([cells.last for cells in played])
    targets = lambda_targets(
        torch.from_numpy(np.sign(reward) if config.target.reward_clip else reward),
        torch.from_numpy(np.where(terminal, 0.0, config.target.gamma).astype(np.float32)),
        torch.from_numpy(next_values),
        torch.from_numpy(~last),
        config.target.q_lambda,
    )
    return targets.numpy()


def _minibatches(
    config: TrainConfig, usable: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Shuffles the usable cells of a rollout into batches of equal size.

    Because reset rows are not usable, a few cells are missing. The first shuffled cells then come
    twice.
    """
    count = config.rollout_batches * config.schedule.batch_size
    order = np.resize(rng.permutation(usable), count if len(usable) else 0)
    yield from order.reshape(-1, config.schedule.batch_size)


def _progress(
    state: TrainingState, share: float, episodes: tuple[Episode, ...]
) -> TrainingProgress:
    return TrainingProgress(
        steps=state.steps,
        updates=state.updates,
        epsilon=share,
        learning_rate=state.step_size,
        episodes=episodes,
        update=state.newest,
        seconds=state.seconds,
        figures=state.figures,
    )
