"""A training run in its folder: opened or resumed, iterated, saved, evaluated on the way, finished.

    config = TrainConfig.from_preset("quick", game="Pong")
    with TrainingRun.open(config, "runs/pong") as run:
        for progress in run:
            print(progress.steps, run.summary(progress))
        run.finish()

A run may be stopped at any time. If it is opened again, it goes on from its newest save, and the
weights at its end are bit for bit those of an uninterrupted run.
"""

import copy
import json
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from rlarcade.checked import path_of, require
from rlarcade.checkpoint import Checkpoint, checkpoint_path, list_checkpoints, load_checkpoint
from rlarcade.config import RunSettings, Settings, TrainConfig
from rlarcade.errors import CheckpointError, DivergenceError, RunFolderError
from rlarcade.evaluation import evaluate_agent
from rlarcade.files import write_file
from rlarcade.games import FRAMESKIP
from rlarcade.learning.custom import NOTHING, Custom, Loss, Schedule
from rlarcade.learning.hardware import resolve_device
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.schedules import crossed, updates_due, whole_length
from rlarcade.learning.state import TrainingState, torso_of
from rlarcade.learning.training import TrainingProgress, train_agent
from rlarcade.runs import beginning
from rlarcade.runs.beginning import prepared, require_disk_for
from rlarcade.runs.continuing import check_custom, continued
from rlarcade.runs.folder import RunFolder, RunRecord, code_commit, new_record
from rlarcade.runs.listener import Listener, nothing
from rlarcade.runs.metrics import MetricWriter, TrainingLog
from rlarcade.runs.metrics_file import each_metric
from rlarcade.runs.state_store import StateStore
from rlarcade.runs.trackers import Setting, Tracker
from rlarcade.runs.tracking import Tracking, described, flat_settings, send_missing
from rlarcade.seeding import SeedUse

_open_runs: "weakref.WeakValueDictionary[Path, TrainingRun]" = weakref.WeakValueDictionary()
"""The runs that this process has open, by folder."""


