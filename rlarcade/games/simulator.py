"""Emulators for players that look ahead: a mirror of the real game, and simulators of its future.

A mirror follows a game and gives its state away. A simulator starts from a state and has dice of
its own. The coins of the real game (the sticky actions that are still to come) are in the mirror's
random generator, which a state does not contain. So no player can see them.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from ale_py import Action, ALEInterface, ALEState, LoggerMode, roms
from numpy.typing import NDArray

from rlarcade.errors import GameError
from rlarcade.games.names import display_name, resolve_game
from rlarcade.games.protocols import FRAMESKIP, Protocol, get_protocol
from rlarcade.games.screens import shrunk
from rlarcade.games.vector import checked_action
from rlarcade.seeding import checked_seed

_NOT_CLONED = frozenset({"qbert", "tetris", "tic_tac_toe_3d"})
"""In these games, a screen may take longer than a frame. ale-py 0.12.1 does not keep in a state
whether a screen is unfinished, so the same state may go on in different ways."""


def check_cloned(game: str) -> None:
    """Requires that the states of a game can be cloned.

    Args:
        game: ROM id.

    Raises:
        GameError: the same state would go on in different ways.
    """
    if game in _NOT_CLONED:
        others = " and ".join(map(display_name, sorted(_NOT_CLONED - {game})))
        raise GameError(
            f"no player can look ahead in {display_name(game)}: ale-py does not clone its states "
            f"exactly (nor those of {others}). Choose another game."
        )


class GameState(NamedTuple):
    """What a simulator starts from."""

    emulator: ALEState
    """RAM, screen and timers, but no random generator."""
    action: int
    """The action of the step before, which a sticky frame repeats. It is no part of ALE's state."""


class SimulatedStep(NamedTuple):
    """Outcome of a step of a simulator."""

    frame: NDArray[np.uint8]
    """uint8 (84, 84), the newest frame of the observation. If the step ended the game, its pixels
    mean nothing."""
    reward: float
    """Raw points."""
    life_lost: bool
    over: bool


class Mirror:
    """Follows a game from its seed and its actions, frame by frame.

    Attributes:
        num_actions: number of actions under the protocol.
    """

    def __init__(
        self, game: str, protocol: str | Protocol, seed: int, *, first_frame: int = 0
    ) -> None:
        """Begins the game.

        Args:
            game: any spelling of a game's name.
            protocol: protocol of the game.
            seed: seed of the game's emulator, of 31 bits.
            first_frame: frames that the emulator counted when the game began. Those beyond its own
                are no-ops.

        Raises:
            GameError: unknown game.
            ConfigError: unknown protocol, or the seed is negative or not a whole number.
        """
        rules = get_protocol(protocol)
        self._emulator, self._actions = _emulator(game, rules, rules.sticky, checked_seed(seed))
        self.num_actions, self._action = len(self._actions), 0
        while self._emulator.getEpisodeFrameNumber() < first_frame:
            self._emulator.act(Action.NOOP)

    @classmethod
    def begun(cls, game: str, protocol: Protocol, info: dict[str, Any]) -> Self:
        """Begins the game that `make_env` has begun, from the info that its reset returned."""
        return cls(game, protocol, info["seed"], first_frame=info["episode_frame_number"])

    def follow(self, action: int) -> tuple[float, int]:
        """Plays a step that the game has played. Returns its reward and the lives that are left.

        Raises:
            ActionError: the action is outside the game's action set.
        """
        self._action = checked_action(action, self.num_actions)
        reward = 0
        for _ in range(FRAMESKIP):
            if self._emulator.game_over(with_truncation=False):
                break
            reward += self._emulator.act(self._actions[self._action])
        return float(reward), int(self._emulator.lives())

    def screen(self) -> NDArray[np.uint8]:
        """Returns the newest screen in colours, uint8 (lines, 160, 3)."""
        screen: NDArray[np.uint8] = self._emulator.getScreenRGB()
        return screen

    def state(self) -> GameState:
        """Returns the game's state, without the coins to come."""
        return GameState(self._emulator.cloneState(include_rng=False), self._action)


class Simulator:
    """Plays on from a state, with dice of its own.

    Attributes:
        num_actions: number of actions under the protocol.
    """

    def __init__(self, game: str, protocol: str | Protocol) -> None:
        """Starts an emulator.

        Args:
            game: any spelling of a game's name.
            protocol: protocol of the game.

        Raises:
            GameError: unknown game.
            ConfigError: unknown protocol.
        """
        rules = get_protocol(protocol)
        # Stickiness lives in ALE's instance: one that was restored would repeat an action of its
        # own past. So the instance has none, and the coins are drawn here.
        self._emulator, self._actions = _emulator(game, rules, 0.0, seed=0)
        self._sticky, self.num_actions = rules.sticky, len(self._actions)
        self._action = 0

    def restore(self, state: GameState) -> None:
        """Goes to a state."""
        self._emulator.restoreState(state.emulator)
        self._action = state.action

    def state(self) -> GameState:
        """Returns the present state."""
        return GameState(self._emulator.cloneState(include_rng=False), self._action)

    def step(self, action: int, rng: np.random.Generator) -> SimulatedStep:
        """Plays one action for four frames.

        Args:
            action: index of the action.
            rng: its next four numbers are the coins of the sticky actions.

        Raises:
            ActionError: the action is outside the game's action set.
        """
        chosen = checked_action(action, self.num_actions)
        emulator, lives, reward = self._emulator, self._emulator.lives(), 0
        screens = np.zeros((2, *emulator.getScreenDims()), dtype=np.uint8)
        for frame, coin in enumerate(rng.random(FRAMESKIP)):
            if coin >= self._sticky:
                self._action = chosen
            reward += emulator.act(self._actions[self._action])
            if emulator.game_over(with_truncation=False):
                break
            if frame >= FRAMESKIP - 2:
                emulator.getScreenGrayscale(screens[frame - FRAMESKIP])
        over = bool(emulator.game_over(with_truncation=False))
        return SimulatedStep(
            shrunk(screens.max(axis=0)), float(reward), emulator.lives() < lives, over
        )


def _emulator(
    game: str, rules: Protocol, sticky: float, seed: int
) -> tuple[ALEInterface, list[Action]]:
    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    emulator.setInt("random_seed", seed)
    emulator.setInt("frame_skip", 1)
    emulator.setFloat("repeat_action_probability", sticky)
    rom = roms.get_rom_path(resolve_game(game))
    assert rom is not None, "ale-py has the ROM of every game that it names"
    emulator.loadROM(rom)
    full = rules.full_action_space
    actions = emulator.getLegalActionSet() if full else emulator.getMinimalActionSet()
    emulator.reset_game()
    return emulator, list(actions)
