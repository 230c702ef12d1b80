"""rlarcade.learning.training: every composition learns; what it learns from is right."""

import dataclasses
import itertools
import os
import re
import subprocess
import sys
import threading
from collections import deque
from statistics import mean
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from devices import DEVICES
from tiers import quick
from torch import nn
from toy_games import CatchLanes, weights_digest

from rlarcade import machine
from rlarcade.checkpoint import load_checkpoint
from rlarcade.config import TrainConfig, load_preset, preset_names
from rlarcade.errors import CheckpointError, ConfigError, DivergenceError, ResourceError
from rlarcade.games import LaneStep
from rlarcade.learning import hardware
from rlarcade.learning.learner import Learner
from rlarcade.learning.memory import learning_bytes
from rlarcade.learning.networks import weights_bytes
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.replay import Batch
from rlarcade.learning.schedules import following_length, updates_due
from rlarcade.learning.state import TrainingState, is_torso, resolved
from rlarcade.learning.training import train_agent
from rlarcade.runs import pace

SIZES = {
    "game": "pong",  # only a name here: the lanes play catch
    "total_timesteps": 6_000,
    "num_envs": 8,
    "learning_starts": 500,
    "train_freq": 2,
    "batch_size": 32,
    "target_update_interval": 200,
    "conv_channels": (8, 8, 8),
    "hidden_units": 32,
    "learning_rate": 1e-3,
    "exploration_steps": 2_500,
    "buffer_size": 6_000,
    "device": "cpu",
    "precision": "fp32",
    "torch_threads": 1,
}
EASY = {
    "total_timesteps": 6_000,
    "learning_starts": 300,
    "train_freq": 4,
    "batch_size": 16,
    "hidden_units": 64,
    "learning_rate": 2e-3,
    "exploration_steps": 2_500,
}
WIDE = EASY | {"batch_size": 32, "exploration_steps": 1_500}
ROLLOUTS = {
    "num_envs": 16,
    "rollout_steps": 8,
    "batch_size": 32,
    "total_timesteps": 8_000,
    "hidden_units": 64,
    "learning_rate": 2e-3,
    "exploration_steps": 4_000,
}
# What makes each preset's composition learn catch in seconds: sizes and pace, never its parts.
COMPOSITIONS = {
    "dqn": WIDE,
    "double-dqn": WIDE,
    "quick": EASY,
    "qrdqn": EASY | {"num_quantiles": 20},
    "laptop": EASY
    | {
        "num_quantiles": 20,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "total_timesteps": 20_000,
        "exploration_steps": 8_000,
        "n_steps_duration": 10_000,
    },
    "iqn": EASY,
    # as in the preset: the noise explores
    "rainbow": EASY | {"total_timesteps": 3_000, "exploration_steps": 0},
    "munchausen-iqn": WIDE | {"total_timesteps": 9_500},
    "btr": WIDE,
    "fast": WIDE | {"total_timesteps": 2_500},
    "impala-iqn": EASY | {"gradient_steps": 1},
    "pqn": ROLLOUTS,
    "impala-pqn": ROLLOUTS,
}
QUICKEST = ("pqn",)
COSTLY = ("laptop", "double-dqn", "munchausen-iqn", "btr", "fast", "impala-iqn")


class EasyCatch(CatchLanes):
    """Catch whose ball has three rows to fall: just enough to reach every column."""

    def _open(self, lanes):
        super()._open(lanes)
        self._ball[lanes, 0] = 3
        self.observation[lanes] = 0
        self._draw(lanes)


class Pixels(torch.nn.Module):
    """Catch's 7 × 7 cells, one pixel of each: a torso that leaves the work to the head."""

    def forward(self, frames):
        return frames[:, :, 8::12, 6::12].flatten(1).float() / 255


def catch_config(**changes):
    return TrainConfig(**SIZES | changes)


def composition(name, **changes):
    """A preset's parts in the sizes of a toy."""
    _, values = load_preset(name)
    parts = {key: value for key, value in values.items() if key in TrainConfig.setting_names}
    return TrainConfig(**parts | SIZES | COMPOSITIONS[name] | changes)


def compositions(*default):
    return quick(COMPOSITIONS, default or QUICKEST, COSTLY)


def caught(config, torso=None):
    """Trains; returns the state and the mean score at the end."""
    lanes = EasyCatch(config.num_envs, seed=1)
    state = TrainingState.create(config, lanes=lanes, torso=torso)
    scores = []
    for progress in train_agent(state):
        scores += [(progress.steps, episode.score) for episode in progress.episodes]
    late = [score for steps, score in scores if steps > config.total_timesteps * 0.85]
    return state, sum(late) / len(late)


def test_every_preset_is_among_the_compositions():
    assert sorted(COMPOSITIONS) == sorted(preset_names())


@pytest.mark.parametrize("name", compositions())
def test_the_agent_learns_a_tiny_pixel_game(name):
    # The same seed needs up to three times the steps with another machine's arithmetic.
    steps = 3 * composition(name).total_timesteps
    config = composition(name, total_timesteps=steps)
    # of DQN the convolutions as well; theirs alone take a second for a hundred updates
    torso = None if name == "dqn" else Pixels()
    state = TrainingState.create(config, lanes=EasyCatch(config.num_envs, seed=1), torso=torso)
    scores = deque(maxlen=100)
    for progress in train_agent(state):
        scores.extend(episode.score for episode in progress.episodes)
        if len(scores) == scores.maxlen and mean(scores) > 0.8:
            return
    pytest.fail(f"after {steps:,} steps a game scores {mean(scores):.2f} of 1.0")


@pytest.mark.parametrize("name", compositions("dqn", "rainbow", "pqn"))
def test_nothing_is_learned_with_learning_rate_zero(name):
    short = {"total_timesteps": 640, "exploration_steps": 0, "train_freq": 32, "batch_size": 16}
    short |= {"learning_rate": 0.0, "learning_rate_final": None}
    config = composition(name, **short, impala_width=1)
    before = TrainingState.create(config, lanes=EasyCatch(config.num_envs)).agent.weights()
    state, score = caught(config)
    assert state.updates >= 10
    assert score < 0.2
    for weight, array in state.agent.weights().items():
        if not weight.endswith(("._u", "._v")):  # spectral norm's estimates are not learned
            np.testing.assert_array_equal(array, before[weight], err_msg=weight)


