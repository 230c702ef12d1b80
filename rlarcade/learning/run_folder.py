"""A run's folder: one place for everything that a run is and leaves behind.

RUN/
  run.json          resolved settings, preset, the code's commit: written once
  commands.jsonl    every command that worked on the run
  lock              held while a process works on it
  metrics.jsonl     every figure, one line each; tensorboard/ has the same
  checkpoints/      policy checkpoints, step-000000050000/ and so on
  state/            training states to go on from
  result.json       the evaluation at the end; its presence means the run is finished
"""

import json
import os
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlarcade.checkpoint import library_versions
from rlarcade.config import Settings, TrainConfig, reason, validated
from rlarcade.errors import RunFolderError
from rlarcade.files import open_own, read_own, write_file
from rlarcade.games.names import resolve_game
from rlarcade.learning.state import capped_buffer, regrown_buffer
from rlarcade.locks import try_lock

RUNS = Path("checkpoints")
PARENT_PIPE = "RLARCADE_PARENT_PIPE"
"""Environment variable of a sweep's runs: the pipe that ends when the sweep does."""

_FILES = ("lock", "run.json", "commands.jsonl", "metrics.jsonl", "result.json")
_FOLDERS = ("state", "state/rows", "checkpoints", "tensorboard")  # a folder before what is in it
_LARGEST_RESULT = 200_000_000  # bytes; it keeps every game, action by action
# What follows a length that leaves it no room, see `following_length`.
_FOLLOWING = ("learning_starts", "exploration_steps", "n_steps_duration")
# What may be changed when a finished run goes on, and the promise that it costs.
_CHANGEABLE = ("learning_rate", "learning_rate_final", "num_envs", "buffer_size")
_NO_TWIN = "the weights will no longer be the very same bits as an uninterrupted run's"
_COSTS = {
    "torch_threads": _NO_TWIN,
    "learning_rate": _NO_TWIN,
    "learning_rate_final": _NO_TWIN,
    "num_envs": f"the games in flight begin anew, and {_NO_TWIN}",
    "buffer_size": f"what replay holds is kept, and {_NO_TWIN}",
}
# What a machine makes of an unset setting; where others are unset, that is a value like any other.
_RESOLVED = {
    "buffer_size",
    "exploration_steps",
    "learning_rate_steps",
    "importance_steps",
    "n_steps_duration",
    "device",
    "precision",
    "compile",
    "torch_threads",
}


class RunChange(BaseModel):
    """What was changed when a run went on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str
    from_step: int
    settings: dict[str, tuple[Any, Any]]
    """Old and new value of each."""


class RunRecord(BaseModel):
    """What `run.json` holds: how the run was begun."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    preset: str
    train: TrainConfig
    """Resolved: nothing in it is `auto` or unset."""
    minutes: float | None
    """The length that was asked for, if it was asked for in minutes."""
    buffer_asked: int | None = None
    """The buffer_size that was asked for, of which the run may have had less."""
    followed: dict[str, int | None] = {}
    """Settings that follow the length of a short run, as they were asked for."""
    changes: tuple[RunChange, ...] = ()
    """Settings that were changed when a finished run went on, oldest first."""
    init_from: str | None
    """sha256 of the weights that it started from."""
    created: str
    git_commit: str | None
    libraries: dict[str, str]


