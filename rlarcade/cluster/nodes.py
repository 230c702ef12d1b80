"""What must be the same on all machines, so that a game is the same on each of them."""

import hashlib
import platform
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import rlarcade
from rlarcade.checkpoint import library_versions
from rlarcade.errors import ConfigError

Facts = Mapping[str, str]
"""Versions by name, and `source`: a digest of rlarcade's source files."""


@cache
def facts_of_this_process() -> Facts:
    """Returns the versions that decide how a game goes here."""
    source = hashlib.sha256()
    folder = Path(rlarcade.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        source.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    python = {"Python": platform.python_version()}
    return python | library_versions() | {"source": source.hexdigest()[:12]}


def check_node(driver: Facts) -> str:
    """Requires that this node has the versions of the process that asks; returns the node's name.

    Raises:
        ConfigError: it has others.
    """
    node, here = socket.gethostname(), facts_of_this_process()
    names = [name for name in driver if driver[name] != here.get(name)]
    if names:
        told = ", ".join(
            f"{'the source of rlarcade' if name == 'source' else name} "
            f"{here.get(name, 'unknown')} instead of {driver[name]}"
            for name in names
        )
        raise ConfigError(
            f"node {node} has {told}. Games could differ there. Install the same versions on all "
            "nodes."
        )
    return node
