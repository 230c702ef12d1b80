"""Checks that a recorded game is an agent's own: that the agent chose every action in it.

A game that reproduces proves its score, but not who played it. Anybody could record a better player
and write the agent's version beside it.
"""

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import RecordingError
from rlarcade.games.single import GameEnv
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.recordings import Recording, replayed
from rlarcade.seeding import SeedUse, generator

_ROWS = 256  # observations of one forward pass
# Share of a value's size by which the value of the recorded action may be below the largest one.
# Another processor rounds in other places; a GPU with TF32 differs by about 0.001.
_ROUNDING = 0.005


def check_own_game(agent: DQNAgent, recording: Recording, env: GameEnv | None = None) -> None:
    """Replays a recorded game, and checks every reward and every action.

    Each action must be the agent's greedy one or, where the seed of the game says that the
    protocol's ε decided, the random one that follows from the seed.

    Args:
        agent: the agent that is said to have played.
        recording: the game.
        env: environment of the same game and protocol to use. Unset: a new one.

    Raises:
        RecordingError: the game does not reproduce, or the agent would have played otherwise. The
            message names the step.
    """
    dice = generator(recording.episode.seed, SeedUse.POLICY)
    observations: list[NDArray[np.uint8]] = []
    taken: list[int] = []
    done = 0
    for observation, action in replayed(recording, env):
        observations.append(observation)
        taken.append(action)
        if len(taken) == _ROWS:
            _check(agent, recording, done, np.stack(observations), taken, dice)
            done += len(taken)
            observations, taken = [], []
    if taken:
        _check(agent, recording, done, np.stack(observations), taken, dice)


def _check(
    agent: DQNAgent,
    recording: Recording,
    first: int,
    observations: NDArray[np.uint8],
    taken: list[int],
    dice: np.random.Generator,
) -> None:
    """Checks the actions of some steps; `first` is the number of the first one."""
    epsilon = recording.protocol.evaluation_epsilon
    for place, (action, values) in enumerate(
        zip(taken, agent.q_values(observations), strict=True), start=first
    ):
        # As in `playing.play`: two numbers for each step, whether or not the step explores.
        explored = bool(dice.random() < epsilon)
        drawn = int(dice.integers(0, agent.num_actions))
        if explored and action != drawn:
            raise _foreign(recording, place, action, f"the seed draws action {drawn}")
        best = int(values.argmax())
        allowed = _ROUNDING * max(1.0, abs(float(values[best])))
        if not explored and not values[best] - values[action] <= allowed:  # False also for NaN
            raise _foreign(
                recording,
                place,
                action,
                f"the agent takes action {best}, whose value {values[best]:.3f} is larger than "
                f"{values[action]:.3f}",
            )


def _foreign(recording: Recording, step: int, action: int, why: str) -> RecordingError:
    return RecordingError(
        f"the game with seed {recording.episode.seed} was not played by this agent: at step {step} "
        f"action {action} was recorded, but {why}. The game, or the weights, were altered."
    )
