"""One change of a registry: rows and entries of the audit log, in one transaction."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult, Delete, Executable, Insert, Update

from rlarcade.errors import DamagedPartError, RegistryError
from rlarcade.games.names import resolve_game
from rlarcade.registry import aliases, audit, registration, replay, versions
from rlarcade.registry.blobs import Blobs, digest_of
from rlarcade.registry.documents import Alias, MoveKind, Problem
from rlarcade.registry.states import Submission

_OWN_KINDS = frozenset({*aliases.MOVES, *registration.CHANGES, "register"})


class DamagedVersionError(DamagedPartError):
    """A version cannot be used, because its bytes are damaged."""

    def __init__(self, number: int, wrong: str) -> None:
        super().__init__(
            f"version {number} is broken and cannot be used: {wrong}. Register its checkpoint "
            "again to repair it, or choose another version."
        )
        self.number, self.wrong = number, wrong


class Change:
    """An open write transaction of a registry. `Registry.change` begins and ends it."""

    def __init__(self, connection: Connection, blobs: Blobs, actor: str) -> None:
        """Use `Registry.change`."""
        self._connection = connection
        self._blobs = blobs
        self._actor = actor
        self._recorded = True

    def execute(self, statement: Executable) -> CursorResult[Any]:
        """Runs a statement. It sees the changes that this transaction made before.

        `record` must follow a statement that changes rows.

        Raises:
            UnusableRegistryError: the database is full or damaged. `Registry.change` raises it.
        """
        if isinstance(statement, Insert | Update | Delete):
            self._recorded = False
        return self._connection.execute(statement)

    def record(self, kind: str, document: Mapping[str, Any], actor: str | None = None) -> None:
        """Writes the next entry of the audit log.

        Args:
            kind: kind of the entry; must not be one that only the registry writes.
            document: content of the entry.
            actor: recorded in the entry; None: the actor of the change.

        Raises:
            RegistryError: JSON cannot represent the document, or the log was altered.
            ValueError: only the registry may write entries of this kind.
        """
        if kind in _OWN_KINDS:
            raise ValueError(f"only the registry writes {kind!r} events")
        actor = self._actor if actor is None else actor
        audit.append(self._connection, kind, document, actor, audit.now())
        self._recorded = True

    def require_recorded(self) -> None:
        """Requires an entry of the audit log about every change of a row.

        Raises:
            ValueError: no entry was recorded after the last change.
        """
        if not self._recorded:
            raise ValueError("rows were changed without an entry in the audit log: call record")

    def move_alias(
        self,
        game: str,
        name: str,
        version_number: int | None,
        *,
        expected_generation: int,
        kind: MoveKind,
        reason: str | None = None,
        verdict: str | None = None,
    ) -> Alias | None:
        """Moves an alias, unless it was moved since the caller read it (compare-and-swap).

        All bytes of the version are read before the alias points to it.

        Args:
            game: any spelling of the game's name.
            name: the alias; created if it does not exist.
            version_number: the version that it shall point to; None: take the alias away.
            expected_generation: generation of the alias that the caller read; 0 if it did not
                exist.
            kind: the kind of move, for the audit log.
            reason: recorded in the audit log.
            verdict: digest of the document (`put_document`) that justifies the move.

        Returns:
            The alias after the move; None if it points to no version.

        Raises:
            GameError: the game does not exist.
            RegistryError: the version does not exist, is broken, archived or of another game.
            StaleError: somebody else has moved the alias.
        """
        game = resolve_game(game)
        if verdict is not None and not self._blobs.holds(digest_of(verdict)):
            raise RegistryError(
                f"the registry has no document {verdict[:12]}… to justify the move. Store it with "
                "put_document first."
            )
        if version_number is not None:
            self._require_whole(version_number)
        return aliases.move(
            self._connection,
            game,
            name,
            version_number,
            expected_generation=expected_generation,
            kind=kind,
            actor=self._actor,
            reason=None if reason is None else audit.storable(reason),
            verdict=verdict,
        )

    def _require_whole(self, number: int) -> None:
        """Reads all bytes of a version.

        A gate may have read them before, but then hours or days of matches and approvals followed.
        """
        row = versions.by_number(self._connection, number)
        if row is None or row.broken_reason is not None:
            return  # the move raises the error
        wrong = versions.damage(self._blobs, row)
        if wrong is not None:
            raise DamagedVersionError(number, wrong)

    def replayed(self, about: Submission) -> tuple[replay.Told, Problem | None]:
        """Replays the audit log, and compares the rows about a submission with it.

        Returns:
            The rows that follow from the log, and the first problem: of the log, or of the rows of
            the submission, its version and its game's champion. None: there is no problem.

        Raises:
            RegistryError: an entry of the log is impossible after those before it.
        """
        problem = audit.first_problem(self._connection)
        if problem is not None:
            return replay.Told(), problem  # an altered log proves nothing about the rows
        told = replay.replay(self._connection)
        return told, next(replay.differences_about(self._connection, told, about), None)
