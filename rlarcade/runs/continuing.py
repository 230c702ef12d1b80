"""Resuming a run: with its stored settings, and with changes where flags ask for them."""

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlarcade.checked import validated
from rlarcade.config import Settings, TrainConfig
from rlarcade.errors import RunFolderError
from rlarcade.games.names import resolve_game
from rlarcade.learning.state import capped_buffer, regrown_buffer
from rlarcade.runs.folder import RESOLVED, RunChange, RunRecord

# Settings that may be changed when a run is lengthened, and the promise that each costs.
_CHANGEABLE = ("learning_rate", "learning_rate_final", "num_envs", "buffer_size")
_NO_TWIN = "the weights will no longer be bit for bit those of an uninterrupted run"
_COSTS = {
    "torch_threads": _NO_TWIN,
    "learning_rate": _NO_TWIN,
    "learning_rate_final": _NO_TWIN,
    "num_envs": f"the games in flight begin anew, and {_NO_TWIN}",
    "buffer_size": f"the contents of replay are kept, and {_NO_TWIN}",
}


@dataclass(frozen=True, slots=True)
class Continuation:
    """How a run is resumed."""

    config: TrainConfig
    changes: dict[str, tuple[Any, Any]]
    """Settings that change from here on: the old and the new value of each."""
    warnings: list[str]
    notes: list[str]
    """What the changes mean, one or two sentences each."""

    @property
    def longer(self) -> bool:
        """Whether the run was lengthened."""
        return "total_timesteps" in self.changes

    def recorded(self, record: RunRecord, step: int) -> RunRecord:
        """Returns the run's record with the changes, which hold from agent step `step` on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        change = RunChange(time=now, from_step=step, settings=self.changes)
        changes = {"train": self.config, "changes": (*record.changes, change)}
        return record.model_copy(update=changes)


def continued(record: RunRecord, settings: Settings, folder: Path) -> Continuation:
    """Compares a stored run with the settings that are asked for now.

    The stored configuration holds. A larger total_timesteps lengthens the run: its schedules stay
    as they were resolved, and replay grows with it. Flags may then change some other settings too.

    Raises:
        RunFolderError: settings that may change learning differ. The message names them all, with
            both values and the flags that continue the run.
        ConfigError: the changed settings do not go together.
    """
    stored, asked = record.train, settings.train
    by_minutes = settings.run.minutes is not None  # the step count was fixed when the run began
    longer = asked.schedule.total_timesteps > stored.schedule.total_timesteps and not by_minutes
    differences = {
        name: (old, new)
        for name, (old, new) in _differences(stored, asked).items()
        if not (by_minutes and name == "total_timesteps")
        and not (name in record.followed and new == record.followed[name])
    }
    changes = {}
    for name in [*differences]:
        free = name == "torch_threads" or (longer and name == "total_timesteps")
        asked_for = longer and name in _CHANGEABLE and name in settings.given
        if free or (asked_for and name != "buffer_size"):
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
    """Returns the settings that differ: the stored and the asked value of each."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in TrainConfig.setting_names:
        old, new = stored[name], asked[name]
        if name == "game":
            new = resolve_game(new)
        unset = name in RESOLVED and (
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
    """Decides on the size of replay: whether it differs, and whether it grows.

    Moves `buffer_size` from `differences` to `changes`, or removes it from `differences`.
    """
    old, asked = record.train.memory.buffer_size, settings.train.memory.buffer_size
    if old is None or record.train.memory.kind == "none":
        return
    length = changes.get("total_timesteps", (0, record.train.schedule.total_timesteps))[1]
    config = record.train.model_copy(update={"total_timesteps": length})
    by_itself = settings.buffer_by_default or asked in (None, old, record.buffer_asked)
    if "total_timesteps" in changes and by_itself and "buffer_size" not in settings.given:
        new = regrown_buffer(config, record.buffer_asked)
    elif by_itself or asked is None:
        # the run may have begun with less, because no more was needed or fitted
        new = capped_buffer(config, asked) if "total_timesteps" in changes and asked else old
    else:
        new = capped_buffer(config, asked)
    if new == old or (new is not None and new > old and "total_timesteps" in changes):
        differences.pop("buffer_size", None)
        if new != old:
            changes["buffer_size"] = (old, new)


def _notes(stored: TrainConfig, changes: dict[str, tuple[Any, Any]]) -> list[str]:
    """Returns a sentence on each change: what it means, and which promise it costs."""
    notes = []
    if "total_timesteps" in changes:
        old, new = changes["total_timesteps"]
        notes.append(
            f"the run is lengthened from {old:,} to {new:,} steps. Its schedules do not change: "
            f"{'; '.join(_schedules(stored))}."
        )
    notes += [_told(name, changes) for name in changes if name in _COSTS and name in _CHANGEABLE]
    return notes


def _told(name: str, changes: dict[str, tuple[Any, Any]]) -> str:
    old, new = changes[name]
    return f"{name} is {_shown(new)}, but the run began with {_shown(old)}: {_COSTS[name]}."


def _schedules(config: TrainConfig) -> list[str]:
    """Returns how each schedule of a run ends."""
    explored = config.warm_up + (config.exploration.steps or 0)
    said = [f"epsilon is {config.exploration.final_eps:g} from step {explored:,} on"]
    if config.optimizer.learning_rate_final is not None:
        said.append(
            f"the learning rate is {config.optimizer.learning_rate_final:g} from step "
            f"{config.optimizer.learning_rate_steps:,} on"
        )
    if config.target.n_steps_final is not None:
        said.append(
            f"returns sum {config.target.n_steps_final} rewards from step "
            f"{config.target.n_steps_duration:,} on"
        )
    if config.memory.prioritized:
        said.append(
            f"the importance exponent is {config.memory.importance_final_exponent:g} from step "
            f"{config.memory.importance_steps:,} on"
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
            f"run folder {folder} holds a run of {record.train.schedule.total_timesteps:,} steps. "
            f"Its length was fixed when it began, so it cannot last {minutes:g} minutes. "
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
