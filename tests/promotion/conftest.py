"""A registry, and tiny checkpoints to put into it."""

import os
import tempfile
from pathlib import Path

import pytest
from registry_helpers import tiny

from rlarcade.promotion.registry import Registry


@pytest.fixture
def tmp_path(tmp_path):
    """In memory, if there is such a folder: on a busy disk thousands of fsyncs take minutes."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "registry"


@pytest.fixture
def registry(folder):
    with Registry.open(folder) as opened:
        yield opened


@pytest.fixture
def add(registry, tmp_path):
    """Registers a tiny checkpoint."""
    return lambda content, game="pong": registry.register(
        tiny(tmp_path / f"{game}-{content}", content, game), actor="tester"
    )
