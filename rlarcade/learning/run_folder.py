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

import fcntl
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rlarcade.checkpoint import library_versions
from rlarcade.config import Settings, TrainConfig
from rlarcade.errors import RunFolderError
from rlarcade.files import write_file
from rlarcade.games.names import resolve_game

RUNS = Path("checkpoints")

_OUTCOME = {"checkpoint", "steps"}
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
    init_from: str | None
    """sha256 of the weights that it started from."""
    created: str
    git_commit: str | None
    libraries: dict[str, str]


def default_run_folder(settings: Settings) -> Path:
    """Returns the run's folder: a function of game, preset and seed."""
    train = settings.train
    return RUNS / f"{resolve_game(train.game)}-{settings.preset}-seed{train.seed}"


def new_record(settings: Settings, train: TrainConfig, parent: str | None) -> RunRecord:
    """Returns the record of a run that begins now, with its resolved configuration."""
    return RunRecord(
        preset=settings.preset,
        train=train,
        minutes=settings.run.minutes,
        buffer_asked=settings.train.buffer_size,
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
        self._lock.close()

    @property
    def result(self) -> Path:
        """The file whose presence means that the run is finished."""
        return self.path / "result.json"

    def finished(self) -> dict[str, Any] | None:
        """Reads the outcome of a finished run; None if it is not finished, or must finish again."""
        try:
            outcome: dict[str, Any] = json.loads(self.result.read_text("utf-8"))
        except (OSError, ValueError):  # none, or damaged: the last state leads to it again
            return None
        return outcome if isinstance(outcome, dict) and set(outcome) >= _OUTCOME else None

    def record(self) -> RunRecord | None:
        """Reads how the run was begun; None if no run was begun here.

        Raises:
            RunFolderError: there are files, but not of a run that this rlarcade can read.
        """
        path = self.path / "run.json"
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"cannot read {path}: {error}. Use another --run-dir.") from error
        try:
            return RunRecord.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            raise RunFolderError(
                f"{path} cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']}). It "
                "was altered, or written by another rlarcade. Use another --run-dir."
            ) from error

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
        with (self.path / "commands.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def continued(record: RunRecord, settings: Settings, folder: Path) -> tuple[TrainConfig, list[str]]:
    """Reconciles a run with the settings that it is to go on under.

    The stored configuration holds; a larger total_timesteps continues the run with the schedules as
    they were resolved.

    Returns:
        The configuration to go on with, and warnings.

    Raises:
        RunFolderError: settings that may change learning differ; it names them all, with both
            values and the flags that continue the run.
    """
    stored, asked = record.train, settings.train
    warnings: list[str] = []
    changes: dict[str, Any] = {}
    differences: dict[str, tuple[Any, Any]] = {}
    for name in TrainConfig.model_fields:
        old, new = getattr(stored, name), getattr(asked, name)
        if name == "game":
            new = resolve_game(new)
        unset = name in _RESOLVED and (
            new in (None, "auto") or (name == "torch_threads" and new == 0)
        )
        if old == new or unset:
            continue
        if name == "buffer_size" and (settings.buffer_by_default or new == record.buffer_asked):
            continue  # no more was needed, or fitted, when the run began
        if name == "total_timesteps":
            if settings.run.minutes is not None:
                continue  # the step count was fixed when the run began
            if new > old:
                changes[name] = new
                continue
        if name == "torch_threads":
            warnings.append(
                f"torch_threads is {new}, the run began with {old}: the weights will no longer be "
                "the very same bits as an uninterrupted run's."
            )
            changes[name] = new
            continue
        differences[name] = (old, new)
    _check_same(differences, record.preset, folder)
    if not settings.minutes_by_default:
        _check_minutes(record, settings.run.minutes, folder)
    return stored.model_copy(update=changes), warnings


def _check_same(differences: dict[str, tuple[Any, Any]], preset: str, folder: Path) -> None:
    if differences:
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
    return f"--{option} {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _locked(path: Path) -> IO[str]:
    file = path.open("a+", encoding="utf-8")
    try:
        # The kernel gives the lock back when the process ends, however it ends.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise RunFolderError(
            f"run folder {path.parent} is in use by process {owner}. Wait for it, stop it, or "
            "choose another --run-dir."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def code_commit() -> str | None:
    """Returns the git commit of this code, with `+changes` if it was altered; None if unknown."""
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
