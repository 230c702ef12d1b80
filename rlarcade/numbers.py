"""Numbers as people write them."""

from decimal import Decimal, InvalidOperation

from rlarcade.text import quoted

_MOST_DIGITS = 20
"""More than any setting's number has; longer ones would be slow to read, or huge."""


def whole_number(text: str) -> int:
    """Reads a whole number: `1000000`, `1_000_000`, `1e6`, `2.5e5`.

    Raises:
        ValueError: it is no whole number, or has more than 20 digits.
    """
    try:
        number = Decimal(text.strip().replace("_", ""))
        if number.adjusted() >= _MOST_DIGITS or number != number.to_integral_value():
            raise ValueError(f"{quoted(text)} is no whole number of at most {_MOST_DIGITS} digits")
        return int(number)
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"{quoted(text)} is no whole number") from error
