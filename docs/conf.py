"""How Sphinx builds the site: `python -m sphinx -W docs site`."""

import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import docstrings
import generated

import rlarcade

project = "rlarcade"
release = rlarcade.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
nb_execution_mode = "off"  # the tests run the notebooks; the site shows what they have shown
include_patterns = ["*.md", "*/*.md", "notebooks/*.ipynb"]
exclude_patterns = ["generated/preset-*.md"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "rlarcade"
html_show_copyright = False  # nobody is named yet
html_static_path: list[str] = []
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "description"
copybutton_exclude = ".linenos, .gp, .go"


def setup(app):
    """Writes the pages that follow from the code before Sphinx reads any."""
    docstrings.without_bounds(getattr(rlarcade, name) for name in rlarcade.__all__)
    app.connect("autodoc-process-docstring", docstrings.process)
    app.connect("autodoc-skip-member", docstrings.skip)
    app.connect("builder-inited", lambda _: generated.write_pages())
    app.connect("source-read", diagrams_as_tables)


def diagrams_as_tables(app, name, source):
    """GitHub draws a diagram of states. The site, which loads no script for it, has a table."""

    def table(found):
        after = defaultdict(list)
        for state, following in re.findall(r"(\S+) --> (\S+)", found[1]):
            after[state].append("the end" if following == "[*]" else f"`{following}`")
        first = after.pop("[*]")
        rows = [("a new one", *first)]
        rows += [(f"`{state}`", *following) for state, following in after.items()]
        return "\n".join(
            ["| state | can become |", "|---|---|"]
            + [f"| {state} | {', '.join(following)} |" for state, *following in rows]
        )

    source[0] = re.sub(r"```mermaid\nstateDiagram-v2\n(.+?)```", table, source[0], flags=re.DOTALL)
