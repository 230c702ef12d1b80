"""A made-up emulator: it starts in no time, where ALE takes 0.07 s of a core for each seed.

`made_up_games` puts it below everything that rlarcade has over ALE: environments, lanes, players,
matches and commands are the real ones. What ALE and it have in common is tested in
tests/games/test_made_up_games.py.
"""

import random
from contextlib import contextmanager
from functools import cache

import ale_py
import numpy as np
import pytest

_HEIGHT, _WIDTH = 21, 16  # cells, of 4 x 4 points on the learner's screen and 10 x 10 on a TV
_LIVES = 12
_PADDLE = 4


class _Catch:
    """One game: a ball falls, the paddle below it moves.

    A catch is ten points, a miss costs a life.
    """

    def __init__(self, sticky: float, max_noops: int) -> None:
        self._rng = random.Random()
        self._sticky, self._max_noops = sticky, max_noops
        self.frame_number = 0

    def reset(self, seed: int) -> None:
        if seed >= 0:  # as ALE, which loads the game anew
            self._rng.seed(seed)
            self.frame_number = 0
        self.lives, self.episode_frame_number, self._action = _LIVES, 0, 0
        self._paddle = _WIDTH // 2
        self._drop()
        for _ in range(self._rng.randrange(self._max_noops) if self._max_noops else 0):
            self.frame(0)
        self._opened = self.episode_frame_number

    @property
    def frames_played(self) -> int:
        """Without the no-ops."""
        return self.episode_frame_number - self._opened

    def frame(self, action: int) -> int:
        """Plays one of 60 frames a second; returns the points."""
        self.frame_number += 1
        self.episode_frame_number += 1
        if self._rng.random() >= self._sticky:
            self._action = action
        if self.episode_frame_number % 4:
            return 0
        self._paddle = min(max(self._paddle + self._action % 3 - 1, 0), _WIDTH - _PADDLE)
        self._row += 1
        if self._row < _HEIGHT - 1:
            return 0
        caught = 0 <= self._column - self._paddle < _PADDLE
        self.lives -= not caught
        self._drop()
        return 10 if caught else 0

    def _drop(self) -> None:
        self._row, self._column = self._rng.randrange(_HEIGHT // 2), self._rng.randrange(_WIDTH)

    def draw(self, screen: np.ndarray) -> None:
        """Draws onto a black screen, (height, width) or (height, width, 3)."""
        high, wide = len(screen) // _HEIGHT, screen.shape[1] // _WIDTH
        screen[self._row * high :][:high, self._column * wide :][:, :wide] = (
            8 * self._row + self._column + 64
        )
        screen[-high:, self._paddle * wide :][:, : _PADDLE * wide] = 160
        screen[:high, : self.lives * wide] = 80
        # No two screens in a row are alike, and what they add up to can be any number.
        screen[0, -1] = (7 * self.episode_frame_number + self._paddle) % 251


class MadeUpEmulator:
    """Stands in for `ale_py.ALEVectorInterface`: several games in step, in NEXT_STEP mode."""

    def __init__(self, *, rom_path, num_envs, full_action_space, **settings) -> None:
        self._actions = _actions(str(rom_path), full_action_space)
        self._settings = settings
        self._games = [
            _Catch(settings["repeat_action_probability"], settings["noop_max"])
            for _ in range(num_envs)
        ]
        color = () if settings["grayscale"] else (3,)
        self._screens = np.zeros(
            (
                num_envs,
                settings["stack_num"],
                settings["img_height"],
                settings["img_width"],
                *color,
            ),
            dtype=np.uint8,
        )
        self._over = np.zeros(num_envs, dtype=bool)

    def get_action_set(self):
        return self._actions

    def reset(self, indices, seeds):
        for index, seed in zip(indices, seeds, strict=True):
            self._open(int(index), int(seed))
        return self._screens.copy(), self._info()

    def send(self, actions, paddle_strength) -> None:
        self._sent = [int(action) for action in actions]

    def recv(self):
        rewards = np.zeros(len(self._games), dtype=np.int32)
        terminated = np.zeros(len(self._games), dtype=bool)
        truncated = terminated.copy()
        for index, (game, action) in enumerate(zip(self._games, self._sent, strict=True)):
            if self._over[index]:
                self._open(index, -1)
                continue
            for _ in range(self._settings["frame_skip"]):
                rewards[index] += game.frame(action)
                truncated[index] = game.frames_played >= self._settings["max_episode_steps"]
                terminated[index] = not game.lives
                self._over[index] = terminated[index] or truncated[index]
                if self._over[index]:
                    break
            self._screens[index, :-1] = self._screens[index, 1:]
            self._show(index)
        return self._screens.copy(), rewards, terminated, truncated, self._info()

    def _open(self, index: int, seed: int) -> None:
        self._games[index].reset(seed)
        self._over[index] = False
        self._screens[index] = 0
        self._show(index)

    def _show(self, index: int) -> None:
        self._screens[index, -1] = 0
        self._games[index].draw(self._screens[index, -1])

    def _info(self):
        names = ("lives", "frame_number", "episode_frame_number")
        return {"env_id": np.arange(len(self._games), dtype=np.int32)} | {
            name: np.array([getattr(game, name) for game in self._games], dtype=np.int32)
            for name in names
        }


class MadeUpInterface:
    """Stands in for `ale_py.ALEInterface`: one game, whose states can be cloned."""

    setLoggerMode = staticmethod(ale_py.ALEInterface.setLoggerMode)

    def __init__(self) -> None:
        self._set = {}

    def setInt(self, name, value) -> None:
        self._set[name] = value

    setFloat = setInt

    def loadROM(self, path) -> None:
        self._path = str(path)
        self._game = _Catch(self._set["repeat_action_probability"], 0)
        self._game.reset(self._set["random_seed"])

    def reset_game(self) -> None:
        if self._game.frame_number:
            self._game.reset(-1)

    def getMinimalActionSet(self):
        return _actions(self._path, False)

    def act(self, action) -> int:
        return 0 if self.game_over() else self._game.frame(self.getMinimalActionSet().index(action))

    def lives(self) -> int:
        return self._game.lives

    def game_over(self, with_truncation=False) -> bool:
        return not self._game.lives

    def getEpisodeFrameNumber(self) -> int:
        return self._game.episode_frame_number

    def cloneState(self, include_rng=False):
        return {name: value for name, value in vars(self._game).items() if name != "_rng"}

    def restoreState(self, state) -> None:
        vars(self._game).update(state)
        self._game._rng.seed(str(state))  # the same state goes on in the same way

    def getScreenDims(self):
        return 4 * _HEIGHT, 160

    def getScreenGrayscale(self, screen) -> None:
        screen[:] = 0
        self._game.draw(screen)


@cache
def _actions(rom_path: str, all_of_them: bool):
    """The game's actions: those are ALE's."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.loadROM(rom_path)
    return ale.getLegalActionSet() if all_of_them else ale.getMinimalActionSet()


ALE = ale_py.ALEVectorInterface


def put_in_place(emulator, monkeypatch) -> None:
    """From now on games are played on this emulator, and none that was started before is used."""
    from rlarcade.playing import play

    single = MadeUpInterface if emulator is MadeUpEmulator else ale_py.ALEInterface
    monkeypatch.setattr(ale_py, "ALEVectorInterface", emulator)
    monkeypatch.setattr("rlarcade.games.simulator.ALEInterface", single)
    monkeypatch.setattr(play, "_idle", play._IdleEmulators())


@contextmanager
def emulator(which):
    """Plays games on this emulator for a while."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        put_in_place(which, monkeypatch)
        yield


@pytest.fixture(scope="module", autouse=True)
def made_up_games(request):
    """The games of a module's tests are made up, unless all of them are slow.

    `GAMES_OF = "Atari"` in a module, as where emulators are tested, makes its games real, too.
    """
    slow = request.node.get_closest_marker("slow")
    real = slow or getattr(request.module, "GAMES_OF", "made up") == "Atari"
    with emulator(ALE if real else MadeUpEmulator):
        yield


@pytest.fixture
def real_games(monkeypatch):
    """The games of one test are Atari's, in a module of made-up ones."""
    put_in_place(ALE, monkeypatch)


def short_game(game, *, protocol, render_mode):
    from rlarcade.games.single import GameEnv

    short = protocol.model_copy(update={"name": "short", "frame_cap": 400})
    env = GameEnv(game, protocol=short, render_mode=render_mode)
    env.protocol = protocol  # whose game it is taken for
    return env


@pytest.fixture
def short_games(monkeypatch):
    """Evaluations and matches cut every game off after 100 steps, where its score is not the point.

    A whole game of an untrained agent takes a second, longer than to train it.
    """
    from rlarcade.playing import play

    monkeypatch.setattr(play, "GameEnv", short_game)
    monkeypatch.setattr(play, "_idle", play._IdleEmulators())
