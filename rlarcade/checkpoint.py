"""The policy checkpoint on disk: tensors and a manifest.

    CHECKPOINT/
      weights.safetensors   tensors only
      manifest.json         what they are, how they were made, and their sha256

Reading a checkpoint runs no code of it. This module knows nothing of networks.

A checkpoint is written under a temporary name, synced and renamed. So a folder with its final name
is always complete.

The weights' sha256 is the agent's version, and the seeds of its matches follow from it. So equal
tensors must always be the same bytes: they are written in one form, and no other form is read.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from rlarcade.checked import path_of, reason
from rlarcade.errors import CheckpointError
from rlarcade.files import LARGEST_TEXT, read_bounded, write_folder
from rlarcade.games.protocols import MOST_ACTIONS, Protocol
from rlarcade.json_text import parse_json
from rlarcade.search_names import search_name
from rlarcade.text import printable, quoted, shown_path
from rlarcade.zoo import is_zoo_name, zoo_folder

FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
_LARGEST_WEIGHTS = 2_000_000_000  # bytes
_USUAL_WEIGHTS = 100_000_000  # bytes; the largest network of a preset has 40 million

# safetensors' names, in the reverse order of a file: there wide types come first, for alignment.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_ALIGNMENT = 8

Tensors = Mapping[str, NDArray[Any]]
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class Counters(BaseModel):
    """Amount of training behind the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: _Count = 0
    """Agent steps."""
    frames: _Count = 0
    """Emulator frames: steps × frameskip."""
    updates: _Count = 0
    """Gradient steps."""


class Manifest(BaseModel):
    """Description of a checkpoint and of the run that made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    game: str
    protocol: Protocol
    num_actions: Annotated[int, Field(ge=1, le=MOST_ACTIONS)]
    network: dict[str, Any]
    """Settings from which the network is rebuilt."""
    counters: Counters
    config: dict[str, Any]
    """Resolved settings of the run."""
    preset: str | None = None
    seed: int | None = None
    parent: str | None = None
    """sha256 of the weights that training started from; None: random weights."""
    libraries: dict[str, str]
    git_commit: str | None = None
    created: str
    """UTC, ISO 8601."""
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint with a verified digest."""

    path: Path
    manifest: Manifest
    tensors: Tensors


class Package(NamedTuple):
    """A checkpoint as bytes, for another process."""

    manifest: bytes
    weights: bytes


def packed_checkpoint(checkpoint: Checkpoint) -> Package:
    """Returns a checkpoint as bytes."""
    manifest = checkpoint.manifest.model_dump_json().encode()
    return Package(manifest, canonical_bytes(checkpoint.tensors))


def unpacked_checkpoint(package: Package, path: Path) -> Checkpoint:
    """Returns the checkpoint of a package, whose digest it checks.

    Args:
        package: the bytes.
        path: path of the checkpoint. Nothing is read there.

    Raises:
        CheckpointError: the bytes are not those of `packed_checkpoint`.
    """
    try:
        manifest = Manifest.model_validate_json(package.manifest)
    except ValidationError as error:
        raise CheckpointError(f"the manifest of {path} arrived damaged: {reason(error)}") from error
    digest = hashlib.sha256(package.weights).hexdigest()
    if digest != manifest.weights_sha256:
        raise CheckpointError(
            f"the weights of {path} arrived damaged: their sha256 is {digest[:12]}…, the manifest "
            f"says {manifest.weights_sha256[:12]}…. Send them again."
        )
    return Checkpoint(path, manifest, parse_tensors(package.weights, path))


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that affect an agent's behaviour."""
    names = ("rlarcade", "torch", "numpy", "gymnasium", "ale-py", "safetensors")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a source tree on the path, not installed
            versions[name] = "unknown"
    return versions


def save_checkpoint(path: Path, tensors: Tensors, **manifest: Any) -> Manifest:
    """Writes a checkpoint; an older one at `path` is replaced only when the new one is complete.

    Args:
        path: the checkpoint's folder.
        tensors: arrays by name.
        **manifest: fields of `Manifest`, except those that this function fills in.

    Returns:
        The manifest as written.

    Raises:
        OSError: the disk is full or cannot be written; nothing is left at the temporary name.
    """
    weights = canonical_bytes(tensors)
    document = Manifest(
        libraries=library_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        **manifest,
    )
    write_folder(
        path,
        {WEIGHTS: weights, MANIFEST: (document.model_dump_json(indent=2) + "\n").encode()},
    )
    return document


def weights_sha256(tensors: Tensors) -> str:
    """Returns the sha256 of the weights file that these tensors would have."""
    return hashlib.sha256(canonical_bytes(tensors)).hexdigest()


