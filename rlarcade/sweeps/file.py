"""The file of a sweep, and the runs that it means."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field

from rlarcade import config
from rlarcade.checked import validated
from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.files import read_own
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import ProtocolName
from rlarcade.json_text import parse_json
from rlarcade.runs.folder import RUNS, read_outcome
from rlarcade.sweeps.sections import Compare, Count, Search
from rlarcade.text import quoted
from rlarcade.toml_files import errors_of, read_toml

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # files get this name


class _Variant(BaseModel, extra="allow"):
    """A named set of settings that replace the common ones; the baseline has only a name."""

    name: _Name


class SweepFile(BaseModel, extra="forbid"):
    """The contents of a sweep's file. Settings have the same names as in presets, and `preset`."""

    name: _Name
    jobs: Count | None = None
    threads: Count | None = None
    settings: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    variants: Annotated[list[_Variant], Field(min_length=1)] | None = None
    compare: Compare | None = None
    search: Search | None = None

    def folder(self, given: Path | None) -> Path:
        """Returns the folder of the runs' folders; `given` if there is one."""
        return given or RUNS / "sweeps" / self.name


@dataclass(frozen=True)
class SweepRun:
    """One training run of a sweep; its settings have been validated."""

    label: str
    agent: str
    """What is trained: the label without game and seed, or the preset if nothing else varies."""
    folder: Path
    given: dict[str, Any]
    """Preset and settings as the file gives them."""
    settings: config.Settings

    def beside(self, ending: str) -> Path:
        """Returns the path of a file beside the run's folder: its name and `ending`."""
        return self.folder.with_name(self.label + ending)

    def command(self) -> list[str]:
        """Returns the command that trains the run."""
        preset = ["--preset", str(self.given["preset"])]
        words = [*preset, *self.flags(), "--run-dir", str(self.folder)]
        return [sys.executable, "-m", "rlarcade.train", *words]

    def flags(self) -> list[str]:
        """Returns the flags of the settings that the file gives, apart from the preset."""
        values = self.settings.train.flat() | dict(self.settings.run)
        names = [name for name in {"game": 0} | self.given if name != "preset"]
        return [flag for name in names for flag in _flag(name, values[name])]

    def result(self) -> dict[str, Any] | None:
        """Returns the run's outcome; None if it is not finished."""
        return read_outcome(self.folder)


def read_sweep(
    path: Path, folder: Path | None, *, jobs: int | None
) -> tuple[SweepFile, list[SweepRun]]:
    """Reads a sweep's file.

    Of a comparison, the runs are those of its first round; of a search, there are none yet.

    Args:
        path: the file.
        folder: folder of the runs' folders; None: checkpoints/sweeps/NAME.
        jobs: runs side by side; None: the file's number, if it has one.

    Raises:
        ConfigError, GameError: the file cannot be read, or a setting in it cannot be used.
    """
    document = read_toml(path, "sweep")
    asked = {} if jobs is None else {"jobs": jobs}
    with errors_of(f"sweep {path}"):
        file = validated(SweepFile, {"name": path.stem} | document | asked)
        _check_sections(file)
        if file.search is not None:
            return file, []
        return file, expanded(file, file.folder(folder), seeds=round_seeds(file))


def _check_sections(file: SweepFile) -> None:
    """Refuses sections that contradict each other."""
    others = [
        name
        for name, there in (
            ("[compare]", file.compare is not None),
            ("[grid]", bool(file.grid)),
            ("[[variants]]", file.variants is not None),
        )
        if there
    ]
    if file.search is not None and others:
        raise ConfigError(
            f"[search] chooses one run after another, so {others[0]} cannot stand beside it. "
            "Remove one of them."
        )
    setters = [("[grid]", file.grid)]
    setters += [
        (f"variant {quoted(one.name)}", one.model_extra or {}) for one in file.variants or []
    ]
    for where, values in setters:
        if file.compare is not None and "seed" in values:
            raise ConfigError(
                f"{where} cannot set seed beside [compare], which asks for one seed after another, "
                "from seed in [settings] on. Remove it."
            )


def round_seeds(file: SweepFile, earlier: int = 0) -> Sequence[int] | None:
    """Returns the training seeds of a comparison's round; None without `[compare]`.

    Args:
        file: the sweep.
        earlier: rounds before this one.
    """
    if file.compare is None:
        return None
    first = expanded(file, Path())[0].settings.train.seed + earlier * file.compare.seeds
    return range(first, first + file.compare.seeds)


