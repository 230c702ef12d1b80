"""Renders the pages of reports from the Jinja2 templates in `templates/`.

Python computes tables and figures; the templates hold the page's elements and its fixed sentences.
Every text is escaped when it is put into a page, unless it is `Markup`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from rlarcade.reports.formats import number, p_value, short_name, shown
from rlarcade.reports.svg import swatch

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table. The first cell of a row is its heading."""

    caption: str
    """Description of the table for screen readers."""
    columns: Sequence[str]
    """Headings."""
    rows: Sequence[Sequence[str]]
    """Cells of each row, one per column."""
    text: Collection[str] = ()
    """Headings of the columns with words instead of numbers."""
    name: str
    """Id on the page."""

    @property
    def kinds(self) -> list[str]:
        """The style of each column: text or number."""
        return ["text" if column in self.text else "number" for column in self.columns]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its caption and legend."""

    picture: Markup
    caption: str
    legend: Mapping[int, str] = field(default_factory=dict)
    """Name of each series, by its index among the series of the page."""


def render(template: str, **values: Any) -> str:
    """Returns the whole file of a page.

    It is self-contained: its content security policy blocks all loads.

    Args:
        template: name of the template.
        **values: what the template shows.
    """
    return _environment().get_template(template).render(values)


def part(name: str, *values: object) -> Markup:
    """Returns a part of a page, such as a cell with two lines, from a macro in `parts.html`."""
    made: Markup = getattr(_environment().get_template("parts.html").module, name)(*values)
    return made


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: only reports need it

    environment = Environment(
        loader=PackageLoader("rlarcade.reports"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters |= {
        "number": number,
        "p_value": p_value,
        "short": short_name,
        "zip": _zipped,
    }
    environment.globals["swatch"] = swatch
    return environment


def _finalized(value: object) -> object:
    """Replaces unprintable characters in every text that a template shows."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _zipped(one: Sequence[Any], other: Sequence[Any]) -> "zip[tuple[Any, Any]]":
    return zip(one, other, strict=True)
