"""`python -m rlarcade.sweep FILE`: trains many agents side by side; the same command resumes."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product, zip_longest
from pathlib import Path
from typing import Annotated, Any, Self

import tyro
from pydantic import BaseModel, Field
from rich import box
from rich.console import Console, OverflowMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlarcade import config, console
from rlarcade.checked import reason, validated
from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    StopSignal,
    say,
)
from rlarcade.errors import ConfigError, RlarcadeError, RunFolderError
from rlarcade.files import open_own, open_regular, read_own, write_file
from rlarcade.games.names import resolve_game
from rlarcade.learning.hardware import cores, default_preset
from rlarcade.outputs import check_outputs
from rlarcade.progress import duration
from rlarcade.runs.folder import (
    RUNS,
    process_in,
    read_outcome,
    read_record,
)
from rlarcade.runs.metrics import newest_metrics
from rlarcade.text import printable, quoted
from rlarcade.toml_files import errors_of, read_toml

_HEADERS = ("steps", "mean", "median", "human-normalised", "minutes")
_PADDING = 2 * (len(_HEADERS) + 2)  # characters between columns and beside the table
_END_OF_LOG = 65_536  # bytes that are read to find a log's last line
_PLAIN_SECONDS = 10.0  # between lines of progress, without a terminal
_LIVE_SECONDS = 1.0  # between updates of the progress on a terminal
_POLL_SECONDS = 0.05  # also the longest delay before a Ctrl-C is passed on
_Count = Annotated[int, Field(strict=True, ge=1)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # files get this name


class _Flags(BaseModel, use_attribute_docstrings=True):
    file: Annotated[Path, tyro.conf.Positional]
    """TOML file: settings of every run, a grid of lists to combine, variants with names."""
    folder: Annotated[Path | None, tyro.conf.arg(name="dir")] = None
    """Folder for the runs' folders and logs. Unset: checkpoints/sweeps/NAME."""
    jobs: int | None = None
    """Runs side by side. Unset: the file's number, or the number of cores."""
    json_file: JsonFlag = None
    """Write the outcome of every run to this file."""
    list_runs: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Print each run's label and command, and run nothing."""


class _Variant(BaseModel, extra="allow"):
    """A named set of settings that replace the common ones; the baseline has only a name."""

    name: _Name


class _File(BaseModel, extra="forbid"):
    """The contents of a sweep's file. Settings have the same names as in presets, and `preset`."""

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
        """Returns the path of a file beside the run's folder: its name and `ending`."""
        return self.folder.with_name(self.label + ending)

    def command(self) -> list[str]:
        """Returns the command that trains the run. Its flags are the file's settings only."""
        values = self.given | self.settings.train.flat() | dict(self.settings.run)
        flags = [flag for name in {"game": 0} | self.given for flag in _flag(name, values[name])]
        return [sys.executable, "-m", "rlarcade.train", *flags, "--run-dir", str(self.folder)]

    def result(self) -> dict[str, Any] | None:
        """Returns the run's outcome; None if it is not finished."""
        return read_outcome(self.folder)

    def outcome(self, code: int | None) -> dict[str, Any]:
        result = self.result() if code == EXIT_OK else None
        return {"label": self.label, "settings": self.given, "exit": code, "result": result}


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return console.run_command(_sweep_command, argv)


