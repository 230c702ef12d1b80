"""Agents that are quick, broken, slow or hungry for a button, and requests as clients send them."""

import asyncio
import threading
import time

import numpy as np

from rlarcade.games import get_protocol


class Favourite:
    """An agent that likes one action in every state, or the action that the frame tells."""

    def __init__(self, action=0, num_actions=6, name="favourite"):
        self.name, self.num_actions, self.action = name, num_actions, action
        self.calls: list[int] = []
        self.threads: set[int] = set()

    def q_values(self, observation):
        self.calls.append(len(observation))
        self.threads.add(threading.get_ident())
        values = np.zeros((len(observation), self.num_actions), dtype=np.float32)
        values[:, self.action] = 1
        values[:, -1] += observation[:, -1, 0, 0] / 1000  # tells one observation from another
        return values


class Crashing(Favourite):
    """Raises from the given call on; warming up takes six."""

    def __init__(self, after=6, **more):
        super().__init__(**more)
        self.after = after

    def q_values(self, observation):
        if len(self.calls) >= self.after:
            raise ZeroDivisionError("the candidate fell over")
        return super().q_values(observation)


class NotANumber(Favourite):
    """Returns NaN from the given call on."""

    def __init__(self, after=6, **more):
        super().__init__(**more)
        self.after = after

    def q_values(self, observation):
        bad = len(self.calls) >= self.after
        return super().q_values(observation) * (np.float32("nan") if bad else np.float32(1))


class Sleepy(Favourite):
    """Takes its time, from the given call on."""

    def __init__(self, seconds, after=6, **more):
        super().__init__(**more)
        self.seconds, self.after = seconds, after

    def q_values(self, observation):
        if len(self.calls) >= self.after:
            time.sleep(self.seconds)
        return super().q_values(observation)


class Held(Favourite):
    """Answers only once it is let go, after the calls that warm it up."""

    def __init__(self, after=6, **more):
        super().__init__(**more)
        self.after, self.go = after, threading.Event()

    def q_values(self, observation):
        if len(self.calls) >= self.after:
            assert self.go.wait(60)
        return super().q_values(observation)


def observations(count, start=0):
    """Different observations, uint8 (count, 4, 84, 84)."""
    made = np.zeros((count, 4, 84, 84), dtype=np.uint8)
    made[:, -1, 0, 0] = np.arange(start, start + count) % 256
    return made


def run(coroutine, seconds=120):
    """Runs a coroutine to its end, or fails after some seconds."""

    async def bounded():
        async with asyncio.timeout(seconds):
            return await coroutine

    return asyncio.run(bounded())


V5 = get_protocol("v5")
