import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlarcade.seeding import SeedUse, derived_seed, generator

USES = list(SeedUse)


@given(
    seed=st.integers(0, 2**32 - 1),
    use=st.sampled_from(USES),
    path=st.lists(st.integers(0, 2**32 - 1), max_size=4),
)
def test_derived_seeds_fit_a_non_negative_int32(seed, use, path):
    derived = derived_seed(seed, use, *path)

    assert type(derived) is int
    assert 0 <= derived < 2**31
    assert derived == derived_seed(seed, use, *path)


def test_derived_seeds_use_all_31_bits():
    seeds = [derived_seed(seed, SeedUse.TRAINING) for seed in range(300)]

    for bit in range(31):
        ones = sum(seed >> bit & 1 for seed in seeds)
        assert 90 < ones < 210, bit  # 150 expected, sigma 8.7


@pytest.mark.parametrize("length", [0, 1, 2])
def test_seeds_and_streams_of_different_uses_and_paths_differ(length):
    asked = [
        (seed, use, *path)
        for seed in range(3)
        for use in USES
        for path in itertools.product(range(5), repeat=length)
    ]

    assert len({derived_seed(*key) for key in asked}) == len(asked)
    assert len({generator(*key).random() for key in asked}) == len(asked)


def test_a_generator_is_a_fresh_stream_of_its_own():
    first, second = generator(0, SeedUse.POLICY), generator(0, SeedUse.POLICY)
    state = np.random.get_state()[1].copy()  # noqa: NPY002  (the global stream is left alone)
    draws = first.random(5)

    np.testing.assert_array_equal(second.random(5), draws)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_the_numbers_of_the_uses_never_change():
    # Saved runs and published episodes depend on them.
    assert {use.name: int(use) for use in SeedUse}.items() >= {
        "TRAINING": 1,
        "EXPLORATION": 2,
        "REPLAY": 3,
        "NETWORK": 4,
        "SELECTION": 5,
        "EVALUATION": 6,
        "POLICY": 7,
        "CALIBRATION": 8,
    }.items()
    assert len({int(use) for use in SeedUse}) == len(USES)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((0, SeedUse.TRAINING), 1982462498),
        ((0, SeedUse.TRAINING, 0, 0), 1687851424),
        ((0, SeedUse.TRAINING, 3, 2), 1914834653),
        ((0, SeedUse.EVALUATION, 0), 874890815),
        ((1, SeedUse.EVALUATION, 99), 657610870),
        ((4294967295, SeedUse.SELECTION, 7), 1882586736),
    ],
)
def test_derived_seeds_stay_what_they_have_always_been(asked, expected):
    assert derived_seed(*asked) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((0, SeedUse.POLICY), [796656, 38861, 225531]),
        ((123456789, SeedUse.POLICY), [819806, 351125, 758100]),
        ((0, SeedUse.EXPLORATION), [979463, 80824, 286908]),
        ((5, SeedUse.REPLAY, 1), [28010, 355085, 939368]),
    ],
)
def test_streams_stay_what_they_have_always_been(asked, expected):
    rng = generator(*asked)

    assert [int(number) for number in rng.integers(0, 1_000_000, 3)] == expected


@pytest.mark.parametrize("asked", [(-1,), (2**32,), (0, -1), (0, 2**32)])
def test_what_does_not_fit_a_word_is_refused(asked):
    seed, *path = asked
    with pytest.raises(ValueError, match="a seed is a whole number, 0 to 4294967295; got"):
        derived_seed(seed, SeedUse.TRAINING, *path)
    with pytest.raises(ValueError, match="a seed is a whole number"):
        generator(seed, SeedUse.TRAINING, *path)


def test_streams_of_paths_that_differ_only_in_length_differ():
    assert derived_seed(0, SeedUse.TRAINING) != derived_seed(0, SeedUse.TRAINING, 0, 0)