def _sweep_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade sweep", description=__doc__)
    check_outputs({"--json": flags.json_file}, {"the sweep's file": flags.file})
    there = cores()
    file, runs = _read(flags, there)
    threads = file.threads or max(1, there // file.jobs)
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
    _tell_table(processes.outcomes())
    if all(outcome["exit"] == EXIT_OK for outcome in processes.outcomes()):
        return EXIT_OK
    if stop.requested:
        say(f"stopped with {processes.done()}; the same command resumes from there")
    return EXIT_INTERRUPTED if stop.requested else EXIT_ERROR


def _read(flags: _Flags, jobs: int) -> tuple[_File, list[_Run]]:
    document = read_toml(flags.file, "sweep")
    asked = {} if flags.jobs is None else {"jobs": flags.jobs}
    with errors_of(f"sweep {flags.file}"):
        file = validated(_File, {"name": flags.file.stem, "jobs": jobs} | document | asked)
        return file, _expanded(file, flags.folder or RUNS / "sweeps" / file.name)


def _expanded(file: _File, folder: Path) -> list[_Run]:
    """Returns every combination of the grid for every variant."""
    _check(file.grid, "[grid]", {})
    _check(file.settings, "[settings]", file.grid)
    variants: dict[str, dict[str, Any]] = {}
    for variant in file.variants or []:
        if variant.name in variants:
            raise ConfigError(f"two variants are called {quoted(variant.name)}. Rename one.")
        variants[variant.name] = variant.model_extra or {}
        _check(variants[variant.name], f"variant {quoted(variant.name)}", file.grid)
    runs: dict[str, _Run] = {}
    for name, departures in (variants or {"": {}}).items():
        for values in product(*file.grid.values()):
            varied = config.whole_numbers(dict(zip(file.grid, values, strict=True)))
            run = _make_run(file.settings | varied | departures, name, varied, folder)
            if run.label in runs:
                raise ConfigError(
                    f"two runs would be called {quoted(run.label)}. Change or remove one."
                )
            runs[run.label] = run
    return list(runs.values())


def _check(values: Mapping[str, Any], where: str, grid: Mapping[str, Any]) -> None:
    config.check_names({name: 0 for name in values if name != "preset"}, where)
    for name in values:
        if name in ("run_dir", "resume", "init_from"):
            raise ConfigError(f"{where} cannot set {name}: the sweep sets it itself, under --dir.")
        if name in grid:
            raise ConfigError(f"{name} is in both {where} and [grid]. Remove it from one.")


def _make_run(given: dict[str, Any], variant: str, varied: dict[str, Any], folder: Path) -> _Run:
    given = config.whole_numbers(given)
    name, values = config.load_preset(
        str(given.get("preset") or default_preset(str(given.get("device", "auto"))))
    )
    _check(values, f"preset {quoted(name)}", {})
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
    if name == "track" and isinstance(value, tuple):
        return [word for one in value for word in (f"--{flag}", str(one))]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]


def _recorded(settings: config.Settings) -> dict[str, Any]:
    """Returns all settings that decide a run's outcome, including those of its preset."""
    document = settings.model_dump(mode="json")
    return {"preset": document["preset"], **document["train"], **document["run"]}


def _check_folder(run: _Run) -> None:
    """Refuses the folder of another experiment: its result must not be taken for this run's."""
    for path in (run.beside(".settings.json"), run.beside(".log")):
        if path.is_symlink():
            raise RunFolderError(
                f"{path} is a link, and the sweep would write to its target. Remove the link."
            )
    if not (run.folder / "run.json").exists() and run.result() is None:
        return
    record, now = run.beside(".settings.json"), _recorded(run.settings)
    # a setting that is newer than the record had its default value
    defaults = _recorded(config.make_settings("", {"game": "pong"}))
    try:
        began = defaults | json.loads(read_own(record))
        names = [name for name in now | began if began.get(name) != now.get(name)]
        changed = [f"{name} = {began.get(name)}, now {now.get(name)}" for name in names]
    except (OSError, ValueError, TypeError, RecursionError):
        changed = [f"unknown settings: {record} is missing or damaged"]
    if changed:
        raise RunFolderError(
            f"run {run.label} was begun in {run.folder} with {'; '.join(changed)}. Put the sweep's "
            "file back as it was, or choose another --dir."
        )


