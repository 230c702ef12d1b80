"""What an agent is given to look at is refused in words; values that are no numbers never act."""

import numpy as np
import pytest
import torch

from rlarcade.config import TrainConfig
from rlarcade.errors import PolicyError
from rlarcade.learning.policy import DQNAgent

SHAPES = (
    r"observations are uint8 \(4, 84, 84\), or \(B, 4, 84, 84\) for B actions, newest frame last"
)
ONE = np.zeros((4, 84, 84), dtype=np.uint8)


@pytest.fixture(scope="module")
def agent():
    config = TrainConfig(game="pong", conv_channels=(4, 4, 4), hidden_units=8, device="cpu")
    return DQNAgent(config, num_actions=6)


def test_what_is_said_to_be_fine_is_fine(agent):
    action, state = agent.predict(ONE, state="mine")
    assert (action.shape, action.dtype, state) == ((), np.int64, "mine")
    assert agent.predict(np.stack([ONE] * 3))[0].shape == (3,)
    assert agent.predict(np.zeros((0, 4, 84, 84), dtype=np.uint8))[0].shape == (0,)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "None$"),
        (
            (ONE, {"lives": 3}),
            r"a tuple of 2\. An environment's reset returns \(observation, info\)",
        ),
        ((1, 2), "a tuple of 2$"),
        ((), "a tuple of 0$"),
        ([ONE, ONE], "a list of 2$"),
        ({"obs": ONE}, "a dict of 1$"),
        ("pong", "a str$"),
        (3, "a int$"),
        (ONE.astype(np.float32), r"float32 \(4, 84, 84\)$"),
        (ONE[0], r"uint8 \(84, 84\)$"),
        (np.zeros((84, 84, 4), dtype=np.uint8), r"uint8 \(84, 84, 4\)$"),
        (np.zeros((2, 84, 84, 4), dtype=np.uint8), r"uint8 \(2, 84, 84, 4\)$"),
        (np.zeros((1, 2, 4, 84, 84), dtype=np.uint8), r"uint8 \(1, 2, 4, 84, 84\)$"),
        (np.zeros((210, 160, 3), dtype=np.uint8), r"uint8 \(210, 160, 3\)$"),
        (torch.zeros((4, 84, 84), dtype=torch.uint8), "a Tensor, torch.uint8 .*not a NumPy array$"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_predict_says_what_it_was_given_and_what_is_fine(agent, given, shown):
    with pytest.raises(ValueError, match=f"^{SHAPES}; got {shown}") as caught:
        agent.predict(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [None, (ONE, {}), [ONE], ONE, ONE[None].astype(np.int64)])
def test_values_are_asked_for_a_batch_only(agent, given):
    with pytest.raises(ValueError, match=r"^observations are uint8 \(B, 4, 84, 84\)"):
        agent.q_values(given)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_told_and_never_become_an_action(agent, monkeypatch, bad):
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    values[1, 3] = bad
    monkeypatch.setattr(agent, "q_values", lambda observation: values[: len(observation)])
    rng = np.random.default_rng(0)
    assert agent.predict(ONE)[0] == 5
    for look in (
        lambda: agent.predict(np.stack([ONE, ONE])),
        lambda: agent.act(np.stack([ONE, ONE]), 0.0, rng),
    ):
        with pytest.raises(PolicyError, match=r"finite numbers: \[6\.0, 7\.0, 8\.0, -?(nan|inf)"):
            look()
    assert agent.act(np.stack([ONE, ONE]), 1.0, rng).shape == (2,), "nothing greedy, nothing valued"


def test_damaged_weights_choose_nothing():
    config = TrainConfig(game="pong", conv_channels=(4, 4, 4), hidden_units=8, device="cpu")
    damaged = DQNAgent(config, num_actions=6)
    with torch.no_grad():
        next(iter(damaged.q_network.parameters())).fill_(float("nan"))
    with pytest.raises(PolicyError, match=r"\[nan, nan, nan, nan, nan, nan\] for observation 0"):
        damaged.predict(ONE)
