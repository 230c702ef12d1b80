"""The training state on disk: a killed run resumes from it as if it had never stopped.

    RUN/state/
      rows/000000000000-000000003125.safetensors   replay rows, each written once
      step-000000050000/arrays.safetensors         networks, optimizer, games in flight
      step-000000050000/state.json                 counters, random generators, list of row files

Replay rows never change once written. A save writes only new rows, so its cost does not grow with
the buffer. A row is stored as its difference to the row before, because most of a screen does not
change, and compressed: it is some fifty times smaller than in memory. The rows go to several files,
which all cores compress in parallel while the learner waits. `state.json` holds the sha256 of every
file and its own. So a damaged state is noticed, and an older one is used.
"""

import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_tensors

from rlarcade.checkpoint import parse_tensors
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError
from rlarcade.files import UNFINISHED, own_folder, remove_own, write_file, write_folder
from rlarcade.games.lanes import Progress, TrainingLanes
from rlarcade.games.protocols import MOST_ACTIONS
from rlarcade.learning.custom import NOTHING, Custom
from rlarcade.learning.frames import BLOCKED_FRAME
from rlarcade.learning.networks import weights_bytes
from rlarcade.learning.replay import Replay
from rlarcade.learning.state import TrainingState, replay_capacity
from rlarcade.machine import cores
from rlarcade.runs import saved_state
from rlarcade.runs.saved_rows import Segment, chunks, pack_rows, restore_rows
from rlarcade.runs.saved_state import FORMAT_VERSION, Arrays, Document
from rlarcade.text import printable

_KEPT = 2  # whole states; the older one is used if the newer one is damaged
_SEGMENT_CELLS = 8192  # in a file of rows: they compress well, and there are files for all cores
_ARRAYS, _DOCUMENT = "arrays.safetensors", "state.json"
# Only files with these names are ours; others are never deleted.
_OWN_STATE = re.compile(r"\.?step-\d{12,}(\.writing|\.old)?")
_OWN_ROWS = re.compile(rf"\.?\d{{12,}}-\d{{12,}}\.safetensors({UNFINISHED})?")


