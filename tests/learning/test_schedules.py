"""rlarcade.learning.schedules against Dopamine's epsilon and against counting step by step."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlarcade.config import TrainConfig, load_preset, preset_names
from rlarcade.learning.schedules import (
    crossed,
    epsilon,
    following_length,
    importance_exponent,
    learning_rate,
    most_updates,
    n_steps,
    updates_due,
    whole_length,
)


def make_config(**settings):
    return TrainConfig(game="pong", **settings)


def make_rollouts(**settings):
    return make_config(memory="none", **settings)


# Epsilon


def dopamine_epsilon(decay_period, step, warmup_steps, final):
    """linearly_decaying_epsilon of google/dopamine @5873f54, dqn_agent.py."""
    steps_left = decay_period + warmup_steps - step
    bonus = (1.0 - final) * steps_left / decay_period
    return final + min(max(bonus, 0.0), 1.0 - final)


@given(
    decay=st.integers(1, 10**6),
    step=st.integers(0, 3 * 10**6),
    warmup=st.integers(0, 10**6),
    final=st.floats(0, 1),
)
def test_epsilon_is_dopamines(decay, step, warmup, final):
    config = make_config(
        exploration_steps=decay, learning_starts=warmup, exploration_final_eps=final
    )
    assert epsilon(config, step) == pytest.approx(dopamine_epsilon(decay, step, warmup, final))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.9),
        (99, 0.9),
        (100, 0.9),
        (125, 0.7),
        (150, 0.5),
        (199, 0.108),
        (200, 0.1),
        (10**9, 0.1),
    ],
)
def test_epsilon_falls_in_a_line_from_the_first_update(step, expected):
    config = make_config(
        exploration_initial_eps=0.9,
        exploration_final_eps=0.1,
        learning_starts=100,
        exploration_steps=100,
    )
    assert epsilon(config, step) == pytest.approx(expected, abs=1e-12)


def test_without_exploration_steps_epsilon_drops_at_once():
    config = make_config(learning_starts=10, exploration_steps=0, exploration_final_eps=0.05)
    assert [epsilon(config, step) for step in (0, 9, 10, 11)] == [1.0, 1.0, 0.05, 0.05]


def test_epsilon_never_rises_and_reaches_its_end_exactly():
    config = make_config(learning_starts=7, exploration_steps=13, exploration_final_eps=0.01)
    course = [epsilon(config, step) for step in range(40)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(course))
    assert course[20] == course[-1] == 0.01


def test_without_replay_epsilon_falls_from_the_first_step():
    fall = {"exploration_steps": 100, "exploration_final_eps": 0.0, "learning_starts": 50}
    rollouts, replay = make_rollouts(**fall), make_config(**fall)
    for step, share in ((0, 1.0), (1, 0.99), (50, 0.5), (99, 0.01), (100, 0.0), (149, 0.0)):
        assert epsilon(rollouts, step) == pytest.approx(share, abs=1e-12)
        assert epsilon(replay, step + 50) == pytest.approx(share, abs=1e-12)
    assert rollouts.warm_up == 0
    assert replay.warm_up == 50


# The correction of drawing by priority


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.4), (50, 0.55), (100, 0.7), (199, 0.997), (200, 1.0), (10**9, 1.0)]
)
def test_the_importance_exponent_moves_in_a_line_from_the_first_step(step, expected):
    config = make_config(importance_steps=200, learning_starts=100)
    assert importance_exponent(config, step) == pytest.approx(expected, abs=1e-12)


@given(
    first=st.floats(0, 1), final=st.floats(0, 1), length=st.integers(1, 10**9), at=st.floats(0, 3)
)
def test_the_importance_exponent_stays_between_its_ends_and_keeps_its_share_of_the_way(
    first, final, length, at
):
    config = make_config(
        importance_exponent=first, importance_final_exponent=final, importance_steps=length
    )
    step = int(at * length)
    beta = importance_exponent(config, step)
    assert min(first, final) - 1e-12 <= beta <= max(first, final) + 1e-12
    left = max(0, length - step) / length
    assert beta == pytest.approx(left * first + (1 - left) * final, abs=1e-9)


def test_an_importance_exponent_with_equal_ends_is_constant():
    config = make_config(importance_exponent=0.5, importance_final_exponent=0.5, importance_steps=7)
    assert {importance_exponent(config, step) for step in range(20)} == {0.5}


# The learning rate


def test_the_learning_rate_stays_if_no_final_one_is_set():
    config = make_config(learning_rate=0.5, learning_rate_steps=10)
    assert {learning_rate(config, step) for step in range(30)} == {0.5}


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.4), (50, 0.325), (100, 0.25), (199, 0.1015), (200, 0.1), (999, 0.1)],
)
def test_the_learning_rate_falls_in_a_line_and_then_stays(step, expected):
    config = make_config(learning_rate=0.4, learning_rate_final=0.1, learning_rate_steps=200)
    assert learning_rate(config, step) == pytest.approx(expected, abs=1e-12)


# The length of returns


def test_the_length_of_returns_stays_if_no_final_one_is_set():
    config = make_config(n_steps=5, n_steps_duration=10)
    assert {n_steps(config, step) for step in range(30)} == {5}


@pytest.mark.parametrize(
    # 10 × 0.3^(step/200): 9.42, 8.35, 5.48, 4.05, 3.01, 3
    ("step", "expected"),
    [(0, 10), (10, 9), (30, 8), (100, 5), (150, 4), (199, 3), (200, 3), (10**9, 3)],
)
def test_the_length_of_returns_falls_geometrically_and_then_stays(step, expected):
    config = make_config(n_steps=10, n_steps_final=3, n_steps_duration=200)
    assert n_steps(config, step) == expected


@given(
    ends=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    length=st.integers(1, 10**9),
    steps=st.lists(st.integers(0, 2 * 10**9), min_size=2),
)
def test_returns_never_grow_longer_nor_leave_their_ends(ends, length, steps):
    config = make_config(n_steps=max(ends), n_steps_final=min(ends), n_steps_duration=length)
    lengths = [n_steps(config, step) for step in sorted(steps)]
    assert lengths == sorted(lengths, reverse=True)
    assert min(ends) <= lengths[-1] <= lengths[0] <= max(ends)


# Updates


def updates_counted(config, steps):
    """One step after the other: a round every train_freq steps after learning starts."""
    updates = 0
    for step in range(1, steps + 1):
        into = step - config.learning_starts
        if into > 0 and into % config.train_freq == 0:
            updates += config.gradient_steps
    return updates


@given(
    starts=st.integers(0, 50),
    freq=st.integers(1, 20),
    rounds=st.integers(1, 5),
    steps=st.integers(0, 200),
)
def test_updates_due_are_those_counted_step_by_step(starts, freq, rounds, steps):
    config = make_config(learning_starts=starts, train_freq=freq, gradient_steps=rounds)
    assert updates_due(config, steps) == updates_counted(config, steps)


@pytest.mark.parametrize("train_freq", [1, 3, 4, 8, 100])
@pytest.mark.parametrize("gradient_steps", [1, 2])
def test_catching_up_takes_the_same_updates_however_many_games_run_side_by_side(
    train_freq, gradient_steps
):
    totals = set()
    for num_envs in (1, 2, 4, 6, 16, 48):
        config = make_config(
            num_envs=num_envs,
            learning_starts=50,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
        )
        updates = 0
        for steps in range(num_envs, 480 + 1, num_envs):
            while updates < updates_due(config, steps):
                updates += 1
            assert updates == updates_counted(config, steps)
        totals.add(updates)
    assert totals == {430 // train_freq * gradient_steps}


def test_nothing_is_due_before_learning_starts():
    config = make_config(learning_starts=1000, train_freq=1)
    assert [updates_due(config, steps) for steps in (0, 999, 1000, 1001)] == [0, 0, 0, 1]


rollouts = st.fixed_dictionaries(
    {
        "num_envs": st.integers(1, 12),
        "rollout_steps": st.integers(1, 40),
        "num_epochs": st.integers(1, 4),
        "batch_size": st.integers(1, 50),
    }
).filter(lambda values: values["batch_size"] <= values["num_envs"] * values["rollout_steps"])


@given(values=rollouts, rounds=st.integers(0, 5))
def test_after_every_rollout_each_epoch_takes_the_whole_minibatches_that_fit(values, rounds):
    config = make_rollouts(**values, learning_starts=10**6, train_freq=7)
    counted = 0
    cells = values["num_envs"] * values["rollout_steps"]
    for _ in range(rounds * values["num_epochs"]):
        left = cells
        while left >= values["batch_size"]:
            left -= values["batch_size"]
            counted += 1
    assert updates_due(config, rounds * cells) == counted
    assert updates_due(config, rounds * cells + cells - 1) == counted


@given(
    values=rollouts, parts=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), max_size=4)
)
def test_no_change_of_the_number_of_games_exceeds_the_most_updates(values, parts):
    config, steps, updates = make_rollouts(**values), 0, 0
    for lanes, rounds in parts:
        part = config.model_copy(update={"num_envs": lanes})
        steps += rounds * part.rollout_size
        updates += updates_due(part, rounds * part.rollout_size)
        assert updates <= most_updates(config, steps)


def test_with_replay_the_most_updates_are_those_that_are_due():
    config = make_config(learning_starts=1000, train_freq=1)
    assert [most_updates(config, steps) for steps in (999, 1001)] == [0, 1]


# Lengths


@given(total=st.integers(1, 10_000), values=rollouts)
def test_a_run_ends_with_the_first_whole_step_or_rollout_that_reaches_its_budget(total, values):
    for config, stride in (
        (make_config(total_timesteps=total, num_envs=values["num_envs"]), values["num_envs"]),
        (
            make_rollouts(total_timesteps=total, **values),
            values["num_envs"] * values["rollout_steps"],
        ),
    ):
        steps = 0
        while steps < total:
            steps += stride
        assert whole_length(config) == steps


# Periods


@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 100))
def test_a_period_is_crossed_when_a_multiple_of_it_is_passed(interval, before, more):
    passed = any(step % interval == 0 for step in range(before + 1, before + more + 1))
    assert crossed(interval, before, before + more) is passed


@given(st.integers(1, 16), st.integers(1, 40))
def test_a_period_is_crossed_once_a_multiple_however_long_the_strides(stride, interval):
    strides = range(0, 40 * stride, stride)
    times = sum(crossed(interval, before, before + stride) for before in strides)
    end = 40 * stride
    assert times == (end // interval if stride <= interval else 40)


def test_period_zero_is_never_crossed():
    assert crossed(0, 0, 10**9) is False


# Short runs


LAPTOP = {"learning_starts": 10_000, "exploration_steps": 100_000, "n_steps_duration": 1_000_000}


@pytest.mark.parametrize(
    ("length", "asked", "follows"),
    [
        (1_000_000, LAPTOP, {}),
        (250_000, LAPTOP, {}),
        (249_000, LAPTOP, {"exploration_steps": 74_700, "n_steps_duration": 249_000}),
        (
            72_000,
            LAPTOP,
            {"learning_starts": 3_600, "exploration_steps": 21_600, "n_steps_duration": 72_000},
        ),
        (40_000, {"learning_starts": 2_000}, {}),  # quick
        (19_000, {"learning_starts": 2_000}, {"learning_starts": 950}),
        (300_000, {"learning_starts": 20_000}, {}),  # dqn
        (300_000, {"exploration_steps": 0}, {}),  # rainbow
        (50_000_000, {"learning_starts": 200_000, "exploration_steps": 4_000_000}, {}),  # btr
        (5, {"learning_starts": 20_000}, {"learning_starts": 0}),
    ],
)
def test_the_beginning_of_a_run_follows_a_length_that_leaves_it_no_room(length, asked, follows):
    config = make_config(total_timesteps=length, **asked)
    expected = config.model_copy(update=follows)
    assert following_length(config, ()) == expected
    assert following_length(config, set(asked)) == config, "asked for one by one"
    first = next(iter(asked))
    assert getattr(following_length(config, {first}), first) == asked[first]


def test_without_replay_there_is_no_warm_up_to_follow():
    config = make_rollouts(total_timesteps=1_000, learning_starts=20_000)
    assert following_length(config, ()) == config


@pytest.mark.parametrize("name", [name for name in preset_names() if name != "laptop"])
def test_no_preset_follows_its_own_length(name):
    values = {k: v for k, v in load_preset(name)[1].items() if k in TrainConfig.setting_names}
    config = TrainConfig(**{"game": "pong", **values})
    assert following_length(config, ()) == config