@pytest.mark.parametrize("name", quick(["quick", "pqn"], QUICKEST))
def test_once_the_learning_rate_has_fallen_to_zero_nothing_is_learned(name):
    config = composition(
        name,
        total_timesteps=2_048,
        exploration_steps=0,
        learning_rate=1e-2,
        learning_rate_final=0.0,
        learning_rate_steps=1_024,
    )
    state = TrainingState.create(config, lanes=EasyCatch(config.num_envs))
    digests = {}
    for progress in train_agent(state):
        if progress.steps in (512, 1_024 + config.rollout_size, 2_048):
            digests[progress.steps] = weights_digest(state)
    assert digests[512] != digests[1_024 + config.rollout_size] == digests[2_048]
    assert state.updates > updates_due(config, 1_024 + config.rollout_size)


def test_returns_have_the_length_that_is_due_at_each_step():
    config = composition("qrdqn", total_timesteps=1_500, n_steps=6, n_steps_final=2)
    config = config.model_copy(update={"n_steps_duration": 1_000, "train_freq": 8})
    state = TrainingState.create(config, lanes=CatchLanes(config.num_envs))
    sample, drawn = state.replay.sample, {}

    def noted_sample(*args, **kwargs):
        drawn.setdefault(kwargs["n_steps"], state.steps)
        return sample(*args, **kwargs)

    state.replay.sample = noted_sample
    assert list(train_agent(state))
    # learning starts at 300; 6 × 3^(-steps/1,000) rounds to 4, from 491 on to 3, from 797 on to 2
    assert list(drawn) == [4, 3, 2]
    assert 491 <= drawn[3] < 491 + 2 * config.num_envs
    assert 797 <= drawn[2] < 797 + 2 * config.num_envs


OTHERWISE = {
    "learning_rate_steps": 17,
    "impala_width": 3,
    "spectral_norm": True,
    "pool_size": 2,
    "num_atoms": 7,
    "value_min": -2.0,
    "value_max": 3.0,
    "num_quantiles": 3,
    "num_taus": 3,
    "noisy_sigma": 2.0,
    "loss": "mse",
    "learning_starts": 77,
    "train_freq": 3,
    "gradient_steps": 5,
    "buffer_size": 500,
    "target_update_interval": 33,
    "target_tau": 0.3,
    "n_steps": 4,
    "n_steps_final": 1,
    "n_steps_duration": 19,
    "rollout_steps": 5,
    "num_epochs": 5,
    "q_lambda": 0.1,
    "priority_exponent": 0.9,
    "importance_exponent": 0.1,
    "importance_final_exponent": 0.2,
    "importance_steps": 10,
    "munchausen_alpha": 0.1,
    "munchausen_tau": 1.0,
    "munchausen_clip": -5.0,
    "munchausen_policy": "online",
}


@pytest.mark.parametrize(
    "name", quick(["dqn", "qrdqn", "rainbow", "munchausen-iqn", "pqn"], ("rainbow", "pqn"))
)
def test_settings_called_unused_change_nothing(name):
    config = composition(name, total_timesteps=1024, train_freq=16, exploration_steps=100)
    unused = {key: OTHERWISE[key] for key in config.unused()}
    assert len(unused) >= 8
    changed = TrainConfig(**config.model_dump() | unused)
    one, other = (caught(either, Pixels())[0] for either in (config, changed))
    assert one.updates == other.updates > 10
    assert weights_digest(one) == weights_digest(other)


@pytest.mark.parametrize("device", DEVICES)
def test_training_runs_on_the_device_and_changes_the_weights(tiny_config, device):
    config = tiny_config.model_copy(update={"device": device, "total_timesteps": 300})
    state = TrainingState.create(config)
    before = weights_digest(state)
    progress = list(train_agent(state))[-1]
    assert progress.updates == updates_due(config, 300) > 0
    assert state.learner.online.head.values.weight.device.type == device
    assert weights_digest(state) != before


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_on_a_gpu_the_update_agrees_with_the_cpu(tiny_config, compiled):
    losses = {}
    for device in ("cpu", "cuda"):
        config = tiny_config.model_copy(
            update={
                "device": device,
                "total_timesteps": 216,
                "compile": compiled if device == "cuda" else "off",
            }
        )
        state = TrainingState.create(config)
        losses[device] = next(p.update.loss.item() for p in train_agent(state) if p.update)
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dqn", "btr", "fast", "pqn"])
def test_on_a_gpu_compiled_training_starts_alike_and_goes_on_with_new_batches(name):
    losses = {}
    for compiled in ("off", "on"):
        config = composition(name, device="cuda", compile=compiled, total_timesteps=2_048)
        state = TrainingState.create(config, lanes=EasyCatch(config.num_envs, seed=1))
        updates = {p.updates: p.update for p in train_agent(state) if p.update}
        losses[compiled] = [update.loss.item() for update in updates.values()]
    # bf16 numbers are 0.4 to 0.8% apart
    assert losses["on"][0] == pytest.approx(losses["off"][0], rel=1e-2)
    assert len(losses["on"]) == len(losses["off"]) > 10
    assert len(set(losses["on"])) > 0.9 * len(losses["on"])  # a graph that is fed its first batch


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["dqn", "rainbow", "fast"])
def test_on_a_gpu_captured_updates_move_the_weights_as_others_do(name):
    config = composition(name, device="cuda", precision="fp32", learning_starts=2_000)
    weights, losses = {}, {}
    for compiled in ("off", "on"):
        changed = config.model_copy(update={"compile": compiled, "total_timesteps": 800})
        state = TrainingState.create(changed, lanes=EasyCatch(config.num_envs, seed=1))
        list(train_agent(state))  # play, and nothing learned yet
        before = state.learner.state()
        for seed in range(12):  # the first three as they are, then captured and replayed
            state.learner.set_learning_rate(1e-4 * (1 + seed % 3))
            update = state.learner.update(state.replay.sample(32, np.random.default_rng(seed)))
            losses.setdefault(compiled, update.loss.item())
        weights[compiled] = state.learner.state()
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-3)
    for key, start in before.items():
        apart = np.linalg.norm(weights["on"][key] - weights["off"][key])
        assert apart <= 0.05 * np.linalg.norm(weights["off"][key] - start) + 1e-7, key


