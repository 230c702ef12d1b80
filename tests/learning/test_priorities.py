"""rlarcade.learning.priorities against a running sum, item by item."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlarcade.learning.priorities import SumTree

SIZES = (1, 2, 3, 1000)


def tree_of(values):
    tree = SumTree(len(values))
    tree.set(np.arange(len(values)), np.array(values, dtype=np.float32))
    return tree


def found(tree, masses):
    return tree.find(np.array(masses, dtype=np.float64)).tolist()


def passed_by(values, mass):
    """The item within which the running sum passes a mass; exact for whole numbers."""
    running = 0
    for item, value in enumerate(values):
        running += value
        if mass < running:
            return item
    raise AssertionError("the mass is not below the total")


def some_priorities(rng, count):
    """Priorities of very different sizes, where sums round, some of them 0."""
    values = (10.0 ** rng.uniform(-10, 8, count)).astype(np.float32)
    values[rng.random(count) < 0.2] = 0
    return values


# Facts stated elsewhere


@pytest.mark.parametrize(
    ("mass", "item"),
    [(0, 0), (2.9, 0), (3, 1), (3.9, 1), (4, 2), (5.9, 2), (6, 3), (10.9, 3)],
)
def test_items_are_found_where_dqn_zoo_finds_them(mass, item):
    # SumTreeTest.test_query_typical of google-deepmind/dqn_zoo @45061f4, replay_test.py
    assert found(tree_of([3, 1, 2, 5]), [mass]) == [item]


def test_a_mass_that_is_the_whole_sum_is_refused():
    tree = tree_of([3, 1, 2, 5])
    assert tree.total == 11
    with pytest.raises(ValueError, match=r"mass must lie in \[0, 11\.0\), got 11\.0"):
        tree.find(np.array([11.0]))


@pytest.mark.parametrize("mass", [-1e-9, 11.5, np.nan, np.inf])
def test_a_mass_outside_the_sum_is_refused_even_among_good_ones(mass):
    with pytest.raises(ValueError, match="mass must lie in"):
        tree_of([3, 1, 2, 5]).find(np.array([0.0, mass, 3.0]))


# Against the running sum


@given(
    values=st.lists(st.integers(0, 1000), min_size=1, max_size=70).filter(any),
    shares=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_items_are_found_where_the_running_sum_passes_the_mass(values, shares):
    tree = tree_of(values)
    total = sum(values)
    assert tree.total == total
    masses = [*(share * total for share in shares if share * total < total), 0, total - 1]
    assert found(tree, masses) == [passed_by(values, mass) for mass in masses]


@pytest.mark.parametrize("size", SIZES)
def test_every_boundary_between_items_is_exact(size):
    values = np.random.default_rng(size).integers(0, 4, size)
    values[size // 2] = 3
    edges = np.concatenate([[0], np.cumsum(values)])
    tree = tree_of(values)
    for item in np.flatnonzero(values):
        assert found(tree, [edges[item], edges[item + 1] - 1e-6]) == [item, item]


@pytest.mark.parametrize("size", SIZES)
def test_items_are_drawn_in_proportion_to_their_priority(size):
    values = np.random.default_rng(0).integers(0, 50, size)
    values[-1] = 7
    counts = np.bincount(tree_of(values).find(np.arange(values.sum()) + 0.5), minlength=size)
    assert counts.tolist() == values.tolist()


@pytest.mark.parametrize("size", SIZES)
def test_items_of_priority_zero_are_never_found_however_sums_round(size):
    rng = np.random.default_rng(size)
    for _ in range(20):
        values = some_priorities(rng, size)
        values[rng.integers(size)] = 1.0
        tree = tree_of(values)
        last = np.nextafter(tree.total, 0)
        masses = np.concatenate([rng.random(500) * tree.total, [0.0, last], np.cumsum(values)])
        items = tree.find(np.minimum(masses, last))
        assert (items < size).all()
        assert (values[items] > 0).all()


def test_a_tree_without_any_priority_finds_nothing():
    for tree in (SumTree(5), tree_of([0, 0, 0])):
        assert tree.total == 0
        with pytest.raises(ValueError, match="mass must lie in"):
            tree.find(np.array([0.0]))


# Setting


@pytest.mark.parametrize("size", SIZES)
def test_priorities_are_what_was_set_last_as_float32(size):
    rng = np.random.default_rng(size)
    tree, expected = SumTree(size), np.zeros(size, dtype=np.float32)
    for _ in range(30):
        items = rng.permutation(size)[: rng.integers(1, size + 1)]
        values = some_priorities(rng, len(items))
        tree.set(items, values)
        expected[items] = values
        np.testing.assert_array_equal(tree.values(), expected)
        np.testing.assert_array_equal(tree.of(items), values)
        assert tree.total == pytest.approx(float(expected.sum(dtype=np.float64)), rel=1e-12)
    assert tree.values().dtype == np.float32
    assert len(tree.values()) == size


def test_priorities_are_rounded_to_what_is_saved():
    tree = SumTree(2)
    tree.set(np.array([0, 1]), np.array([0.1, 1 / 3]))
    assert tree.of(np.array([0, 1])).tolist() == tree.values().astype(float).tolist()
    assert tree.total == float(np.float32(0.1)) + float(np.float32(1 / 3))


@pytest.mark.parametrize("size", SIZES)
def test_ten_thousand_updates_leave_no_drift(size):
    rng = np.random.default_rng(size)
    tree = SumTree(size)
    for _ in range(10_000):
        items = rng.integers(0, size, 4)
        tree.set(items, some_priorities(rng, 4))
    tree.set(np.array([0]), np.array([0.5], dtype=np.float32))
    rebuilt = tree_of(tree.values())
    assert tree.total == rebuilt.total
    masses = np.random.default_rng(0).random(20_000) * tree.total
    np.testing.assert_array_equal(tree.find(masses), rebuilt.find(masses))


def test_large_priorities_leave_no_trace_once_they_are_gone():
    tree = tree_of([1e-8] * 8)
    before = tree.total
    tree.set(np.array([3, 5]), np.array([1e30, 1e20], dtype=np.float32))
    tree.set(np.array([3, 5]), np.array([1e-8, 1e-8], dtype=np.float32))
    assert tree.total == before


def test_of_an_item_named_twice_one_priority_is_kept_and_counted():
    tree = tree_of([1, 1, 1])
    tree.set(np.array([1, 1]), np.array([4, 6], dtype=np.float32))
    assert tree.of(np.array([1]))[0] in (4, 6)
    assert tree.total == tree.values().sum()


def test_setting_nothing_changes_nothing():
    tree = tree_of([1, 2, 3])
    tree.set(np.array([], dtype=np.int64), np.array([], dtype=np.float32))
    assert tree.values().tolist() == [1, 2, 3]


@pytest.mark.parametrize("bad", [-1.0, -1e-30, np.nan, np.inf])
def test_priorities_that_are_negative_or_no_numbers_are_refused_and_change_nothing(bad):
    tree = tree_of([1, 2, 3])
    with pytest.raises(ValueError, match="priorities are finite and at least 0, got"):
        tree.set(np.array([0, 1]), np.array([7.0, bad], dtype=np.float32))
    assert tree.values().tolist() == [1, 2, 3]
    assert tree.total == 6
