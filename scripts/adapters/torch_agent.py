"""Lets a PyTorch module of your own play. Put your network in place of `Net`.

    python -m rlarcade.compare champion@breakout torch_agent:make=mine.pt

Copy this file into your working directory. Save your network with
`torch.save(net.state_dict(), "mine.pt")`.
"""

import hashlib
from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    """Values of actions, float32 (B, A), of observations uint8 (B, 4, 84, 84)."""

    def __init__(self, num_actions):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 16, 8, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(6400, num_actions)
        )

    def forward(self, observation):
        """Returns the values."""
        return self.layers(observation / 255.0)


def make(game, path):  # noqa: ARG001 - yours may depend on the game
    """Returns a policy that takes the action with the highest value."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    net = Net(num_actions=len(weights["layers.3.bias"])).eval()
    net.load_state_dict(weights)

    @torch.inference_mode()
    def policy(observation):  # uint8 (4, 84, 84), newest frame last
        return int(net(torch.as_tensor(observation)[None]).argmax())

    policy.num_actions = net.layers[3].out_features
    policy.version = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return policy
