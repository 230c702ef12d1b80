"""Code of others: the user's own, by name, with its errors, and the libraries of extras."""

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlarcade.errors import ConfigError
from rlarcade.text import said


def imported(name: str, what: str) -> Any:
    """Imports what `module:name` means. The module may lie in the working directory.

    Args:
        name: module and name, such as "mine:make".
        what: what it is for, for messages, such as "custom_loss".

    Raises:
        ConfigError: the name has another form, or importing it fails.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"{what} must be MODULE:NAME, such as mine:make, not {name!r}.")
    try:
        return attribute_of(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's code may raise anything, even SystemExit
        raise ConfigError(f"{what} {name} cannot be imported: {own_words(error)}.") from error


def attribute_of(name: str) -> Any:
    """Imports what `module:name` means. Raises whatever the user's code raises."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return getattr(importlib.import_module(module), attribute)


@contextmanager
def from_extra(name: str, what: str) -> Iterator[None]:
    """Imports libraries of an extra in the block.

    Args:
        name: the extra.
        what: what needs it, with a verb, such as "serving needs".

    Raises:
        ConfigError: one is not installed.
    """
    try:
        yield
    except ImportError as error:
        missing = said(error) if error.name is None else f"{error.name} is missing"
        raise ConfigError(
            f"{what} the extra `{name}` ({missing}): pip install -c constraints.txt '.[{name}]'."
        ) from error


def own_words(error: BaseException) -> str:
    """Describes an error: its type, its message and, in the user's own code, the line."""
    text = said(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame)]
    if not frames:
        return what
    last = frames[-1]
    return f"{what} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


_OTHERS = (
    Path(__file__).parent,
    *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""Folders with code that is not the user's: rlarcade, Python and installed packages."""


def _is_own(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename)
    return path.is_absolute() and not any(path.is_relative_to(folder) for folder in _OTHERS)
