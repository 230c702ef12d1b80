"""Reads a training state from the disk and checks it before anything is built from it.

The digests reveal damage, but somebody who alters a state can also alter its digests. So types,
sizes and ranges are checked as well: a state that cannot be resumed must be noticed while there is
an older one.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from rlarcade.checked import reason
from rlarcade.checkpoint import parse_tensors
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError
from rlarcade.files import LARGEST_TEXT, read_own
from rlarcade.games.protocols import SCREEN
from rlarcade.json_text import parse_json
from rlarcade.learning.schedules import most_updates
from rlarcade.learning.state import replay_capacity
from rlarcade.runs.saved_rows import Segment, check_segments
from rlarcade.text import quoted

FORMAT_VERSION = 2
_LARGEST_DOCUMENT = 5 * LARGEST_TEXT  # a line for each file of rows
_MOST_LANES = 1024
_LONGEST_GAME = 40_000  # steps; the frame cap is below it

Arrays = dict[str, NDArray[Any]]

_Counter = Annotated[StrictInt, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Word = Annotated[StrictInt, Field(ge=0, lt=2**128)]


class _Pcg64(BaseModel):
    """The two numbers of NumPy's default random generator."""

    model_config = ConfigDict(extra="forbid")

    state: _Word
    inc: _Word


class _Generator(BaseModel):
    """The state of a random generator, in NumPy's form."""

    model_config = ConfigDict(extra="forbid")

    bit_generator: Annotated[str, Field(pattern="^PCG64$")]
    state: _Pcg64
    has_uint32: Annotated[StrictInt, Field(ge=0, le=1)]
    uinteger: Annotated[StrictInt, Field(ge=0, lt=2**32)]


class Document(BaseModel):
    """The contents of `state.json`, without its own digest."""

    model_config = ConfigDict(frozen=True)

    format_version: int
    steps: _Counter
    updates: _Counter
    parent: str | None
    rows_added: _Counter
    segments: list[tuple[_Counter, _Counter, str]]
    explore_rng: _Generator
    replay_rng: _Generator
    agent_rng: _Generator
    arrays_sha256: str
    seconds: dict[str, _Seconds] = {}
    """Wall time of the run until this save, by part; empty in states of rlarcade 0.1.0."""

    @property
    def files_of_rows(self) -> list[Segment]:
        """The files of replay rows that belong to the state, oldest first."""
        return [Segment(*segment) for segment in self.segments]


def sealed(body: dict[str, Any]) -> bytes:
    """Returns a JSON document that carries its own sha256."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "body": body}, indent=1).encode()


def read_document(path: Path) -> Document:
    """Reads `state.json` and checks its digest.

    Raises:
        CheckpointError: it is missing, damaged, altered, or of another format.
    """
    try:
        document = parse_json(read_own(path, _LARGEST_DOCUMENT))
        body: dict[str, Any] = document["body"]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        if digest != document["sha256"]:
            raise CheckpointError(f"{path} is damaged: its sha256 does not match.")
        version = body.get("format_version")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: not a training state.") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {quoted(version)}; this rlarcade reads version "
            f"{FORMAT_VERSION}. Install the rlarcade that wrote it."
        )
    try:
        return Document.model_validate(body)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a training state: {reason(error)}") from error


def read_checked(path: Path, sha256: str, limit: int) -> bytes:
    """Reads a file of a state.

    Raises:
        CheckpointError: it is missing, larger than `limit`, or has another digest.
    """
    try:
        data = read_own(path, limit)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged: its sha256 does not match.")
    return data


def read_arrays(path: Path, document: Document, config: TrainConfig, network: int) -> Arrays:
    """Reads networks, optimizer, games in flight and priorities.

    Args:
        path: the file.
        document: the state's document.
        config: the run's resolved configuration.
        network: bytes of the run's network, see `weights_bytes`.

    Raises:
        CheckpointError: the file is missing, damaged, or too large for this run.
    """
    history = min(document.steps, _MOST_LANES * (config.schedule.reseed_interval + _LONGEST_GAME))
    limit = (
        6 * network + 5 * replay_capacity(config) + history + _MOST_LANES * SCREEN**2 + LARGEST_TEXT
    )
    return parse_tensors(read_checked(path, document.arrays_sha256, limit), path)


def check_document(document: Document, steps: int, config: TrainConfig) -> None:
    """Refuses counters that no run can have.

    Raises:
        CheckpointError: a counter is impossible; the message names it.
    """
    if document.steps != steps:
        raise CheckpointError(f"it says step {document.steps}, its folder says {steps}")
    most = most_updates(config, steps)
    if document.updates > most:
        raise CheckpointError(
            f"it has {document.updates} updates at step {steps}, more than {most}"
        )
    for name in ("explore_rng", "replay_rng", "agent_rng"):
        if not getattr(document, name).state.inc % 2:
            raise CheckpointError(f"{name} has an even increment, which PCG64 never has")
    check_segments(document.files_of_rows, document.rows_added)


def check_numbers(arrays: Arrays) -> None:
    """Refuses numbers that are not finite, and impossible values of the optimizer.

    Raises:
        CheckpointError: such a number was found; the message names its array.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"{name} has numbers that are not finite")
        if name.startswith("adam.exp_avg_sq.") and (array < 0).any():
            raise CheckpointError(f"{name} has a negative number, but it holds squares")
        if name.startswith("adam.step.") and (array.size != 1 or array.item() < 0):
            raise CheckpointError(f"{name} is not a count")


def check_games(lanes: Arrays, tracker: Arrays, num_actions: int) -> int:
    """Refuses games in flight that cannot be rebuilt; returns the number of games.

    Raises:
        CheckpointError: an array is wrong; the message names it.
        KeyError: an array is missing.
    """
    count = len(lanes["age"])
    length = len(lanes["actions"])
    shapes = {
        "num_reseeds": ((count,), "iu", 2**62),
        "since": ((count,), "iu", length),
        "actions": ((length, count), "iu", num_actions - 1),
        "age": ((count,), "iu", 2**62),
        "ended": ((count,), "b", 1),
        "observation": ((count, SCREEN, SCREEN), "iu", 255),
    }
    for name, (shape, kinds, largest) in shapes.items():
        _check_array(f"lanes.{name}", lanes[name], shape, kinds, largest)
    _check_array("tracker.steps", tracker["steps"], (count,), "iu", 2**62)
    _check_array("tracker.score", tracker["score"], (count,), "f", None)
    if not 1 <= count <= _MOST_LANES:
        raise CheckpointError(f"it has {count} games in flight")
    return count


def _check_array(
    name: str, array: NDArray[Any], shape: tuple[int, ...], kinds: str, largest: int | None
) -> None:
    if array.shape != shape or array.dtype.kind not in kinds:
        raise CheckpointError(f"{name} is {array.dtype} {array.shape}, not of shape {shape}")
    if largest is not None and array.size and not (array.min() >= 0 and array.max() <= largest):
        raise CheckpointError(
            f"{name} has values {array.min()} … {array.max()}, not within 0 … {largest}"
        )
