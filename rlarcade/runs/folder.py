"""A run's folder holds everything that belongs to the run.

RUN/
  run.json          resolved settings, preset, the code's commit; rewritten when settings change
  commands.jsonl    every command that worked on the run
  lock              held while a process works on it; tells which, on which machine
  metrics.jsonl     every figure, one line each; tensorboard/ has the same
  trackers/         how far the run is known to other trackers
  videos/           a game every --video-interval steps
  checkpoints/      policy checkpoints, step-000000050000/ and so on
  state/            training states to resume from
  result.json       the evaluation at the end; if it exists, the run is finished
"""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlarcade.checked import reason
from rlarcade.checkpoint import library_versions, list_checkpoints
from rlarcade.config import Settings, TrainConfig
from rlarcade.errors import RunFolderError
from rlarcade.files import UNFINISHED, open_own, read_own, remove_own, write_file
from rlarcade.games.names import resolve_game
from rlarcade.json_text import parse_json
from rlarcade.locks import try_lock
from rlarcade.text import without_password

RUNS = Path("checkpoints")

FORMAT_VERSION = 1
_FILES = ("lock", "run.json", "commands.jsonl", "metrics.jsonl", "result.json")
# a folder before its contents
_FOLDERS = ("state", "state/rows", "checkpoints", "tensorboard", "trackers", "videos")
_UNFINISHED = re.compile(rf"\.(run\.json|metrics\.jsonl|result\.json){UNFINISHED}")
# process and machine; rlarcade 0.1.0 wrote the process alone
_OWNER = re.compile(rb"(\d{1,20})(?: ([\w.-]{1,255}))?", re.ASCII)
_LONGEST_OWNER = 300  # bytes
LARGEST_RESULT = 200_000_000  # bytes; it keeps every game, action by action
# Settings that are shortened in a short run, see `following_length`.
FOLLOWING = ("learning_starts", "exploration_steps", "n_steps_duration")
# Settings that are resolved when they are unset or auto. For other settings, unset is a value.
RESOLVED = {
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
    """Settings that were changed when a run was continued."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str
    from_step: int
    settings: dict[str, tuple[Any, Any]]
    """Old and new value of each."""


class RunRecord(BaseModel):
    """The contents of `run.json`: how the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    preset: str
    train: TrainConfig
    """Resolved: nothing in it is `auto` or unset."""
    minutes: float | None
    """The requested length, if it was requested in minutes."""
    buffer_asked: int | None = None
    """buffer_size as requested; the run may use less."""
    followed: dict[str, int | None] = {}
    """Settings that were shortened for a short run: their values as requested."""
    custom: dict[str, str] = {}
    """Functions and modules of the user's own: name and source digest of each."""
    changes: tuple[RunChange, ...] = ()
    """Settings that were changed when the run was continued, oldest first."""
    init_from: str | None
    """sha256 of the weights that the run started from."""
    created: str
    git_commit: str | None
    libraries: dict[str, str]


def read_record(folder: Path) -> RunRecord | None:
    """Reads the record of the run in a folder; None if there is no `run.json`.

    Raises:
        RunFolderError: `run.json` cannot be read, was altered, or has another format version.
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
    if record.format_version != FORMAT_VERSION:
        raise RunFolderError(
            f"{path} has format version {record.format_version}; this rlarcade reads version "
            f"{FORMAT_VERSION}. Install the rlarcade that wrote it, or use another --run-dir."
        )
    unset = [name for name in sorted(RESOLVED) if record.train[name] in (None, "auto")]
    if record.train.memory.kind == "none":
        unset = [name for name in unset if name != "buffer_size"]
    if unset:
        raise _altered(path, f"{unset[0]} is not resolved")
    return record


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """Reads a run's outcome; None if `result.json` is missing, damaged or incomplete."""
    try:
        outcome = parse_json(read_own(folder / "result.json", LARGEST_RESULT))
        scores, seconds = outcome["evaluation"], outcome["seconds"]
        numbers = [outcome["steps"], scores["mean"], scores["median"], seconds["total"]]
        normalised = scores["human_normalized"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # resuming from the last state writes it again
    numbers += [] if normalised is None else [normalised]
    real = all(type(number) in (int, float) and isfinite(number) for number in numbers)
    return outcome if real else None


def default_run_folder(settings: Settings) -> Path:
    """Returns the run's default folder, which depends on game, preset and seed."""
    train = settings.train
    return RUNS / f"{resolve_game(train.game)}-{settings.preset}-seed{train.seed}"


def new_record(
    settings: Settings, train: TrainConfig, parent: str | None, custom: dict[str, str]
) -> RunRecord:
    """Returns the record of a run that begins now, with its resolved configuration."""
    asked = {name: settings.train[name] for name in FOLLOWING}
    return RunRecord(
        preset=settings.preset,
        train=train,
        minutes=settings.run.minutes,
        buffer_asked=settings.train.memory.buffer_size,
        followed={k: v for k, v in asked.items() if v not in (None, train[k])},
        custom=custom,
        init_from=parent,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=code_commit(),
        libraries=library_versions(),
    )


class RunFolder:
    """A run's folder, locked by this process."""

    def __init__(self, path: Path) -> None:
        """Makes the folder if it does not exist, and takes its lock.

        Raises:
            RunFolderError: another process works on the run, or the folder cannot be used.
        """
        self.path = path
        try:
            self._made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            _check_inside(path)
            self._lock = _locked(path / "lock")
            _remove_unfinished(path)
        except OSError as error:
            raise RunFolderError(
                f"run folder {path} cannot be used: {error.strerror}. "
                "Choose another with --run-dir, or fix its permissions."
            ) from error

    def close(self) -> None:
        """Releases the lock. Removes a folder that this process made but that holds no run."""
        if self._made and [entry.name for entry in self.path.iterdir()] == ["lock"]:
            (self.path / "lock").unlink()
            self.path.rmdir()
        os.close(self._lock)

    @property
    def result(self) -> Path:
        """The file of the outcome; if it exists, the run is finished."""
        return self.path / "result.json"

    def finished(self) -> dict[str, Any] | None:
        """Reads the outcome of a finished run; None if it is not finished, or must finish again."""
        outcome = read_outcome(self.path)
        return outcome if outcome is not None and "checkpoint" in outcome else None

    def record(self) -> RunRecord | None:
        """Reads the run's record; None if the folder holds no run.

        Raises:
            RunFolderError: `run.json` cannot be used, or it is missing though the folder has other
                files of a run.
        """
        record = read_record(self.path)
        if record is None and (left := self._left()) is not None:
            raise RunFolderError(
                f"run folder {self.path} has no run.json, but {left} of some run. A new run would "
                "overwrite it. Choose another --run-dir, or move those files away."
            )
        return record

    def _left(self) -> str | None:
        """Returns the name of a file in the folder that only a run writes, or None."""
        for name in ("result.json", "metrics.jsonl", "commands.jsonl"):
            if (self.path / name).exists():
                return name
        checkpoints = list_checkpoints(self.path)
        return f"checkpoints/{checkpoints[-1].name}" if checkpoints else None

    def write_record(self, record: RunRecord) -> None:
        """Writes `run.json`.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        write_file(
            self.path / "run.json", (record.model_dump_json(indent=2) + "\n").encode("utf-8")
        )

    def log_command(self, step: int) -> None:
        """Logs the command that works on the run from agent step `step` on."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": [Path(sys.argv[0]).name, *map(without_password, sys.argv[1:])],
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
    """Refuses a folder in which one of our files or folders is a link, or of another kind.

    A run folder may come from a stranger. Writing through a link would overwrite its target.

    Raises:
        RunFolderError: such an entry was found; the message names the first.
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
                    f"rlarcade writes {name} itself and does not follow links. Remove {path}, or "
                    "choose another --run-dir."
                )


def _remove_unfinished(folder: Path) -> None:
    """Removes temporary files that a kill left behind."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            remove_own(path)


def _locked(path: Path) -> int:
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    owner = os.read(descriptor, _LONGEST_OWNER).strip()
    if not try_lock(descriptor):
        os.close(descriptor)
        raise RunFolderError(
            f"run folder {path.parent} is in use by process {_told(owner)}. Wait for it, stop it, "
            "or choose another --run-dir."
        )
    if owner and not _OWNER.fullmatch(owner):
        os.close(descriptor)
        raise RunFolderError(
            f"run folder {path.parent} cannot be used: its lock holds something other than a "
            f"process number. Move {path} away, or choose another --run-dir."
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
    return descriptor


def _told(owner: bytes) -> str:
    """Returns who holds a lock, from what the lock says: on which machine, if not on this one."""
    found = _OWNER.fullmatch(owner)
    if found is None:
        return "unknown"
    process, machine = found[1].decode(), (found[2] or b"").decode()
    elsewhere = machine not in ("", socket.gethostname())
    return f"{process} on {machine}" if elsewhere else process


def process_in(folder: Path) -> str | None:
    """Returns the id of the process that works on a run folder, or None if there is none.

    If the folder lies on storage that machines share, it may be a process of another machine: the
    id then has the machine's name, such as "1234 on node-7".
    """
    try:
        descriptor = open_own(folder / "lock", os.O_RDWR)
    except OSError:
        return None
    try:
        owner = os.read(descriptor, _LONGEST_OWNER).strip()
        return None if try_lock(descriptor) else _told(owner)
    finally:
        os.close(descriptor)


@cache
def code_commit() -> str | None:
    """Returns the git commit of this code, with `+changes` if it was altered; None if unknown.

    The result is cached: a commit made later does not describe the code that already runs.
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