class TrainingRun:
    """A training run in a folder.

    Iterating trains: each step of all lanes (without replay: each rollout) yields its progress.
    On the way the run writes its figures, evaluates and saves. Between two steps the loop may be
    left; `close` (or the end of `with`) saves, and opening the folder again resumes.

    Attributes:
        folder: the run's folder.
        config: the resolved configuration.
        outcome: what `finish` wrote; None if the run is not finished.
    """

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        listener: Listener,
        custom: Custom,
        trackers: Sequence[Tracker],
    ) -> None:
        """Use `open`; this does not read the folder yet."""
        self._settings, self._folder, self._listener = settings, folder, listener
        self._custom, self._trackers = custom, trackers
        self.folder = folder.path
        self.config = settings.train
        self.outcome: dict[str, Any] | None = None
        self._store = StateStore(folder.path / "state")
        self._state: TrainingState | None = None
        self._log: TrainingLog | None = None
        self._metrics: MetricWriter | None = None
        self._close_metrics: Callable[[], object] = nothing
        self._whole = True  # False while a step is under way, and after a step that failed
        self._saved_at = -1
        self._save_seconds = 0.0
        self._started = time.monotonic()
        self._release = weakref.finalize(self, folder.close)

    @classmethod
    def open(
        cls,
        config: TrainConfig,
        folder: str | Path,
        *,
        save_interval: int = 50_000,
        eval_interval: int = 0,
        eval_episodes: int = 10,
        init_from: Checkpoint | None = None,
        torso: nn.Module | None = None,
        loss: Loss | None = None,
        exploration: Schedule | None = None,
        learning_rate: Schedule | None = None,
        preset: str = "custom",
        listener: Listener | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> Self:
        """Begins a run in a folder, or resumes the run that the folder holds.

        If this process has the folder open already, that run is closed first.

        Args:
            config: settings. For a run that has begun they must be those that it began with; a
                larger `total_timesteps` lengthens it.
            folder: the run's folder.
            save_interval: agent steps between saves of the training state and a policy checkpoint.
            eval_interval: agent steps between evaluations on the way; 0 for none.
            eval_episodes: whole games in each evaluation, on the way and at the end.
            init_from: checkpoint from which a new run takes its initial weights.
            torso: your own module instead of the torso, see `TrainingState.create`. This and the
                next three are recorded by name and source digest; resuming needs the same ones.
            loss: your own loss of the expected head.
            exploration: the share of random actions by agent steps so far.
            learning_rate: the optimizer's step size by agent steps so far.
            preset: name of the preset that the settings come from, for the record.
            listener: receives messages and progress. Unset: warnings are shown.
            trackers: show the run elsewhere, beside TensorBoard.

        Raises:
            ConfigError, GameError: a setting cannot be used.
            RunFolderError: another process works on the run, the folder cannot be used, or the run
                in it has other settings.
            CheckpointError: no training state can be resumed, or `init_from` does not fit.
            ResourceError: the run does not fit into memory or onto the disk.
        """
        require(config, TrainConfig, "config", "TrainConfig(game='Pong')")
        require(init_from, Checkpoint | None, "init_from", "load_checkpoint(PATH)")
        run = RunSettings(
            save_interval=save_interval, eval_interval=eval_interval, eval_episodes=eval_episodes
        )
        settings = Settings(preset=preset, train=config, run=run, given=config.given)
        return cls.of_settings(
            settings,
            path_of(folder, "folder"),
            init_from=init_from,
            custom=Custom(torso, loss, exploration, learning_rate),
            adapt=False,
            listener=listener,
            trackers=trackers,
        )

    @classmethod
    def of_settings(
        cls,
        settings: Settings,
        folder: Path,
        *,
        init_from: Checkpoint | None = None,
        custom: Custom = NOTHING,
        adapt: bool = True,
        listener: Listener | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> Self:
        """Begins or resumes a run as the command `train` does. Errors are those of `open`.

        Args:
            settings: both groups of settings.
            folder: the run's folder.
            init_from: checkpoint from which a new run takes its initial weights.
            custom: functions and modules of your own.
            adapt: turn a length in minutes into steps, and fit a preset's warm-up, exploration and
                replay to a new run's length and to this machine's memory.
            listener: receives messages and progress.
            trackers: show the run elsewhere, beside TensorBoard.
        """
        key = folder.resolve()
        if (earlier := _open_runs.get(key)) is not None:
            earlier.close()
        run = cls(settings, RunFolder(folder), listener or Listener(), custom, trackers)
        try:
            run._open(init_from, adapt)
        except BaseException:
            run._release()
            raise
        _open_runs[key] = run
        return run

    # Beginning and resuming

    def _open(self, parent: Checkpoint | None, adapt: bool) -> None:
        record = self._folder.record()
        if record is None:
            self._begin(parent, adapt)
        elif self._settings.run.resume == "never":
            raise RunFolderError(
                f"run folder {self.folder} already holds a run, and --resume is never. "
                "Choose another --run-dir, or use --resume auto to resume the run."
            )
        else:
            self._go_on(record, parent)
        if self._state is not None:
            self.config = self._state.config

    def _begin(self, parent: Checkpoint | None, adapt: bool) -> None:
        parts = self._custom.identities()  # before anything is built
        config = prepared(
            self._settings,
            self._listener.say,
            self._listener.warn,
            adapt=adapt,
            folder=self.folder,
            torso=self._custom.torso,
        )
        self._state = self._new_state(config, parent)
        record = new_record(self._settings, config, self._state.parent, parts)
        self._folder.write_record(record)

    def _new_state(self, config: TrainConfig, parent: Checkpoint | None) -> TrainingState:
        with self._listener.work("starting games", config.schedule.num_envs, "games") as update:
            return TrainingState.create(
                config, init_from=parent, progress=update, **vars(self._custom)
            )

    def _go_on(self, record: RunRecord, parent: Checkpoint | None) -> None:
        """Resumes the run; sets `outcome` instead if it is finished."""
        check_custom(record, self._custom, self.folder)
        plan = continued(record, self._settings, self.folder)
        for warning in plan.warnings:
            self._listener.warn(warning)
        self.config = plan.config
        self._check_parent(record.init_from, parent)
        self.outcome = None if plan.longer else self._finished()
        if self.outcome is not None:
            self._send_missing(self.outcome["steps"])
            return
        resolve_device(plan.config.machine.device)  # another machine may have no GPU
        if plan.longer:
            save_interval = self._settings.run.save_interval
            require_disk_for(
                plan.config,
                save_interval,
                self.folder,
                already=record.train,
                torso=self._custom.torso,
            )
        for note in plan.notes:
            self._listener.say(note)
        self._state = self._resumed(plan.config, record.init_from, parent)
        # Changes are recorded only now: a run that failed to load with them keeps its settings.
        self._folder.result.unlink(missing_ok=True)
        if plan.changes:
            self._folder.write_record(plan.recorded(record, self._state.steps))

    def _send_missing(self, steps: int) -> None:
        if self._trackers:
            send_missing(
                self.folder,
                self._trackers,
                steps=steps,
                settings=self._flat_settings(),
                lines=partial(each_metric, self.folder, any_size=True),
                warn=self._listener.warn,
            )

    def _flat_settings(self) -> dict[str, Setting]:
        return {"preset": self._settings.preset, **flat_settings(self.config)}

    def _finished(self) -> dict[str, Any] | None:
        """Returns the outcome of a finished run; None if it is not finished, or must finish again.

        The folder may have been moved, so the checkpoint's path is set anew. If the last checkpoint
        is lost or damaged, the run finishes again from its training state.
        """
        document = self._folder.finished()
        if document is None or type(document["steps"]) is not int:
            return None
        path = checkpoint_path(self.folder, document["steps"])
        if not _is_whole(path):
            if self._store.saved_steps():
                return None
            self._listener.warn(
                f"the checkpoint of the finished run, {path}, is missing or damaged."
            )
        return document | {"checkpoint": str(path)}

    def _resumed(
        self, config: TrainConfig, parent_sha256: str | None, parent: Checkpoint | None
    ) -> TrainingState:
        with self._listener.work("rebuilding the games in flight", 1, "steps") as update:
            state, problems = self._store.load(config, progress=update, custom=self._custom)
        for problem in problems:
            self._listener.warn(f"{problem} Resuming from an older state.")
        if state is not None:
            self._saved_at = state.steps
            path = checkpoint_path(self.folder, state.steps)
            if not _is_whole(path):
                self._save_policy(state)
            self._listener.say(f"resumed at step {state.steps}")
            if self._store.games_began_anew:
                self._listener.say(f"its {config.schedule.num_envs} games begin anew")
            self._listener.saved(path)
            return state
        if parent_sha256 is not None and parent is None:
            raise CheckpointError(
                f"the run in {self.folder} began from a checkpoint and was stopped before "
                "its first save. Name that checkpoint again with --init-from."
            )
        if checkpoints := list_checkpoints(self.folder):
            raise CheckpointError(
                f"the run in {self.folder} has policy checkpoints up to "
                f"{checkpoints[-1].name}, but no training state to resume from. Begin a new run "
                "from one of them with --init-from, in another --run-dir."
            )
        self._listener.say("nothing was saved yet: starting at step 0")
        return self._new_state(config, None if parent_sha256 is None else parent)

    def _check_parent(self, recorded: str | None, parent: Checkpoint | None) -> None:
        if parent is None:
            return
        sha256 = parent.manifest.weights_sha256
        if recorded not in (sha256, torso_of(sha256)):
            raise RunFolderError(
                f"run folder {self.folder} holds a run that began from "
                f"{(recorded or 'random weights')[:14]}, not from {parent.path} "
                f"({sha256[:14]}). Choose another --run-dir."
            )

    # Training

    @property
    def state(self) -> TrainingState:
        """The run in memory.

        Raises:
            RunFolderError: the run is finished or closed.
        """
        if self._state is None:
            how = "finished" if self.outcome is not None else "closed"
            raise RunFolderError(
                f"the run in {self.folder} is {how}. Open it again"
                + (" with a larger total_timesteps to lengthen it." if self.outcome else ".")
            )
        return self._state

    @property
    def steps(self) -> int:
        """Agent steps so far."""
        return self.outcome["steps"] if self.outcome is not None else self.state.steps

    @property
    def length(self) -> int:
        """Agent steps at the end: total_timesteps, rounded up to whole steps of all lanes."""
        return whole_length(self.config)

    @property
    def updates(self) -> int:
        """Gradient steps of the whole run, from its first step to its length."""
        return updates_due(self.config, self.length)

    @property
    def disk_bytes(self) -> int:
        """About how many bytes the run's folder will have."""
        return beginning.disk_bytes(
            self.config, self._settings.run.save_interval, self._custom.torso
        )

    def __iter__(self) -> Iterator[TrainingProgress]:
        """Trains; yields the progress after every step of all lanes, until the run's length.

        Raises:
            DivergenceError: the loss or a Q-value is not finite. Earlier saves are kept.
            OSError: a figure cannot be written. Earlier saves are kept.
            RunFolderError: the run is closed, or a step was interrupted before its end.
        """
        if self.outcome is not None:
            return
        state = self.state
        if not self._whole:
            raise RunFolderError(
                f"the run in {self.folder} was interrupted in the middle of a step. Open it again "
                "to resume from its newest save."
            )
        log = self._written_log()
        before = state.steps
        self._evaluate_if_due(log)  # the run may have been stopped during an evaluation
        training = train_agent(state)
        while not self._listener.stop():
            self._whole = False
            try:
                progress = next(training, None)
            except DivergenceError:
                with suppress(OSError):  # the user must see the divergence, not this error
                    log.diverged(state.steps)
                raise
            self._whole = True
            if progress is None:
                break
            log.observe(before, progress)
            self._evaluate_if_due(log)
            if crossed(self._settings.run.save_interval, before, progress.steps):
                self._save(last=False)
            before = progress.steps
            yield progress

    def _written_log(self) -> TrainingLog:
        if self._log is None:
            self._metrics = MetricWriter(
                self.folder,
                resumed_at=self.state.steps,
                trackers=self._trackers,
                warn=self._listener.warn,
            )
            self._close_metrics = weakref.finalize(self, self._metrics.close)
            self._log = TrainingLog(self._metrics)
            self._folder.log_command(self.state.steps)
            settings = self._flat_settings()
            self._metrics.tracking.hyper_parameters(settings)
            if not self.state.steps:
                self._metrics.tracking.text(0, "run", described(settings, code_commit()))
        return self._log

    @property
    def tracking(self) -> Tracking:
        """The run's trackers, to show more in: a text, a video, a histogram.

        Raises:
            RunFolderError: the run is finished or closed.
        """
        self._written_log()
        assert self._metrics is not None
        return self._metrics.tracking

    def summary(self, progress: TrainingProgress) -> str:
        """Returns score, loss and ε in one short line."""
        return self._written_log().summary(progress)

    def _evaluate_if_due(self, log: TrainingLog) -> None:
        """Evaluates on the way. After a request to stop, the resumed run evaluates instead."""
        state, run = self.state, self._settings.run
        if not crossed(run.eval_interval, log.evaluated_at, state.steps):
            return
        try:
            games = evaluate_agent(
                state.agent,
                episodes=run.eval_episodes,
                seed=self.config.seed,
                use=SeedUse.SELECTION,
                on_episode=self._stop_if_asked,
            ).episodes
        except KeyboardInterrupt:
            if not self._listener.stop():
                raise
            return
        log.evaluation(state.steps, [g.score for g in games], [g.steps for g in games])

    def _stop_if_asked(self, *_: object) -> None:
        if self._listener.stop():
            raise KeyboardInterrupt

    # Saving

    def save(self) -> Path:
        """Saves the training state and a policy checkpoint now; returns the checkpoint's folder.

        Raises:
            OSError: the disk is full or cannot be written. Earlier saves are kept.
        """
        if self._saved_at != self.state.steps:
            self._save(last=True)
        return checkpoint_path(self.folder, self.state.steps)

    def _save(self, *, last: bool) -> None:
        """Saves. A full disk ends the run only if this is its last save."""
        state, started = self.state, time.monotonic()
        try:
            if self._metrics is not None:
                self._show_values(state, self._metrics.tracking)
                self._metrics.flush()
            self._store.save(state, self._seconds(state))
            self._save_policy(state)
            self._saved_at = state.steps
            if self._metrics is not None:
                self._metrics.saved(state.steps)
        except OSError as error:
            if last:
                raise
            kept = f"step {self._store.kept[-1]}" if self._store.kept else "none yet"
            self._listener.warn(
                f"could not save at step {state.steps}: {error.strerror}. The last good state is "
                f"kept ({kept}). Training continues and saves again after --save-interval steps."
            )
        self._save_seconds += time.monotonic() - started
        if self._saved_at == state.steps:
            self._listener.saved(checkpoint_path(self.folder, state.steps))

    def _show_values(self, state: TrainingState, tracking: Tracking) -> None:
        """Shows how Q-values and errors are distributed over a batch from replay.

        The batch is drawn by a generator of its own, so training draws what it would have drawn.
        """
        if state.newest is None or not state.replay.can_sample:
            return
        size, rng = self.config.schedule.batch_size, np.random.default_rng(state.steps)
        batch = state.replay.sample(size, rng).to(state.learner.device)
        with torch.no_grad():
            values = state.agent.q_network(batch.observation)
        tracking.histogram(state.steps, "train/q_values", values.float().cpu().numpy())
        errors = state.newest.error.float().cpu().numpy()
        tracking.histogram(state.steps, "train/td_error", errors)

    def _save_policy(self, state: TrainingState) -> None:
        state.agent.save(
            checkpoint_path(self.folder, state.steps),
            steps=state.steps,
            updates=state.updates,
            preset=self._settings.preset,
            parent=state.parent,
            git_commit=code_commit(),
        )

    # The end

    def finish(self) -> dict[str, Any]:
        """Saves, evaluates the last checkpoint and writes `result.json`: the run is finished.

        Returns:
            The outcome: `checkpoint`, `steps`, `frames`, `updates`, `seconds` by part, and the
            `evaluation` as its document. For a run that was finished before, that outcome.

        Raises:
            RunFolderError: the run has not reached its length.
            OSError: the disk is full or cannot be written. Earlier saves are kept.
        """
        if self.outcome is not None:
            return self.outcome
        state = self.state
        if state.steps < self.length:
            raise RunFolderError(
                f"the run in {self.folder} is at step {state.steps:,} of {self.length:,}. Iterate "
                "over it to its end first."
            )
        path = self.save()
        episodes = self._settings.run.eval_episodes
        with self._listener.work("evaluating", episodes, "games") as update:

            def played(_: object, done: int, total: int) -> None:
                update(done, total)
                self._stop_if_asked()

            evaluation = evaluate_agent(
                DQNAgent.load(load_checkpoint(path), torso=copy.deepcopy(self._custom.torso)),
                episodes=episodes,
                seed=self.config.seed,
                on_episode=played,
            )
        self._written_log().last_evaluation(state.steps, evaluation)
        self.tracking.artefact("checkpoint", path)
        self.tracking.settle()  # a kill before the next line repeats the evaluation, and this
        outcome = {
            "checkpoint": str(path),
            "steps": state.steps,
            "frames": state.steps * FRAMESKIP,
            "updates": state.updates,
            "seconds": self._seconds(state),
            "evaluation": evaluation.model_dump(mode="json"),
        }
        # written whole or not at all: if it exists, the run is finished
        write_file(self._folder.result, (json.dumps(outcome, indent=2) + "\n").encode())
        self.outcome = outcome
        return outcome

    def _seconds(self, state: TrainingState) -> dict[str, float]:
        """Returns the wall time of the run by part, of the processes before this one, too.

        What a killed process did after its newest save is not contained: it is done again. `reseed`
        is also contained in `env`.
        """
        here = {
            **state.seconds,
            "save": self._save_seconds,
            "reseed": getattr(state.lanes, "reseed_seconds", 0.0),
            "total": time.monotonic() - self._started,
        }
        return {part: self._store.seconds.get(part, 0.0) + spent for part, spent in here.items()}

    def close(self) -> None:
        """Saves what is not saved yet, and releases the folder. A closed run stays closed.

        A step that failed or was interrupted is not saved: the run resumes from its newest save.

        Raises:
            OSError: the disk is full or cannot be written. Earlier saves are kept.
        """
        try:
            state = self._state
            if state is not None and state.steps and self._whole and self.outcome is None:
                self.save()
        finally:
            self._state = None
            self._metrics = self._log = None
            self._close_metrics()
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with nullcontext() if error is None else suppress(OSError):  # the first error counts
            self.close()


def _is_whole(checkpoint: Path) -> bool:
    """Whether a policy checkpoint exists and is whole.

    It is missing if a kill came between the two halves of a save, and may be damaged later.
    """
    try:
        load_checkpoint(checkpoint)
    except CheckpointError:
        return False
    return True
