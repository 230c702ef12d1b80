"""The training loop is a generator: it learns, and its caller logs, saves and stops it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rlarcade.checked import require
from rlarcade.config import TrainConfig
from rlarcade.games.episodes import Episode
from rlarcade.games.lanes import LaneStep
from rlarcade.learning import hardware
from rlarcade.learning.frames import block_frames
from rlarcade.learning.learner import Update
from rlarcade.learning.replay import Cells
from rlarcade.learning.schedules import (
    crossed,
    epsilon,
    importance_exponent,
    learning_rate,
    n_steps,
    updates_due,
)
from rlarcade.learning.state import TrainingState
from rlarcade.learning.targets import lambda_targets


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where training stands after one step of all lanes."""

    steps: int
    """Agent steps, all lanes together."""
    updates: int
    """Gradient steps."""
    epsilon: float
    """Share of random actions in this step."""
    episodes: tuple[Episode, ...]
    """Games that ended with this step."""
    update: Update | None
    """The newest gradient step; None before the first."""
    seconds: dict[str, float]
    """Wall time since this process began training, by part: env, act, replay, learn."""


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
    hardware.use_determinism(state.config.machine.deterministic)  # another run may have changed it
    return learn(state)


def _learn_from_replay(state: TrainingState) -> Iterator[TrainingProgress]:
    """Deep Q-learning with experience replay, Mnih et al. (2015), Algorithm 1."""
    config, learner, lanes, replay = state.config, state.learner, state.lanes, state.replay
    clock = _Clock(state.seconds)
    # If the learner has its own processor, the emulators run while it learns. The order of events
    # is the same: actions are chosen before the update, and the step is stored after it.
    overlap = learner.device.type == "cuda"

    while state.steps < config.schedule.total_timesteps:
        clock.start()
        share = epsilon(config, state.steps)
        actions = learner.act(lanes.observation, share, state.explore_rng)
        if overlap:
            state.require_finite()  # the last step's updates: acting has waited for them
        frame, age = block_frames(lanes.observation[:, -1]), lanes.age
        clock.lap("act")
        lanes.send(actions)
        step = None if overlap else lanes.recv()
        clock.lap("env")

        after = state.steps + lanes.num_envs
        learner.set_learning_rate(learning_rate(config, state.steps))
        while state.updates < updates_due(config, after) and replay.can_sample:
            batch = replay.sample(
                config.schedule.batch_size,
                state.replay_rng,
                importance_exponent=importance_exponent(config, state.steps),
                n_steps=n_steps(config, state.steps),
            )
            batch = batch.to(learner.device)
            clock.lap("replay")
            state.learned(learner.update(batch), batch.reward)
            if not overlap or batch.cell is not None:  # priorities wait for the GPU anyway
                state.require_finite()
            clock.lap("learn")
            if batch.cell is not None:
                assert state.newest is not None
                replay.set_priorities(batch.cell, state.newest.error.cpu().numpy())
                clock.lap("replay")
        if crossed(config.target.target_update_interval, state.steps, after):
            learner.update_target()
            clock.lap("learn")

        if step is None:
            step = lanes.recv()
            clock.lap("env")
        replay.add(frame, _cells(config, actions, age, step))
        clock.lap("replay")
        state.steps = after
        yield _progress(state, share, state.tracker.observe(step))
    state.require_finite()


def _learn_from_rollouts(state: TrainingState) -> Iterator[TrainingProgress]:
    """Q(λ) without replay and target network: Gallici et al. (2025), PQN.

    https://arxiv.org/abs/2407.04811. All lanes play a rollout; then the network learns from it in a
    few passes. The targets are made from the Q-values that acting has computed anyway.
    """
    config, learner, lanes, replay = state.config, state.learner, state.lanes, state.replay
    clock = _Clock(state.seconds)
    rows = np.arange(config.memory.rollout_steps)

    while state.steps < config.schedule.total_timesteps:
        clock.start()
        first_row = replay.rows_added
        played: list[Cells] = []
        values: list[NDArray[np.float32]] = []
        episodes: list[Episode] = []
        for _ in rows:
            share = epsilon(config, state.steps)
            q_values = learner.q_values(lanes.observation)
            actions = learner.explore(q_values, share, state.explore_rng)
            values.append(q_values.max(axis=1))
            frame, age = block_frames(lanes.observation[:, -1]), lanes.age
            clock.lap("act")
            lanes.send(actions)
            step = lanes.recv()
            clock.lap("env")
            played.append(_cells(config, actions, age, step))
            replay.add(frame, played[-1])
            clock.lap("replay")
            episodes.extend(state.tracker.observe(step))
            state.steps += lanes.num_envs
        values.append(learner.q_values(lanes.observation).max(axis=1))
        clock.lap("act")

        targets = _rollout_targets(config, played, np.array(values[1:]))
        learner.set_learning_rate(learning_rate(config, state.steps))
        usable = np.flatnonzero(~np.array([cells.reset for cells in played]))
        for _ in range(config.memory.num_epochs):
            for cell in _minibatches(config, usable, state.replay_rng):
                row, lane = np.divmod(cell, lanes.num_envs)
                batch = replay.at(first_row + row, lane).to(learner.device)
                clock.lap("replay")
                target = torch.from_numpy(targets[row, lane]).to(learner.device)
                state.learned(learner.fit(batch.observation, batch.action, target), batch.reward)
                state.require_finite()
                clock.lap("learn")
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
        episodes=episodes,
        update=state.newest,
        seconds=state.seconds,
    )


def _cells(
    config: TrainConfig, actions: NDArray[np.int64], age: NDArray[np.int64], step: LaneStep
) -> Cells:
    terminal = step.terminated
    if config.target.terminal_on_life_loss:
        terminal = terminal | step.life_lost
    return Cells(
        action=actions.astype(np.uint8),
        reward=step.reward,
        terminal=terminal,
        last=step.terminated | step.truncated,
        reset=step.reset,
        age=np.minimum(age, 255).astype(np.uint8),
    )


class _Clock:
    """Sums wall time by part."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self._seconds[part] += now - self._since
        self._since = now
