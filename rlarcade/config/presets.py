"""Presets: TOML files of settings."""

import difflib
import os
import tomllib
from collections.abc import Container, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rlarcade.config.run import check_names, whole_numbers
from rlarcade.errors import ConfigError
from rlarcade.text import counted, quoted, shown_path
from rlarcade.toml_files import read_toml

_NO_PRESETS = ("gate.toml",)  # settings of promotion, not of training
# What a preset says in one way may be asked for in another: then the preset's way is void.
_OTHER_WAYS = {"minutes": "total_timesteps", "exploration_steps": "exploration_fraction"}


def preset_names() -> tuple[str, ...]:
    """Returns the names of the presets that ship with rlarcade."""
    return tuple(sorted(path.name.removesuffix(".toml") for path in _shipped_presets()))


def load_preset(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """Reads a preset: its name, and the settings that differ from the defaults.

    A file may say `preset = "laptop"` (or the path of another file). It then has the settings of
    that preset, too, except those that it sets itself.

    Args:
        name_or_path: a shipped preset, or the path of a TOML file.

    Raises:
        ConfigError: there is no such preset or file, it is not TOML, or a setting is unknown.
    """
    name, own, base = _read(name_or_path)
    based_on = [name_or_path]
    values = own
    while base is not None:
        if base in based_on:
            chain = " on ".join(map(quoted, [*based_on, base]))
            raise ConfigError(f"a preset cannot be based on itself: {chain}.")
        based_on.append(base)
        _, inherited, base = _read(base)
        values = giving_way(inherited, values) | values
    return name, values


def giving_way(preset: Mapping[str, Any], given: Container[str]) -> dict[str, Any]:
    """Returns a preset's settings without those that a given one takes the place of.

    `total_timesteps` takes that of `minutes`, and `exploration_fraction` that of
    `exploration_steps`.

    Args:
        preset: the preset's settings.
        given: names of the settings that are given beside it.
    """
    return {name: v for name, v in preset.items() if _OTHER_WAYS.get(name) not in given}


def described_preset(name_or_path: str) -> str:
    """Describes where a preset file has its settings from; empty for a shipped preset."""
    if name_or_path in preset_names():
        return ""
    _, own, base = _read(name_or_path)
    rest = "the rest are the defaults" if base is None else f"the rest as in {base}"
    return f"{counted(len(own), 'setting')} of its own, {rest}"


def _read(name_or_path: str) -> tuple[str, dict[str, Any], str | None]:
    """Returns a preset's name, the settings in its file, and the preset that it is based on."""
    for shipped in _shipped_presets():
        if shipped.name == f"{name_or_path}.toml":
            values = tomllib.loads(shipped.read_text("utf-8"))
            return name_or_path, _checked_preset(values, shipped.name), None
    path = Path(name_or_path)
    if path.suffix != ".toml":
        near = difflib.get_close_matches(name_or_path, preset_names(), n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown preset {quoted(name_or_path)}. {hint}Choose one of "
            f"{', '.join(preset_names())}, or the path of a .toml file."
        )
    values = read_toml(path, "preset")
    base = values.pop("preset", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(
            f"preset in {shown_path(path)} must be the name of a preset or the path of a .toml "
            f"file, not {quoted(base)}."
        )
    if base is not None and base.endswith(".toml"):
        base = os.path.normpath(path.parent / base)  # relative to the file that names it
    return path.stem, _checked_preset(values, str(path)), base


def _shipped_presets() -> list[Any]:
    return [
        path
        for path in _shipped_configs().iterdir()
        if path.name.endswith(".toml") and path.name not in _NO_PRESETS
    ]


def shipped_config(name: str) -> str:
    """Returns the text of a file that ships in `configs/`."""
    text: str = (_shipped_configs() / name).read_text("utf-8")
    return text


def _shipped_configs() -> Any:
    package = resources.files("rlarcade") / "configs"
    # An editable install has the configs beside the package, a wheel has them inside it.
    return package if package.is_dir() else Path(__file__).parents[2] / "configs"


def _checked_preset(values: dict[str, Any], where: str) -> dict[str, Any]:
    check_names(values, where)
    return whole_numbers(values)
