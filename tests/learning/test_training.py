import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import DEVICES
from toy_games import CatchLanes

from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError, ConfigError, ResourceError
from rlarcade.learning import hardware, training
from rlarcade.learning.schedules import updates_due
from rlarcade.learning.training import TrainingState, resolved, train_agent


def weights_digest(state):
    digest = hashlib.sha256()
    for name, array in sorted(state.agent.weights().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def catch_config(**changes):
    return TrainConfig(
        **{
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
        | changes
    )


def mean_score_at_the_end(config):
    state = TrainingState.create(config, lanes=CatchLanes(config.num_envs, seed=1))
    scores = []
    for progress in train_agent(state):
        scores += [(progress.steps, episode.score) for episode in progress.episodes]
    late = [score for steps, score in scores if steps > config.total_timesteps * 0.85]
    return sum(late) / len(late)


@pytest.mark.parametrize(
    "changes", [{}, {"double": True, "n_steps": 3}], ids=["dqn", "double-3step"]
)
def test_the_agent_learns_a_tiny_pixel_game(changes):
    assert mean_score_at_the_end(catch_config(**changes)) > 0.8


def test_nothing_is_learned_with_learning_rate_zero():
    assert mean_score_at_the_end(catch_config(learning_rate=0.0)) < 0.2


@pytest.mark.parametrize("device", DEVICES)
def test_training_runs_on_the_device_and_changes_the_weights(tiny_config, device):
    config = tiny_config.model_copy(update={"device": device, "total_timesteps": 300})
    state = TrainingState.create(config)
    before = weights_digest(state)
    progress = list(train_agent(state))[-1]
    assert progress.updates == updates_due(config, 300) > 0
    assert state.agent.online.head.values.weight.device.type == device
    assert weights_digest(state) != before


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_the_update_agrees_with_the_cpu(tiny_config, compiled):
    losses = {}
    for device in ("cpu", "cuda"):
        config = tiny_config.model_copy(
            update={"device": device, "total_timesteps": 216, "compile": compiled}
        )
        state = TrainingState.create(config)
        losses[device] = next(p.update.loss.item() for p in train_agent(state) if p.update)
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


def test_the_compiled_update_computes_the_same_loss(tiny_config):
    # the CPU twin of the GPU's compiled step; `eager` tests our code, not the compiler's backend
    config = tiny_config.model_copy(update={"total_timesteps": 216})
    plain, compiled = (TrainingState.create(config) for _ in range(2))
    compiled.agent._loss = torch.compile(compiled.agent._compute_loss, backend="eager")
    for state in (plain, compiled):
        list(train_agent(state))
    assert weights_digest(plain) == weights_digest(compiled)


def test_two_processes_with_one_seed_learn_the_same_weights(tiny_config):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/learning']\n"
        "from test_training import *\n"
        f"config = TrainConfig.model_validate_json({tiny_config.model_dump_json()!r})\n"
        "state = TrainingState.create(config)\n"
        "list(train_agent(state)); print(weights_digest(state))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def test_another_seed_learns_other_weights(tiny_config):
    digests = set()
    for seed in (1, 2):
        state = TrainingState.create(tiny_config.model_copy(update={"seed": seed}))
        list(train_agent(state))
        digests.add(weights_digest(state))
    assert len(digests) == 2


@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_updates_are_paced_by_agent_steps_whatever_the_number_of_lanes(num_envs):
    config = catch_config(num_envs=num_envs, total_timesteps=840, learning_starts=300)
    state = TrainingState.create(config, lanes=CatchLanes(num_envs))
    steps = 0
    for progress in train_agent(state):
        steps += num_envs
        assert progress.steps == steps
        assert progress.updates == updates_due(config, steps)
    assert steps == 840
    assert progress.updates == (840 - 300) // 2


def test_a_budget_is_rounded_up_to_whole_steps_of_all_lanes():
    config = catch_config(total_timesteps=101, learning_starts=1000)
    state = TrainingState.create(config, lanes=CatchLanes(8))
    assert [p.steps for p in train_agent(state)][-1] == 104


def test_the_loop_can_be_driven_stopped_and_gone_on_with():
    config = catch_config(total_timesteps=1200)
    whole = TrainingState.create(config, lanes=CatchLanes(8))
    list(train_agent(whole))
    parts = TrainingState.create(config, lanes=CatchLanes(8))
    for progress in train_agent(parts):
        if progress.steps >= 640:
            break
    list(train_agent(parts))
    assert weights_digest(whole) == weights_digest(parts)


def test_the_target_network_follows_at_its_interval_only():
    config = catch_config(total_timesteps=1000, target_update_interval=600, learning_starts=200)
    state = TrainingState.create(config, lanes=CatchLanes(8))
    first = state.agent.target.head.values.weight.clone()
    for progress in train_agent(state):
        frozen = state.agent.target.head.values.weight
        if progress.steps < 600:
            assert torch.equal(frozen, first)
        if progress.steps == 600:
            assert torch.equal(frozen, state.agent.online.head.values.weight)
            assert not torch.equal(frozen, first)


def test_wall_time_is_attributed_to_parts():
    config = catch_config(total_timesteps=800)
    state = TrainingState.create(config, lanes=CatchLanes(8))
    *_, progress = train_agent(state)
    assert set(progress.seconds) == {"env", "act", "replay", "learn"}
    assert all(seconds > 0 for seconds in progress.seconds.values())


# What is resolved once


@pytest.mark.parametrize(("allowed", "threads"), [("1", 1), ("", 2), ("0", 2), ("64", 2)])
def test_the_learner_takes_every_core_or_what_the_machine_allows(monkeypatch, allowed, threads):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert hardware.resolve_threads(0) == threads
    assert hardware.resolve_threads(7) == 7


def test_every_automatic_setting_is_resolved(tiny_config):
    config = resolved(
        TrainConfig(game="ALE/SpaceInvaders-v5", total_timesteps=50_000, learning_starts=100)
    )
    assert config.game == "space_invaders"
    assert config.device in ("cpu", "cuda")
    assert config.precision in ("fp32", "bf16")
    assert config.torch_threads >= 1
    assert config.exploration_steps == 10_000
    assert config.buffer_size == 50_000  # never more than the run fills
    assert resolved(config) == config


def test_the_default_replay_takes_at_most_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(hardware, "free_memory", lambda: 2_000_000_000)
    size = resolved(TrainConfig(game="pong", total_timesteps=10**7)).buffer_size
    assert 0.45 * 2e9 < size * 7065 <= 0.5 * 2e9


def test_a_machine_too_small_for_the_warm_up_is_told_so(monkeypatch):
    monkeypatch.setattr(hardware, "free_memory", lambda: 100_000_000)
    with pytest.raises(
        ResourceError, match=r"learning_starts = 20,000.*0\.14 GB.*0\.05 GB are free"
    ):
        resolved(TrainConfig(game="pong"))


def test_a_replay_larger_than_memory_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(hardware, "free_memory", lambda: 1_000_000_000)
    config = resolved(TrainConfig(game="pong", buffer_size=1_000_000))
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
        hardware.require_disk(10**18, tmp_path / "not" / "yet", "the run", "Go elsewhere.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(ConfigError, match="device cuda was asked for.*Use --device cpu"):
        resolved(TrainConfig(game="pong", device="cuda"))


def test_a_length_in_minutes_becomes_steps_by_measured_speed(monkeypatch):
    config = TrainConfig(game="pong", learning_starts=1000)
    monkeypatch.setattr(training, "measured_speed", lambda config: (1000.0, 100.0))
    # 114 s are left for training: 1 s of warm-up, then 100 steps a second
    assert training.steps_in(2, config) == pytest.approx(1000 + 113 * 100, abs=50)
    with pytest.raises(ConfigError, match=r"minutes = 1e-06 is too short"):
        training.steps_in(1e-6, config)


def test_measured_speed_is_positive_and_learning_is_slower(tiny_config):
    before, after = training.measured_speed(tiny_config, seconds=0.5)
    assert before > 0
    assert after > 0


def test_bf16_is_measured_on_this_machine():
    assert hardware.bf16_is_faster() in (True, False)
    assert hardware.has_bf16_instructions() in (True, False)


# Starting from a checkpoint


def test_a_run_may_start_from_the_weights_of_another(tiny_config, tmp_path):
    from rlarcade.checkpoint import load_checkpoint

    first = TrainingState.create(tiny_config.model_copy(update={"seed": 5}))
    first.agent.save(tmp_path / "c")
    second = TrainingState.create(tiny_config, init_from=load_checkpoint(tmp_path / "c"))
    assert weights_digest(first) == weights_digest(second)
    assert second.parent == load_checkpoint(tmp_path / "c").manifest.weights_sha256


def test_weights_of_another_game_are_refused(tiny_config, tmp_path):
    from rlarcade.checkpoint import load_checkpoint

    TrainingState.create(tiny_config.model_copy(update={"game": "pong"})).agent.save(tmp_path / "c")
    with pytest.raises(
        CheckpointError, match="was trained on pong with 6 actions, but this run pl"
    ):
        TrainingState.create(tiny_config, init_from=load_checkpoint(tmp_path / "c"))
