"""Seeds are Gymnasium's: one whole number for all games, or one each. So are actions."""

import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest

from rlarcade.errors import ActionError, ConfigError
from rlarcade.evaluation import compare_agents, evaluate_agent
from rlarcade.games import make_env, make_vec_env
from rlarcade.playing.play import play_steps
from rlarcade.playing.players import Player, RandomPlayer
from rlarcade.seeding import SeedUse, checked_seed, derived_seed, generator

GAME = "space_invaders"
ACTIONS = [0, 2, 3, 1, 4, 3, 3, 2] * 4


@pytest.fixture(scope="module")
def single():
    """Returns the screens of a game by its seed, as `make_env` plays it."""
    env, known = make_env(GAME, protocol="nature"), {}

    def screens(seed):
        if seed not in known:
            first, _ = env.reset(seed=seed)
            known[seed] = [first, *(env.step(action)[0] for action in ACTIONS)]
        return known[seed]

    return screens


@pytest.fixture(scope="module")
def games():
    return make_vec_env(GAME, 3, protocol="nature", num_threads=1)


def screens_of(games, seed, options=None):
    first, _ = games.reset(seed=seed, options=options)
    rows = [first, *(games.step(np.full(3, action))[0] for action in ACTIONS)]
    return [[row[lane] for row in rows] for lane in range(3)]


@pytest.mark.parametrize(
    ("seed", "each"),
    [
        (5, (5, 6, 7)),
        (np.int64(5), (5, 6, 7)),
        (np.uint8(255), (255, 256, 257)),
        (np.array(5), (5, 6, 7)),
        ([7, 5, 255], (7, 5, 255)),
        ((7, 5, 255), (7, 5, 255)),
        (np.array([7, 5, 255]), (7, 5, 255)),
        (np.array([7, 5, 255], dtype=np.int32), (7, 5, 255)),
        (range(5, 8), (5, 6, 7)),
        (2**31 - 2, (2**31 - 2, 2**31 - 1, 2**31)),
        (2**32, (2**32, 2**32 + 1, 2**32 + 2)),
        ([2**31, 2**70, 0], (2**31, 2**70, 0)),
    ],
    ids=str,
)
def test_each_game_plays_what_the_single_environment_plays_with_its_seed(games, single, seed, each):
    for found, one in zip(screens_of(games, seed), each, strict=True):
        np.testing.assert_array_equal(found, single(one))


def test_a_list_may_leave_games_without_a_seed(games, single):
    twice = [screens_of(games, [5, None, 7]) for _ in range(2)]
    for found in twice:
        np.testing.assert_array_equal(found[0], single(5))
        np.testing.assert_array_equal(found[2], single(7))


@pytest.mark.parametrize(
    ("seed", "last"),
    [([8, 9, 255], 255), ([9, 255], 255), (8, 10), (np.array([9, 255], dtype=np.int32), 255)],
    ids=str,
)
def test_masked_games_get_their_seeds_and_the_others_go_on(games, single, seed, last):
    games.reset(seed=5)
    before = games.step(np.full(3, ACTIONS[0]))[0]
    np.testing.assert_array_equal(before[0], single(5)[1])
    mask = np.array([False, True, True])
    first, _ = games.reset(seed=seed, options={"reset_mask": mask})
    np.testing.assert_array_equal(first[0], before[0])
    np.testing.assert_array_equal(first[1], single(9)[0])
    np.testing.assert_array_equal(first[2], single(last)[0])
    second = games.step(np.full(3, ACTIONS[0]))[0]
    np.testing.assert_array_equal(second[1], single(9)[1])


BAD_SEEDS = [
    (-1, "got -1"),
    (np.int64(-1), r"got np.int64\(-1\)"),
    (1.0, r"got 1\.0"),
    (np.float64(2), "got np.float64"),
    (True, "got True"),
    ("5", "got '5'"),
]


@pytest.mark.parametrize(("seed", "said"), BAD_SEEDS, ids=lambda value: str(type(value)))
def test_a_bad_seed_is_named_by_both_environments(games, seed, said):
    for reset in (games.reset, make_env(GAME).reset):
        with pytest.raises(ConfigError, match=f"a seed is a whole number, 0 or more; {said}"):
            reset(seed=seed)
    with pytest.raises(ConfigError, match=f"a seed is a whole number, 0 or more; {said}"):
        games.reset(seed=[1, seed, 2])


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        ([1, 2], "3 games are reset, but 2 seeds were given"),
        ([], "3 games are reset, but 0 seeds were given"),
        ([[1], [2], [3]], "a seed is a whole number"),
        (np.array([-1, 2, 3], dtype=np.int32), "got np.int32|got -1"),
        ({"a": 1}, "a seed is a whole number"),
    ],
    ids=str,
)
def test_a_bad_list_of_seeds_is_refused(games, seed, said):
    with pytest.raises(ConfigError, match=said):
        games.reset(seed=seed)


@pytest.mark.parametrize(
    "mask", [None, [True, False, False], np.zeros(3, bool), np.ones(2, bool), np.ones(3)], ids=str
)
def test_a_mask_that_is_none_is_refused(games, mask):
    games.reset()
    with pytest.raises(ConfigError, match="reset_mask must be a NumPy array of 3 booleans"):
        games.reset(options={"reset_mask": mask})