@pytest.mark.parametrize("name", quick(COMPOSITIONS, (), COSTLY))
def test_compiled_training_learns_what_it_learns_without(name, monkeypatch):
    # the CPU twin of what runs on a GPU: our code as the compiler takes it apart, whole graphs
    # without a break, but no generated kernels, which would take half a minute each
    from torch._dynamo.testing import CompileCounterWithBackend  # slow to import

    torch.compiler.reset()  # only so many versions of a function are kept, whosever they are
    compile_, graphs = torch.compile, CompileCounterWithBackend("aot_eager")

    def taken_apart(function, *, mode, dynamic):
        assert (mode, dynamic) == ("default", False)
        return compile_(function, backend=graphs, fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", taken_apart)
    settings = {"total_timesteps": 500, "learning_starts": 300, "train_freq": 16}
    settings |= {"impala_width": 1, "batch_size": 16}
    plain, _ = caught(composition(name, **settings, compile="off"))
    assert graphs.frame_count == 0
    taken, _ = caught(composition(name, **settings, compile="on"))
    assert graphs.frame_count == 2  # acting and learning, compiled once each
    assert taken.updates == plain.updates > 10
    for part, weights in plain.agent.weights().items():
        np.testing.assert_allclose(taken.agent.weights()[part], weights, atol=1e-5, err_msg=part)


def test_what_an_update_says_stays_when_the_next_one_takes_its_memory():
    # as that of a CUDA graph does
    config = catch_config(total_timesteps=600)
    state = TrainingState.create(config, lanes=CatchLanes(8))
    computed, memory = state.learner._loss, []

    def graph(*inputs):
        errors, mean_q, loss = computed(*inputs)
        if not memory:
            memory.extend((errors, mean_q, loss.detach()))
        for kept, new in zip(memory, (errors, mean_q, loss.detach()), strict=True):
            kept.copy_(new)
        return memory[0], memory[1], loss

    state.learner._loss = graph
    first, *_, last = (p.update for p in train_agent(state) if p.update)
    assert (first.error != last.error).all()
    assert first.mean_q != last.mean_q
    assert first.loss != last.loss


def test_an_agent_that_was_trained_compiled_learns_on_elsewhere_without_a_compiler(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(torch, "compile", lambda function, **_: f"compiled {function.__name__}")
    config = catch_config(compile="on")
    trained = Learner(DQNAgent(config, num_actions=6), config)
    assert trained._loss == "compiled _compute_loss"
    trained.agent.save(tmp_path / "agent")
    loaded = DQNAgent.load(tmp_path / "agent")
    assert loaded.trained_with["compile"] == "on"
    elsewhere = Learner(loaded, catch_config(compile="off"))
    assert elsewhere._loss == elsewhere._compute_loss


@pytest.mark.usefixtures("real_games")
@pytest.mark.slow
def test_two_processes_with_one_seed_learn_the_same_weights(tiny_config):
    tiny_config = tiny_config.model_copy(update={"total_timesteps": 600})
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/learning']\n"
        "from test_training import *\n"
        f"config = TrainConfig.model_validate_json({tiny_config.model_dump_json()!r})\n"
        "state = TrainingState.create(config)\n"
        "list(train_agent(state)); print(weights_digest(state))"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    state = TrainingState.create(tiny_config)
    list(train_agent(state))
    assert other.stdout.strip() == weights_digest(state)


def test_another_seed_learns_other_weights(tiny_config):
    digests = set()
    for seed in (1, 2):
        state = TrainingState.create(
            tiny_config.model_copy(update={"seed": seed, "total_timesteps": 400})
        )
        list(train_agent(state))
        digests.add(weights_digest(state))
    assert len(digests) == 2


@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_updates_are_paced_by_agent_steps_whatever_the_number_of_lanes(num_envs):
    config = catch_config(num_envs=num_envs, total_timesteps=504, learning_starts=300, batch_size=4)
    state = TrainingState.create(config, lanes=CatchLanes(num_envs))
    steps = 0
    for progress in train_agent(state):
        steps += num_envs
        assert progress.steps == steps
        assert progress.updates == updates_due(config, steps)
    assert steps == 504
    assert progress.updates == (504 - 300) // 2


def test_a_budget_is_rounded_up_to_whole_steps_of_all_lanes():
    config = catch_config(total_timesteps=101, learning_starts=1000)
    state = TrainingState.create(config, lanes=CatchLanes(8))
    assert [p.steps for p in train_agent(state)][-1] == 104


@pytest.mark.parametrize(
    "name", quick(["dqn", "rainbow", "munchausen-iqn", "pqn"], ("rainbow", "pqn"))
)
def test_the_loop_can_be_driven_stopped_and_gone_on_with(name):
    config = composition(name, total_timesteps=768, train_freq=16)
    whole = TrainingState.create(config, lanes=CatchLanes(config.num_envs))
    list(train_agent(whole))
    parts = TrainingState.create(config, lanes=CatchLanes(config.num_envs))
    for progress in train_agent(parts):
        if progress.steps >= 384:
            break
    list(train_agent(parts))
    assert weights_digest(whole) == weights_digest(parts)


def test_the_target_network_follows_at_its_interval_only():
    config = catch_config(
        total_timesteps=640,
        target_update_interval=600,
        learning_starts=200,
        train_freq=8,
        batch_size=4,
    )
    state = TrainingState.create(config, lanes=CatchLanes(8))
    first = state.learner.target.head.values.weight.clone()
    for progress in train_agent(state):
        frozen = state.learner.target.head.values.weight
        if progress.steps < 600:
            assert torch.equal(frozen, first)
        if progress.steps == 600:
            assert torch.equal(frozen, state.learner.online.head.values.weight)
            assert not torch.equal(frozen, first)


def test_wall_time_is_attributed_to_parts():
    config = catch_config(total_timesteps=560)
    state = TrainingState.create(config, lanes=CatchLanes(8))
    *_, progress = train_agent(state)
    assert set(progress.seconds) == {"env", "act", "replay", "learn"}
    assert all(seconds > 0 for seconds in progress.seconds.values())


# Prioritised replay in the loop


def test_every_update_tells_replay_the_errors_of_the_transitions_it_drew():
    config = composition("rainbow", total_timesteps=700, learning_starts=300, train_freq=8)
    state = TrainingState.create(config, lanes=CatchLanes(8))
    drawn, told = [], []
    sample, update, tell = state.replay.sample, state.learner.update, state.replay.set_priorities

    def noted_sample(*args, **kwargs):
        drawn.append((state.steps, kwargs["importance_exponent"], sample(*args, **kwargs)))
        return drawn[-1][2]

    def noted_update(batch):
        assert batch.weight.max() == 1
        told.append([batch.cell.copy(), update(batch)])
        return told[-1][1]

    def noted_tell(cell, error):
        np.testing.assert_array_equal(cell, told[-1][0])
        np.testing.assert_array_equal(error, told[-1][1].error.numpy())
        told[-1].append("told")
        tell(cell, error)

    state.replay.sample, state.replay.set_priorities = noted_sample, noted_tell
    state.learner.update = noted_update
    list(train_agent(state))
    assert len(drawn) == state.updates == 50
    assert all(len(entry) == 3 for entry in told)
    for steps, beta, _ in drawn:  # 0.4 … 1 over the run
        assert beta == pytest.approx(0.4 + 0.6 * steps / 700)


class Overlapping:
    """A learner on the CPU that the loop takes for one on a GPU, where emulators work meanwhile."""

    def __init__(self, learner):
        self.__dict__["learner"] = learner

    def __getattr__(self, name):
        if name == "device":
            return SimpleNamespace(type="cuda")
        return getattr(self.learner, name)

    def __setattr__(self, name, value):
        setattr(self.learner, name, value)


@pytest.mark.parametrize("prioritized", [False, True])
def test_learning_while_the_games_step_is_the_same_and_stops_at_a_loss_that_is_no_number(
    prioritized, monkeypatch
):
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)
    config = catch_config(prioritized=prioritized, total_timesteps=680, batch_size=4)
    plain, ahead, broken = (
        TrainingState.create(config, lanes=CatchLanes(8), torso=Pixels()) for _ in range(3)
    )
    ahead.learner, broken.learner = Overlapping(ahead.learner), Overlapping(broken.learner)
    for state in (plain, ahead):
        list(train_agent(state))
    assert plain.updates > 50
    assert weights_digest(plain) == weights_digest(ahead)
    with torch.no_grad():
        broken.learner.online.head.values.weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="the loss became nan"):
        list(train_agent(broken))
    assert broken.updates <= 2  # one more where the GPU's loss is waited for later


