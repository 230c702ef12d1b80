"""`python -m rlarcade.train --game SpaceInvaders`: trains an agent; the same command resumes it."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rlarcade.config import Settings
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
    stop_with_the_sweep,
    write_json,
)
from rlarcade.errors import DivergenceError, RlarcadeError
from rlarcade.games import display_name
from rlarcade.learning.state import is_torso
from rlarcade.outputs import check_outputs
from rlarcade.playing.references import load_named
from rlarcade.progress import ProgressLine, duration
from rlarcade.promotion.gate import Gate, load_gate
from rlarcade.reports.films import Films
from rlarcade.reports.run_lines import end_lines, nothing_learned, start_lines
from rlarcade.runs.beginning import imported_parts
from rlarcade.runs.folder import code_commit, default_run_folder
from rlarcade.runs.listener import Listener, Update
from rlarcade.runs.trackers import make_trackers
from rlarcade.runs.training_run import TrainingRun
from rlarcade.train_flags import as_toml, parse_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_train_command, argv)


def _train_command(argv: Sequence[str]) -> int:
    stop_with_the_sweep()
    code_commit()  # cached now, before anybody commits something else
    settings, json_file, print_config = parse_settings(argv)
    if print_config:
        say_lines(as_toml(settings).splitlines())
        return EXIT_OK
    check_outputs({"--json": json_file})
    folder = settings.run.run_dir or default_run_folder(settings)
    with StopSignal() as stop:
        try:
            return _trained(settings, folder, json_file, stop)
        except OSError as error:  # the disk is full or gone; the last good state is kept
            say_error(
                f"{error.strerror or error}: {error.filename or folder}. Earlier saves are kept in "
                f"{folder}. Once the disk can be written, the same command resumes the run."
            )
            return EXIT_ERROR
        except DivergenceError as error:
            say_error(str(error))
            return EXIT_ERROR


def _trained(settings: Settings, folder: Path, json_file: Path | None, stop: StopSignal) -> int:
    started = time.monotonic()
    gate = None if settings.run.pipeline is None else _ready_to_send(settings)
    listener = Listener(
        say=say,
        warn=say_warning,
        work=_work,
        stop=lambda: stop.requested,
        saved=partial(_send, settings, gate, stop),
    )
    name = settings.run.init_from
    parent = None if name is None else load_named(name, settings.run.registry)
    custom = imported_parts(settings.run)
    trackers = make_trackers(settings.run.track)
    with TrainingRun.of_settings(
        settings, folder, init_from=parent, custom=custom, listener=listener, trackers=trackers
    ) as run:
        if run.outcome is not None:
            return _already_finished(run, json_file)
        if run.steps == 0 and parent is not None and is_torso(run.state.parent):
            say(
                f"{parent.path} plays {display_name(parent.manifest.game)} with "
                f"{parent.manifest.num_actions} actions: its torso is used, the head starts anew"
            )
        say_lines(start_lines(run, settings))
        if not run.updates:
            say_warning(nothing_learned(run.config))
        films = Films(run, settings.run.video_interval, listener)
        with ProgressLine(run.length, run.config.game, done=run.steps) as line:
            for progress in run:
                line.update(progress.steps, partial(run.summary, progress))
                films.film_if_due(progress.steps)
        run.save()
        if stop.requested:
            say(f"stopped at step {run.steps}; the same command resumes from there")
            return EXIT_INTERRUPTED
        outcome = run.finish()
    write_json(json_file, outcome)
    say_lines(end_lines(folder, outcome, duration(time.monotonic() - started)))
    return EXIT_OK


def _ready_to_send(settings: Settings) -> Gate:
    """Returns the gate, and checks the registry's address. Training has not begun yet."""
    from rlarcade.registry.store import require_reachable

    if settings.run.registry is not None:
        require_reachable(settings.run.registry)
    return load_gate(settings.run.gate)


def _send(settings: Settings, gate: Gate | None, stop: StopSignal, checkpoint: Path) -> None:
    """Sends a policy checkpoint through the pipeline. Errors there do not end the run."""
    run = settings.run
    if run.pipeline is None or gate is None:
        return
    # Imported here, so that training without a pipeline loads no database.
    from rlarcade.promotion.pipeline import send_checkpoint
    from rlarcade.registry.registry import DEFAULT_REGISTRY
    from rlarcade.reports.registry_lines import submission_line

    def stop_if_asked(_: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt

    registry = run.registry or DEFAULT_REGISTRY
    step = int(checkpoint.name.removeprefix("step-"))
    try:
        current = send_checkpoint(registry, checkpoint, run.pipeline, gate, on_pair=stop_if_asked)
    except KeyboardInterrupt:
        say_warning(f"the match of step {step} was stopped; the resumed run continues it")
    except (RlarcadeError, OSError) as error:
        say_warning(f"pipeline, step {step}: {error}")
    else:
        say(submission_line(current))


# What the command shows


@contextmanager
def _work(what: str, total: int, unit: str) -> Iterator[Update]:
    """Shows the progress of longer work: games that start as lines, everything else as one line."""
    if what == "starting games":
        yield _show_lanes
        return
    with ProgressLine(total, what, unit=unit) as line:
        yield lambda done, of: line.update(done, total=of)


def _show_lanes(done: int, total: int) -> None:
    if total <= 16 or done == total or done % 16 == 0:
        say(f"starting games: {done}/{total}")


def _already_finished(run: TrainingRun, json_file: Path | None) -> int:
    assert run.outcome is not None
    say(f"already finished at step {run.steps}: {run.folder}")
    say(f"checkpoint: {run.outcome['checkpoint']}")
    say("Continue it with a larger --total-timesteps.")
    write_json(json_file, run.outcome)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
