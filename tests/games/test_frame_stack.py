import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation

from rlarcade.games import FrameStack, make_vec_env

GAMES_OF = "Atari"


def frame(value: int) -> np.ndarray:
    return np.full((84, 84), value, dtype=np.uint8)


def values(stack: np.ndarray) -> list[int]:
    assert stack.shape == (4, 84, 84)
    assert stack.dtype == np.uint8
    assert all((picture == picture[0, 0]).all() for picture in stack)
    return [int(picture[0, 0]) for picture in stack]


def test_the_newest_frame_is_last_and_an_episode_opens_on_zeros():
    stack = FrameStack()

    assert values(stack.reset(frame(1))) == [0, 0, 0, 1]
    assert values(stack.push(frame(2))) == [0, 0, 1, 2]
    assert values(stack.push(frame(3))) == [0, 1, 2, 3]
    assert values(stack.push(frame(4))) == [1, 2, 3, 4]
    assert values(stack.push(frame(5))) == [2, 3, 4, 5]


def test_a_new_episode_sees_nothing_of_the_last():
    stack = FrameStack()
    stack.reset(frame(1))
    stack.push(frame(2))

    assert values(stack.reset(frame(9))) == [0, 0, 0, 9]


def test_returned_stacks_are_copies():
    stack = FrameStack()
    first = stack.reset(frame(1))
    second = stack.push(frame(2))
    second[:] = 77

    assert values(first) == [0, 0, 0, 1]
    assert values(stack.push(frame(3))) == [0, 1, 2, 3]


def test_the_pushed_frame_may_be_reused_by_its_owner():
    stack, buffer = FrameStack(), frame(1)
    stack.reset(buffer)
    buffer[:] = 50

    assert values(stack.push(frame(2))) == [0, 0, 1, 2]


class Numbered(gymnasium.Env):
    """Shows random screens, for four steps an episode."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def _screen(self) -> np.ndarray:
        return self.rng.integers(0, 256, (84, 84), dtype=np.uint8)

    def reset(self, *, seed=None, options=None):
        return self._screen(), {}

    def step(self, action):
        return self._screen(), 0.0, False, False, {}


def test_it_stacks_as_gymnasiums_zero_padded_frame_stack():
    stack, plain = FrameStack(), Numbered()
    oracle = FrameStackObservation(Numbered(), 4, padding_type="zero")
    for _ in range(2):
        np.testing.assert_array_equal(stack.reset(plain.reset()[0]), oracle.reset()[0])
        for _ in range(6):
            np.testing.assert_array_equal(stack.push(plain.step(0)[0]), oracle.step(0)[0])


def test_it_stacks_as_the_vector_environment():
    env, stack = make_vec_env("pong", 1, protocol="v5"), FrameStack()
    observation, _ = env.reset(seed=np.array([5], dtype=np.int32))
    np.testing.assert_array_equal(stack.reset(observation[0, -1]), observation[0])
    for step in range(30):
        observation, *_ = env.step(np.array([step % 6]))
        np.testing.assert_array_equal(stack.push(observation[0, -1]), observation[0])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((84, 83), dtype=np.uint8), r"\(84, 83\)"),
        (np.zeros((4, 84, 84), dtype=np.uint8), r"\(4, 84, 84\)"),
        (np.zeros((84, 84), dtype=np.float32), "float32"),
    ],
)
def test_another_shape_or_dtype_is_refused_and_changes_nothing(bad, said):
    stack = FrameStack()
    stack.reset(frame(1))

    with pytest.raises(ValueError, match=said):
        stack.push(bad)

    assert values(stack.push(frame(2))) == [0, 0, 1, 2]


@pytest.mark.parametrize("frame", [None, [[0] * 84] * 84, (1, 2)], ids=str)
def test_what_is_no_array_is_no_frame(frame):
    with pytest.raises(
        ValueError, match=r"a frame is uint8 \(84, 84\), got a (NoneType|list|tuple)"
    ):
        FrameStack().push(frame)
