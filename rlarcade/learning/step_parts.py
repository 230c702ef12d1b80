"""The parts of a training step: acting, playing, storing and learning, each one timed."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from rlarcade.config import TrainConfig
from rlarcade.games.lanes import LaneStep
from rlarcade.learning.frames import block_frames
from rlarcade.learning.replay import Batch, Cells
from rlarcade.learning.schedules import importance_exponent, n_steps
from rlarcade.learning.state import TrainingState


class StepParts:
    """Does the parts of a training step when the processors are free for them.

    On a GPU the emulators run while the learner learns: `send` starts them and `recv` waits for
    them. A loss is looked at after the next actions were chosen, because choosing waits for the GPU
    anyway. On a CPU the emulators and the learner take turns: `send` waits for the emulators, and
    each loss is looked at at once. The order of events is the same: actions are chosen before the
    updates, and the step is stored after them.

    Each part adds its wall time to `state.seconds`.
    """

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._overlap = state.learner.device.type == "cuda"
        self._step: LaneStep | None = None
        self._seen: tuple[NDArray[np.uint8], NDArray[np.int64]]
        self._since = 0.0

    def act(self, epsilon: float) -> NDArray[np.int64]:
        """Returns ε-greedy actions of all lanes, int64 (E,).

        Raises:
            DivergenceError: a Q-value, or the loss of the last update, is not finite.
        """
        state = self._state
        self._start()
        actions = state.learner.act(state.lanes.observation, epsilon, state.explore_rng)
        if self._overlap:
            state.require_finite()
        self._look()
        self._lap("act")
        return actions

    def q_values(self) -> NDArray[np.float32]:
        """Returns Q(s, ·) of all lanes, float32 (E, A)."""
        self._start()
        values = self._state.learner.q_values(self._state.lanes.observation)
        self._lap("act")
        return values

    def explore(self, q_values: NDArray[np.float32], epsilon: float) -> NDArray[np.int64]:
        """Returns ε-greedy actions for Q-values of all lanes, int64 (E,).

        Raises:
            DivergenceError: a Q-value is not finite.
        """
        actions = self._state.learner.explore(q_values, epsilon, self._state.explore_rng)
        self._look()
        self._lap("act")
        return actions

    def _look(self) -> None:
        """Keeps what `store` needs of the observations, which the next step replaces."""
        lanes = self._state.lanes
        self._seen = block_frames(lanes.observation[:, -1]), lanes.age

    def send(self, actions: NDArray[np.int64]) -> None:
        """Sends actions, int64 (E,), to the emulators."""
        self._state.lanes.send(actions)
        self._step = None if self._overlap else self._state.lanes.recv()
        self._lap("env")

    def recv(self) -> LaneStep:
        """Returns the outcome of the sent actions."""
        step = self._step
        if step is None:
            step = self._state.lanes.recv()
            self._lap("env")
        return step

    def store(self, actions: NDArray[np.int64], step: LaneStep) -> Cells:
        """Adds a step of all lanes to replay; returns its cells."""
        frame, age = self._seen
        cells = _cells(self._state.config, actions, age, step)
        self._state.replay.add(frame, cells)
        self._lap("replay")
        return cells

    def sample(self) -> Batch:
        """Draws transitions from replay, to the learner's device."""
        state, config = self._state, self._state.config
        batch = state.replay.sample(
            config.schedule.batch_size,
            state.replay_rng,
            importance_exponent=importance_exponent(config, state.steps),
            n_steps=n_steps(config, state.steps),
        ).to(state.learner.device)
        self._lap("replay")
        return batch

    def update(self, batch: Batch) -> None:
        """Takes a gradient step; with prioritised replay, tells it the transitions' new errors.

        Raises:
            DivergenceError: the loss is not finite.
        """
        state = self._state
        update = state.learner.update(batch)
        state.learned(update, batch.reward)
        if not self._overlap or batch.cell is not None:  # priorities wait for the GPU anyway
            state.require_finite()
        self._lap("learn")
        if batch.cell is not None:
            state.replay.set_priorities(batch.cell, update.error.cpu().numpy())
            self._lap("replay")

    def update_target(self) -> None:
        """Moves the target network towards the online one."""
        self._state.learner.update_target()
        self._lap("learn")

    def at(self, row: NDArray[np.int64], lane: NDArray[np.int64]) -> Batch:
        """Returns stored transitions by row and lane, both (B,), on the learner's device."""
        batch = self._state.replay.at(row, lane).to(self._state.learner.device)
        self._lap("replay")
        return batch

    def fit(self, batch: Batch, targets: NDArray[np.float32]) -> None:
        """Takes a gradient step towards given returns, float32 (B,).

        Raises:
            DivergenceError: the loss is not finite.
        """
        state = self._state
        target = torch.from_numpy(targets).to(state.learner.device)
        update = state.learner.fit(batch.observation, batch.action, target)
        state.learned(update, batch.reward)
        state.require_finite()
        self._lap("learn")

    def finish(self) -> None:
        """Looks at the loss of the last update.

        Raises:
            DivergenceError: it is not finite.
        """
        self._state.require_finite()

    def _start(self) -> None:
        self._since = time.perf_counter()

    def _lap(self, part: str) -> None:
        now = time.perf_counter()
        self._state.seconds[part] += now - self._since
        self._since = now


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
