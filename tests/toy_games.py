"""Catch: a pixel game small enough to be learned in seconds; and what a state learned of it."""

import hashlib

import numpy as np

from rlarcade.games import LaneStep

_CELL = 12
_SIZE = 84 // _CELL  # 7 columns and rows


class CatchLanes:
    """A ball falls; the paddle below moves left, stays or moves right; +1 for a catch, -1 else.

    Perfect play scores +1 in every game, a random player about -0.7.
    """

    num_actions = 3

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        self.num_envs = num_envs
        self._rng = np.random.default_rng(seed)
        self._ball = np.zeros((num_envs, 2), dtype=int)  # row, column
        self._paddle = np.zeros(num_envs, dtype=int)
        self._ended = np.zeros(num_envs, dtype=bool)
        self.age = np.zeros(num_envs, dtype=np.int64)
        self.observation = np.zeros((num_envs, 4, 84, 84), dtype=np.uint8)

    def start(self, progress=None):
        self._open(np.ones(self.num_envs, dtype=bool))

    def send(self, actions):
        self._actions = actions

    def recv(self):
        reset, playing = self._ended, ~self._ended
        self._paddle = np.where(
            playing, np.clip(self._paddle + self._actions - 1, 0, _SIZE - 1), self._paddle
        )
        self._ball[playing, 0] += 1
        landed = playing & (self._ball[:, 0] == _SIZE - 1)
        caught = self._ball[:, 1] == self._paddle
        self.observation = np.roll(self.observation, -1, axis=1)
        self.observation[:, -1] = 0
        self._draw(playing)
        self._open(reset)
        self.age = np.where(reset, 0, self.age + 1)
        self._ended = landed
        never = np.zeros(self.num_envs, dtype=bool)
        return LaneStep(
            observation=self.observation,
            reward=np.where(landed, np.where(caught, 1.0, -1.0), 0.0).astype(np.float32),
            terminated=landed,
            truncated=never,
            life_lost=never,
            reset=reset,
        )

    def _open(self, lanes):
        count = int(lanes.sum())
        self._ball[lanes, 0] = 0
        self._ball[lanes, 1] = self._rng.integers(0, _SIZE, count)
        self._paddle[lanes] = _SIZE // 2
        self.observation[lanes] = 0
        self._draw(lanes)

    def _draw(self, lanes):
        for lane in np.flatnonzero(lanes):
            row, column = self._ball[lane] * _CELL
            self.observation[lane, -1, row : row + _CELL, column : column + _CELL] = 255
            left = self._paddle[lane] * _CELL
            self.observation[lane, -1, -_CELL // 2 :, left : left + _CELL] = 160


def weights_digest(state):
    """sha256 of the weights that a state's agent plays with."""
    digest = hashlib.sha256()
    for name, array in sorted(state.agent.weights().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
