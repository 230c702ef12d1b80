"""The command line of `python -m rlarcade.train`: defaults < preset < flags."""

import io
import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import tyro
from pydantic import BaseModel, Field, create_model

from rlarcade.command_line import parse_flags
from rlarcade.config import (
    FIELDS,
    PARTS,
    RunSettings,
    Settings,
    check_device,
    described_preset,
    giving_way,
    load_preset,
    make_settings,
    preset_names,
)
from rlarcade.errors import ConfigError
from rlarcade.games.protocols import ProtocolName
from rlarcade.learning.hardware import default_preset
from rlarcade.runs.folder import RunRecord, read_record

_DESCRIPTION = (
    "`python -m rlarcade.train --game SpaceInvaders`: trains an agent; the same command resumes it."
)
_EVERYDAY = ("game", "total_timesteps", "minutes", "seed", "protocol", "device", "run_dir")
"""Settings that the help text shows first."""
_VOID = {
    "custom_torso": (
        *("torso", "conv_channels", "first_kernel"),
        *("impala_width", "spectral_norm", "pool_size"),
    ),
    "custom_loss": ("loss",),
    "custom_exploration": (
        *("exploration_initial_eps", "exploration_final_eps"),
        *("exploration_fraction", "exploration_steps"),
    ),
    "custom_learning_rate": ("learning_rate", "learning_rate_final", "learning_rate_steps"),
}
"""Settings that decide nothing beside a part of the user's own."""


class _Early(BaseModel):
    """Flags that decide on the defaults of all others, as text."""

    preset: str | None = None
    device: str | None = None
    total_timesteps: str | None = None
    minutes: str | None = None
    run_dir: str | None = None


def parse_settings(argv: Sequence[str]) -> tuple[Settings, Path | None, bool]:
    """Reads the command line. For a resumed run, its stored settings replace those of a preset.

    Returns:
        The settings, the file for the outcome, and whether only to print the settings.

    Raises:
        ConfigError: a flag or a setting cannot be used.
        RunFolderError: the run in --run-dir cannot be read.
    """
    early = _early(argv)
    check_device(early.device)
    given = {setting for token in argv if (setting := _setting(token)) is not None}
    begun, note = None, ""
    if early.preset is None and early.run_dir is not None:
        begun = read_record(Path(early.run_dir))
    if begun is not None:
        name, preset = begun.preset, _settings_of(begun)
    else:
        asked = early.preset or default_preset(early.device or "auto")
        (name, preset), note = load_preset(asked), described_preset(asked)
        preset = giving_way(preset, given)
    if early.total_timesteps is not None and early.minutes is not None:
        raise ConfigError(
            f"--total-timesteps {early.total_timesteps} and --minutes {early.minutes} both set "
            "the length of the run. Give one of them."
        )
    flags = _flags(name, preset, argv)
    flags.pop("preset")
    json_file, print_config = flags.pop("json_file"), flags.pop("print_config")
    settings = make_settings(name, flags)
    _check_effect(given, settings.run)
    buffer_by_default = settings.train.memory.buffer_size is not None and "buffer_size" not in given
    notes = {
        "minutes_by_default": settings.run.minutes is not None and "minutes" not in given,
        "buffer_by_default": buffer_by_default,
        "given": frozenset(given),
        "preset_note": note,
    }
    return settings.model_copy(update=notes), json_file, print_config


def _check_effect(given: Collection[str], run: RunSettings) -> None:
    """Refuses flags that would have no effect."""
    for own, void in _VOID.items():
        for name in void:
            if name in given and getattr(run, own) is not None:
                raise ConfigError(
                    f"--{_words(name)} has no effect beside --{_words(own)}. Leave one of them out."
                )
    if "gate" in given and run.pipeline is None:
        raise ConfigError("--gate has no effect without --pipeline. Add it: --pipeline ci.")


def _words(name: str) -> str:
    return name.replace("_", "-")


def _early(argv: Sequence[str]) -> _Early:
    """Reads the first flags. A flag without its value is reported when all flags are read."""
    early = _Early()
    with suppress(SystemExit), redirect_stderr(io.StringIO()):
        early, _ = tyro.cli(_Early, args=list(argv), return_unknown_args=True, add_help=False)
    return early


def every_flag() -> type[BaseModel]:
    """Returns all flags as a model. Its defaults are those of the preset `laptop`."""
    return _model(*load_preset("laptop"))


