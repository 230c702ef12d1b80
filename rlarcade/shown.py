"""How results are displayed in Python: as one short line, or as a small table in a notebook.

The details of every game are only in files and reports. A full `repr` would have 29,000 characters
per game.
"""

import html
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from rlarcade.checked import Checked
from rlarcade.text import printable

Shown = Iterator[tuple[str, Any]]
"""(name, value) of a few short values."""
Rows = Sequence[tuple[str, ...]]
"""Rows of a table. The first cell of a row is its heading."""

_LONGEST_VALUE, _LONGEST_CELL = 40, 200


class ShortlyShown(Checked, ABC):
    """A document whose `repr` and `str` are one short line."""

    @abstractmethod
    def shown(self) -> Shown:
        """Yields the names and values of the line."""

    def shown_rows(self) -> Rows:
        """Returns the rows of the table that a notebook shows."""
        return [(name, str(value)) for name, value in self.shown()]

    def __repr_args__(self) -> Shown:  # pydantic's `repr`, `str` and rich use it
        for name, value in self.shown():
            yield name, printable(value, _LONGEST_VALUE) if isinstance(value, str) else value

    def _repr_html_(self) -> str:
        """Returns the table as self-contained HTML with escaped text."""
        caption = f"<caption>{type(self).__name__}</caption>"
        return f"<table>{caption}{''.join(map(_row, self.shown_rows()))}</table>"


def _row(cells: Sequence[str]) -> str:
    first, *others = (html.escape(printable(cell, _LONGEST_CELL)) for cell in cells)
    return f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"
