"""The one environment path: ALE's native vector environment under a protocol."""

from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rlarcade.errors import ActionError, ConfigError
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import SCREEN, STACK, Protocol, get_protocol


class GameVectorEnv(AtariVectorEnv):
    """`AtariVectorEnv` with a protocol, and with actions checked before they reach C++.

    Observations are uint8 (num_envs, 4, 84, 84), newest frame last; rewards are raw int32.
    Autoreset is NEXT_STEP: the step after an ending ignores its action and returns the first
    observation of the next episode, with reward 0.

    Attributes:
        game: ROM id.
        protocol: how it is played.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        protocol: str | Protocol = "v5",
        num_threads: int = 0,
        rgb: bool = False,
        every_frame: bool = False,
    ) -> None:
        """Starts `num_envs` emulators.

        Args:
            game: any spelling of a game's name.
            num_envs: how many games run side by side.
            protocol: how they are played.
            num_threads: emulator threads; 0 lets ALE choose. Never changes a trajectory.
            rgb: observations are single 210×160 RGB frames, uint8 (num_envs, 1, 210, 160, 3),
                of the very same game that the 84×84 environment plays under the same seeds.
            every_frame: a step is one frame of the emulator's 60 a second, not four of which the
                last two are merged. The same game if each action is given four times.

        Raises:
            GameError: unknown game.
            ConfigError: unknown protocol, or fewer than one environment.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, got {num_envs}.")
        self.game = resolve_game(game)
        self.protocol = get_protocol(protocol)
        picture: dict[str, Any] = (
            {"grayscale": False, "img_height": 210, "img_width": 160, "stack_num": 1}
            if rgb
            else {"grayscale": True, "img_height": SCREEN, "img_width": SCREEN, "stack_num": STACK}
        )
        settings = self.protocol.vector_env_settings() | picture
        if every_frame:
            settings |= {"frameskip": 1, "maxpool": False}
        super().__init__(
            self.game,
            num_envs,
            num_threads=num_threads,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            **settings,
        )

    @property
    def num_actions(self) -> int:
        """Number of actions of the game under this protocol."""
        return int(self.single_action_space.n)  # type: ignore[attr-defined]

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each action is called, such as ("NOOP", "FIRE", …)."""
        return tuple(str(action.name) for action in self.ale.get_action_set())

    def send(self, actions: NDArray[np.integer[Any]]) -> None:
        """Sends one action to each game; `recv` returns what happened.

        Raises:
            ActionError: wrong shape, not integers, or outside the action set. ALE itself would
                hang on such an action.
        """
        super().send(checked_actions(actions, self.num_envs, self.num_actions))


def checked_actions(actions: object, num_envs: int, num_actions: int) -> NDArray[np.int64]:
    """Returns the actions as int64 (num_envs,), or says what is wrong with them.

    Raises:
        ActionError: wrong shape, not integers, or outside 0 … num_actions - 1.
    """
    array = np.asarray(actions)
    if array.shape != (num_envs,):
        raise ActionError(
            f"{num_envs} games need actions of shape ({num_envs},), got shape {array.shape}."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise ActionError(
            f"actions must be integers from 0 to {num_actions - 1}, got {array.dtype} values."
        )
    outside = np.flatnonzero((array < 0) | (array >= num_actions))
    if outside.size:
        lane = int(outside[0])
        raise ActionError(
            f"action {array[lane]} for game {lane} is outside 0 … {num_actions - 1}. "
            "Was the policy made for another game or action set?"
        )
    return array.astype(np.int64, copy=False)


def make_vec_env(
    game: str, num_envs: int, *, protocol: str | Protocol = "v5", num_threads: int = 0
) -> GameVectorEnv:
    """Makes the vector environment that rlarcade itself trains and evaluates on.

    Args and errors are those of `GameVectorEnv`.
    """
    return GameVectorEnv(game, num_envs, protocol=protocol, num_threads=num_threads)
