"""A registry's PostgreSQL database, which the machines of a team share.

Writers take turns: each takes an advisory lock before it reads what it will change. So the rules of
SQLite's one writer hold here, too.

If the connection is lost during a commit, the outcome is looked up, never guessed. Each change
leaves a random token in a table. The transaction's number would not do: after a crash, PostgreSQL
may give the number of a lost transaction to another one.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Engine,
    MetaData,
    RootTransaction,
    Table,
    Uuid,
    create_engine,
    delete,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, OperationalError

from rlarcade.errors import ConfigError, RegistryError, UnusableRegistryError
from rlarcade.foreign import from_extra
from rlarcade.registry import tables
from rlarcade.registry.address import ServerAddress
from rlarcade.registry.database import Database
from rlarcade.registry.sqlite import SqliteDatabase
from rlarcade.text import printable

OLDEST = 13
"""Oldest version of PostgreSQL: older ones do not tell whether a transaction has changed rows."""

_own = MetaData()
_commits = Table(
    "commits",
    _own,
    Column("token", Uuid, primary_key=True),
    Column("time", DateTime(timezone=True), nullable=False, index=True),
)
"""Tokens of the changes of the newest day. They belong to this database, not to the registry."""

_WRITER, _DRIVER = 0x726C6172, 0x726C6173  # with a hash of the schema's name, keys of locks
_IDLE_SECONDS = 120  # if a writer's machine dies, its lock is held for as long
_LOOK_UP_SECONDS = 60.0  # to reach the server again after a commit whose connection was lost
_PAUSE = 0.25
_PLACE = select(tables.meta.c.value).where(tables.meta.c.key == tables.PLACE_OF_BLOBS)
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}

_REMEDIES = {
    "22": "was given a value that it cannot store",
    "28": "refuses the user or the password. Fix them in the address, in PGPASSWORD or in "
    "~/.pgpass",
    "3D": "does not exist. Create the database first: createdb NAME",
    "25006": "can only be read: the server is a standby. Address the primary server",
    "3F": "names a schema that does not exist. Create it first: CREATE SCHEMA NAME",
    "42501": "does not let this user do that. Grant CREATE on its schema, and SELECT, INSERT, "
    "UPDATE and DELETE on its tables",
    "53100": "cannot grow: the server's disk is full. Free some space and repeat the command",
    "53": "has no room for another connection or no memory. Try again",
    "57": "ended the connection: the server is stopping or starting. Nothing was changed; repeat "
    "the command",
    "08": "cannot be reached. Check the address, the user, the server and the network",
    "XX": "is damaged. Restore the server's newest backup",
}
"""By the beginning of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

# A server in another language says it in other words; then the remedy is that of 08.
_REFUSED = {"3D000": 'database "', "28000": 'role "', "28P01": "password", "53300": "too many"}


