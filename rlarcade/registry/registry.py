"""The registry: immutable versions, aliases that move forward and back, and an audit log.

Nothing is ever deleted or rewritten. Nothing in a registry from elsewhere is executed.
"""

from pathlib import Path
from typing import Self

from sqlalchemy import Connection, select

from rlarcade.checked import path_of
from rlarcade.checkpoint import Checkpoint
from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.games.names import resolve_game
from rlarcade.registry import aliases, export, registration, tables, verification, versions
from rlarcade.registry.change import DamagedVersionError
from rlarcade.registry.documents import Alias, AliasMove, MoveKind, Problem, Version
from rlarcade.registry.replay import CHAMPION
from rlarcade.registry.store import Store, default_actor

__all__ = ["CHAMPION", "DEFAULT_REGISTRY", "Registry", "default_actor"]

DEFAULT_REGISTRY = Path("checkpoints/registry")


class Registry(Store):
    """Versions of agents, and the aliases that say which versions are in use."""

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
        record = candidate.record
        with self._database.read() as connection:
            row = versions.by_digest(connection, record["digest"])
        damaged = row is not None and versions.damage(self._blobs, row) is not None
        if row is None or damaged:  # else its files were found intact just now
            self._blobs.put(candidate.weights, record["digest"])
            self._blobs.put(candidate.manifest, record["manifest_digest"])
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

    def alias(self, game: str, name: str = CHAMPION) -> Alias | None:
        """Returns a game's alias; None if it does not exist or points to no version.

        Raises:
            GameError: the game does not exist.
            RegistryError: the name is invalid, or the database is damaged or cannot be read.
        """
        game = resolve_game(game)
        versions.check_name(name)
        with self._database.read() as connection:
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
        game = resolve_game(game)
        versions.check_name(name)
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
    ) -> Alias | None:
        """Moves an alias in a change of its own; a damaged version is marked broken.

        Args:
            game: any spelling of the game's name.
            name: the alias; created if it does not exist.
            version_number: the version that it shall point to; None: take the alias away.
            expected_generation: generation of the alias that the caller read; 0 if it did not
                exist.
            kind: the kind of move, for the audit log.
            actor: recorded in the audit log; None: the user of this process.
            reason: recorded in the audit log.
            verdict: digest of the document (`put_document`) that justifies the move.

        Returns and raises what `Change.move_alias` does.
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
        game = resolve_game(game)
        versions.check_name(name)
        with self._database.read() as connection:
            return aliases.history(connection, game, name)

    def previous_champions(self, game: str) -> list[Version]:
        """Returns the versions that `rollback` can return to, newest first.

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
        game = resolve_game(game)
        with self._database.read() as connection:
            found = aliases.generation(connection, game, name)
            if found == 0:
                raise RegistryError(
                    f"{game} never had a {name}, so there is no intact earlier version to roll "
                    "back to."
                )
            offered = [row.number for row in aliases.previous(connection, game, name)]
            if to is not None:
                offered = [versions.find(connection, to).number]
        number = self._first_whole(offered) if to is None else offered[0]
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

    def _first_whole(self, numbers: list[int]) -> int | None:
        """Returns the first undamaged version, and marks the damaged ones before it broken."""
        with self._database.read() as connection:
            rows = [versions.by_number(connection, number) for number in numbers]
        for row in rows:
            if row is not None and not verification.find_damage(
                self._database, self._blobs, row, default_actor()
            ):
                return int(row.number)
        return None

    # One file

    def export(self, path: str | Path) -> None:
        """Writes all versions, documents, aliases and the audit log into one file.

        Others may use the registry during the export. A damaged version is marked broken, and its
        damaged files are left out.

        Raises:
            RegistryError: the file exists or cannot be written, or rows or the log were altered.
        """
        with self._database.read() as connection:
            problems = verification.structure(connection)
        if problems:
            first = problems[0]
            raise UnusableRegistryError(
                f"registry {self.folder} cannot be exported: {first.where} {first.what}. Import "
                "the newest export of it into another folder, and continue with that one."
            )
        self.verify()
        export.write(path_of(path, "an export"), self._database, self._blobs)

    @classmethod
    def import_(cls, file: str | Path, folder: str | Path) -> Self:
        """Imports a file that `export` wrote, from any source, and opens the registry.

        Everything is checked before the folder appears under its final name.

        Raises:
            RegistryError: the file is not a registry's export, was altered or is hostile; or the
                folder is in use or cannot be written.
        """
        file, folder = path_of(file, "an export"), path_of(folder, "a registry")
        with export.unpacked(file, folder) as temporary:
            try:
                with cls.open(temporary, create=False) as new, new._database.read() as connection:
                    first = next(iter(verification.whole(connection, new._blobs)), None)
            except RegistryError as error:  # it names the temporary folder, which is removed
                why = str(error).replace(str(temporary), str(file))
                raise UnusableRegistryError(f"nothing was imported: {why}") from error
            if first is not None:
                raise UnusableRegistryError(
                    f"{file} was altered: {first.where}: {first.what}. Nothing was imported; get "
                    "the file again from its source."
                )
        return cls.open(folder, create=False)
