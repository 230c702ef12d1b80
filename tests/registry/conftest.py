"""A registry, and tiny checkpoints to put into it. Every test also runs on PostgreSQL.

A test that looks at SQLite's file, or at what only a folder has, says so: `store` returns "sqlite".
"""

import pytest
from postgres_server import database_url, fragile_server, own_server, server_url
from registry_helpers import ON_SERVERS, add, registry, tmp_path

from rlarcade.registry import registry as registry_module
from rlarcade.registry.store import open_store

__all__ = [
    "add",
    "database_url",
    "fragile_server",
    "own_server",
    "registry",
    "server_url",
    "tmp_path",
]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def store(request):
    """Where the tables of the test's registry are."""
    return request.param


@pytest.fixture
def address(tmp_path, store, request):
    """The address of the test's registry, for other processes, too."""
    folder = tmp_path / "registry"
    if store == "sqlite":
        return str(folder)
    url = request.getfixturevalue("database_url")
    return f"{url}?blobs={folder / 'blobs' / 'sha256'}"


@pytest.fixture
def folder(tmp_path, address, store, monkeypatch):
    """The folder of the test's registry. On PostgreSQL only its blobs are there."""
    path = tmp_path / "registry"
    if store == "postgres":

        def opened(given, **settings):
            return open_store(address if given == path else given, **settings)

        monkeypatch.setattr(registry_module, "open_store", opened)
        monkeypatch.setitem(ON_SERVERS, path, address.partition("?")[0])
    return path
