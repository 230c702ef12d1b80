"""Step by step it is the evaluator with one lane: the same games, actions and scores."""

import itertools

import numpy as np
import pytest

from rlarcade.errors import ConfigError
from rlarcade.evaluation import evaluate_agent
from rlarcade.games import get_protocol, make_env
from rlarcade.playing import play_steps
from rlarcade.seeding import SeedUse

SHORT = get_protocol("v5").model_copy(
    update={"name": "mine", "frame_cap": 200, "evaluation_epsilon": 0.3}
)


class Agent:
    game, protocol = "space_invaders", SHORT

    def q_values(self, observation):
        frames = observation[:, [0, 3]].astype(np.int64).reshape(len(observation), -1)
        return (frames[:, : 6 * 2352].reshape(len(frames), 6, -1).sum(axis=2) % 97).astype(
            np.float32
        )


@pytest.fixture(scope="module")
def steps():
    return list(play_steps(Agent(), episodes=2, seed=3))


def test_episodes_are_those_of_the_evaluator(steps):
    expected = evaluate_agent(Agent(), episodes=2, seed=3, num_lanes=2).episodes
    assert tuple(step.episode for step in steps if step.episode) == expected
    assert [step.seed for step in steps if step.episode] == [e.seed for e in expected]


def test_steps_say_what_was_decided_on_what_and_what_came_of_it(steps):
    agent, score, number = Agent(), 0.0, 0
    for step in steps:
        np.testing.assert_array_equal(step.q_values, agent.q_values(step.observation[None])[0])
        assert step.explored or step.action == step.q_values.argmax()
        score += step.reward
        assert (step.score, step.number) == (score, number)
        assert (step.episode is not None) == (step.terminated or step.truncated)
        number += 1
        if step.episode:
            assert (step.episode.score, step.episode.steps) == (score, number)
            assert step.episode.ended == ("terminated" if step.terminated else "truncated")
            score, number = 0.0, 0
    assert 0.15 < np.mean([step.explored for step in steps]) < 0.45


def test_observations_stay_what_they_were(steps):
    for step, later in itertools.pairwise(steps):
        if step.episode is None:
            np.testing.assert_array_equal(step.next_observation, later.observation)
            np.testing.assert_array_equal(step.observation[1:], step.next_observation[:3])
    assert len({step.observation.tobytes() for step in steps}) > len(steps) / 4


def test_played_again_by_hand_its_actions_give_its_rewards(steps):
    env = make_env("space_invaders", protocol=SHORT)
    for step in steps:
        if step.number == 0:
            observation, _ = env.reset(seed=step.seed)
        np.testing.assert_array_equal(observation, step.observation)
        observation, reward, terminated, truncated, _ = env.step(step.action)
        assert (reward, terminated, truncated) == (step.reward, step.terminated, step.truncated)


def test_the_environment_given_shows_the_game_that_is_played(steps):
    env = make_env("space_invaders", protocol=SHORT, render_mode="rgb_array")
    pictures = []
    for step, known in zip(play_steps(Agent(), env, episodes=2, seed=3), steps, strict=True):
        assert (step.action, step.reward, step.seed) == (known.action, known.reward, known.seed)
        pictures.append(env.render().copy())
    assert pictures[0].shape == (210, 160, 3)
    assert len({picture.tobytes() for picture in pictures}) > len(pictures) / 4


def test_other_uses_and_seeds_are_other_games(steps):
    known = steps[0].seed
    for changed in ({"seed": 4}, {"seed": 3, "use": SeedUse.SELECTION}):
        assert next(play_steps(Agent(), **changed)).seed != known


def test_an_environment_of_another_game_or_protocol_is_refused():
    for env in (make_env("pong", protocol=SHORT), make_env("space_invaders")):
        with pytest.raises(ConfigError, match=r"Make it with make_env"):
            play_steps(Agent(), env)


def test_no_episodes_are_refused():
    with pytest.raises(ConfigError, match="episodes must be at least 1, got 0"):
        play_steps(Agent(), episodes=0)
