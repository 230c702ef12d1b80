"""The games in Gymnasium's registry, and what wrappers of other libraries ask of them."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import HumanRendering
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, EpisodicLifeEnv
from stable_baselines3.common.env_checker import check_env as check_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from rlarcade import make_env
from rlarcade.errors import ConfigError
from rlarcade.games import all_games, get_protocol, registration
from rlarcade.games.registration import register_games
from rlarcade.games.vector import GameVectorEnv

GAMES_OF = "Atari"
SHORT = get_protocol("v5").model_copy(update={"name": "short", "frame_cap": 200})


def test_every_game_has_an_id():
    ids = {name for name in gymnasium.registry if name.startswith("rlarcade/")}
    assert len(ids) == len(all_games()) > 100
    assert {"rlarcade/SpaceInvaders-v5", "rlarcade/Pong-v5", "rlarcade/Qbert-v5"} <= ids
    before = dict(gymnasium.registry)
    register_games()  # Gymnasium would warn of an id that is registered again
    assert gymnasium.registry == before


@pytest.mark.slow
def test_importing_the_games_registers_them_in_whatever_order_gymnasium_comes():
    for order in ("import rlarcade.games, gymnasium", "import gymnasium, rlarcade.games"):
        code = f"{order}\nprint(gymnasium.make('rlarcade/Pong-v5').unwrapped.game)"
        assert printed(code) == "pong"
    code = (
        "import gymnasium\nprint(gymnasium.make('rlarcade.games:rlarcade/Pong-v5').unwrapped.game)"
    )
    assert printed(code) == "pong"


def printed(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("render_mode", [None, pytest.param("rgb_array", marks=pytest.mark.slow)])
def test_gymnasiums_checker_has_nothing_to_say(render_mode):
    made = gymnasium.make("rlarcade/SpaceInvaders-v5", protocol=SHORT, render_mode=render_mode)
    check_env(made.unwrapped)
    assert made.unwrapped.spec.id == "rlarcade/SpaceInvaders-v5"


def test_the_checker_of_stable_baselines3_has_nothing_to_say():
    check_sb3(make_env("SpaceInvaders", protocol=SHORT))


def test_a_registered_game_is_the_one_of_make_env():
    made = gymnasium.make("rlarcade/SpaceInvaders-v5", protocol="machado")
    ours = make_env("SpaceInvaders", protocol="machado")
    assert made.unwrapped.protocol == get_protocol("machado")
    assert made.action_space == ours.action_space
    np.testing.assert_array_equal(made.reset(seed=5)[0], ours.reset(seed=5)[0])
    for action in (17, 3, 1):
        np.testing.assert_array_equal(made.step(action)[0], ours.step(action)[0])
    with pytest.raises(ConfigError, match="unknown protocol 'v4'"):
        gymnasium.make("rlarcade/SpaceInvaders-v5", protocol="v4")


def test_many_registered_games_are_the_native_vector_environment():
    envs = gymnasium.make_vec("rlarcade/SpaceInvaders-v5", num_envs=3, protocol=SHORT)
    assert isinstance(envs, GameVectorEnv)
    assert (envs.num_envs, envs.game, envs.protocol) == (3, "space_invaders", SHORT)
    assert envs.reset(seed=1)[0].shape == (3, 4, 84, 84)


# What wrappers ask


def test_actions_have_the_names_that_ales_own_environment_gives_them():
    import ale_py

    gymnasium.register_envs(ale_py)
    for game, settings in (("Breakout", {}), ("Pong", {"full_action_space": True})):
        ale = gymnasium.make(f"ALE/{game}-v5", **settings).unwrapped
        ours = make_env(game, protocol="machado" if settings else "v5")
        assert ours.get_action_meanings() == ale.get_action_meanings()


def test_the_emulators_view_tells_lives_the_end_and_the_screen():
    long = SHORT.model_copy(update={"name": "long", "frame_cap": 20_000})
    env = make_env("Breakout", protocol=long, render_mode="rgb_array")
    assert env.ale.game_over()
    _, info = env.reset(seed=1)
    assert env.ale.lives() == info["lives"] == 5
    lives, over = set(), False
    while not over:
        assert not env.ale.game_over()
        *_, terminated, truncated, info = env.step(1)
        assert env.ale.lives() == info["lives"]
        lives.add(env.ale.lives())
        over = terminated or truncated
    assert lives == {0, 1, 2, 3, 4, 5}
    assert env.ale.game_over(with_truncation=False)
    np.testing.assert_array_equal(env.ale.getScreenRGB(), env.render())


def test_what_the_emulators_view_lacks_is_told():
    env = make_env("Pong")
    assert not hasattr(env.ale, "getRAM")
    with pytest.raises(AttributeError, match=r"no ale\.getRAM.*ALE/Pong-v5"):
        env.ale.getRAM()
    with pytest.raises(ConfigError, match="render_mode='rgb_array'"):
        env.ale.getScreenRGB()


def test_wrappers_of_stable_baselines3_find_what_they_ask_for():
    raw = make_env("Breakout", protocol=SHORT)
    env = ClipRewardEnv(EpisodicLifeEnv(raw))
    env.reset(seed=1)
    ends = 0
    for _ in range(2):
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(1)
            over = terminated or truncated
        ends += 1
        env.reset()
    assert ends == 2


# Stable-Baselines3's VecEnv


@pytest.mark.slow
def test_the_three_lines_of_the_docs_train_a_model():
    from stable_baselines3 import DQN

    envs = make_vec_env(
        "rlarcade.games:rlarcade/Breakout-v5",
        n_envs=2,
        wrapper_class=lambda env: ClipRewardEnv(EpisodicLifeEnv(env)),
        env_kwargs={"render_mode": None},
    )
    assert isinstance(envs, DummyVecEnv)
    assert envs.get_attr("protocol") == [get_protocol("v5")] * 2
    model = DQN("CnnPolicy", envs, buffer_size=100, learning_starts=20, batch_size=8)
    model.learn(40)
    assert model._n_updates > 0


# A window


@pytest.fixture
def no_display(monkeypatch):
    """SDL draws into memory."""
    pytest.importorskip("pygame").quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def test_a_window_shows_the_game_three_times_larger(no_display):
    import pygame

    env = gymnasium.make("rlarcade/SpaceInvaders-v5", protocol=SHORT, render_mode="human")
    assert (env.render_mode, env.unwrapped.render_mode) == ("human", "rgb_array")
    env.reset(seed=1)
    for action in (3, 1):
        env.step(action)
    shown = pygame.surfarray.array3d(pygame.display.get_surface())  # (width, height, 3)
    picture = env.unwrapped.render()
    np.testing.assert_array_equal(shown.transpose(1, 0, 2)[1::3, 1::3], picture)
    assert shown.shape == (480, 630, 3)
    wrappers = [type(env)]
    while env is not env.unwrapped:
        env = env.env
        wrappers.append(type(env))
    assert HumanRendering in wrappers


def test_without_a_display_a_window_is_refused_with_the_reason(monkeypatch):
    pytest.importorskip("pygame").display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonesuch")
    with pytest.raises(ConfigError, match=r"no window can be opened here: .*rlarcade\.serve"):
        gymnasium.make("rlarcade/Pong-v5", render_mode="human")


def test_without_pygame_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match=r"render_mode='human' needs the extra `window`"):
        registration.registered_env("pong", render_mode="human")
    with pytest.raises(ConfigError, match=r"gymnasium.make\('rlarcade/Pong-v5', render_mode"):
        make_env("Pong", render_mode="human")
