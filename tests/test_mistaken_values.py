"""A value of the wrong kind, given in Python, is told in one line of rlarcade's own."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import rlarcade
from rlarcade import config
from rlarcade.errors import RlarcadeError
from rlarcade.evaluation import (
    Comparison,
    Rule,
    compare_agents,
    compare_all,
    compare_suite,
    evaluate_agent,
)
from rlarcade.evaluation.document_files import load_recordings
from rlarcade.games import display_name, get_protocol, make_env, resolve_game
from rlarcade.learning.onnx_file import OnnxValues, export_onnx
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.state import TrainingState
from rlarcade.learning.training import train_agent
from rlarcade.playing import Player, play_steps
from rlarcade.playing.references import load_named
from rlarcade.promotion.gate import load_gate
from rlarcade.registry.registry import Registry
from rlarcade.registry.store import default_actor
from rlarcade.toml_files import read_toml

EARLY = Path(__file__).parent / "data" / "space-invaders-early"
LONG = "x" * 5_000
RANDOM = rlarcade.RandomPlayer("pong")


def still(observation):
    return 0


@cache
def early():
    return DQNAgent.load(EARLY)


ALSO = rlarcade.Player(still, game="pong", version="still")


def refusal(call):
    """What rlarcade says of a mistake; any other error is a failure of the test."""
    with pytest.raises(RlarcadeError) as told:
        call()
    line = str(told.value)
    assert line.isprintable()
    assert line.endswith((".", "?"))
    return line


@pytest.mark.parametrize(
    "call",
    [
        lambda: resolve_game(LONG),
        lambda: get_protocol(LONG),
        lambda: make_env("pong", render_mode=LONG),
        lambda: config.load_preset(LONG),
        lambda: config.load_preset(LONG + ".toml"),
        lambda: config.make_settings(LONG, {"game": "pong", LONG: 1}),
        lambda: config.make_settings("quick", {"game": "pong", "seed": LONG}),
        lambda: config.TrainConfig(game="pong", **{LONG: 1}),
        lambda: config.TrainConfig(game="pong", device=f"cuda:{'1' * 5_000}"),
        lambda: config.TrainConfig(game="pong", protocol=LONG),
        lambda: rlarcade.Protocol(name=LONG),
        lambda: rlarcade.load_checkpoint(LONG),
        lambda: rlarcade.load_checkpoint("/".join(["x" * 200] * 30)),
        lambda: rlarcade.evaluate_agent(LONG),
        lambda: rlarcade.evaluate_agent(RANDOM, record=LONG),
        lambda: rlarcade.compare_all([RANDOM, ALSO], record=LONG),
        lambda: rlarcade.Registry.open(LONG),
    ],
)
def test_a_name_of_thousands_of_characters_takes_no_page(call):
    assert len(refusal(call)) < 1_000


CONFIG = config.TrainConfig(game="pong", conv_channels=(2, 2, 2), hidden_units=4)


@pytest.mark.parametrize("device", [None, -1, "", 3.5, [], True, b"cpu", "a\0b", "tpu", "mps"])
def test_a_device_is_a_cpu_or_a_gpu(device):
    line = refusal(lambda: DQNAgent(CONFIG, num_actions=6, device=device))
    assert line == f"an agent's device is 'cpu' or 'cuda', got {device!r}."


@pytest.mark.parametrize(
    ("device", "there", "seen"),
    [
        ("cuda", 0, "no CUDA device"),
        ("cuda:0", 0, "no CUDA device"),
        ("cuda:1", 1, "1 CUDA device"),
        (torch.device("cuda", 7), 4, "4 CUDA devices"),
    ],
)
def test_a_gpu_that_is_not_there_is_told_with_those_that_are(device, there, seen, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    line = refusal(lambda: DQNAgent.load(EARLY, device=device))
    assert line == (
        f"device {device} was asked for, but torch {torch.__version__} sees {seen} here. Use "
        "device cpu, or install a CUDA build of torch."
    )
    assert DQNAgent.load(EARLY, device="cpu").device.type == "cpu"


WRONG = [None, -1, "", 3.5, float("nan"), [], object(), {}, b"x", True]
NO_TEXT = [value for value in WRONG if not isinstance(value, str)]
NO_SHARE = [value for value in WRONG if value != 3.5] + [0, 1.5, "0.1"]
PAIRS = [(RANDOM, ALSO)]

CALLS = {
    # of each what is called, and what it cannot be called with
    "checkpoint": (rlarcade.load_checkpoint, NO_TEXT),
    "agent": (DQNAgent.load, NO_TEXT),
    "ONNX file": (OnnxValues.load, NO_TEXT),
    "agent of an export": (lambda x: export_onnx(x, "agent.onnx"), WRONG),
    "agent in onnxruntime": (OnnxValues.of, WRONG),
    "file of an export": (lambda x: export_onnx(early(), x), NO_TEXT),
    "agent's folder": (lambda x: early().save(x), [*WRONG, ".", "/"]),
    "registry": (Registry.open, NO_TEXT),
    "seconds of a registry": (lambda x: Registry.open("r", busy_seconds=x), [None, "", [], {}]),
    "export": (lambda x: Registry.import_(x, "r"), NO_TEXT),
    "registry to be": (lambda x: Registry.import_("nothing", x), NO_TEXT),
    "actor": (default_actor, [value for value in NO_TEXT if value is not None]),
    "record": (
        lambda x: evaluate_agent(RANDOM, record=x),
        [value for value in NO_TEXT if value is not None],
    ),
    "records": (
        lambda x: compare_all([RANDOM, ALSO], record=x),
        [value for value in NO_TEXT if value is not None],
    ),
    "records of a suite": (
        lambda x: compare_suite(PAIRS, record=x),
        [value for value in NO_TEXT if value is not None],
    ),
    "rule": (lambda x: compare_agents(RANDOM, ALSO, rule=x), [-1, "", 3.5, [], object(), True]),
    "record of a match": (
        lambda x: compare_agents(RANDOM, ALSO, record=x),
        [value for value in NO_TEXT if value is not None],
    ),
    "dice": (lambda x: compare_agents(RANDOM, ALSO, same_dice=x), [None, 3.5, "", [], {}]),
    "margin": (Rule.non_inferiority, NO_SHARE),
    "alpha": (Rule.which_is_better, NO_SHARE),
    "alpha of all": (lambda x: compare_all([RANDOM, ALSO], alpha=x), NO_SHARE),
    "players": (compare_all, WRONG),
    "games": (compare_suite, [*WRONG, "x", [1], ["xy"], [(RANDOM,)], [{}], [(1, 2)]]),
    "rule of a suite": (lambda x: compare_suite(PAIRS, rule=x), WRONG),
    "guard": (lambda x: compare_suite(PAIRS, guard=x), WRONG),
    "margin of a suite": (lambda x: compare_suite(PAIRS, margin=x), NO_SHARE),
    "seconds": (lambda x: Player(still, game="pong", decision_seconds=x), [*NO_TEXT[:2], 0, "1"]),
    "name": (lambda x: Player(still, game="pong", name=x), NO_TEXT),
    "version": (lambda x: Player(still, game="pong", version=x), NO_TEXT[1:]),
    "environment": (lambda x: play_steps(RANDOM, x), WRONG[1:]),
    "use": (lambda x: evaluate_agent(RANDOM, use=x), WRONG),
    "run": (train_agent, WRONG),
    "settings": (TrainingState.create, WRONG),
    "parent": (lambda x: TrainingState.create(CONFIG, init_from=x), WRONG[1:]),
    "settings of an agent": (lambda x: DQNAgent(x, num_actions=6), WRONG),
    "actions": (lambda x: DQNAgent(CONFIG, num_actions=x), [*WRONG[:-1], 0]),
    "precision": (lambda x: DQNAgent(CONFIG, num_actions=6, precision=x), [*WRONG, "fp16"]),
    "seed": (lambda x: DQNAgent(CONFIG, num_actions=6, seed=x), WRONG),
    "torso": (lambda x: DQNAgent(CONFIG, num_actions=6, torso=x), WRONG[1:]),
    "torso to load": (lambda x: DQNAgent.load(EARLY, torso=x), WRONG[1:]),
    "name of a game": (display_name, NO_TEXT),
    "document": (lambda x: Comparison(champion=x), WRONG),
}


@pytest.mark.parametrize(("call", "wrong"), CALLS.values(), ids=list(CALLS))
def test_what_is_of_another_kind_is_told_in_one_line(call, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in wrong:
        line = refusal(lambda value=value: call(value))
        assert len(line) < 400, line
        for leak in ("pydantic", "http", "NoneType", "attribute", "has no len"):
            assert leak not in line, line


def test_what_is_right_is_taken_as_before(tmp_path):
    assert Rule.non_inferiority(np.float32(0.25)).null == 0.25
    assert Player(still, game="pong", decision_seconds=np.int64(3)).name == "policy"
    with Registry.open(str(tmp_path / "r")) as registry:
        assert registry.folder == tmp_path / "r"
        registry.export(str(tmp_path / "r.tar"))
    Registry.import_(str(tmp_path / "r.tar"), str(tmp_path / "again")).close()


NUL = "a\0b"


@pytest.mark.parametrize(
    "call",
    [
        lambda: rlarcade.load_checkpoint(NUL),
        lambda: DQNAgent.load(Path(NUL) / "weights.safetensors"),
        lambda: OnnxValues.load(NUL),
        lambda: export_onnx(early(), NUL),
        lambda: early().save(NUL),
        lambda: Registry.open(NUL),
        lambda: Registry.open(Path(NUL), create=False),
        lambda: Registry.import_(NUL, "r"),
        lambda: Registry.import_("r.tar", NUL),
        lambda: evaluate_agent(RANDOM, record=Path(NUL)),
        lambda: compare_agents(RANDOM, ALSO, record=NUL),
        lambda: compare_all([RANDOM, ALSO], record=NUL),
        lambda: compare_suite(PAIRS, record=NUL),
        lambda: config.RunSettings(run_dir=NUL),
        lambda: config.RunSettings(registry=Path(NUL)),
        lambda: config.make_settings("quick", {"game": "pong", "gate": NUL}),
        lambda: config.make_settings("quick", {"game": "pong", "init_from": NUL}),
        lambda: config.load_preset(NUL + ".toml"),
        lambda: read_toml(Path(NUL), "preset"),
        lambda: load_gate(Path(NUL)),
        lambda: load_recordings(Path(NUL)),
        lambda: load_named(NUL),
    ],
)
def test_a_path_with_a_nul_character_is_refused_without_a_codecs_words(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(call)
    assert "NUL character" in line
    assert "embedded" not in line
    assert not list(tmp_path.iterdir())
