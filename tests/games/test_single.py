import ale_py
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import AtariPreprocessing

from rlarcade.errors import ActionError, ConfigError, GameError
from rlarcade.games import get_protocol, make_env

GAMES_OF = "Atari"

gymnasium.register_envs(ale_py)

SHORT = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 200})
NO_STICKY = get_protocol("nature").model_copy(
    update={"name": "mine", "max_noops": 0, "frame_cap": 400}
)


def play(env, actions) -> list[tuple]:
    """Plays until the actions or the episode end; returns what each step returned."""
    steps = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((observation.tobytes(), reward, terminated, truncated, info))
        if terminated or truncated:
            break
    return steps


def random_actions(count: int) -> list[int]:
    return np.random.default_rng(0).integers(0, 6, count).tolist()


# For each render mode the checker would make an env of its own, from a spec, which ours has not.
@pytest.mark.filterwarnings("ignore:.*not having a spec")
@pytest.mark.parametrize("render_mode", [None, pytest.param("rgb_array", marks=pytest.mark.slow)])
def test_gymnasiums_checker_is_content(render_mode):
    check_env(make_env("SpaceInvaders", protocol=SHORT, render_mode=render_mode))


def test_spaces_are_those_of_the_protocol():
    minimal, full = make_env("ALE/Pong-v5"), make_env("pong", protocol="machado")

    assert minimal.observation_space.shape == (4, 84, 84)
    assert minimal.observation_space.dtype == np.uint8
    assert minimal.action_space == gymnasium.spaces.Discrete(6)
    assert full.action_space == gymnasium.spaces.Discrete(18)
    assert (minimal.game, minimal.protocol) == ("pong", get_protocol("v5"))


def test_the_same_seed_and_actions_give_the_same_episode():
    one, other = (make_env("SpaceInvaders", protocol=SHORT) for _ in range(2))
    other.reset(seed=99)
    play(other, random_actions(17))  # what was played before does not matter
    openings = [env.reset(seed=7) for env in (one, other)]
    games = [play(env, random_actions(100)) for env in (one, other)]

    np.testing.assert_array_equal(openings[0][0], openings[1][0])
    assert (
        openings[0][1]
        == openings[1][1]
        == {
            "seed": 7,
            "lives": 3,
            "episode_frame_number": 0,
        }
    )
    assert games[0] == games[1]
    assert len(games[0]) == 50  # 200 frames of 4


def test_another_seed_gives_another_episode():
    env = make_env("SpaceInvaders", protocol=SHORT)
    games = []
    for seed in (1, 2):
        env.reset(seed=seed)
        games.append(play(env, random_actions(100)))

    assert games[0] != games[1]


def test_resets_without_a_seed_give_new_episodes_that_follow_from_the_first_seed():
    runs = []
    env = make_env("SpaceInvaders", protocol=SHORT)
    for seed in (5, 5, 6):
        run = [env.reset(seed=seed)[1]["seed"]]
        for _ in range(2):
            play(env, [1] * 3)
            run.append(env.reset()[1]["seed"])
        run.append(play(env, random_actions(100)))
        runs.append(run)

    assert runs[0] == runs[1]
    assert runs[0][1:] != runs[2][1:]
    assert len({runs[0][0], runs[0][1], runs[0][2]}) == 3
    assert all(0 <= seed < 2**31 for seed in runs[0][:3])


def test_an_episode_can_be_played_again_from_the_seed_in_its_info():
    env = make_env("SpaceInvaders", protocol=SHORT)
    env.reset(seed=3)
    _, info = env.reset()
    first = play(env, random_actions(100))

    env.reset(seed=info["seed"])

    assert play(env, random_actions(100)) == first


@pytest.mark.parametrize("seed", [2**31, 2**40])
def test_seeds_too_large_for_the_emulator_are_reproducible_as_well(seed):
    env = make_env("SpaceInvaders", protocol=SHORT)
    games, infos = [], []
    for _ in range(2):
        _, info = env.reset(seed=seed)
        infos.append(info)
        games.append(play(env, random_actions(30)))

    assert infos[0] == infos[1]
    assert 0 <= infos[0]["seed"] < 2**31
    assert games[0] == games[1]


