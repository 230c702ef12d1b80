"""Emulators that are kept for the next game, because starting one takes 0.2 s."""

import threading
from collections import deque

from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv

_MOST = 16


class Emulators:
    """Idle emulators. Many threads may take and give back."""

    def __init__(self, most: int = _MOST) -> None:
        self._idle: deque[GameEnv] = deque(maxlen=most)  # drops the oldest
        self._lock = threading.Lock()

    def take(self, game: str, protocol: Protocol, *, pictures: bool) -> GameEnv:
        """Returns an emulator; it starts one if none is idle.

        Args:
            game: ROM id.
            protocol: protocol of its games.
            pictures: whether it renders the screen in colour.
        """
        mode = "rgb_array" if pictures else None
        with self._lock:
            for env in self._idle:
                if (env.game, env.protocol, env.render_mode) == (game, protocol, mode):
                    self._idle.remove(env)
                    return env
        return GameEnv(game, protocol=protocol, render_mode=mode)

    def give(self, env: GameEnv) -> None:
        """Takes an emulator back. It must not have an unfinished step."""
        with self._lock:
            self._idle.append(env)

    def prepare(self, game: str, protocol: Protocol, number: int) -> None:
        """Starts emulators with pictures, so that the first spectators need not wait."""
        for env in [self.take(game, protocol, pictures=True) for _ in range(number)]:
            self.give(env)

    def close(self) -> None:
        """Ends all idle emulators."""
        with self._lock:
            self._idle.clear()
