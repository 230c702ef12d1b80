"""Trains the runs of a sweep side by side, in the order of the file. It knows no machines."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rlarcade.checked import reason
from rlarcade.console import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    StopSignal,
    say,
)
from rlarcade.errors import RlarcadeError
from rlarcade.files import open_regular, write_file
from rlarcade.runs.folder import process_in
from rlarcade.sweeps.file import SweepRun, check_folder, recorded
from rlarcade.sweeps.plan import Plan
from rlarcade.sweeps.results import outcome_of
from rlarcade.sweeps.tables import View
from rlarcade.text import printable

_END_OF_LOG = 65_536  # bytes that are read to find a log's last line
_POLL_SECONDS = 0.05  # also the longest delay before a Ctrl-C is passed on
MOST_LOSSES = 5
"""Workers that may end while they train a run, without a save, before it counts as failed."""
_PAUSES = (0.0, 4.0, 8.0, 16.0)
"""Seconds before the run's next worker, after so many such ends: a cluster may need half a minute
to notice that a node is dead, and gives it work meanwhile."""


class Job(Protocol):
    """A run that trains somewhere.

    Attributes:
        run: the run.
        where: name of the machine; empty: this one.
        lost: why the run must go on elsewhere. None: it need not.
    """

    run: SweepRun
    where: str
    lost: str | None

    def poll(self) -> int | None:
        """Returns the exit code of the training; None while it goes on.

        Raises:
            RlarcadeError: no run can be trained there.
        """
        ...

    def stop(self) -> None:
        """Asks the training to save and to end."""
        ...


class Engine(Protocol):
    """Where runs are trained."""

    def described(self) -> str:
        """Returns in words how many runs train at a time."""
        ...

    def has_room(self, running: int) -> bool:
        """Whether one more run can begin, beside those that train."""
        ...

    def start(self, run: SweepRun) -> Job:
        """Begins or resumes a run.

        Raises:
            OSError: its files cannot be written.
        """
        ...

    def close(self) -> None:
        """Ends what the engine has begun. All jobs have ended."""
        ...


class Scheduler:
    """Gives the runs of a sweep to an engine."""

    def __init__(
        self,
        runs: list[SweepRun],
        engine: Engine,
        stop: StopSignal,
        plan: Plan | None = None,
    ) -> None:
        """Prepares the runs.

        Args:
            runs: the runs, in the order in which they begin; at least one.
            engine: where they are trained.
            stop: when to stop.
            plan: chooses further runs, and runs to stop early.
        """
        self.runs, self.engine, self.stop, self.plan = [*runs], engine, stop, plan
        self.exits = {run.label: EXIT_OK for run in runs if self._is_done(run)}
        self.waiting = [run for run in runs if run.label not in self.exits]
        self.running: list[Job] = []
        self._ending = False
        self._told_to_wait: set[str] = set()
        self._told_to_end: set[str] = set()
        self._losses: dict[str, tuple[int, int]] = {}
        self._pauses: dict[str, float] = {}  # until when, by the monotonic clock

    def run_all(self) -> None:
        """Trains the runs until all are finished, or until a stop is requested.

        Raises:
            OSError: the sweep's folder cannot be written.
            RlarcadeError: the engine cannot train. The runs that were training have saved.
        """
        say(f"{self.done()}, {self.engine.described()}, in {self.runs[0].folder.parent}")
        try:
            with View(len(self.runs)) as view:
                while self._has_work() and not self.stop.requested:
                    free = self._next() if self.engine.has_room(len(self.running)) else None
                    if free is None:
                        self._collect()
                        view.runs = len(self.runs)
                        view.show(self.running, self.waiting, len(self.exits))
                    elif self._is_done(free):  # another process has finished it meanwhile
                        self.exits[free.label] = EXIT_OK
                        self.waiting.remove(free)
                    else:
                        self._start(free)
                        self.waiting.remove(free)
        finally:  # no run continues after the sweep has ended
            self._ending = True
            for job in self.running:
                if job.run.label not in self._told_to_end:  # a second time ends without a save
                    job.stop()
            while self.running:
                with suppress(RlarcadeError, OSError):  # the first error is told
                    self._collect()
            self.engine.close()

    def _is_done(self, run: SweepRun) -> bool:
        return run.result() is not None if self.plan is None else self.plan.is_done(run)

    def _has_work(self) -> bool:
        """Whether runs are left. The plan is asked for more when none waits and there is room."""
        if self.plan and not self.waiting and self.engine.has_room(len(self.running)):
            for run in self.plan.more(len(self.running)):
                check_folder(run)
                self.runs.append(run)
                self.waiting.append(run)
        return bool(self.waiting or self.running)

    def _next(self) -> SweepRun | None:
        """Returns the first waiting run that may begin and that no process works on.

        A process of a killed sweep may still work on a run. It has noticed that its sweep ended, so
        it saves and then ends by itself.
        """
        for run in self.waiting:
            if time.monotonic() < self._pauses.get(run.label, 0.0):
                continue
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
        return [
            outcome_of(
                run,
                self.exits.get(run.label),
                stopped_at=self._stopped_at(run),
                diverged_at=self._given_up_at(run),
            )
            for run in self.runs
        ]

    def _stopped_at(self, run: SweepRun) -> int | None:
        return None if self.plan is None else self.plan.stopped_at(run)

    def _given_up_at(self, run: SweepRun) -> int | None:
        return None if self.plan is None else self.plan.given_up_at(run)

    def _start(self, run: SweepRun) -> None:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        write_file(run.beside(".settings.json"), json.dumps(recorded(run.settings)).encode())
        self.running.append(self.engine.start(run))
        say(f"{self.done()}: {run.label} started")

    def _collect(self) -> None:
        time.sleep(_POLL_SECONDS)
        for job in self.running.copy():
            try:
                code = job.poll()
            except BaseException:
                self.running.remove(job)
                raise
            if code is None:
                if self.plan and not self._ending and self.plan.stops(job.run):
                    self._told_to_end.add(job.run.label)
                    job.stop()
                continue
            self.running.remove(job)
            run = job.run
            if code == EXIT_USAGE and (process_in(run.folder) or run.result()):
                self.waiting.append(run)  # another sweep began it at the same moment
            elif job.lost is not None:
                self._lose(job)
            else:
                self._end(run, code)

    def _lose(self, job: Job) -> None:
        """Puts a run back whose machine or worker was lost, unless this goes on and on."""
        from rlarcade.runs.state_store import StateStore  # imports torch; few sweeps lose a run

        run, place = job.run, f" on {job.where}" if job.where else ""
        saved = max(StateStore(run.folder / "state").saved_steps(), default=0)
        count, before = self._losses.get(run.label, (0, saved))
        count = count + 1 if saved == before else 1
        self._losses[run.label] = count, saved
        if self.stop.requested:
            self.exits[run.label] = EXIT_INTERRUPTED
            say(f"{self.done()}: {run.label} lost its worker{place} ({job.lost})")
            return
        if count < MOST_LOSSES:
            self.waiting.insert(0, run)
            self._pauses[run.label] = time.monotonic() + _PAUSES[count - 1]
            say(f"{self.done()}: {run.label} lost its worker{place} ({job.lost}); it goes on later")
            return
        self.exits[run.label] = EXIT_ERROR
        say(
            f"{self.done()}: {run.label} lost {count} workers, one after the other, without a save "
            f"({job.lost}). Their logs say why (`ray logs`); too little memory is the usual reason."
        )

    def _end(self, run: SweepRun, code: int) -> None:
        step = self._stopped_at(run)
        if step is not None:
            self.exits[run.label] = EXIT_OK
            say(f"{self.done()}: {run.label} stopped early, by its score at step {step:,}")
            return
        if code == EXIT_ERROR and (step := self._given_up_at(run)) is not None:
            self.exits[run.label] = EXIT_OK
            say(f"{self.done()}: {run.label} diverged at step {step:,}: it counts as failed")
            return
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
