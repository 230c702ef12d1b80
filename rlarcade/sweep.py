"""`python -m rlarcade.sweep FILE`: trains many agents side by side; the same command resumes."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel

from rlarcade import console
from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, StopSignal, say
from rlarcade.learning.hardware import cores
from rlarcade.outputs import check_outputs
from rlarcade.sweeps.file import check_folder, read_sweep
from rlarcade.sweeps.local import LocalRuns
from rlarcade.sweeps.tables import tell_table


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


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return console.run_command(_sweep_command, argv)


def _sweep_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade sweep", description=__doc__)
    check_outputs({"--json": flags.json_file}, {"the sweep's file": flags.file})
    there = cores()
    file, runs = read_sweep(flags.file, flags.folder, jobs=flags.jobs, cores=there)
    threads = file.threads or max(1, there // file.jobs)
    if flags.list_runs:
        for run in runs:
            say(run.label)
            say(f"  OMP_NUM_THREADS={threads} {shlex.join(run.command())}")
        return EXIT_OK
    for run in runs:
        check_folder(run)
    with StopSignal() as stop:
        processes = LocalRuns(runs, file.jobs, threads, stop)
        try:
            processes.run_all()
        except OSError as error:
            console.say_error(f"{error.strerror or error}: {error.filename or 'the sweep'}.")
            return EXIT_ERROR
    console.write_json(flags.json_file, {"sweep": file.name, "runs": processes.outcomes()})
    tell_table(processes.outcomes())
    if all(outcome["exit"] == EXIT_OK for outcome in processes.outcomes()):
        return EXIT_OK
    if stop.requested:
        say(f"stopped with {processes.done()}; the same command resumes from there")
    return EXIT_INTERRUPTED if stop.requested else EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
