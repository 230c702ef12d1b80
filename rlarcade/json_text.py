"""Reads JSON that comes from outside."""

import json
import re
from typing import Any

MOST_LEVELS = 100
"""Most objects and lists inside each other, in JSON and in TOML. Ours have fewer than ten."""

_ANY_BUT_STRUCTURE = r'[^"\[\]{}]*+'
_TEXT = r'"(?:[^"\\]|\\.)*+"'
_BRACKET = re.compile(
    rf"{_ANY_BUT_STRUCTURE}(?:{_TEXT}{_ANY_BUT_STRUCTURE})*+([\[\]{{}}])", re.DOTALL
)
"""The next bracket that is not part of a text, with all that stands before it."""


def parse_json(text: str | bytes) -> Any:
    """Reads a JSON document that may be damaged or hostile.

    `json.loads` alone calls itself for each level, up to Python's limit. Objects that Python frees
    while it stands at that limit cannot run their `__del__`: files and sockets of other parts of
    the program would stay open.

    Args:
        text: the document; bytes are UTF-8.

    Returns:
        The document, as `json.loads` returns it.

    Raises:
        TypeError: it is neither text nor bytes. A damaged database may hold a number.
        ValueError: it is not JSON, or it has more than 100 levels.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    if not isinstance(text, str):
        raise TypeError(f"JSON is text or bytes, not {type(text).__name__}")
    if text.count("[") + text.count("{") > MOST_LEVELS and _levels(text) > MOST_LEVELS:
        raise ValueError(f"it is nested too deeply, with more than {MOST_LEVELS} levels")
    return json.loads(text)


def _levels(text: str) -> int:
    """Counts the levels of a document, or of its beginning as far as that is JSON."""
    level = deepest = 0
    bracket = _BRACKET.match(text)
    while bracket:
        level += 1 if bracket[1] in "[{" else -1
        deepest = max(deepest, level)
        bracket = _BRACKET.match(text, bracket.end())
    return deepest