def _flags(name: str, preset: dict[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """Reads the flags; their defaults are the settings of a preset, or of a run that has begun."""
    model = _model(name, preset)
    read = parse_flags(model, argv, prog="rlarcade train", description=_DESCRIPTION).model_dump()
    return {name: value for group in read.values() for name, value in group.items()}


def _model(name: str, preset: dict[str, Any]) -> type[BaseModel]:
    if not isinstance(preset.get("protocol", ""), str):
        raise ConfigError(
            f"{name} has its own protocol, but commands only use "
            f"{', '.join(get_args(ProtocolName))}. Train in code, with train_agent."
        )
    everyday: dict[str, Any] = {
        "preset": (
            str,
            Field(
                name,
                description=f"{', '.join(preset_names())}, or a TOML file. Unset: "
                "that of the run in --run-dir; for a new run laptop, or fast with a GPU.",
            ),
        ),
        **{setting: _flag(setting, preset) for setting in _EVERYDAY},
        "json_file": (
            Annotated[Path | None, tyro.conf.arg(name="json")],
            Field(None, description="Write the outcome to this file."),
        ),
        "print_config": (bool, Field(False, description="Print the settings and exit.")),
    }
    groups = {"everyday": ("What most commands need.", everyday)}
    for title, part in PARTS.items():
        groups[title] = str(part.__doc__), _flags_of(part.attributes(), preset)
    groups["run"] = "Saving, evaluating and promoting.", _flags_of(RunSettings.model_fields, preset)
    fields: dict[str, Any] = {
        title: (
            Annotated[create_model(title, __doc__=about, **flags), tyro.conf.OmitArgPrefixes],
            Field(..., description=about),  # without it, tyro would search the source for one
        )
        for title, (about, flags) in groups.items()
    }
    model: type[BaseModel] = create_model("TrainFlags", **fields)
    return model


def _flags_of(settings: Iterable[str], preset: dict[str, Any]) -> dict[str, Any]:
    return {name: _flag(name, preset) for name in settings if name not in _EVERYDAY}


def _flag(setting: str, preset: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the type and the field of a setting's flag. Its default is the preset's value."""
    info = FIELDS[setting]
    default = preset.get(setting, ... if info.is_required() else info.default)
    if isinstance(default, list):
        default = tuple(default)
    # tyro sees bare types, so that the settings check ranges, with their own messages
    kind = ProtocolName if setting == "protocol" else _bare(info.annotation)
    if setting == "track":  # --track wandb --track mlflow
        repeated: Any = tyro.conf.UseAppendAction
        kind = repeated[kind]
    return kind, Field(default, description=info.description)


def _bare(kind: Any) -> Any:
    """Returns a type without pydantic's validators."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bare(parts[0])
    if origin in (Union, UnionType):
        return Union[tuple(map(_bare, parts))]  # noqa: UP007 - of types that are not known here
    if origin is tuple:
        return origin.__class_getitem__(tuple(map(_bare, parts)))
    return kind


def _settings_of(record: RunRecord) -> dict[str, Any]:
    """Returns the stored settings of a run that has begun, and its preset's `RunSettings`."""
    try:
        preset = load_preset(record.preset)[1]
    except ConfigError:  # a preset from a file: the record has its name, not its path
        preset = {}
    preset.pop("minutes", None)  # its length is fixed
    return {k: v for k, v in preset.items() if k in RunSettings.model_fields} | record.train.flat()


def _setting(token: str) -> str | None:
    """Returns the setting that a flag sets; None if the token is not the flag of a setting."""
    if not token.startswith("--"):
        return None
    name = token[2:].partition("=")[0].replace("-", "_")
    positive = name.removeprefix("no_")
    return name if name in FIELDS else positive if positive in FIELDS else None


def as_toml(settings: Settings) -> str:
    """Returns the settings as a preset file. Unset ones are comments, unused ones have one."""
    unused = settings.train.unused()
    values = {
        **settings.train.model_dump(mode="json"),
        **settings.run.model_dump(mode="json"),
    }
    lines = []
    for name in sorted(values, key=list(FIELDS).index):
        value = values[name]
        line = f"# {name} is unset" if value is None else f"{name} = {json.dumps(value)}"
        if name == "total_timesteps" and settings.run.minutes is not None:
            line = f"# {name} is as many as fit into the minutes"
        lines.append(f"{line}  # not used by this composition" if name in unused else line)
    return "\n".join(lines)
