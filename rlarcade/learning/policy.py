"""The policy: a Q-network that plays a game. It knows no optimizer and no target network.

An agent is made from the network, the game and the protocol in a checkpoint's manifest. The
settings of its training are only kept, to be written into its checkpoints again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rlarcade.checked import path_of, reason, require
from rlarcade.checkpoint import (
    Checkpoint,
    Counters,
    Manifest,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError, ConfigError, PolicyError
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import FRAMESKIP, SCREEN, STACK, Protocol, get_protocol
from rlarcade.games.single import GameEnv, make_env
from rlarcade.learning.acting import (
    are_observations,
    kind_of,
    not_finite,
    require_observations,
    toss,
)
from rlarcade.learning.hardware import one_thread, sent_to, torch_device
from rlarcade.learning.networks import (
    QNetwork,
    are_rounded,
    arrays_of,
    as_float16,
    build_network,
    check_fit,
    fill,
)
from rlarcade.learning.playable import load_playable
from rlarcade.seeding import checked_seed
from rlarcade.text import quoted

# Rows of one forward pass for acting. torch picks kernels by batch size, and their rounding
# differs. Observations are therefore padded with zeros to a fixed number of rows: an observation
# then gives the same bits in every batch. On a CPU other numbers of rows are faster for few
# observations, or for many. Such a number is used only after a trial has shown that it gives the
# same bits. (On the CPUs tried, multiples of four do; fewer than four rows do not.)
_ROWS = {"cpu": 8, "cuda": 64}
_ROWS_STEP, _MOST_ROWS = 4, 16

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class DQNAgent:
    """A Q-network with its game: it values observations, chooses actions, is saved and loaded.

    A `Learner` trains an agent.

    Attributes:
        game: ROM id.
        protocol: the protocol under which the agent plays.
        num_actions: actions of the game under the protocol.
        network: settings of the network, as a manifest holds them.
        q_network: the network.
        device: device of the network.
        trained_with: settings of the training that makes the weights. Playing does not use them;
            checkpoints record them.
        manifest: manifest of the checkpoint that the agent was loaded from, or None.
        name: name of the agent in results: the path that it was loaded from, or "agent".
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        num_actions: int,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        seed: int = 0,
        torso: nn.Module | None = None,
    ) -> None:
        """Makes an agent with random weights, drawn from `seed` alone.

        Args:
            config: gives the network, the game and the protocol. Its other settings are only
                recorded.
            num_actions: actions of the game.
            device: device of the network: cpu, cuda or a numbered one such as cuda:1.
            precision: arithmetic of the torso.
            seed: seed of the initial weights.
            torso: your own module instead of the torso, uint8 (B, 4, 84, 84) to float (B, F). The
                agent's checkpoints can be loaded only with the same module.

        Raises:
            ConfigError: an argument is invalid, or the device does not exist here.
            ValueError: `torso` returns another shape or dtype.
        """
        require(config, TrainConfig, "config", "TrainConfig(game='Pong')")
        if not isinstance(num_actions, int | np.integer) or num_actions < 1:
            raise ConfigError(
                f"num_actions must be a whole number above 0, not {quoted(num_actions)}."
            )
        if precision not in tuple(_DTYPES):
            raise ConfigError(f"precision must be 'fp32' or 'bf16', not {quoted(precision)}.")
        checked_seed(seed)
        network = config.network.model_dump(mode="json")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            q_network = build_network(num_actions, network, torso)
        q_network.dtype = _DTYPES[precision]
        self._set_up(
            q_network,
            network=network,
            game=config.game,
            protocol=get_protocol(config.protocol),
            num_actions=num_actions,
            device=device,
            trained_with=config.model_dump(mode="json"),
            seed=config.seed,
        )

    def _set_up(
        self,
        q_network: QNetwork,
        *,
        network: dict[str, Any],
        game: str,
        protocol: Protocol,
        num_actions: int,
        device: str,
        trained_with: Mapping[str, Any],
        seed: int | None,
    ) -> None:
        self.game, self.protocol, self.num_actions = resolve_game(game), protocol, num_actions
        self.device = torch_device(device)
        self.network, self.q_network = network, q_network.to(self.device)
        self.trained_with, self._training_seed = dict(trained_with), seed
        self.manifest: Manifest | None = None
        self.name = "agent"
        self._rounded = False
        self._same_bits: dict[int, bool] = {}

    # Acting

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns Q(s, ·), float32 (B, A), of observations uint8 (B, 4, 84, 84).

        An observation gives the same bits in every batch and with any number of threads.

        Args:
            observation: newest frame last.

        Raises:
            ValueError: `observation` has another shape or dtype.
        """
        require_observations(observation)
        values = np.empty((len(observation), self.num_actions), dtype=np.float32)
        first = 0
        with one_thread():
            while first < len(observation):
                rows = self._rows_for(len(observation) - first)
                some = observation[first : first + rows]
                if len(some) < rows:
                    empty = np.zeros((rows - len(some), STACK, SCREEN, SCREEN), dtype=np.uint8)
                    some = np.concatenate([some, empty])
                values[first : first + rows] = self._values(some)[: len(observation) - first]
                first += rows
        return values

    def _rows_for(self, count: int) -> int:
        """Returns the rows of the forward pass for `count` observations, or the first of them."""
        standard = _ROWS[self.device.type]
        if self.device.type != "cpu":
            return standard
        rows = min(-(-count // _ROWS_STEP) * _ROWS_STEP, _MOST_ROWS)
        if rows not in self._same_bits:
            self._same_bits[rows] = rows == standard or self._has_bits_of(standard, rows)
        return rows if self._same_bits[rows] else standard

    def _has_bits_of(self, standard: int, rows: int) -> bool:
        """Whether forward passes of `rows` rows give the same bits as those of `standard` rows.

        That depends on the processor and on the network's shapes, not on its weights: kernels that
        add in another order differ in the last bits for almost all numbers.
        """
        shape = (max(standard, -(-rows // standard) * standard), STACK, SCREEN, SCREEN)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        parts = [self._values(noise[at : at + standard]) for at in range(0, len(noise), standard)]
        return np.array_equal(self._values(noise[:rows]), np.concatenate(parts)[:rows])

    def _values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One forward pass."""
        frames = sent_to(self.device, torch.from_numpy(np.ascontiguousarray(observation)))
        with torch.no_grad():
            values: NDArray[np.float32] = self.q_network(frames).cpu().numpy()
        return values

    def act(
        self, observation: NDArray[np.uint8], epsilon: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Returns ε-greedy actions, int64 (B,), for observations uint8 (B, 4, 84, 84).

        The number of draws from `rng` does not depend on epsilon.

        Raises:
            ValueError: `observation` has another shape or dtype.
            PolicyError: a Q-value is not finite.
        """
        explore, actions = toss(len(observation), self.num_actions, epsilon, rng)
        if not explore.all():
            q_values = self.q_values(observation)
            problem = not_finite(q_values, self.name)
            if problem is not None:
                raise PolicyError(
                    f"{problem}. Its weights are damaged, or its training diverged. Use an older "
                    "checkpoint."
                )
            actions = np.where(explore, actions, q_values.argmax(axis=1))
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
            state: returned unchanged; the agent has no memory.
            episode_start: not used, because the agent has no memory.
            deterministic: whether to act greedily. If not, actions are ε-greedy with the protocol's
                evaluation ε, from a new unseeded random generator.

        Returns:
            An int64 scalar or (B,), and `state`.

        Raises:
            ValueError: `obs` has another shape, dtype or type.
            PolicyError: a Q-value is not finite.
        """
        del episode_start
        if not are_observations(obs):
            hint = ""
            if isinstance(obs, tuple) and obs and are_observations(obs[0]):
                hint = ". An environment's reset returns (observation, info): give the observation"
            raise ValueError(
                f"observations are uint8 ({STACK}, {SCREEN}, {SCREEN}), or (B, {STACK}, {SCREEN}, "
                f"{SCREEN}) for B actions, newest frame last; got {kind_of(obs)}{hint}"
            )
        single = obs.ndim == 3
        batch = obs[None] if single else obs
        epsilon = 0.0 if deterministic else self.protocol.evaluation_epsilon
        actions = self.act(batch, epsilon, np.random.default_rng())
        return (actions[0] if single else actions), state

    def make_env(self, render_mode: str | None = None) -> GameEnv:
        """Makes an environment of the agent's game under the agent's protocol."""
        return make_env(self.game, protocol=self.protocol, render_mode=render_mode)

    # On disk

    def weights(self) -> dict[str, NDArray[Any]]:
        """Returns the tensors of the network by name, float32.

        After `round_weights` they are float16, until training changes them.
        """
        arrays = arrays_of(self.q_network)
        if not self._rounded:
            return arrays
        rounded = as_float16(arrays)
        same = all(np.array_equal(rounded[name], array) for name, array in arrays.items())
        return rounded if same else arrays

    def round_weights(self) -> None:
        """Rounds the weights to float16, so that checkpoints of the agent take half the space.

        The agent still computes in float32. It is another version than before.

        Raises:
            ValueError: a weight is not finite or above 65,504, or a torso of your own has other
                tensors than float32. Nothing has changed then.
        """
        arrays = arrays_of(self.q_network)
        rounded = as_float16(arrays)
        for name, array in arrays.items():
            if array.dtype != np.float32:
                problem = f"is {array.dtype}"
            elif not np.isfinite(rounded[name]).all():
                problem = "has values that are not finite or above 65,504"
            else:
                continue
            raise ValueError(
                f"the weights of {self.name} cannot be rounded to float16: {name} {problem}. Save "
                "them as they are."
            )
        fill(self.q_network, rounded, self.name)
        self._rounded = True

    @property
    def version(self) -> str:
        """sha256 of the weights now, as a checkpoint of them would record it."""
        return weights_sha256(self.weights())

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
            path: the checkpoint's folder.
            steps: agent steps of training so far.
            updates: gradient steps of training so far.
            preset: name of the preset that the agent was trained with.
            parent: sha256 of the weights that training started from.
            git_commit: commit of the code that trained the agent.

        Raises:
            ConfigError: `path` is not a path, or has no name.
            OSError: the disk is full or cannot be written.
        """
        folder = path_of(path, "a checkpoint")
        if not folder.name:
            raise ConfigError(f"a checkpoint is a named folder, not {quoted(str(path))}.")
        return save_checkpoint(
            folder,
            self.weights(),
            game=self.game,
            protocol=self.protocol,
            num_actions=self.num_actions,
            network=self.network,
            counters=Counters(steps=steps, frames=steps * FRAMESKIP, updates=updates),
            config=self.trained_with,
            preset=preset,
            seed=self._training_seed,
            parent=parent,
            git_commit=git_commit,
        )

    @classmethod
    def load(
        cls, path: str | Path | Checkpoint, *, device: str = "cpu", torso: nn.Module | None = None
    ) -> Self:
        """Loads an agent from a policy checkpoint. No code from the checkpoint is run.

        The agent acts in fp32: a checkpoint plays the same game on every machine of the same kind.
        Settings of the training are not read, so a version stays loadable whatever they become.

        Args:
            path: a checkpoint's folder, or a run folder, which means its newest checkpoint.
            device: device of the network: cpu, cuda or a numbered one such as cuda:1.
            torso: your own module, if the agent was made with one.

        Raises:
            CheckpointError: there is no checkpoint, or it is damaged, foreign or hostile.
            ConfigError: the device is invalid, or does not exist here.
        """
        if isinstance(path, Checkpoint):
            checkpoint = path
        else:  # the size of a foreign torso's weights cannot be checked: only its module knows it
            checkpoint = load_playable(path) if torso is None else load_checkpoint(path)
        manifest = checkpoint.manifest
        try:
            if torso is None:
                with torch.device("meta"):  # takes no memory, whatever size the manifest names
                    described = build_network(manifest.num_actions, manifest.network)
                check_fit(described, checkpoint.tensors, checkpoint.path)
            q_network = build_network(manifest.num_actions, manifest.network, torso)
        except (ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} describes a network that cannot be built "
                f"({reason(error).rstrip('.')}). It was written by another rlarcade, or altered."
            ) from error
        agent = cls.__new__(cls)
        agent._set_up(
            q_network,
            network=manifest.network,
            game=manifest.game,
            protocol=manifest.protocol,
            num_actions=manifest.num_actions,
            device=device,
            trained_with=manifest.config,
            seed=manifest.seed,
        )
        agent.manifest, agent.name = manifest, str(checkpoint.path)
        fill(agent.q_network, checkpoint.tensors, checkpoint.path)
        agent._rounded = are_rounded(checkpoint.tensors)
        return agent
