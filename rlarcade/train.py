"""`python -m rlarcade.train --game SpaceInvaders`: trains an agent; the same command resumes it."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlarcade.checkpoint import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
)
from rlarcade.config import Settings, TrainConfig
from rlarcade.console import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    StopSignal,
    run_command,
    say,
    say_error,
    say_lines,
    say_warning,
    write_json,
)
from rlarcade.errors import (
    CheckpointError,
    DivergenceError,
    RlarcadeError,
    RunFolderError,
)
from rlarcade.evaluation import evaluate_agent
from rlarcade.files import write_file
from rlarcade.games import FRAMESKIP, display_name, resolve_game
from rlarcade.learning.frames import BLOCKED_FRAME
from rlarcade.learning.hardware import (
    bf16_is_faster,
    gigabytes,
    require_disk,
    resolve_device,
)
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.replay import Replay
from rlarcade.learning.schedules import (
    LENGTH_TO_LEARN,
    crossed,
    following_length,
    updates_due,
    whole_length,
)
from rlarcade.learning.state import (
    TrainingState,
    capped_buffer,
    is_torso,
    replay_capacity,
    resolved,
    torso_of,
    transitions_that_fit,
)
from rlarcade.learning.training import train_agent
from rlarcade.outputs import check_outputs
from rlarcade.playing.references import load_named
from rlarcade.progress import ProgressLine, duration
from rlarcade.promotion.gate import Gate, load_gate
from rlarcade.reports.lines import score_lines
from rlarcade.runs.continuing import continued, quoted
from rlarcade.runs.folder import (
    PARENT_PIPE,
    RunFolder,
    RunRecord,
    code_commit,
    default_run_folder,
    new_record,
)
from rlarcade.runs.metrics import MetricWriter, TrainingLog
from rlarcade.runs.pace import steps_in
from rlarcade.runs.state_store import StateStore
from rlarcade.seeding import SeedUse
from rlarcade.train_flags import as_toml, parse_settings

_DISK_SHARE = 0.1  # of replay's size in memory; screens are compressed ten to fifty times


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_train_command, argv)


def _train_command(argv: Sequence[str]) -> int:
    code_commit()  # cached now, before anybody commits something else
    _stop_with_the_sweep()
    settings, json_file, print_config = parse_settings(argv)
    if print_config:
        say_lines(as_toml(settings).splitlines())
        return EXIT_OK
    check_outputs({"--json": json_file})
    path = settings.run.run_dir or default_run_folder(settings)
    with StopSignal() as stop:
        folder = RunFolder(path)
        try:
            return _Run(settings, folder, stop).execute(json_file)
        except OSError as error:  # the disk is full or gone; the last good state is kept
            say_error(
                f"{error.strerror or error}: {error.filename or path}. Earlier saves are kept in "
                f"{path}. Once the disk can be written, the same command resumes the run."
            )
            return EXIT_ERROR
        except DivergenceError as error:
            say_error(str(error))
            return EXIT_ERROR
        finally:
            folder.close()


def _stop_with_the_sweep() -> None:
    """Makes this run stop, as after a Ctrl-C, when the sweep that started it has ended."""
    pipe = os.environ.pop(PARENT_PIPE, "")
    if pipe.isdigit():
        threading.Thread(target=_interrupt_at_the_end_of, args=(int(pipe),), daemon=True).start()


def _interrupt_at_the_end_of(pipe: int) -> None:
    try:
        os.read(pipe, 1)  # nothing is ever written; it returns when the sweep's end is closed
    except OSError:  # there is no such pipe
        return
    os.kill(os.getpid(), signal.SIGINT)


class _Run:
    """One training run, from its settings to the evaluation at the end."""

    def __init__(self, settings: Settings, folder: RunFolder, stop: StopSignal) -> None:
        self.settings, self.folder, self.stop = settings, folder, stop
        self.store = StateStore(folder.path / "state")
        self.gate: Gate | None = None
        self.saved_at = -1
        self.save_seconds = 0.0
        self.started = time.monotonic()

    def execute(self, json_file: Path | None) -> int:
        if self.settings.run.pipeline is not None:  # an invalid gate fails before training
            self.gate = load_gate(self.settings.run.gate)
        record = self.folder.record()
        if record is None:
            state = self._begin()
        else:
            if self.settings.run.resume == "never":
                raise RunFolderError(
                    f"run folder {self.folder.path} already holds a run, and --resume is never. "
                    "Choose another --run-dir, or use --resume auto to resume the run."
                )
            resumed = self._go_on(record, json_file)
            if isinstance(resumed, int):
                return resumed
            state = resumed
        self._show_start(state.config)
        self.folder.log_command(state.steps)
        code = self._train(state)
        return self._finish(state, json_file) if code == EXIT_OK else code

    def _go_on(self, record: RunRecord, json_file: Path | None) -> TrainingState | int:
        """Resumes the run; returns an exit code if it is finished."""
        plan = continued(record, self.settings, self.folder.path)
        for warning in plan.warnings:
            say_warning(warning)
        self._check_parent(record.init_from)
        finished = None if plan.longer else self._finished()
        if finished is not None:
            return self._already_finished(finished, json_file)
        resolve_device(plan.config.device)  # another machine may have no GPU
        if plan.longer:
            self._require_disk(plan.config, self._disk_bytes(record.train))
        for note in plan.notes:
            say(note)
        state = self._resume(plan.config, record.init_from)
        # Changes are recorded only now: a run that failed to load with them keeps its settings.
        self.folder.result.unlink(missing_ok=True)
        if plan.changes:
            self.folder.write_record(plan.recorded(record, state.steps))
        return state

    def _finished(self) -> dict[str, Any] | None:
        """Returns the outcome of a finished run; None if it is not finished, or must finish again.

        The folder may have been moved, so the checkpoint's path is set anew. If the last checkpoint
        is lost or damaged, the run finishes again from its training state.
        """
        document = self.folder.finished()
        if document is None or type(document["steps"]) is not int:
            return None
        path = checkpoint_path(self.folder.path, document["steps"])
        if not self._policy_is_whole(document["steps"]):
            if self.store.saved_steps():
                return None
            say_warning(f"the checkpoint of the finished run, {path}, is missing or damaged.")
        return document | {"checkpoint": str(path)}

    # Beginning

    def _begin(self) -> TrainingState:
        run, config = self.settings.run, self.settings.train
        parent = self._parent()
        resolve_game(config.game)  # a missing game or device fails before the speed is measured
        resolve_device(config.device)
        if run.minutes is not None:
            say(f"measuring how many steps fit into {run.minutes:g} minutes here …")
            steps = steps_in(run.minutes, config, self.settings.given)
            config = config.model_copy(update={"total_timesteps": steps})
        config = self._following_length(config)
        config = resolved(self._with_replay_that_fits(config))
        self._require_disk(config)
        if (config.device, config.precision) == ("cpu", "bf16") and not bf16_is_faster():
            say_warning(
                "bf16 is slower than fp32 on this CPU, as just measured. Use --precision fp32."
            )
        state = TrainingState.create(config, init_from=parent, progress=_show_lanes)
        if parent is not None and is_torso(state.parent):
            say(
                f"{parent.path} plays {display_name(parent.manifest.game)} with "
                f"{parent.manifest.num_actions} actions: its torso is used, the head starts anew"
            )
        self.folder.write_record(new_record(self.settings, config, state.parent))
        return state

    def _following_length(self, config: TrainConfig) -> TrainConfig:
        """Shortens a preset's warm-up and exploration in a short run, and says so."""
        follows = following_length(config, self.settings.given)
        names = [n for n in TrainConfig.model_fields if getattr(follows, n) != getattr(config, n)]
        if names:
            changed = [f"{n} {getattr(follows, n):,} of {getattr(config, n):,}" for n in names]
            say(f"a short run: {', '.join(changed)}, to leave time to learn")
        if "learning_starts" in names and config.total_timesteps < LENGTH_TO_LEARN:
            say_warning(
                f"{config.total_timesteps:,} steps are too few to learn to play. After about "
                f"{LENGTH_TO_LEARN:,} steps (--preset quick, two minutes on two cores) an agent "
                "can be expected to play better than chance."
            )
        return follows

    def _with_replay_that_fits(self, config: TrainConfig) -> TrainConfig:
        """Makes a preset's replay smaller if memory is short. A flag's size is refused instead."""
        asked, fits = config.buffer_size, transitions_that_fit()
        if not self.settings.buffer_by_default or asked is None:
            return config
        size = max(fits, config.learning_starts)
        if size >= capped_buffer(config, asked):
            return config
        say_warning(
            f"preset {self.settings.preset} has a replay of {asked:,} transitions. Half of the "
            f"free memory holds {fits:,}, so replay gets {size:,}. --buffer-size sets another size."
        )
        return config.model_copy(update={"buffer_size": size})

    def _resume(self, config: TrainConfig, parent_sha256: str | None) -> TrainingState:
        with ProgressLine(1, "rebuilding the games in flight") as line:

            def show(done: int, total: int) -> None:
                line.update(done, total=total)

            state, problems = self.store.load(config, progress=show)
        for problem in problems:
            say_warning(f"{problem} Resuming from an older state.")
        if state is not None:
            self.saved_at = state.steps
            if not self._policy_is_whole(state.steps):
                self._save_policy(state)
            say(f"resumed at step {state.steps}")
            if self.store.games_began_anew:
                say(f"its {config.num_envs} games begin anew")
            self._send(state.steps)  # the kill may have come before the pipeline was done
            return state
        parent = None
        if parent_sha256 is not None:
            parent = self._parent()
            if parent is None:
                raise CheckpointError(
                    f"the run in {self.folder.path} began from a checkpoint and was stopped before "
                    "its first save. Name that checkpoint again with --init-from."
                )
        if checkpoints := list_checkpoints(self.folder.path):
            raise CheckpointError(
                f"the run in {self.folder.path} has policy checkpoints up to "
                f"{checkpoints[-1].name}, but no training state to resume from. Begin a new run "
                "from one of them with --init-from, in another --run-dir."
            )
        say("nothing was saved yet: starting at step 0")
        return TrainingState.create(config, init_from=parent, progress=_show_lanes)

    def _policy_is_whole(self, steps: int) -> bool:
        """Whether the policy checkpoint exists and is whole.

        It is missing if a kill came between the two halves of a save, and may be damaged later.
        """
        try:
            load_checkpoint(checkpoint_path(self.folder.path, steps))
        except CheckpointError:
            return False
        return True

    def _parent(self) -> Checkpoint | None:
        run = self.settings.run
        return load_named(run.init_from, run.registry) if run.init_from else None

    def _check_parent(self, recorded: str | None) -> None:
        parent = self._parent()
        if parent is None:
            return
        sha256 = parent.manifest.weights_sha256
        if recorded not in (sha256, torso_of(sha256)):
            raise RunFolderError(
                f"run folder {self.folder.path} holds a run that began from "
                f"{(recorded or 'random weights')[:14]}, not from {parent.path} "
                f"({parent.manifest.weights_sha256[:14]}). Choose another --run-dir."
            )

    def _already_finished(self, document: dict[str, Any], json_file: Path | None) -> int:
        say(f"already finished at step {document['steps']}: {self.folder.path}")
        say(f"checkpoint: {document['checkpoint']}")
        say("Continue it with a larger --total-timesteps.")
        write_json(json_file, document)
        return EXIT_OK

    # Training

    def _train(self, state: TrainingState) -> int:
        config, run = state.config, self.settings.run
        metrics = MetricWriter(self.folder.path, resumed_at=state.steps)
        log = TrainingLog(metrics, config)
        before = state.steps
        self._evaluate_if_due(state, log)  # the run may have been stopped during an evaluation
        with ProgressLine(whole_length(config), config.game, done=before) as line:
            for progress in train_agent(state):
                log.observe(before, progress)
                line.update(progress.steps, partial(log.summary, progress))
                self._evaluate_if_due(state, log)
                if crossed(run.save_interval, before, progress.steps):
                    metrics.flush()
                    self._save(state, last=False)
                before = progress.steps
                if self.stop.requested:
                    break
        metrics.close()
        if self.saved_at != state.steps:
            self._save(state, last=True)
        if self.stop.requested:
            say(f"stopped at step {state.steps}; the same command resumes from there")
            return EXIT_INTERRUPTED
        return EXIT_OK

    def _evaluate_if_due(self, state: TrainingState, log: TrainingLog) -> None:
        """Evaluates during training. After a Ctrl-C the resumed run evaluates instead."""
        if not crossed(self.settings.run.eval_interval, log.evaluated_at, state.steps):
            return

        try:
            games = evaluate_agent(
                state.agent,
                episodes=self.settings.run.eval_episodes,
                seed=state.config.seed,
                use=SeedUse.SELECTION,
                on_episode=self._stop_if_asked,
            ).episodes
        except KeyboardInterrupt:
            return
        log.evaluation(state.steps, [g.score for g in games], [g.steps for g in games])

    def _save(self, state: TrainingState, *, last: bool) -> None:
        """Writes the training state and a policy checkpoint. A full disk does not end the run."""
        started = time.monotonic()
        try:
            self.store.save(state)
            self._save_policy(state)
            self.saved_at = state.steps
        except OSError as error:
            if last:
                raise
            kept = f"step {self.store.kept[-1]}" if self.store.kept else "none yet"
            say_warning(
                f"could not save at step {state.steps}: {error.strerror}. The last good state is "
                f"kept ({kept}). Training continues and saves again after --save-interval steps."
            )
        self.save_seconds += time.monotonic() - started
        if self.saved_at == state.steps:
            self._send(state.steps)

    def _save_policy(self, state: TrainingState) -> None:
        state.agent.save(
            checkpoint_path(self.folder.path, state.steps),
            steps=state.steps,
            updates=state.updates,
            preset=self.settings.preset,
            parent=state.parent,
            git_commit=code_commit(),
        )

    def _send(self, steps: int) -> None:
        """Sends a policy checkpoint through the pipeline. Errors there do not end the run."""
        run = self.settings.run
        if run.pipeline is None or self.gate is None:
            return
        # Imported here, so that training without a pipeline loads no database.
        from rlarcade.promotion.pipeline import send_checkpoint
        from rlarcade.registry.registry import DEFAULT_REGISTRY
        from rlarcade.reports.registry_lines import submission_line

        try:
            current = send_checkpoint(
                run.registry or DEFAULT_REGISTRY,
                checkpoint_path(self.folder.path, steps),
                run.pipeline,
                self.gate,
                on_pair=self._stop_if_asked,
            )
        except KeyboardInterrupt:
            say_warning(f"the match of step {steps} was stopped; the resumed run continues it")
        except (RlarcadeError, OSError) as error:
            say_warning(f"pipeline, step {steps}: {error}")
        else:
            say(submission_line(current))

    # The end

    def _finish(self, state: TrainingState, json_file: Path | None) -> int:
        path = checkpoint_path(self.folder.path, state.steps)
        checkpoint = load_checkpoint(path)
        episodes = self.settings.run.eval_episodes
        with ProgressLine(episodes, "evaluating", unit="games") as line:
            evaluation = evaluate_agent(
                DQNAgent.load(checkpoint),
                episodes=episodes,
                seed=state.config.seed,
                on_episode=lambda _, done, __: self._evaluated(line, done),
            )
        document = {
            "checkpoint": str(path),
            "steps": state.steps,
            "frames": state.steps * FRAMESKIP,
            "updates": state.updates,
            "seconds": self._seconds(state),
            "evaluation": evaluation.model_dump(mode="json"),
        }
        # written whole or not at all: if it exists, the run is finished
        write_file(self.folder.result, (json.dumps(document, indent=2) + "\n").encode())
        write_json(json_file, document)
        say()
        say(f"trained {state.steps:,} steps in {duration(time.monotonic() - self.started)}")
        say(f"checkpoint: {path}")
        say()
        say_lines(score_lines([evaluation]))
        say()
        say(f"next: python -m rlarcade.evaluate {quoted(self.folder.path)} --episodes 100")
        return EXIT_OK

    def _seconds(self, state: TrainingState) -> dict[str, float]:
        """Returns this process's seconds by part; `reseed` is also contained in `env`."""
        return {
            **state.seconds,
            "save": self.save_seconds,
            "reseed": getattr(state.lanes, "reseed_seconds", 0.0),
            "total": time.monotonic() - self.started,
        }

    def _evaluated(self, line: ProgressLine, done: int) -> None:
        line.update(done)
        self._stop_if_asked()

    def _stop_if_asked(self, *_: object) -> None:
        """After a Ctrl-C, ends the games that are being played.

        Raises:
            KeyboardInterrupt: a stop was requested.
        """
        if self.stop.requested:
            raise KeyboardInterrupt

    # The first screen

    def _show_start(self, config: TrainConfig) -> None:
        length = whole_length(config)
        updates = updates_due(config, length)
        capacity = replay_capacity(config)
        replay = Replay.bytes_needed(capacity, BLOCKED_FRAME)
        rows = {
            "game": f"{display_name(config.game)}, protocol {config.protocol}, seed {config.seed}",
            "device": f"{config.device}, {config.precision}, {config.torch_threads} threads",
            "preset": self.settings.preset,
            "length": f"{length:,} steps = {length * FRAMESKIP:,} frames",
            "learning": f"{updates:,} updates of {config.batch_size}, replay ratio "
            f"{config.replay_ratio:g}, {config.num_envs} games at a time",
            "replay": f"{capacity:,} transitions, {gigabytes(replay)} in memory, up to "
            f"{gigabytes(self._disk_bytes(config))} on disk",
            "run folder": str(self.folder.path),
        }
        if idle := _unused(self.settings.train):
            rows["unused"] = f"{', '.join(idle)} (this composition has no part that uses them)"
        for name, value in rows.items():
            say(f"{name:>10}  {value}")
        if not updates:
            say_warning(
                f"nothing will be learned: learning_starts ({config.learning_starts:,}) is not "
                f"below total_timesteps ({config.total_timesteps:,}). Lower --learning-starts."
            )

    def _require_disk(self, config: TrainConfig, taken: int = 0) -> None:
        require_disk(
            self._disk_bytes(config) - taken,
            self.folder.path,
            "the run",
            "Free some space, choose --run-dir on another disk, or lower --buffer-size.",
        )

    def _disk_bytes(self, config: TrainConfig) -> int:
        replay = Replay.bytes_needed(replay_capacity(config), BLOCKED_FRAME)
        saves = config.total_timesteps // self.settings.run.save_interval + 1
        return int(_DISK_SHARE * replay) + 100_000_000 + saves * 8_000_000


def _unused(config: TrainConfig) -> list[str]:
    """Returns the names of settings that were set but have no effect."""
    fields = TrainConfig.model_fields
    return [name for name in config.unused() if getattr(config, name) != fields[name].default]


def _show_lanes(done: int, total: int) -> None:
    if total <= 16 or done == total or done % 16 == 0:
        say(f"starting games: {done}/{total}")


if __name__ == "__main__":
    sys.exit(main())