# Rollouts


class TaggedLanes:
    """Frames that tell their lane and time in three pixels; episodes that end in every way."""

    num_actions = 3

    def __init__(self, num_envs, seed=0):
        self.num_envs, self._rng, self.time = num_envs, np.random.default_rng(seed), 0
        self._ended = np.zeros(num_envs, dtype=bool)
        self.age = np.zeros(num_envs, dtype=np.int64)
        self.observation = np.zeros((num_envs, 4, 84, 84), dtype=np.uint8)
        self.seen, self.steps, self.actions = [], [], []

    def start(self, progress=None):
        self._look(np.ones(self.num_envs, dtype=bool))

    def send(self, actions):
        self.actions.append(actions.copy())

    def recv(self):
        self.time += 1
        draw, reset = self._rng.random((3, self.num_envs)), self._ended
        terminated = ~reset & (draw[0] < 0.1)
        truncated = ~reset & ~terminated & (draw[1] < 0.1)
        self._look(reset)
        self.age = np.where(reset, 0, self.age + 1)
        self._ended = terminated | truncated
        reward = self._rng.choice([-3.0, 0.0, 0.0, 1.0, 4.0], self.num_envs).astype(np.float32)
        reward[reset] = 77.0  # belongs to nobody
        self.steps.append(
            LaneStep(
                observation=self.observation,
                reward=reward,
                terminated=terminated,
                truncated=truncated,
                life_lost=~reset & (draw[2] < 0.1),
                reset=reset,
            )
        )
        return self.steps[-1]

    def _look(self, fresh):
        frame = self._rng.integers(0, 256, (self.num_envs, 84, 84)).astype(np.uint8)
        frame[:, 0, 0] = 1 + np.arange(self.num_envs)
        frame[:, 0, 1], frame[:, 0, 2] = 1 + self.time % 200, 1 + self.time // 200
        self.observation = np.roll(self.observation, -1, axis=1)
        self.observation[fresh] = 0
        self.observation[:, -1] = frame
        self.seen.append(self.observation.copy())


def blocked(frames):
    """4×4 blocks of pixels side by side, pixel by pixel."""
    laid = np.empty((*frames.shape[:-2], 21, 21, 16), dtype=np.uint8)
    for row, column in itertools.product(range(4), range(4)):
        laid[..., 4 * row + column] = frames[..., row::4, column::4]
    return laid


