"""The registry: immutable versions, aliases that move forward and back, and a log of it all.

REGISTRY/
  registry.sqlite            versions, aliases, audit log
  blobs/sha256/ab/abcd…      weights, manifests and documents, named by their digests

Blobs are written before the transaction that names them, so a version that is listed is there.
Nothing is ever deleted, and nothing of a stranger's registry is executed.
"""

import getpass
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, Row, select

from rlarcade.checkpoint import Checkpoint, load_checkpoint, parse_tensors, sync_folder
from rlarcade.errors import CheckpointError, RegistryError
from rlarcade.games.names import resolve_game
from rlarcade.promotion import aliases, audit, registration, tables, versions
from rlarcade.promotion.blobs import Blobs, DamagedBlobError, sha256
from rlarcade.promotion.database import DATABASE, Database
from rlarcade.promotion.documents import Alias, AliasMove, Event, MoveKind, Problem, Version

CHAMPION = "champion"
DEFAULT_REGISTRY = Path("checkpoints/registry")
_OWN_KINDS = frozenset({*aliases.MOVES, "register", "repair", "broken", "archive"})
_Model = TypeVar("_Model", bound=BaseModel)


class Registry:
    """A folder of versions. Many processes and threads may use it at once."""

    def __init__(self, folder: Path, database: Database) -> None:
        """Use `Registry.open`."""
        self.folder = folder
        self._database = database
        self._blobs = Blobs(folder / "blobs" / "sha256")

    @classmethod
    def open(cls, folder: Path, *, create: bool = True, busy_seconds: float = 10.0) -> "Registry":
        """Opens a registry.

        Args:
            folder: where it is.
            create: make one where none is yet.
            busy_seconds: how long to wait for others that are writing.

        Raises:
            RegistryError: there is none, it has an unknown format, is damaged, or runs code of its
                own; or the folder cannot be written.
        """
        path = folder / DATABASE
        if not create and not path.exists():
            raise RegistryError(
                f"{folder} holds no registry. Name its folder with --registry, or make one by "
                "registering a checkpoint: `promote register CHECKPOINT`."
            )
        try:
            (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            sync_folder(folder)
            database = Database(path, busy_seconds)
            with _closed_on_error(database):
                database.set_up()
        except OSError as error:
            raise RegistryError(
                f"registry {folder} cannot be used: {error.strerror}. Choose another folder with "
                "--registry, or mend its permissions."
            ) from error
        return cls(folder, database)

    def close(self) -> None:
        """Closes its files."""
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

    # Versions

    def register(self, path: str | Path, *, actor: str | None = None) -> Version:
        """Makes a checkpoint a version. The same weights twice are one version.

        Registering it again mends a version whose files were damaged.

        Args:
            path: a checkpoint's folder, or a run folder, which means its newest.
            actor: who does it; unset: the user of this process.

        Raises:
            CheckpointError: nothing is there, or it is damaged, foreign or hostile.
            GameError: it was trained on a game that does not exist.
            RegistryError: the weights are registered as something else, or the registry cannot be
                written.
        """
        checkpoint = load_checkpoint(path)
        weights, manifest = registration.read_files(checkpoint)
        record = versions.described(checkpoint.manifest, sha256(manifest))
        record |= {"weights_bytes": len(weights), "source": audit.storable(str(path))}
        with self._database.read() as connection:
            row = versions.by_digest(connection, record["digest"])
        damaged = row is not None and versions.damage(self._blobs, row) is not None
        self._blobs.put(weights)
        self._blobs.put(manifest)
        with self._database.write() as connection:
            row = versions.by_digest(connection, record["digest"])
            if row is None:
                number = registration.add(connection, record, default_actor(actor))
                return self._document(connection, number)
            registration.check_same(row, record)
            if damaged or row.broken_reason is not None:
                registration.mend(connection, self._blobs, row, record, default_actor(actor))
            return self._document(connection, row.number)

    def versions(self, game: str | None = None, *, archived: bool = False) -> list[Version]:
        """Returns the versions by number, of one game or of all.

        Args:
            game: any spelling of it.
            archived: archived ones too.

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
        """Returns the version that a number, a digest, the beginning of one or alias@game means.

        Raises:
            GameError: the game behind the @ does not exist.
            RegistryError: none is meant, or several.
        """
        with self._database.read() as connection:
            return self._document(connection, versions.find(connection, reference).number)

    def _document(self, connection: Connection, number: int) -> Version:
        row = versions.by_number(connection, number)
        return versions.documents([row] if row else [], versions.alias_rows(connection))[0]

    def load(self, reference: int | str) -> Checkpoint:
        """Reads a version and checks its bytes; one that is damaged is marked broken.

        Raises:
            GameError: the game behind the @ does not exist.
            RegistryError: there is no such version, or it is broken; with the newest champion to
                use in its place.
        """
        with self._database.read() as connection:
            row = versions.find(connection, reference)
        wrong = row.broken_reason
        if wrong is None:
            try:
                weights, manifest = versions.read_version(self._blobs, row)
                where = self._blobs.path(row.digest)
                return Checkpoint(where, manifest, parse_tensors(weights, where))
            except (DamagedBlobError, CheckpointError) as error:
                wrong = str(error)
            with suppress(RegistryError):  # what is wrong is told even if it cannot be noted
                self._break(row.number, wrong)
        raise RegistryError(
            f"version {row.number} is broken: {wrong}. {self._instead(row)} Registering its "
            "checkpoint again mends it."
        )

    def _break(self, number: int, reason: str) -> None:
        with self._database.write() as connection:
            registration.mark_broken(connection, number, reason, default_actor())

    def _instead(self, row: Row[Any]) -> str:
        with suppress(RegistryError), self._database.read() as connection:
            champion = aliases.find(connection, row.game, CHAMPION)
            rows = aliases.previous(connection, row.game, CHAMPION)
            now = champion and versions.by_number(connection, champion.version)
            for other in [now, *rows] if isinstance(now, Row) else rows:
                sound = other.number != row.number and other.broken_reason is None
                if sound and versions.damage(self._blobs, other) is None:
                    return f"Use version {other.number}, the newest whole champion of {row.game}."
        return f"No other champion of {row.game} is whole."

    def archive(self, reference: int | str, *, actor: str | None = None) -> Version:
        """Hides a version. It is kept, and can still be loaded by its number.

        Raises:
            GameError: the game behind the @ does not exist.
            RegistryError: there is no such version, or an alias or a submission still uses it.
        """
        with self._database.write() as connection:
            row = versions.find(connection, reference)
            registration.archive(connection, row, default_actor(actor))
            return self._document(connection, row.number)

    # Aliases

    def alias(self, game: str, name: str = CHAMPION) -> Alias | None:
        """Returns where a game's alias points; None if nowhere.

        Raises:
            GameError: the game does not exist.
            RegistryError: the database is damaged or cannot be read.
        """
        game = resolve_game(game)
        with self._database.read() as connection:
            return aliases.find(connection, game, name)

    def aliases(self, game: str | None = None) -> list[Alias]:
        """Returns the aliases that point to a version, of one game or of all.

        Raises:
            GameError: the game does not exist.
            RegistryError: the database is damaged or cannot be read.
        """
        game = None if game is None else resolve_game(game)
        with self._database.read() as connection:
            return aliases.find_all(connection, game)

    def generation(self, game: str, name: str = CHAMPION) -> int:
        """Returns how often an alias was moved; 0 if never, more even if it points nowhere now.

        Raises:
            GameError: the game does not exist.
            RegistryError: the database is damaged or cannot be read.
        """
        game = resolve_game(game)
        with self._database.read() as connection:
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
        connection: Connection | None = None,
    ) -> Alias | None:
        """Moves an alias, if nobody has since it was looked at (compare-and-swap).

        Args:
            game: any spelling of it.
            name: the alias; it is made if there is none.
            version_number: where it is to point; None: nowhere.
            expected_generation: the alias's when it was looked at; 0 if there was none.
            kind: what the move is.
            actor: who does it; unset: the user of this process.
            reason: why.
            verdict: digest of the document (`put_document`) that the move rests on.
            connection: of an open `transaction`, to be part of it.

        Returns:
            The alias as it is now; None if it points nowhere.

        Raises:
            GameError: the game does not exist.
            RegistryError: the version does not exist, is broken or archived or of another game.
            StaleError: somebody else has moved it.
        """
        game = resolve_game(game)
        if verdict is not None and not self._blobs.path(verdict).is_file():
            raise RegistryError(
                f"the registry has no document {verdict[:12]}… for a move to rest on. Keep it with "
                "put_document first."
            )
        with self._joined(connection) as joined:
            return aliases.move(
                joined,
                game,
                name,
                version_number,
                expected_generation=expected_generation,
                kind=kind,
                actor=default_actor(actor),
                reason=None if reason is None else audit.storable(reason),
                verdict=verdict,
            )

    def _joined(self, connection: Connection | None) -> AbstractContextManager[Connection]:
        return self._database.write() if connection is None else nullcontext(connection)

    def history(self, game: str, name: str = CHAMPION) -> list[AliasMove]:
        """Returns the moves of an alias, oldest first.

        Raises:
            GameError: the game does not exist.
            RegistryError: the audit log was altered, or cannot be read.
        """
        game = resolve_game(game)
        with self._database.read() as connection:
            return aliases.history(connection, game, name)

    def previous_champions(self, game: str) -> list[Version]:
        """Returns the versions that `rollback` offers, newest first.

        Raises:
            GameError: the game does not exist.
            RegistryError: the audit log was altered, or cannot be read.
        """
        game = resolve_game(game)
        with self._database.read() as connection:
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
        """Moves an alias back to where it pointed before; twice goes further back.

        Args:
            game: any spelling of it.
            to: which of the versions before; unset: the newest that is not broken.
            actor: who does it; unset: the user of this process.
            reason: why.
            expected_generation: the alias's when it was looked at; unset: whatever it is.
            name: the alias.

        Raises:
            GameError: the game does not exist.
            RegistryError: there is nothing to go back to.
            StaleError: somebody else has moved it.
        """
        game = resolve_game(game)
        with self._database.write() as connection:
            offered = [row.number for row in aliases.previous(connection, game, name)]
            if to is not None:
                number = versions.find(connection, to).number
            elif offered:
                number = offered[0]
            else:
                raise RegistryError(
                    f"the {name} of {game} has no sound version before it to roll back to. See "
                    "`promote alias history`; any version can be promoted."
                )
            generation = aliases.generation(connection, game, name)
            alias = aliases.move(
                connection,
                game,
                name,
                number,
                expected_generation=(
                    generation if expected_generation is None else expected_generation
                ),
                kind="rollback",
                actor=default_actor(actor),
                reason=None if reason is None else audit.storable(reason),
            )
        assert alias is not None  # it points to a number
        return alias

    # Documents and the audit log

    def put_document(self, document: BaseModel) -> str:
        """Keeps a document as canonical JSON.

        Returns:
            Its digest.

        Raises:
            RegistryError: it holds what JSON cannot say, or the disk is full or cannot be written.
        """
        return self._blobs.put(audit.canonical_json(document.model_dump(mode="json")).encode())

    def get_document(self, digest: str, model: type[_Model]) -> _Model:
        """Reads a document and checks its bytes.

        Raises:
            RegistryError: there is none, it was altered, or it is of another kind.
        """
        try:
            return model.model_validate_json(self._blobs.get(digest))
        except DamagedBlobError as error:
            raise RegistryError(
                f"document {digest[:12]}… cannot be read: {error}. Import the newest export of the "
                "registry into another folder."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise RegistryError(
                f"document {digest[:12]}… is no {model.__name__}: {field}: {first['msg']}. It was "
                "written by another rlarcade, or is another kind of document."
            ) from error

    @contextmanager
    def transaction(
        self, kind: str, document: Mapping[str, Any], actor: str | None = None
    ) -> Iterator[Connection]:
        """Changes tables and writes the change's entry in the audit log, both or neither.

        Args:
            kind: of the entry; not one that the registry writes itself.
            document: what the entry says. It is read at the end, so it may be added to meanwhile.
            actor: who does it; unset: the user of this process.

        Raises:
            RegistryError: the database is locked, full, read-only or damaged.
            ValueError: the kind is the registry's own.
        """
        if kind in _OWN_KINDS:
            raise ValueError(f"{kind!r} events are written by the registry alone")
        with self._database.write() as connection:
            yield connection
            audit.append(connection, kind, document, default_actor(actor), audit.now())

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Connects to read tables of one's own, in one state of the database.

        Raises:
            RegistryError: the database is locked or damaged.
        """
        with self._database.read() as connection:
            yield connection

    def events(self, since: int = 0) -> Iterator[Event]:
        """Yields the entries of the audit log after one, in order.

        Raises:
            RegistryError: an entry was altered, or the database cannot be read.
        """
        with self._database.read() as connection:
            yield from audit.read(connection, since)

    def verify_audit(self) -> Problem | None:
        """Finds the first entry of the audit log that was altered, is missing or out of place.

        Raises:
            RegistryError: the database cannot be read.
        """
        with self._database.read() as connection:
            return audit.first_problem(connection)


@contextmanager
def _closed_on_error(database: Database) -> Iterator[None]:
    """Closes a database that turns out to be unusable."""
    try:
        yield
    except BaseException:
        database.close()
        raise


def default_actor(actor: str | None = None) -> str:
    """Returns who does something: as told, or else the user of this process."""
    if actor is None:
        try:
            actor = getpass.getuser()
        except (KeyError, OSError, ImportError):  # a container without a user database
            actor = "unknown"
    return audit.storable(actor)
