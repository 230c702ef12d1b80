"""Trains the runs of a sweep on a Ray cluster, one actor each.

If this process is killed, Ray ends its actors, and the runs notice that, save and end.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlarcade import config
from rlarcade.cluster.connection import RayCluster, raised_there
from rlarcade.cluster.nodes import facts_of_this_process
from rlarcade.console import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, say_warning
from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.files import open_own, read_own, write_file
from rlarcade.runs.folder import LARGEST_RESULT, RunFolder
from rlarcade.sweeps import mirror
from rlarcade.sweeps.file import SweepRun
from rlarcade.sweeps.node import HeldToken, NodeTrainer, Order, Place
from rlarcade.sweeps.scheduling import Engine, Job
from rlarcade.text import counted

_POLL_SECONDS = 0.5
_FETCH_SECONDS = 2.0  # between looks at what the training has written
_LOOK_SECONDS = 2.0  # between looks at how many CPUs the cluster has
_STALE_SECONDS = 90.0  # the longest that a network file system may show an old folder
_PATIENCE = 30.0  # seconds without room for a run, before the user is told
_fetching = threading.Semaphore(4)
"""Runs that are fetched at once: each holds a whole training state in memory."""


class RayEngine(Engine):
    """Trains as many runs at once as the cluster has slots; see `Engine`.

    A slot is as many CPUs of one node as a run has threads, and a GPU if the run uses one.
    """

    def __init__(
        self,
        cluster: RayCluster,
        runs: list[SweepRun],
        *,
        threads: int,
        jobs: int | None,
        fetched: bool,
    ) -> None:
        """Looks at the cluster.

        Args:
            cluster: where to train.
            runs: runs of the sweep; more may follow.
            threads: threads of a run.
            jobs: most runs at a time; None: as many as there are slots.
            fetched: train in folders of the nodes' own even if they see the sweep's.

        Raises:
            ConfigError: no node has a slot.
            OSError: the sweep's folder cannot be written.
        """
        self.cluster, self.ray = cluster, cluster.ray
        self.threads, self.fetched = threads, fetched
        self._jobs = jobs
        self._has_gpus = any(node.get("GPU", 0) >= 1 for node in self._nodes())
        self._any_gpu = any(map(self.gpus, runs))
        self._looked, self._slots = time.monotonic(), self._count_slots()
        if not self._slots:
            raise ConfigError(self._too_small())
        self._had_room = time.monotonic()
        self._told_to_wait = False
        self.held = HeldToken(runs[0].folder.parent)

    def _nodes(self) -> list[dict[str, float]]:
        """Returns the resources of every node."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _count_slots(self) -> int:
        count = 0
        for node in self._nodes():
            slots = int(node.get("CPU", 0) // self.threads)
            count += min(slots, int(node.get("GPU", 0))) if self._any_gpu else slots
        return count

    def _too_small(self) -> str:
        nodes = self._nodes()
        cpus = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        gpus = max((int(node.get("GPU", 0)) for node in nodes), default=0)
        needs = counted(self.threads, "CPU") + (" and 1 GPU" if self._any_gpu else "")
        there = counted(cpus, "CPU") + (f" and {counted(gpus, 'GPU')}" if self._any_gpu else "")
        less = "Lower threads in the sweep's file" + (", set its device to cpu" * self._any_gpu)
        return (
            f"a run of the sweep needs {needs} of one node, and no node of the cluster has that: "
            f"they have at most {there}. {less}, or add a node."
        )

    def described(self) -> str:
        """See `Engine.described`."""
        most = self._slots if self._jobs is None else min(self._jobs, self._slots)
        return f"{most} at a time on a Ray cluster"

    def has_room(self, running: int) -> bool:
        """See `Engine.has_room`. Nodes may come and go."""
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked, self._slots = now, self._count_slots()
        if self._slots:
            self._had_room = now
        elif not self._told_to_wait and now - self._had_room > _PATIENCE:
            self._told_to_wait = True
            say_warning(f"{self._too_small()} Waiting for one.")
        most = self._slots if self._jobs is None else min(self._jobs, self._slots)
        return running < most

    def start(self, run: SweepRun) -> "RayJob":
        """See `Engine.start`."""
        return RayJob(self, run)

    def gpus(self, run: SweepRun) -> int:
        """Returns how many GPUs a run gets."""
        device = run.settings.train.machine.device
        return int(device == "cuda" or (device == "auto" and self._has_gpus))

    def close(self) -> None:
        """See `Engine.close`."""
        self.held.close()


class _Stopped(Exception):
    """The run was to stop before it had begun."""


class RayJob(Job):
    """A run on the cluster, which a thread of this process watches; see `Job`."""

    def __init__(self, engine: RayEngine, run: SweepRun) -> None:
        """Asks for an actor."""
        self.run, self.where = run, ""
        self.lost: str | None = None
        self._engine, self._ray = engine, engine.ray
        self._stop = threading.Event()
        self._code: int | None = None
        self._error: BaseException | None = None
        self._actor = engine.cluster.start_actor(
            NodeTrainer, facts_of_this_process(), cpus=engine.threads, gpus=engine.gpus(run)
        )
        self._thread = threading.Thread(target=self._watch, name=run.label, daemon=True)
        self._thread.start()

    def poll(self) -> int | None:
        """See `Job.poll`."""
        if self._thread.is_alive():
            return None
        if self._error is not None:
            raise self._error
        return self._code

    def stop(self) -> None:
        """See `Job.stop`."""
        self._stop.set()

    def _watch(self) -> None:
        errors = self._ray.exceptions
        try:
            self._code = self._trained()
        except _Stopped:
            self._code = EXIT_INTERRUPTED
        except RunFolderError as error:  # another sweep works on it, or it cannot be used
            self._code = EXIT_USAGE
            _append(self.run.beside(".log"), f"rlarcade: error: {error}\n".encode())
        except errors.RayTaskError as error:  # raised by the trainer's code
            self._error = raised_there(error, "a run cannot be trained on a node of the cluster")
        except errors.RayError as error:  # its process or node has ended, or cannot be reached
            self._code, self.lost = EXIT_ERROR, type(error).__name__
        except BaseException as error:
            self._error = error
        finally:
            self._engine.cluster.end_actor(self._actor)

    def _trained(self) -> int:
        """Trains the run to its end, or until a stop; returns the exit code of the training."""
        token, order = self._engine.held.token, self._order()
        made = self._actor.ready.remote(token, order, fetched=self._engine.fetched)
        while not self._ray.wait([made], timeout=_POLL_SECONDS)[0]:
            if self._stop.is_set():
                raise _Stopped
        place: Place = self._ray.get(made)
        self.where = place.node
        if place.shared:
            self._ask("start")
            code = self._until_the_end(lambda: None)
            if code == EXIT_OK:
                _wait_for_the_outcome(self.run)
        else:
            code = self._trained_there(place)
        self._ask("clean")
        return code

    def _order(self) -> Order:
        run = self.run
        name, values = config.load_preset(str(run.given["preset"]))
        shipped = run.given["preset"] in config.preset_names()
        text = "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values.items())
        return Order(
            run.label,
            run.flags(),
            name,
            None if shipped else text,
            str(run.folder.absolute()),
            str(Path.cwd()),
            self._engine.threads,
            bool(self._engine.gpus(run)),
        )

    def _ask(self, method: str, *arguments: Any, **more: Any) -> Any:
        return self._ray.get(getattr(self._actor, method).remote(*arguments, **more))

    def _until_the_end(self, look: Callable[[], None]) -> int:
        """Waits for the end of the training, and passes a stop on."""
        asked, looked = False, time.monotonic()
        while (code := self._ask("poll")) is None:
            if self._stop.wait(_POLL_SECONDS) and not asked:
                asked = True
                self._ask("stop")
            if asked:
                time.sleep(_POLL_SECONDS)
            if time.monotonic() - looked > _FETCH_SECONDS:
                look()
                looked = time.monotonic()
        return int(code)

    # A node that does not see the sweep's folder

    def _trained_there(self, place: Place) -> int:
        """Trains in a folder of the node's own. This process holds the lock of the run's folder."""
        folder = RunFolder(self.run.folder)
        try:
            for path in mirror.to_resume(self.run.folder):
                self._send(path)
            copy = mirror.Mirror(self.run.folder, self._ask("start"))
            log = _Log(self.run.beside(".log"))

            def look() -> None:
                log.append(lambda position: self._ask("log", position))
                with suppress(FileNotFoundError):  # the run replaced a state meanwhile
                    self._fetch(copy)

            code = self._until_the_end(look)
            log.append(lambda position: self._ask("log", position))
            self._fetch(copy)
            self._name_the_folder(place.folder)
            return code
        finally:
            folder.close()

    def _send(self, path: str) -> None:
        for number, part in enumerate(mirror.parts_of(self.run.folder / path)):
            if self._stop.is_set():
                raise _Stopped
            self._ask("receive", path, part, first=number == 0)

    def _fetch(self, copy: mirror.Mirror) -> None:
        def fetch(path: str, position: int, length: int) -> bytes:
            try:
                part: bytes = self._ask("fetch", path, position, length)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, FileNotFoundError):
                    raise error.cause from None
                raise
            return part

        with _fetching:
            copy.update(self._ask("listing"), fetch)

    def _name_the_folder(self, there: str) -> None:
        """Replaces the node's folder by the run's own where the outcome names its checkpoint."""
        result = self.run.folder / "result.json"
        if not result.exists():
            return
        own, theirs = (json.dumps(name)[1:-1].encode() for name in (str(self.run.folder), there))
        write_file(result, read_own(result, LARGEST_RESULT).replace(theirs, own))


def _wait_for_the_outcome(run: SweepRun) -> None:
    """Waits until this machine sees what another one has written on the storage that they share.

    A network file system remembers for a minute at most that a file was not there.
    """
    end = time.monotonic() + _STALE_SECONDS
    while run.result() is None and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        list(run.folder.iterdir())  # it asks the storage anew


class _Log:
    """Appends to a run's log what the training there writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def append(self, read: Callable[[int], bytes]) -> None:
        """Appends what comes after what was read before."""
        while part := read(self._position):
            self._position += len(part)
            _append(self._path, part)


def _append(path: Path, data: bytes) -> None:
    descriptor = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with os.fdopen(descriptor, "ab") as file:
        file.write(data)
