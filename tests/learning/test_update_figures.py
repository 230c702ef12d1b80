"""The figures of many updates: means of all of them, and exact over a resume."""

import math

import numpy as np
import pytest
import torch
from toy_games import CatchLanes

from rlarcade.config import TrainConfig
from rlarcade.learning import update_figures
from rlarcade.learning.learner import Update
from rlarcade.learning.state import TrainingState
from rlarcade.learning.training import train_agent
from rlarcade.learning.update_figures import UpdateFigures

LOSSES = [0.1, 0.2, 1e7, 3e-7, 0.7]
MEANS = [1.5, -2.0, 0.0, 8.0, 0.3]


class NoGradient:
    def gradient_norm(self):
        return None


def update(loss, mean_q):
    return Update(torch.tensor(loss), torch.tensor(mean_q), torch.zeros(2))


def collected(pairs, figures=None):
    figures = figures or UpdateFigures(NoGradient())
    for pair in pairs:
        figures.add(update(*pair))
    return figures


def test_the_figures_are_means_over_all_updates_since_the_last_look():
    figures = collected([*zip(LOSSES, MEANS, strict=True)])
    taken = figures.take()
    assert taken["loss"] == pytest.approx(math.fsum(LOSSES) / 5, rel=1e-6)
    assert taken["q_mean"] == pytest.approx(7.8 / 5, rel=1e-6)
    assert figures.take() == {}
    assert collected([(2.0, 4.0)], figures).take() == {"loss": 2.0, "q_mean": 4.0}


@pytest.mark.parametrize("saved_after", range(6))
def test_a_save_between_two_looks_changes_no_bit_of_the_mean(saved_after):
    pairs = [*zip(LOSSES, MEANS, strict=True)]
    first = collected(pairs[:saved_after])
    second = UpdateFigures(NoGradient())
    second.restore({name: array.copy() for name, array in first.state().items()})
    whole = collected(pairs).take()
    assert collected(pairs[saved_after:], second).take() == whole
    assert collected(pairs[saved_after:], first).take() == whole  # saving itself changes nothing


def test_who_never_looks_keeps_few_tensors(monkeypatch):
    monkeypatch.setattr(update_figures, "_MOST_WAITING", 3)
    figures = UpdateFigures(NoGradient())
    for number in range(100):
        figures.add(update(float(number), 0.0))
        assert len(figures._waiting) < 3
    assert figures.take()["loss"] == 49.5


@pytest.mark.parametrize(
    "altered",
    [
        {"sums": np.zeros(3), "count": np.array(1)},
        {"sums": np.zeros(2), "count": np.array(-1)},
        {"sums": np.zeros(2), "count": np.zeros(2)},
        {"count": np.array(1)},
    ],
)
def test_altered_sums_are_refused(altered):
    with pytest.raises((ValueError, TypeError, KeyError)):
        UpdateFigures(NoGradient()).restore(altered)


def test_states_of_former_versions_have_no_sums():
    figures = UpdateFigures(NoGradient())
    figures.restore({})
    assert figures.take() == {}


def config(**changes):
    values = {
        "total_timesteps": 64,
        "num_envs": 2,
        "batch_size": 8,
        "learning_starts": 16,
        "train_freq": 4,
        "conv_channels": (4, 4, 4),
        "hidden_units": 8,
        "buffer_size": 100,
        "torch_threads": 1,
        "device": "cpu",
    }
    return TrainConfig(game="Pong", **values | changes)


def norm_by_hand(gradients):
    return math.sqrt(sum(float((one.double() ** 2).sum()) for one in gradients))


@pytest.mark.parametrize("limit", [None, 1e-3, 1e6])
def test_the_norm_is_that_of_the_gradient_before_clipping(limit):
    state = TrainingState.create(config(max_grad_norm=limit), lanes=CatchLanes(2))
    learner, norms = state.learner, []

    def recorded(optimizer, *_):
        norms.append(norm_by_hand([p.grad for p in learner.online.parameters()]))

    learner.optimizer.register_step_pre_hook(recorded)
    for progress in train_agent(state):
        taken = progress.figures.take()
        if not taken:
            continue
        if limit == 1e-3:  # what the optimizer sees is clipped, what is shown is not
            assert norms[-1] == pytest.approx(limit, rel=1e-3)
            assert taken["grad_norm"] > 2 * limit
        else:
            assert taken["grad_norm"] == pytest.approx(norms[-1], rel=1e-5)
    assert norms


@pytest.mark.parametrize("memory", ["replay", "none"])
def test_every_update_of_the_loop_is_among_the_figures(memory):
    changes = (
        {"gradient_steps": 3}
        if memory == "replay"
        else {
            "memory": "none",
            "rollout_steps": 4,
            "num_epochs": 2,
            "batch_size": 4,
        }
    )
    state = TrainingState.create(config(**changes), lanes=CatchLanes(2))
    losses = []
    real = state.figures.add

    def add(update):
        losses.append(update.loss.item())
        real(update)

    state.figures.add = add
    for progress in train_agent(state):
        taken = progress.figures.take()
        if losses:
            assert taken["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
        losses.clear()
    assert state.updates > 4
