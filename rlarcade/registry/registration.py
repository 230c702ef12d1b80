"""Turns a checkpoint into a version; marks versions broken, repairs and archives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from rlarcade.checkpoint import MANIFEST, Checkpoint, Manifest, canonical_bytes, load_checkpoint
from rlarcade.errors import CheckpointError, RegistryError, UnusableRegistryError
from rlarcade.files import read_bounded
from rlarcade.registry import audit, tables, versions
from rlarcade.registry.blobs import Blobs, sha256
from rlarcade.registry.database import Database

CHANGES = ("broken", "repair", "archive")
"""Kinds of events that change the state of a version."""

_table = tables.versions


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that was read and checked, as the registry will store it. Made by `read`."""

    record: versions.Record
    """The columns of its version's row that follow from it."""
    weights: bytes
    """Bytes of its weights file; `record["digest"]` is their sha256."""
    manifest: bytes
    """Bytes of its manifest file; `record["manifest_digest"]` is their sha256."""


def check(path: str | Path) -> None:
    """Checks that a checkpoint can become a version, before a registry is created for it.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, foreign or hostile.
        GameError: it was trained on a game that does not exist.
        RegistryError: its manifest has a number that is too large for a database.
    """
    read(path)


def read(path: str | Path) -> Candidate:
    """Reads a checkpoint. Its weights file is opened once and hashed once. Raises as `check` does.

    Args:
        path: a checkpoint's folder, or a run folder for its newest checkpoint.
    """
    checkpoint = load_checkpoint(path)
    weights, manifest = files_of(checkpoint)
    record = versions.described(checkpoint.manifest, sha256(manifest))
    record |= {"weights_bytes": len(weights), "source": audit.storable(str(path))}
    return Candidate(record, weights, manifest)


def files_of(checkpoint: Checkpoint) -> tuple[bytes, bytes]:
    """Returns the bytes of a loaded checkpoint's weights and manifest, to store them unchanged.

    Raises:
        CheckpointError: the manifest has changed since it was loaded.
    """
    # `load_checkpoint` hashed the file's bytes and required that the tensors make the same bytes
    # again. So these are the bytes that were hashed, whatever has happened to the file since.
    weights = canonical_bytes(checkpoint.tensors)
    try:
        manifest = read_bounded(checkpoint.path / MANIFEST)
        same = Manifest.model_validate_json(manifest) == checkpoint.manifest
    except (OSError, ValueError):
        same = False
    if not same:
        raise CheckpointError(
            f"{checkpoint.path} changed while it was read. Repeat the command when the checkpoint "
            "is completely written."
        )
    return weights, manifest


def register(database: Database, blobs: Blobs, candidate: Candidate, actor: str) -> int:
    """Registers a candidate, unless its weights are registered; repairs a damaged version.

    Returns:
        The version's number.

    Raises:
        RegistryError: the weights are registered with another contract, or cannot be written.
    """
    record = candidate.record
    with database.read() as connection:
        row = versions.by_digest(connection, record["digest"])
    damaged = row is not None and versions.damage(blobs, row) is not None
    if row is None or damaged:  # else its files were found intact just now
        blobs.put(candidate.weights, record["digest"])
        blobs.put(candidate.manifest, record["manifest_digest"])
    with database.write() as connection:
        row = versions.by_digest(connection, record["digest"])
        if row is None:
            return add(connection, record, actor)
        check_same(row, record)
        if damaged or row.broken_reason is not None:
            mend(connection, blobs, row, record, actor)
        return int(row.number)


def add(connection: Connection, record: versions.Record, actor: str) -> int:
    """Writes the row of a new version.

    Returns:
        The version's number.
    """
    number = (connection.scalar(select(func.max(_table.c.number))) or 0) + 1
    time = audit.now()
    record = {"number": number, **record, "registered": time}
    connection.execute(_table.insert(), [record | {"archived": False, "broken_reason": None}])
    audit.append(connection, "register", record, actor, time)
    return number


def check_same(row: Row[Any], record: versions.Record) -> None:
    """Requires that weights which are registered already have the same contract as before.

    Raises:
        RegistryError: the contracts differ; the message shows both.
    """
    if row.contract != record["contract"]:
        raise RegistryError(
            f"these weights are version {row.number} already: {_rules(row._asdict())}, from "
            f"{row.source}. {record['source']} says: {_rules(record)}. One of the two manifests is "
            "wrong: register the checkpoint as training wrote it."
        )


def _rules(record: Mapping[str, Any]) -> str:
    return f"{record['game']}, {record['num_actions']} actions, protocol {record['protocol']}"


def mend(
    connection: Connection, blobs: Blobs, row: Row[Any], record: versions.Record, actor: str
) -> None:
    """Marks a version as repaired after its damaged files were written again.

    Raises:
        RegistryError: the version is still damaged.
    """
    wrong = versions.damage(blobs, row)
    if wrong is not None:
        raise UnusableRegistryError(
            f"version {row.number} cannot be repaired with {record['source']}: {wrong}. Register "
            f"the checkpoint that it was made from ({row.source}), or import the newest export "
            "of the registry into another folder."
        )
    _mark(connection, row, None)
    told = {"number": row.number, "digest": row.digest, "source": record["source"]}
    audit.append(connection, "repair", told, actor, audit.now())


def mark_broken(connection: Connection, number: int, reason: str, actor: str) -> None:
    """Marks a version broken, unless it is marked already."""
    row = versions.by_number(connection, number)
    if row is None or row.broken_reason is not None:
        return
    reason = audit.storable(reason)
    _mark(connection, row, reason)
    told = {"number": row.number, "digest": row.digest, "reason": reason}
    audit.append(connection, "broken", told, actor, audit.now())


def _mark(connection: Connection, row: Row[Any], reason: str | None) -> None:
    connection.execute(
        update(_table).where(_table.c.number == row.number).values(broken_reason=reason)
    )


def archive(connection: Connection, row: Row[Any], actor: str) -> None:
    """Hides a version, unless it is hidden already.

    Raises:
        RegistryError: an alias or a submission still uses it.
    """
    users = tables.users(connection, row.number)
    if users:
        raise RegistryError(
            f"version {row.number} cannot be archived: it is in use as {', '.join(users)}. First "
            "move the alias, or end the submission or the rollout."
        )
    if row.archived:
        return
    connection.execute(update(_table).where(_table.c.number == row.number).values(archived=True))
    told = {"number": row.number, "digest": row.digest}
    audit.append(connection, "archive", told, actor, audit.now())
