"""Copies a registry to another place, with all of its history: to a server, for example."""

from collections.abc import Callable

from sqlalchemy import func, select

from rlarcade.errors import RegistryError, UnusableRegistryError
from rlarcade.registry import tables, verification
from rlarcade.registry.blobs import Blobs, DamagedBlobError
from rlarcade.registry.store import Store


def copy(source: Store, target: Store, on_blob: Callable[[int], None] | None = None) -> None:
    """Copies all rows and blobs into an empty registry, and checks the copy.

    Others may use the source meanwhile. The rows appear in one transaction, after the blobs. A
    damaged blob of a version that is marked broken is left out.

    Args:
        source: the registry to copy.
        target: an empty registry.
        on_blob: called with the number of blobs that are copied, after each.

    Raises:
        RegistryError: the target holds a registry with a history.
        UnusableRegistryError: the source is damaged or was altered, or the copy is not the same.
    """
    _require_empty(target)
    with source.database.read() as reading:  # all rows of one moment; their blobs exist already
        for number, digest in enumerate(source.blobs.digests(), start=1):
            _copy_blob(source.blobs, target.blobs, digest)
            if on_blob is not None:
                on_blob(number)
        with target.database.write() as writing:
            if writing.scalar(select(func.count()).select_from(tables.events)):
                raise _in_use(target)
            tables.copy_rows(reading, writing)
    with target.database.read() as connection:
        first = next(iter(verification.whole(target.database, connection, target.blobs)), None)
    if first is not None:
        raise UnusableRegistryError(
            f"the copy in {target.name} is not sound: {first.where} {first.what}. Do not use it; "
            f"{source.name} is unchanged."
        )


def _require_empty(target: Store) -> None:
    with target.database.read() as connection:
        if connection.scalar(select(func.count()).select_from(tables.events)):
            raise _in_use(target)


def _in_use(target: Store) -> RegistryError:
    return RegistryError(
        f"{target.name} holds a registry with a history already. Copy to a folder that does not "
        "exist yet, or to an empty database."
    )


def _copy_blob(source: Blobs, target: Blobs, digest: str) -> None:
    try:
        target.put(source.get(digest), digest)
    except DamagedBlobError:
        return  # its version is marked broken, or it belongs to none
