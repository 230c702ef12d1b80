"""Our docstrings are Google's style with a little Markdown; Sphinx reads reStructuredText.

In Markdown `name` is code, an indented block is code, and * and | are letters. The types of a
document's fields are shown as a reader would write them.
"""

import inspect
import re
import typing
from collections.abc import Iterable

from pydantic import BaseModel
from sphinx.ext.napoleon import Config, GoogleDocstring

_SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:")
_CODE = re.compile(r"(`[^`]+`)")


def as_rst(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring as reStructuredText, with Google's sections as they are."""
    made: list[str] = []
    in_section = in_code = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if line.strip() and not indented:
            in_section, in_code = line.strip() in _SECTIONS, False
        begins = indented and not in_section and number > 0 and not lines[number - 1].strip()
        if begins and not in_code:
            in_code = True
            made += [".. code-block:: python", ""]
        made.append(line if in_code else _escaped(line))
    return made


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = f"`{part}`"
        else:
            parts[place] = re.sub(r"([*|\\])", r"\\\1", part)
    return "".join(parts)


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """Sphinx's hook. An attribute has no sections, and its first colon ends no type."""
    lines[:] = as_rst(lines)
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, obj, options).lines()


def without_bounds(found: Iterable[object]) -> None:
    """Shows a field of a document as `int`, without pydantic's objects that hold its bounds."""
    models = {
        base
        for one in found
        if inspect.isclass(one) and issubclass(one, BaseModel)
        for base in one.__mro__
        if base is not BaseModel and issubclass(base, BaseModel)
    }
    for model in models:
        types = typing.get_type_hints(model)
        model.__annotations__ = {name: types[name] for name in model.__annotations__}
        signature = inspect.signature(model)
        model.__signature__ = signature.replace(
            parameters=[
                one.replace(annotation=types.get(one.name, one.annotation))
                for one in signature.parameters.values()
            ]
        )


def skip(app, what, name, obj, is_skipped, options) -> bool | None:
    """Sphinx's hook. How pydantic is set up is no part of a document."""
    return True if name == "model_config" else None
