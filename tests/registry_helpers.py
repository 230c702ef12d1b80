"""Tiny checkpoints, fixtures of a registry, and looks past the library at its files."""

import os
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest

from rlarcade.checkpoint import Counters, save_checkpoint
from rlarcade.games import get_protocol
from rlarcade.registry import tables
from rlarcade.registry.registry import Registry

DATA = Path(__file__).parent / "data"
EARLY, LATE = DATA / "space-invaders-early", DATA / "space-invaders-late"


ON_SERVERS: dict[Path, str] = {}
"""Registries whose tables are in PostgreSQL, and only their blobs in the folder: its addresses."""


def tiny(path: Path, content: int, game: str = "pong", **changes) -> Path:
    """A checkpoint whose weights follow from a number alone."""
    settings = {
        "game": game,
        "protocol": get_protocol("v5"),
        "num_actions": 6,
        "network": {"hidden_units": 3},
        "counters": Counters(steps=10, frames=40, updates=2),
        "config": {"game": game},
        "preset": "quick",
        "seed": 1,
    }
    save_checkpoint(path, {"w": np.array([content], dtype=np.int64)}, **settings | changes)
    return path


def sql(folder: Path, statement: str, *values) -> list[tuple]:
    """Runs a statement past the library, as somebody with an editor would."""
    if folder in ON_SERVERS:
        with psycopg.connect(ON_SERVERS[folder], autocommit=True) as connection:
            found = connection.execute(re.sub(r"\?", "%s", statement), values or None)
            return found.fetchall() if found.description is not None else []
    with closing(sqlite3.connect(folder / "registry.sqlite")) as database, database:
        return database.execute(statement, values).fetchall()


def columns_of(table: str) -> list[str]:
    return tables.metadata.tables[table].columns.keys()


def needs_untyped_columns(folder: Path) -> None:
    """Skips a test that puts a value of another type into a column."""
    if folder in ON_SERVERS:
        pytest.skip("a column of PostgreSQL takes only values of its type")


def blob_file(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest[:2] / digest


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def note(registry: Registry, kind: str, document=None, actor: str | None = None) -> None:
    """Writes an entry of the audit log that changes nothing else."""
    with registry.change(actor) as change:
        change.record(kind, {} if document is None else document)


def whole(registry: Registry) -> bool:
    return registry.verify() == [] and registry.verify_audit() is None


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
    return lambda content, game="pong", **changes: registry.register(
        tiny(tmp_path / f"{game}-{content}", content, game, **changes), actor="tester"
    )
