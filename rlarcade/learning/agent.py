"""The DQN agent: acts, learns, is saved and loaded."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlarcade.checkpoint import Checkpoint, Counters, Manifest, load_checkpoint, save_checkpoint
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import FRAMESKIP, SCREEN, STACK, Protocol, get_protocol
from rlarcade.games.single import GameEnv, make_env
from rlarcade.learning.losses import double_target, huber_td_loss, max_target
from rlarcade.learning.networks import QNetwork, build_network
from rlarcade.learning.replay import Batch

# Rows of one forward for acting. torch picks kernels by batch size, and their rounding differs (on
# the CPUs tried: batches of 1-3 and of 5-7 against the rest), so observations are always taken this
# many at a time, padded with zeros: the same observation then gives the same bits, alone or in any
# company.
_ROWS = {"cpu": 8, "cuda": 64}

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Update:
    """What one gradient step did. Tensors, so that only a logger waits for the GPU."""

    loss: Tensor
    """float32 (), mean over the batch."""
    mean_q: Tensor
    """float32 (), mean of Q(s, a) over the batch and all actions."""


class DQNAgent:
    """A deep Q-network with what it needs to act and to learn.

    Attributes:
        game: ROM id.
        protocol: how it plays.
        num_actions: actions of the game under the protocol.
        online: the network that learns and acts.
        target: its frozen copy, which values next observations.
        manifest: of the checkpoint it was loaded from, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        num_actions: int,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        seed: int = 0,
    ) -> None:
        """Makes an agent with random weights, drawn from `seed` alone.

        Args:
            config: settings of learning; those of the run around it are not used.
            num_actions: actions of the game.
            device: where the networks live.
            precision: arithmetic of the torso.
            seed: of the initial weights.
        """
        network = {
            "conv_channels": list(config.conv_channels),
            "hidden_units": config.hidden_units,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            online = build_network(num_actions, network)
        self._set_up(config, network, online, num_actions, device, precision)

    def _set_up(
        self,
        config: TrainConfig,
        network: dict[str, Any],
        online: QNetwork,
        num_actions: int,
        device: str,
        precision: Literal["fp32", "bf16"],
    ) -> None:
        self.config, self.num_actions = config, num_actions
        self.game = resolve_game(config.game)
        self.protocol: Protocol = get_protocol(config.protocol)
        self.device = torch.device(device)
        self.network = network
        self.manifest: Manifest | None = None
        online.dtype = _DTYPES[precision]
        self.online = online.to(self.device)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.online.parameters(), lr=config.learning_rate, eps=config.adam_eps, fused=True
        )
        self._loss = torch.compile(self._compute_loss) if config.compile else self._compute_loss

    # Acting

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns Q(s, ·), float32 (B, A), of observations uint8 (B, 4, 84, 84).

        An observation's values are the same bits alone or in any batch.

        Raises:
            ValueError: another shape or dtype.
        """
        if observation.shape[1:] != (STACK, SCREEN, SCREEN) or observation.dtype != np.uint8:
            raise ValueError(
                f"observations are uint8 (B, {STACK}, {SCREEN}, {SCREEN}), newest frame last; got "
                f"{observation.dtype} {observation.shape}"
            )
        rows = _ROWS[self.device.type]
        values = np.empty((len(observation), self.num_actions), dtype=np.float32)
        with torch.inference_mode():
            for first in range(0, len(observation), rows):
                some = observation[first : first + rows]
                padded = torch.zeros((rows, STACK, SCREEN, SCREEN), dtype=torch.uint8)
                padded[: len(some)] = torch.from_numpy(np.ascontiguousarray(some))
                q_values: Tensor = self.online(padded.to(self.device))
                values[first : first + rows] = q_values[: len(some)].cpu().numpy()
        return values

    def act(
        self, observation: NDArray[np.uint8], epsilon: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Returns ε-greedy actions, int64 (B,), for observations uint8 (B, 4, 84, 84).

        The same count of random numbers is drawn whatever epsilon is.
        """
        explore = rng.random(len(observation)) < epsilon
        actions = rng.integers(0, self.num_actions, len(observation))
        if not explore.all():
            greedy = self.q_values(observation).argmax(axis=1)
            actions = np.where(explore, actions, greedy)
        return actions

    def predict(
        self,
        obs: NDArray[np.uint8],
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Chooses actions, with the signature that Stable-Baselines3's evaluators expect.

        Args:
            obs: uint8 (4, 84, 84) for one action, or (B, 4, 84, 84) for B.
            state: returned as it is; the agent has no memory.
            episode_start: not used, for the same reason.
            deterministic: greedy; otherwise ε-greedy with the protocol's evaluation ε, drawn anew.

        Returns:
            An int64 scalar or (B,), and `state`.
        """
        del episode_start
        single = obs.ndim == 3
        batch = obs[None] if single else obs
        epsilon = 0.0 if deterministic else self.protocol.evaluation_epsilon
        actions = self.act(batch, epsilon, np.random.default_rng())
        return (actions[0] if single else actions), state

    # Learning

    def update(self, batch: Batch) -> Update:
        """Takes one gradient step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, mean_q = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.online.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return Update(loss=loss.detach(), mean_q=mean_q)

    def _compute_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            next_q: Tensor = self.target(batch.next_observation)
            if self.config.double:
                picks: Tensor = self.online(batch.next_observation)
                target = double_target(batch.reward, batch.discount, picks, next_q)
            else:
                target = max_target(batch.reward, batch.discount, next_q)
        q_values: Tensor = self.online(batch.observation)
        loss = huber_td_loss(q_values, batch.action, target).mean()
        return loss, q_values.detach().mean()

    def sync_target(self) -> None:
        """Copies the online network to the target network."""
        with torch.no_grad():
            for frozen, learned in zip(
                self.target.parameters(), self.online.parameters(), strict=True
            ):
                frozen.copy_(learned)

    # On disk

    def weights(self) -> dict[str, NDArray[Any]]:
        """Returns the online network's parameters by name, float32."""
        return _arrays(self.online)

    def load_weights(self, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
        """Takes parameters by name into both networks.

        Raises:
            CheckpointError: they are of another network.
        """
        _fill(self.online, tensors, where)
        self.sync_target()

    def save(
        self,
        path: str | Path,
        *,
        steps: int = 0,
        updates: int = 0,
        preset: str | None = None,
        parent: str | None = None,
        git_commit: str | None = None,
    ) -> Manifest:
        """Writes a policy checkpoint.

        Args:
            path: its folder.
            steps: agent steps that made it.
            updates: gradient steps that made it.
            preset: name of the preset it was trained with.
            parent: sha256 of the weights it started from.
            git_commit: of the code that trained it.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        return save_checkpoint(
            Path(path),
            self.weights(),
            game=self.game,
            protocol=self.protocol,
            num_actions=self.num_actions,
            network=self.network,
            counters=Counters(steps=steps, frames=steps * FRAMESKIP, updates=updates),
            config=self.config.model_dump(mode="json"),
            preset=preset,
            seed=self.config.seed,
            parent=parent,
            git_commit=git_commit,
        )

    @classmethod
    def load(cls, path: str | Path | Checkpoint, *, device: str = "cpu") -> Self:
        """Loads an agent from a policy checkpoint; no code of the checkpoint's is run.

        It acts in fp32, so that a checkpoint plays the same game on every machine of a kind.

        Args:
            path: a checkpoint's folder, or a run folder, which means its newest.
            device: where the networks live.

        Raises:
            CheckpointError: nothing is there, or it is damaged, foreign or hostile.
        """
        checkpoint = path if isinstance(path, Checkpoint) else load_checkpoint(path)
        manifest = checkpoint.manifest
        try:
            config = TrainConfig.model_validate(manifest.config)
            online = build_network(manifest.num_actions, manifest.network)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} describes a network that cannot be built ({error}). "
                "It was written by another rlarcade, or altered."
            ) from error
        agent = cls.__new__(cls)
        agent._set_up(config, manifest.network, online, manifest.num_actions, device, "fp32")
        agent.manifest = manifest
        agent.game, agent.protocol = resolve_game(manifest.game), manifest.protocol
        agent.load_weights(dict(checkpoint.tensors), checkpoint.path)
        return agent

    def make_env(self, render_mode: str | None = None) -> GameEnv:
        """Makes the game that this agent was trained to play, under its protocol."""
        return make_env(self.game, protocol=self.protocol, render_mode=render_mode)

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns everything that learning needs to go on: both networks and the optimizer."""
        arrays = {f"online.{name}": array for name, array in self.weights().items()}
        arrays |= {f"target.{name}": array for name, array in _arrays(self.target).items()}
        for name, parameter in self.online.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                arrays[f"adam.{key}.{name}"] = value.detach().cpu().numpy().copy()
        return arrays

    def restore(self, arrays: dict[str, NDArray[Any]], where: Path | str) -> None:
        """Goes on from a `state()`.

        Raises:
            CheckpointError: it is of another network.
        """
        parts: dict[str, dict[str, NDArray[Any]]] = {"online": {}, "target": {}, "adam": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = array
        _fill(self.online, parts["online"], where)
        _fill(self.target, parts["target"], where)
        for name, parameter in self.online.named_parameters():
            moments = {
                key: torch.from_numpy(parts["adam"][f"{key}.{name}"].copy())
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in parts["adam"]
            }
            if not moments:
                continue
            for key in ("exp_avg", "exp_avg_sq"):
                # the parameter's own memory order, which the fused step expects
                moments[key] = torch.empty_like(parameter).copy_(moments[key])
            moments["step"] = moments["step"].to(parameter.device)
            self.optimizer.state[parameter] = moments


def _arrays(network: QNetwork) -> dict[str, NDArray[Any]]:
    return {name: t.detach().cpu().numpy().copy() for name, t in network.state_dict().items()}


def _fill(network: QNetwork, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
    """Copies arrays into a network's parameters, keeping their memory order."""
    own = network.state_dict()
    foreign = {name: array.shape for name, array in tensors.items() if name not in own}
    missing = sorted(set(own) - set(tensors))
    wrong = [
        f"{name} is {tensors[name].dtype} {tensors[name].shape}, "
        f"not float32 {tuple(own[name].shape)}"
        for name in own
        if name in tensors
        and (tensors[name].shape != tuple(own[name].shape) or tensors[name].dtype != np.float32)
    ]
    if foreign or missing or wrong:
        problem = wrong[0] if wrong else f"missing {missing[:2]}, unknown {sorted(foreign)[:2]}"
        raise CheckpointError(
            f"the tensors of {where} do not fit the network that its manifest describes: {problem}."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.array(tensors[name])))
