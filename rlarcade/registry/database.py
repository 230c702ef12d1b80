"""What the registry needs of a database: transactions, and errors with a remedy."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol as Interface

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from rlarcade.errors import RegistryError, UnusableRegistryError


class Alone(Interface):
    """A lock that at most one process of all that use a registry holds."""

    def holder(self) -> str | None:
        """Takes the lock, if nobody holds it.

        Returns:
            Who else holds it, such as "process 4711"; None: this process does.

        Raises:
            UnusableRegistryError: the database cannot be reached.
        """

    def close(self) -> None:
        """Releases the lock. The system releases that of a process that was killed."""


class Database(ABC):
    """The tables of one registry.

    Attributes:
        name: names the registry in messages.
    """

    name: str

    @abstractmethod
    def read(self) -> AbstractContextManager[Connection]:
        """Connects for reading. All reads see the same state of the database.

        Raises:
            RegistryError: the database is locked, damaged or cannot be reached.
        """

    @abstractmethod
    def write(self) -> AbstractContextManager[Connection]:
        """Connects as the only writer. Commits at the end; if the block raises, nothing changes.

        Raises:
            UnusableRegistryError: the database is locked, full, read-only or damaged, or cannot be
                reached.
        """

    @abstractmethod
    def set_up(self, *, create: bool) -> None:
        """Creates the missing tables; leaves a registry of another format alone.

        Args:
            create: create all tables in an empty database.

        Raises:
            RegistryError: it is not a registry's database, or has another format.
            UnusableRegistryError: it holds something that rlarcade does not create, or is locked
                or damaged, or cannot be reached.
        """

    @abstractmethod
    def damage(self, connection: Connection) -> str | None:
        """Describes damage of the database's own files; None: it finds none."""

    @abstractmethod
    def alone(self) -> Alone:
        """Returns the registry's lock for the one server that drives its rollouts."""

    @abstractmethod
    def copy_to(self, path: Path) -> None:
        """Writes a consistent copy of the tables into one SQLite file, even while others write.

        Raises:
            RegistryError: the database cannot be read, or the copy cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes all connections."""

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns the database's exceptions into errors with a remedy.

        Raises:
            RegistryError: the database raised an exception.
        """
        try:
            yield
        except DBAPIError as error:
            raise self._explained(error.orig) from error
        except (SQLAlchemyError, OverflowError) as error:
            raise RegistryError(f"registry {self.name}: {error}.") from error

    @abstractmethod
    def _explained(self, error: BaseException | None) -> UnusableRegistryError:
        """Returns the error for an exception of the database's driver."""
