"""The picture of a search tree."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rlarcade.playing.players import SearchTree
from rlarcade.reports.trees import Box, Colors, draw_tree, places_in

BOX = Box(10, 20, 110, 80)
COLORS = Colors((50, 50, 50), (0, 0, 255), (255, 255, 0))
#      0
#   1     4
#  2 3    5
TREE = SearchTree(
    np.array([-1, 0, 1, 1, 0, 4], dtype=np.int32),
    np.array([-1, 0, 0, 2, 3, 1], dtype=np.int32),
    np.array([6, 3, 1, 1, 2, 1], dtype=np.int32),
    np.array([0, 0, 0, 1, 0, 0], dtype=np.float32),
)


def drawn(tree, action):
    image = Image.new("RGB", (120, 100))
    draw_tree(ImageDraw.Draw(image), tree, action, BOX, COLORS)
    return np.asarray(image)


def test_a_node_is_as_low_as_it_is_far_in_the_future():
    heights = [y for _, y in places_in(TREE, BOX)]
    assert heights == [20, 50, 80, 80, 50, 80]


def test_leaves_stand_from_left_to_right_and_parents_above_the_middle_of_their_children():
    x = [across for across, _ in places_in(TREE, BOX)]
    assert x[2] < x[3] < x[5]
    assert x[1] == pytest.approx((x[2] + x[3]) / 2)
    assert x[4] == x[5]
    assert x[0] == pytest.approx((x[1] + x[4]) / 2)
    assert all(BOX.left < across < BOX.right for across in x)


def test_what_follows_the_chosen_action_and_points_have_colours_of_their_own():
    picture = drawn(TREE, 3)
    places = places_in(TREE, BOX)
    middle = [tuple(round((a + b) / 2) for a, b in zip(places[4], places[5], strict=True))]
    assert [tuple(picture[y, x]) for x, y in middle] == [COLORS.chosen]
    x, y = map(round, places[3])
    assert tuple(picture[y, x]) == COLORS.points
    assert (picture == COLORS.lines).all(axis=2).any()
    assert not (drawn(TREE, None) == COLORS.chosen).all(axis=2).any()


def test_the_present_state_alone_is_a_tree():
    alone = SearchTree(*(one[:1] for one in TREE))
    assert places_in(alone, BOX) == [(60.0, 20.0)]
    assert not drawn(alone, 0).any()


def test_nothing_is_drawn_outside_the_box_but_the_width_of_lines_and_dots():
    rng = np.random.default_rng(0)
    parents = np.array([-1, *(int(rng.integers(node)) for node in range(1, 200))], dtype=np.int32)
    ones = np.ones(200, dtype=np.int32)
    tree = SearchTree(parents, ones, 200 * ones, ones.astype(np.float32))
    rows, columns = np.nonzero(drawn(tree, 1).any(axis=2))
    assert rows.min() >= BOX.top - 4
    assert rows.max() <= BOX.bottom + 4
    assert columns.min() >= BOX.left - 4
    assert columns.max() <= BOX.right + 4
