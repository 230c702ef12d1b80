"""`python -m rlarcade.sweep FILE`: trains many agents side by side; the same command goes on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, Field
from rich import box
from rich.console import Console
from rich.table import Table

from rlarcade import config, console
from rlarcade.command_line import parse_flags
from rlarcade.console import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, StopSignal, say
from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.files import write_file
from rlarcade.games.names import resolve_game
from rlarcade.learning.hardware import default_preset
from rlarcade.learning.run_folder import RUNS
from rlarcade.outputs import check_outputs

_POLL_SECONDS = 0.05  # also how long a Ctrl-C waits to be passed on
_Count = Annotated[int, Field(strict=True, ge=1)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # files are called after it


class _Flags(BaseModel, use_attribute_docstrings=True):
    file: Annotated[Path, tyro.conf.Positional]
    """TOML file: settings of every run, a grid of lists to combine, variants with names."""
    folder: Annotated[Path | None, tyro.conf.arg(name="dir")] = None
    """Where the runs' folders and logs go. Unset: checkpoints/sweeps/NAME."""
    jobs: int | None = None
    """Runs side by side. Unset: what the file says, or the number of cores."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Write the outcome of every run to this file."""
    list_runs: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Print each run's label and command, and run nothing."""


class _Variant(BaseModel, extra="allow"):
    """A named departure from the settings; one with nothing but a name is the baseline."""

    name: _Name


class _File(BaseModel, extra="forbid"):
    """What a sweep's file may hold. Settings have their names in presets; `preset` is one too."""

    name: _Name
    jobs: _Count
    threads: _Count | None = None
    settings: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    variants: Annotated[list[_Variant], Field(min_length=1)] | None = None


@dataclass(frozen=True)
class _Run:
    """One training run of a sweep; its settings have been validated."""

    label: str
    folder: Path
    given: dict[str, Any]
    """Preset and settings as the file gives them."""
    settings: config.Settings

    def beside(self, ending: str) -> Path:
        """Returns the path of a file beside the run's folder and called after it."""
        return self.folder.with_name(self.label + ending)

    def command(self) -> list[str]:
        """Returns what trains it; the preset's own values are left to the preset."""
        values = self.given | dict(self.settings.train) | dict(self.settings.run)
        flags = [flag for name in {"game": 0} | self.given for flag in _flag(name, values[name])]
        return [sys.executable, "-m", "rlarcade.train", *flags, "--run-dir", str(self.folder)]

    def result(self) -> dict[str, Any] | None:
        """Returns what the run ended with; None if it is not finished."""
        try:
            return {**json.loads((self.folder / "result.json").read_text("utf-8"))}
        except (OSError, ValueError, TypeError):
            return None

    def outcome(self, code: int | None) -> dict[str, Any]:
        result = self.result() if code == EXIT_OK else None
        return {"label": self.label, "settings": self.given, "exit": code, "result": result}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return console.run_command(_sweep_command, argv)


def _sweep_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade sweep", description=__doc__)
    check_outputs({"--json": flags.json_file}, {"the sweep's file": flags.file})
    cores = len(os.sched_getaffinity(0))
    file, runs = _read(flags, cores)
    threads = file.threads or max(1, cores // file.jobs)
    if flags.list_runs:
        for run in runs:
            say(run.label)
            say(f"  OMP_NUM_THREADS={threads} {shlex.join(run.command())}")
        return EXIT_OK
    for run in runs:
        _check_folder(run)
    with StopSignal() as stop:
        processes = _Processes(runs, file.jobs, threads, stop)
        try:
            processes.run_all()
        except OSError as error:
            console.say_error(f"{error.strerror or error}: {error.filename or 'the sweep'}.")
            return EXIT_ERROR
    console.write_json(flags.json_file, {"sweep": file.name, "runs": processes.outcomes()})
    _show_table(processes.outcomes())
    if all(outcome["exit"] == EXIT_OK for outcome in processes.outcomes()):
        return EXIT_OK
    if stop.requested:
        say(f"stopped with {processes.done()}; the same command goes on from there")
    return EXIT_INTERRUPTED if stop.requested else EXIT_ERROR


def _read(flags: _Flags, cores: int) -> tuple[_File, list[_Run]]:
    try:
        document = tomllib.loads(flags.file.read_text("utf-8"))
        asked = {} if flags.jobs is None else {"jobs": flags.jobs}
        file = config.validated(_File, {"name": flags.file.stem, "jobs": cores} | document | asked)
        return file, _expanded(file, flags.folder or RUNS / "sweeps" / file.name)
    except ConfigError as error:
        raise ConfigError(f"sweep {flags.file}: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not text
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read sweep {flags.file}: {reason}.") from error


def _expanded(file: _File, folder: Path) -> list[_Run]:
    """Returns every combination of the grid for every variant."""
    _check(file.grid, "[grid]", {})
    _check(file.settings, "[settings]", file.grid)
    variants: dict[str, dict[str, Any]] = {}
    for variant in file.variants or []:
        if variant.name in variants:
            raise ConfigError(f"two variants are called {variant.name!r}. Rename one.")
        variants[variant.name] = variant.model_extra or {}
        _check(variants[variant.name], f"variant {variant.name!r}", file.grid)
    runs: dict[str, _Run] = {}
    for name, departures in (variants or {"": {}}).items():
        for values in product(*file.grid.values()):
            varied = dict(zip(file.grid, values, strict=True))
            run = _make_run(file.settings | varied | departures, name, varied, folder)
            if run.label in runs:
                raise ConfigError(f"two runs would be called {run.label!r}. Change or remove one.")
            runs[run.label] = run
    return list(runs.values())


def _check(values: Mapping[str, Any], where: str, grid: Mapping[str, Any]) -> None:
    config.check_names({name: 0 for name in values if name != "preset"}, where)
    for name in values:
        if name in ("run_dir", "resume", "init_from"):
            raise ConfigError(f"{where} cannot set {name}: a sweep does that itself, under --dir.")
        if name in grid:
            raise ConfigError(f"{name} is in both {where} and [grid]. Remove it from one.")


def _make_run(given: dict[str, Any], variant: str, varied: dict[str, Any], folder: Path) -> _Run:
    name, values = config.load_preset(
        str(given.get("preset") or default_preset(str(given.get("device", "auto"))))
    )
    _check(values, f"preset {name!r}", {})
    values |= {key: value for key, value in given.items() if key != "preset"}
    if "game" not in values:
        raise ConfigError("no game was named. Add game to [settings], or a list of them to [grid].")
    settings = config.make_settings(name, values)
    train = settings.train.model_copy(update={"game": resolve_game(settings.train.game)})
    parts = [train.game, variant, *(_part(k, v) for k, v in varied.items() if k != "game")]
    label = "-".join(part for part in parts if part)
    return _Run(label, folder / label, given, settings.model_copy(update={"train": train}))


def _part(name: str, value: object) -> str:
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value).lower()
    return name + re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def _flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]


