"""Lets models of Stable-Baselines3 play: zips of DQN, PPO, A2C, and QR-DQN (sb3-contrib).

    python -m rlarcade.compare sb3_agent:make=old.zip sb3_agent:make=new.zip --game Breakout

Copy this file and `atari_game.py` into your working directory, and change them as you like.

`make` plays as SB3's own `AtariWrapper` with stacked frames does, or from the colour screen if the
model was trained on it. It takes the best action, as SB3's `evaluate_policy` does. `make_sampled`
draws the actions of PPO and A2C by their probabilities. `make_plain` plays from rlarcade's own
observations: for models that were trained on `rlarcade/…` environments.

A zip holds tensors, JSON and pickles. The pickles are not opened: the network is built from the
JSON, and its tensors are read with `weights_only=True`. See `TRUST` for models that need more.
"""

import json
import os
import pickle
import zipfile

import numpy as np
import torch
from atari_game import WrappedGame, digest_of, has_fire, sb3_frame
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.dqn.policies import CnnPolicy as DQNCnnPolicy

from rlarcade import ConfigError

TRUST = "RLARCADE_TRUST_PICKLES"
SETTINGS = {
    "n_quantiles",
    "net_arch",
    "normalize_images",
    "features_extractor_kwargs",
    "share_features_extractor",
}
"""Arguments of a policy that change its actions, and that JSON holds as they are."""
FOR_TRAINING = {"optimizer_class", "optimizer_kwargs", "ortho_init", ":type:", ":serialized:"}


def make(game, path):
    """Returns the policy of a zip, which takes its best action."""
    return Agent(game, path)


def make_sampled(game, path):
    """Returns the policy of a zip of PPO or A2C, which draws its actions."""
    return Agent(game, path, sampled=True)


def make_plain(game, path):  # noqa: ARG001 - the signature of every factory
    """Returns the policy of a zip that was trained on `rlarcade/…` environments."""
    return PlainAgent(path)


class Agent:
    """A model that sees screens. It plays many games at a time, each with frames of its own."""

    sees = "screen"  # uint8 (210, 160, 3), the lighter of the last two frames in each pixel

    def __init__(self, game, path, *, sampled=False):
        self.network = load_network(path)
        self.num_actions = int(self.network.action_space.n)
        self.channels, *size = self.network.observation_space.shape
        self.colour = tuple(size) == (210, 160) and self.channels % 3 == 0
        if not self.colour and tuple(size) != (84, 84):
            raise ConfigError(
                f"{path} plays from {self.network.observation_space.shape}, not from "
                "(stack, 84, 84) or (3 · stack, 210, 160)."
            )
        if sampled and not hasattr(self.network, "get_distribution"):
            raise ConfigError(f"{path} has values and no probabilities. Use sb3_agent:make.")
        self.sampled = sampled
        self.fires = has_fire(game, self.num_actions)
        self.version = version_of(self.network, "sampled" if sampled else "best")

    def new_game(self, rng):
        """Returns the policy of one game."""
        if self.colour:  # no wrapper but a stack
            return WrappedGame(
                lambda frames: self.action(frames.reshape(-1, 210, 160), rng),
                frame=lambda screen: screen.transpose(2, 0, 1),
                episodic=False,
                stack=self.channels // 3,
            )
        return WrappedGame(
            lambda frames: self.action(frames, rng),
            frame=sb3_frame,
            stack=self.channels,
            fires=self.fires,
        )

    def action(self, frames, rng):
        """Returns an action for uint8 frames, newest last."""
        if not self.sampled:
            return self.network.predict(frames[None], deterministic=True)[0]
        distribution = self.network.get_distribution(torch.as_tensor(frames[None]))
        shares = distribution.distribution.probs[0].double().numpy()
        return rng.choice(len(shares), p=shares / shares.sum())


