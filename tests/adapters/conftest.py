"""The adapters of scripts/adapters can be imported, as from the working directory."""

import sys
from pathlib import Path

import pytest

ADAPTERS = Path(__file__).parents[2] / "scripts" / "adapters"


@pytest.fixture(autouse=True)
def _adapters(monkeypatch):
    monkeypatch.syspath_prepend(ADAPTERS)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A working directory with copies of the adapters, as the docs tell a user to make."""
    for path in ADAPTERS.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
