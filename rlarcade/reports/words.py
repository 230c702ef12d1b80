"""Formats names and short texts for the terminal."""

import shutil
import sys

from rlarcade.text import printable

_COLUMNS = 80
_SHORTEST_NAME = 24


def fitted(name: str, taken: int = 2) -> str:
    """Shortens a name, such as a path, to fit on a line of the terminal.

    The middle is left out, because the start and the end of a path say most. If the output is not
    a terminal, the name is not shortened.

    Args:
        name: name of any length.
        taken: columns that the rest of the line takes.
    """
    if sys.stdout is None or sys.stdout.closed or not sys.stdout.isatty():
        return printable(name)
    columns = shutil.get_terminal_size((_COLUMNS, 24)).columns
    return printable(name, max(_SHORTEST_NAME, columns - taken))


def wrapped(*parts: str) -> list[str]:
    """Joins parts to indented lines of at most 80 columns. A longer part has its own line."""
    lines = [""]
    for part in parts:
        if len(lines[-1]) + len(part) + 3 > _COLUMNS and lines[-1]:
            lines.append("")
        lines[-1] += f"   {part}" if lines[-1] else f"  {part}"
    return lines