def test_the_first_reset_is_one_of_all_games():
    games = make_vec_env(GAME, 2)
    with pytest.raises(ConfigError, match="first reset must reset all games"):
        games.reset(options={"reset_mask": np.array([True, False])})


def test_a_large_seed_is_one_game_and_another_large_seed_another(single):
    one, info = make_env(GAME, protocol="nature").reset(seed=2**40)
    np.testing.assert_array_equal(one, single(2**40)[0])
    assert 0 <= info["seed"] < 2**31
    _, other = make_env(GAME).reset(seed=10**5000)  # a number that Python does not write
    assert other["seed"] != info["seed"]


@pytest.mark.parametrize("count", [0, -1, 2.0, "2", True, 10**9, None])
def test_a_number_of_games_that_is_none_is_refused(count):
    with pytest.raises(ConfigError, match="num_envs must be at least 1 and at most 1024"):
        make_vec_env(GAME, count)


# Actions


class _Tensor:
    """Something with one element that is no number, as torch has it."""

    shape = (1,)

    def __index__(self):
        return 1


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (np.array([1]), r"got array\(\[1\]\) of shape \(1,\)\. Take its element: action\[0\]\.$"),
        (_Tensor(), r"of shape \(1,\)\. Take its element"),
        ([1], r"got \[1\] of shape \(1,\)"),
        ([[1], [1, 2]], r"got \[\[1\], \[1, 2\]\] of shape \(2,\)"),
        (True, "got True"),
        (np.bool_(True), "got np.True_"),
        (1.0, r"got 1\.0"),
        (np.float32(1), "got np.float32"),
        (np.array(1.0), r"got array\(1\.\)"),
        (None, "got None"),
        ("1", "got '1'"),
        ("up\n\x1b[31m", r"got 'up\\n\\x1b\[31m'"),
        (np.zeros(5000), r"got .{1,60} of shape \(5000,\)"),
        (-1, "action -1 is outside 0 … 5"),
    ],
)
def test_what_is_no_action_is_shown_in_one_line_and_changes_nothing(single, action, said):
    env = make_env(GAME, protocol="nature")
    env.reset(seed=5)
    with pytest.raises(ActionError, match=said) as caught:
        env.step(action)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert not isinstance(action, np.ndarray) or not gymnasium.spaces.Discrete(6).contains(action)
    np.testing.assert_array_equal(env.step(ACTIONS[0])[0], single(5)[1])


@pytest.mark.parametrize("action", [0, np.int64(0), np.uint8(0), np.array(0)])
def test_what_the_action_space_contains_is_an_action(single, action):
    env = make_env(GAME, protocol="nature")
    env.reset(seed=5)
    assert env.action_space.contains(action)
    np.testing.assert_array_equal(env.step(action)[0], single(5)[1])


def test_a_number_that_python_does_not_write_is_refused_in_words(games):
    with pytest.raises(ConfigError, match="0 or more; got a number of thousands of digits"):
        games.reset(seed=-(10**5000))
    env = make_env(GAME)
    env.reset(seed=1)
    with pytest.raises(ActionError, match="thousands of digits is outside 0 … 5"):
        env.step(10**5000)


def test_rows_of_unequal_length_are_no_actions(games):
    games.reset()
    with pytest.raises(ActionError, match=r"3 games need an array of 3 actions, got \[\[0\], \["):
        games.step([[0], [0, 1], [2]])


def test_a_step_before_the_beginning_and_a_receipt_without_a_step_do_not_hang():
    games = make_vec_env(GAME, 1)
    said = []

    def out_of_order():
        for call in (
            lambda: games.step(np.array([0])),
            games.recv,
            lambda: (games.reset(), games.recv()),
            lambda: (games.send(np.array([0])), games.recv(), games.recv()),
        ):
            try:
                call()
            except ActionError as error:
                said.append(str(error))

    thread = threading.Thread(target=out_of_order, daemon=True)
    thread.start()
    thread.join(20)
    assert [text.split(":")[0] for text in said] == [
        "no episode has begun",
        *["no actions were sent"] * 3,
    ]


# Seeds of what is made of games


def _first_action(observation):
    return 0


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", None, True])
def test_evaluations_matches_and_steps_refuse_a_bad_seed_before_any_game(seed):
    one, other = RandomPlayer("pong"), Player(_first_action, game="pong", version="x")
    for call in (
        lambda: evaluate_agent(one, episodes=1, seed=seed),
        lambda: play_steps(one, seed=seed),
        lambda: compare_agents(one, other, seed=seed),
        lambda: derived_seed(seed, SeedUse.MATCH),
        lambda: generator(seed, SeedUse.MATCH),
        lambda: generator(0, SeedUse.MATCH, seed),
    ):
        with pytest.raises(ConfigError, match="a seed is a whole number, 0 to 4294967295; got"):
            call()


def test_numpy_integers_are_seeds_like_any_other():
    assert derived_seed(np.uint32(7), SeedUse.MATCH) == derived_seed(7, SeedUse.MATCH)
    assert type(checked_seed(np.int64(3))) is int


def test_a_script_that_ends_with_games_in_its_globals_says_nothing_of_leaks():
    code = (
        "from rlarcade import Player, evaluate_agent, make_vec_env, Protocol\n"
        "short = Protocol(name='short', frame_cap=40)\n"
        "evaluate_agent(Player(lambda o: 3, game='Breakout', protocol=short), episodes=1)\n"
        "env = make_vec_env('Breakout', 2)\n"
        "env.reset()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stderr == ""