class PostgresDatabase(Database):
    """The tables of a registry in the first schema of a PostgreSQL connection's search path."""

    def __init__(self, address: ServerAddress, busy_seconds: float) -> None:
        """Connects to nothing yet.

        Raises:
            ConfigError: psycopg is not installed, or the address has an unknown option.
        """
        self.name, self.busy_seconds = str(address), busy_seconds
        with from_extra("postgres", "a registry on PostgreSQL needs"):
            import psycopg  # noqa: F401
        who = f"rlarcade, process {os.getpid()} on {platform.node()}"
        self._engine: Engine = create_engine(
            address.url,
            pool_pre_ping=True,  # the server may have been restarted since
            isolation_level="REPEATABLE READ",
            connect_args={
                "application_name": who.encode("ascii", "replace").decode()[:63],
                "connect_timeout": max(2, round(busy_seconds)),
                "prepare_threshold": None,  # poolers such as PgBouncer may not keep statements
                **_KEEPALIVE,
            },
        )

    def close(self) -> None:
        """See `Database.close`."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """See `Database.read`."""
        with self.errors(), self._engine.connect() as opened:
            yield opened.execution_options(postgresql_readonly=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """See `Database.write`."""
        with self.errors(), self._turn() as connection:
            yield connection
            transaction = connection.get_transaction()
            assert transaction is not None
            self._commit(transaction, _signed(connection))

    @contextmanager
    def _turn(self) -> Iterator[Connection]:
        """Connects as the only writer; commits at the end, unless the block has done so."""
        with self._engine.connect() as opened:
            # Not REPEATABLE READ: what is read after the lock must include what was committed while
            # this writer waited for it.
            connection = opened.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                self._take_turn(connection)
                yield connection

    def _take_turn(self, connection: Connection) -> None:
        waiting = round(1000 * self.busy_seconds)
        connection.execute(text(f"SET LOCAL lock_timeout = {max(1, waiting)}"))
        idle = 1000 * _IDLE_SECONDS
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {idle}"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_key(_WRITER)})"))

    def _commit(self, transaction: RootTransaction, token: UUID | None) -> None:
        """Commits. If the connection is lost meanwhile, looks up whether it has happened.

        Args:
            transaction: the transaction.
            token: its token; None: it has changed nothing.
        """
        try:
            transaction.commit()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            if token is not None and not self._was_committed(token, error):
                raise UnusableRegistryError(
                    f"registry {self.name}: the connection was lost during the commit. The "
                    "database says that nothing was changed. Repeat the command."
                ) from error

    def _was_committed(self, token: UUID, lost: DBAPIError) -> bool:
        """Looks up whether a change was committed.

        Raises:
            UnusableRegistryError: nobody can tell, because the server cannot be reached.
        """
        until = time.monotonic() + _LOOK_UP_SECONDS
        while time.monotonic() < until:
            try:
                with self._engine.connect() as opened:
                    connection = opened.execution_options(isolation_level="READ COMMITTED")
                    self._take_turn(connection)  # the server may still be at work on the commit
                    query = select(_commits.c.token).where(_commits.c.token == token)
                    return connection.scalar(query) is not None
            except OperationalError:
                time.sleep(_PAUSE)
        raise UnusableRegistryError(
            f"registry {self.name}: the connection was lost during the commit, and the server "
            f"could not be asked within {_LOOK_UP_SECONDS:g} seconds whether it has happened. Look "
            "with `promote audit log` before you go on."
        ) from lost

    def _explained(self, error: BaseException | None) -> UnusableRegistryError:
        state = str(getattr(error, "sqlstate", None) or "")
        if not state:  # psycopg does not pass on why a server refused a connection
            state = next((code for code, said in _REFUSED.items() if said in str(error)), "")
        told = printable(str(error).strip().partition("\n")[0], 300)
        if state == "55P03":
            remedy = f"is in use by {self.holder(_WRITER)}. Try again when it has finished"
        elif not state and "NUL" in told:
            remedy = _REMEDIES["22"]
        elif not state:
            remedy = _REMEDIES["08"]
        else:
            remedies = (one for start, one in _REMEDIES.items() if state.startswith(start))
            remedy = next(
                remedies,
                "is damaged or was altered. For details run `promote verify --all`",
            )
        return UnusableRegistryError(f"registry {self.name} {remedy} ({told}).")

    def connected(self) -> Connection:
        """Returns a connection without a transaction, which its user closes."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def holder(self, lock: int) -> str:
        """Names the connection that holds a lock, if the server tells."""
        query = text(
            "SELECT application_name, usename FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND classid = :lock AND objid::bigint = "
            "(hashtext(current_schema())::bigint & 4294967295) AND datname = current_database() "
            "AND pid <> pg_backend_pid() LIMIT 1"
        )
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query, {"lock": lock}).first()
        except DBAPIError:
            row = None
        return "another process" if row is None else printable(f"{row[0]} (user {row[1]})", 200)

    def damage(self, connection: Connection) -> str | None:
        """See `Database.damage`. The server checks its own files; here, that the tables are."""
        missing = set(tables.metadata.tables) - set(_columns(connection))
        return f"it lacks {', '.join(sorted(missing))}" if missing else None

    def alone(self) -> "ServerLock":
        """See `Database.alone`."""
        return ServerLock(self)

    # Making and checking

    def set_up(self, *, create: bool) -> None:
        """See `Database.set_up`."""
        with self.read() as connection:
            self._require_server(connection)
            found = self._tables_found(connection)
        if not found and not create:
            raise RegistryError(
                f"{self.name} holds no registry. Create one by registering a checkpoint: `promote "
                "register CHECKPOINT`."
            )
        if set(tables.metadata.tables) <= found:
            return
        with self.errors(), self._turn() as connection:
            found = self._tables_found(connection)  # another process may have made them meanwhile
            _own.create_all(connection)
            tables.metadata.create_all(connection)
            if not found:
                row = {"key": "format", "value": tables.FORMAT}
                connection.execute(tables.meta.insert(), [row])

    def exists(self) -> bool:
        """Whether the database holds a registry.

        Raises:
            RegistryError: it holds something else, or cannot be reached.
        """
        with self.read() as connection:
            return bool(self._tables_found(connection))

    def kept_place(self) -> str | None:
        """Returns where the blobs are; None: nobody has said it, or there is no registry yet.

        Raises:
            RegistryError: the database holds something else, or cannot be reached.
        """
        with self.read() as connection:
            return connection.scalar(_PLACE) if self._tables_found(connection) else None

    def place_of_blobs(self, given: str | None) -> str:
        """Returns where the blobs are; the first process to open the registry says it.

        Args:
            given: the place in the address; None: it names none.

        Raises:
            ConfigError: nobody has said where they are, or the address says another place.
        """
        with self.read() as connection:
            kept = connection.scalar(_PLACE)
        if kept is None and given is not None:
            with self.write() as connection:
                kept = connection.scalar(_PLACE)
                if kept is None:
                    connection.execute(
                        tables.meta.insert(), [{"key": tables.PLACE_OF_BLOBS, "value": given}]
                    )
                    kept = given
        if kept is None:
            raise self.without_blobs()
        if given not in (None, kept):
            raise ConfigError(
                f"the blobs of registry {self.name} are in {printable(kept)}, not in "
                f"{printable(given)}. Leave blobs= out of the address."
            )
        return str(kept)

    def without_blobs(self) -> ConfigError:
        """Returns the error that nobody has said where the blobs are."""
        return ConfigError(
            f"registry {self.name} does not say where its blobs are. Add it to the address once: "
            "?blobs=/FOLDER/THAT/ALL/SHARE or ?blobs=s3://BUCKET/FOLDER."
        )

    def _require_server(self, connection: Connection) -> None:
        number = int(connection.scalar(text("SHOW server_version_num")) or 0)
        if number < OLDEST * 10_000:
            raise RegistryError(
                f"registry {self.name} is on PostgreSQL {number // 10_000}, and rlarcade needs "
                f"{OLDEST} or later. Upgrade the server."
            )

    def _tables_found(self, connection: Connection) -> set[str]:
        """Returns the names of the registry's tables; none for an empty schema.

        Raises:
            RegistryError: the schema belongs to another program, or has another format.
            UnusableRegistryError: a table has other columns.
        """
        found = _columns(connection)
        if not found:
            return set()
        ours = tables.metadata.tables
        if found.get(tables.meta.name) != _names(tables.meta):
            raise RegistryError(
                f"{self.name} is a database, but not a registry's. Use an empty one, or a schema "
                "of its own: ?options=-csearch_path%3DNAME."
            )
        query = select(tables.meta.c.value).where(tables.meta.c.key == "format")
        number = connection.scalar(query)
        if number != tables.FORMAT:
            raise RegistryError(
                f"registry {self.name} has format {number!r:.80}; this rlarcade reads format "
                f"{tables.FORMAT}. Install the rlarcade that wrote it."
            )
        wrong = sorted(
            name for name in found if name not in ours or found[name] != _names(ours[name])
        )
        if wrong:
            raise UnusableRegistryError(
                f"registry {self.name} was altered: it has tables that rlarcade did not create, or "
                f"not in this form: {printable(', '.join(wrong), 200)}. Remove or restore them."
            )
        return set(found)

    # Copies

    def copy_to(self, path: Path) -> None:
        """See `Database.copy_to`."""
        copy = SqliteDatabase(path, self.busy_seconds)
        try:
            copy.set_up(create=True)
            with self.read() as source, copy.write() as target:
                tables.copy_rows(source, target)
            copy.close_to_one_file()
        finally:
            copy.close()


