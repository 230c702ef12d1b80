"""saliency: the slope of an action's value by each pixel, checked against differences."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlarcade import ConfigError, DQNAgent, TrainConfig, saliency

LATE = Path(__file__).parents[1] / "data" / "space-invaders-late"


@pytest.fixture(scope="module")
def agent():
    return DQNAgent.load(LATE)


@pytest.fixture(scope="module")
def observations():
    return np.random.default_rng(1).integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)


def values(agent, pixels):
    with torch.no_grad():
        return agent.q_network(torch.from_numpy(pixels)).numpy()


def test_the_slope_is_what_small_changes_of_a_pixel_do_to_the_value(agent, observations):
    found = saliency(agent, observations, 2)
    places = np.argsort(found[0].ravel())[-5:]  # where the value changes most
    for place in places:
        pixel = np.unravel_index(place, found[0].shape)
        pixels = np.repeat(observations[:1].astype(np.float32), 2, axis=0)
        pixels[(0, *pixel)] -= 0.5
        pixels[(1, *pixel)] += 0.5
        low, high = values(agent, pixels)[:, 2]
        assert abs(high - low) == pytest.approx(found[(0, *pixel)], rel=0.05)


def test_by_default_the_best_action_of_each_observation_counts(agent, observations):
    best = agent.q_values(observations).argmax(axis=1)
    expected = [saliency(agent, observations[i : i + 1], int(best[i]))[0] for i in range(3)]
    np.testing.assert_allclose(saliency(agent, observations), expected, rtol=1e-3, atol=1e-9)
    assert saliency(agent, observations).dtype == np.float32
    assert (saliency(agent, observations) >= 0).all()


def test_many_observations_are_taken_in_passes(agent, observations):
    many = np.repeat(observations, 12, axis=0)
    np.testing.assert_allclose(
        saliency(agent, many)[::12], saliency(agent, observations), rtol=1e-3, atol=1e-9
    )


@pytest.mark.parametrize("torso", ["nature", "impala"])
@pytest.mark.parametrize("head", ["expected", "categorical", "gauss", "quantile", "implicit"])
def test_every_network_has_slopes(torso, head, observations):
    settings = {"conv_channels": (4, 4, 4), "hidden_units": 16, "torso": torso, "head": head}
    fresh = DQNAgent(TrainConfig(game="Pong", **settings), num_actions=6, seed=1)
    found = saliency(fresh, observations)
    assert np.isfinite(found).all()
    assert found.max() > 0


def test_looking_changes_nothing_of_the_agent(agent, observations):
    version, before = agent.version, agent.q_values(observations)
    saliency(agent, observations)
    assert agent.version == version
    assert np.array_equal(agent.q_values(observations), before)
    assert all(one.grad is None for one in agent.q_network.parameters())


def test_one_observation_needs_no_batch(agent, observations):
    one = saliency(agent, observations[1])
    assert one.shape == (4, 84, 84)
    np.testing.assert_allclose(one, saliency(agent, observations)[1], rtol=1e-3, atol=1e-9)


def test_what_is_no_observation_or_action_is_refused(agent, observations):
    for wrong in (observations[0, 0], observations.astype(np.float32), observations[0, :3], None):
        with pytest.raises(ValueError, match=r"observations are uint8 \(B, 4, 84, 84\)"):
            saliency(agent, wrong)
    for action in (-1, 6):
        with pytest.raises(ConfigError, match=f"action must be 0 to 5, not {action}"):
            saliency(agent, observations, action)
