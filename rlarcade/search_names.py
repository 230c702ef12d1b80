"""Names of players that look ahead: `search:CHECKPOINT`, `search,simulations=64,kind=iw:zoo:Pong`.

They are names of players, but not of checkpoints: such a player has access to the emulator.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"search(?:,(?P<options>[^:]*))?:(?P<agent>.*)", re.DOTALL)


class SearchName(NamedTuple):
    """The parts of such a name."""

    agent: str
    """Name of the agent that looks ahead."""
    options: tuple[tuple[str, str], ...]
    """Each option and its value, as they were written."""


def search_name(name: str | Path) -> SearchName | None:
    """Returns the parts of a name; None if it means something else, or a file with that name."""
    found = _NAME.fullmatch(str(name))
    # os.path.exists returns False for a name that is too long; pathlib would raise an error.
    if found is None or os.path.exists(name):  # noqa: PTH110
        return None
    written = found["options"]
    options = [] if written is None else [one.partition("=") for one in written.split(",")]
    return SearchName(found["agent"], tuple((key, value) for key, _, value in options))
