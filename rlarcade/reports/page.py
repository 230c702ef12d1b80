"""The page of a report: elements with escaped text, tables, figures."""

import html
from collections.abc import Sequence
from functools import cache
from importlib import resources

_VOID = frozenset({"meta", "img", "wbr"})
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is already HTML. Every other string is escaped when it is put into a page."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | bool) -> Html:
    """Returns an element. Children that are not `Html` are escaped, and so are all attributes.

    Args:
        name: name of the element.
        *children: content, one after the other.
        **attributes: `aria_label` means `aria-label`, and `class_` means `class`. True gives an
            attribute without a value; False gives no attribute.
    """
    opening = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is not False:
            opening.append(attribute if value is True else f'{attribute}="{_escaped(value)}"')
    if name in _VOID:
        return Html(f"<{' '.join(opening)}>")
    return Html(f"<{' '.join(opening)}>{joined(*children)}</{name}>")


def joined(*children: str, between: str = "") -> Html:
    """Returns children one after the other, escaped unless they are `Html`."""
    return Html(between.join(c if isinstance(c, Html) else _escaped(c) for c in children))


def _escaped(text: str) -> str:
    """Escapes a text from outside.

    Unprintable characters are replaced, so that a name cannot reverse the writing direction of the
    page.
    """
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(shown)


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Sequence[str] = (),
    name: str,
) -> Html:
    """Returns a table that scrolls in its own box; the first cell of a row is its heading.

    Args:
        caption: description of the table for screen readers.
        columns: headings.
        rows: cells of each row, one per column.
        text: headings of the columns with words instead of numbers.
        name: id of the box.
    """
    kinds = ["text" if column in text else "number" for column in columns]
    head = element(
        "tr",
        *(element("th", c, scope="col", class_=k) for c, k in zip(columns, kinds, strict=True)),
    )
    body = []
    for first, *others in rows:
        cells = (element("td", c, class_=k) for c, k in zip(others, kinds[1:], strict=True))
        body.append(element("tr", element("th", first, scope="row", class_=kinds[0]), *cells))
    whole = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", head),
        element("tbody", joined(*body, between=Html("\n"))),
    )
    # tabindex lets users scroll the box with the keyboard.
    return element(
        "div", whole, class_="scroll", id=name, role="region", aria_label=caption, tabindex="0"
    )


def figure(picture: str, caption: str, legend: Sequence[Html] = ()) -> Html:
    """Returns a picture with its legend and caption."""
    keys = element("ul", *(element("li", key) for key in legend), class_="legend")
    return element("figure", picture, keys if legend else "", element("figcaption", caption))


def facts(rows: Sequence[tuple[str, str]], class_: str) -> Html:
    """Returns a list of (term, value)."""
    return element(
        "dl",
        *(element("div", element("dt", term), element("dd", value)) for term, value in rows),
        class_=class_,
    )


def section(heading: str, *children: str, name: str) -> Html:
    """Returns a part of the page under a heading."""
    title = f"{name}-heading"
    return element(
        "section", element("h2", heading, id=title), *children, id=name, aria_labelledby=title
    )


def details(summary: str, *children: str) -> Html:
    """Returns a part of the page that opens on a click."""
    return element("details", element("summary", summary), *children)


def page(title: str, *children: str) -> str:
    """Returns the whole file. It is self-contained; its content security policy blocks all loads.

    Args:
        title: title of the window.
        *children: content of the main part.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content="rlarcade"),
        element("title", title),
        element("style", Html(_style())),
    )
    body = element("body", element("main", joined(*children, between=Html("\n"))))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


@cache
def _style() -> str:
    return (resources.files(__package__) / "report.css").read_text("utf-8")
