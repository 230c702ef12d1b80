"""The training state on disk: everything that a killed run needs to go on as if it had not been.

    RUN/state/
      rows/000000000000-000000003125.safetensors   replay rows, each written once
      step-000000050000/arrays.safetensors         networks, optimizer, games in flight
      step-000000050000/state.json                 counters, random numbers, which rows belong

Replay rows never change once written, so a save writes only those that are new; its cost does not
grow with the buffer. Rows are stored as the difference to the row before (most of a screen stands
still) and compressed, some fifty times smaller than in memory; in several files, which all cores
compress side by side while the learner waits. Every file's sha256 is kept in
`state.json`, and that file's own beside it, so a damaged state is noticed and an older one used.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from rlarcade.checkpoint import parse_tensors
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError
from rlarcade.files import write_file, write_folder
from rlarcade.games.lanes import Progress, TrainingLanes
from rlarcade.learning.replay import Replay
from rlarcade.learning.state import TrainingState

FORMAT_VERSION = 2
_KEPT = 2  # whole states; the older one is there for when the newer is damaged
_SEGMENT_CELLS = 8192  # in a file of rows: enough to be compressed well, and files for all cores
_CHUNK_CELLS = 1024  # exported at a time: bounds the memory that a save takes
_ARRAYS, _DOCUMENT = "arrays.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of replay rows."""

    first: int
    last: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name: its first row, and the row after its last."""
        return f"{self.first:012d}-{self.last:012d}.safetensors"


@dataclass(slots=True)
class StateStore:
    """The training states in a run folder.

    Attributes:
        folder: `RUN/state`.
        segments: files of replay rows that are on the disk, oldest first.
        kept: steps of the states that were written or found whole, oldest first.
    """

    folder: Path
    segments: list[Segment] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def save(self, state: TrainingState) -> None:
        """Writes a state; older ones are pruned only when it is on the disk.

        Raises:
            OSError: the disk is full or cannot be written. The older states are as they were.
            DivergenceError: the newest loss is no number, so the weights are not worth keeping.
            TypeError: the state's games are not `TrainingLanes`, which alone can be rebuilt.
        """
        if not isinstance(state.lanes, TrainingLanes):
            raise TypeError(
                f"only runs on TrainingLanes can be saved, not on {type(state.lanes).__name__}"
            )
        state.require_finite()
        self._save_rows(state.replay)
        arrays = {f"agent.{name}": array for name, array in state.agent.state().items()}
        arrays |= {f"lanes.{name}": array for name, array in state.lanes.state().items()}
        arrays |= {f"tracker.{name}": array for name, array in state.tracker.state().items()}
        arrays |= {f"replay.{name}": array for name, array in state.replay.priorities().items()}
        data = save_tensors({name: np.asarray(a, order="C") for name, a in arrays.items()})
        body = {
            "format_version": FORMAT_VERSION,
            "steps": state.steps,
            "updates": state.updates,
            "parent": state.parent,
            "rows_added": state.replay.rows_added,
            "segments": [[s.first, s.last, s.sha256] for s in self.segments],
            "explore_rng": state.explore_rng.bit_generator.state,
            "replay_rng": state.replay_rng.bit_generator.state,
            "agent_rng": state.agent.rng.bit_generator.state,
            "arrays_sha256": hashlib.sha256(data).hexdigest(),
        }
        write_folder(self._path(state.steps), {_ARRAYS: data, _DOCUMENT: _sealed(body)})
        self.kept = [*(step for step in self.kept if step < state.steps), state.steps][-_KEPT:]
        self._prune()

    def load(
        self, config: TrainConfig, *, progress: Progress | None = None
    ) -> tuple[TrainingState | None, list[str]]:
        """Builds the newest whole state.

        Args:
            config: the run's resolved configuration.
            progress: told while the games in flight are played again.

        Returns:
            The state, or None if none was ever saved, and what was wrong with newer ones.

        Raises:
            CheckpointError: states were saved, but none of them can be used.
        """
        problems: list[str] = []
        steps = self.saved_steps()
        for position in range(len(steps) - 1, -1, -1):
            try:
                state = self._load(steps[position], config, progress)
            except CheckpointError as error:
                problems.append(str(error))
            except (KeyError, TypeError, ValueError) as error:  # whole, but not as we write them
                problems.append(
                    f"training state {self._path(steps[position])} was written by another "
                    f"rlarcade, or altered ({type(error).__name__}: {error})."
                )
            else:
                self.kept = steps[: position + 1][-_KEPT:]
                return state, problems
        if problems:
            raise CheckpointError(
                f"none of the {len(steps)} training states in {self.folder} can be used: "
                f"{problems[0]} Its policy checkpoints may still be whole: start a new run from "
                "one with --init-from, in another --run-dir."
            )
        return None, problems

    def saved_steps(self) -> list[int]:
        """Returns the agent steps of the states on the disk, whole or not, oldest first."""
        return sorted(
            int(path.name.removeprefix("step-"))
            for path in self.folder.glob("step-*")
            if path.name.removeprefix("step-").isdigit()
        )

    def _path(self, steps: int) -> Path:
        return self.folder / f"step-{steps:012d}"

    def _save_rows(self, replay: Replay) -> None:
        """Writes the rows that are not on the disk yet, and forgets those the ring has lost."""
        oldest = max(0, replay.rows_added - replay.num_rows)
        first = max(self.segments[-1].last if self.segments else 0, oldest)
        (self.folder / "rows").mkdir(parents=True, exist_ok=True)
        parts = [*_chunks(first, replay.rows_added, max(1, _SEGMENT_CELLS // replay.num_envs))]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            packed = pool.map(lambda part: _packed_rows(replay, *part), parts)
            for part, data in zip(parts, packed, strict=True):
                segment = Segment(*part, hashlib.sha256(data).hexdigest())
                write_file(self.folder / "rows" / segment.name, data)
                self.segments.append(segment)
        self.segments = [segment for segment in self.segments if segment.last > oldest]

    def _prune(self) -> None:
        """Deletes what no kept state needs."""
        needed: set[str] = set()
        for step in self.kept:
            try:
                body = _opened(self._path(step) / _DOCUMENT)
                needed |= {Segment(*segment).name for segment in body["segments"]}
            except (CheckpointError, KeyError, TypeError):
                continue
        for path in self.folder.iterdir():
            if path.name != "rows" and path.name not in {self._path(s).name for s in self.kept}:
                shutil.rmtree(path, ignore_errors=True)
        for path in (self.folder / "rows").iterdir():
            if path.name not in needed:
                path.unlink(missing_ok=True)

    def _load(self, steps: int, config: TrainConfig, progress: Progress | None) -> TrainingState:
        path = self._path(steps)
        body = _opened(path / _DOCUMENT)
        data = _read(path / _ARRAYS, body["arrays_sha256"])
        arrays = parse_tensors(data, path / _ARRAYS)
        segments = [Segment(*segment) for segment in body["segments"]]
        # all digests before anything slow or large is built
        packed = [_read(self.folder / "rows" / s.name, s.sha256) for s in segments]

        state = TrainingState.unstarted(config)
        for segment, rows in zip(segments, packed, strict=True):
            _unpack_rows(state.replay, segment, parse_tensors(rows, path))
        state.steps, state.updates = body["steps"], body["updates"]
        state.parent = body["parent"]
        state.explore_rng.bit_generator.state = body["explore_rng"]
        state.replay_rng.bit_generator.state = body["replay_rng"]
        state.agent.rng.bit_generator.state = body["agent_rng"]
        state.replay.restore_priorities(_part(arrays, "replay"))
        state.agent.restore(_part(arrays, "agent"), path)
        state.tracker.restore(_part(arrays, "tracker"))
        assert isinstance(state.lanes, TrainingLanes)
        state.lanes.rebuild(_part(arrays, "lanes"), progress)
        self.segments = segments
        return state


def _part(arrays: dict[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    prefix = name + "."
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}


def _packed_rows(replay: Replay, first: int, last: int) -> bytes:
    """Returns rows first … last - 1 as safetensors, frames compressed."""
    columns: dict[str, list[NDArray[Any]]] = {}
    compressor = zlib.compressobj(1)
    stream: list[bytes] = []
    before: NDArray[np.uint8] | int = 0
    for start, stop in _chunks(first, last, max(1, _CHUNK_CELLS // replay.num_envs)):
        rows = replay.export(start, stop)
        frames: NDArray[Any] = rows.pop("frames")
        change = frames.copy()
        change[1:] ^= frames[:-1]
        change[0] ^= before
        before = frames[-1]
        stream.append(compressor.compress(change.data))
        for name, column in rows.items():
            columns.setdefault(name, []).append(column)
    stream.append(compressor.flush())
    return save_tensors(
        {
            "frames": np.frombuffer(b"".join(stream), dtype=np.uint8),
            **{name: np.concatenate(parts) for name, parts in columns.items()},
        }
    )


def _unpack_rows(replay: Replay, segment: Segment, rows: dict[str, NDArray[Any]]) -> None:
    """Puts a segment's rows back into the ring, a chunk at a time."""
    decompressor = zlib.decompressobj()
    row_bytes = replay.num_envs * int(np.prod(replay.frame_shape))
    source: bytes = rows.pop("frames").tobytes()
    before: NDArray[np.uint8] | int = 0
    for start, stop in _chunks(segment.first, segment.last, _CHUNK_CELLS // replay.num_envs + 1):
        wanted = (stop - start) * row_bytes
        change = decompressor.decompress(source, wanted)
        source = decompressor.unconsumed_tail
        shape = (stop - start, replay.num_envs, -1)
        frames: NDArray[Any] = np.frombuffer(change, dtype=np.uint8).reshape(shape)
        frames = np.bitwise_xor.accumulate(frames, axis=0) ^ before
        before = frames[-1]
        part = slice(start - segment.first, stop - segment.first)
        replay.restore(start, {"frames": frames, **{k: v[part] for k, v in rows.items()}})


def _chunks(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last, size):
        yield start, min(start + size, last)


def _sealed(body: dict[str, Any]) -> bytes:
    """Returns a JSON document that carries its own sha256."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "body": body}, indent=1).encode()


def _opened(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        body: dict[str, Any] = document["body"]
        if (
            hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            != (document["sha256"])
        ):
            raise CheckpointError(f"{path} is damaged: its sha256 does not hold.")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: not a training state.") from error
    if body.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {body.get('format_version')!r}; this rlarcade reads "
            f"version {FORMAT_VERSION}. Install the rlarcade that wrote it."
        )
    return body


def _read(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged: its sha256 does not hold.")
    return data
