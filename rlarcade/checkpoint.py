"""The policy checkpoint on disk: tensors and a manifest. It knows no networks and runs no code.

    CHECKPOINT/
      weights.safetensors   tensors only
      manifest.json         what they are, how they were made, and their sha256

A checkpoint is written under a temporary name, synced and renamed, so a folder with its final name
is whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from rlarcade.errors import CheckpointError
from rlarcade.files import write_folder
from rlarcade.games.protocols import Protocol

FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 10_000_000  # bytes; a real one has a few thousand

Tensors = Mapping[str, NDArray[Any]]


class Counters(BaseModel):
    """How much training made the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 0
    """Agent steps."""
    frames: int = 0
    """Emulator frames: steps × frameskip."""
    updates: int = 0
    """Gradient steps."""


class Manifest(BaseModel):
    """What a checkpoint is and how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    game: str
    protocol: Protocol
    num_actions: int
    network: dict[str, Any]
    """Settings that rebuild the network around the tensors."""
    counters: Counters
    config: dict[str, Any]
    """Resolved settings of the run."""
    preset: str | None = None
    seed: int | None = None
    parent: str | None = None
    """sha256 of the weights that training started from, if not from random ones."""
    libraries: dict[str, str]
    git_commit: str | None = None
    created: str
    """UTC, ISO 8601."""
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    manifest: Manifest
    tensors: Tensors


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that decide what a checkpoint does."""
    names = ("rlarcade", "torch", "numpy", "gymnasium", "ale-py", "safetensors")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a source tree on the path, not installed
            versions[name] = "unknown"
    return versions


def save_checkpoint(path: Path, tensors: Tensors, **manifest: Any) -> Manifest:
    """Writes a checkpoint; whatever stood at `path` is replaced only by a whole one.

    Args:
        path: the checkpoint's folder.
        tensors: arrays by name.
        **manifest: fields of `Manifest` but those that this function fills in.

    Returns:
        The manifest as written.

    Raises:
        OSError: the disk is full or cannot be written; nothing is left at the temporary name.
    """
    weights = _weights_file(tensors)
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
    """Returns the digest that a checkpoint of these tensors has."""
    return hashlib.sha256(_weights_file(tensors)).hexdigest()


def _weights_file(tensors: Tensors) -> bytes:
    return save_tensors({name: np.asarray(t, order="C") for name, t in tensors.items()})


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint and checks its digest. No code of the checkpoint's is run.

    Args:
        path: a checkpoint's folder, its weights file, or a run folder, which means its newest.

    Raises:
        CheckpointError: nothing is there, or it is damaged, of an unknown format or hostile.
    """
    folder = find_checkpoint(path)
    manifest = _read_manifest(folder / MANIFEST)
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {folder / WEIGHTS}: {error.strerror}.") from error
    digest = hashlib.sha256(weights).hexdigest()
    if digest != manifest.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged: its sha256 is {digest[:12]}…, its manifest says "
            f"{manifest.weights_sha256[:12]}…. Use another checkpoint of the run, or copy this "
            "one again from where it came."
        )
    return Checkpoint(folder, manifest, parse_tensors(weights, folder / WEIGHTS))


def parse_tensors(data: bytes, where: Path) -> dict[str, NDArray[Any]]:
    """Parses safetensors bytes.

    Raises:
        CheckpointError: they are not safetensors (a pickle, say), and so were not read further.
    """
    try:
        tensors: dict[str, NDArray[Any]] = load_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{where} is not a safetensors file ({error}). Nothing in it was executed. "
            "Use a checkpoint written by rlarcade."
        ) from error
    return tensors


def find_checkpoint(path: str | Path) -> Path:
    """Returns the checkpoint's folder that a user's path means.

    Raises:
        CheckpointError: there is no checkpoint at the path.
    """
    path = Path(path)
    if path.name in (WEIGHTS, MANIFEST):
        path = path.parent
    if (path / MANIFEST).exists() or (path / WEIGHTS).exists():
        return path
    checkpoints = list_checkpoints(path)
    if checkpoints:
        return checkpoints[-1]
    what = "holds no checkpoint" if path.exists() else "does not exist"
    raise CheckpointError(
        f"{path} {what}. Name a folder with {WEIGHTS} and {MANIFEST}, or the folder of a run."
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
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise CheckpointError(f"{path} is no manifest: it has {path.stat().st_size:,} bytes.")
        document = json.loads(path.read_bytes())
        version = document.get("format_version") if isinstance(document, dict) else None
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version!r}; this rlarcade reads version "
                f"{FORMAT_VERSION}. Install the rlarcade that wrote it."
            )
        return Manifest.model_validate(document)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path} is damaged: {field}: {first['msg']}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: not JSON ({error}).") from error
