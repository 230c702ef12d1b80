"""Makes text from outside safe to print: control characters in it are escaped."""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that control a terminal or are invisible: control and format characters,
halves of a surrogate pair, private and unassigned characters, line and paragraph breaks."""

LONGEST_SHOWN = 80
"""Most characters of a given value in an error; values from files and callers have any length."""
_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s]*@")  # of an address
_LONGEST_PATH = 400  # most characters of a path or another word in an error
_LONGEST_ERROR = 2_000  # most characters of an error: a foreign one may hold a whole array


def printable(text: object, longest: int | None = None) -> str:
    r"""Returns text as one line that is safe to print.

    Control and invisible characters are escaped: a line break becomes '\\n', the beginning of a
    colour code '\\x1b', an invalid UTF-8 byte of a path '\\udcff'.

    Args:
        text: any value; `str` is applied.
        longest: most characters; a longer text loses its middle.
    """
    line = str(text)
    if not line.isprintable():  # a quick test; if it is True, nothing needs an escape
        line = "".join(_shown(letter) for letter in line)
    if longest is not None and len(line) > longest:
        half = (longest - 1) // 2
        line = f"{line[: longest - 1 - half]}…{line[len(line) - half :]}"
    return line


def without_password(text: str) -> str:
    """Returns text without the passwords of the addresses in it, to be kept in a file."""
    return _PASSWORD.sub(r"\1:…@", text)


def quoted(value: object, longest: int = LONGEST_SHOWN) -> str:
    """Returns the `repr` of a value as one short printable line.

    Args:
        value: any value.
        longest: most characters; a longer text loses its middle.
    """
    if isinstance(value, str) and len(value) > 2 * longest:  # the middle is not shown anyway
        value = value[:longest] + value[-longest:]
    try:
        return printable(repr(value), longest)
    except ValueError:  # Python refuses to print an int of more than 4,300 digits
        return "a number of thousands of digits"
    except Exception:  # the `repr` of a foreign object may fail
        return f"a {type(value).__name__}"


def shown_path(path: object) -> str:
    """Returns a path for an error message; an extremely long one loses its middle."""
    return printable(path, _LONGEST_PATH)


def said(error: BaseException, how: Callable[[Any], str] = str) -> str:
    """Returns the text of an error, even if the error's own `str` or `repr` fails.

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
    """Returns an error as one printable line; a long word or line loses its middle."""
    return printable(" ".join(printable(w, _LONGEST_PATH) for w in text.split()), _LONGEST_ERROR)


def counted(number: int, thing: str) -> str:
    """Returns a number with its noun; the plural gets an s: 1 game, 1,200 games."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _shown(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) not in _UNSEEN:
        return letter
    return letter.encode("unicode_escape").decode("ascii")