class PlainAgent:
    """A model that sees rlarcade's observations. It remembers nothing."""

    def __init__(self, path):
        self.network = load_network(path)
        self.num_actions = int(self.network.action_space.n)
        self.version = version_of(self.network, "plain")
        if self.network.observation_space.shape != (4, 84, 84):
            shape = self.network.observation_space.shape
            raise ConfigError(f"{path} plays from {shape}, not from (4, 84, 84).")

    def __call__(self, observation):
        """Returns the best action for uint8 (4, 84, 84)."""
        return self.network.predict(observation[None], deterministic=True)[0]


def load_network(path):
    """Returns the network of a zip, on the CPU.

    Raises:
        ConfigError: it is no zip of SB3, or it needs its pickles.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            with archive.open("policy.pth") as file:
                weights = torch.load(file, map_location="cpu", weights_only=True)
        settings, shape = data["policy_kwargs"], data["observation_space"]["_shape"]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is no model that SB3 saved with .save(): {error}") from error
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"the weights of {path} hold more than tensors, so they are not opened: a pickle can "
            "run any program. Save the model anew with a current SB3."
        ) from error
    if any("lstm" in name for name in weights):
        raise ConfigError(f"{path} is a RecurrentPPO. Write an adapter such as recurrent_agent.py.")
    if os.environ.get(TRUST) == "1":
        network = algorithm_of(weights, data).load(path, device="cpu").policy
    else:
        network = built(path, settings, shape, weights)
    return network.eval().requires_grad_(False)


def built(path, settings, shape, weights):
    """Returns the network, built by SB3's own classes from the JSON, and filled with the tensors.

    Raises:
        ConfigError: the JSON does not tell enough.
    """
    unknown = sorted(set(settings) - SETTINGS - FOR_TRAINING)
    if unknown:
        raise ConfigError(told(path, f"its policy_kwargs have {', '.join(unknown)}"))
    settings = {name: value for name, value in settings.items() if name in SETTINGS}
    try:
        seen = spaces.Box(0, 255, tuple(shape), np.uint8)
        actions = spaces.Discrete(num_actions_of(weights, settings))
        network = class_of(weights)(seen, actions, lambda _: 0.0, **settings)
        missing, unknown = network.load_state_dict(weights, strict=False)
        # Before SB3 1.7, PPO and A2C saved the extractor that actor and critic share once.
        if unknown or any(not name.startswith(("pi_feat", "vf_feat")) for name in missing):
            raise ValueError(f"missing {missing[:2]}, unknown {unknown[:2]}")
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(told(path, f"it is no CnnPolicy ({error})")) from error
    return network


def class_of(weights):
    """Returns the class of a network, by the names of its tensors."""
    if "action_net.weight" in weights:
        return ActorCriticCnnPolicy
    if any(name.startswith("quantile_net.") for name in weights):
        from sb3_contrib.qrdqn.policies import CnnPolicy

        return CnnPolicy
    return DQNCnnPolicy


def algorithm_of(weights, data):
    """Returns the algorithm that saved a zip."""
    if "action_net.weight" in weights:
        return PPO if "clip_range" in data else A2C
    if any(name.startswith("quantile_net.") for name in weights):
        from sb3_contrib import QRDQN

        return QRDQN
    return DQN


def num_actions_of(weights, settings):
    """Returns the number of actions: outputs of the last layer."""
    if "action_net.bias" in weights:
        return len(weights["action_net.bias"])
    heads = ("q_net.q_net.", "quantile_net.quantile_net.")
    outputs = len([bias for name, bias in weights.items() if name.startswith(heads)][-1])
    quantiles = any(name.startswith(heads[1]) for name in weights)
    return outputs // settings.get("n_quantiles", 200) if quantiles else outputs


def told(path, reason):
    """Returns why the pickles are needed, and what to do."""
    return (
        f"{path} cannot be read without its pickles: {reason}. A pickle can run any program when "
        f"it is opened. If you trust whoever made this file, set {TRUST}=1."
    )


def version_of(network, kind):
    """Returns a digest of all that the actions depend on: tensors, and settings beside them."""
    tensors = {k: v for k, v in network.state_dict().items() if "target" not in k}
    return digest_of(tensors, kind, str(network), network.normalize_images)
