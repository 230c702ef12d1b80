"""Lets models of CleanRL play: state dicts of dqn_atari, c51_atari and ppo_atari.

    python -m rlarcade.compare cleanrl_agent:make=old.pt cleanrl_agent:make=new.pt --game Breakout

Copy this file and `atari_game.py` into your working directory, and change them as you like. It
plays as the wrappers in CleanRL's scripts do. `make` takes the best action. `make_sampled` draws
the actions of PPO, as its script does.

CleanRL's `--save-model` writes DQN and C51. Save PPO in the same way, at the end of its script:
`torch.save(agent.state_dict(), "ppo.pt")`. Files are read with `weights_only=True`, which opens no
pickles of objects.
"""

import pickle

import torch
from atari_game import WrappedGame, cleanrl_frame, digest_of, has_fire
from torch import nn

from rlarcade import ConfigError


def make(game, path):
    """Returns the policy of a file, which takes its best action."""
    return Agent(game, path)


def make_sampled(game, path):
    """Returns the policy of a file of PPO, which draws its actions."""
    return Agent(game, path, sampled=True)


class Agent:
    """A model that sees screens. It plays many games at a time, each with frames of its own."""

    sees = "screen"

    def __init__(self, game, path, *, sampled=False):
        weights = load_weights(path)
        self.atoms = weights.pop("atoms", None)
        is_ppo = "actor.weight" in weights
        if sampled and not is_ppo:
            raise ConfigError(f"{path} has values and no probabilities. Use cleanrl_agent:make.")
        self.sampled = sampled
        self.network = filled(path, weights, is_ppo)
        outputs = self.network[-1].out_features
        self.num_actions = outputs if self.atoms is None else outputs // len(self.atoms)
        self.fires = has_fire(game, self.num_actions)
        tensors = self.network.state_dict() | ({} if self.atoms is None else {"atoms": self.atoms})
        self.version = digest_of(tensors, "sampled" if sampled else "best")

    def new_game(self, rng):
        """Returns the policy of one game."""
        return WrappedGame(
            lambda frames: self.action(frames, rng),
            frame=cleanrl_frame,
            fires=self.fires,
            padding="first",  # gym's FrameStack
        )

    @torch.inference_mode()
    def action(self, frames, rng):
        """Returns an action for uint8 (4, 84, 84)."""
        outputs = self.network(torch.as_tensor(frames)[None] / 255.0)[0]
        if self.atoms is not None:  # C51: the mean of each action's distribution
            shares = torch.softmax(outputs.view(self.num_actions, len(self.atoms)), dim=1)
            outputs = (shares * self.atoms).sum(1)
        if not self.sampled:
            return int(outputs.argmax())
        shares = torch.softmax(outputs.double(), dim=0).numpy()
        return rng.choice(len(shares), p=shares / shares.sum())


def load_weights(path):
    """Returns the tensors of a file.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, IndexError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} holds more than tensors and plain values. A pickle can run any program when "
            "it is opened, so this adapter opens none. Save model.state_dict(), not the model."
        ) from error
    weights = saved.get("model_weights", saved) if isinstance(saved, dict) else None
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ConfigError(f"{path} is no state dict.")
    return dict(weights)


def filled(path, weights, is_ppo):
    """Returns the network of CleanRL's scripts with these tensors.

    PPO's script has its last layer apart, as `actor`, and a `critic` that chooses no actions.
    """
    if is_ppo:
        weights = {name.replace("actor.", "network.9."): t for name, t in weights.items()}
        weights = {name: t for name, t in weights.items() if not name.startswith("critic.")}
    try:
        network = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 512),
            nn.ReLU(),
            nn.Linear(512, len(weights["network.9.bias"])),
        )
        network.load_state_dict({k.removeprefix("network."): t for k, t in weights.items()})
    except (KeyError, RuntimeError) as error:
        raise ConfigError(
            f"{path} holds none of the networks of dqn_atari, c51_atari and ppo_atari: {error}"
        ) from error
    return network.eval().requires_grad_(False)
