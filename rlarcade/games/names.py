"""Names of games: resolves every common spelling to a ROM id."""

import difflib
import re
from functools import cache

from ale_py import roms

from rlarcade.checked import require
from rlarcade.errors import GameError
from rlarcade.text import quoted

_LONGEST_NAME = 100  # characters; the search for close names is slow for long names
MULTIPLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs of ALE without a single-player mode. Training on them is impossible."""

_ENV_ID_DECORATION = re.compile(r"(-ram)?(NoFrameskip|Deterministic)?(-v\d+)?$")


@cache
def all_games() -> tuple[str, ...]:
    """Returns the ROM ids of all single-player games of the Arcade Learning Environment."""
    return tuple(sorted(set(roms.get_all_rom_ids()) - MULTIPLAYER_ONLY))


def resolve_game(name: str) -> str:
    """Resolves a spelling of a game's name to its ROM id.

    `SpaceInvaders`, `space_invaders`, `space-invaders`, `ALE/SpaceInvaders-v5` and
    `SpaceInvadersNoFrameskip-v4` all mean `space_invaders`.

    Raises:
        GameError: the game is unknown or has no single-player mode. The message names close games.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise GameError(f"a game's name is a text such as 'SpaceInvaders', got {quoted(name)}.")
    key = _squash(_ENV_ID_DECORATION.sub("", name.strip().removeprefix("ALE/")))
    by_key = {_squash(game): game for game in (*all_games(), *MULTIPLAYER_ONLY)}
    game = by_key.get(key)
    if game in MULTIPLAYER_ONLY:
        raise GameError(
            f"game {quoted(name)} cannot be trained: its ROM has no single-player mode (the same "
            f"holds for {', '.join(sorted(MULTIPLAYER_ONLY - {game}))}). Choose another game."
        )
    if game is None:
        near = difflib.get_close_matches(key, by_key, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(display_name(by_key[k]) for k in near)}?" if near else ""
        raise GameError(
            f"unknown game {quoted(name)}. {hint or 'No name is close.'} "
            f"{len(all_games())} games are known, such as SpaceInvaders, Pong and Breakout."
        )
    return game


def display_name(game: str) -> str:
    """Returns the name that users know: `space_invaders` -> `SpaceInvaders`."""
    require(game, str, "a game", "'space_invaders'")
    return game.title().replace("_", "")


def _squash(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
