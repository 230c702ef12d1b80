"""Follows a run that trains: serves its newest checkpoint, and tells how the training goes.

The run's files are only read. A checkpoint's folder appears under its name when it is complete, so
none is ever half read. If one cannot be read, the earlier one plays on, and it is tried again.

A new checkpoint takes over by big bang: it plays all new games. A game that is being played stays
with the checkpoint that began it, since its score is that checkpoint's, and the values on the page
belong to one network.

Following must not slow the training down. It looks at the time stamps of a few files every two
seconds, and reads the figures only if somebody asks for them.
"""

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from rlarcade.checkpoint import MANIFEST, list_checkpoints
from rlarcade.errors import RlarcadeError
from rlarcade.foreign import own_words
from rlarcade.learning.playable import load_playable
from rlarcade.runs.folder import process_in, read_record
from rlarcade.runs.metrics_file import METRICS_FILE, each_metric
from rlarcade.serving.deployment import Deployment
from rlarcade.serving.driving import champion_only
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.service import Service
from rlarcade.serving.stock import Loader, Stocked, unregistered

_log = logging.getLogger(__name__)

PERIOD = 2.0
"""Seconds between two looks at the run's folder."""
QUIET_SECONDS = 30.0
"""A run whose files have not changed for so long may have stopped. Its lock tells."""
_RETRY_SECONDS = 30.0  # until a checkpoint that could not be served is tried again
_LOCK_SECONDS = 10.0  # between two looks at the lock: each one holds it for a moment
_FIGURES_SECONDS = 5.0  # between two readings of the figures, and at least
_FIGURES_SHARE = 0.02  # … the time that a reading took, divided by this
_MOST_POINTS = 400  # of a curve; more would not be visible

_SCORE, _EVALUATION = "rollout/ep_rew_mean", "eval/mean_reward"
_NEWEST = ("time/fps", "rollout/exploration_rate", "train/loss")

RunState = Literal["waiting", "training", "stopped", "ended"]
"""waiting: nothing is saved yet. training: a process works on the run. stopped: none does, and the
run has not reached its end. ended: it has its outcome."""
Point = tuple[int, float]
"""(agent step, score)."""


class Figures(NamedTuple):
    """What a run has written about its training."""

    step: int = 0
    """Agent step of the newest figure."""
    curve: tuple[Point, ...] = ()
    """Mean score of the last 100 training games, at most 400 points, evenly spread."""
    evaluations: tuple[Point, ...] = ()
    """Mean scores of the evaluations on the way."""
    newest: Mapping[str, float] = MappingProxyType({})
    """The newest value of some figures, by their names."""


class Playing(NamedTuple):
    """The checkpoint that plays new games."""

    number: int
    """Its number as a version of this server: its agent step, if no other one has that number."""
    steps: int
    """Agent steps of its training."""
    saved: float
    """When it was saved, in seconds since 1970."""


class Progress(NamedTuple):
    """How a run goes."""

    state: RunState
    figures: Figures
    length: int | None
    """Agent steps of the whole run; None: unknown."""
    playing: Playing | None
    """None: no checkpoint is served yet."""
    quiet_seconds: float | None
    """Seconds since the run last wrote something; None: it has written nothing."""
    trouble: str | None
    """Why the newest checkpoint is not served; None: it is."""


