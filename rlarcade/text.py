"""Text from outside, made fit to be shown: a name, a note or a path is printed, never obeyed."""

import unicodedata
from collections.abc import Callable
from typing import Any

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that a terminal obeys, or that a reader cannot see: control and format
characters, halves of a surrogate pair, private and unassigned ones, line and paragraph breaks."""

LONGEST_SHOWN = 80
"""Characters of somebody's value in an error; from a file or a caller it may have any length."""
_LONGEST_PATH = 400  # characters of a path, or another word, in an error
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


def quoted(value: object, longest: int = LONGEST_SHOWN) -> str:
    """Returns what somebody gave as Python writes it: one printable line, and not a long one.

    Args:
        value: anything.
        longest: more characters than these are cut out of the middle.
    """
    if isinstance(value, str) and len(value) > 2 * longest:  # the rest would not be seen
        value = value[:longest] + value[-longest:]
    try:
        return printable(repr(value), longest)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    except Exception:  # somebody else's object may fail even at that
        return f"a {type(value).__name__}"


def shown_path(path: object) -> str:
    """Returns a path for an error: whole, unless it is longer than any that people use."""
    return printable(path, _LONGEST_PATH)


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


def error_line(text: str) -> str:
    """Returns an error as one printable line; a long word, and a long line, lose their middle."""
    return printable(" ".join(printable(w, _LONGEST_PATH) for w in text.split()), _LONGEST_ERROR)


def counted(number: int, thing: str) -> str:
    """Returns a number with its noun, which takes an s in the plural: 1 game, 1,200 games."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _shown(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) not in _UNSEEN:
        return letter
    return letter.encode("unicode_escape").decode("ascii")
