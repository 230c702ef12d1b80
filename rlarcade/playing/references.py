"""References to versions of a registry, which commands accept in place of checkpoint paths."""

import os
import re
from dataclasses import replace
from pathlib import Path

from rlarcade.checkpoint import Checkpoint
from rlarcade.learning.playable import load_playable

_REFERENCE = re.compile(r"[0-9]+|[a-z][a-z0-9_-]*@.+")  # a version's number, or alias@game


def is_reference(name: str) -> bool:
    """Whether a name means a version (`7`, `champion@pong`) and no file with that name exists."""
    # os.path.exists returns False for a name that is too long; pathlib would raise an error.
    return _REFERENCE.fullmatch(name) is not None and not os.path.exists(name)  # noqa: PTH110


def load_named(name: str | Path, registry: str | Path | None = None) -> Checkpoint:
    """Reads a checkpoint by its path, or a version by its number or as alias@game.

    Args:
        name: a path or a reference, as the user wrote it.
        registry: the registry's folder or address; None: `checkpoints/registry`.

    Returns:
        The checkpoint. For a version, its `path` is the reference.

    Raises:
        CheckpointError: the checkpoint does not exist or is damaged.
        RegistryError: the registry or the version does not exist, or the version is broken.
    """
    text = str(name)
    if not is_reference(text):
        return load_playable(name)
    # Imported here, because a path needs no database: SQLAlchemy takes a tenth of a second to load,
    # and training must run without it.
    from rlarcade.registry.registry import DEFAULT_REGISTRY, Registry

    with Registry.open(registry or DEFAULT_REGISTRY, create=False) as opened:
        number = re.fullmatch("[0-9]{1,18}", text)  # no version's number has more digits
        return replace(opened.load(int(text) if number else text), path=Path(text))