class Rollouts:
    """A replay-free run on tagged lanes, and notes of all that it saw, valued and learned."""

    def __init__(self, **settings):
        sizes = {
            "num_envs": 5,
            "rollout_steps": 12,
            "batch_size": 20,
            "num_epochs": 3,
            "gamma": 0.9,
            "total_timesteps": 240,
            "exploration_steps": 100,
        }
        self.config = composition("pqn", **sizes | settings)
        self.lanes = TaggedLanes(self.config.num_envs)
        self.state = TrainingState.create(self.config, lanes=self.lanes)
        self.values, self.fits, self.progress = [], [], []
        learner = self.state.learner
        q_values, fit = learner.q_values, learner.fit

        def noted_values(observation):
            np.testing.assert_array_equal(observation, self.lanes.seen[-1])
            self.values.append((self.lanes.time, q_values(observation)))
            return self.values[-1][1]

        def noted_fit(observation, action, target):
            self.fits.append((observation.clone().numpy(), action.numpy(), target.clone().numpy()))
            return fit(observation, action, target)

        learner.q_values, learner.fit = noted_values, noted_fit
        self.progress = list(train_agent(self.state))

    @property
    def fits_each(self):
        config = self.config
        return config.num_epochs * (config.rollout_size // config.batch_size)

    def learned(self, rollout):
        """Yields (time, lane, observation, action, target) of every cell that was fitted."""
        first = rollout * self.fits_each
        yield from self.cells(self.fits[first : first + self.fits_each])

    @staticmethod
    def cells(fits):
        for observation, action, target in fits:
            newest = observation[:, -1, 0, 0, :3].astype(int) - 1
            for n, (lane, low, high) in enumerate(newest):
                yield low + 200 * high, lane, observation[n], action[n], target[n]

    def target(self, rollout, time, lane):
        """Q(λ) from the definition, step after step."""
        config, step = self.config, self.lanes.steps[time]
        reward = float(step.reward[lane])
        if config.reward_clip:
            reward = float((reward > 0) - (reward < 0))
        if step.terminated[lane] or (config.terminal_on_life_loss and step.life_lost[lane]):
            return reward
        length = config.rollout_steps
        then, values = self.values[rollout * (length + 1) + time - rollout * length + 1]
        assert then == time + 1
        ahead = float(values[lane].max())
        if not step.truncated[lane] and time + 1 < (rollout + 1) * length:
            later = self.target(rollout, time + 1, lane)
            ahead = config.q_lambda * later + (1 - config.q_lambda) * ahead
        return reward + config.gamma * ahead


@pytest.mark.parametrize(
    "settings",
    quick(
        [
            {},
            {"rollout_steps": 1, "batch_size": 5, "total_timesteps": 200},
            {"q_lambda": 1.0, "terminal_on_life_loss": False},
            {"q_lambda": 0.0, "reward_clip": False, "num_epochs": 1},
            {"noisy": True, "batch_size": 30, "rollout_steps": 40, "total_timesteps": 1000},
        ],
        [{}, {"rollout_steps": 1, "batch_size": 5, "total_timesteps": 200}],
    ),
    ids=str,
)
def test_rollouts_are_learned_with_the_targets_of_the_definition(settings):
    run = Rollouts(**settings)
    length, endings = run.config.rollout_steps, set()
    for rollout in range(len(run.progress)):
        for time, lane, observation, action, target in run.learned(rollout):
            assert rollout * length <= time < (rollout + 1) * length, "of this rollout"
            step = run.lanes.steps[time]
            assert not step.reset[lane], "a reset row is no transition"
            np.testing.assert_array_equal(observation, blocked(run.lanes.seen[time][lane]))
            assert action == run.lanes.actions[time][lane]
            assert target == pytest.approx(run.target(rollout, time, lane), rel=1e-4, abs=1e-5)
            endings.add((step.terminated[lane], step.truncated[lane], step.life_lost[lane]))
    assert len(endings) >= 4, "the lanes ended episodes in every way"


def test_every_epoch_goes_over_every_transition_of_the_rollout_in_batches_of_one_size():
    run = Rollouts()
    assert {len(action) for _, action, _ in run.fits} == {20}
    assert len(run.fits) == run.state.updates == updates_due(run.config, 240) == 4 * 9
    resets = 0
    for rollout in range(4):
        cells = [(time, lane) for time, lane, *_ in run.learned(rollout)]
        played = {
            (time, lane)
            for time in range(12 * rollout, 12 * rollout + 12)
            for lane in range(5)
            if not run.lanes.steps[time].reset[lane]
        }
        resets += 60 - len(played)
        orders = set()
        for epoch in range(3):
            some = cells[60 * epoch : 60 * epoch + 60]
            assert set(some) == played
            assert max(some.count(cell) for cell in played) <= 2
            orders.add(tuple(some))
        assert len(orders) == 3, "shuffled anew"
    assert resets > 5


def test_from_a_rollout_without_a_transition_nothing_is_learned():
    run = Rollouts(num_envs=1, rollout_steps=1, batch_size=1, num_epochs=1, total_timesteps=150)
    transitions = [time for time, step in enumerate(run.lanes.steps) if not step.reset[0]]
    assert len(transitions) < 145
    assert [time for time, *_ in run.cells(run.fits)] == transitions


def test_a_budget_is_rounded_up_to_whole_rollouts():
    run = Rollouts(total_timesteps=181)
    assert [progress.steps for progress in run.progress] == [60, 120, 180, 240]
    assert [progress.updates for progress in run.progress] == [9, 18, 27, 36]
    assert Rollouts(total_timesteps=180).state.steps == 180


def test_every_game_that_ends_in_a_rollout_is_reported_once():
    run = Rollouts()
    told = sum(len(progress.episodes) for progress in run.progress)
    ended = sum((step.terminated | step.truncated).sum() for step in run.lanes.steps)
    assert told == ended > 20


def test_actions_are_those_of_the_recorded_values_once_exploration_is_over():
    run = Rollouts(exploration_steps=0, exploration_final_eps=0.0)
    values = [q for n, (_, q) in enumerate(run.values) if n % 13 != 12]  # not those of the end
    for actions, q in zip(run.lanes.actions, values, strict=True):
        np.testing.assert_array_equal(actions, q.argmax(axis=1))


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("name", ["dqn", "pqn"])
def test_noisy_layers_explore_while_training_and_nothing_else_does_without_them(name, noisy):
    greedy = {"exploration_steps": 0, "exploration_final_eps": 0.0, "learning_starts": 0}
    config = composition(name, noisy=noisy, learning_rate=0.0, total_timesteps=512, **greedy)
    config = config.model_copy(update={"train_freq": 64})
    state = TrainingState.create(config, lanes=TaggedLanes(config.num_envs))
    list(train_agent(state))
    lanes, others = state.lanes, 0
    for seen, actions in zip(lanes.seen[:-1], lanes.actions, strict=True):
        others += (state.agent.act(seen, 0.0, np.random.default_rng(0)) != actions).sum()
    assert 20 < others < 512 if noisy else others == 0


# Divergence


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["dqn", "rainbow", "munchausen-iqn", "pqn"])
def test_a_loss_that_is_no_number_stops_the_run_at_once(name, loss):
    config = composition(name, total_timesteps=1280)
    state = TrainingState.create(config, lanes=CatchLanes(config.num_envs))
    part = "fit" if config.memory.kind == "none" else "update"
    real, calls = getattr(state.learner, part), []

    def breaks(*args):
        calls.append(real(*args))
        if len(calls) < 5:
            return calls[-1]
        error = torch.full_like(calls[-1].error, loss)
        return dataclasses.replace(calls[-1], loss=torch.tensor(loss), error=error)

    setattr(state.learner, part, breaks)
    with pytest.raises(DivergenceError) as stopped:
        list(train_agent(state))
    assert len(calls) == state.updates == 5
    message = str(stopped.value)
    assert f"the loss became {loss} at step {state.steps:,} (update 5)" in message
    low, high = map(float, re.search(r"rewards were (\S+) … (\S+),", message).groups())
    assert -1 <= low <= high <= 1
    assert f"--learning-rate (it is {config.learning_rate:g})" in message
    assert f"--max-grad-norm (it is {config.max_grad_norm or 'off'})" in message
    assert "--reward-clip (it is on)" in message
    assert "--precision fp32 (it is fp32)" in message
    assert "--init-from" in message