def canonical_bytes(tensors: Tensors) -> bytes:
    """Returns tensors as the bytes of a safetensors file, in the only form that rlarcade reads.

    It is the form that safetensors 0.4 to 0.8 write: no metadata, wide types first, then by name,
    a header without spaces, padded to eight bytes. It is written here, so that a later safetensors
    cannot change the versions of agents.

    Raises:
        ValueError: an array has a dtype that safetensors does not have.
    """
    ranks = {name: rank for rank, name in enumerate(_DTYPES)}
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES or array.dtype.byteorder == ">":
            raise ValueError(f"tensor {name} has dtype {array.dtype}, which no checkpoint holds")
    ordered = sorted(arrays, key=lambda name: (-ranks[arrays[name].dtype.name], name.encode()))
    header, end = {}, 0
    for name in ordered:
        start, end = end, end + arrays[name].nbytes
        header[name] = {
            "dtype": _DTYPES[arrays[name].dtype.name],
            "shape": list(arrays[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join(
        [len(text).to_bytes(8, "little"), text, *(arrays[n].tobytes() for n in ordered)]
    )


def load_checkpoint(
    path: str | Path, *, largest: Callable[[Manifest], int] | None = None
) -> Checkpoint:
    """Reads a checkpoint and checks its digest. No code of the checkpoint is run.

    Args:
        path: a checkpoint's folder, its weights file, a run folder for its newest checkpoint, or
            an agent that comes with rlarcade, such as `zoo:Pong`.
        largest: returns the most bytes that the weights of a manifest may have; called if the file
            has more than 100 MB. Unset: 2 GB for any manifest, since a custom torso may have any
            size.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, of an unknown format or hostile.
        ConfigError: `path` is not a path.
    """
    folder = find_checkpoint(path)
    manifest = _read_manifest(folder / MANIFEST)
    weights = _read_weights(folder / WEIGHTS, manifest, largest)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != manifest.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged: its sha256 is {digest[:12]}…, its manifest says "
            f"{manifest.weights_sha256[:12]}…. Use another checkpoint of the run, or copy this "
            "one again from its source."
        )
    tensors = parse_tensors(weights, folder / WEIGHTS)
    if canonical_bytes(tensors) != weights:
        raise CheckpointError(
            f"{folder / WEIGHTS} was not written by rlarcade: the same tensors are stored in "
            "another form. So the same agent would be another version and play other games in "
            "every match. Use the file that training wrote."
        )
    return Checkpoint(folder, manifest, tensors)


def _read_weights(
    path: Path, manifest: Manifest, largest: Callable[[Manifest], int] | None
) -> bytes:
    limit, hint = _LARGEST_WEIGHTS, ""
    try:
        if largest is not None and path.stat().st_size > _USUAL_WEIGHTS:
            limit = min(limit, max(largest(manifest), _USUAL_WEIGHTS))
            hint = (
                " The network in its manifest needs no more. To load an agent with a custom torso, "
                "use DQNAgent.load(path, torso=module)."
            )
        return read_bounded(path, limit)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.{hint}") from error
    except CheckpointError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def parse_tensors(data: bytes, where: Path) -> dict[str, NDArray[Any]]:
    """Parses safetensors bytes.

    Raises:
        CheckpointError: they are not safetensors but, for example, a pickle; nothing in it is run.
    """
    try:
        tensors: dict[str, NDArray[Any]] = load_tensors(data)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where} is not a safetensors file ({error}). Nothing in it was executed. "
            "Use a checkpoint written by rlarcade."
        ) from error
    return tensors


def find_checkpoint(path: str | Path) -> Path:
    """Returns the folder of the checkpoint at a path; for a run folder, of its newest checkpoint.

    Raises:
        CheckpointError: there is no checkpoint at the path, no such agent in the zoo, or the name
            is that of a player that looks ahead.
        ConfigError: `path` is not a path.
        GameError: the game of an agent of the zoo is unknown.
    """
    path = path_of(path, "a checkpoint")
    if (search := search_name(path)) is not None:
        raise CheckpointError(
            f"{shown_path(path)} is no checkpoint but a player that looks ahead: it has access to "
            "the emulator. Only an agent that sees nothing but the screen can be promoted, served, "
            f"exported or trained on. Name the agent itself: {printable(search.agent)}."
        )
    if is_zoo_name(path):
        return zoo_folder(path)
    if path.name in (WEIGHTS, MANIFEST):
        path = path.parent
    try:
        if (path / MANIFEST).exists() or (path / WEIGHTS).exists():
            return path
        checkpoints = list_checkpoints(path)
        what = "holds no checkpoint" if path.exists() else "does not exist"
    except OSError as error:  # e.g. the name is too long, or a folder may not be entered
        raise CheckpointError(f"cannot read {shown_path(path)}: {error.strerror}.") from error
    if checkpoints:
        return checkpoints[-1]
    raise CheckpointError(
        f"{shown_path(path)} {what}. Name a folder with {WEIGHTS} and {MANIFEST}, or the folder of "
        "a run."
    )


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Returns the policy checkpoints of a run folder, oldest first."""
    return sorted(
        path.parent
        for path in (run_folder / "checkpoints").glob(f"step-*/{MANIFEST}")
        if path.parent.name.removeprefix("step-").isdigit()
    )


def checkpoint_path(run_folder: Path, steps: int) -> Path:
    """Returns where a run keeps the policy checkpoint of an agent step."""
    return run_folder / "checkpoints" / f"step-{steps:012d}"


def _read_manifest(path: Path) -> Manifest:
    try:
        document = parse_json(read_bounded(path, LARGEST_TEXT))
        version = document.get("format_version") if isinstance(document, dict) else None
        if version != FORMAT_VERSION:
            found = quoted(version)
            raise CheckpointError(
                f"{path} has format version {found}; this rlarcade reads version "
                f"{FORMAT_VERSION}. Install the rlarcade that wrote it."
            )
        return Manifest.model_validate(document)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {reason(error)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: not JSON ({error}).") from error
