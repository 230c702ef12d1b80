"""Formats numbers and texts for a page."""

import re

_CHECKPOINT = re.compile(r"(?:.*/)?([^/]+)/checkpoints/step-0*(\d+)/?", re.DOTALL)
_LONG = 40  # characters of a name


def number(value: float | None, digits: int = 1) -> str:
    """Returns a number with separators and a fixed number of digits; a dash for None."""
    return "–" if value is None else _with_minus(f"{value:,.{digits}f}")


def points(score: float) -> str:
    """Returns the score of one game, with a decimal only if it is not whole."""
    return number(score, 0 if score == int(score) else 1)


def evidence_value(value: float) -> str:
    """Returns an e-value to four digits, as on the terminal."""
    return _with_minus(f"{value:.4g}")


def p_value(value: float) -> str:
    """Returns a p-value to three digits. It is never 0, so a smaller one is "< 0.001"."""
    return "< 0.001" if value < 0.001 else number(value, 3)


def percent(share: float | None) -> str:
    """Returns a share as a percentage; a dash for None."""
    return "–" if share is None else _with_minus(f"{share:.1%}")


def interval(low: float, high: float, digits: int = 1) -> str:
    """Returns an interval in brackets."""
    return f"({number(low, digits)} … {number(high, digits)})"


def _with_minus(text: str) -> str:
    return text.replace("-", "−") if text.startswith("-") else text


def short_name(name: str) -> str:
    """Returns a player's name without long folders: a run and its step, or the end of a path.

    The names' tooltips, and all settings at the end of a page, have the whole name.
    """
    of_run = _CHECKPOINT.fullmatch(name)
    if of_run:
        return f"{of_run[1]}, step {int(of_run[2]):,}"
    if len(name) <= _LONG or "/" not in name:
        return name
    parts = name.rstrip("/").split("/")
    while len(parts) > 1 and len("/".join(parts)) > _LONG:
        parts.pop(0)
    return "…/" + "/".join(parts)


def shown(text: str) -> str:
    """Returns a text from outside for a page.

    Unprintable characters are replaced, so that a name cannot reverse the writing direction of the
    page.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
