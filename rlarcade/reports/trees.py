"""Draws the tree of a player that looks ahead: the present state on top, the future below."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlarcade.playing.players import SearchTree

if TYPE_CHECKING:
    from PIL import ImageDraw

Color = tuple[int, int, int]


class Box(NamedTuple):
    """Where a tree is drawn, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


class Colors(NamedTuple):
    """Colours of a tree."""

    lines: Color
    chosen: Color
    """Of what follows the chosen action."""
    points: Color
    """Of dots where points were made."""


def places_in(tree: SearchTree, box: Box) -> list[tuple[float, float]]:
    """Returns the pixel of each node: its depth is its height, and no two leaves share a column."""
    parents, count = tree.parents.tolist(), len(tree.parents)
    depth = [0] * count
    children: list[list[int]] = [[] for _ in range(count)]
    for node in range(1, count):
        depth[node] = depth[parents[node]] + 1
        children[parents[node]].append(node)
    leaves = [node for node in range(count) if not children[node]]
    across = np.linspace(box.left, box.right, len(leaves) + 2)[1:-1].tolist()
    column = dict(zip(leaves, across, strict=True))
    for node in reversed(range(count)):  # children come after their parents
        if children[node]:
            column[node] = (column[children[node][0]] + column[children[node][-1]]) / 2
    row = (box.bottom - box.top) / max(1, *depth)
    return [(column[node], box.top + row * depth[node]) for node in range(count)]


def draw_tree(
    draw: "ImageDraw.ImageDraw", tree: SearchTree, action: int | None, box: Box, colors: Colors
) -> None:
    """Draws a tree.

    Args:
        draw: draws on the picture.
        tree: the tree.
        action: the action that was played; what follows it has a colour of its own.
        box: where.
        colors: its colours.
    """
    places = places_in(tree, box)
    follows = _below(tree, action)
    whole = int(tree.sizes[0])
    # What follows the chosen action comes last, so that nothing covers it.
    for node in sorted(range(1, len(places)), key=lambda one: bool(follows[one])):
        width = 1 + round(3 * float(tree.sizes[node]) / whole)
        color = colors.chosen if follows[node] else colors.lines
        draw.line((places[int(tree.parents[node])], places[node]), fill=color, width=width)
    for node in np.flatnonzero(tree.rewards).tolist():
        x, y = places[node]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colors.points)


def _below(tree: SearchTree, action: int | None) -> NDArray[np.bool_]:
    """Whether each node follows an action."""
    follows = np.zeros(len(tree.parents), dtype=bool)
    for node in range(1, len(follows)):
        parent = tree.parents[node]
        follows[node] = tree.actions[node] == action if parent == 0 else follows[parent]
    return follows
