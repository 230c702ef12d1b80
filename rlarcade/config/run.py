"""Settings of a run around training, and both groups together."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic.fields import FieldInfo

from rlarcade.checked import did_you_mean, validated
from rlarcade.config.training import PARTS, TrainConfig
from rlarcade.config.values import (
    AnyAddress,
    AnyPath,
    Count,
    Games,
    Minutes,
    SettingsGroup,
    Steps,
    whole_number,
)
from rlarcade.errors import ConfigError
from rlarcade.text import quoted

TrackerName = Literal["wandb", "mlflow"]
"""The trackers that `--track` adds to TensorBoard."""


class RunSettings(SettingsGroup):
    """Everything about a run that cannot change what is learned."""

    run_dir: AnyPath | None = None
    """Folder of the run. Unset: checkpoints/GAME-PRESET-seedN."""
    resume: Literal["auto", "never"] = "auto"
    """auto resumes the run in the folder; never refuses a folder that holds a run."""
    minutes: Minutes | None = None
    """Length in minutes instead of total_timesteps. The number of steps is fixed once, from the
    measured speed."""
    save_interval: Count = 50_000
    """Agent steps between saves of the training state and a policy checkpoint."""
    eval_interval: Steps = 0
    """Agent steps between evaluations during training; 0 for none."""
    eval_episodes: Games = 10
    """Whole games in each evaluation, during training and at the end."""
    video_interval: Steps = 0
    """Agent steps between videos of a game during training; 0 for none. Each takes the time of the
    game and of drawing it."""
    track: tuple[TrackerName, ...] = ()
    """Show the run in Weights & Biases (wandb) or MLflow, too; may be repeated. TensorBoard always
    has it."""
    pipeline: Literal["ci", "delivery", "deployment"] | None = None
    """Register each policy checkpoint as a version and send it through the gate: ci only checks,
    delivery waits for a person, deployment makes it the champion if it is better."""
    registry: AnyAddress | None = None
    """Folder of the registry, or a database: postgresql://USER@HOST/DATABASE. Unset:
    checkpoints/registry."""
    gate: AnyPath | None = None
    """Gate file. Unset: configs/gate.toml."""
    custom_torso: str | None = None
    """MODULE:NAME of a function without arguments that returns your own torso, a torch module from
    uint8 (B, 4, 84, 84) to float (B, F)."""
    custom_loss: str | None = None
    """MODULE:NAME of your own loss: predictions and targets, float32 (B,), to losses (B,)."""
    custom_exploration: str | None = None
    """MODULE:NAME of a function of the agent steps so far that returns the share of random
    actions."""
    custom_learning_rate: str | None = None
    """MODULE:NAME of a function of the agent steps so far that returns the step size."""
    init_from: AnyPath | None = None
    """Policy checkpoint, version (7, champion@pong) or agent of the zoo (zoo:SpaceInvaders). A new
    run starts from its weights and records it as the parent."""


class Settings(SettingsGroup):
    """Both groups, and the name of the preset that they came from."""

    preset: str
    train: TrainConfig
    run: RunSettings
    minutes_by_default: bool = False
    """Whether the length in minutes comes from the preset, not from a flag. A resumed run then
    keeps its own length."""
    buffer_by_default: bool = False
    """Whether the size of replay comes from the preset, not from a flag. If memory is short, replay
    is then made smaller."""
    preset_note: str = ""
    """Where a preset file has its settings from, see `described_preset`."""
    given: frozenset[str] = frozenset()
    """Settings that were set by flags. They are not adapted to the run's length."""


def _fields() -> dict[str, FieldInfo]:
    found = {name: TrainConfig.model_fields[name] for name in ("game", "protocol", "seed")}
    for part in PARTS.values():
        found |= {name: part.model_fields[one] for name, one in part.attributes().items()}
    return found | dict(RunSettings.model_fields)


FIELDS: dict[str, FieldInfo] = _fields()
"""Every setting of both groups, by name, in the order in which commands show them."""

WHOLE_NUMBERS = frozenset(
    name for name, field in FIELDS.items() if "int" in re.findall(r"\w+", str(field.annotation))
)
"""Settings that are one whole number, or several."""


def whole_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings, with 1e6 as 1000000 where a setting is a whole number."""
    return {name: whole_number(v) if name in WHOLE_NUMBERS else v for name, v in values.items()}


def check_names(values: Mapping[str, Any], where: str) -> None:
    """Refuses names of settings that do not exist.

    Raises:
        ConfigError: a name is unknown; the message suggests the nearest known names.
    """
    for name in values:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS)
            raise ConfigError(f"unknown setting {quoted(name)} in {where}. {hint}".strip())


def make_settings(preset: str, values: Mapping[str, Any]) -> Settings:
    """Validates settings of both groups, given by name.

    Raises:
        ConfigError: an unknown name, a wrong type, a value out of range, or values that do not go
            together.
    """
    check_names(values, f"preset {quoted(preset)} or flags")
    train = {name: value for name, value in values.items() if name in TrainConfig.setting_names}
    run = {name: value for name, value in values.items() if name in RunSettings.model_fields}
    if "game" not in train:
        raise ConfigError("no game was named. Add --game, such as --game SpaceInvaders.")
    return Settings(
        preset=preset, train=validated(TrainConfig, train), run=validated(RunSettings, run)
    )