def test_rendered_screens_are_those_of_the_game_at_every_step():
    # Gymnasium's own preprocessing in colour and at full size (so cv2's resize changes nothing);
    # it pools the last two frames of a step, as the twin does.
    seed = 1  # see test_preprocessing.py: the emulator's seed is the second word
    emulator_seed = int(np.random.SeedSequence(seed).generate_state(2)[1])
    oracle = AtariPreprocessing(
        gymnasium.make("ALE/SpaceInvaders-v5", frameskip=1, repeat_action_probability=0.0),
        noop_max=0,
        screen_size=(160, 210),
        grayscale_obs=False,
    )
    env = make_env("SpaceInvaders", protocol=NO_STICKY, render_mode="rgb_array")
    expected, _ = oracle.reset(seed=seed)
    env.reset(seed=emulator_seed)
    pictures = [env.render()]
    np.testing.assert_array_equal(pictures[0], expected)
    for action in random_actions(45):
        expected, *_ = oracle.step(action % env.action_space.n)
        env.step(action % env.action_space.n)
        pictures.append(env.render())
        assert pictures[-1].shape == (210, 160, 3)
        assert pictures[-1].dtype == np.uint8
        np.testing.assert_array_equal(pictures[-1], expected)

    assert len({picture.tobytes() for picture in pictures}) > 12


def test_the_picture_stays_in_step_with_the_observation_through_no_ops_and_sticky_actions():
    import cv2

    protocol = get_protocol("nature").model_copy(update={"name": "mine", "sticky": 0.25})
    env = make_env("Seaquest", protocol=protocol, render_mode="rgb_array")
    luma = np.array([0.299, 0.587, 0.114])
    env.reset(seed=4)
    for step in range(80):
        if step == 40:
            env.reset()
        observation, *_ = env.step(step * 7 % 18)
        grey = cv2.resize(env.render() @ luma, (84, 84), interpolation=cv2.INTER_AREA)
        # ALE's palette rounds greys a little differently, and pools before it turns grey
        assert np.abs(grey - observation[-1]).mean() < 1.0, step
        assert np.abs(grey - observation[0]).mean() > 0.0


def test_rendering_changes_nothing_about_the_game():
    games = []
    for render_mode in (None, "rgb_array"):
        env = make_env("SpaceInvaders", protocol=SHORT, render_mode=render_mode)
        env.reset(seed=8)
        games.append(play(env, random_actions(100)))

    assert games[0] == games[1]


def test_without_a_render_mode_there_is_no_picture():
    env = make_env("Pong", protocol=SHORT)
    env.reset(seed=0)

    assert env.render() is None


def test_a_step_after_the_end_or_before_the_beginning_is_refused():
    env = make_env("SpaceInvaders", protocol=SHORT)
    with pytest.raises(ActionError, match=r"call reset\(\)"):
        env.step(0)
    env.reset(seed=1)
    *_, (_, _, terminated, truncated, _) = play(env, [0] * 100)
    assert (terminated, truncated) == (False, True)
    with pytest.raises(ActionError, match=r"call reset\(\)"):
        env.step(0)

    env.reset()

    assert len(play(env, [0] * 100)) == 50


def test_a_bad_action_is_refused_and_the_episode_goes_on():
    env = make_env("SpaceInvaders", protocol=SHORT)
    env.reset(seed=2)
    undisturbed = play(env, random_actions(100))
    env.reset(seed=2)
    for action, said in [
        (6, r"action 6 .*outside 0 … 5"),
        (-1, r"action -1 .*outside 0 … 5"),
        (1.0, "integers"),
        (True, "integers"),
        ([1, 2], "shape"),
        (np.array([1]), "shape"),
        (None, "integers"),
    ]:
        with pytest.raises(ActionError, match=said):
            env.step(action)

    assert play(env, random_actions(100)) == undisturbed


def test_an_action_may_be_any_integer():
    env = make_env("SpaceInvaders", protocol=SHORT)
    env.reset(seed=2)
    undisturbed = play(env, [3] * 5)
    env.reset(seed=2)

    assert play(env, [kind(3) for kind in (int, np.int64, np.int32, np.uint8, np.array)]) == (
        undisturbed
    )


def test_what_cannot_be_made_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"'human'.*rgb_array"):
        make_env("Pong", render_mode="human")
    with pytest.raises(ConfigError, match=r"'v4'.*v5, machado, nature"):
        make_env("Pong", protocol="v4")
    with pytest.raises(GameError, match="Did you mean Pong"):
        make_env("Ping")