def _recorded(settings: config.Settings) -> dict[str, Any]:
    """Returns everything that a run's outcome follows from, the preset's values included."""
    document = settings.model_dump(mode="json")
    return {"preset": document["preset"], **document["train"], **document["run"]}


def _check_folder(run: _Run) -> None:
    """Refuses a folder of another experiment: its result must never pass for this one's."""
    if not (run.folder / "run.json").exists() and run.result() is None:
        return
    record, now = run.beside(".settings.json"), _recorded(run.settings)
    # a setting that came to rlarcade since then stood at its default
    defaults = _recorded(config.make_settings("", {"game": "pong"}))
    try:
        began = defaults | json.loads(record.read_text("utf-8"))
        names = [name for name in now | began if began.get(name) != now.get(name)]
        changed = [f"{name} = {began.get(name)}, now {now.get(name)}" for name in names]
    except (OSError, ValueError, TypeError):
        changed = [f"settings that {record} should tell and does not"]
    if changed:
        raise RunFolderError(
            f"run {run.label} was begun in {run.folder} with {'; '.join(changed)}. Put the sweep's "
            "file back as it was, or choose another --dir."
        )


class _Processes:
    """The runs as processes: at most so many at once, in the file's order."""

    def __init__(self, runs: list[_Run], jobs: int, threads: int, stop: StopSignal) -> None:
        self.runs, self.jobs, self.stop = runs, jobs, stop
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.exits = {run.label: EXIT_OK for run in runs if run.result() is not None}
        self.running: list[tuple[_Run, subprocess.Popen[bytes]]] = []

    def run_all(self) -> None:
        waiting = [run for run in self.runs if run.label not in self.exits]
        say(f"{self.done()}, {self.jobs} at a time, in {self.runs[0].folder.parent}")
        try:
            while (waiting or self.running) and not self.stop.requested:
                if waiting and len(self.running) < self.jobs:
                    self._start(waiting.pop(0))
                else:
                    self._collect()
        finally:  # whatever ends the sweep, no run goes on without it
            for _, process in self.running:
                process.send_signal(signal.SIGINT)
            while self.running:
                self._collect()

    def done(self) -> str:
        return f"{list(self.exits.values()).count(EXIT_OK)}/{len(self.runs)} done"

    def outcomes(self) -> list[dict[str, Any]]:
        return [run.outcome(self.exits.get(run.label)) for run in self.runs]

    def _start(self, run: _Run) -> None:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        write_file(run.beside(".settings.json"), json.dumps(_recorded(run.settings)).encode())
        with run.beside(".log").open("ab") as log:
            process = subprocess.Popen(
                run.command(),
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,  # a terminal's Ctrl-C reaches it only through the sweep
            )
        self.running.append((run, process))
        say(f"{self.done()}: {run.label} started")

    def _collect(self) -> None:
        time.sleep(_POLL_SECONDS)
        for run, process in self.running.copy():
            if (code := process.poll()) is None:
                continue
            self.running.remove((run, process))
            self.exits[run.label] = code
            if code == EXIT_OK and (result := run.result()):
                mean, minutes = result["evaluation"]["mean"], result["seconds"]["total"] / 60
                say(f"{self.done()}: {run.label} mean {mean:.1f}, {minutes:.1f} minutes")
            else:
                log = run.beside(".log")
                last = log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
                say(f"{self.done()}: {run.label} ended with exit code {code}; {log} ends: {last}")


def _show_table(outcomes: list[dict[str, Any]]) -> None:
    table = Table("run", "steps", "mean", "median", "human-normalised", "minutes", box=box.SIMPLE)
    for outcome in outcomes:
        cells = ["not started" if outcome["exit"] is None else "not finished"]
        if result := outcome["result"]:
            scores, normalised = result["evaluation"], result["evaluation"]["human_normalized"]
            cells = [f"{result['steps']:,}", f"{scores['mean']:.1f}", f"{scores['median']:.1f}"]
            cells.append("–" if normalised is None else f"{normalised:.1%}")
            cells.append(f"{result['seconds']['total'] / 60:.1f}")
        table.add_row(outcome["label"], *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(table)  # a file wraps no labels


if __name__ == "__main__":
    sys.exit(main())
