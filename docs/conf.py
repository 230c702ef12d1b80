"""How Sphinx builds the site: `python -m sphinx -W docs site`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import docstrings
import generated
from pygments.lexers.special import TextLexer

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
    app.add_lexer("mermaid", TextLexer)  # GitHub draws it; here its text is plain enough
    docstrings.without_bounds(getattr(rlarcade, name) for name in rlarcade.__all__)
    app.connect("autodoc-process-docstring", docstrings.process)
    app.connect("autodoc-skip-member", docstrings.skip)
    app.connect("builder-inited", lambda _: generated.write_pages())