@pytest.mark.parametrize("name", ["dqn", "qrdqn", "rainbow", "iqn", "munchausen-iqn", "pqn"])
def test_weights_that_are_no_numbers_stop_the_run_before_it_acts_on_them(name):
    config = composition(name, total_timesteps=1280)
    state = TrainingState.create(config, lanes=CatchLanes(config.num_envs))
    for progress in train_agent(state):
        if progress.updates:
            break
    with torch.no_grad():
        state.learner.online.head.values.weight.fill_(float("nan"))
    if name not in ("rainbow", "pqn"):  # random actions do not ask it yet, but it learns
        with pytest.raises(DivergenceError, match=r"the loss became nan at step"):
            list(train_agent(state))
        assert state.updates == progress.updates + 1
    else:
        said = r"the Q-values of agent are not finite numbers: \[nan"
        with pytest.raises(DivergenceError, match=said):
            list(train_agent(state))
        assert state.updates == progress.updates


def test_a_learning_rate_beyond_all_measure_is_told_so():
    with pytest.raises(DivergenceError, match=r"--learning-rate \(it is 1e\+20\)"):
        caught(catch_config(learning_rate=1e20, total_timesteps=1280))


# What is resolved once


@pytest.mark.parametrize(("allowed", "threads"), [("1", 1), ("", 2), ("0", 2), ("64", 2)])
def test_the_learner_takes_every_core_or_what_the_machine_allows(monkeypatch, allowed, threads):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert hardware.resolve_threads(0, "cpu") == threads
    assert hardware.resolve_threads(0, "cuda") == 1  # its emulators take the cores
    assert [hardware.resolve_threads(7, device) for device in ("cpu", "cuda")] == [7, 7]


def test_every_automatic_setting_is_resolved(tiny_config):
    config = resolved(
        TrainConfig(game="ALE/SpaceInvaders-v5", total_timesteps=50_000, learning_starts=100)
    )
    assert config.game == "space_invaders"
    assert config.device in ("cpu", "cuda")
    assert config.precision in ("fp32", "bf16")
    assert config.compile in ("on", "off")
    assert config.torch_threads >= 1
    assert config.exploration_steps == 10_000
    assert config.importance_steps == config.learning_rate_steps == 50_000
    assert config.n_steps_duration == 50_000
    assert config.buffer_size == 50_000  # never more than the run fills
    assert resolved(config) == config


@pytest.mark.parametrize(
    ("asked", "device", "there", "outcome"),
    [
        ("auto", "cuda", {"triton", "gcc"}, "on"),
        ("auto", "cuda", {"triton", "clang"}, "on"),
        ("auto", "cuda", {"triton", "my-cc"}, "on"),
        ("auto", "cuda", {"triton", "g++"}, "off"),
        ("auto", "cuda", {"gcc"}, "off"),
        ("on", "cuda", {"gcc"}, "needs Triton for device cuda"),
        ("on", "cuda", {"triton"}, r"needs a compiler \(gcc or clang\) for device cuda"),
        ("off", "cuda", {"triton", "gcc"}, "off"),
        ("auto", "cpu", {"triton", "gcc", "g++"}, "off"),
        ("on", "cpu", {"g++"}, "on"),
        ("on", "cpu", {"my-c++"}, "on"),
        ("on", "cpu", {"gcc"}, r"needs a compiler \(g\+\+ or clang\+\+\) for device cpu"),
        ("off", "cpu", {"g++"}, "off"),
    ],
)
def test_what_runs_on_a_gpu_is_compiled_where_that_can_be_done(
    monkeypatch, asked, device, there, outcome
):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(hardware, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setenv("CC", "my-cc")
    monkeypatch.setenv("CXX", "my-c++")
    if outcome in ("on", "off"):
        assert hardware.resolve_compile(asked, device) == outcome
    else:
        with pytest.raises(ConfigError, match=f"compile on was asked for, but .*{outcome}"):
            hardware.resolve_compile(asked, device)


def test_a_longer_run_keeps_the_schedules_of_its_start():
    config = resolved(TrainConfig(game="pong", total_timesteps=50_000, learning_starts=100))
    longer = resolved(config.model_copy(update={"total_timesteps": 90_000}))
    assert longer.importance_steps == longer.learning_rate_steps == 50_000
    assert longer.n_steps_duration == 50_000
    assert longer.exploration_steps == 10_000


def test_without_replay_no_memory_for_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000_000)
    config = resolved(TrainConfig(game="pong", memory="none", total_timesteps=10**7))
    assert config.buffer_size is None
    state = TrainingState.create(config, lanes=CatchLanes(16))
    assert state.replay.num_rows < 2 * config.rollout_steps


