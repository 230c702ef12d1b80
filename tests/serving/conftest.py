"""A registry, tiny checkpoints to put into it, and a server without HTTP that follows it."""

import pytest
from registry_helpers import add, folder, registry, tmp_path

__all__ = ["add", "folder", "registry", "tmp_path"]


@pytest.fixture
def two_versions(registry, add):
    """The registry with champion 1 and candidate 2 of Pong."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    return registry


@pytest.fixture
def house(two_versions):
    """Champion 1 and candidate 2 of Pong; each likes its own action."""
    from serving_house import House  # here, because not every test of this folder needs a server

    return House(two_versions)