class _Processes:
    """Runs the training processes: at most `jobs` at once, in the order of the file."""

    def __init__(self, runs: list[_Run], jobs: int, threads: int, stop: StopSignal) -> None:
        self.runs, self.jobs, self.stop = runs, jobs, stop
        # `_held` closes when this process ends, for any reason, and every run notices that.
        self.pipe, self._held = os.pipe()
        self.environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            console.PARENT_PIPE: str(self.pipe),
        }
        self.exits = {run.label: EXIT_OK for run in runs if run.result() is not None}
        self.waiting = [run for run in runs if run.label not in self.exits]
        self.running: list[tuple[_Run, subprocess.Popen[bytes]]] = []
        self._told_to_wait: set[str] = set()

    def run_all(self) -> None:
        say(f"{self.done()}, {self.jobs} at a time, in {self.runs[0].folder.parent}")
        try:
            with _View() as view:
                while (self.waiting or self.running) and not self.stop.requested:
                    free = self._next() if len(self.running) < self.jobs else None
                    if free is None:
                        self._collect()
                        view.show([run for run, _ in self.running])
                    elif free.result() is not None:  # another process has finished it meanwhile
                        self.exits[free.label] = EXIT_OK
                        self.waiting.remove(free)
                    else:
                        self._start(free)
                        self.waiting.remove(free)
        finally:  # no run continues after the sweep has ended
            for _, process in self.running:
                process.send_signal(signal.SIGINT)
            while self.running:
                self._collect()
            os.close(self.pipe)
            os.close(self._held)

    def _next(self) -> _Run | None:
        """Returns the first waiting run that no process works on; None if there is none.

        A process of a killed sweep may still work on a run. It has noticed that its sweep ended, so
        it saves and then ends by itself.
        """
        for run in self.waiting:
            owner = process_in(run.folder)
            if owner is None:
                return run
            if run.label not in self._told_to_wait:
                self._told_to_wait.add(run.label)
                say(f"{self.done()}: {run.label} waits for process {owner}, which works on it")
        return None

    def done(self) -> str:
        return f"{list(self.exits.values()).count(EXIT_OK)}/{len(self.runs)} done"

    def outcomes(self) -> list[dict[str, Any]]:
        return [run.outcome(self.exits.get(run.label)) for run in self.runs]

    def _start(self, run: _Run) -> None:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        write_file(run.beside(".settings.json"), json.dumps(_recorded(run.settings)).encode())
        log = open_own(run.beside(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            process = subprocess.Popen(
                run.command(),
                stdout=log,
                stderr=log,
                env=self.environment,
                pass_fds=(self.pipe,),
                start_new_session=True,  # the sweep, not the terminal, passes a Ctrl-C on
            )
        finally:
            os.close(log)
        self.running.append((run, process))
        say(f"{self.done()}: {run.label} started")

    def _collect(self) -> None:
        time.sleep(_POLL_SECONDS)
        for run, process in self.running.copy():
            if (code := process.poll()) is None:
                continue
            self.running.remove((run, process))
            if code == EXIT_USAGE and (process_in(run.folder) or run.result()):
                self.waiting.append(run)  # another sweep began it at the same moment
                continue
            self.exits[run.label] = code
            if code == EXIT_OK and (result := run.result()):
                mean, minutes = result["evaluation"]["mean"], result["seconds"]["total"] / 60
                say(f"{self.done()}: {run.label} mean {mean:.1f}, {minutes:.1f} minutes")
            else:
                log = run.beside(".log")
                last = _last_line(log)
                say(f"{self.done()}: {run.label} ended with exit code {code}; {log} ends: {last}")


def _last_line(log: Path) -> str:
    try:
        with open_regular(log) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _END_OF_LOG))
            text = file.read(_END_OF_LOG).decode("utf-8", "replace")
    except OSError as error:
        return f"({reason(error)})"
    return printable(text.strip().rpartition("\n")[2], 500)


# Output


