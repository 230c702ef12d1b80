"""Reads TOML files from outside, such as presets, gates, suites and sweeps."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from rlarcade.checked import validated
from rlarcade.errors import ConfigError
from rlarcade.files import read_bounded_text
from rlarcade.json_text import MOST_LEVELS
from rlarcade.text import shown_path

_LARGEST_FILE = 1_000_000  # bytes of a file of settings; real ones have a few thousand
_KEY_PART = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DEEP_KEY = re.compile(rf"{_KEY_PART}(?:[ \t]*+\.[ \t]*+{_KEY_PART}){{20}}")
"""A dotted key with more parts than any setting has. tomllib stores every prefix of a key, so a key
of 50,000 parts takes 5 GB."""

_Model = TypeVar("_Model", bound=BaseModel)


@contextmanager
def errors_of(file: str) -> Iterator[None]:
    """Puts the name of a file before the message of a `ConfigError` about its contents.

    Args:
        file: kind and path of the file, such as "gate gate.toml".
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def read_toml_as(model: type[_Model], path: Path, what: str) -> _Model:
    """Reads a TOML file from outside into a model.

    Args:
        model: the model.
        path: the file.
        what: the kind of file, for messages, such as "gate".

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or invalid value.
    """
    document = read_toml(path, what)
    with errors_of(f"{what} {path}"):
        return validated(model, document)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Reads a TOML file from outside.

    Args:
        path: the file.
        what: the kind of file, for messages, such as "preset".

    Raises:
        ConfigError: it cannot be read, is not a file, is too large for settings, or is not TOML.
    """
    try:
        # some editors begin a file with a byte order mark
        text = read_bounded_text(path, _LARGEST_FILE).removeprefix("\ufeff")
        # tomllib, like json, calls itself for each level
        if _DEEP_KEY.search(text) or _levels(text) > MOST_LEVELS:
            raise ConfigError(
                f"{what} {path} is nested too deeply. Settings need no more than two levels."
            )
        return tomllib.loads(text)
    except ConfigError:
        raise
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{what} {path} is not valid TOML: {error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {what} {path}: it is not UTF-8 text.") from error
    except (OSError, ValueError) as error:  # ValueError: not text, or a number of 5,000 digits
        reason = getattr(error, "strerror", None) or str(error).partition("; use sys.")[0]
        raise ConfigError(f"cannot read {what} {shown_path(path)}: {reason}.") from error


def _levels(text: str) -> int:
    """Counts brackets inside each other, also those of texts and comments."""
    level = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        level = max(0, level + (1 if bracket in "[{" else -1))
        deepest = max(deepest, level)
    return deepest
