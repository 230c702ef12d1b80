"""Plays a game with a checkpoint, step by step, and tells what it thinks on the way.

    python scripts/play_checkpoint.py checkpoints/space_invaders-quick-seed0 --seed 7

The games are those that `rlarcade evaluate` plays with the same seed: a starting point for looking
into an agent, or for putting something of your own in the place of its picture or its actions.
"""

import argparse

from rlarcade import DQNAgent, RlarcadeError, play_steps

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("checkpoint")
parser.add_argument("--episodes", type=int, default=1)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--every", type=int, default=100, help="steps between lines")
asked = parser.parse_args()

try:
    agent = DQNAgent.load(asked.checkpoint)
    for step in play_steps(agent, episodes=asked.episodes, seed=asked.seed):
        if step.number % max(1, asked.every) == 0:
            values = " ".join(f"{value:6.2f}" for value in step.q_values)
            chosen = f"{step.action}{' (random)' if step.explored else ''}"
            print(f"step {step.number:5d}  score {step.score:6.0f}  Q {values}  action {chosen}")
        if step.episode is not None:
            print(f"seed {step.seed}: {step.episode.score:g} points in {step.episode.steps} steps")
except RlarcadeError as error:
    parser.error(str(error))
