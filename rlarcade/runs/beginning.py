"""How a new run's settings are fitted to its length and to this machine."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from rlarcade.config import RunSettings, Settings, TrainConfig
from rlarcade.foreign import imported
from rlarcade.games import resolve_game
from rlarcade.games.protocols import MOST_ACTIONS
from rlarcade.learning.custom import Custom
from rlarcade.learning.frames import BLOCKED_FRAME
from rlarcade.learning.hardware import bf16_is_faster, resolve_device
from rlarcade.learning.networks import weights_bytes
from rlarcade.learning.replay import Replay
from rlarcade.learning.schedules import LENGTH_TO_LEARN, following_length
from rlarcade.learning.state import capped_buffer, replay_capacity, resolved, transitions_that_fit
from rlarcade.machine import require_disk
from rlarcade.runs.pace import steps_in

_DISK_SHARE = 0.1  # of replay's size in memory; screens are compressed ten to fifty times
_STATES = 3  # training states at once: two are kept while the next is written
_STATE_NETWORKS = 4  # in each of them: online, target, and the optimizer's two moments
_FIGURES = 60_000_000  # bytes of figures and of the outcome

Tell = Callable[[str], None]


def prepared(
    settings: Settings,
    say: Tell,
    warn: Tell,
    *,
    adapt: bool,
    folder: Path,
    torso: nn.Module | None = None,
) -> TrainConfig:
    """Returns the resolved configuration of a new run.

    Args:
        settings: the settings that were asked for.
        say: told what is changed, a sentence each.
        warn: told what may be unexpected.
        adapt: turn a length in minutes into steps, and fit a preset to the run's length and to this
            machine's memory. What flags set is not changed.
        folder: folder of the run, whose disk must hold it.
        torso: your own module instead of the torso.

    Raises:
        ConfigError, GameError: a setting cannot be used.
        ResourceError: the run does not fit into memory or onto the disk.
    """
    run, config = settings.run, settings.train
    resolve_game(config.game)  # a missing game or device fails before the speed is measured
    resolve_device(config.machine.device)
    if adapt:
        if run.minutes is not None:
            say(f"measuring how many steps fit into {run.minutes:g} minutes here …")
            steps = steps_in(run.minutes, config, settings.given)
            config = config.model_copy(update={"total_timesteps": steps})
        config = _following(config, settings, say, warn)
        config = _with_replay_that_fits(config, settings, warn)
    config = resolved(config)
    require_disk_for(config, run.save_interval, folder, torso=torso)
    if (config.machine.device, config.machine.precision) == (
        "cpu",
        "bf16",
    ) and not bf16_is_faster():
        warn("bf16 is slower than fp32 on this CPU, as just measured. Use --precision fp32.")
    return config


def _following(config: TrainConfig, settings: Settings, say: Tell, warn: Tell) -> TrainConfig:
    """Shortens a preset's warm-up and exploration in a short run, and says so."""
    follows = following_length(config, settings.given)
    names = [n for n in TrainConfig.setting_names if follows[n] != config[n]]
    if names:
        changed = [f"{n} {follows[n]:,} of {config[n]:,}" for n in names]
        say(f"a short run: {', '.join(changed)}, to leave time to learn")
    if "learning_starts" in names and config.schedule.total_timesteps < LENGTH_TO_LEARN:
        warn(
            f"{config.schedule.total_timesteps:,} steps are too few to learn to play. After about "
            f"{LENGTH_TO_LEARN:,} steps (--preset quick, two minutes on two cores) an agent "
            "can be expected to play better than chance."
        )
    return follows


def _with_replay_that_fits(config: TrainConfig, settings: Settings, warn: Tell) -> TrainConfig:
    """Makes a preset's replay smaller if memory is short. A flag's size is refused instead."""
    asked, fits = config.memory.buffer_size, transitions_that_fit()
    if not settings.buffer_by_default or asked is None:
        return config
    size = max(fits, config.schedule.learning_starts)
    if size >= capped_buffer(config, asked):
        return config
    warn(
        f"preset {settings.preset} has a replay of {asked:,} transitions. Half of the "
        f"free memory holds {fits:,}, so replay gets {size:,}. --buffer-size sets another size."
    )
    return config.model_copy(update={"buffer_size": size})


def disk_bytes(config: TrainConfig, save_interval: int, torso: nn.Module | None = None) -> int:
    """Returns about how many bytes a run's folder will have.

    Args:
        config: resolved configuration.
        save_interval: agent steps between saves.
        torso: your own module instead of the torso.
    """
    replay = Replay.bytes_needed(replay_capacity(config), BLOCKED_FRAME)
    saves = config.schedule.total_timesteps // save_interval + 1
    weights = weights_bytes(config.network, MOST_ACTIONS, torso)
    states = _STATES * _STATE_NETWORKS * weights
    return int(_DISK_SHARE * replay) + states + saves * weights + _FIGURES


def require_disk_for(
    config: TrainConfig,
    save_interval: int,
    folder: Path,
    *,
    already: TrainConfig | None = None,
    torso: nn.Module | None = None,
) -> None:
    """Refuses a run that does not fit onto the disk.

    Args:
        config: resolved configuration.
        save_interval: agent steps between saves.
        folder: the run's folder, which may not exist yet.
        already: configuration of the run so far, whose bytes are on the disk.
        torso: your own module instead of the torso.

    Raises:
        ResourceError: it does not fit; the message names both sizes and the remedy.
    """
    taken = 0 if already is None else disk_bytes(already, save_interval, torso)
    require_disk(
        disk_bytes(config, save_interval, torso) - taken,
        folder,
        "the run",
        "Free some space, choose --run-dir on another disk, or lower --buffer-size.",
    )


def imported_parts(run: RunSettings) -> Custom:
    """Imports the functions and modules of the user's own that settings name.

    Raises:
        ConfigError: a name cannot be imported.
    """
    parts = {
        name: None if where is None else imported(where, f"custom_{name}")
        for name, where in (
            ("torso", run.custom_torso),
            ("loss", run.custom_loss),
            ("exploration", run.custom_exploration),
            ("learning_rate", run.custom_learning_rate),
        )
    }
    if parts["torso"] is not None:
        parts["torso"] = parts["torso"]()
    return Custom(**parts)