@dataclass(slots=True)
class StateStore:
    """The training states in a run folder.

    Attributes:
        folder: `RUN/state`.
        segments: files of replay rows on the disk, oldest first.
        kept: steps of the states that were written or found whole, oldest first.
        seconds: wall time of the run until the loaded state, by part.
        games_began_anew: whether the loaded state had another number of lanes, so that all games
            begin anew.
    """

    folder: Path
    segments: list[Segment] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    games_began_anew: bool = False

    def save(self, state: TrainingState, seconds: Mapping[str, float] | None = None) -> None:
        """Writes a state. Older states are pruned only once it is on the disk.

        Args:
            state: the state.
            seconds: wall time of the run until now, by part.

        Raises:
            OSError: the disk is full or cannot be written, or something in the folder is a link.
                The older states are not changed.
            DivergenceError: the newest loss is not finite, so the weights are not worth keeping.
            TypeError: the state's games are not `TrainingLanes`; other games cannot be rebuilt.
        """
        if not isinstance(state.lanes, TrainingLanes):
            raise TypeError(
                f"only runs on TrainingLanes can be saved, not on {type(state.lanes).__name__}"
            )
        state.require_finite()
        own_folder(self.folder)
        self._save_rows(state.replay)
        arrays = {f"agent.{name}": array for name, array in state.learner.state().items()}
        arrays |= {f"lanes.{name}": array for name, array in state.lanes.state().items()}
        arrays |= {f"tracker.{name}": array for name, array in state.tracker.state().items()}
        arrays |= {f"replay.{name}": array for name, array in state.replay.priorities().items()}
        arrays |= {f"figures.{name}": array for name, array in state.figures.state().items()}
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
            "agent_rng": state.learner.rng.bit_generator.state,
            "arrays_sha256": hashlib.sha256(data).hexdigest(),
            "seconds": dict(seconds or {}),
        }
        write_folder(self._path(state.steps), {_ARRAYS: data, _DOCUMENT: saved_state.sealed(body)})
        self.kept = [*(step for step in self.kept if step < state.steps), state.steps][-_KEPT:]
        self._prune()

    def load(
        self,
        config: TrainConfig,
        *,
        progress: Progress | None = None,
        custom: Custom = NOTHING,
    ) -> tuple[TrainingState | None, list[str]]:
        """Builds the newest whole state.

        Args:
            config: the run's resolved configuration.
            progress: called while the games in flight are rebuilt.
            custom: the functions and modules of your own that the run began with.

        Returns:
            The state, or None if no state was ever saved; and the problems of newer states.

        Raises:
            CheckpointError: states were saved, but none can be used.
            ConfigError, ResourceError: this machine cannot hold the run.
        """
        problems: list[str] = []
        steps = self.saved_steps()
        network = weights_bytes(config.network, MOST_ACTIONS, custom.torso)
        for position in range(len(steps) - 1, -1, -1):
            try:
                saved = self._read(steps[position], config, network)
            except Exception as error:
                problems.append(self._problem(steps[position], error))
                continue
            state = TrainingState.unstarted(config, custom=custom)
            try:
                self._restore(state, saved, progress)
            except Exception as error:
                problems.append(self._problem(steps[position], error))
                del state
                continue
            self.kept = steps[: position + 1][-_KEPT:]
            self.seconds = saved.document.seconds
            return state, problems
        if problems:
            raise CheckpointError(
                f"none of the {len(steps)} training states in {self.folder} can be used: "
                f"{problems[0]} Its policy checkpoints may still be whole: start a new run from "
                "one with --init-from, in another --run-dir."
            )
        return None, problems

    def _problem(self, steps: int, error: Exception) -> str:
        """Returns one sentence that says why a state cannot be used."""
        what = printable(error, 300)
        if isinstance(error, CheckpointError) and str(self.folder) in what:
            return what
        kind = "" if isinstance(error, CheckpointError) else f"{type(error).__name__}: "
        return (
            f"training state {self._path(steps)} was written by another rlarcade, or altered "
            f"({kind}{what.rstrip('.')})."
        )

    def saved_steps(self) -> list[int]:
        """Returns the agent steps of the states on the disk, whole or not, oldest first."""
        return sorted(
            int(path.name.removeprefix("step-"))
            for path in self.folder.glob("step-*")
            if _OWN_STATE.fullmatch(path.name) and path.name.removeprefix("step-").isdigit()
        )

    def _path(self, steps: int) -> Path:
        return self.folder / f"step-{steps:012d}"

    def _save_rows(self, replay: Replay) -> None:
        """Writes rows that are not on the disk yet; drops files of rows that the ring has lost."""
        oldest = replay.oldest
        first = max(self.segments[-1].last if self.segments else 0, oldest)
        rows = own_folder(self.folder / "rows")
        parts = [*chunks(first, replay.rows_added, max(1, _SEGMENT_CELLS // replay.num_envs))]
        with ThreadPoolExecutor(cores()) as pool:
            packed = pool.map(lambda part: pack_rows(replay, *part), parts)
            for part, data in zip(parts, packed, strict=True):
                segment = Segment(*part, hashlib.sha256(data).hexdigest())
                write_file(rows / segment.name, data)
                self.segments.append(segment)
        self.segments = [segment for segment in self.segments if segment.last > oldest]

    def _prune(self) -> None:
        """Deletes the files that no kept state needs."""
        needed: set[str] = set()
        for step in self.kept:
            try:
                document = saved_state.read_document(self._path(step) / _DOCUMENT)
            except CheckpointError:
                continue
            needed |= {segment.name for segment in document.files_of_rows}
        kept = {self._path(step).name for step in self.kept}
        for path in self.folder.iterdir():
            if _OWN_STATE.fullmatch(path.name) and path.name not in kept:
                _remove_if_possible(path)
        for path in (self.folder / "rows").iterdir():
            if _OWN_ROWS.fullmatch(path.name) and path.name not in needed:
                _remove_if_possible(path)

    def _read(self, steps: int, config: TrainConfig, network: int) -> "_Saved":
        """Reads all files of a state; checks all digests before anything large is built.

        Args:
            steps: agent step of the state.
            config: the run's resolved configuration.
            network: bytes of the run's network.
        """
        path = self._path(steps)
        document = saved_state.read_document(path / _DOCUMENT)
        saved_state.check_document(document, steps, config)
        arrays = saved_state.read_arrays(path / _ARRAYS, document, config, network)
        saved = _Saved(document, path, arrays)
        num_envs = len(saved.part("lanes")["age"])
        segments = document.files_of_rows
        cells = sum(segment.last - segment.first for segment in segments) * num_envs
        capacity = max(replay_capacity(config), num_envs * config.rollout_size)
        if cells > 2 * (capacity + _SEGMENT_CELLS):
            raise CheckpointError(f"it has {cells:,} cells of replay, the run has {capacity:,}")
        for segment in segments:
            rows = self.folder / "rows" / segment.name
            limit = segment.largest_file(num_envs, int(np.prod(BLOCKED_FRAME)))
            data = saved_state.read_checked(rows, segment.sha256, limit)
            saved.packed.append(parse_tensors(data, rows))
        return saved

    def _restore(self, state: TrainingState, saved: "_Saved", progress: Progress | None) -> None:
        """Fills a new state.

        Raises:
            Exception: the files were altered; any type of exception may result.
        """
        document, config = saved.document, state.config
        assert isinstance(state.lanes, TrainingLanes)
        lanes, tracker, learner = (saved.part(name) for name in ("lanes", "tracker", "agent"))
        figures = saved.part("figures")
        saved_state.check_numbers(learner | tracker | figures)
        if document.updates and not any(name.startswith("adam.") for name in learner):
            raise CheckpointError("the optimizer's state is missing")
        num_envs = saved_state.check_games(lanes, tracker, state.lanes.num_actions)
        state.steps, state.updates = document.steps, document.updates
        state.parent = document.parent
        state.explore_rng.bit_generator.state = document.explore_rng.model_dump()
        state.replay_rng.bit_generator.state = document.replay_rng.model_dump()
        state.learner.rng.bit_generator.state = document.agent_rng.model_dump()
        state.learner.restore(learner, saved.path)
        state.figures.restore(figures)
        self.games_began_anew = num_envs != config.schedule.num_envs
        self.segments = [] if self.games_began_anew else document.files_of_rows
        restore_rows(
            state.replay,
            document.files_of_rows,
            saved.packed,
            num_envs=num_envs,
            num_actions=state.lanes.num_actions,
            priorities=saved.part("replay"),
        )
        if self.games_began_anew:
            state.lanes.start(progress, num_reseeds=int(lanes["num_reseeds"].max()) + 1)
        else:
            state.tracker.restore(tracker)
            state.lanes.rebuild(lanes, progress)


@dataclass(slots=True)
class _Saved:
    """The contents of a state's files."""

    document: Document
    path: Path
    arrays: Arrays
    packed: list[Arrays] = field(default_factory=list)
    """The arrays of each file of rows."""

    def part(self, name: str) -> Arrays:
        """Returns the arrays of one part of the state, without the part's name in their names."""
        prefix = name + "."
        return {k.removeprefix(prefix): a for k, a in self.arrays.items() if k.startswith(prefix)}


def _remove_if_possible(path: Path) -> None:
    with suppress(OSError):  # the next save retries
        remove_own(path)
