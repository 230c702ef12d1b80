"""Trains the runs of a sweep on this machine, one process each."""

import os
import signal
import subprocess

from rlarcade.console import PARENT_PIPE
from rlarcade.files import open_own
from rlarcade.sweeps.file import SweepRun
from rlarcade.sweeps.scheduling import Engine, Job


class LocalJob(Job):
    """A process that trains a run; see `Job`."""

    def __init__(self, run: SweepRun, process: "subprocess.Popen[bytes]") -> None:
        self.run, self.where, self.lost = run, "", None
        self._process = process

    def poll(self) -> int | None:
        """See `Job.poll`."""
        return self._process.poll()

    def stop(self) -> None:
        """See `Job.stop`."""
        self._process.send_signal(signal.SIGINT)


class LocalEngine(Engine):
    """Trains at most `jobs` runs at once; see `Engine`."""

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs = jobs
        # `_held` closes when this process ends, for any reason, and every run notices that.
        self._pipe, self._held = os.pipe()
        self._environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            PARENT_PIPE: str(self._pipe),
        }

    def described(self) -> str:
        """See `Engine.described`."""
        return f"{self.jobs} at a time"

    def has_room(self, running: int) -> bool:
        """See `Engine.has_room`."""
        return running < self.jobs

    def start(self, run: SweepRun) -> LocalJob:
        """See `Engine.start`."""
        log = open_own(run.beside(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            process = subprocess.Popen(
                run.command(),
                stdout=log,
                stderr=log,
                env=self._environment,
                pass_fds=(self._pipe,),
                start_new_session=True,  # the sweep, not the terminal, passes a Ctrl-C on
            )
        finally:
            os.close(log)
        return LocalJob(run, process)

    def close(self) -> None:
        """See `Engine.close`."""
        os.close(self._pipe)
        os.close(self._held)
