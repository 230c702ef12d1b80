"""Trains the runs of a sweep on this machine, one process each."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from rlarcade import console
from rlarcade.checked import reason
from rlarcade.console import EXIT_OK, EXIT_USAGE, StopSignal, say
from rlarcade.files import open_own, open_regular, write_file
from rlarcade.runs.folder import process_in
from rlarcade.sweeps.file import SweepRun, recorded
from rlarcade.sweeps.tables import View
from rlarcade.text import printable

_END_OF_LOG = 65_536  # bytes that are read to find a log's last line
_POLL_SECONDS = 0.05  # also the longest delay before a Ctrl-C is passed on


class LocalRuns:
    """Runs the training processes: at most `jobs` at once, in the order of the file."""

    def __init__(self, runs: list[SweepRun], jobs: int, threads: int, stop: StopSignal) -> None:
        self.runs, self.jobs, self.stop = runs, jobs, stop
        # `_held` closes when this process ends, for any reason, and every run notices that.
        self.pipe, self._held = os.pipe()
        self.environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            console.PARENT_PIPE: str(self.pipe),
        }
        self.exits = {run.label: EXIT_OK for run in runs if run.result() is not None}
        self.waiting = [run for run in runs if run.label not in self.exits]
        self.running: list[tuple[SweepRun, subprocess.Popen[bytes]]] = []
        self._told_to_wait: set[str] = set()

    def run_all(self) -> None:
        """Trains the runs until all are finished, or until a stop is requested."""
        say(f"{self.done()}, {self.jobs} at a time, in {self.runs[0].folder.parent}")
        try:
            with View() as view:
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

    def _next(self) -> SweepRun | None:
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
        """Returns how many runs are done, in words."""
        return f"{list(self.exits.values()).count(EXIT_OK)}/{len(self.runs)} done"

    def outcomes(self) -> list[dict[str, Any]]:
        """Returns the outcome of every run, in the order of the file."""
        return [run.outcome(self.exits.get(run.label)) for run in self.runs]

    def _start(self, run: SweepRun) -> None:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        write_file(run.beside(".settings.json"), json.dumps(recorded(run.settings)).encode())
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