class ServerLock:
    """An advisory lock, held by a connection of its own. The server frees it when that ends."""

    def __init__(self, database: PostgresDatabase) -> None:
        """Takes no lock yet."""
        self._database = database
        self._connection: Connection | None = None

    def holder(self) -> str | None:
        """See `database.Alone`. A lock that was lost with its connection is asked for again."""
        with self._database.errors():
            try:
                if self._connection is not None:
                    self._connection.execute(text("SELECT 1"))
                    return None
            except DBAPIError:
                self.close()
            connection = self._database.connected()
            if connection.scalar(text(f"SELECT pg_try_advisory_lock({_key(_DRIVER)})")):
                self._connection = connection
                return None
            connection.close()
        return self._database.holder(_DRIVER)

    def close(self) -> None:
        """See `database.Alone`."""
        if self._connection is not None:
            with suppress(DBAPIError):
                if not self._connection.invalidated:
                    self._connection.detach()  # the pool must not keep a connection with a lock
                    # The server notices only later that a connection has been closed.
                    self._connection.execute(text(f"SELECT pg_advisory_unlock({_key(_DRIVER)})"))
            with suppress(DBAPIError):
                self._connection.close()
            self._connection = None


def _key(lock: int) -> str:
    return f"{lock}, hashtext(current_schema())"


def _signed(connection: Connection) -> UUID | None:
    """Leaves a token in a transaction; returns it. None: the transaction has changed nothing."""
    if connection.scalar(text("SELECT pg_current_xact_id_if_assigned()::text")) is None:
        return None
    token = uuid4()
    now = func.now()
    connection.execute(delete(_commits).where(_commits.c.time < now - text("interval '1 day'")))
    connection.execute(_commits.insert().values(token=token, time=now))
    return token


def _names(table: Any) -> frozenset[str]:
    return frozenset(column.name for column in table.columns)


def _columns(connection: Connection) -> dict[str, frozenset[str]]:
    """Returns the columns of every table in the schema."""
    seen = inspect(connection)
    found = seen.get_multi_columns()
    return {
        name: frozenset(column["name"] for column in columns)
        for (_, name), columns in found.items()
        if name != _commits.name
    }
