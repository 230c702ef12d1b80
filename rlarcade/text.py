"""Text from outside, made fit to be shown: a name, a note or a path is printed, never obeyed."""

import unicodedata
from collections.abc import Callable
from typing import Any

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that a terminal obeys, or that a reader cannot see: control and format
characters, halves of a surrogate pair, private and unassigned ones, line and paragraph breaks."""

_LONGEST_ERROR = 2_000  # characters: somebody's own error may hold an array, and documents keep it


def printable(text: object, longest: int | None = None) -> str:
    r"""Returns text as one line that only shows something.

    What a terminal would obey or a reader would not see becomes its escape: a line break '\\n',
    the beginning of a colour code '\\x1b', a byte of a path that is no UTF-8 '\\udcff'.

    Args:
        text: anything; `str` of it is shown.
        longest: more characters than these are cut out of the middle.
    """
    line = str(text)
    if not line.isprintable():  # quick; True also says that no character is of those categories
        line = "".join(_shown(letter) for letter in line)
    if longest is not None and len(line) > longest:
        half = (longest - 1) // 2
        line = f"{line[: longest - 1 - half]}…{line[len(line) - half :]}"
    return line


def said(error: BaseException, how: Callable[[Any], str] = str) -> str:
    """Returns what an error says; somebody else's may fail even at that.

    Args:
        error: the error.
        how: `str` or `repr`.
    """
    try:
        text = how(error)
    except KeyboardInterrupt:
        raise
    except BaseException as another:
        return f"{type(error).__name__}; its text cannot be made ({type(another).__name__})"
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"


def counted(number: int, thing: str) -> str:
    """Returns a number with its noun, which takes an s in the plural: 1 game, 1,200 games."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _shown(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) not in _UNSEEN:
        return letter
    return letter.encode("unicode_escape").decode("ascii")
