"""The games in Gymnasium's registry: `gymnasium.make("rlarcade/SpaceInvaders-v5")`.

The ids are registered when `rlarcade.games` is imported. Gymnasium has no entry points for plugins
since 1.0, so that it cannot find them by itself.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import HumanRendering
from numpy.typing import NDArray

from rlarcade.errors import ConfigError
from rlarcade.foreign import from_extra
from rlarcade.games.names import all_games, display_name
from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv
from rlarcade.text import said

_LARGER = 3


def register_games() -> None:
    """Registers all games, as `rlarcade/NAME-v5`. A second call changes nothing."""
    for game in all_games():
        env_id = f"rlarcade/{display_name(game)}-v5"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="rlarcade.games.registration:registered_env",
                vector_entry_point="rlarcade.games.vector:GameVectorEnv",
                kwargs={"game": game},
            )


def registered_env(
    game: str, *, protocol: str | Protocol = "v5", render_mode: str | None = None
) -> gymnasium.Env[NDArray[np.uint8], np.int64]:
    """Makes a registered game.

    Args:
        game: ROM id.
        protocol: `v5`, `machado`, `nature`, or a `Protocol`.
        render_mode: as for `make_env`, or `human` for a window, drawn by Gymnasium's
            `HumanRendering`.

    Raises:
        ConfigError: unknown protocol or render mode, or no window can be opened.
    """
    if render_mode != "human":
        return GameEnv(game, protocol=protocol, render_mode=render_mode)
    _require_display()
    return HumanRendering(_Larger(GameEnv(game, protocol=protocol, render_mode="rgb_array")))


class _Larger(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Renders pictures three times larger: uint8 (630, 480, 3)."""

    def __init__(self, env: GameEnv) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def render(self) -> Any:
        picture: Any = self.env.render()
        return picture.repeat(_LARGER, axis=0).repeat(_LARGER, axis=1)


def _require_display() -> None:
    with from_extra("window", "render_mode='human' needs"):
        import pygame
    try:
        pygame.display.init()
    except pygame.error as error:
        raise ConfigError(
            f"no window can be opened here: {said(error)}. Use render_mode='rgb_array', or watch "
            "in a browser with python -m rlarcade.serve."
        ) from error
