"""Wherever a checkpoint is asked for, a version of a registry may be named in its place."""

import os
import re
from dataclasses import replace
from pathlib import Path

from rlarcade.checkpoint import Checkpoint
from rlarcade.learning.playable import load_playable

_REFERENCE = re.compile(r"[0-9]+|[a-z][a-z0-9_-]*@.+")  # a version's number, or alias@game


def is_reference(name: str) -> bool:
    """Whether a name means a version of a registry: `7`, `champion@pong`, and no such file."""
    # os.path: a name that is too long for a file is none.
    return _REFERENCE.fullmatch(name) is not None and not os.path.exists(name)  # noqa: PTH110


def load_named(name: str | Path, folder: Path | None = None) -> Checkpoint:
    """Reads a checkpoint by its path, or a version by its number or as alias@game.

    Args:
        name: what a user wrote.
        folder: of the registry; unset: `checkpoints/registry`.

    Returns:
        The checkpoint; a version's is called by the name that it was asked for.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        RegistryError: there is no registry or no such version, or it is broken.
    """
    text = str(name)
    if not is_reference(text):
        return load_playable(name)
    # Here, since whoever names a path needs no database.
    from rlarcade.promotion.registry import DEFAULT_REGISTRY, Registry

    with Registry.open(folder or DEFAULT_REGISTRY, create=False) as registry:
        number = re.fullmatch("[0-9]{1,18}", text)  # more digits are no number of a version
        return replace(registry.load(int(text) if number else text), path=Path(text))
