"""The zoo: agents that come with rlarcade. `zoo:Pong` is a name wherever a checkpoint is named."""

import os
from pathlib import Path

from rlarcade.errors import CheckpointError
from rlarcade.games.names import display_name, resolve_game

_PREFIX = "zoo:"
_AGENTS = Path(__file__).parent / "agents"
"""A card's folder for each game, written by scripts/make_zoo.py."""
_MANIFEST = "manifest.json"  # checkpoint.py, which has the name, imports this module


def is_zoo_name(name: str | Path) -> bool:
    """Whether a name means an agent of the zoo, and no file with that name exists."""
    # os.path.exists returns False for a name that is too long; pathlib would raise an error.
    return str(name).startswith(_PREFIX) and not os.path.exists(name)  # noqa: PTH110


def zoo_name(game: str) -> str:
    """Returns the usual name of a game's agent: `space_invaders` -> `zoo:SpaceInvaders`."""
    return _PREFIX + display_name(game)


def zoo_games() -> tuple[str, ...]:
    """Returns the ROM ids of the games that the zoo has an agent for, in alphabetical order."""
    # A killed write leaves a hidden folder behind, such as .pong.writing.
    folders = (one for one in _AGENTS.iterdir() if not one.name.startswith("."))
    return tuple(sorted(one.name for one in folders if (one / _MANIFEST).is_file()))


def zoo_folder(name: str | Path) -> Path:
    """Returns the checkpoint's folder of an agent of the zoo.

    Args:
        name: such as `zoo:Pong`; the game may be spelled as everywhere else.

    Raises:
        GameError: the game is unknown.
        CheckpointError: no game is named, or the zoo has no agent for it.
    """
    games = zoo_games()
    known = ", ".join(map(zoo_name, games))
    asked = str(name).removeprefix(_PREFIX)
    if not asked:
        raise CheckpointError(f"{_PREFIX} names no game. The zoo has {known}.")
    game = resolve_game(asked)
    if game not in games:
        raise CheckpointError(
            f"the zoo has no agent for {display_name(game)}. Train one with `python -m "
            f"rlarcade.train --game {display_name(game)}`, or name one of these: {known}."
        )
    return _AGENTS / game
