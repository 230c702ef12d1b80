"""Frames made of screens, against ALE's vector environment, ALE's grey screen and OpenCV."""

import ale_py
import ale_py.roms
import cv2
import numpy as np
import pytest

from rlarcade.games import GameVectorEnv, all_games
from rlarcade.games.screens import TALL_GAMES, grey_frame

GAMES_OF = "Atari"


def both(game: str, **settings: object) -> tuple[GameVectorEnv, GameVectorEnv]:
    """The same game twice: the learner's observations, and every screen in colour."""
    learner = GameVectorEnv(game, 1, **settings)
    screens = GameVectorEnv(game, 1, rgb=True, every_frame=True)
    return learner, screens


def random_screen(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (210, 160, 3), dtype=np.uint8)


SOME_GAMES = [
    "space_invaders",
    "enduro",
    pytest.param("seaquest", marks=pytest.mark.slow),
    pytest.param("beam_rider", marks=pytest.mark.slow),
    pytest.param("qbert", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("game", SOME_GAMES)
def test_one_screen_gives_the_native_frame_of_this_screen(game):
    learner, screens = both(game, every_frame=True)
    observation, _ = learner.reset(seed=5)
    screen, _ = screens.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(100):
        frame = grey_frame(screen[0, 0])
        assert (frame.shape, frame.dtype) == ((84, 84), np.uint8)
        np.testing.assert_array_equal(frame, observation[0, -1])
        action = rng.integers(0, learner.num_actions, 1)
        observation, screen = learner.step(action)[0], screens.step(action)[0]
    assert len(np.unique(frame)) > 5


@pytest.mark.parametrize("game", SOME_GAMES)
def test_the_last_two_screens_of_a_step_give_the_frame_of_the_observation(game):
    learner, screens = both(game)
    observation, _ = learner.reset(seed=6)
    screen, _ = screens.reset(seed=6)
    np.testing.assert_array_equal(grey_frame(screen[0, 0]), observation[0, -1])
    rng = np.random.default_rng(0)
    newest_alone = 0
    for _ in range(100):
        action = rng.integers(0, learner.num_actions, 1)
        *_, before, screen = [screens.step(action)[0][0, 0].copy() for _ in range(4)]
        frame = learner.step(action)[0][0, -1]
        np.testing.assert_array_equal(grey_frame(screen, before), frame)
        newest_alone += (grey_frame(screen) == frame).all()
    assert newest_alone < 100, "this test could not tell merged frames from others"


def test_any_screen_is_resized_as_opencv_does_it():
    for seed in range(20):
        grey = np.random.default_rng(seed).integers(0, 256, (210, 160), dtype=np.uint8)
        expected = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)
        # 0.2989 + 0.5870 + 0.1140 is 0.9999: a grey colour keeps its level.
        np.testing.assert_array_equal(grey_frame(np.dstack([grey] * 3)), expected)


def test_two_screens_are_merged_before_they_are_resized():
    light_left, light_right = np.zeros((2, 210, 160, 3), dtype=np.uint8)
    light_left[:, ::2], light_right[:, 1::2] = 255, 255

    np.testing.assert_array_equal(grey_frame(light_left, light_right), np.full((84, 84), 255))


def test_the_screens_stay_as_they_were():
    screen, before = random_screen(0), random_screen(1)
    grey_frame(screen, before)

    np.testing.assert_array_equal(screen, random_screen(0))
    np.testing.assert_array_equal(before, random_screen(1))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((250, 160, 3), dtype=np.uint8), r"got uint8 \(250, 160, 3\)"),
        (np.zeros((1, 210, 160, 3), dtype=np.uint8), r"got uint8 \(1, 210, 160, 3\)"),
        (np.zeros((210, 160, 3), dtype=np.float32), "got float32"),
        ([[0]], "got a list"),
    ],
    ids=["tall", "stacked", "float", "list"],
)
def test_what_is_no_screen_is_refused(bad, said):
    for screens in [(bad,), (random_screen(0), bad)]:
        with pytest.raises(ValueError, match=rf"a screen is uint8 \(210, 160, 3\), {said}"):
            grey_frame(*screens)


@pytest.mark.slow
def test_every_games_colours_get_the_emulators_grey_levels():
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    colors: set[bytes] = set()
    tall = set()
    for game in all_games():
        ale = ale_py.ALEInterface()
        ale.setInt("random_seed", 1)
        ale.loadROM(str(ale_py.roms.get_rom_path(game)))
        if ale.getScreenDims() != (210, 160):
            tall.add(game)
            continue
        rng, actions = np.random.default_rng(0), ale.getMinimalActionSet()
        for _ in range(6):
            for _ in range(12):
                ale.act(actions[rng.integers(len(actions))])
            screen, grey = ale.getScreenRGB(), ale.getScreenGrayscale().squeeze()
            expected = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(grey_frame(screen), expected, err_msg=game)
            colors |= {color.tobytes() for color in np.unique(screen.reshape(-1, 3), axis=0)}
    assert tall == TALL_GAMES
    assert 120 <= len(colors) <= 128, "almost all colours of the palette were seen"
