"""Where a registry is: a folder, or a PostgreSQL database that a team shares."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from rlarcade.checked import path_of, require
from rlarcade.errors import ConfigError
from rlarcade.text import printable, quoted

_SCHEMES = ("postgresql", "postgres")
_DRIVER = "postgresql+psycopg"  # SQLAlchemy 2.0 takes postgresql for psycopg2
_BLOBS = "blobs"


@dataclass(frozen=True)
class ServerAddress:
    """A PostgreSQL database, and where the blobs are, if the address says it."""

    url: URL
    blobs: str | None

    def __str__(self) -> str:
        """Returns the address without its password."""
        return printable(self.url.set(drivername="postgresql").render_as_string())


def address_of(given: str | Path) -> Path | ServerAddress:
    """Reads a registry's address.

    Args:
        given: a folder, or `postgresql://USER@HOST:PORT/DATABASE?blobs=PLACE`.

    Raises:
        ConfigError: it is neither.
    """
    require(given, str | Path, "a registry", "'checkpoints/registry'")
    text = str(given)
    scheme, separator, _ = text.partition("://")
    if isinstance(given, Path) or not separator:
        if text.startswith(tuple(f"{one}:/" for one in _SCHEMES)):
            raise ConfigError(
                f"{quoted(_without_password(text))} is no address of a database: two slashes "
                "follow postgresql:. In Python, give it as text: a Path keeps one of them."
            )
        return path_of(given, "a registry")
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"{quoted(scheme)}:// is no kind of registry. Give a folder, or "
            "postgresql://USER@HOST:PORT/DATABASE?blobs=PLACE."
        )
    return _server(text)


def _server(text: str) -> ServerAddress:
    if "\0" in text:
        raise ConfigError("the address of a registry holds a NUL character, which none has.")
    try:
        url = make_url(text)
        blobs = url.query.get(_BLOBS)
        port = url.port
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"{quoted(_without_password(text))} is no address of a database ({error}). Give "
            "postgresql://USER@HOST:PORT/DATABASE?blobs=PLACE."
        ) from error
    if not url.database:
        raise ConfigError(
            f"{quoted(_without_password(text))} names no database. Give "
            "postgresql://USER@HOST:PORT/DATABASE?blobs=PLACE."
        )
    if port is not None and not 0 < port < 65_536:
        raise ConfigError(f"port {port} of the registry's database is not 1 to 65535.")
    if isinstance(blobs, tuple):
        raise ConfigError("the address of a registry says blobs= twice. Give one place.")
    url = url.difference_update_query([_BLOBS]).set(drivername=_DRIVER)
    return ServerAddress(url, blobs)


def _without_password(text: str) -> str:
    """Returns an address that could not be read, without what stands before its last @."""
    scheme, _, rest = text.partition(":")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if "@" in rest else text
