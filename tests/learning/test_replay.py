"""rlarcade.learning.replay against a slow replay that remembers everything."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.replay import Episode, SlowReplay

from rlarcade.learning.frames import BLOCKED_FRAME
from rlarcade.learning.replay import Batch, Cells, Replay

FRAME = (2, 2)
# What came of a step: nothing, a lost life that counts as terminal, game over, the frame cap.
ON, LIFE, OVER, CUT = "on", "life", "over", "cut"
REWARDS = (0.0, 0.0, 1.0, -1.0, 7.0, -400.0, 0.25)


def picture(lane, row):
    """A frame that tells its lane and row, and is never all zeros."""
    return np.array([[1 + lane, 1 + row // 251], [row % 251, (7 * row + lane) % 251]], np.uint8)


def seen_at(frames):
    """The rows and lanes that pictures tell, from uint8 (B, 2, 2)."""
    frames = frames.astype(np.int64)
    return (frames[:, 0, 1] - 1) * 251 + frames[:, 1, 0], frames[:, 0, 0] - 1


@dataclass
class Row:
    """A row of the run as the training loop would add it."""

    frame: np.ndarray
    cells: Cells


def numbered(lane, row):
    """A frame that says its row, from 1."""
    return np.full(FRAME, row + 1, np.uint8)


def play(scripts, slow, *, draw_picture=picture, rewards=None, seed=0):
    """Lives through scripts (one list of events a lane), tells `slow`, and returns the rows.

    A lane spends one row more on an episode than the episode has steps: the reset row.
    """
    rng = np.random.default_rng(seed)
    num_envs, num_rows = len(scripts), len(scripts[0])
    episodes = [Episode(lane, 0, [draw_picture(lane, 0)]) for lane in range(num_envs)]
    slow.episodes.extend(episodes)
    rows = []
    for row in range(num_rows):
        frame = np.stack([episode.frames[-1] for episode in episodes])
        action = rng.integers(0, 18, num_envs).astype(np.uint8)
        reward = rng.choice(REWARDS, num_envs).astype(np.float32)
        if rewards is not None:
            reward[:] = rewards[row]
        terminal, last, reset = np.zeros((3, num_envs), dtype=np.bool_)
        age = np.zeros(num_envs, dtype=np.uint8)
        for lane in range(num_envs):
            episode, upcoming = episodes[lane], draw_picture(lane, row + 1)
            age[lane] = min(255, len(episode.actions))
            if episode.ended:  # the action and the reward are junk
                reset[lane] = True
                episodes[lane] = Episode(lane, row + 1, [upcoming])
                slow.episodes.append(episodes[lane])
                continue
            event = scripts[lane][row]
            terminal[lane] = event in (LIFE, OVER)
            last[lane] = episode.ended = event in (OVER, CUT)
            episode.actions.append(int(action[lane]))
            episode.rewards.append(float(reward[lane]))
            episode.terminals.append(bool(terminal[lane]))
            episode.frames.append(upcoming)
        rows.append(Row(frame, Cells(action, reward, terminal, last, reset, age)))
    return rows


def make_pair(num_rows, num_envs, *, spare=0, alpha=None, **learning):
    learning = {"n_steps": 1, "gamma": 0.9, "reward_clip": True} | learning
    replay = Replay(
        num_rows * num_envs + spare,
        num_envs=num_envs,
        frame_shape=FRAME,
        priority_exponent=alpha,
        **learning,
    )
    return replay, SlowReplay(**learning)


def fill(replay, rows):
    for row in rows:
        replay.add(row.frame, row.cells)


def arrays(batch):
    """A copy of a batch, as NumPy arrays by field."""
    names = ("observation", "action", "reward", "discount", "next_observation", "weight", "cell")
    values = {name: getattr(batch, name) for name in names}
    return {n: np.asarray(value).copy() for n, value in values.items() if value is not None}


def assert_same_batch(one, other):
    assert set(arrays(one)) == set(arrays(other))
    for name, array in arrays(one).items():
        np.testing.assert_array_equal(array, arrays(other)[name], err_msg=name)


def draw_and_compare(replay, slow, draws=1024, seed=0):
    """Checks every drawn transition against the slow replay, and that all can be drawn."""
    expected = {
        (row, lane): transition
        for row, lane, transition in slow.drawable(replay.rows_added, replay.num_rows)
    }
    drawn = arrays(replay.sample(draws, np.random.default_rng(seed)))
    keys = keys_of(drawn)
    assert set(keys) == set(expected)
    assert_lived_through(drawn, keys, expected)


def keys_of(drawn):
    """The (row, lane) that each drawn transition shows."""
    rows, lanes = seen_at(drawn["observation"][:, -1])
    return list(zip(rows.tolist(), lanes.tolist(), strict=True))


def assert_lived_through(drawn, keys, expected):
    for name in ("observation", "action", "next_observation"):
        right = np.stack([getattr(expected[key], name) for key in keys])
        np.testing.assert_array_equal(drawn[name], right, err_msg=name)
    for name in ("reward", "discount"):
        right = np.array([getattr(expected[key], name) for key in keys])
        np.testing.assert_allclose(drawn[name], right, rtol=1e-6, atol=1e-6, err_msg=name)
    assert (drawn["discount"] == 0).tolist() == [expected[key].discount == 0 for key in keys]


@st.composite
def scripts(draw, num_envs, num_rows):
    event = st.sampled_from((ON, ON, ON, ON, LIFE, OVER, CUT))
    return [draw(st.lists(event, min_size=num_rows, max_size=num_rows)) for _ in range(num_envs)]


@st.composite
def runs(draw):
    """A replay, its slow twin, and the rows of a run that wraps around up to four times."""
    num_envs, n_steps = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    num_rows = n_steps + 5 + draw(st.integers(0, 8))
    replay, slow = make_pair(
        num_rows,
        num_envs,
        spare=draw(st.integers(0, num_envs - 1)),
        n_steps=n_steps,
        gamma=draw(st.sampled_from((0.99, 0.5, 1.0))),
        reward_clip=draw(st.booleans()),
        alpha=draw(st.sampled_from((None, None, 0.0, 0.6, 1.0))),
    )
    assert replay.num_rows == num_rows
    length = draw(st.integers(n_steps + 2, 4 * num_rows))
    rows = play(draw(scripts(num_envs, length)), slow, seed=draw(st.integers(0, 99)))
    return replay, slow, rows


# What is drawn


@settings(max_examples=150)
@given(runs())
def test_every_drawn_transition_is_what_the_lane_lived_through_and_all_of_them_are_drawn(run):
    replay, slow, rows = run
    fill(replay, rows)
    draw_and_compare(replay, slow)


@settings(max_examples=100)
@given(runs(), st.data())
def test_shorter_returns_than_the_replay_was_made_for_are_those_of_a_replay_made_for_them(
    run, data
):
    replay, slow, rows = run
    fill(replay, rows)
    n_steps = data.draw(st.integers(1, slow.n_steps))
    short = SlowReplay(n_steps, slow.gamma, slow.reward_clip, slow.episodes)
    extent = replay.rows_added, replay.num_rows
    drawable = {(row, lane) for row, lane, _ in slow.drawable(*extent)}
    expected = {(row, lane): t for row, lane, t in short.drawable(*extent)}
    drawn = arrays(replay.sample(1024, np.random.default_rng(0), n_steps=n_steps))
    keys = keys_of(drawn)
    assert set(keys) == drawable
    assert_lived_through(drawn, keys, expected)


@pytest.mark.parametrize("n_steps", [-1, 0, 4])
def test_longer_returns_than_the_replay_was_made_for_are_refused(n_steps):
    replay, slow = make_pair(20, 2, n_steps=3)
    fill(replay, play([[ON] * 30] * 2, slow))
    with pytest.raises(ValueError, match=rf"n_steps is {n_steps}, .* was made for 1 … 3"):
        replay.sample(8, np.random.default_rng(0), n_steps=n_steps)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_ring_is_right_after_every_single_row(n_steps):
    replay, slow = make_pair(n_steps + 6, 2, n_steps=n_steps)
    script = [ON, ON, LIFE, ON, OVER, ON, CUT, ON, ON, ON, ON, ON, OVER, ON] * 3
    for length in range(1, len(script) + 1):
        past = SlowReplay(slow.n_steps, slow.gamma, slow.reward_clip)
        rows = play([script[:length], script[::-1][:length]], past)
        replay.add(rows[-1].frame, rows[-1].cells)
        assert len(replay) == 2 * min(length, replay.num_rows)
        if replay.can_sample:
            draw_and_compare(replay, past, draws=256)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_episodes_longer_than_an_age_can_count_keep_their_stacks(n_steps):
    replay, slow = make_pair(300, 1, n_steps=n_steps)
    fill(replay, play([[ON] * 20 + [CUT] + [ON] * 620], slow))
    draw_and_compare(replay, slow, draws=8192)


def test_a_ring_of_one_window_and_a_row_can_still_be_drawn_from_when_it_is_full():
    for n_steps in (1, 5):
        replay, slow = make_pair(4 + n_steps + 1, 1, n_steps=n_steps)
        fill(replay, play([[CUT] * 31], slow))  # every other row is a reset row
        draw_and_compare(replay, slow, draws=64)


def test_reset_rows_are_never_drawn():
    replay, slow = make_pair(40, 3)
    rows = play([[OVER] * 70, [CUT] * 70, [ON, OVER] * 35], slow)
    fill(replay, rows)
    drawn = arrays(replay.sample(4096, np.random.default_rng(0)))
    seen = zip(*seen_at(drawn["observation"][:, -1]), strict=True)
    assert not any(rows[row].cells.reset[lane] for row, lane in seen)


@pytest.mark.parametrize(("n_steps", "first"), [(1, 1), (1, 8), (2, 14), (5, 31)])
def test_a_ring_that_begins_late_draws_what_it_has_all_frames_of_and_nothing_before(n_steps, first):
    replay, slow = make_pair(16, 1, n_steps=n_steps)
    rows = play([[ON] * 60], slow)
    replay.restore(first, exported([rows[first]]))
    replay.first_row = first
    for row in rows[first + 1 : first + 22]:
        low = max(first, replay.rows_added - 16) + 3  # three rows come before
        high = replay.rows_added - n_steps
        assert replay.can_sample == (high - low >= 2)
        assert len(replay) == min(16, replay.rows_added - first)
        if replay.can_sample:
            drawn = arrays(replay.sample(128, np.random.default_rng(0)))
            keys = keys_of(drawn)
            assert set(keys) == {(number, 0) for number in range(low, high)}
            found = {key[:2]: key[2] for key in slow.drawable(replay.rows_added, 60)}
            assert_lived_through(drawn, keys, found)
        replay.add(row.frame, row.cells)


def exported(rows):
    """Rows as `Replay.export` gives them."""
    names = ("action", "reward", "terminal", "last", "reset", "age")
    columns = {name: np.stack([getattr(row.cells, name) for row in rows]) for name in names}
    return {"frames": np.stack([row.frame.reshape(len(row.frame), -1) for row in rows]), **columns}


@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize("length", [2, 5, 9, 20, 33, 40])
def test_what_share_of_the_cells_are_transitions_and_their_priorities_are_told(alpha, length):
    replay, slow = make_pair(16, 2, n_steps=2, alpha=alpha)
    assert (replay.share_of_transitions(), replay.total_priority) == (1, 0)
    fill(replay, play([[ON, CUT] * 20, [ON, ON, OVER, ON] * 10], slow)[:length])
    transitions = len(list(slow.drawable(length, 16)))
    cells = 2 * (length - 2 - max(0, length - 16 + 3 if length > 16 else 0))
    assert replay.share_of_transitions() == pytest.approx(transitions / cells if cells else 1)
    assert replay.total_priority == (0 if alpha is None else transitions)


def test_the_whole_ring_can_be_taken_out_after_every_row():
    replay, slow = make_pair(10, 2)
    rows = play([[ON, ON, LIFE, CUT] * 7, [ON, OVER] * 14], slow)
    for added, row in enumerate(rows, start=1):
        replay.add(row.frame, row.cells)
        first = max(0, added - 10)
        found = replay.export(first, added)
        for name, array in exported(rows[first:added]).items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
            assert found[name].dtype == array.dtype


def test_a_replay_clips_rewards_and_discounts_by_0_99_unless_told_otherwise():
    replay, slow = Replay(20, num_envs=1, frame_shape=FRAME), SlowReplay(1, 0.99, True)
    fill(replay, play([[ON] * 12], slow, rewards=[7.0] * 12))
    draw_and_compare(replay, slow)
    assert replay.sample(1, np.random.default_rng(0)).reward.item() == 1


def test_batches_and_rows_cannot_be_altered():
    replay, slow = make_pair(20, 1)
    rows = play([[ON] * 12], slow)
    fill(replay, rows)
    for frozen in (rows[0].cells, replay.sample(1, np.random.default_rng(0))):
        with pytest.raises(AttributeError):
            frozen.action = None


def test_all_transitions_are_equally_likely():
    replay, slow = make_pair(20, 3)
    fill(replay, play([[ON] * 50, [ON, OVER] * 25, [ON, ON, CUT, ON, LIFE] * 10], slow))
    cells = [(row, lane) for row, lane, _ in slow.drawable(50, 20)]
    rng, counts = np.random.default_rng(1), dict.fromkeys(cells, 0)
    for _ in range(100):
        frames = replay.sample(1024, rng).observation[:, -1].numpy()
        for key in zip(*map(np.ndarray.tolist, seen_at(frames)), strict=True):
            counts[key] += 1
    expected = 100 * 1024 / len(cells)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(cells) - 1
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_the_generator_alone_decides_what_is_drawn():
    (one, slow), (other, _) = make_pair(20, 2), make_pair(20, 2)
    rows = play([[ON, CUT] * 15, [ON] * 30], slow)
    fill(one, rows)
    fill(other, rows)
    torch.manual_seed(0)
    first = one.sample(64, np.random.default_rng(5))
    torch.manual_seed(1)
    assert_same_batch(first, other.sample(64, np.random.default_rng(5)))
    before = arrays(first)["observation"]
    after = arrays(one.sample(64, np.random.default_rng(6)))["observation"]
    assert (before != after).any()


# Facts stated elsewhere


def by_step(script, n_steps):
    """All transitions of one lane whose frames are numbered by row, from 1."""
    replay, slow = make_pair(64, 1, n_steps=n_steps)
    fill(replay, play([script], slow, draw_picture=numbered))
    return arrays(replay.sample(2048, np.random.default_rng(0)))


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_frames_numbered_by_step_are_consecutive_and_zeros_before_the_episode(n_steps):
    # rows 0-6 and 7 are the first episode and its last observation; then 8-9 and 10; then the rest
    starts = np.array([0, 8, 11])
    drawn = by_step([ON] * 6 + [OVER, ON, ON, CUT, ON] + [ON] * 20, n_steps)
    for name in ("observation", "next_observation"):
        stacks = drawn[name].astype(np.int64)
        assert (stacks == stacks[:, :, :1, :1]).all(), "frames are not mixed"
        numbers = stacks[:, :, 0, 0]
        newest = numbers[:, -1]
        first = starts[np.searchsorted(starts, newest - 1, side="right") - 1] + 1
        plain = newest[:, None] + np.arange(-3, 1)
        np.testing.assert_array_equal(numbers, np.where(plain < first[:, None], 0, plain))
    ahead = drawn["next_observation"][:, -1, 0, 0] - drawn["observation"][:, -1, 0, 0]
    assert set(ahead.tolist()) == set(range(1, n_steps + 1))


@pytest.mark.parametrize(
    ("script", "n_steps", "pairs"),
    [
        # f m m m m m l f m m m m: the sums of 0 0 0 1 1 1 3 | 0 0 0 1 1 are 6 and 2
        (
            [ON] * 5 + [OVER] + [ON] * 6,
            3,
            [(0, 3), (1, 4), (2, 5), (3, 6), (4, 6), (5, 6), (7, 10), (8, 11)],
        ),
        # f m l, then enough of the next episode that the first one's windows are complete
        ([ON, OVER, ON] + [ON] * 3, 4, [(0, 2), (1, 2)]),
        ([ON, CUT, ON] + [ON] * 3, 4, [(0, 2), (1, 2)]),
    ],
)
def test_n_step_windows_end_where_dqn_zoo_ends_them(script, n_steps, pairs):
    # NStepTransitionAccumulatorTest of google-deepmind/dqn_zoo @45061f4, replay_test.py
    drawn = by_step(script, n_steps)
    first = drawn["observation"][:, -1, 0, 0].astype(int) - 1
    then = drawn["next_observation"][:, -1, 0, 0].astype(int) - 1
    assert sorted(set(zip(first.tolist(), then.tolist(), strict=True))) == pairs


def learned_from(script, rewards, n_steps):
    """(reward, discount, newest frame of the next observation) by step; frames are numbered."""
    replay, slow = make_pair(64, 1, n_steps=n_steps, gamma=0.5, reward_clip=False)
    fill(replay, play([script], slow, draw_picture=numbered, rewards=rewards))
    drawn = arrays(replay.sample(1024, np.random.default_rng(0)))
    step = drawn["observation"][:, -1, 0, 0].astype(int) - 1
    then = drawn["next_observation"][:, -1, 0, 0]
    columns = (drawn["reward"].tolist(), drawn["discount"].tolist(), then.tolist())
    return dict(zip(step.tolist(), zip(*columns, strict=True), strict=True))


def test_a_truncated_window_bootstraps_from_the_true_last_observation():
    # the reset row 3 carries a reward that belongs to nobody
    found = learned_from([ON, ON, CUT, ON, ON, ON, ON, ON], [1, 2, 4, 99, 8, 16, 32, 64], 3)
    assert found == {
        0: (1 + 0.5 * 2 + 0.25 * 4, 0.125, 4),
        1: (2 + 0.5 * 4, 0.25, 4),
        2: (4, 0.5, 4),
        4: (8 + 0.5 * 16 + 0.25 * 32, 0.125, 8),
    }


def test_a_terminated_window_bootstraps_nothing():
    found = learned_from([ON, ON, OVER, ON, ON, ON, ON, ON], [1, 2, 4, 99, 8, 16, 32, 64], 3)
    assert [found[step][:2] for step in (0, 1, 2)] == [(3.0, 0.0), (4.0, 0.0), (4.0, 0.0)]
    assert found[4][:2] == (24.0, 0.125)


def test_a_lost_life_ends_the_window_but_not_the_episode():
    replay, slow = make_pair(64, 1, n_steps=3, gamma=0.5, reward_clip=False)
    fill(replay, play([[ON, ON, LIFE] + [ON] * 9], slow))
    drawn = arrays(replay.sample(1024, np.random.default_rng(0)))
    rows, _ = seen_at(drawn["observation"][:, -1])
    assert set(rows.tolist()) == set(range(9)), "no step is lost"
    assert set(rows[drawn["discount"] == 0].tolist()) == {0, 1, 2}
    after = drawn["observation"][rows == 3][0]
    np.testing.assert_array_equal(after, np.stack([picture(0, row) for row in range(4)]))


def test_rewards_are_clipped_to_their_sign():
    rewards = [400.0, -0.25, 0.0, 1.0, -3.0, 0.0, 0.0]
    for clip, expected in ((True, [1, -1, 0, 1, -1, 0]), (False, rewards[:6])):
        replay, slow = make_pair(64, 1, reward_clip=clip)
        fill(replay, play([[ON] * 7], slow, rewards=rewards))
        drawn = arrays(replay.sample(512, np.random.default_rng(0)))
        steps, _ = seen_at(drawn["observation"][:, -1])
        found = dict(zip(steps.tolist(), drawn["reward"].tolist(), strict=True))
        assert [found[step] for step in range(6)] == expected


# Prioritised


class SlowPriorities:
    """Knows the priority of every cell that can be drawn, from the definition."""

    def __init__(self, slow, num_rows, alpha):
        self.slow, self.num_rows, self.alpha = slow, num_rows, alpha
        self.priority, self.largest = {}, 1.0

    def goes_on(self, rows_added):
        cells = [key[:2] for key in self.slow.drawable(rows_added, self.num_rows)]
        self.priority = {key: self.priority.get(key, self.largest) for key in cells}

    def told(self, key, error):
        self.priority[key] = error**self.alpha
        self.largest = max(self.largest, error**self.alpha)


@settings(max_examples=100)
@given(runs(), st.integers(0, 99), st.sampled_from((0.0, 0.5, 1.0)))
def test_priorities_are_the_defined_ones_after_every_row_and_all_others_are_zero(run, seed, alpha):
    uniform, slow, rows = run
    replay, _ = make_pair(uniform.num_rows, uniform.num_envs, alpha=alpha, n_steps=uniform.n_steps)
    oracle, rng = SlowPriorities(slow, replay.num_rows, alpha), np.random.default_rng(seed)
    for added, row in enumerate(rows, start=1):
        replay.add(row.frame, row.cells)
        oracle.goes_on(added)
        expected = np.zeros((replay.num_rows, replay.num_envs))
        for (number, lane), priority in oracle.priority.items():
            expected[number % replay.num_rows, lane] = priority
        found = replay.priorities()["priority"].reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert ((found > 0) == (expected > 0)).all()
        if replay.can_sample and rng.random() < 0.3:
            drawn = arrays(replay.sample(5, rng))
            keys = keys_of(drawn)
            assert set(keys) <= set(oracle.priority)
            error = {key: float(rng.choice([0.01, 0.5, 1, 30])) for key in keys}
            replay.set_priorities(
                drawn["cell"], np.array([error[key] for key in keys], dtype=np.float32)
            )
            for key in keys:
                oracle.told(key, error[key])


def with_errors(alpha, *, length=50, seed=0):
    """A wrapped ring in which every cell was told an error of its own, and those errors."""
    replay, slow = make_pair(20, 3, alpha=alpha, n_steps=2)
    script = [[ON] * length, [ON, OVER] * (length // 2), [ON, ON, CUT, ON, LIFE] * (length // 5)]
    fill(replay, play(script, slow))
    drawn = arrays(replay.sample(4096, np.random.default_rng(seed)))
    keys = keys_of(drawn)
    rng = np.random.default_rng(seed)
    cells = {key: number for number, key in enumerate(sorted(set(keys)))}
    assert set(cells) == {key[:2] for key in slow.drawable(length, 20)}
    sizes = rng.uniform(0.05, 4, len(cells)).astype(np.float32)
    error = {key: float(sizes[number]) for key, number in cells.items()}
    told = np.array([error[key] for key in keys], dtype=np.float32)
    for _ in range(3):  # once or often: what counts is the error
        replay.set_priorities(drawn["cell"], told)
    return replay, error


def chi_square(replay, chances, draws=100):
    rng, counts = np.random.default_rng(1), dict.fromkeys(chances, 0)
    for _ in range(draws):
        for key in keys_of(arrays(replay.sample(1024, rng))):
            counts[key] += 1
    scale = draws * 1024 / sum(chances.values())
    return sum((counts[key] - scale * c) ** 2 / (scale * c) for key, c in chances.items())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_transitions_are_drawn_in_proportion_to_their_error_to_the_power_alpha(alpha):
    replay, error = with_errors(alpha)
    freedom = len(error) - 1
    bound = freedom + 4 * np.sqrt(2 * freedom)
    assert chi_square(replay, {key: e**alpha for key, e in error.items()}) < bound
    other = 0.5 if alpha != 0.5 else 1.0
    assert chi_square(replay, {key: e**other for key, e in error.items()}) > 2 * bound


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_correct_the_bias_of_drawing_and_the_largest_is_one(alpha, beta):
    replay, error = with_errors(alpha)
    drawn = arrays(replay.sample(32, np.random.default_rng(7), importance_exponent=beta))
    chance = np.array([error[key] ** alpha for key in keys_of(drawn)])
    np.testing.assert_allclose(drawn["weight"], (chance.min() / chance) ** beta, rtol=1e-4)
    assert drawn["weight"].max() == 1
    assert drawn["weight"].dtype == np.float32


def test_the_bias_of_drawing_is_corrected_in_full_unless_told_otherwise():
    replay, _ = with_errors(0.7)
    weights = [
        arrays(replay.sample(32, np.random.default_rng(7), **settings))["weight"]
        for settings in ({}, {"importance_exponent": 1.0})
    ]
    np.testing.assert_array_equal(*weights)
    assert weights[0].min() < 1


def test_with_alpha_zero_all_weights_are_one():
    replay, _ = with_errors(0.0)
    assert (arrays(replay.sample(64, np.random.default_rng(0)))["weight"] == 1).all()


def test_a_weighted_average_of_drawn_transitions_is_the_average_of_all():
    # β = 1 undoes the bias of drawing by priority: what importance sampling is
    replay, error = with_errors(0.7)
    drawn = arrays(replay.sample(200_000, np.random.default_rng(3)))
    number = {key: k for k, key in enumerate(error)}
    seen = np.array([number[key] for key in keys_of(drawn)])
    weighted = (seen * drawn["weight"]).sum() / drawn["weight"].sum()
    assert weighted == pytest.approx(np.mean(list(number.values())), rel=0.02)
    assert seen.mean() != pytest.approx(np.mean(list(number.values())), rel=0.02)


def test_new_transitions_get_the_largest_priority_so_far():
    replay, slow = make_pair(30, 1, alpha=0.5)
    rows = play([[ON] * 60], slow)
    fill(replay, rows[:3])
    assert replay.priorities()["priority"][:2].tolist() == [1, 1]
    replay.set_priorities(np.array([0, 1]), np.array([16, 0.25], dtype=np.float32))
    fill(replay, rows[3:4])
    assert replay.priorities()["priority"][:4].tolist() == [4, 0.5, 4, 0]
    # the largest so far stays the measure when it is there no more
    replay.set_priorities(np.array([0, 2]), np.array([0.25, 0.25], dtype=np.float32))
    fill(replay, rows[4:5])
    assert replay.priorities()["priority"][:5].tolist() == [0.5, 0.5, 0.5, 4, 0]


def test_a_transition_without_any_error_can_still_be_drawn():
    for alpha in (0.2, 0.5, 1.0):
        replay, slow = make_pair(20, 1, alpha=alpha)
        fill(replay, play([[ON] * 12], slow))
        cells = np.arange(11)
        replay.set_priorities(cells, np.zeros(11, dtype=np.float32))
        assert set(arrays(replay.sample(999, np.random.default_rng(0)))["cell"]) == set(cells)


@settings(max_examples=30)
@given(runs(), st.integers(0, 99))
def test_what_is_drawn_by_priority_is_what_the_lane_lived_through(run, seed):
    uniform, slow, rows = run
    replay, _ = make_pair(
        uniform.num_rows,
        uniform.num_envs,
        alpha=0.8,
        n_steps=uniform.n_steps,
        gamma=uniform.gamma,
        reward_clip=uniform.reward_clip,
    )
    rng = np.random.default_rng(seed)
    for added, row in enumerate(rows, start=1):
        replay.add(row.frame, row.cells)
        if not replay.can_sample:
            continue
        expected = {key[:2]: key[2] for key in slow.drawable(added, replay.num_rows)}
        drawn = arrays(replay.sample(4, rng))
        assert_lived_through(drawn, keys_of(drawn), expected)
        replay.set_priorities(drawn["cell"], (drawn["cell"] % 7).astype(np.float32))


def test_a_uniform_replay_knows_no_priorities():
    replay, slow = make_pair(20, 2)
    fill(replay, play([[ON] * 30] * 2, slow))
    batch = replay.sample(8, np.random.default_rng(0))
    assert batch.weight is None
    assert batch.cell is None
    assert replay.priorities() == {}
    with pytest.raises(ValueError, match="this replay draws uniformly: it was made without"):
        replay.set_priorities(np.array([3]), np.array([1.0], dtype=np.float32))


@pytest.mark.parametrize(
    ("alpha", "error"), [(0.0, -1.0), (0.0, np.nan), (0.5, np.nan), (1.0, -1.0)]
)
def test_errors_that_are_negative_or_no_numbers_are_refused_and_change_nothing(alpha, error):
    replay, slow = make_pair(20, 1, alpha=alpha)
    fill(replay, play([[ON] * 30], slow))
    before = replay.priorities()["priority"]
    with pytest.raises(ValueError, match="errors are at least 0"):
        replay.set_priorities(np.array([4, 5]), np.array([2.0, error], dtype=np.float32))
    np.testing.assert_array_equal(replay.priorities()["priority"], before)


# Batches


@settings(max_examples=50)
@given(runs(), st.randoms(use_true_random=False))
def test_the_transitions_of_given_rows_and_lanes_come_in_the_given_order(run, random):
    replay, slow, rows = run
    fill(replay, rows)
    expected = {key[:2]: key[2] for key in slow.drawable(replay.rows_added, replay.num_rows)}
    keys = random.choices(list(expected), k=20)
    row, lane = np.array(keys).T
    batch = arrays(replay.at(row, lane))
    assert keys_of(batch) == keys
    assert_lived_through(batch, keys, expected)


@pytest.mark.parametrize("frame_shape", [(2, 2), (3, 1, 2), (5,)])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_batches_have_the_documented_shapes_and_types(frame_shape, n_steps):
    replay = Replay(40, num_envs=2, frame_shape=frame_shape, n_steps=n_steps)
    no = np.zeros(2, dtype=np.bool_)
    for row in range(12):
        frame = np.full((2, *frame_shape), row + 1, np.uint8)
        number = np.full(2, row)
        replay.add(
            frame, Cells(number.astype(np.uint8), number.astype(np.float32), no, no, no, number)
        )
    batch = replay.sample(7, np.random.default_rng(0)).to(torch.device("cpu"))
    assert isinstance(batch, Batch)
    for stack in (batch.observation, batch.next_observation):
        assert (stack.dtype, tuple(stack.shape)) == (torch.uint8, (7, 4, *frame_shape))
    assert (batch.action.dtype, tuple(batch.action.shape)) == (torch.int64, (7,))
    assert (batch.reward.dtype, tuple(batch.reward.shape)) == (torch.float32, (7,))
    assert (batch.discount.dtype, tuple(batch.discount.shape)) == (torch.float32, (7,))


def test_weights_and_cells_go_with_the_batch_to_its_device():
    replay, _ = with_errors(0.5)
    batch = replay.sample(7, np.random.default_rng(0))
    moved = batch.to(torch.device("cpu"))
    assert (moved.weight.dtype, tuple(moved.weight.shape)) == (torch.float32, (7,))
    assert (moved.cell.dtype, moved.cell.shape) == (np.int64, (7,))
    assert_same_batch(batch, moved)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_batch_of_another_size_leaves_a_batch_alone(n_steps):
    replay, slow = make_pair(30, 2, n_steps=n_steps)
    fill(replay, play([[ON, CUT] * 14, [ON] * 28], slow))
    batch = replay.sample(8, np.random.default_rng(0))
    before = copy.deepcopy(arrays(batch))
    for size in (4, 6, 14, 16, 24, 56):
        replay.sample(size, np.random.default_rng(1))
    for name, array in arrays(batch).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


# Save and restore


def fresh_like(replay):
    return Replay(
        replay.num_rows * replay.num_envs,
        num_envs=replay.num_envs,
        frame_shape=replay.frame_shape,
        n_steps=replay.n_steps,
        gamma=replay.gamma,
        reward_clip=replay.reward_clip,
        priority_exponent=replay._alpha,
    )


def oldest_row(replay):
    return max(0, replay.rows_added - replay.num_rows)


@settings(max_examples=50)
@given(runs(), st.integers(0, 20))
def test_a_restored_ring_draws_and_goes_on_like_the_exported_one(run, rest):
    replay, slow, rows = run
    saved = max(replay.n_steps + 2, len(rows) - rest)
    fill(replay, rows[:saved])
    tell_some_errors(replay, replay.sample(20, np.random.default_rng(2)))
    restored = fresh_like(replay)
    restored.restore(oldest_row(replay), replay.export(oldest_row(replay), replay.rows_added))
    restored.restore_priorities(replay.priorities())
    assert (restored.rows_added, len(restored)) == (replay.rows_added, len(replay))
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    assert_same_batch(replay.sample(200, one), restored.sample(200, other))
    for row in rows[saved:]:
        replay.add(row.frame, row.cells)
        restored.add(row.frame, row.cells)
        first, second = replay.sample(9, one), restored.sample(9, other)
        assert_same_batch(first, second)
        tell_some_errors(replay, first)
        tell_some_errors(restored, second)
    draw_and_compare(restored, slow, draws=4096)


def tell_some_errors(replay, batch):
    """Errors that keep every cell likely enough to be drawn; the largest are above 1."""
    if batch.cell is not None:
        replay.set_priorities(batch.cell, (1 + batch.cell % 3).astype(np.float32) / 2)


@settings(max_examples=50)
@given(runs(), st.integers(1, 9))
def test_rows_saved_bit_by_bit_restore_the_ring_even_those_it_has_forgotten(run, interval):
    replay, _, rows = run
    interval = min(interval, replay.num_rows)
    pieces = []
    for row in rows:
        replay.add(row.frame, row.cells)
        done = pieces[-1][0] + len(pieces[-1][1]["action"]) if pieces else 0
        if replay.rows_added - done == interval or replay.rows_added == len(rows):
            pieces.append((done, replay.export(done, replay.rows_added)))
    by_piece, at_once = fresh_like(replay), fresh_like(replay)
    for first, piece in pieces:
        by_piece.restore(first, piece)
    names = pieces[0][1]
    whole = {name: np.concatenate([piece[name] for _, piece in pieces]) for name in names}
    at_once.restore(0, whole)
    batch = replay.sample(200, np.random.default_rng(3))
    for restored in (by_piece, at_once):
        restored.restore_priorities(replay.priorities())
        assert restored.rows_added == len(rows)
        assert_same_batch(batch, restored.sample(200, np.random.default_rng(3)))


def test_exported_rows_are_the_added_ones_in_order_and_stay_when_the_ring_goes_on():
    replay, slow = make_pair(10, 2)
    rows = play([[ON, ON, LIFE, CUT] * 7, [ON, OVER] * 14], slow)
    fill(replay, rows[:13])
    exported = replay.export(4, 12)  # across the ring's seam
    fill(replay, rows[13:])
    for offset, row in enumerate(rows[4:12]):
        np.testing.assert_array_equal(exported["frames"][offset].reshape(2, *FRAME), row.frame)
        for name in ("action", "reward", "terminal", "last", "reset", "age"):
            np.testing.assert_array_equal(exported[name][offset], getattr(row.cells, name))


# Memory


def held_bytes(replay):
    """Bytes of every array and tensor that the replay holds on to."""
    return sum(value.nbytes for value in vars(replay).values() if hasattr(value, "nbytes"))


def test_a_million_transitions_of_the_real_frames_take_less_than_7_4_gigabytes():
    assert Replay.bytes_needed(1, BLOCKED_FRAME) <= 7_200
    assert Replay.bytes_needed(1_000_000, BLOCKED_FRAME) <= 7.4e9


def test_the_memory_promised_is_the_memory_taken():
    small, large = (
        Replay(capacity, num_envs=8, frame_shape=BLOCKED_FRAME) for capacity in (400, 1200)
    )
    # the padding frame is the only thing that does not grow
    assert held_bytes(large) - held_bytes(small) == Replay.bytes_needed(800, BLOCKED_FRAME)
    padding = held_bytes(small) - small.bytes_needed(400, BLOCKED_FRAME)
    assert 0 <= padding <= 7_200


# Errors


def test_a_ring_shorter_than_a_window_is_refused():
    message = (
        "a replay of 20 cells has 6 rows of 3 lanes; with windows of 7 frames it needs 8 to draw "
        "from"
    )
    with pytest.raises(ValueError, match=message):
        Replay(20, num_envs=3, frame_shape=FRAME, n_steps=3)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_nothing_is_drawn_before_a_transition_is_complete(n_steps):
    replay, slow = make_pair(20, 1, n_steps=n_steps)
    rows = play([[CUT] + [ON] * 19], slow)
    for row in rows[: n_steps + 2]:  # the second row may be a reset row, as here
        with pytest.raises(ValueError, match="replay holds no complete transition yet"):
            replay.sample(1, np.random.default_rng(0))
        assert not replay.can_sample
        replay.add(row.frame, row.cells)
    assert replay.can_sample
    drawn = replay.sample(64, np.random.default_rng(0)).observation.numpy()
    assert set(seen_at(drawn[:, -1])[0].tolist()) == {0}


@pytest.mark.parametrize(("first", "last"), [(1, 12), (2, 13), (8, 7), (14, 15)])
def test_rows_that_the_ring_does_not_hold_are_not_exported(first, last):
    replay, slow = make_pair(10, 2)
    fill(replay, play([[ON] * 12, [ON] * 12], slow))
    assert len(replay.export(2, 12)["action"]) == 10
    with pytest.raises(ValueError, match=f"rows {first} … {last} are not in a ring that holds 2"):
        replay.export(first, last)


def test_an_export_of_no_rows_is_refused():
    replay, slow = make_pair(10, 2)
    fill(replay, play([[ON] * 12, [ON] * 12], slow))
    with pytest.raises(ValueError, match="rows 12 … 12 are not in a ring that holds 2 … 12"):
        replay.export(12, 12)


def test_rows_before_the_run_are_not_exported():
    replay, slow = make_pair(10, 2)
    fill(replay, play([[ON] * 3, [ON] * 3], slow))
    with pytest.raises(ValueError, match="are not in a ring"):
        replay.export(-4, 2)


@pytest.mark.parametrize("n_steps", [1, 5])
def test_a_ring_that_could_not_be_drawn_from_once_full_is_refused(n_steps):
    with pytest.raises(ValueError, match="a replay of"):
        Replay(4 + n_steps, num_envs=1, frame_shape=FRAME, n_steps=n_steps)
