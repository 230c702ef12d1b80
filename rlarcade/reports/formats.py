"""Formats numbers and texts for a page."""


def number(value: float | None, digits: int = 1) -> str:
    """Returns a number with separators and a fixed number of digits; a dash for None."""
    return "–" if value is None else _with_minus(f"{value:,.{digits}f}")


def points(score: float) -> str:
    """Returns the score of one game, with a decimal only if it is not whole."""
    return number(score, 0 if score == int(score) else 1)


def evidence_value(value: float) -> str:
    """Returns an e-value to four digits, as on the terminal."""
    return _with_minus(f"{value:.4g}")


def percent(share: float | None) -> str:
    """Returns a share as a percentage; a dash for None."""
    return "–" if share is None else _with_minus(f"{share:.1%}")


def interval(low: float, high: float, digits: int = 1) -> str:
    """Returns an interval in brackets."""
    return f"({number(low, digits)} … {number(high, digits)})"


def _with_minus(text: str) -> str:
    return text.replace("-", "−") if text.startswith("-") else text


def shown(text: str) -> str:
    """Returns a text from outside for a page.

    Unprintable characters are replaced, so that a name cannot reverse the writing direction of the
    page.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
