"""Lets an agent with a memory play that sees the screen: CleanRL's ppo_atari_lstm.

    python -m rlarcade.evaluate recurrent_agent:make=ppo_lstm.pt --game Breakout

Copy this file and `atari_game.py` into your working directory. Save the agent at the end of
CleanRL's script with `torch.save(agent.state_dict(), "ppo_lstm.pt")`. Many games are played at a
time: `new_game` gives each game a memory of its own, and all share the weights.
"""

import torch
from atari_game import WrappedGame, cleanrl_frame, digest_of, has_fire
from torch import nn


class Net(nn.Module):
    """CleanRL's network: it sees one frame, and remembers the others."""

    def __init__(self, num_actions):
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512)),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(512, 128)
        self.actor, self.critic = nn.Linear(128, num_actions), nn.Linear(128, 1)


def make(game, path):
    """Returns the agent, which takes the most probable action."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    net = Net(num_actions=len(weights["actor.bias"])).eval()
    net.load_state_dict(weights)
    return Agent(net, game)


class Agent:
    """What all games share."""

    sees = "screen"  # uint8 (210, 160, 3)

    def __init__(self, net, game):
        self.net = net
        self.num_actions = net.actor.out_features
        self.fires = has_fire(game, self.num_actions)
        self.version = digest_of(net.state_dict())

    def new_game(self, rng):  # noqa: ARG002 - for agents that draw
        """Returns the policy of one game."""
        return Game(self)


class Game(WrappedGame):
    """One game: the frame and the memory."""

    def __init__(self, agent):
        self.net = agent.net
        super().__init__(self.action, frame=cleanrl_frame, stack=1, fires=agent.fires)

    def begin(self):
        """Forgets everything, as in training after a lost life."""
        super().begin()
        self.memory = None

    @torch.inference_mode()
    def action(self, frames):
        """Returns the most probable action for uint8 (1, 84, 84), and remembers the frame."""
        hidden = self.net.network(torch.as_tensor(frames)[None] / 255.0)
        hidden, self.memory = self.net.lstm(hidden[None], self.memory)
        return int(self.net.actor(hidden[0]).argmax())