class FollowedRun:
    """Keeps a service's deployment at the newest checkpoint of a run.

    Attributes:
        folder: the run's folder. It need not exist yet.
        playing: the checkpoint that plays new games; None before the first one.
        trouble: why the newest checkpoint is not served; None: it is.
    """

    def __init__(
        self,
        service: Service,
        folder: Path,
        loader: Loader,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the folder. Nothing is read yet.

        Args:
            service: serves the checkpoints.
            folder: the run's folder.
            loader: makes agents of checkpoints.
            clock: the time of day, for ages of files. It may be set back.
            monotonic: the time between two looks.
        """
        self.folder = folder
        self.playing: Playing | None = None
        self.trouble: str | None = None
        self._service, self._load = service, loader
        self._clock, self._monotonic = clock, monotonic
        self._digest: str | None = None
        self._left: list[Deployment] = []
        """Games of runs that were in the folder before, as long as sessions play them."""
        self._seen: object = None  # of the folder of checkpoints, when it was last listed
        self._tried: object = None  # the checkpoint that was served or tried last
        self._again = 0.0  # when a checkpoint that could not be served is tried again
        self._figures = Figures()
        self._figures_of: object = None
        self._next_reading = -math.inf
        self._reading = asyncio.Lock()
        self._process: tuple[float, bool] = (-math.inf, False)

    async def run(self) -> None:
        """Looks at the folder again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # a mistake of ours must not end the loop: games go on
                _log.exception("following the run failed; it is tried again")
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """Serves the newest checkpoint, if it is not served yet."""
        seen = _stamp(self.folder / "checkpoints")
        retry = self.trouble is not None and self._monotonic() >= self._again
        if seen != self._seen or retry:
            self._seen = seen
            await self._serve_newest(retry)
        await self._put_away()
        self._service.forget_unloaded()

    async def _serve_newest(self, retry: bool) -> None:
        found = await asyncio.to_thread(list_checkpoints, self.folder)
        if not found:
            self.trouble = None
            return
        path = found[-1]
        stamp = _stamp(path / MANIFEST)
        if (path.name, stamp) == self._tried and not retry:
            return
        self._tried = (path.name, stamp)
        try:
            await self._serve(path)
            self.trouble = None
        except Exception as error:  # whatever is wrong with it, the earlier one plays on
            known = isinstance(error, RlarcadeError | Refusal)
            why = str(error) if known else own_words(error)
            if why != self.trouble:
                _log.warning("%s is not served: %s", path.name, why)
            self.trouble = why
            self._again = self._monotonic() + _RETRY_SECONDS

    async def _serve(self, path: Path) -> None:
        """Loads a checkpoint, and lets it play all new games.

        Raises:
            RlarcadeError: it cannot be read, or it cannot play.
            Refusal: the engine cannot take it.
        """
        checkpoint = await asyncio.to_thread(load_playable, path)
        manifest = checkpoint.manifest
        saved = (path / MANIFEST).stat().st_mtime
        served = self.playing
        if served is not None and (self._digest, served.steps) == (
            manifest.weights_sha256,
            manifest.counters.steps,
        ):
            self.playing = served._replace(saved=saved)
            return
        number = self._free_number(manifest.counters.steps)
        stocked = await asyncio.to_thread(
            unregistered, number, f"step {manifest.counters.steps:,}", checkpoint, self._load
        )
        await self._service.engine.load(number, stocked.agent, at_once=True, checkpoint=checkpoint)
        self._deploy(stocked)
        self.playing = Playing(number, stocked.steps, saved)
        self._digest = stocked.digest

    def _free_number(self, steps: int) -> int:
        """Returns a number that no loaded version has; the agent step itself, if it is free."""
        deployments = (*self._service.deployments.values(), *self._left)
        taken = {number for deployment in deployments for number in deployment.stock}
        return next(one for one in range(steps, steps + len(taken) + 1) if one not in taken)

    def _deploy(self, stocked: Stocked) -> None:
        deployments = self._service.deployments
        deployment = deployments.pop(stocked.game, None)
        if deployment is None:
            deployment = Deployment(stocked.game, champion_only(stocked.number), 0)
        self._left += deployments.values()  # the folder has another run by now, of another game
        deployments.clear()
        deployment.stock[stocked.number] = stocked
        deployment.plan = champion_only(stocked.number)
        deployment.generation += 1
        deployments[stocked.game] = deployment

    async def _put_away(self) -> None:
        """Unloads checkpoints that play no game any more."""
        for deployment in (*self._service.deployments.values(), *self._left):
            for number in list(deployment.stock):
                current = self.playing is not None and number == self.playing.number
                if not current and not self._service.sessions.of_version(number):
                    del deployment.stock[number]
                    await self._service.engine.unload(number)
        self._left = [deployment for deployment in self._left if deployment.stock]

    # How it goes

    def age(self, playing: Playing) -> float:
        """Returns the seconds since a checkpoint was saved."""
        return max(0.0, self._clock() - playing.saved)

    async def progress(self) -> Progress:
        """Tells how the run goes."""
        quiet = self._quiet_seconds()
        state = await self._state(quiet)
        quiet = None if quiet is None else max(0.0, quiet)
        await self._read_figures()
        length = await asyncio.to_thread(_length, self.folder)
        return Progress(state, self._figures, length, self.playing, quiet, self.trouble)

    def _quiet_seconds(self) -> float | None:
        """Seconds since the run last wrote something; below 0: the clock was set back since."""
        names = (METRICS_FILE, "run.json", "checkpoints", "result.json")
        times = [stamp[0] for name in names if (stamp := _stamp(self.folder / name)) is not None]
        return self._clock() - max(times) / 1e9 if times else None

    async def _state(self, quiet: float | None) -> RunState:
        if quiet is None:
            return "waiting"
        if _stamp(self.folder / "result.json") is not None:
            return "ended"
        if abs(quiet) < QUIET_SECONDS:
            return "training"
        when, works = self._process
        if self._monotonic() - when >= _LOCK_SECONDS:
            works = await asyncio.to_thread(process_in, self.folder) is not None
            self._process = (self._monotonic(), works)
        return "training" if works else "stopped"

    async def _read_figures(self) -> None:
        """Reads the figures if they have changed, but only now and then."""
        async with self._reading:
            now, stamp = self._monotonic(), _stamp(self.folder / METRICS_FILE)
            if stamp == self._figures_of or now < self._next_reading:
                return
            began = time.perf_counter()
            with suppress(OSError):  # it is a link, too large, or cannot be read: no curve
                self._figures = await asyncio.to_thread(_figures_in, self.folder)
            self._figures_of = stamp
            took = time.perf_counter() - began
            self._next_reading = now + max(_FIGURES_SECONDS, took / _FIGURES_SHARE)


def give_way() -> None:
    """Gives this process the lowest priority, so that a training beside it is not slowed down.

    On Linux it gets only what nobody else wants (SCHED_IDLE). Where the kernel refuses that, it is
    as nice as it can be. Both hold for its threads, and for threads and processes that they start
    later. Niceness alone slowed a training by 7 % while a page showed its game.
    """
    if sys.platform == "linux":
        for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
            with suppress(OSError):  # also if the thread has ended
                os.setpriority(os.PRIO_PROCESS, thread, 19)
            with suppress(OSError):
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Returns what changes when a file or folder is written or replaced; None if it is not there.

    The first part is the time of the last change, in nanoseconds since 1970.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _length(folder: Path) -> int | None:
    try:
        record = read_record(folder)
    except RlarcadeError:
        return None
    return None if record is None else record.train.schedule.total_timesteps


def _figures_in(folder: Path) -> Figures:
    """Reads all figures of a run, line by line.

    Raises:
        OSError: they cannot be read.
    """
    step = 0
    curve: list[Point] = []
    evaluations: list[Point] = []
    newest: dict[str, float] = {}
    for figures in each_metric(folder):
        step = max(step, figures["step"])
        for name, points in ((_SCORE, curve), (_EVALUATION, evaluations)):
            if _is_number(figures.get(name)):
                points.append((figures["step"], float(figures[name])))
        newest |= {name: float(figures[name]) for name in _NEWEST if _is_number(figures.get(name))}
    return Figures(step, _thinned(curve), _thinned(evaluations), newest)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    """Returns at most 400 of the points, evenly spread, the first and the last among them."""
    if len(points) <= _MOST_POINTS:
        return tuple(points)
    last = len(points) - 1
    return tuple(points[round(i * last / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS))
