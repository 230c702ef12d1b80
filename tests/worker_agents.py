"""Agents that worker processes make of checkpoints: the content of a checkpoint says which."""

import os
import signal
import time

import numpy as np
from registry_helpers import tiny
from serving_helpers import Favourite

from rlarcade.checkpoint import load_checkpoint

LOADER = "worker_agents:made"

CRASHING, NOT_A_NUMBER, SLEEPY, DEADLY, NEVER_LOADED, DEADLY_TO_LOAD = range(100, 700, 100)
"""Contents of checkpoints whose agents fail once a frame's first point is 255, or at once."""


def made(checkpoint):
    """Makes the agent; its favourite action is the last digit of the content, at most 5."""
    content = int(checkpoint.tensors["w"][0])
    kind = content // 100 * 100
    if kind == NEVER_LOADED:
        raise ZeroDivisionError("the network cannot be built")
    if kind == DEADLY_TO_LOAD:
        die()
    return Failing(kind, content % 6)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Failing(Favourite):
    """Fails when it is told to by an observation."""

    def __init__(self, kind, action):
        super().__init__(action)
        self.kind = kind

    def q_values(self, observation):
        values = super().q_values(observation)
        if not (observation[:, -1, 0, 0] == 255).any() or len(observation) > 32:  # not warming up
            return values
        if self.kind == CRASHING:
            raise ZeroDivisionError("the candidate fell over")
        if self.kind == SLEEPY:
            time.sleep(60)
        if self.kind == DEADLY:
            die()
        return values * np.float32("nan" if self.kind == NOT_A_NUMBER else 1)


def checkpoint_of(folder, content):
    return load_checkpoint(tiny(folder / f"content-{content}", content))
