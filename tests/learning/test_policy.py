"""How rlarcade.learning.policy acts: the same values in any company, and honest dice."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import safetensors.numpy
import torch
from pydantic import ValidationError
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import rlarcade
from rlarcade import Registry
from rlarcade.checkpoint import load_checkpoint, save_checkpoint
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError, PolicyError
from rlarcade.evaluation import evaluate_agent
from rlarcade.learning.learner import Learner
from rlarcade.learning.policy import DQNAgent

LATE = Path(__file__).parents[1] / "data" / "space-invaders-late"
NUM_ACTIONS = 6


@pytest.fixture(params=["fp32", "bf16"])
def agent(request):
    return make_agent(precision=request.param)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads waiting for each other make batches this small slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_agent(*, precision="fp32", seed=0, **settings):
    config = TrainConfig(game="pong", **settings)
    return DQNAgent(config, num_actions=NUM_ACTIONS, precision=precision, seed=seed)


def small_agent(**settings):
    return make_agent(conv_channels=(4, 4, 4), hidden_units=16, **settings)


def observations(batch, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, 4, 84, 84), dtype=np.uint8)


def alone(agent, batch):
    """Values of each observation, asked for one at a time."""
    return np.concatenate([agent.q_values(one[None]) for one in batch])


# Values


def test_values_are_those_of_the_online_network(agent):
    batch = observations(5)
    with torch.no_grad():
        expected = agent.q_network(torch.from_numpy(batch)).numpy()
    values = agent.q_values(batch)
    assert (values.dtype, values.shape) == (np.float32, (5, NUM_ACTIONS))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-3)
    assert (values.std(axis=0) > 1e-4).all(), "observations make a difference"


def test_values_are_the_same_bits_alone_and_in_any_batch(agent):
    batch = observations(40)
    expected = alone(agent, batch)
    for size in range(1, 41):
        np.testing.assert_array_equal(agent.q_values(batch[:size]), expected[:size])


def test_values_are_the_same_bits_in_any_position_and_beside_any_neighbours(agent):
    one, others = observations(1), observations(19, seed=1)
    expected = agent.q_values(one)[0]
    for position in (0, 1, 6, 7, 8, 13, 18, 19):
        batch = np.insert(others, position, one, axis=0)
        np.testing.assert_array_equal(agent.q_values(batch)[position], expected)
    for neighbour in (np.zeros_like(one), np.full_like(one, 255), one):
        values = agent.q_values(np.concatenate((neighbour.repeat(4, axis=0), one)))
        np.testing.assert_array_equal(values[-1], expected)


def test_values_are_the_same_bits_with_one_thread_and_with_two(agent):
    batch = observations(11)
    with_one = agent.q_values(batch)
    torch.set_num_threads(2)
    np.testing.assert_array_equal(agent.q_values(batch), with_one)
    np.testing.assert_array_equal(alone(agent, batch), with_one)


def watched(agent, monkeypatch, change):
    """Notes the rows of every forward; `change` is what its kernels do to the bits of so many.

    What this machine's own kernels do does not count: each row goes through a forward of its own.
    """
    rows, forward = [], agent._values

    def values(observation):
        rows.append(len(observation))
        each = [forward(observation[row : row + 1]) for row in range(len(observation))]
        return np.concatenate(each) + change(len(observation))

    monkeypatch.setattr(agent, "_values", values)
    return rows


def test_forwards_have_the_fewest_rows_that_give_the_same_bits(monkeypatch):
    agent = small_agent()
    rows = watched(agent, monkeypatch, lambda size: np.float32(0))
    for count in (1, 5, 9, 16):
        agent.q_values(observations(count))  # the first time a number of rows is tried out
    for count, expected in {1: [4], 4: [4], 5: [8], 9: [12], 16: [16], 21: [16, 8]}.items():
        rows.clear()
        agent.q_values(observations(count))
        assert rows == expected


def test_a_number_of_rows_with_other_bits_is_not_used(monkeypatch):
    agent, batch = small_agent(), observations(20)
    rows = watched(agent, monkeypatch, lambda size: np.float32(1e-6 * (size in (4, 12))))
    expected = agent.q_values(batch[:8])
    for count in (1, 3, 8):
        np.testing.assert_array_equal(agent.q_values(batch[:count]), expected[:count])
    agent.q_values(batch[:11])
    for count, sizes in {2: [8], 11: [8, 8], 16: [16], 20: [16, 8]}.items():
        agent.q_values(batch[:count])  # 16 rows are tried out
        rows.clear()
        agent.q_values(batch[:count])
        assert rows == sizes


def test_values_of_a_view_are_those_of_its_copy():
    agent, batch = small_agent(), observations(6)
    np.testing.assert_array_equal(agent.q_values(batch[::2]), agent.q_values(batch[::2].copy()))
    assert agent.q_values(batch[:0]).shape == (0, NUM_ACTIONS)


@pytest.mark.parametrize(
    ("observation", "got"),
    [
        (np.zeros((2, 4, 84, 84), np.float32), r"float32 \(2, 4, 84, 84\)"),
        (np.zeros((4, 84, 84), np.uint8), r"uint8 \(4, 84, 84\)"),
        (np.zeros((2, 84, 84, 4), np.uint8), r"uint8 \(2, 84, 84, 4\)"),
        (np.zeros((2, 3, 84, 84), np.uint8), r"uint8 \(2, 3, 84, 84\)"),
    ],
)
def test_observations_of_another_kind_are_refused(observation, got):
    agent = small_agent()
    message = r"observations are uint8 \(B, 4, 84, 84\), newest frame last; got " + got
    with pytest.raises(ValueError, match=message):
        agent.q_values(observation)
    with pytest.raises(ValueError, match=message):
        agent.act(observation, 0.0, np.random.default_rng(0))


# Actions


def test_epsilon_zero_is_greedy():
    agent, batch = small_agent(), observations(30)
    actions = agent.act(batch, 0.0, np.random.default_rng(0))
    assert (actions.dtype, actions.shape) == (np.int64, (30,))
    np.testing.assert_array_equal(actions, agent.q_values(batch).argmax(axis=1))


def test_epsilon_one_takes_every_action_equally_often():
    agent = small_agent()
    actions = agent.act(np.zeros((12_000, 4, 84, 84), np.uint8), 1.0, np.random.default_rng(0))
    counts = np.bincount(actions, minlength=NUM_ACTIONS)
    assert len(counts) == NUM_ACTIONS
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()


def test_epsilon_is_the_share_of_random_actions():
    agent = small_agent()
    batch = observations(1).repeat(800, axis=0)
    greedy = agent.act(batch[:1], 0.0, np.random.default_rng(0))[0]
    actions = agent.act(batch, 0.3, np.random.default_rng(0))
    others = (actions != greedy).mean()
    assert others == pytest.approx(0.3 * (NUM_ACTIONS - 1) / NUM_ACTIONS, abs=0.05)


def test_the_same_random_numbers_are_drawn_whatever_epsilon_is():
    agent, batch = small_agent(), observations(9)
    states = []
    for share in (0.0, 0.01, 0.5, 1.0):
        rng = np.random.default_rng(4)
        agent.act(batch, share, rng)
        states.append(rng.bit_generator.state)
    assert all(state == states[0] for state in states)
    assert states[0] != np.random.default_rng(4).bit_generator.state


def test_an_observation_explored_at_a_small_epsilon_is_explored_alike_at_a_larger_one():
    agent, batch = small_agent(), observations(40)
    greedy = agent.q_values(batch).argmax(axis=1)
    few, many, all_of_them = (
        agent.act(batch, share, np.random.default_rng(4)) for share in (0.3, 0.6, 1.0)
    )
    assert 0 < (few != greedy).sum() < (many != greedy).sum() < 40
    np.testing.assert_array_equal(few[few != greedy], all_of_them[few != greedy])
    np.testing.assert_array_equal(many[many != greedy], all_of_them[many != greedy])


# predict


def test_predict_takes_one_observation_or_many():
    agent, batch = small_agent(), observations(9)
    greedy = agent.q_values(batch).argmax(axis=1)
    actions, state = agent.predict(batch)
    np.testing.assert_array_equal(actions, greedy)
    assert (actions.shape, actions.dtype, state) == ((9,), np.int64, None)
    for observation, expected in zip(batch, greedy, strict=True):
        action, state = agent.predict(observation, state=("kept",), episode_start=np.array([True]))
        assert (np.shape(action), action.dtype) == ((), np.int64)
        assert action == expected
        assert state == ("kept",)


def test_predict_explores_as_the_protocol_says_unless_it_is_deterministic():
    agent, batch = small_agent(), observations(1).repeat(200, axis=0)
    agent.protocol = agent.protocol.model_copy(update={"name": "dice", "evaluation_epsilon": 1.0})
    assert len(set(agent.predict(batch)[0].tolist())) == 1
    first, second = (agent.predict(batch, deterministic=False)[0] for _ in range(2))
    assert set(first.tolist()) == set(range(NUM_ACTIONS))
    assert (first != second).any(), "drawn anew"


def short_pong():
    """Pong of 50 steps, whose next reset() is a function of this seed."""
    env = gymnasium.wrappers.TimeLimit(rlarcade.make_env("Pong"), max_episode_steps=50)
    env.reset(seed=3)
    return env


def test_stable_baselines_evaluates_an_agent_as_if_it_were_its_own():
    agent = small_agent()
    scores, lengths = evaluate_policy(
        agent, Monitor(short_pong()), n_eval_episodes=2, return_episode_rewards=True
    )
    env = short_pong()
    for score, length in zip(scores, lengths, strict=True):
        observation, _ = env.reset()
        total, steps, over = 0.0, 0, False
        while not over:
            action = agent.q_values(observation[None]).argmax()
            observation, reward, terminated, truncated, _ = env.step(action)
            total, steps, over = total + reward, steps + 1, terminated or truncated
        assert (score, length) == (total, steps)
    assert lengths == [50, 50]


# Weights


def test_initial_weights_are_a_function_of_the_seed():
    torch.manual_seed(1)
    one = make_agent(seed=5).weights()
    torch.manual_seed(2)
    same, other = make_agent(seed=5).weights(), make_agent(seed=6).weights()
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name], err_msg=name)
        assert (array != other[name]).any(), name


def test_making_an_agent_leaves_torchs_own_dice_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    small_agent()
    assert torch.equal(torch.rand(3), expected)


def test_an_agents_version_is_what_a_checkpoint_of_its_weights_says(tmp_path):
    agent = small_agent()
    written = agent.save(tmp_path / "c")
    loaded = DQNAgent.load(tmp_path / "c")
    assert agent.version == loaded.version == written.weights_sha256
    assert (agent.name, loaded.name) == ("agent", str(tmp_path / "c"))
    with torch.no_grad():
        next(loaded.q_network.parameters()).add_(1e-3)
    assert loaded.version != written.weights_sha256


# Rounded weights


def test_a_rounded_agent_is_stored_in_half_the_space_and_plays_as_it_did(tmp_path):
    agent = make_agent()
    before = agent.q_values(observations(32))
    agent.save(tmp_path / "exact")
    agent.round_weights()
    agent.save(tmp_path / "rounded")
    exact, rounded = (
        (tmp_path / name / "weights.safetensors").stat().st_size for name in ("exact", "rounded")
    )
    assert rounded == pytest.approx(exact / 2, rel=0.01)
    tensors = safetensors.numpy.load_file(tmp_path / "rounded" / "weights.safetensors")
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float16)}
    # float16 has 11 significant bits: a weight moves by at most one part in 2,048.
    np.testing.assert_allclose(agent.q_values(observations(32)), before, atol=1e-3)
    assert np.array_equal(
        DQNAgent.load(tmp_path / "rounded").q_values(observations(32)),
        agent.q_values(observations(32)),
    )


def test_a_rounded_agent_is_one_version_wherever_it_goes(tmp_path):
    agent = small_agent()
    exact = agent.version
    agent.round_weights()
    written = agent.save(tmp_path / "c")
    loaded = DQNAgent.load(tmp_path / "c")
    assert exact != written.weights_sha256 == agent.version == loaded.version
    again = loaded.save(tmp_path / "again")
    assert again.weights_sha256 == written.weights_sha256
    loaded.round_weights()
    assert loaded.version == written.weights_sha256
    with Registry.open(tmp_path / "registry") as registry:
        version = registry.register(tmp_path / "c")
        assert DQNAgent.load(registry.load(version.number)).version == written.weights_sha256


def test_a_rounded_agent_that_changes_is_saved_exactly(tmp_path):
    agent = small_agent()
    agent.round_weights()
    agent.save(tmp_path / "c")
    loaded = DQNAgent.load(tmp_path / "c")
    with torch.no_grad():
        next(loaded.q_network.parameters()).add_(1e-5)
    loaded.save(tmp_path / "changed")
    changed = DQNAgent.load(tmp_path / "changed")
    assert np.array_equal(changed.q_values(observations(8)), loaded.q_values(observations(8)))
    assert {array.dtype for array in changed.weights().values()} == {np.dtype(np.float32)}


def test_training_goes_on_from_a_rounded_agent_or_from_its_torso_alone(tmp_path):
    agent = small_agent()
    agent.round_weights()
    agent.save(tmp_path / "c")
    tensors = load_checkpoint(tmp_path / "c").tensors
    settings = TrainConfig(game="pong", conv_channels=(4, 4, 4), hidden_units=16)
    learner = Learner(DQNAgent(settings, num_actions=NUM_ACTIONS, seed=1), settings)
    first_head = learner.agent.weights()["head.values.bias"]
    learner.load_torso(tensors, tmp_path / "c")
    loaded = learner.agent.weights()
    assert np.array_equal(loaded["torso.conv1.weight"], tensors["torso.conv1.weight"])
    assert np.array_equal(loaded["head.values.bias"], first_head)
    learner.load_weights(tensors, tmp_path / "c")
    assert np.array_equal(learner.agent.q_values(observations(8)), agent.q_values(observations(8)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 65_520.0, -1e5])
def test_weights_that_float16_cannot_hold_stay_as_they_are(value):
    agent = small_agent()
    with torch.no_grad():
        last = list(agent.q_network.parameters())[-1]
        last.view(-1)[0] = value
    before = agent.version
    with pytest.raises(
        ValueError, match=r"of agent cannot be rounded to float16: head\..* not finite"
    ):
        agent.round_weights()
    assert agent.version == before


def test_a_torso_with_tensors_of_another_kind_cannot_be_rounded():
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(4)

        def forward(self, frames):
            return self.norm(frames.float()).mean((2, 3))

    agent = DQNAgent(TrainConfig(game="pong"), num_actions=NUM_ACTIONS, torso=Normed())
    with pytest.raises(ValueError, match="num_batches_tracked is int64"):
        agent.round_weights()


def test_a_file_with_some_rounded_tensors_is_refused(tmp_path):
    agent = small_agent()
    tensors = agent.weights()
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].astype(np.float16)
    agent.save(tmp_path / "c")
    manifest = DQNAgent.load(tmp_path / "c").manifest
    fields = manifest.model_dump(exclude={"libraries", "created", "weights_sha256"})
    save_checkpoint(tmp_path / "mixed", tensors, **fields)
    with pytest.raises(CheckpointError, match=f"{name} is float16 .*, not float32"):
        DQNAgent.load(tmp_path / "mixed")


@pytest.mark.parametrize("name", ["space-invaders-early", "space-invaders-late"])
def test_the_version_of_a_golden_checkpoint_is_the_digest_of_its_file(name):
    loaded = DQNAgent.load(Path(__file__).parent.parent / "data" / name)
    assert loaded.version == loaded.manifest.weights_sha256


def test_values_do_not_depend_on_the_number_of_threads_which_stays_what_it_was():
    agent, seen = make_agent(), observations(11)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(agent.q_values(seen))
        assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(*found)
    with pytest.raises(ValueError, match="observations are uint8"):
        agent.q_values(seen[:, :2])
    assert torch.get_num_threads() == 2


# What an agent is made of


def test_an_agent_that_only_plays_makes_neither_an_optimizer_nor_a_target_network(monkeypatch):
    made, init = [], torch.nn.Module.__init__

    def noted(module, *args, **kwargs):
        made.append(type(module).__name__)
        init(module, *args, **kwargs)

    def refused(*_, **__):
        raise AssertionError("an optimizer was made, or a network copied")

    monkeypatch.setattr(torch.nn.Module, "__init__", noted)
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", refused)
    monkeypatch.setattr(copy, "deepcopy", refused)
    loaded = DQNAgent.load(LATE)
    loaded.act(np.zeros((1, 4, 84, 84), dtype=np.uint8), 0.0, np.random.default_rng(0))
    assert loaded.version
    assert made.count("QNetwork") == 2, "one without memory, to check sizes, and the one that plays"


def with_config(folder, **changes):
    """A copy of a golden checkpoint whose training had other settings."""
    shutil.copytree(LATE, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"] |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, manifest["config"]


@pytest.mark.parametrize(
    "changes",
    [
        {"a_setting_of_tomorrow": 1},
        {"learning_rate": 1e-4, "learning_rate_final": 1e-3},
        {"optimizer": "an optimizer of yesterday"},
        {"munchausen": True, "double": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_of_training_that_are_unknown_or_forbidden_now_keep_no_agent_from_playing(
    tmp_path, changes
):
    folder, config = with_config(tmp_path / "agent", **changes)
    with pytest.raises(ValidationError):
        TrainConfig.model_validate(config)
    loaded, before = DQNAgent.load(folder), DQNAgent.load(LATE)
    batch = observations(5)
    np.testing.assert_array_equal(loaded.q_values(batch), before.q_values(batch))
    assert (loaded.game, loaded.protocol) == (before.game, before.protocol)
    (episode,) = evaluate_agent(loaded, episodes=1, seed=3).episodes
    (expected,) = evaluate_agent(before, episodes=1, seed=3).episodes
    assert (episode.score, episode.steps) == (expected.score, expected.steps)


def test_an_agent_that_is_saved_again_keeps_the_record_of_its_training(tmp_path):
    folder, config = with_config(tmp_path / "agent", a_setting_of_tomorrow={"x": [1, None]})
    again = DQNAgent.load(folder).save(tmp_path / "again")
    assert again.config == config
    before = DQNAgent.load(LATE).manifest
    assert (again.network, again.seed, again.weights_sha256) == (
        before.network,
        before.seed,
        before.weights_sha256,
    )


def test_loading_an_agent_loads_no_compiler():
    code = (
        "import sys\n"
        "from rlarcade import DQNAgent\n"
        f"DQNAgent.load({str(LATE)!r})\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "False\n"


def test_values_that_are_no_numbers_choose_no_action():
    config = TrainConfig(game="pong", conv_channels=(2, 2, 2), hidden_units=4)
    agent, dice = DQNAgent(config, num_actions=6), np.random.default_rng(0)
    observation = np.zeros((3, 4, 84, 84), dtype=np.uint8)
    with torch.no_grad():
        agent.q_network.head.values.bias[2] = float("nan")
    said = "the Q-values of agent are not finite numbers: .*nan"
    with pytest.raises(PolicyError, match=f"{said}.* for observation 0 of 3"):
        agent.act(observation, 0.0, dice)
    with pytest.raises(PolicyError, match=f"{said}.* for observation 0 of 1"):
        agent.predict(observation[0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_taus": 2 * 10**8}, "'num_taus' must be at most 512, not 2000000"),
        ({"hidden_units": 10**12}, "'hidden_units' must be at most 65536, not"),
        ({"torso": "transformer"}, "'torso' must be 'nature' or 'impala', not 'tr"),
        ({"tarso": "nature"}, "unknown setting 'tarso'. Did you mean 'torso'?"),
    ],
)
def test_a_manifest_with_a_network_that_cannot_be_is_one_line(tmp_path, change, why):
    folder = shutil.copytree(LATE, tmp_path / "agent")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["network"] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError) as refused:
        DQNAgent.load(folder)
    said = str(refused.value)
    assert why in said
    assert "validation error" not in said
    assert "\n" not in said


@pytest.mark.parametrize("count", [-1, 0, 19, 10**9])
def test_a_manifest_with_a_number_of_actions_that_no_game_has_is_refused(tmp_path, count):
    folder = shutil.copytree(LATE, tmp_path / "agent")
    manifest = json.loads((folder / "manifest.json").read_text()) | {"num_actions": count}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        CheckpointError, match=r"is damaged: 'num_actions' must be at (least|most) 1"
    ):
        DQNAgent.load(folder)
