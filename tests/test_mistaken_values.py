"""A value of the wrong kind, given in Python, is told in one line of rlarcade's own."""

from pathlib import Path

import pytest
import torch

import rlarcade
from rlarcade import config
from rlarcade.errors import RlarcadeError
from rlarcade.games import get_protocol, make_env, resolve_game
from rlarcade.learning.agent import DQNAgent

EARLY = Path(__file__).parent / "data" / "space-invaders-early"
LONG = "x" * 5_000


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
    ],
)
def test_a_name_of_thousands_of_characters_takes_no_page(call):
    assert len(refusal(call)) < 600


CONFIG = config.TrainConfig(game="pong", conv_channels=(2, 2, 2), hidden_units=4)


@pytest.mark.parametrize("device", [None, -1, "", 3.5, [], True, b"cpu", "a\0b", "tpu", "mps"])
def test_a_device_is_a_cpu_or_a_gpu(device):
    line = refusal(lambda: DQNAgent(CONFIG, num_actions=6, device=device))
    assert line == f"an agent lives on device 'cpu' or 'cuda', got {device!r}."


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