def expanded(file: SweepFile, folder: Path, seeds: Sequence[int] | None = None) -> list[SweepRun]:
    """Returns every combination of the grid for every variant.

    Args:
        file: the sweep.
        folder: folder of the runs' folders.
        seeds: train every combination with each of these seeds; None: as the file says.

    Raises:
        ConfigError, GameError: a setting cannot be used.
    """
    grid = file.grid if seeds is None else file.grid | {"seed": list(seeds)}
    _check(file.grid, "[grid]", {})
    _check(file.settings, "[settings]", file.grid)
    variants: dict[str, dict[str, Any]] = {}
    for variant in file.variants or []:
        if variant.name in variants:
            raise ConfigError(f"two variants are called {quoted(variant.name)}. Rename one.")
        variants[variant.name] = variant.model_extra or {}
        _check(variants[variant.name], f"variant {quoted(variant.name)}", file.grid)
    runs: dict[str, SweepRun] = {}
    for name, departures in (variants or {"": {}}).items():
        for values in product(*grid.values()):
            varied = config.whole_numbers(dict(zip(grid, values, strict=True)))
            run = _make_run(file.settings | varied | departures, name, varied, folder)
            if run.label in runs:
                raise ConfigError(
                    f"two runs would be called {quoted(run.label)}. Change or remove one."
                )
            runs[run.label] = run
    return list(runs.values())


def trial_run(file: SweepFile, folder: Path, number: int, chosen: Mapping[str, Any]) -> SweepRun:
    """Returns the run of a search's trial, such as trial-0007.

    Args:
        file: the sweep.
        folder: folder of the runs' folders.
        number: the trial's number, from 0.
        chosen: the settings that the search has chosen.

    Raises:
        ConfigError, GameError: a setting cannot be used, or some do not go together.
    """
    run = _make_run(file.settings | dict(chosen), "", {}, folder)
    label = f"trial-{number:04d}"
    return replace(run, label=label, agent=label, folder=folder / label)


def _check(values: Mapping[str, Any], where: str, grid: Mapping[str, Any]) -> None:
    config.check_names({name: 0 for name in values if name != "preset"}, where)
    for name in values:
        if name in ("run_dir", "resume"):
            raise ConfigError(f"{where} cannot set {name}: the sweep sets it itself, under --dir.")
        if name in grid:
            raise ConfigError(f"{name} is in both {where} and [grid]. Remove it from one.")


def _default_preset(given: dict[str, Any]) -> str:
    from rlarcade.learning.hardware import default_preset  # imports torch, to look for a GPU

    return default_preset(str(given.get("device", "auto")))


def _make_run(
    given: dict[str, Any], variant: str, varied: dict[str, Any], folder: Path
) -> SweepRun:
    given = config.whole_numbers(given)
    # Another machine that the run goes on may have another default.
    preset = str(given.get("preset") or _default_preset(given))
    given = {"preset": preset} | given
    name, values = config.load_preset(preset)
    _check(values, f"preset {quoted(name)}", {})
    if not isinstance(given.get("protocol", ""), str):
        raise ConfigError(
            f"protocol = {quoted(given['protocol'])} is no name. Each run of a sweep is a command, "
            f"which takes one of {', '.join(get_args(ProtocolName))}."
        )
    if "minutes" in given and "total_timesteps" in given:
        raise ConfigError(
            f"minutes = {given['minutes']} and total_timesteps = {given['total_timesteps']} both "
            "set the length of a run. Keep one of them."
        )
    values = config.giving_way(values, given)
    values |= {key: value for key, value in given.items() if key != "preset"}
    if "game" not in values:
        raise ConfigError("no game was named. Add game to [settings], or a list of them to [grid].")
    settings = config.make_settings(name, values)
    train = settings.train.model_copy(update={"game": resolve_game(settings.train.game)})
    parts = {k: _part(k, v) for k, v in varied.items() if k != "game"}
    label = _joined(train.game, variant, *parts.values())
    agent = _joined(variant, *(part for k, part in parts.items() if k != "seed")) or name
    settings = settings.model_copy(update={"train": train})
    return SweepRun(label, agent, folder / label, given, settings)


def _joined(*parts: str) -> str:
    return "-".join(part for part in parts if part)


def _part(name: str, value: object) -> str:
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value).lower()
    return name + re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def _flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if name == "track" and isinstance(value, tuple):
        return [word for one in value for word in (f"--{flag}", str(one))]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]


def recorded(settings: config.Settings) -> dict[str, Any]:
    """Returns all settings that decide a run's outcome, including those of its preset."""
    document = settings.model_dump(mode="json")
    return {"preset": document["preset"], **document["train"], **document["run"]}


def check_folder(run: SweepRun) -> None:
    """Refuses the folder of another experiment: its result must not be taken for this run's."""
    for path in (run.beside(".settings.json"), run.beside(".log")):
        if path.is_symlink():
            raise RunFolderError(
                f"{path} is a link, and the sweep would write to its target. Remove the link."
            )
    if not (run.folder / "run.json").exists() and run.result() is None:
        return
    record, now = run.beside(".settings.json"), recorded(run.settings)
    # a setting that is newer than the record had its default value
    defaults = recorded(config.make_settings("", {"game": "pong"}))
    try:
        began = defaults | parse_json(read_own(record))
        names = [name for name in now | began if began.get(name) != now.get(name)]
        changed = [f"{name} = {began.get(name)}, now {now.get(name)}" for name in names]
    except (OSError, ValueError, TypeError):
        changed = [f"unknown settings: {record} is missing or damaged"]
    if changed:
        raise RunFolderError(
            f"run {run.label} was begun in {run.folder} with {'; '.join(changed)}. Put the sweep's "
            "file back as it was, or choose another --dir."
        )
