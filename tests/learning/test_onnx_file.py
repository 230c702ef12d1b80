"""ONNX files of agents: the same values as torch's up to rounding, or no file at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from tiers import quick
from torch import nn

from rlarcade import ConfigError, TrainConfig, evaluate_agent
from rlarcade.config import load_preset, preset_names
from rlarcade.errors import CheckpointError, ExportError
from rlarcade.games import get_protocol, make_env
from rlarcade.learning import onnx_file
from rlarcade.learning.onnx_file import OnnxCheck, OnnxValues, export_onnx, onnx_model
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.players import AgentPlayer

COSTLY = ("double-dqn", "quick", "munchausen-iqn", "impala-iqn", "btr", "fast")
"""Presets whose parts are in the networks of others, too."""
SMALL = {"conv_channels": (4, 4, 4), "hidden_units": 8, "impala_width": 1}
NAMES = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")  # of Pong, in ALE's order


def small_agent(preset, **settings):
    """An untrained agent of a preset, small; norms and noise are not as they begin."""
    known = load_preset(preset)[1]
    given = {name: value for name, value in known.items() if name in TrainConfig.setting_names}
    agent = DQNAgent(TrainConfig(game="pong", **(given | SMALL | settings)), num_actions=6, seed=3)
    rng = torch.Generator().manual_seed(1)
    for name, parameter in agent.q_network.named_parameters():
        if "norm" in name or "sigma" in name:
            parameter.data += torch.rand(parameter.shape, generator=rng)
    return agent


def real_frames(count=40, game="pong"):
    env = make_env(game)
    seen = [env.reset(seed=1)[0]]
    for step in range(count - 1):
        seen.append(env.step(step % 6)[0].copy())
    return np.stack(seen)


def noise(count=5):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 4, 84, 84), dtype=np.uint8)


@pytest.fixture(scope="module")
def agent():
    return small_agent("quick")


@pytest.fixture(scope="module")
def model(agent):
    return onnx_model(agent)


def with_last_layer(model, **arrays):
    """The model with another bias or weight of its last layer; quicker than an export."""
    edited = onnx.load_from_string(model)
    for tensor in edited.graph.initializer:
        *layer, name = tensor.name.split(".")
        if layer == ["network", "head", "values"] and name in arrays:
            array = arrays[name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return edited.SerializeToString()


def with_bias(model, bias):
    return with_last_layer(model, bias=bias)


def check_values(agent, path):
    values = OnnxValues.load(path)
    for frames in (real_frames(), noise()):
        wanted = agent.q_values(frames)
        assert np.abs(wanted).max() > 1e-3
        for rows in (1, 2, 5, 40):
            found = np.concatenate(
                [values.q_values(frames[i : i + rows]) for i in range(0, 40, rows)]
            )
            assert (found.shape, found.dtype) == (wanted.shape, np.float32)
            assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", quick([*preset_names(), "gauss"], ["rainbow"], COSTLY))
def test_the_network_of_every_preset_has_torchs_values(real_games, tmp_path, preset):
    agent = small_agent("rainbow", head="gauss") if preset == "gauss" else small_agent(preset)
    before = agent.q_values(noise()).tobytes()
    export_onnx(agent, tmp_path / "agent.onnx")
    check_values(agent, tmp_path / "agent.onnx")
    assert agent.q_values(noise()).tobytes() == before, "the agent itself is not touched"


def test_the_file_is_plain_onnx_that_says_what_it_is(agent, model):
    parsed = onnx.load_from_string(model)
    onnx.checker.check_model(parsed, full_check=True)
    ((key, description),) = [(part.key, json.loads(part.value)) for part in parsed.metadata_props]
    assert key == "rlarcade"
    assert description["game"] == "pong"
    assert description["protocol"] == get_protocol("v5").model_dump(mode="json")
    assert description["version"] == agent.version
    assert tuple(description["actions"]) == NAMES
    frames = noise(3)
    values, action = ReferenceEvaluator(parsed).run(None, {"observation": frames})
    assert np.allclose(values, agent.q_values(frames), atol=1e-5)
    assert (action.dtype, action.tolist()) == (np.int64, values.argmax(axis=1).tolist())


def test_the_same_agent_gives_the_same_bytes_in_any_precision_and_no_word_or_path(model, capfd):
    again = small_agent("quick")
    again.q_network.dtype = torch.bfloat16
    assert onnx_model(again) == model
    assert capfd.readouterr() == ("", ""), "the exporter prints nothing"
    assert again.q_network.dtype == torch.bfloat16, "the agent itself is not touched"
    for word in (b"onnx_file.py", str(Path.cwd()).encode(), b"stack_trace"):
        assert word not in model


def test_it_plays_the_agents_games(agent, model, monkeypatch):
    monkeypatch.setattr(onnx_file, "onnx_model", lambda _: model)
    values = OnnxValues.of(agent)
    short = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 400})
    one, other = (
        evaluate_agent(AgentPlayer(player, protocol=short), episodes=3)
        for player in (agent, values)
    )
    assert one.episodes == other.episodes
    assert (other.checkpoint, other.version) == (agent.name, f"{agent.version}+onnx")
    assert (values.game, values.protocol, values.num_actions) == (agent.game, agent.protocol, 6)


def test_onnxruntime_starts_no_threads(model):
    tasks = Path("/proc/self/task")
    before = set(tasks.iterdir())
    values = OnnxValues(model)
    values.q_values(noise())
    assert set(tasks.iterdir()) <= before


def test_values_are_of_observations_only(model):
    values = OnnxValues(model)
    assert values.q_values(noise(0)).shape == (0, 6)
    for wrong in (noise()[0], noise().astype(np.float32), noise()[:, :3], None):
        with pytest.raises(ValueError, match=r"observations are uint8 \(B, 4, 84, 84\)"):
            values.q_values(wrong)


def test_a_file_plays_without_torch(tmp_path, model):
    (tmp_path / "agent.onnx").write_bytes(model)
    code = (
        "import sys, numpy\n"
        "from rlarcade.learning.onnx_values import OnnxValues\n"
        "values = OnnxValues.load('agent.onnx')\n"
        "print(values.q_values(numpy.zeros((1, 4, 84, 84), 'uint8')).shape, values.name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(onnx_file.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "(1, 6) agent.onnx\n"


# No file


@pytest.fixture
def exported(agent, tmp_path, monkeypatch):
    """Exports what the exporter makes of the agent; returns the check, or the error."""
    path = tmp_path / "agent.onnx"

    def run(made, of=agent):
        path.write_bytes(b"older")
        monkeypatch.setattr(onnx_file, "onnx_model", lambda _: made)
        try:
            check = export_onnx(of, path)
        except ExportError as error:
            told = str(error)
        else:
            assert path.read_bytes() == made
            return check
        assert path.read_bytes() == b"older"
        assert not list(tmp_path.glob("*.writing"))
        return told

    return run


def bias_of(agent):
    return agent.weights()["head.values.bias"]


def test_other_values_or_actions_are_not_written(agent, model, exported):
    bias = bias_of(agent)
    check = exported(model)
    assert isinstance(check, OnnxCheck)
    assert check.observations == 256
    assert check.largest_difference < 1e-6
    assert check.allowed_difference == pytest.approx(1e-4)  # the values are below 1
    assert (check.equal_actions, check.file_bytes) == (1.0, len(model))

    assert isinstance(exported(with_bias(model, bias + 9e-5)), OnnxCheck)
    said = exported(with_bias(model, bias + 1.1e-4))
    assert "differ by up to 0.00011 (0.0001 is allowed), and 100.0% of its actions" in said
    assert "differ by up to nan" in exported(with_bias(model, bias * np.nan))


def test_values_that_are_close_but_choose_other_actions_are_not_written(model, exported):
    undecided = small_agent("quick")
    head = undecided.q_network.head.values
    head.weight.data.zero_()
    head.bias.data.copy_(torch.tensor([0, 5e-5, 0, 0, 0, 0]))
    made = with_last_layer(model, weight=np.zeros((6, 8)), bias=bias_of(undecided))
    assert isinstance(exported(made, undecided), OnnxCheck)
    said = exported(with_bias(made, np.array([5e-5, 0, 0, 0, 0, 0])), undecided)
    assert (
        "up to 5e-05 (0.0001 is allowed), and 0.0% of its actions are equal (99% must be)" in said
    )


def test_weights_that_are_no_numbers_are_not_written(model, exported):
    broken = small_agent("quick")
    broken.q_network.head.values.bias.data.fill_(torch.nan)
    said = exported(with_bias(model, bias_of(broken)), broken)
    assert "not finite numbers: [nan, nan, nan, nan, nan, nan]" in said


def test_the_values_are_compared_relative_to_their_size(model, exported):
    large = small_agent("quick")
    bias = bias_of(large) + np.float32(1000)
    large.q_network.head.values.bias.data.copy_(torch.from_numpy(bias))
    check = exported(with_bias(model, bias + 0.05), large)
    assert check.allowed_difference == pytest.approx(0.1, rel=0.01)


def test_an_agent_with_other_actions_than_its_game_is_refused(agent):
    other = DQNAgent(TrainConfig(game="pong", **SMALL), num_actions=5)
    with pytest.raises(ExportError, match="agent has 5 actions, but pong has 6 under protocol v5"):
        onnx_model(other)


class Stubborn(nn.Module):
    """A torso that looks at its data, which cannot be traced."""

    def forward(self, frames):
        x = frames.float().flatten(1)[:, :8]
        return x if x.sum().item() > 3 else -x


def test_a_torso_that_cannot_be_converted_is_told_in_one_line():
    own = DQNAgent(TrainConfig(game="pong", **SMALL), num_actions=6, torso=Stubborn())
    with pytest.raises(ExportError, match="cannot convert agent's network to ONNX") as told:
        onnx_model(own)
    assert str(told.value).isprintable()


@pytest.mark.slow
def test_a_torso_of_your_own_is_converted():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 3, 8, stride=8)

        def forward(self, frames):
            return self.conv(frames.float() / 255).flatten(1).tanh()

    own = DQNAgent(TrainConfig(game="pong", **SMALL), num_actions=6, torso=Own())
    values = OnnxValues.of(own)
    assert np.allclose(values.q_values(noise()), own.q_values(noise()), atol=1e-5)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_told_with_the_command_that_installs_it(agent, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError) as told:
        onnx_model(agent)
    assert str(told.value) == (
        f"ONNX needs the extra `onnx` ({missing} is missing): "
        "pip install -c constraints.txt '.[onnx]'."
    )


def test_a_file_needs_onnxruntime_alone(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    OnnxValues(model)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs the extra `onnx` \(onnxruntime is missing\)"):
        OnnxValues(model)


# Files from strangers


def described(model, **changes):
    """The model with another description."""
    edited = onnx.load_from_string(model)
    description = json.loads(edited.metadata_props[0].value) | changes
    edited.metadata_props[0].value = json.dumps(description)
    return edited.SerializeToString()


def foreign():
    """A model of another program."""
    given, taken = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"
    )
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [given], [taken])
    opset = onnx.helper.make_opsetid("", 20)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        (lambda model: b"", "is no ONNX file of rlarcade, or it is damaged"),
        (lambda model: b"hello" * 100, "is no ONNX file of rlarcade, or it is damaged"),
        (lambda model: model[: len(model) // 2], "is no ONNX file of rlarcade, or it is damaged"),
        (lambda model: model.replace(b"values.b", b"value\xff.b", 1), "damaged ('utf-8' codec"),
        (lambda model: foreign(), "its description of an agent: 'game' is missing"),
        (lambda model: described(model, game="\x1b[31m"), "unknown game '\\x1b[31m'"),
        (lambda model: described(model, actions=NAMES[:5]), "its inputs and outputs are"),
        (lambda model: described(model, actions=[]), "'actions' must have at least 1 part"),
        (lambda model: described(model, version="../../x"), "'version' must be text of the form"),
        (lambda model: described(model, more=1), "'more' is unknown"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, model, altered, said, capfd):
    path = tmp_path / "agent.onnx"
    path.write_bytes(altered(model))
    with pytest.raises(CheckpointError) as told:
        OnnxValues.load(path)
    line = str(told.value)
    assert said in line
    assert line.isprintable()
    assert len(line) < 700
    assert capfd.readouterr() == ("", ""), "onnxruntime prints nothing"


def test_a_file_whose_values_are_not_what_it_declares_is_refused(model):
    for wrong, said in (([1, 6], r"of two observations are \(1, 6\)"), ([5, -1], "damaged")):
        edited = onnx.load_from_string(model)
        (last,) = [node for node in edited.graph.node if "q_values" in node.output]
        last.output[0] = "inner"
        (argmax,) = [node for node in edited.graph.node if "action" in node.output]
        argmax.input[0] = "inner"
        if wrong == [1, 6]:  # the first row alone
            zero = [numpy_helper.from_array(np.array([0]), "zero")]
            node = onnx.helper.make_node("Gather", ["inner", "zero"], ["q_values"], axis=0)
        else:  # 12 values cannot be rows of 5
            zero = [numpy_helper.from_array(np.array(wrong), "zero")]
            node = onnx.helper.make_node("Reshape", ["inner", "zero"], ["q_values"])
        edited.graph.initializer.extend(zero)
        edited.graph.node.append(node)
        with pytest.raises(CheckpointError, match=said):
            OnnxValues(edited.SerializeToString())


def test_no_other_file_is_read_in_place_of_weights(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    edited = onnx.load_from_string(model)
    for tensor in edited.graph.initializer:
        if tensor.name == "network.head.values.bias":
            Path("secret").write_bytes(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="secret")
    Path("agent.onnx").write_bytes(edited.SerializeToString())
    with pytest.raises(CheckpointError, match="is no ONNX file of rlarcade"):
        OnnxValues.load("agent.onnx")


def test_a_pipe_and_nothing_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="it is a FIFO"):
        OnnxValues.load(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="cannot read .*none: No such file"):
        OnnxValues.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="an ONNX file cannot be 3"):
        OnnxValues.load(3)
