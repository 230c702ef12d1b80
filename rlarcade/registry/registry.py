"""The registry: immutable versions, aliases that move forward and back, and an audit log.

Nothing is ever deleted or rewritten. Nothing in a registry from elsewhere is executed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel
from sqlalchemy import Connection, RowMapping, Select, select

from rlarcade.checked import path_of
from rlarcade.checkpoint import Checkpoint
from rlarcade.errors import RegistryError
from rlarcade.games.names import resolve_game
from rlarcade.registry import (
    aliases,
    audit,
    copying,
    export,
    registration,
    tables,
    verification,
    versions,
)
from rlarcade.registry.address import address_of
from rlarcade.registry.blobs import read_document
from rlarcade.registry.change import Change, DamagedVersionError
from rlarcade.registry.database import Alone
from rlarcade.registry.documents import (
    Alias,
    AliasMove,
    Event,
    MoveKind,
    Problem,
    Receipt,
    Version,
)
from rlarcade.registry.replay import CHAMPION
from rlarcade.registry.store import Store, default_actor, open_store

__all__ = ["CHAMPION", "DEFAULT_REGISTRY", "Registry", "default_actor"]

DEFAULT_REGISTRY = Path("checkpoints/registry")
_Model = TypeVar("_Model", bound=BaseModel)


class Registry:
    """Versions of agents, the aliases that say which are in use, and the log of every change.

    Many processes and threads may use it at once.

    Attributes:
        name: its folder or its address, for messages.
        folder: its folder; None: it is on a server.
        matches: folder on this machine for matches that are not finished yet.
    """

    def __init__(self, store: Store) -> None:
        """Use `open`."""
        self.name, self.folder, self.matches = store.name, store.folder, store.matches
        self._store, self._database, self._blobs = store, store.database, store.blobs

    @classmethod
    def open(cls, address: str | Path, *, create: bool = True, busy_seconds: float = 10.0) -> Self:
        """Opens a registry.

        Args:
            address: the registry's folder, or a PostgreSQL database that a team shares:
                `postgresql://USER@HOST:PORT/DATABASE?blobs=PLACE`. The first process to open it
                says where the blobs are: an absolute path that all machines share, or an address
                of fsspec such as `s3://BUCKET/FOLDER`.
            create: create the registry if it does not exist.
            busy_seconds: how long to wait for other writers.

        Raises:
            ConfigError: `address` is neither, or a library that it needs is missing.
            RegistryError: there is no registry, or one of an unknown format.
            UnusableRegistryError: it is damaged, locked or hostile, or cannot be used or reached.
        """
        return cls(open_store(address, create=create, busy_seconds=busy_seconds))

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Changes

    @contextmanager
    def change(self, actor: str | None = None) -> Iterator[Change]:
        """Begins a change: everything in the block happens with its audit entries, or nothing.

            with registry.change("anna") as change:
                change.move_alias("pong", "champion", 3, expected_generation=1, kind="force")

        The block is the registry's only writer meanwhile. If it raises, nothing was changed.

        Args:
            actor: recorded in the audit log; None: the user of this process.

        Raises:
            UnusableRegistryError: the database is locked, full, read-only or damaged.
            ValueError: the block changed rows and recorded nothing in the audit log.
        """
        with self._database.write() as connection:
            change = Change(connection, self._blobs, default_actor(actor))
            yield change
            change.require_recorded()

    def alone(self) -> Alone:
        """Returns the lock for the one server that drives the registry's rollouts."""
        return self._database.alone()

    def rows(self, *queries: Select[Any]) -> list[Sequence[RowMapping]]:
        """Returns the rows of each query, all from the same state of the database.

        Raises:
            RegistryError: the database is locked or damaged.
        """
        with self._database.read() as connection:
            return [connection.execute(query).mappings().all() for query in queries]

    # Versions

    def register(
        self, checkpoint: str | Path | registration.Candidate, *, actor: str | None = None
    ) -> Version:
        """Registers a checkpoint as a version. Equal weights are registered only once.

        Registering a checkpoint again repairs a version whose files were damaged.

        Args:
            checkpoint: a checkpoint's folder, a run folder for its newest checkpoint, or a
                checkpoint that `registration.read` has read.
            actor: recorded in the audit log; None: the user of this process.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, foreign or hostile.
            GameError: it was trained on a game that does not exist.
            RegistryError: the weights are registered with another game, action set or protocol, or
                the registry cannot be written.
        """
        if isinstance(checkpoint, registration.Candidate):
            candidate = checkpoint
        else:
            candidate = registration.read(checkpoint)
        number = registration.register(self._database, self._blobs, candidate, default_actor(actor))
        return self.version(number)

    def versions(self, game: str | None = None, *, archived: bool = False) -> list[Version]:
        """Returns the versions of one game or of all games, ordered by number.

        Args:
            game: any spelling of a game's name; None: all games.
            archived: include archived versions.

        Raises:
            GameError: the game does not exist.
            RegistryError: the database is damaged or cannot be read.
        """
        query = select(tables.versions).order_by(tables.versions.c.number)
        if game is not None:
            query = query.where(tables.versions.c.game == resolve_game(game))
        if not archived:
            query = query.where(tables.versions.c.archived.is_(False))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            return versions.documents(rows, versions.alias_rows(connection))

    def version(self, reference: int | str) -> Version:
        """Returns the version with this number, digest, beginning of a digest, or alias@game.

        Raises:
            GameError: the game after the @ does not exist.
            RegistryError: no version matches, or several do.
        """
        with self._database.read() as connection:
            return self._document(connection, versions.find(connection, reference).number)

    def _document(self, connection: Connection, number: int) -> Version:
        row = versions.by_number(connection, number)
        return versions.documents([row] if row else [], versions.alias_rows(connection))[0]

    def load(self, reference: int | str) -> Checkpoint:
        """Reads a version and checks its bytes; a damaged version is marked broken.

        Raises:
            GameError: the game after the @ does not exist.
            RegistryError: the version does not exist or is broken; the message then names the
                newest intact champion.
        """
        with self._database.read() as connection:
            row = versions.find(connection, reference)
        return verification.load(self._database, self._blobs, row, default_actor())

    def verify(self, reference: int | str | None = None) -> list[Problem]:
        """Checks every byte of one version or of all, and that nothing was altered by hand.

        Hashes the files again, and compares the rows with the manifests and with a replay of the
        audit log. A version with a problem is marked broken.

        Raises:
            GameError: the game after the @ does not exist.
            RegistryError: the version does not exist, or something cannot be read.
        """
        number = None
        if reference is not None:
            with self._database.read() as connection:
                number = versions.find(connection, reference).number
        return verification.verify(self._database, self._blobs, number, default_actor())

    def archive(self, reference: int | str, *, actor: str | None = None) -> Version:
        """Hides a version. It is kept and can still be loaded by its number.

        Raises:
            GameError: the game after the @ does not exist.
            RegistryError: the version does not exist, or an alias or a submission still uses it.
        """
        with self._database.write() as connection:
            row = versions.find(connection, reference)
            registration.archive(connection, row, default_actor(actor))
            return self._document(connection, row.number)

    # Aliases

    @contextmanager
    def _reading(self, game: str, name: str = CHAMPION) -> Iterator[tuple[Connection, str]]:
        """Connects to read about an alias; yields the connection and the game's own name.

        Raises:
            GameError: the game does not exist.
            RegistryError: the alias's name is invalid, or the database cannot be read.
        """
        game = resolve_game(game)
        versions.check_name(name)
        with self._database.read() as connection:
            yield connection, game

    def alias(self, game: str, name: str = CHAMPION) -> Alias | None:
        """Returns a game's alias; None if it does not exist or points to no version.

        Raises:
            GameError: the game does not exist.
            RegistryError: the name is invalid, or the database is damaged or cannot be read.
        """
        with self._reading(game, name) as (connection, game):
            return aliases.find(connection, game, name)

    def aliases(self, game: str | None = None) -> list[Alias]:
        """Returns the aliases of one game or of all games that point to a version.

        Raises:
            GameError: the game does not exist.
            RegistryError: the database is damaged or cannot be read.
        """
        game = None if game is None else resolve_game(game)
        with self._database.read() as connection:
            return aliases.find_all(connection, game)

    def generation(self, game: str, name: str = CHAMPION) -> int:
        """Returns how often an alias was moved: 0 if never, above 0 even if it was taken away.

        Raises:
            GameError: the game does not exist.
            RegistryError: the name is invalid, or the database is damaged or cannot be read.
        """
        with self._reading(game, name) as (connection, game):
            return aliases.generation(connection, game, name)

    def move_alias(
        self,
        game: str,
        name: str,
        version_number: int | None,
        *,
        expected_generation: int,
        kind: MoveKind,
        actor: str | None = None,
        reason: str | None = None,
        verdict: str | None = None,
    ) -> Alias | None:
        """Moves an alias in a change of its own; a damaged version is marked broken.

        Arguments, result and errors are those of `Change.move_alias`; `actor` is that of `change`.
        """
        try:
            with self.change(actor) as change:
                return change.move_alias(
                    game,
                    name,
                    version_number,
                    expected_generation=expected_generation,
                    kind=kind,
                    reason=reason,
                    verdict=verdict,
                )
        except DamagedVersionError as error:
            who = default_actor()
            verification.try_to_mark(self._database, error.number, error.wrong, who)
            raise

    def history(self, game: str, name: str = CHAMPION) -> list[AliasMove]:
        """Returns the moves of an alias, oldest first.

        Raises:
            GameError: the game does not exist.
            RegistryError: the name is invalid, or the audit log was altered or cannot be read.
        """
        with self._reading(game, name) as (connection, game):
            return aliases.history(connection, game, name)

    def previous_champions(self, game: str) -> list[Version]:
        """Returns the versions that `rollback` can return to, newest first.

        Raises:
            GameError: the game does not exist.
            RegistryError: the audit log was altered, or cannot be read.
        """
        with self._reading(game) as (connection, game):
            rows = aliases.previous(connection, game, CHAMPION)
            return versions.documents(rows, versions.alias_rows(connection))

    def rollback(
        self,
        game: str,
        *,
        to: int | str | None = None,
        actor: str | None = None,
        reason: str | None = None,
        expected_generation: int | None = None,
        name: str = CHAMPION,
    ) -> Alias:
        """Moves an alias back to an earlier version; a second call goes further back.

        Args:
            game: any spelling of the game's name.
            to: one of the earlier versions; None: the newest that is intact.
            actor: recorded in the audit log; None: the user of this process.
            reason: recorded in the audit log.
            expected_generation: generation of the alias that the caller read; None: the current
                one.
            name: the alias.

        Raises:
            GameError: the game does not exist.
            RegistryError: there is no earlier version to return to.
            StaleError: somebody else has moved the alias.
        """
        with self._reading(game) as (connection, game):
            found = aliases.generation(connection, game, name)
            if found == 0:
                raise RegistryError(
                    f"{game} never had a {name}, so there is no intact earlier version to roll "
                    "back to."
                )
            offered = [row.number for row in aliases.previous(connection, game, name)]
            if to is not None:
                offered = [versions.find(connection, to).number]
        number = (
            verification.first_whole(self._database, self._blobs, offered, default_actor())
            if to is None
            else offered[0]
        )
        if number is None:
            raise RegistryError(
                f"the {name} of {game} has no intact earlier version to roll back to. See "
                "`promote alias history`; any version can be promoted."
            )
        alias = self.move_alias(
            game,
            name,
            number,
            expected_generation=found if expected_generation is None else expected_generation,
            kind="rollback",
            actor=actor,
            reason=reason,
        )
        assert alias is not None  # it points to a version
        return alias

    # Documents

    def put_document(self, document: BaseModel) -> str:
        """Stores a document as canonical JSON.

        Returns:
            The document's digest.

        Raises:
            RegistryError: JSON cannot represent it, or the disk is full or cannot be written.
        """
        return self._blobs.put(audit.canonical_json(document.model_dump(mode="json")).encode())

    def get_document(self, digest: str, model: type[_Model]) -> _Model:
        """Reads a document and checks its bytes.

        Raises:
            UnusableRegistryError: it is missing, altered, or another kind of document.
        """
        return read_document(self._blobs, digest, model)

    # The audit log

    def events(self, since: int = 0, kinds: tuple[str, ...] = ()) -> Iterator[Event]:
        """Yields entries of the audit log, in order.

        Args:
            since: only entries after this sequence number.
            kinds: only entries of these kinds; empty: of all kinds.

        Raises:
            RegistryError: an entry was altered, or the database cannot be read.
        """
        with self._database.read() as connection:
            yield from audit.read(connection, since, kinds)

    def verify_audit(self, receipt: Receipt | None = None) -> Problem | None:
        """Finds the first entry of the audit log that was altered, is missing or out of place.

        Args:
            receipt: an earlier result of `audit_head`. Only a receipt reveals that the newest
                entries were cut off, or that the whole log was rewritten.

        Raises:
            RegistryError: the database cannot be read.
        """
        with self._database.read() as connection:
            problem = audit.first_problem(connection)
            if problem is None and receipt is not None:
                problem = audit.against(connection, receipt)
            return problem

    def audit_head(self) -> Receipt:
        """Returns a receipt of the current audit log, to be kept elsewhere.

        Raises:
            UnusableRegistryError: the log was altered, or cannot be read.
        """
        with self._database.read() as connection:
            return audit.head(connection)

    # One file

    def export(self, path: str | Path) -> None:
        """Writes all versions, documents, aliases and the audit log into one file.

        Others may use the registry during the export. A damaged version is marked broken, and its
        damaged files are left out.

        Raises:
            RegistryError: the file exists or cannot be written, or rows or the log were altered.
        """
        self._require_sound("exported")
        export.write(path_of(path, "an export"), self._database, self._blobs)

    def copy(self, address: str | Path, on_blob: Callable[[int], None] | None = None) -> None:
        """Copies the registry with all of its history to an empty place, and checks the copy.

        Others may use the registry meanwhile; what they change after the beginning is not copied.

        Args:
            address: as for `open`: a folder that does not exist yet, or an empty database.
            on_blob: called with the number of files that are copied, after each.

        Raises:
            ConfigError: `address` is no address.
            RegistryError: there is a registry with a history, or one of the two is damaged or
                cannot be used.
        """
        self._require_sound("copied")
        target = open_store(address)
        with closing(target.database):
            copying.copy(self._store, target, on_blob)

    def _require_sound(self, done: str) -> None:
        """Requires unaltered rows; marks damaged versions as broken."""
        verification.require_structure(self._database, done)
        self.verify()

    @classmethod
    def import_(cls, file: str | Path, folder: str | Path) -> Self:
        """Imports a file that `export` wrote, from any source, and opens the registry.

        Everything is checked before the folder appears under its final name.

        Raises:
            RegistryError: the file is not a registry's export, was altered or is hostile; or the
                folder is in use or cannot be written.
        """
        file, where = path_of(file, "an export"), address_of(folder)
        if not isinstance(where, Path):
            raise RegistryError(
                f"an export is imported into a folder, not into {where}. Import it into a new "
                "folder, then copy that one: `promote copy`."
            )
        export.import_(file, where)
        return cls.open(folder, create=False)
