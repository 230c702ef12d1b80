"""Rows of replay on the disk: packs them into files, checks them, restores them to a ring.

Somebody may have altered the files and their digests. So the rows are checked before they reach a
ring: they must not hang the draw of a batch, or hold an action that the game does not have.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from rlarcade.errors import CheckpointError
from rlarcade.games.protocols import STACK
from rlarcade.learning.replay import BYTES_BESIDE_FRAME, Replay

CHUNK_CELLS = 1024  # exported at a time: bounds the memory that a save takes
_COLUMNS: dict[str, type[np.generic]] = {
    "action": np.uint8,
    "reward": np.float32,
    "terminal": np.bool_,
    "last": np.bool_,
    "reset": np.bool_,
    "age": np.uint8,
}
_LEAST_SHARE = 0.01  # of transitions among drawable cells: drawing retries until it finds one


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of replay rows."""

    first: int
    last: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name: its first row, and the row after its last one."""
        return f"{self.first:012d}-{self.last:012d}.safetensors"

    def largest_file(self, num_envs: int, frame_bytes: int) -> int:
        """Returns the largest possible size of the file in bytes: that of uncompressed frames."""
        cells = (self.last - self.first) * num_envs
        return int(1.01 * cells * (frame_bytes + BYTES_BESIDE_FRAME)) + 100_000


def pack_rows(replay: Replay, first: int, last: int) -> bytes:
    """Returns rows first … last - 1 as safetensors, with compressed frames."""
    columns: dict[str, list[NDArray[Any]]] = {}
    compressor = zlib.compressobj(1)
    stream: list[bytes] = []
    before: NDArray[np.uint8] | int = 0
    for start, stop in chunks(first, last, max(1, CHUNK_CELLS // replay.num_envs)):
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


def check_segments(segments: list[Segment], rows_added: int) -> None:
    """Refuses files of rows with a gap or an overlap, or that end before the newest row.

    Raises:
        CheckpointError: such a file was found; the message names the first.
    """
    for at, segment in enumerate(segments):
        after = segments[at + 1].first if at + 1 < len(segments) else rows_added
        if not 0 <= segment.first < segment.last == after:
            raise CheckpointError(
                f"rows {segment.first} … {segment.last} of replay do not end at row {after}"
            )
    if not segments and rows_added:
        raise CheckpointError(f"no file is listed for the {rows_added} rows of replay")


def restore_rows(
    replay: Replay,
    segments: list[Segment],
    packed: list[dict[str, NDArray[Any]]],
    *,
    num_envs: int,
    num_actions: int,
    priorities: dict[str, NDArray[Any]],
) -> None:
    """Fills a ring with saved rows.

    A ring of another size keeps the rows of the old ring. A ring with another number of lanes gets
    the games of the old lanes one after another.

    Args:
        replay: a new ring.
        segments: files of rows, oldest first.
        packed: the arrays of each file.
        num_envs: lanes that played the rows.
        num_actions: actions of the game.
        priorities: priorities of the old ring, from `Replay.priorities`.

    Raises:
        CheckpointError, KeyError, ValueError: the rows are not as a run writes them.
    """
    for segment, rows in zip(segments, packed, strict=True):
        _check_columns(segment, rows, num_envs, num_actions)
    if num_envs != replay.num_envs:
        _lay_anew(replay, segments, packed, num_envs, priorities)
    elif segments:
        first = segments[0].first
        for segment, rows in zip(segments, packed, strict=True):
            for start, frames in _unpacked(segment, rows["frames"], num_envs, replay.frame_shape):
                part = slice(start - segment.first, start - segment.first + len(frames))
                columns = {name: rows[name][part] for name in _COLUMNS}
                replay.restore(start, {"frames": frames, **columns})
        old_rows = _rows_of(priorities, num_envs)
        if old_rows is not None and old_rows != replay.num_rows:
            first = max(first, replay.rows_added - old_rows)  # older rows have no priority
            priorities = _moved_priorities(replay, priorities, first, old_rows)
        replay.first_row = first
    replay.restore_priorities(priorities)
    _check_drawable(replay)


def _check_columns(
    segment: Segment, rows: dict[str, NDArray[Any]], num_envs: int, num_actions: int
) -> None:
    shape = (segment.last - segment.first, num_envs)
    for name, kind in _COLUMNS.items():
        if rows[name].shape != shape or rows[name].dtype != kind:
            raise CheckpointError(
                f"{name} of rows {segment.first} … {segment.last} is {rows[name].dtype} "
                f"{rows[name].shape}, not {np.dtype(kind)} {shape}"
            )
    if rows["frames"].dtype != np.uint8 or rows["frames"].ndim != 1:
        raise CheckpointError(f"frames of rows {segment.first} … {segment.last} are not bytes")
    if rows["action"].max(initial=0) >= num_actions:
        raise CheckpointError(
            f"rows {segment.first} … {segment.last} have action {rows['action'].max()}, but the "
            f"game has {num_actions}"
        )
    if not np.isfinite(rows["reward"]).all():
        raise CheckpointError(
            f"rows {segment.first} … {segment.last} have a reward that is not a finite number"
        )


def _check_drawable(replay: Replay) -> None:
    share = replay.share_of_transitions()
    if share < _LEAST_SHARE:
        raise CheckpointError(f"only {share:.0%} of the cells in replay are transitions")
    if priorities := replay.priorities():
        largest = float(priorities["largest_priority"])
        if not 0 < largest < np.inf:
            raise CheckpointError(f"the largest priority in replay is {largest}")
        if replay.can_sample and not replay.total_priority > 0:
            raise CheckpointError("nothing in replay has a priority above 0")


def _unpacked(
    segment: Segment, stream: NDArray[np.uint8], num_envs: int, frame_shape: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yields, a chunk at a time, the first row and the frames, uint8 (rows, lanes, bytes)."""
    decompressor = zlib.decompressobj()
    row_bytes = num_envs * int(np.prod(frame_shape))
    source = stream.tobytes()
    before: NDArray[np.uint8] | int = 0
    for start, stop in chunks(segment.first, segment.last, CHUNK_CELLS // num_envs + 1):
        wanted = (stop - start) * row_bytes
        try:
            change = decompressor.decompress(source, wanted)
        except zlib.error as error:
            raise CheckpointError(f"frames of rows {start} … {stop} are damaged") from error
        source = decompressor.unconsumed_tail
        frames: NDArray[Any] = np.frombuffer(change, dtype=np.uint8)
        frames = frames.reshape(stop - start, num_envs, -1)
        if frames.nbytes != wanted:
            raise CheckpointError(f"frames of rows {start} … {stop} have {frames.nbytes} bytes")
        frames = np.bitwise_xor.accumulate(frames, axis=0) ^ before
        before = frames[-1]
        yield start, frames


def _rows_of(priorities: dict[str, NDArray[Any]], num_envs: int) -> int | None:
    """Returns the number of rows of the ring with these priorities; None without priorities."""
    if not priorities:
        return None
    priority = priorities["priority"]
    if priority.ndim != 1 or priority.dtype != np.float32 or len(priority) < num_envs:
        raise CheckpointError(f"priorities are {priority.dtype} {priority.shape}")
    return len(priority) // num_envs


def _moved_priorities(
    replay: Replay, priorities: dict[str, NDArray[Any]], first: int, old_rows: int
) -> dict[str, NDArray[Any]]:
    """Moves priorities to the positions that their rows have in a ring of another size."""
    rows = np.arange(first, replay.rows_added)
    old = priorities["priority"][: old_rows * replay.num_envs].reshape(old_rows, -1)
    moved = np.zeros((replay.num_rows, replay.num_envs), dtype=np.float32)
    moved[rows % replay.num_rows] = old[rows % old_rows]
    return {**priorities, "priority": moved.reshape(-1)}


def _lay_anew(
    replay: Replay,
    segments: list[Segment],
    packed: list[dict[str, NDArray[Any]]],
    lanes: int,
    priorities: dict[str, NDArray[Any]],
) -> None:
    """Puts the rows of `lanes` lanes into a ring with another number of lanes.

    The rows of the old lanes are laid end to end and cut into equal parts, one for each new lane.
    Where two games meet, stacks and returns would mix both: cells there are not transitions. The
    new rows' numbers continue after the newest old row, so that no two files of rows get the same
    name.
    """
    old_rows = _rows_of(priorities, lanes)
    fresh = np.zeros((replay.num_rows, replay.num_envs), dtype=np.float32)
    old = priorities.get("priority", fresh)
    if priorities:
        priorities["priority"] = fresh.reshape(-1)  # a view of `fresh`, which is filled below
    if not segments:
        return
    end = segments[-1].last
    rows = min(end - segments[0].first, replay.num_rows * replay.num_envs // lanes)
    if old_rows is not None:
        rows = min(rows, old_rows)
    first, length = end - rows, rows * lanes // replay.num_envs
    if not length:
        return

    def laid(column: NDArray[Any]) -> NDArray[Any]:
        end_to_end = column[-rows:].T.reshape(-1)[: length * replay.num_envs]
        return np.ascontiguousarray(end_to_end.reshape(replay.num_envs, length).T)

    columns = {name: laid(np.concatenate([part[name] for part in packed])) for name in _COLUMNS}
    _part_games(columns, rows)
    for segment, part in zip(segments, packed, strict=True):
        for start, frames in _unpacked(segment, part["frames"], lanes, replay.frame_shape):
            row, lane = np.meshgrid(
                np.arange(start, start + len(frames)), np.arange(lanes), indexing="ij"
            )
            place = lane * rows + row - first
            kept = (row >= first) & (place < length * replay.num_envs)
            new_lane, new_row = np.divmod(place[kept], length)
            cell = (end + new_row) % replay.num_rows * replay.num_envs + new_lane
            replay.restore_frames(cell, frames[kept])
    replay.restore_columns(end, columns)
    replay.first_row = end
    if old_rows is not None:
        old = old[: old_rows * lanes].reshape(old_rows, lanes)
        moved = np.where(columns["reset"], 0.0, laid(old[np.arange(first, end) % old_rows]))
        moved[: STACK - 1] = 0.0  # their stacks are incomplete
        moved[max(0, length - replay.n_steps) :] = 0.0  # the ring admits them with later rows
        fresh[np.arange(end, end + length) % replay.num_rows] = moved


def _part_games(columns: dict[str, NDArray[Any]], rows: int) -> None:
    """Marks the cells where games of two lanes meet as not being transitions.

    The columns are (length, lanes). A game's last cell becomes a reset row: it only gives the next
    observation of the cell before it.
    """
    length, lanes = columns["reset"].shape
    place = np.arange(lanes) * length + np.arange(length)[:, None]
    since = place % rows  # cells since the first one of the old lane
    ends = (since == rows - 1) | (np.arange(length)[:, None] == length - 1)
    columns["last"][:-1] |= ends[1:]
    columns["reset"] |= ends | ((since < STACK - 1) & (columns["age"] > since))


def chunks(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Splits first … last - 1 into parts of at most `size`; yields their first and last + 1."""
    for start in range(first, last, size):
        yield start, min(start + size, last)
