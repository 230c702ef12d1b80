"""A PostgreSQL server from the system's packages, and a new database for each test.

`RLARCADE_TEST_POSTGRES` names another server: postgresql://USER@HOST:PORT/DATABASE, whose user may
create databases.
"""

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

OTHER = "RLARCADE_TEST_POSTGRES"
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
_numbers = itertools.count()


class Server:
    """A server of one's own in a temporary folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._data = programs, folder / "data"
        self._socket = folder
        if os.geteuid() == 0:  # initdb and the server refuse root
            shutil.chown(folder, "nobody", "nogroup")
        # A locale that sorts as people do: rlarcade must not depend on it.
        locale = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
        who = ("-U", "postgres", "--auth=trust")
        self._run("initdb", "-D", str(self._data), *who, "--encoding=UTF8", "--no-sync", *locale)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.start()

    def _run(self, program: str, *flags: str) -> None:
        unprivileged = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
        as_nobody = unprivileged if os.geteuid() == 0 else ()
        command = [*as_nobody, str(self._programs / program), *flags]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd="/", timeout=120
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self._socket,
            "fsync": "off",  # the machine itself is not crashed here
        }
        given = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = ("-l", str(self._data / "log"))
        self._run("pg_ctl", "-D", str(self._data), "-w", *log, "-o", given, "start")

    def runs(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def stop(self, mode: str = "immediate") -> None:
        """Stops it; "immediate" is a crash, after which it recovers when it starts."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; of several versions, the newest."""
    found = [path for place in _PLACES for path in Path("/").glob(place[1:])]
    with_initdb = [path for path in found if (path / "initdb").exists()]
    return max(
        with_initdb, key=lambda path: float(path.parent.name.strip("pgsql-") or 0), default=None
    )


@pytest.fixture(scope="session")
def own_server():
    """A server for the tests of this process."""
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="rlarcade-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = Server(where, Path(folder))
        yield server
        server.stop()


@pytest.fixture
def fragile_server(own_server):
    """A server that the test may stop and start."""
    yield own_server
    if not own_server.runs():
        own_server.start()


@pytest.fixture(scope="session")
def server_url(request):
    """The address of a server, which no test stops."""
    return os.environ.get(OTHER) or request.getfixturevalue("own_server").url


def new_database(url: str) -> str:
    """Makes an empty database; returns its address."""
    name = f"rlarcade_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    before = conninfo_to_dict(url)["dbname"]
    assert url.endswith(f"/{before}"), "the address of the test server ends with its database"
    return f"{url.removesuffix(str(before))}{name}"


def drop_database(url: str, database: str) -> None:
    """Removes a database, also from under open connections."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {database.rpartition('/')[2]} WITH (FORCE)")


@pytest.fixture
def database_url(server_url):
    """The address of an empty database."""
    made = new_database(server_url)
    yield made
    drop_database(server_url, made)
