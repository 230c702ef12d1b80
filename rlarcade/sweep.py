"""`python -m rlarcade.sweep FILE`: trains many agents side by side; the same command resumes."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel

from rlarcade import console
from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, StopSignal, say, say_lines
from rlarcade.errors import ConfigError
from rlarcade.machine import cores
from rlarcade.outputs import check_outputs
from rlarcade.play_commands import AddressFlag, ReportFlag, tell_report
from rlarcade.sweeps.comparing import Comparison
from rlarcade.sweeps.file import SweepFile, SweepRun, check_folder, read_sweep
from rlarcade.sweeps.local import LocalEngine
from rlarcade.sweeps.plan import Plan
from rlarcade.sweeps.results import report_of
from rlarcade.sweeps.scheduling import Engine, Scheduler
from rlarcade.sweeps.searching import Searching
from rlarcade.sweeps.tables import tell_table
from rlarcade.text import counted, quoted
from rlarcade.toml_files import errors_of


class _Flags(BaseModel, use_attribute_docstrings=True):
    file: Annotated[Path, tyro.conf.Positional]
    """TOML file: settings of every run, a grid of lists to combine, variants with names; what to
    compare or to search."""
    folder: Annotated[Path | None, tyro.conf.arg(name="dir")] = None
    """Folder for the runs' folders and logs. Unset: checkpoints/sweeps/NAME."""
    only: list[str] = []
    """Train only the runs with these labels; * stands for any letters, as in 'breakout-*-seed1'.
    --list shows all labels."""
    jobs: int | None = None
    """Runs side by side. Unset: the file's number, or as many as the machine has cores, or the
    cluster slots."""
    engine: Literal["local", "ray"] = "local"
    """Where runs are trained. ray: on a Ray cluster (extra `ray`), one run for each slot of as many
    CPUs as a run has threads, and a GPU if it uses one."""
    address: AddressFlag = None
    fetch: bool = False
    """With --engine ray: train on the nodes' own disks and fetch every save, even if the nodes
    share the sweep's folder. Unset: only where they do not."""
    json_file: JsonFlag = None
    """Write the outcome of every run to this file."""
    report: ReportFlag = None
    list_runs: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Print each run's label and command, and run nothing."""


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return console.run_command(_sweep_command, argv)


def _sweep_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade sweep", description=__doc__)
    outputs = {"--json": flags.json_file, "--report": flags.report}
    check_outputs(outputs, {"the sweep's file": flags.file})
    _check_engine(flags)
    file, runs = read_sweep(flags.file, flags.folder, jobs=flags.jobs)
    jobs = file.jobs or cores()
    if flags.only:
        runs = _chosen(flags.only, file, runs)
    threads = file.threads or (1 if flags.engine == "ray" else max(1, cores() // jobs))
    with errors_of(f"sweep {flags.file}"):
        plan = _plan_of(file, file.folder(flags.folder))
    if flags.list_runs:
        _list(file, runs, threads)
        return EXIT_OK
    with ExitStack() as stack:
        if plan is not None:
            stack.enter_context(plan.opened())
            runs = plan.begin()
        for run in runs:
            check_folder(run)
        return _train(flags, file, runs, threads, plan)


def _plan_of(file: SweepFile, folder: Path) -> Plan | None:
    if file.compare is not None:
        return Comparison(file, folder)
    return None if file.search is None else Searching(file, folder)


def _chosen(patterns: list[str], file: SweepFile, runs: list[SweepRun]) -> list[SweepRun]:
    """Returns the runs with matching labels, in the file's order."""
    if file.compare is not None or file.search is not None:
        raise ConfigError(
            "--only is for sweeps whose runs are all known beforehand. This one chooses its next "
            "runs by the results, so leave --only out."
        )
    for pattern in patterns:
        if not any(fnmatchcase(run.label, pattern) for run in runs):
            raise ConfigError(
                f"--only {quoted(pattern)}: no run of this sweep has such a label. The first of "
                f"{counted(len(runs), 'run')} is {runs[0].label}; --list shows all."
            )
    return [run for run in runs if any(fnmatchcase(run.label, one) for one in patterns)]


def _list(file: SweepFile, runs: list[SweepRun], threads: int) -> None:
    for run in runs:
        say(run.label)
        say(f"  OMP_NUM_THREADS={threads} {shlex.join(run.command())}")
    if file.search is not None:
        say(f"{file.search.trials} trials, each chosen by the results of those before it")


def _train(
    flags: _Flags, file: SweepFile, runs: list[SweepRun], threads: int, plan: Plan | None
) -> int:
    """Trains the runs, and shows what has come of them; returns the exit code."""
    try:
        # Ray has a handler of SIGTERM, too, so it is there before ours.
        with _engine(flags, file, runs, threads) as engine, StopSignal() as stop:
            sweep = Scheduler(runs, engine, stop, plan)
            sweep.run_all()
        outcomes = sweep.outcomes()
        document: dict[str, Any] = {"sweep": file.name, "runs": outcomes}
        if plan is not None:
            document[plan.name] = plan.document()
    except OSError as error:
        console.say_error(f"{error.strerror or error}: {error.filename or 'the sweep'}.")
        return EXIT_ERROR
    console.write_json(flags.json_file, document)
    tell_table(outcomes)
    if plan is not None:
        say_lines(plan.lines(document[plan.name]))
    if flags.report is not None:
        tell_report(flags.report, report_of(document))
    whole = plan is None or plan.is_finished()
    if whole and all(outcome["exit"] == EXIT_OK for outcome in outcomes):
        return EXIT_OK
    if stop.requested:
        say(f"stopped with {sweep.done()}; the same command resumes from there")
    return EXIT_INTERRUPTED if stop.requested else EXIT_ERROR


def _check_engine(flags: _Flags) -> None:
    for flag, given in (("--address", flags.address is not None), ("--fetch", flags.fetch)):
        if given and flags.engine != "ray":
            raise ConfigError(
                f"{flag} is for runs on a Ray cluster. Add --engine ray, or leave {flag} out."
            )


@contextmanager
def _engine(flags: _Flags, file: SweepFile, runs: list[SweepRun], threads: int) -> Iterator[Engine]:
    if flags.engine == "local":
        yield LocalEngine(file.jobs or cores(), threads)
        return
    from rlarcade.cluster.connection import RayCluster
    from rlarcade.sweeps.on_ray import RayEngine

    with RayCluster(flags.address) as cluster:
        yield RayEngine(cluster, runs, threads=threads, jobs=file.jobs, fetched=flags.fetch)


if __name__ == "__main__":
    sys.exit(main())
