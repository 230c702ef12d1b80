"""Watched games of a version that looks ahead: it searches with simulators of its game."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ConfigError, GameError
from rlarcade.games.simulator import Mirror
from rlarcade.playing.players import Choice, View
from rlarcade.playing.search import SearchPlayer
from rlarcade.seeding import SeedUse, generator
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.stock import Stocked

MOST_SIMULATIONS = 64
"""Most simulations for each step. They take about 0.1 s of a core."""


class _Served:
    """A served version, as a search needs it."""

    def __init__(self, stock: Stocked) -> None:
        self.game, self.protocol, self.q_values = stock.game, stock.protocol, stock.agent.q_values
        checkpoint = stock.checkpoint
        self.trained_with = {} if checkpoint is None else checkpoint.manifest.config


class LookingAhead:
    """The search of one game. All calls are slow, so they are made in a thread.

    With the same seed, the game is that of `SearchPlayer` in an evaluation.
    """

    def __init__(self, stock: Stocked, simulations: int) -> None:
        """Prepares the search.

        Args:
            stock: the version that plays.
            simulations: simulations for each step, 1 to 64.

        Raises:
            Refusal: 409: no player can look ahead in its game or under its protocol.
        """
        try:
            self._player = SearchPlayer(_Served(stock), simulations=simulations)
        except (ConfigError, GameError) as error:
            raise Refusal(409, str(error)) from error
        self.simulations = simulations
        self._num_actions = stock.num_actions

    def begin(self, seed: int, info: dict[str, Any]) -> None:
        """Begins the game.

        Args:
            seed: seed of the session.
            info: what the reset of its environment returned.
        """
        self._mirror = Mirror.begun(self._player.game, self._player.protocol, info)
        self._memory = self._player.sit(generator(seed, SeedUse.POLICY, 0, 1))

    def choose(self, observation: NDArray[np.uint8]) -> Choice:
        """Chooses an action.

        Raises:
            Exception: whatever the agent raised.
        """
        state = self._mirror.state()
        view = View(observation, self._memory, self._num_actions, state=state)
        (choice,) = self._player.choose([view])
        if isinstance(choice, Exception):
            raise choice
        return choice

    def follow(self, action: int) -> None:
        """Follows the game by a step."""
        self._mirror.follow(action)
