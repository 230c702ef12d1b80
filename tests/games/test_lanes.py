"""Training lanes against one plain ALE environment a lane, stepped and re-seeded by hand."""

from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from tiers import quick

from rlarcade.errors import ActionError, CheckpointError, GameError
from rlarcade.games import LaneStep, Protocol, TrainingLanes, get_protocol
from rlarcade.seeding import SeedUse, derived_seed

FLAGS = ("terminated", "truncated", "life_lost", "reset")


slow = partial(pytest.param, marks=pytest.mark.slow)


def changed(name: str, **changes: object) -> Protocol:
    return get_protocol(name).model_copy(update={"name": "mine", **changes})


def make_lanes(
    game: str, protocol: Protocol, *, num_envs: int, start: bool = True, **settings
) -> TrainingLanes:
    lanes = TrainingLanes(game, num_envs=num_envs, protocol=protocol, **settings)
    if start:
        lanes.start()
    return lanes


def act(lanes: TrainingLanes, actions) -> LaneStep:
    lanes.send(np.asarray(actions, dtype=np.int64))
    return lanes.recv()


def random_actions(steps: int, num_envs: int, *, seed: int = 0, num_actions: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_actions, (steps, num_envs))


@dataclass
class Row:
    """One step of all lanes, and where they stand after it."""

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    life_lost: np.ndarray
    reset: np.ndarray
    age: np.ndarray
    ended: np.ndarray
    num_reseeds: np.ndarray


def play(lanes: TrainingLanes, actions: np.ndarray) -> list[Row]:
    rows = []
    for row in actions:
        step = act(lanes, row)
        assert step.observation is lanes.observation
        rows.append(
            Row(
                **{field.name: getattr(step, field.name).copy() for field in fields(step)},
                age=lanes.age.copy(),
                ended=lanes.ended.copy(),
                num_reseeds=lanes.state()["num_reseeds"],
            )
        )
    return rows


def first_lanes(row: Row, count: int) -> Row:
    return Row(**{field.name: getattr(row, field.name)[:count] for field in fields(Row)})


