"""Functions and modules of a researcher's own take the place of what the settings would choose."""

import pytest
import torch
from torch import nn
from toy_games import CatchLanes, weights_digest

from rlarcade import ConfigError, TrainConfig, TrainingState, train_agent
from rlarcade.learning import schedules
from rlarcade.learning.custom import Custom
from rlarcade.learning.losses import huber_loss, squared_loss

SIZES = {
    "game": "pong",  # only a name here: the lanes play catch
    "total_timesteps": 1_200,
    "num_envs": 8,
    "learning_starts": 200,
    "buffer_size": 1_200,
    "batch_size": 32,
    "train_freq": 16,
    "target_update_interval": 400,
    "conv_channels": (4, 4, 4),
    "hidden_units": 16,
    "torch_threads": 1,
    "device": "cpu",
    "learning_rate": 1e-3,
}


def config(**changes):
    return TrainConfig(**SIZES | changes)


def trained(settings, **custom):
    state = TrainingState.create(settings, lanes=CatchLanes(settings.num_envs), **custom)
    progress = list(train_agent(state))
    return state, progress


@pytest.fixture(scope="module")
def plain():
    return weights_digest(trained(config())[0])


def fourth_power(predicted, target):
    return (predicted - target) ** 4


def linear_epsilon(steps):
    return max(0.05, 1 - steps / 500)


def rate_in_steps(steps):
    return 1e-3 if steps < 600 else 1e-4


class Pooled(nn.Module):
    """A torso: one average pool."""

    def __init__(self, size=12):
        super().__init__()
        self.pool = nn.AvgPool2d(size)

    def forward(self, frames):
        return self.pool(frames.float() / 255).flatten(1)


def test_a_schedule_or_loss_that_says_what_the_settings_say_learns_the_same_bits(plain):
    settings = TrainingState.create(config(), lanes=CatchLanes(8)).config
    state, _ = trained(
        config(),
        loss=huber_loss,
        exploration=lambda steps: schedules.epsilon(settings, steps),
        learning_rate=lambda steps: schedules.learning_rate(settings, steps),
    )
    assert weights_digest(state) == plain


def test_a_loss_of_ones_own_is_what_the_gradient_descends(plain):
    squared = weights_digest(trained(config(), loss=squared_loss)[0])
    assert squared == weights_digest(trained(config(loss="mse"))[0])
    assert squared != plain
    steep = weights_digest(trained(config(), loss=fourth_power)[0])
    assert steep not in (plain, squared)


def test_exploration_follows_its_function_at_each_step():
    state, progress = trained(config(), exploration=linear_epsilon)
    assert [one.epsilon for one in progress] == [linear_epsilon(one.steps - 8) for one in progress]
    assert state.epsilon == linear_epsilon(1_200)


def test_the_step_size_follows_its_function_and_is_told(plain):
    state, progress = trained(config(), learning_rate=rate_in_steps)
    assert [one.learning_rate for one in progress] == [rate_in_steps(one.steps) for one in progress]
    assert weights_digest(state) != plain
    assert state.learner.optimizer.param_groups[0]["lr"] == 1e-4


def test_with_a_step_size_of_nothing_nothing_is_learned():
    state, _ = trained(config(), learning_rate=lambda steps: 0)
    fresh = TrainingState.create(config(), lanes=CatchLanes(8))
    assert weights_digest(state) == weights_digest(fresh)


def test_replay_free_learning_takes_them_too():
    settings = config(memory="none", rollout_steps=16, total_timesteps=1_024)
    state, progress = trained(
        settings, loss=fourth_power, exploration=linear_epsilon, learning_rate=rate_in_steps
    )
    assert progress[-1].learning_rate == 1e-4
    assert progress[-1].epsilon == linear_epsilon(1_016)
    assert state.updates > 0


def wrong_shape(predicted, target):
    return (predicted - target).mean()