def test_the_default_replay_takes_at_most_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 2_000_000_000)
    size = resolved(TrainConfig(game="pong", total_timesteps=10**7)).buffer_size
    assert 0.45 * 2e9 < size * 7065 <= 0.5 * 2e9


@pytest.mark.parametrize(
    ("asked", "steps", "taken"),
    [(10**6, 10**5, 10**5), (10**5, 10**6, 10**5), (10**6, 1_000, 20_000)],
)
def test_replay_has_no_more_room_than_the_run_has_steps_or_warming_up_needs(asked, steps, taken):
    config = TrainConfig(game="pong", buffer_size=asked, total_timesteps=steps)
    assert resolved(config).buffer_size == taken


def test_a_deterministic_run_gives_cublas_the_workspace_that_it_needs(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        TrainingState.create(catch_config(deterministic=True), lanes=CatchLanes(8))
    finally:
        torch.use_deterministic_algorithms(mode=False)
    # https://docs.nvidia.com/cuda/cublas/index.html#results-reproducibility
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_machine_too_small_for_the_warm_up_is_told_so(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 100_000_000)
    with pytest.raises(
        ResourceError, match=r"learning_starts = 20,000.*0\.14 GB.*0\.05 GB are free"
    ):
        resolved(TrainConfig(game="pong"))


def test_a_replay_larger_than_memory_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 1_000_000_000)
    config = TrainConfig(game="pong", buffer_size=1_000_000, total_timesteps=1_000_000)
    config = resolved(config)
    with pytest.raises(
        ResourceError,
        match=r"buffer_size = 1,000,000 transitions needs 7\.0\d GB of memory, 1\.00 GB are free\. "
        r"Lower --buffer-size",
    ):
        TrainingState.create(config)


def test_more_disk_than_there_is_is_refused(tmp_path):
    with pytest.raises(
        ResourceError, match=r"the run may need .* GB on the disk of .* are free. Go"
    ):
        machine.require_disk(10**18, tmp_path / "not" / "yet", "the run", "Go elsewhere.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(ConfigError, match="device cuda was asked for.*Use --device cpu"):
        resolved(TrainConfig(game="pong", device="cuda"))


def test_a_length_in_minutes_becomes_steps_by_measured_speed(monkeypatch):
    config = TrainConfig(game="pong", learning_starts=1000)
    monkeypatch.setattr(pace, "measured_speed", lambda config: (1000.0, 100.0))
    # 108 s are left for training: 1 s of warm-up, then 100 steps a second
    assert pace.steps_in(2, config) == pytest.approx(1000 + 107 * 100, abs=50)
    with pytest.raises(ConfigError, match=r"minutes = 1e-06 is too short"):
        pace.steps_in(1e-6, config)


@pytest.mark.parametrize("minutes", [0.5, 1, 3, 10, 17.4])
def test_a_short_length_in_minutes_counts_the_warm_up_that_it_will_have(monkeypatch, minutes):
    config = TrainConfig(game="pong", learning_starts=10_000)
    monkeypatch.setattr(pace, "measured_speed", lambda config: (1000.0, 100.0))
    steps = pace.steps_in(minutes, config)
    warm_up = following_length(config.model_copy(update={"total_timesteps": steps}), ()).warm_up
    seconds = warm_up / 1000 + (steps - warm_up) / 100
    assert seconds == pytest.approx(0.9 * 60 * minutes, rel=0.02)
    asked = pace.steps_in(minutes, config, {"learning_starts"})
    assert min(asked, 10_000) / 1000 + max(0, asked - 10_000) / 100 == pytest.approx(
        0.9 * 60 * minutes, rel=0.02
    )


def test_a_length_in_minutes_without_replay_has_no_warm_up(monkeypatch):
    config = TrainConfig(game="pong", memory="none", learning_starts=1000)
    monkeypatch.setattr(pace, "measured_speed", lambda config: (0.0, 100.0))
    assert pace.steps_in(2, config) == pytest.approx(108 * 100, abs=50)
    with pytest.raises(ConfigError, match=r"minutes = 1e-06 is too short"):
        pace.steps_in(1e-6, config)


@pytest.mark.parametrize("memory", ["replay", "none"])
def test_measured_speed_is_positive(tiny_config, memory):
    parts = {"memory": memory, "double": False, "rollout_steps": 16}
    before, after = pace.measured_speed(tiny_config.model_copy(update=parts), seconds=0.5)
    assert before > 0 if memory == "replay" else before == 0
    assert after > 0


@pytest.mark.slow
def test_bf16_is_measured_on_this_machine():
    assert hardware._seconds_per_update(torch.bfloat16) > 0
    assert hardware.bf16_is_faster() in (True, False)
    assert hardware.has_bf16_instructions() in (True, False)


def test_a_cpu_takes_bf16_only_when_told_to():
    # pairs of runs have not shown yet that learning does not suffer, docs/results/precision.md
    assert hardware.resolve_precision("auto", "cpu") == "fp32"
    assert hardware.resolve_precision("bf16", "cpu") == "bf16"


# Starting from a checkpoint


def test_a_run_may_start_from_the_weights_of_another(tiny_config, tmp_path):
    first = TrainingState.create(tiny_config.model_copy(update={"seed": 5}))
    first.agent.save(tmp_path / "c")
    second = TrainingState.create(tiny_config, init_from=load_checkpoint(tmp_path / "c"))
    assert weights_digest(first) == weights_digest(second)
    assert second.parent == load_checkpoint(tmp_path / "c").manifest.weights_sha256


def parts_of(state):
    return {name: array.copy() for name, array in state.agent.weights().items()}


def test_of_another_game_the_torso_is_taken_and_the_head_begins_anew(tiny_config, tmp_path):
    pong = TrainingState.create(tiny_config.model_copy(update={"game": "pong", "seed": 5}))
    sha256 = pong.agent.save(tmp_path / "c").weights_sha256
    changes = {
        "head": "quantile",
        "num_quantiles": 3,
        "total_timesteps": 300,
    }  # what is new may be of another kind
    config = tiny_config.model_copy(update=changes)
    fresh = parts_of(TrainingState.create(config))
    state = TrainingState.create(config, init_from=load_checkpoint(tmp_path / "c"))
    for name, array in parts_of(state).items():
        expected = parts_of(pong) if name.startswith("torso.") else fresh
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert any(name.startswith("torso.") for name in fresh)
    for name, tensor in state.learner.target.state_dict().items():
        np.testing.assert_array_equal(tensor, parts_of(state)[name], err_msg=name)
    assert state.parent == f"torso of {sha256}"[:64]
    assert is_torso(state.parent)
    list(train_agent(state))  # and it learns


def test_a_torso_of_another_shape_is_refused_with_the_reason(tiny_config, tmp_path):
    changes = {"game": "pong", "conv_channels": (4, 4, 8)}
    TrainingState.create(tiny_config.model_copy(update=changes)).agent.save(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"is a torso with conv_channels = \[4, 4, 8\]"):
        TrainingState.create(tiny_config, init_from=load_checkpoint(tmp_path / "c"))


# Sizes


def test_an_update_that_no_memory_holds_is_refused_before_anything_is_built(monkeypatch):
    changes = {"head": "quantile", "num_quantiles": 10_000, "batch_size": 10_000}
    config = resolved(catch_config(**changes))
    monkeypatch.setattr(machine, "free_memory", lambda: 10_000_000_000)

    def built(*_, **__):
        raise AssertionError("something was built")

    monkeypatch.setattr("rlarcade.learning.state.DQNAgent", built)
    monkeypatch.setattr("rlarcade.learning.state.Replay", built)
    with pytest.raises(
        ResourceError,
        match=r"an update of batch_size = 10,000 .*10\.00 GB are free\. Lower --batch-size, "
        r"--num-envs, --num-quantiles",
    ):
        TrainingState.create(config, lanes=CatchLanes(8))


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"torso": "impala", "spectral_norm": True, "noisy": True, "dueling": True},
        {"head": "implicit", "norm": "layer"},
        {"head": "quantile", "num_quantiles": 7, "norm": "channel", "hidden_units": 33},
    ],
    ids=str,
)
def test_the_bytes_of_a_network_are_those_of_its_tensors(network):
    agent = DQNAgent(catch_config(**network), num_actions=5)
    actual = sum(array.nbytes for array in agent.weights().values())
    assert weights_bytes(agent.network, 5) == actual


