"""A game played again shows every frame of the very same game."""

import numpy as np
import pytest

from rlarcade.errors import ActionError, ConfigError
from rlarcade.games import get_protocol, make_env
from rlarcade.games.playback import play_back

GAMES_OF = "Atari"


@pytest.mark.parametrize(
    ("game", "protocol"),
    [
        ("space_invaders", "v5"),
        pytest.param("breakout", "nature", marks=pytest.mark.slow),
        pytest.param("pong", "machado", marks=pytest.mark.slow),
    ],
)
def test_four_frames_a_step_pay_what_the_step_paid_to_the_games_end(game, protocol):
    rules = get_protocol(protocol).model_copy(update={"name": "mine", "frame_cap": 1_500})
    env = make_env(game, protocol=rules, render_mode="rgb_array")
    rng = np.random.default_rng(3)
    env.reset(seed=11)
    first, actions, rewards = env.render().copy(), [], []
    over = False
    while not over:
        actions.append(int(rng.integers(env.action_space.n)))
        _, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
        over = terminated or truncated

    frames = list(play_back(game, rules, 11, [*actions, 0, 0]))

    assert frames[0].step == -1
    np.testing.assert_array_equal(frames[0].picture, first)
    assert frames[-1].step == len(actions) - 1, "it ends where the game ended"
    paid = [0.0] * len(actions)
    for frame in frames[1:]:
        paid[frame.step] += frame.reward
    assert paid == rewards
    assert sum(map(abs, rewards)) > 0
    counts = np.bincount([frame.step for frame in frames[1:]])
    assert set(counts[:-1]) == {4}
    assert {frame.picture.shape for frame in frames} == {(210, 160, 3)}
    assert len({frame.picture.tobytes() for frame in frames}) > len(frames) / 4


def test_the_actions_that_there_are_are_played():
    assert len(list(play_back("pong", "v5", 1, [0, 1, 2]))) == 1 + 3 * 4


def test_an_action_that_the_game_does_not_have_is_refused():
    with pytest.raises(ActionError, match="action 6"):
        list(play_back("pong", "v5", 1, [0, 6]))


@pytest.mark.parametrize("seed", [-1, 0.5, "1"])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ConfigError, match="a seed is a whole number, 0 or more"):
        next(play_back("pong", "v5", seed, [0]))