class _View(AbstractContextManager["_View"]):
    """Shows each run's progress: a live line on a terminal, otherwise a plain line at times."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._shown = time.monotonic()
        if console.is_terminal(sys.stdout) and console.is_terminal(sys.stderr):
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, running: list[_Run]) -> None:
        """Shows the progress of the running runs, if enough time has passed."""
        now = time.monotonic()
        if now - self._shown < (_PLAIN_SECONDS if self._live is None else _LIVE_SECONDS):
            return
        self._shown = now
        lines = [printable(_progress_of(run)) for run in running]
        if self._live is not None:
            self._live.update(Text("\n".join(lines), overflow="fold"), refresh=True)
        else:
            for line in lines:
                console.deliver(sys.stderr, f"{line}\n")


def _progress_of(run: _Run) -> str:
    """Returns one line with steps, speed, time left and score, as far as they are known."""
    try:
        record, figures = read_record(run.folder), newest_metrics(run.folder)
    except (OSError, RlarcadeError) as error:
        return f"{run.label}  {reason(error)}"
    if record is None:
        return f"{run.label}  beginning"
    steps, total = figures.get("step", 0), record.train.schedule.total_timesteps
    parts = [run.label, f"{steps:,}/{total:,} steps"]
    speed = figures.get("time/fps")
    if isinstance(speed, int | float) and 0 < speed < 1e9:
        parts.append(f"{speed:,.0f} steps/s")
        parts.append(f"ETA {duration(max(0, total - steps) / speed)}")
    score = figures.get("rollout/ep_rew_mean")
    if isinstance(score, int | float):
        parts.append(f"score {score:.1f}")
    return "  ".join(parts)


def _tell_table(outcomes: list[dict[str, Any]]) -> None:
    """Prints the table. Rich does not write it directly, so that a closed pipe is no error."""
    on_terminal = console.is_terminal(sys.stdout)
    terminal = Console(width=None if on_terminal else 200)  # in a file, labels are not wrapped
    with terminal.capture() as written:
        _show_table(outcomes, terminal)
    console.deliver(sys.stdout, written.get())


def _show_table(outcomes: list[dict[str, Any]], terminal: Console) -> None:
    """Prints one row per run. If the terminal is narrow, labels omit their common beginning."""
    rows = [_cells(outcome) for outcome in outcomes]
    labels = [outcome["label"] for outcome in outcomes]
    table = _table("human-normalised", labels, rows)
    widest = [max(map(len, column)) for column in zip_longest(*rows, _HEADERS, fillvalue="")]
    if max(map(len, labels)) + sum(widest) + _PADDING > terminal.width:
        shared, labels = _without_what_is_shared(labels)
        if shared:
            terminal.print(Text(f"runs of {shared}"), soft_wrap=True)
        table = _table("human", labels, rows, overflow="fold")
    terminal.print(table)


def _table(
    human: str, labels: list[str], rows: list[list[str]], overflow: OverflowMethod = "ellipsis"
) -> Table:
    table = Table(box=box.SIMPLE)
    # nothing is cut: if labels do not fit, `overflow` is "fold", and they get several lines
    table.add_column("run", no_wrap=overflow != "fold", overflow=overflow)
    for name in (*_HEADERS[:-2], human, _HEADERS[-1]):
        table.add_column(name, no_wrap=True)
    for label, cells in zip(labels, rows, strict=True):
        table.add_row(Text(printable(label)), *cells)
    return table


def _cells(outcome: dict[str, Any]) -> list[str]:
    result = outcome["result"]
    if not result:
        return ["not started" if outcome["exit"] is None else "not finished"]
    scores, normalised = result["evaluation"], result["evaluation"]["human_normalized"]
    return [
        f"{result['steps']:,}",
        f"{scores['mean']:.1f}",
        f"{scores['median']:.1f}",
        "–" if normalised is None else f"{normalised:.1%}",
        f"{result['seconds']['total'] / 60:.1f}",
    ]


def _without_what_is_shared(labels: list[str]) -> tuple[str, list[str]]:
    """Splits off the leading parts that all labels share."""
    if len(labels) < 2:
        return "", labels
    first, last = min(labels), max(labels)  # their common prefix is that of all
    length = next(n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    shared = first[: first[:length].rfind("-") + 1]
    return shared.rstrip("-"), [label[len(shared) :] for label in labels]


if __name__ == "__main__":
    sys.exit(main())