def assert_same(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        for field in fields(Row):
            np.testing.assert_array_equal(
                getattr(one, field.name),
                getattr(other, field.name),
                err_msg=f"{field.name} at step {step}",
            )


class PlainLane:
    """The oracle: one emulator by itself. A life is lost where the game goes on with fewer."""

    def __init__(self, game: str, protocol: Protocol, lane: int, seed: int, interval: int) -> None:
        self.env = AtariVectorEnv(
            game,
            1,
            num_threads=1,
            max_num_frames_per_episode=protocol.frame_cap,
            repeat_action_probability=protocol.sticky,
            full_action_space=protocol.full_action_space,
            noop_max=protocol.max_noops + 1 if protocol.max_noops else 0,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.lane, self.seed, self.interval = lane, seed, interval
        self.num_reseeds = -1
        self.age, self.over = 0, False
        self.reseed()

    def reseed(self) -> None:
        self.num_reseeds += 1
        seed = derived_seed(self.seed, SeedUse.TRAINING, self.lane, self.num_reseeds)
        self.observation, info = self.env.reset(seed=np.array([seed], dtype=np.int32))
        self.lives = int(info["lives"][0])
        self.since_seed = 0

    def step(self, action: int) -> dict[str, object]:
        reset = self.over
        self.observation, reward, terminated, truncated, info = self.env.step(np.array([action]))
        lives = int(info["lives"][0])
        life_lost, self.lives = not reset and lives < self.lives, lives
        self.over = bool(terminated[0] or truncated[0])
        self.age = 0 if reset else self.age + 1
        self.since_seed += 1
        if reset and self.since_seed >= self.interval:
            self.reseed()
        return {
            "observation": self.observation[0],
            "reward": reward[0],
            "terminated": terminated[0],
            "truncated": truncated[0],
            "life_lost": life_lost,
            "reset": reset,
            "age": self.age,
            "ended": self.over,
            "num_reseeds": self.num_reseeds,
        }


@pytest.mark.usefixtures("real_games")
@pytest.mark.parametrize(
    ("game", "protocol", "interval", "num_envs", "steps"),
    [
        # short games, cut in the middle of a skip; a new seed at every second ending
        ("space_invaders", changed("v5", frame_cap=133), 40, 2, 75),
        # the no-ops of a new seed open on another screen than those of the old one would
        ("demon_attack", changed("nature", frame_cap=160), 50, 2, 90),
        # shows 1 life until its first frame, then 4: fewer at a reset row, yet none is lost
        slow("demon_attack", changed("machado", frame_cap=90), 40, 2, 55),
        # a whole game that ends by itself, with lives lost on the way
        slow("breakout", changed("v5"), 150, 2, 260),
        slow("breakout", changed("v5"), 300, 3, 800),
        slow("seaquest", changed("machado"), 300, 2, 1000),
    ],
)
def test_lanes_play_as_plain_emulators_each_by_itself(game, protocol, interval, num_envs, steps):
    lanes = make_lanes(game, protocol, num_envs=num_envs, seed=11, reseed_interval=interval)
    plain = [PlainLane(game, protocol, lane, 11, interval) for lane in range(num_envs)]
    actions = random_actions(steps, num_envs, num_actions=lanes.num_actions)
    for lane in range(num_envs):
        np.testing.assert_array_equal(lanes.observation[lane], plain[lane].observation[0])

    endings = life_losses = 0
    for step, row in enumerate(play(lanes, actions)):
        for lane in range(num_envs):
            expected = plain[lane].step(int(actions[step, lane]))
            for name, value in expected.items():
                np.testing.assert_array_equal(
                    getattr(row, name)[lane], value, err_msg=f"{name} of lane {lane}, step {step}"
                )
        endings += int(row.ended.sum())
        life_losses += int(row.life_lost.sum())
    assert endings >= num_envs
    assert life_losses >= 2 * num_envs or protocol.frame_cap < 1_000


def test_every_ending_is_followed_by_exactly_one_reset_row_without_reward():
    lanes = make_lanes("breakout", changed("v5", frame_cap=162), num_envs=3, reseed_interval=60)
    rows = play(lanes, random_actions(130, 3))

    ended = np.array([row.ended for row in rows])
    reset = np.array([row.reset for row in rows])
    age = np.array([row.age for row in rows])
    assert ended.sum() >= 9
    np.testing.assert_array_equal(reset[1:], ended[:-1])
    assert not reset[0].any()
    assert not (reset & ended).any()
    np.testing.assert_array_equal(age == 0, reset)
    for row in rows:
        assert (row.reward[row.reset] == 0).all()
        assert not row.life_lost[row.reset].any()
        np.testing.assert_array_equal(row.ended, row.terminated | row.truncated)
        assert not (row.terminated & row.truncated).any()
        # a reset row opens an episode: three empty frames and the first screen
        assert (row.observation[row.reset, :3] == 0).all()
        assert row.observation[row.reset, 3].any(axis=(1, 2)).all()


def test_the_last_observation_of_an_episode_arrives_before_the_next_begins():
    lanes = make_lanes("space_invaders", changed("v5", frame_cap=80), num_envs=2, seed=3)
    rows = play(lanes, random_actions(45, 2))
    endings = [step for step, row in enumerate(rows) if row.ended[0]]

    assert endings[0] == 19  # 80 frames of 4
    for step in endings:
        # the older frames are those that the row before showed as newer
        np.testing.assert_array_equal(
            rows[step].observation[0, :3], rows[step - 1].observation[0, 1:]
        )
        assert rows[step].age[0] == 20
        assert rows[step].truncated[0]


@pytest.mark.usefixtures("real_games")
def test_each_of_breakouts_five_lives_is_lost_once_a_game():
    lanes = make_lanes("breakout", changed("nature", max_noops=0), num_envs=1)
    lost, terminated = 0, False
    for action in random_actions(2_000, 1):
        step = act(lanes, action)
        lost += int(step.life_lost[0])
        terminated = bool(step.terminated[0])
        if terminated:
            break

    assert terminated
    assert step.life_lost[0]
    assert lost == 5


@pytest.mark.usefixtures("real_games")
def test_games_do_not_depend_on_threads_or_on_the_number_of_lanes():
    protocol, actions = changed("v5", frame_cap=80), random_actions(50, 3)
    settings = {"reseed_interval": 25}
    expected = play(
        make_lanes("seaquest", protocol, num_envs=3, num_threads=1, **settings), actions
    )

    for num_envs, num_threads in [(3, 2), (1, 1)]:
        lanes = make_lanes(
            "seaquest", protocol, num_envs=num_envs, num_threads=num_threads, **settings
        )
        found = play(lanes, actions[:, :num_envs])
        assert_same(found, [first_lanes(row, num_envs) for row in expected])


def test_another_seed_plays_other_games_and_no_two_lanes_play_the_same():
    protocol = changed("nature", sticky=0.25)
    actions = np.ones((40, 2), dtype=np.int64)
    screens = {
        row.observation[lane].tobytes()
        for seed in (0, 1)
        for row in play(make_lanes("pong", protocol, num_envs=2, seed=seed), actions)[-1:]
        for lane in range(2)
    }

    assert len(screens) == 4


@pytest.mark.parametrize(
    ("interval", "changes"), [(22, 3), (23, 1), pytest.param(9_999, 0, marks=pytest.mark.slow)]
)
def test_seeds_change_only_at_reset_rows_and_after_the_interval(interval, changes):
    protocol = changed("v5", frame_cap=82)  # 21 steps and a reset row: endings every 22
    lanes = make_lanes("space_invaders", protocol, num_envs=2, reseed_interval=interval)
    since_seed, before, found = np.zeros(2), np.zeros(2), np.zeros(2)
    for row in play(lanes, random_actions(66, 2)):
        since_seed += 1
        new = row.num_reseeds > before
        np.testing.assert_array_equal(new, row.reset & (since_seed >= interval))
        before, found = row.num_reseeds, found + new
        since_seed[new] = 0

    np.testing.assert_array_equal(found, changes)


@pytest.mark.parametrize(
    ("interval", "frame_cap", "steps"),
    [
        (1, 240, 130),
        pytest.param(50, 160, 200, marks=pytest.mark.slow),
        pytest.param(1, 108_000, 900, marks=pytest.mark.slow),
        pytest.param(100, 108_000, 900, marks=pytest.mark.slow),
    ],
)
def test_history_is_bounded_by_the_longest_episode_and_the_interval(interval, frame_cap, steps):
    protocol = changed("v5", frame_cap=frame_cap)
    lanes = make_lanes("breakout", protocol, num_envs=2, reseed_interval=interval)
    longest, history = 0, 0
    for action in random_actions(steps, 2):
        act(lanes, action)
        longest = max(longest, int(lanes.age.max()))
        history = max(history, len(lanes.state()["actions"]))
        assert history <= longest + interval + 1  # with the reset row

    assert history < steps / 1.5


# --- rebuilding ---------------------------------------------------------------------------------

FUTURE = 60
SITUATIONS = {
    # protocol, interval, steps played before saving
    "freshly started": (changed("v5", frame_cap=200), 60, 0),
    "one step in": (changed("v5", frame_cap=200), 60, 1),
    "mid-episode, no new seed yet": (changed("v5", frame_cap=200), 10_000, 80),
    "mid-history, several seeds later": (changed("v5", frame_cap=120), 40, 110),
    "a new seed at every ending": (changed("v5", frame_cap=160), 1, 90),
    "no-op starts": (changed("nature", frame_cap=240), 100, 90),
    "all actions": (changed("machado", frame_cap=200), 100, 80),
}


QUICK_SITUATIONS = ("freshly started", "mid-history, several seeds later")


def uneven(lanes: TrainingLanes, *, steps: int, until) -> np.ndarray:
    """Plays random actions for `steps`, then on until `until(lanes, row)`; returns the actions."""
    rng = np.random.default_rng(1)
    played = 0
    while True:
        row = play(lanes, rng.integers(0, 4, (1, lanes.num_envs)))[0]
        played += 1
        if played >= steps and until(lanes, row):
            return
        assert played < steps + 1_000


def frozen(state) -> dict[str, np.ndarray]:
    return {name: values.copy() for name, values in state.items()}


def assert_rebuilt(lanes: TrainingLanes, game: str, protocol: Protocol, **settings) -> list[Row]:
    """Rebuilds `lanes` in another object and lets both go on; returns what both played."""
    state = lanes.state()
    kept = frozen(state)
    # the constructor's seed is the run's; only `rebuild` knows how often lanes were re-seeded
    other = make_lanes(game, protocol, num_envs=lanes.num_envs, start=False, **settings)
    other.rebuild(state)
    for name in ("observation", "age", "ended"):
        np.testing.assert_array_equal(getattr(other, name), getattr(lanes, name))
    for name, values in other.state().items():
        np.testing.assert_array_equal(values, kept[name], err_msg=name)
        assert values.dtype == kept[name].dtype
    actions = random_actions(FUTURE, lanes.num_envs, seed=9)
    future = play(lanes, actions)
    assert_same(play(other, actions), future)
    for name, values in other.state().items():
        np.testing.assert_array_equal(values, lanes.state()[name], err_msg=name)
    for name, values in state.items():
        np.testing.assert_array_equal(values, kept[name], err_msg=f"saved {name} was changed")
    return future


@pytest.mark.parametrize(
    "situation",
    quick(SITUATIONS, QUICK_SITUATIONS),
)
def test_rebuilt_lanes_go_on_as_if_nothing_had_happened(situation):
    protocol, interval, steps = SITUATIONS[situation]
    settings = {"seed": 5, "reseed_interval": interval}
    lanes = make_lanes("breakout", protocol, num_envs=2, **settings)
    play(lanes, random_actions(steps, 2, seed=1))

    future = assert_rebuilt(lanes, "breakout", protocol, **settings)

    assert any(row.reset.any() for row in future)
    assert any(row.ended.any() for row in future)


def lives_game(num_envs: int = 2):
    """Whole games of Breakout, whose lanes end and are re-seeded at different times."""
    protocol, settings = changed("v5"), {"seed": 2, "reseed_interval": 150}
    return make_lanes("breakout", protocol, num_envs=num_envs, **settings), protocol, settings


def test_rebuilt_lanes_go_on_where_one_was_just_re_seeded():
    lanes, protocol, settings = lives_game()
    before = [0]

    def just_re_seeded(lanes, row):
        new, before[0] = int(row.num_reseeds.sum()) > before[0], int(row.num_reseeds.sum())
        return new

    uneven(lanes, steps=1, until=just_re_seeded)
    assert 0 in len(lanes.state()["actions"]) - lanes.state()["since"]
    assert_rebuilt(lanes, "breakout", protocol, **settings)


def test_rebuilt_lanes_go_on_where_one_has_just_ended():
    lanes, protocol, settings = lives_game()
    uneven(lanes, steps=1, until=lambda lanes, row: lanes.ended.any() and not lanes.ended.all())

    future = assert_rebuilt(lanes, "breakout", protocol, **settings)

    np.testing.assert_array_equal(future[0].reset.any(), True)


@pytest.mark.slow
def test_rebuilt_lanes_go_on_where_lives_have_been_lost_and_histories_differ():
    lanes, protocol, settings = lives_game()
    uneven(
        lanes,
        steps=100,
        until=lambda lanes, row: (
            (lanes.age > 60).any() and len(set(lanes.state()["since"].tolist())) == 2
        ),
    )

    future = assert_rebuilt(lanes, "breakout", protocol, **settings)

    assert any(row.life_lost.any() for row in future)


@pytest.mark.slow
def test_lanes_can_be_rebuilt_again_after_having_been_rebuilt():
    lanes, protocol, settings = lives_game()
    play(lanes, random_actions(60, 2))
    once = make_lanes("breakout", protocol, num_envs=2, start=False, **settings)
    once.rebuild(lanes.state())
    actions = random_actions(50, 2, seed=3)
    assert_same(play(once, actions), play(lanes, actions))

    assert_rebuilt(once, "breakout", protocol, **settings)


def test_rebuilding_does_not_need_the_seeded_start_to_have_been_skipped():
    lanes, protocol, settings = lives_game()
    play(lanes, random_actions(50, 2))
    other = make_lanes("breakout", protocol, num_envs=2, **settings)
    play(other, random_actions(37, 2, seed=8))
    other.rebuild(lanes.state())
    actions = random_actions(40, 2, seed=3)

    assert_same(play(other, actions), play(lanes, actions))


def test_a_saved_state_does_not_change_while_the_lanes_go_on():
    lanes, _, _ = lives_game()
    play(lanes, random_actions(30, 2))
    state = lanes.state()
    kept = frozen(state)
    play(lanes, random_actions(30, 2, seed=4))

    for name, values in state.items():
        np.testing.assert_array_equal(values, kept[name])


def test_a_state_that_leads_to_another_screen_is_refused_by_lane():
    protocol, settings = changed("nature", max_noops=0), {"seed": 2}
    lanes = make_lanes("breakout", protocol, num_envs=2, **settings)
    play(lanes, np.full((30, 2), 2))  # both paddles to the right
    screen, actions = frozen(lanes.state()), frozen(lanes.state())
    screen["observation"][1, 40, 40] ^= 1
    actions["actions"][15:, 0] = 3
    other = make_lanes("breakout", protocol, num_envs=2, start=False, **settings)

    with pytest.raises(CheckpointError, match=r"lanes 1 of 2 .* ale-py differs"):
        other.rebuild(screen)
    with pytest.raises(CheckpointError, match=r"lanes 0 of 2 .* ale-py differs"):
        other.rebuild(actions)


def test_progress_is_told_while_lanes_start_and_are_rebuilt():
    lanes = TrainingLanes("pong", num_envs=5, protocol="v5")
    started, rebuilt = [], []
    lanes.start(lambda done, total: started.append((done, total)))
    play(lanes, random_actions(30, 5))
    lanes.rebuild(lanes.state(), lambda done, total: rebuilt.append((done, total)))

    for told, total in [(started, 5), (rebuilt, 30)]:
        assert told
        assert told == sorted(told)
        assert all(0 <= done <= of == total for done, of in told)
    assert started[-1] == (5, 5)


# --- bad actions --------------------------------------------------------------------------------


BAD_ACTIONS = [
    (np.array([0, 4]), r"action 4 for game 1 .*0 … 3"),
    (np.array([2**40, 0]), "for game 0"),
    (np.array([0, 256]), "action 256"),  # would be 0 as a byte
    (np.array([-1, 0]), "action -1 for game 0"),
    (np.array([0.0, 1.0]), "integers .*float64"),
    (np.array([np.nan, 1.0]), "integers"),
    (np.array([True, False]), "integers"),
    (np.array([0]), r"shape \(2,\), got shape \(1,\)"),
    (np.array([[0, 1]]), "shape"),
    (np.array(1), "shape"),
    (np.zeros(0, dtype=np.int64), "shape"),
]


def test_a_bad_action_is_refused_and_changes_nothing():
    lanes, undisturbed = (make_lanes("breakout", changed("v5"), num_envs=2) for _ in range(2))
    actions = random_actions(40, 2)
    expected = play(undisturbed, actions)
    found = play(lanes, actions[:4])
    for step, (bad, said) in enumerate(BAD_ACTIONS, start=4):
        with pytest.raises(ActionError, match=said):
            lanes.send(bad)
        found += play(lanes, actions[step : step + 1])
    found += play(lanes, actions[len(found) :])

    assert_same(found, expected)
    np.testing.assert_array_equal(lanes.state()["actions"], actions)


def test_actions_may_be_narrow_integers_in_an_array_that_is_reused_at_once():
    lanes, other = (make_lanes("breakout", changed("v5"), num_envs=2) for _ in range(2))
    buffer = np.zeros(2, dtype=np.int64)
    for step, action in enumerate(random_actions(20, 2)):
        buffer[:] = action
        lanes.send(buffer if step % 2 else action.astype(np.uint8))
        buffer[:] = 0
        found, expected = lanes.recv(), act(other, action)
        np.testing.assert_array_equal(found.observation, expected.observation)

    np.testing.assert_array_equal(lanes.state()["actions"], other.state()["actions"])
    assert lanes.state()["actions"].any()


def test_lanes_of_an_unknown_game_are_refused():
    with pytest.raises(GameError, match="unknown game"):
        TrainingLanes("Brekout9000x", num_envs=1)
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        TrainingLanes("breakout", num_envs=0)
