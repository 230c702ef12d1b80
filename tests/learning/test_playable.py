"""No more weights are read than the network of a manifest has."""

import json
import os
import resource

import pytest
import torch
from torch import nn

from rlarcade.checkpoint import load_checkpoint
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.named import named_players
from rlarcade.playing.references import load_named

SIZE = 1_900_000_000


@pytest.fixture
def swollen(tmp_path):
    """A checkpoint of a small network, with a sparse file of zeros for weights."""
    DQNAgent(TrainConfig(game="pong", hidden_units=4), num_actions=6).save(tmp_path)
    os.truncate(tmp_path / "weights.safetensors", SIZE)
    return tmp_path


def with_network(folder, **settings):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["network"] |= settings
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "load", [DQNAgent.load, load_named, lambda path: named_players([str(path)])]
)
def test_weights_that_are_larger_than_their_network_are_refused_before_they_are_read(swollen, load):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="has 1,900,000,000 bytes, more than the 1") as told:
        load(swollen)
    assert "The network in its manifest needs no more" in str(told.value)
    assert "torso=module" in str(told.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_weights_are_read_up_to_what_their_network_may_have(swollen, monkeypatch):
    monkeypatch.setattr("rlarcade.checkpoint._USUAL_WEIGHTS", 100)
    with_network(swollen, hidden_units=100)  # 3136 · 100 · 4 bytes and some, 10 MB for names
    os.truncate(swollen / "weights.safetensors", 11_200_000)
    with pytest.raises(CheckpointError, match="is damaged: its sha256"):
        DQNAgent.load(swollen)
    os.truncate(swollen / "weights.safetensors", 11_700_000)
    with pytest.raises(CheckpointError, match="has 11,700,000 bytes, more than the 11,5"):
        DQNAgent.load(swollen)


def test_large_weights_of_no_network_at_all_are_refused_by_their_manifest(swollen):
    with_network(swollen, hidden_units=-1)
    with pytest.raises(CheckpointError, match="describes a network that cannot be built"):
        DQNAgent.load(swollen)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(30))

    def forward(self, frames):
        return self.weights.expand(len(frames), 30) * frames.float().mean()


def test_a_torso_of_ones_own_may_have_any_size(tmp_path, monkeypatch):
    agent = DQNAgent(TrainConfig(game="pong", hidden_units=4), num_actions=6, torso=Wide())
    agent.save(tmp_path)
    monkeypatch.setattr("rlarcade.checkpoint._USUAL_WEIGHTS", 100)
    monkeypatch.setattr("rlarcade.learning.networks.weights_bytes", lambda *_: -10_000_000)
    assert DQNAgent.load(tmp_path, torso=Wide()).version == agent.version
    assert load_checkpoint(tmp_path).tensors
    with pytest.raises(CheckpointError, match=r"more than the 100 .* with a custom torso"):
        DQNAgent.load(tmp_path)
