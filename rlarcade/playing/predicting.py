"""Offline inference: an agent's actions and values for stored observations or recorded games.

An agent gives an observation the same bits in every batch. So actions and values are those of step
by step play of the same observations, whatever the size of the batches.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, computed_field

from rlarcade.errors import PolicyError
from rlarcade.games.protocols import SCREEN, STACK, Protocol
from rlarcade.games.single import GameEnv
from rlarcade.learning.acting import not_finite
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.recordings import Recording, replayed


class Predictions(NamedTuple):
    """What an agent would do at N observations."""

    action: NDArray[np.int64]
    """int64 (N,): the greedy actions."""
    q_values: NDArray[np.float32]
    """float32 (N, A)."""


class TakenActions(NamedTuple):
    """The N steps of recorded games, in order."""

    game: NDArray[np.int64]
    """int64 (N,): index of the game in its document, as for `watch --episode`."""
    step: NDArray[np.int64]
    """int64 (N,): index of the step in its game."""
    taken: NDArray[np.int64]
    """int64 (N,): the recorded action, greedy or random."""

    @classmethod
    def of(cls, recordings: Mapping[int, Recording]) -> Self:
        """Reads the steps of recorded games.

        Args:
            recordings: the games by their index in the document.
        """
        traces = {i: r.episode.trace for i, r in recordings.items()}
        actions = {i: bytes(trace.actions) for i, trace in traces.items() if trace is not None}
        lengths = [len(one) for one in actions.values()]
        return cls(
            game=np.repeat(np.array([*actions], dtype=np.int64), lengths),
            step=np.concatenate([np.arange(length) for length in lengths]),
            taken=np.frombuffer(b"".join(actions.values()), dtype=np.uint8).astype(np.int64),
        )


class GameAgreement(BaseModel):
    """How often an agent would have done what was done in one recorded game."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    episode: int
    """Index of the game in its document, as for `watch --episode`."""
    player: str
    seed: int
    steps: int
    agreed: int
    """Steps at which the agent's greedy action was taken."""


class PredictionSummary(BaseModel):
    """Figures of an offline inference."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    checkpoint: str
    version: str
    game: str
    protocol: Protocol
    input: str
    observations: int
    actions: dict[str, int]
    """How often each action is the greedy one, by the actions' names."""
    mean_max_q: float
    """Mean of the largest Q-value of each observation."""
    games: tuple[GameAgreement, ...] = ()
    """Recorded games; none if the observations came from a file of their own."""
    seconds: float
    """Time that reading, replaying and predicting took."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def agreement(self) -> float | None:
        """Share of all steps of recorded games at which the greedy action was taken; else None."""
        agreed = sum(game.agreed for game in self.games)
        return agreed / self.observations if self.games else None


def agreements(
    recordings: Mapping[int, Recording], found: Predictions, taken: TakenActions
) -> tuple[GameAgreement, ...]:
    """Compares the predicted actions with the recorded ones, game by game.

    Args:
        recordings: the games by their index in the document.
        found: predictions for all their steps.
        taken: all their steps.
    """
    agreed = np.bincount(taken.game[found.action == taken.taken], minlength=max(recordings) + 1)
    return tuple(
        GameAgreement(
            episode=place,
            player=recording.player,
            seed=recording.episode.seed,
            steps=recording.episode.steps,
            agreed=int(agreed[place]),
        )
        for place, recording in recordings.items()
    )


def predict_batches(
    agent: DQNAgent,
    batches: Iterable[NDArray[np.uint8]],
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Values observations batch by batch; on a CPU, on all cores at once.

    Args:
        agent: the agent.
        batches: uint8 (B, 4, 84, 84) each. Few are read ahead.
        on_batch: called with the number of observations done.

    Raises:
        PolicyError: a Q-value is not finite.
    """
    found: list[NDArray[np.float32]] = [np.empty((0, agent.num_actions), dtype=np.float32)]
    done = 0
    for values in _valued(agent, batches):
        found.append(values)
        if not np.isfinite(values).all():
            raise PolicyError(
                f"{not_finite(np.concatenate(found), agent.name)}. Its weights are damaged, or its "
                "training diverged. Use an older checkpoint."
            )
        done += len(values)
        if on_batch is not None:
            on_batch(done)
    q_values = np.concatenate(found)
    return Predictions(q_values.argmax(axis=1), q_values)


def _valued(agent: DQNAgent, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
    """Yields the values of each batch, in order. The next batches are made meanwhile."""
    # One thread for each core, since a forward pass uses one. A GPU gains nothing from a second.
    workers = (os.cpu_count() or 1) if agent.device.type == "cpu" else 1
    waiting: deque[Future[NDArray[np.float32]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for batch in batches:
            waiting.append(pool.submit(agent.q_values, batch))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def replayed_batches(recordings: Iterable[Recording], rows: int) -> Iterator[NDArray[np.uint8]]:
    """Replays recorded games; yields their observations in order, uint8 (B, 4, 84, 84), B ≤ `rows`.

    Each observation is the one before an action. A batch may contain parts of several games.

    Args:
        recordings: the games, with their actions.
        rows: observations in a batch.

    Raises:
        RecordingError: a game does not reproduce.
    """
    batch = np.empty((rows, STACK, SCREEN, SCREEN), dtype=np.uint8)
    filled = 0
    env: GameEnv | None = None
    for recording in recordings:
        if env is None or (env.game, env.protocol) != (recording.game, recording.protocol):
            env = GameEnv(recording.game, protocol=recording.protocol)
        for observation, _ in replayed(recording, env):
            batch[filled] = observation
            filled += 1
            if filled == rows:
                yield batch
                batch, filled = np.empty_like(batch), 0
    if filled:
        yield batch[:filled]
