"""Emulators that tests share: each costs 0.07 s of a core to start, whatever is played on it.

A seeded reset loads the ROM anew, so what is played depends on seeds and actions alone; that this
holds for an emulator that was used before is tested where emulators are (tests/games,
tests/evaluation/test_play.py).
"""

import sys
from typing import Any

import pytest

from rlarcade.evaluation import play
from rlarcade.games import GameVectorEnv
from rlarcade.games.single import GameEnv

_FREE = 3
"""References to an emulator that nobody plays on: the list, the loop and the call that counts."""


class SharedEmulators:
    """Stands in for `GameVectorEnv`; gives the same one again once nobody holds it."""

    def __init__(self) -> None:
        self._started: dict[tuple[object, ...], list[GameVectorEnv]] = {}

    def __call__(self, game: str, num_envs: int, **settings: Any) -> GameVectorEnv:
        kind = (game, num_envs, *sorted(settings.items(), key=lambda item: item[0]))
        started = self._started.setdefault(kind, [])
        for env in started:
            if sys.getrefcount(env) == _FREE and not env._sent:
                return env
        env = GameVectorEnv(game, num_envs, **settings)
        started.append(env)
        return env

    def close(self) -> None:
        self._started.clear()


@pytest.fixture(scope="session")
def started_emulators():
    emulators = SharedEmulators()
    yield emulators
    emulators.close()


@pytest.fixture
def shared_emulators(started_emulators, monkeypatch):
    """Training plays on emulators that earlier tests started."""
    monkeypatch.setattr("rlarcade.games.lanes.GameVectorEnv", started_emulators)


@pytest.fixture(scope="session")
def idle_short_games():
    return play._IdleEmulators()


def _short_game(game, *, protocol, render_mode):
    short = protocol.model_copy(update={"name": "short", "frame_cap": 400})
    env = GameEnv(game, protocol=short, render_mode=render_mode)
    env.protocol = protocol  # whose game it is taken for
    return env


@pytest.fixture
def short_games(idle_short_games, monkeypatch):
    """Evaluations and matches cut every game off after 100 steps, where its score is not the point.

    A whole game of an untrained agent takes a second, longer than to train it.
    """
    monkeypatch.setattr(play, "GameEnv", _short_game)
    monkeypatch.setattr(play, "_idle", idle_short_games)