def read_record(folder: Path) -> RunRecord | None:
    """Reads how the run in a folder was begun; None if no run was begun there.

    Raises:
        RunFolderError: there are files, but not of a run that this rlarcade can read.
    """
    path = folder / "run.json"
    try:
        text = read_own(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunFolderError(
            f"cannot read {path}: {reason(error)}. Use another --run-dir."
        ) from error
    try:
        record = RunRecord.model_validate_json(text)
    except ValueError as error:
        raise _altered(path, reason(error)) from error
    unset = [name for name in sorted(_RESOLVED) if getattr(record.train, name) in (None, "auto")]
    if record.train.memory == "none":
        unset = [name for name in unset if name != "buffer_size"]
    if unset:
        raise _altered(path, f"{unset[0]} is not resolved")
    return record


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """Reads what a run ended with; None where that is missing, damaged, or lacks a part."""
    try:
        outcome = json.loads(read_own(folder / "result.json", _LARGEST_RESULT))
        scores, seconds = outcome["evaluation"], outcome["seconds"]
        numbers = [outcome["steps"], scores["mean"], scores["median"], seconds["total"]]
        normalised = scores["human_normalized"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # the last state leads to it again
    numbers += [] if normalised is None else [normalised]
    return outcome if all(type(number) in (int, float) for number in numbers) else None


def default_run_folder(settings: Settings) -> Path:
    """Returns the run's folder: a function of game, preset and seed."""
    train = settings.train
    return RUNS / f"{resolve_game(train.game)}-{settings.preset}-seed{train.seed}"


def new_record(settings: Settings, train: TrainConfig, parent: str | None) -> RunRecord:
    """Returns the record of a run that begins now, with its resolved configuration."""
    asked = {name: getattr(settings.train, name) for name in _FOLLOWING}
    return RunRecord(
        preset=settings.preset,
        train=train,
        minutes=settings.run.minutes,
        buffer_asked=settings.train.buffer_size,
        followed={k: v for k, v in asked.items() if v not in (None, getattr(train, k))},
        init_from=parent,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=code_commit(),
        libraries=library_versions(),
    )


class RunFolder:
    """A run's folder, held by this process alone."""

    def __init__(self, path: Path) -> None:
        """Makes the folder if there is none, and takes its lock.

        Raises:
            RunFolderError: another process works on it, or it cannot be written.
        """
        self.path = path
        self._made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            _check_inside(path)
            self._lock = _locked(path / "lock")
        except OSError as error:
            raise RunFolderError(
                f"run folder {path} cannot be used: {error.strerror}. "
                "Choose another with --run-dir, or mend its permissions."
            ) from error

    def close(self) -> None:
        """Gives the lock back; a folder made for a run that was then refused goes away again."""
        if self._made and [entry.name for entry in self.path.iterdir()] == ["lock"]:
            (self.path / "lock").unlink()
            self.path.rmdir()
        os.close(self._lock)

    @property
    def result(self) -> Path:
        """The file whose presence means that the run is finished."""
        return self.path / "result.json"

    def finished(self) -> dict[str, Any] | None:
        """Reads the outcome of a finished run; None if it is not finished, or must finish again."""
        outcome = read_outcome(self.path)
        return outcome if outcome is not None and "checkpoint" in outcome else None

    def record(self) -> RunRecord | None:
        """Reads how the run was begun; None if no run was begun here.

        Raises:
            RunFolderError: there are files, but not of a run that this rlarcade can read.
        """
        return read_record(self.path)

    def write_record(self, record: RunRecord) -> None:
        """Writes `run.json`.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        write_file(
            self.path / "run.json", (record.model_dump_json(indent=2) + "\n").encode("utf-8")
        )

    def log_command(self, step: int) -> None:
        """Notes the command that works on the run from an agent step on."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "from_step": step,
            "git_commit": code_commit(),
        }
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with os.fdopen(
            open_own(self.path / "commands.jsonl", flags), "a", encoding="utf-8"
        ) as file:
            file.write(json.dumps(line) + "\n")


def _altered(path: Path, why: str) -> RunFolderError:
    return RunFolderError(
        f"{path} cannot be read ({why.rstrip('.')}). It was altered, or written by another "
        "rlarcade. Use another --run-dir."
    )


def _check_inside(folder: Path) -> None:
    """Refuses a folder in which our files and folders are links, or are not what they should be.

    A run folder may come from a stranger, and what a link points to would be overwritten.

    Raises:
        RunFolderError: with the first of them.
    """
    for names, is_right, kind in (
        (_FILES, stat.S_ISREG, "a file"),
        (_FOLDERS, stat.S_ISDIR, "a folder"),
    ):
        for name in names:
            path = folder / name
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue
            if not is_right(mode):
                found = "a link" if stat.S_ISLNK(mode) else f"not {kind}"
                raise RunFolderError(
                    f"run folder {folder} cannot be used: its {name} is {found}. In a run folder "
                    f"rlarcade writes {name} itself, and follows no link. Remove {path}, or "
                    "choose another --run-dir."
                )


@dataclass(frozen=True, slots=True)
class Continuation:
    """How a run goes on."""

    config: TrainConfig
    changes: dict[str, tuple[Any, Any]]
    """Settings that are others from here on: the old and the new value."""
    warnings: list[str]
    notes: list[str]
    """What the changes mean, a sentence or two each."""

    @property
    def longer(self) -> bool:
        """Whether the run has got a larger length."""
        return "total_timesteps" in self.changes

    def recorded(self, record: RunRecord, step: int) -> RunRecord:
        """Returns the run's record with the changes that hold from an agent step on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        change = RunChange(time=now, from_step=step, settings=self.changes)
        changes = {"train": self.config, "changes": (*record.changes, change)}
        return record.model_copy(update=changes)


def continued(record: RunRecord, settings: Settings, folder: Path) -> Continuation:
    """Reconciles a run with the settings that it is to go on under.

    The stored configuration holds. A larger total_timesteps continues the run: its schedules stay
    as they were resolved, replay grows with it, and some settings may be changed along with it if
    they are asked for one by one.

    Raises:
        RunFolderError: settings that may change learning differ; it names them all, with both
            values and the flags that continue the run.
        ConfigError: the changed settings do not go together.
    """
    stored, asked = record.train, settings.train
    by_minutes = settings.run.minutes is not None  # the step count was fixed when the run began
    longer = asked.total_timesteps > stored.total_timesteps and not by_minutes
    differences = {
        name: (old, new)
        for name, (old, new) in _differences(stored, asked).items()
        if not (by_minutes and name == "total_timesteps")
        and not (name in record.followed and new == record.followed[name])
    }
    changes = {}
    for name in [*differences]:
        free = name == "torch_threads" or (longer and name == "total_timesteps")
        if free or (longer and name in _CHANGEABLE and name in settings.given):
            changes[name] = differences.pop(name)
    _settle_buffer(record, settings, differences, changes)
    _check_same(differences, record.preset, settings.preset, folder)
    if not settings.minutes_by_default:
        _check_minutes(record, settings.run.minutes, folder)
    config = stored
    if changes:
        new = {name: value for name, (_, value) in changes.items()}
        config = validated(TrainConfig, {**stored.model_dump(), **new})
    threads = [_told("torch_threads", changes)] if "torch_threads" in changes else []
    return Continuation(config, changes, threads, _notes(stored, changes))


def _differences(stored: TrainConfig, asked: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that are asked for otherwise than the run has them."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in TrainConfig.model_fields:
        old, new = getattr(stored, name), getattr(asked, name)
        if name == "game":
            new = resolve_game(new)
        unset = name in _RESOLVED and (
            new in (None, "auto") or (name == "torch_threads" and new == 0)
        )
        if old != new and not unset:
            found[name] = (old, new)
    return found


def _settle_buffer(
    record: RunRecord,
    settings: Settings,
    differences: dict[str, tuple[Any, Any]],
    changes: dict[str, tuple[Any, Any]],
) -> None:
    """Takes the size of replay out of the differences, where it is none, and lets it grow."""
    old, asked = record.train.buffer_size, settings.train.buffer_size
    if old is None:
        return
    length = changes.get("total_timesteps", (0, record.train.total_timesteps))[1]
    config = record.train.model_copy(update={"total_timesteps": length})
    by_itself = settings.buffer_by_default or asked in (None, old, record.buffer_asked)
    if "total_timesteps" in changes and by_itself and "buffer_size" not in settings.given:
        new = regrown_buffer(config, record.buffer_asked)
    elif by_itself or asked is None:
        # no more was needed, or fitted, when the run began
        new = capped_buffer(config, asked) if "total_timesteps" in changes and asked else old
    else:
        new = capped_buffer(config, asked)
    if new == old or (new is not None and new > old and "total_timesteps" in changes):
        differences.pop("buffer_size", None)
        if new != old:
            changes["buffer_size"] = (old, new)


def _notes(stored: TrainConfig, changes: dict[str, tuple[Any, Any]]) -> list[str]:
    """Says what changes mean, and which promise each of them costs."""
    notes = []
    if "total_timesteps" in changes:
        old, new = changes["total_timesteps"]
        notes.append(
            f"the run goes on from {old:,} to {new:,} steps. Its schedules stay as they were: "
            f"{'; '.join(_schedules(stored))}."
        )
    notes += [_told(name, changes) for name in changes if name in _COSTS and name in _CHANGEABLE]
    return notes


def _told(name: str, changes: dict[str, tuple[Any, Any]]) -> str:
    old, new = changes[name]
    return f"{name} is {_shown(new)}, the run began with {_shown(old)}: {_COSTS[name]}."


def _schedules(config: TrainConfig) -> list[str]:
    """Says how the schedules of a run end."""
    explored = config.warm_up + (config.exploration_steps or 0)
    said = [f"epsilon is {config.exploration_final_eps:g} from step {explored:,} on"]
    if config.learning_rate_final is not None:
        said.append(
            f"the learning rate is {config.learning_rate_final:g} from step "
            f"{config.learning_rate_steps:,} on"
        )
    if config.n_steps_final is not None:
        said.append(
            f"returns have {config.n_steps_final} rewards from step {config.n_steps_duration:,} on"
        )
    if config.prioritized:
        said.append(
            f"the importance exponent is {config.importance_final_exponent:g} from step "
            f"{config.importance_steps:,} on"
        )
    return said


def _check_same(
    differences: dict[str, tuple[Any, Any]], preset: str, asked: str, folder: Path
) -> None:
    if not differences:
        return
    if preset != asked:
        raise RunFolderError(
            f"run folder {folder} holds a run of preset {preset}, not of {asked}; they differ in "
            f"{', '.join(differences)}. Leave --preset out to continue it with its own settings, "
            "or begin another run with another --run-dir."
        )
    both = [
        f"{k} = {_shown(old)}, now it is {_shown(new)}" for k, (old, new) in differences.items()
    ]
    flags = [_flag(name, old) for name, (old, _) in differences.items()]
    raise RunFolderError(
        f"run folder {folder} holds a run of preset {preset} with {'; '.join(both)}. Continue "
        f"it with {' '.join(flags)}, or begin another run with another --run-dir."
    )


def _check_minutes(record: RunRecord, minutes: float | None, folder: Path) -> None:
    if minutes is not None and minutes != record.minutes:
        raise RunFolderError(
            f"run folder {folder} holds a run of {record.train.total_timesteps:,} steps, whose "
            f"length was fixed when it began; it cannot become one of {minutes:g} minutes. "
            "Lengthen it with --total-timesteps, or use another --run-dir."
        )


def _flag(name: str, value: object) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {_shown(value) if isinstance(value, list | tuple) else quoted(value)}"


def quoted(value: object) -> str:
    """Returns a value as it can be pasted into a shell."""
    return shlex.quote(_shown(value))


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _locked(path: Path) -> int:
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    owner = os.read(descriptor, 64).strip()
    if not try_lock(descriptor):
        os.close(descriptor)
        who = owner.decode() if owner.isdigit() else "unknown"
        raise RunFolderError(
            f"run folder {path.parent} is in use by process {who}. Wait for it, stop it, or "
            "choose another --run-dir."
        )
    if owner and not owner.isdigit():
        os.close(descriptor)
        raise RunFolderError(
            f"run folder {path.parent} cannot be used: its lock holds something else than the "
            f"number of a process. Move {path} away, or choose another --run-dir."
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def process_in(folder: Path) -> str | None:
    """Returns the number of the process that works on a run folder, or None if none does."""
    try:
        descriptor = open_own(folder / "lock", os.O_RDWR)
    except OSError:
        return None
    try:
        owner = os.read(descriptor, 64).strip()
        return None if try_lock(descriptor) else owner.decode("ascii", "replace") or "unknown"
    finally:
        os.close(descriptor)


@cache
def code_commit() -> str | None:
    """Returns the git commit of this code, with `+changes` if it was altered; None if unknown.

    It is asked for once: a commit that somebody makes meanwhile is not of the code that runs.
    """
    source = Path(__file__).resolve().parent.parent.parent
    if not (source / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.SubprocessError):
        return None