def no_tensor(predicted, target):
    return 3.0


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ({"loss": wrong_shape}, r"loss of each, float32 \(B,\); for two of them it returned \(\)"),
        ({"loss": no_tensor}, "for two of them it returned 3.0"),
        ({"loss": 3}, "loss must be a function, not 3"),
        ({"exploration": "linear"}, "exploration must be a function, not 'linear'"),
        ({"exploration": lambda steps: 1.2}, "exploration must return 0 to 1; at step 0 it gave 1"),
        ({"exploration": lambda steps: None}, "must return 0 to 1; at step 0 it gave None"),
        ({"learning_rate": lambda steps: -1e-3}, "learning_rate must return a number, 0 or more"),
        ({"learning_rate": lambda steps: float("nan")}, "at step 0 it gave nan"),
        ({"torso": 3}, "torso cannot be 3"),
    ],
)
def test_what_cannot_take_its_place_is_refused_before_the_run(custom, message):
    with pytest.raises(ConfigError, match=message):
        TrainingState.create(config(), lanes=CatchLanes(8), **custom)


def test_a_loss_goes_with_the_expected_head_only():
    with pytest.raises(ConfigError, match="goes with head expected, not with quantile"):
        TrainingState.create(config(head="quantile"), lanes=CatchLanes(8), loss=fourth_power)


def test_a_value_out_of_range_later_stops_the_run_with_its_step():
    with pytest.raises(ConfigError, match="at step 400 it gave 2"):
        trained(config(), exploration=lambda steps: 2 if steps == 400 else 0.1)


def test_a_part_is_known_by_its_name_and_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "def mine(predicted, target):\n    return (predicted - target) ** {power}\n"
    found = []
    for power in (2, 4, 2):
        module = f"own_loss_{len(found)}"
        (tmp_path / f"{module}.py").write_text(source.format(power=power))
        identity = Custom(loss=__import__(module).mine).identities()["loss"]
        assert identity.startswith(f"{module}.mine sha256:")
        found.append(identity.split(":")[1])
    assert found[0] == found[2] != found[1]


def test_a_part_without_a_source_cannot_be_known_again():
    with pytest.raises(ConfigError, match="source of loss, <built-in function max>, cannot"):
        Custom(loss=max).identities()


def test_a_torso_is_known_by_its_class_and_its_structure():
    names = [
        Custom(torso=torso).identities()["torso"] for torso in (Pooled(), Pooled(), Pooled(21))
    ]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith(f"{Pooled.__module__}.Pooled sha256:")
    assert Custom().identities() == {}


def test_a_torso_of_ones_own_learns_with_a_loss_of_ones_own():
    state, _ = trained(config(), torso=Pooled(), loss=fourth_power)
    assert state.updates > 0
    assert torch.isfinite(state.newest.loss)


class Thinned(nn.Module):
    """A torso that leaves out some of its features while it learns."""

    def __init__(self, share=0.3, *, as_layer=True):
        super().__init__()
        self.pool, self.layer = nn.AvgPool2d(12), nn.Linear(4 * 49, 16)
        self.dropout, self.share = nn.Dropout(share) if as_layer else None, share

    def forward(self, frames):
        features = self.layer(self.pool(frames.float() / 255).flatten(1)).relu()
        if self.dropout is None:
            return nn.functional.dropout(features, self.share, self.training)
        return self.dropout(features)


def thinned(*, disturbed=0, share=0.3, as_layer=True, **settings):
    """Digest of a run with such a torso, while others draw from torch's generator."""
    torch.manual_seed(3)
    torso = Thinned(share, as_layer=as_layer)
    torch.manual_seed(disturbed)
    before = torch.get_rng_state()
    state, _ = trained(config(**settings), torso=torso)
    assert torch.equal(torch.get_rng_state(), before), "the user's own draws are left alone"
    assert state.updates > 0
    return weights_digest(state)


@pytest.mark.parametrize("as_layer", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"memory": "none", "rollout_steps": 16, "total_timesteps": 1_024}], ids=str
)
def test_dropout_in_a_torso_of_ones_own_follows_the_seed_of_the_run(settings, as_layer):
    digest = thinned(as_layer=as_layer, **settings)
    assert thinned(disturbed=7, as_layer=as_layer, **settings) == digest
    assert thinned(share=0.0, as_layer=as_layer, **settings) != digest, "it leaves something out"


def test_each_update_leaves_out_other_features():
    state, _ = trained(config(total_timesteps=208), torso=Thinned())
    learner, seen = state.learner, []
    learner.online.torso.module.dropout.register_forward_hook(
        lambda _, given, found: seen.append((found == 0) & (given[0] != 0))
    )
    for _ in range(3):
        frames = torch.full((32, 4, 84, 84), 200, dtype=torch.uint8)
        learner.fit(frames, torch.zeros(32, dtype=torch.int64), torch.ones(32))
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert all(mask.any() for mask in seen)
