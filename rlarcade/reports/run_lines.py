"""Formats a training run's first and last screen for the terminal."""

from pathlib import Path
from typing import Any

from rlarcade.config import FIELDS, Settings, TrainConfig
from rlarcade.evaluation import Evaluation
from rlarcade.games import FRAMESKIP, display_name
from rlarcade.learning.frames import BLOCKED_FRAME
from rlarcade.learning.replay import Replay
from rlarcade.learning.state import replay_capacity
from rlarcade.machine import gigabytes
from rlarcade.reports.lines import score_lines
from rlarcade.runs.continuing import quoted
from rlarcade.runs.training_run import TrainingRun


def start_lines(run: TrainingRun, settings: Settings) -> list[str]:
    """Returns lines with what a run is about to do."""
    config, machine, length = run.config, run.config.machine, run.length
    capacity = replay_capacity(config)
    replay = Replay.bytes_needed(capacity, BLOCKED_FRAME)
    note = f" ({settings.preset_note})" if settings.preset_note else ""
    rows = {
        "game": f"{display_name(config.game)}, protocol {config.protocol}, seed {config.seed}",
        "device": f"{machine.device}, {machine.precision}, {machine.torch_threads} threads",
        "preset": settings.preset + note,
        "length": f"{length:,} steps = {length * FRAMESKIP:,} frames",
        "learning": f"{run.updates:,} updates of {config.schedule.batch_size}, replay ratio "
        f"{config.replay_ratio:g}, {config.schedule.num_envs} games at a time",
        "replay": f"{capacity:,} transitions, {gigabytes(replay)} in memory, up to "
        f"{gigabytes(run.disk_bytes)} on disk",
        "run folder": str(run.folder),
    }
    if idle := _unused(settings.train):
        rows["unused"] = f"{', '.join(idle)} (this composition has no part that uses them)"
    return [f"{name:>10}  {value}" for name, value in rows.items()]


def _unused(config: TrainConfig) -> list[str]:
    """Returns the names of settings that were set but have no effect."""
    return [name for name in config.unused() if config[name] != FIELDS[name].default]


def nothing_learned(config: TrainConfig) -> str:
    """Returns a warning about a run without an update."""
    schedule = config.schedule
    return (
        f"nothing will be learned: learning_starts ({schedule.learning_starts:,}) is not below "
        f"total_timesteps ({schedule.total_timesteps:,}). Lower --learning-starts."
    )


def end_lines(folder: Path, outcome: dict[str, Any], took: str) -> list[str]:
    """Returns lines with what a run has reached.

    Args:
        folder: the run's folder.
        outcome: what `TrainingRun.finish` returned.
        took: the time that this command took.
    """
    return [
        "",
        f"trained {outcome['steps']:,} steps in {took}",
        f"checkpoint: {outcome['checkpoint']}",
        "",
        *score_lines([Evaluation.model_validate(outcome["evaluation"])]),
        "",
        f"next: python -m rlarcade.evaluate {quoted(folder)} --episodes 100",
    ]
