"""Breakout in the wrappers of other libraries, beside the same game in rlarcade."""

import ale_py
import gymnasium
import numpy as np

from rlarcade import Player, get_protocol
from rlarcade.playing.play import Scheduled, play_games

gymnasium.register_envs(ale_py)

SEED = 1
EMULATOR_SEED = int(np.random.SeedSequence(SEED).generate_state(2)[1])  # as ale_py derives it
RIGID = get_protocol("nature").model_copy(
    update={"name": "rigid", "max_noops": 0, "frame_cap": 1200, "evaluation_epsilon": 0.0}
)
"""No randomness: what ALE plays with frameskip 1 and `repeat_action_probability` 0."""


class Recorder(gymnasium.Wrapper):
    """Notes each action that reaches the emulator, for one frame each."""

    def __init__(self, env):
        super().__init__(env)
        self.actions, self.games = [], 0

    def reset(self, **settings):
        self.games += 1
        return self.env.reset(**settings)

    def step(self, action):
        self.actions.append(int(action))
        return self.env.step(action)


def raw_game(game="ALE/Breakout-v5", **settings):
    return Recorder(gymnasium.make(game, frameskip=1, repeat_action_probability=0.0, **settings))


def played_here(agent, game="breakout"):
    """Plays one game of an adapter's agent.

    Returns:
        The actions, and all that its network saw.
    """
    seen, act = [], agent.action
    agent.action = lambda frames, *rest: (seen.append(frames.copy()), act(frames, *rest))[1]
    player = Player(agent, game=game, protocol=RIGID)
    ((_, result),) = play_games([Scheduled(player, EMULATOR_SEED)], 1)
    assert result.failure is None
    return [action for action, _ in result.trace.steps], seen