def test_a_torso_of_ones_own_counts_with_its_own_weights():
    torso = nn.Sequential(Scaled(), nn.Flatten(), nn.Linear(4 * 84 * 84, 50))
    agent = DQNAgent(catch_config(), num_actions=5, torso=torso)
    actual = sum(array.nbytes for array in agent.weights().values())
    assert weights_bytes(agent.network, 5, torso) == actual > 5_000_000
    config = resolved(catch_config())
    more = learning_bytes(config, 5, torso) - learning_bytes(config, 5)
    assert more > 4 * 5_000_000  # online, target, gradient and two moments


class Scaled(nn.Module):
    def forward(self, frames):
        return frames / 255


def test_the_bytes_of_a_network_that_cannot_be_are_told():
    with pytest.raises(ValueError, match="num_taus"):
        weights_bytes({"num_taus": 2 * 10**8}, 6)
    with pytest.raises(ValueError, match="cannot exist"):
        weights_bytes({"hidden_units": 65_536, "conv_channels": [1, 1, 65_536]}, 10**15)


# One thread, one mode


def test_of_overlapping_uses_of_one_thread_the_last_one_restores_the_number():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = hardware.one_thread(), hardware.one_thread()
        with first:
            assert torch.get_num_threads() == 1
            second.__enter__()
        assert torch.get_num_threads() == 1  # the second still runs
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 2
        with hardware.one_thread(), hardware.one_thread():
            pass
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_that_overlap_leave_torch_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    inside = threading.Barrier(2)

    def use(seconds):
        for _ in range(50):
            with hardware.one_thread():
                sleep(seconds)

    def together(seconds):
        inside.wait()
        use(seconds)

    try:
        users = [threading.Thread(target=together, args=(s,)) for s in (0.0003, 0.0005)]
        for user in users:
            user.start()
        for user in users:
            user.join()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_deterministic_kernels_of_one_run_are_not_the_next_ones():
    assert not torch.are_deterministic_algorithms_enabled()
    lanes = {"lanes": CatchLanes(8)}
    sure = TrainingState.create(catch_config(deterministic=True, total_timesteps=16), **lanes)
    assert torch.are_deterministic_algorithms_enabled()
    TrainingState.create(catch_config(), lanes=CatchLanes(8))
    assert not torch.are_deterministic_algorithms_enabled()
    next(train_agent(sure))  # it has its own when it goes on
    assert torch.are_deterministic_algorithms_enabled()
    TrainingState.create(catch_config(), lanes=CatchLanes(8))
    torch.use_deterministic_algorithms(mode=True)  # somebody else's wish
    try:
        TrainingState.create(catch_config(), lanes=CatchLanes(8))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(mode=False)


def test_where_the_system_does_not_tell_the_processs_cores_all_are_taken(monkeypatch):
    assert machine.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(machine.os, "sched_getaffinity")
    assert machine.cores() == os.cpu_count()
