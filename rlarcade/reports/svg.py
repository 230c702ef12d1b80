"""Draws the plots of a report as SVG inside the page, in one style.

Texts stay texts in the page's font. Colours follow the page's light and dark styles. matplotlib is
imported when something is drawn. Every plot starts from matplotlib's built-in defaults and ignores
the user's settings, so the same scores give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from rlarcade.reports.formats import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008), https://jfly.uni-koeln.de/color/: colour-blind readers can tell them apart.
# Their yellow is left out, because it is too light for a line. The page's style sheet has a lighter
# shade of each for dark screens.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b7280")
INK, FAINT = "#1c2430", "#c3c9d2"
_VARIABLES = {INK: "--ink", FAINT: "--faint"} | {
    colour: f"--s{index}" for index, colour in enumerate(_COLOURS)
}
# Four dashes and seven colours give 28 different lines. In black and white there are four.
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.5), (7, 2, 2, 2))
DOTTED, DASHED = (0, (1.5, 2)), (0, (4, 3))

_WIDTH, _HEIGHT = 6.0, 3.7  # inches of 72 units
_MOST_POINTS = 400  # points of a line; more would not be visible
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlarcade",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.scale_dashes": False,
    "lines.linewidth": 2,
}
"""The house style of all plots, as matplotlib's settings. The plots of `scripts/` have it, too."""
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def colour(place: int) -> str:
    """Returns the colour of the series with this index on the page."""
    return _COLOURS[place % len(_COLOURS)]


def line_style(place: int) -> dict[str, Any]:
    """Returns colour and dashes of the series with this index on the page."""
    dashes = _DASHES[place % len(_DASHES)]
    return {"color": colour(place), "linestyle": (0, dashes) if dashes else "solid"}


def swatch(place: int) -> Markup:
    """Returns a short line in the colour and dashes of a series, for legends."""
    dashes = " ".join(f"{length:g}" for length in _DASHES[place % len(_DASHES)])
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return Markup(
        '<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">'
        f'<line x1="1" x2="25" y1="5" y2="5" stroke-width="3"{dashed} '
        f'style="stroke: var({_VARIABLES[colour(place)]})"></line></svg>'
    )


def limits(scores: Iterable[float]) -> tuple[float, float]:
    """Returns the range of scores with a margin, which is never empty."""
    values = list(scores)
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.1 * abs(low) or 1.0
    return low - margin, high + margin


def thinned(count: int) -> list[int]:
    """Returns the indices of at most 400 points of a line, the first and the last among them."""
    if count <= _MOST_POINTS:
        return list(range(count))
    return sorted({round(i * (count - 1) / (_MOST_POINTS - 1)) for i in range(_MOST_POINTS)})


def whole_numbers(axes: "Axes") -> None:
    """Puts ticks of the horizontal axis only at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def note(axes: "Axes", text: str, at: tuple[float, float], *, below: bool) -> None:
    """Writes a note at a horizontal line.

    Args:
        axes: axes of the plot.
        text: text of the note.
        at: (share of the width, height in data units).
        below: whether the note is below the line instead of above it.
    """
    axes.annotate(
        text,
        at,
        xycoords=("axes fraction", "data"),
        xytext=(0, -3 if below else 3),
        textcoords="offset points",
        va="top" if below else "bottom",
        fontsize=11,
    )


def drawn(
    name: str,
    label: str,
    draw: Callable[["Axes"], None],
    *,
    height: float = _HEIGHT,
    width: float = _WIDTH,
    titles: Mapping[str, Sequence[str]] | None = None,
) -> Markup:
    """Draws a plot.

    Args:
        name: unique name on the page. Every id in the plot begins with it.
        label: description of the plot for screen readers.
        draw: called with empty axes.
        height: height in inches.
        width: width in inches.
        titles: what a mark tells when the pointer is over it, for the marks of each group by its
            id (`set_gid`).
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        # The browser draws the text, so matplotlib's fonts need not have the glyphs.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        return _for_page(_titled(_saved(figure), titles or {}), name, label)


def _saved(figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return text.getvalue()


def _titled(svg: str, titles: Mapping[str, Sequence[str]]) -> str:
    """Adds a title to each mark of the groups, if there are as many marks as titles."""
    for group, texts in titles.items():
        before, opening, rest = svg.partition(f'<g id="{group}">')
        inside, following, after = rest.partition('<g id="')
        *parts, last = re.split(r"(?<=<use )([^>]*)/>", inside)
        if len(parts) == 2 * len(texts):  # matplotlib leaves out marks that lie outside of the plot
            marks = zip(parts[::2], parts[1::2], map(_title, texts), strict=True)
            inside = "".join(f"{text}{mark}>{title}</use>" for text, mark, title in marks) + last
        svg = before + opening + inside + following + after
    return svg


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(shown(text))


def _for_page(svg: str, name: str, label: str) -> Markup:
    """Turns an SVG file into a part of a page: unique ids, and the page's colours and font."""
    # Drop what only a file needs: XML declaration, document type, namespaces, size in points.
    opening, svg = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', opening)
    assert box is not None, "matplotlib writes a viewBox"
    svg = svg[: svg.rindex("</svg>")].strip()
    # Drop its style element: its rule for * would style the whole page.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", svg)
    for shade, variable in _VARIABLES.items():
        svg = svg.replace(f": {shade}", f": var({variable})")
    opening = Markup('<svg role="img" aria-label="{}" class="plot" viewBox="{}">')
    return opening.format(shown(label), box[1]) + Markup(f"{svg}</svg>")
