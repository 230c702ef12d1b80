"""The DQN agent: acts, learns, is saved and loaded."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, ParamSpec, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
from rlarcade.errors import CheckpointError, ConfigError, DivergenceError, PolicyError
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import FRAMESKIP, SCREEN, STACK, Protocol, get_protocol
from rlarcade.games.single import GameEnv, make_env
from rlarcade.learning.cuda_graph import CudaGraph
from rlarcade.learning.hardware import one_thread, sent_to, torch_device
from rlarcade.learning.heads import Draws, Returns
from rlarcade.learning.losses import (
    cross_entropy,
    huber_loss,
    project_onto_atoms,
    quantile_huber_loss,
    squared_loss,
)
from rlarcade.learning.networks import QNetwork, build_network
from rlarcade.learning.playable import load_playable
from rlarcade.learning.replay import Batch
from rlarcade.learning.targets import munchausen_bonus, soft_values, td_target
from rlarcade.learning.torsos import ForeignTorso
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

_Inputs = ParamSpec("_Inputs")
_Output = TypeVar("_Output")


@dataclass(frozen=True, slots=True)
class Update:
    """The result of one gradient step, as tensors, so that only a logger waits for the GPU."""

    loss: Tensor
    """float32 (), mean over the batch."""
    mean_q: Tensor
    """float32 (), mean of Q(s, a) over the batch and all actions."""
    error: Tensor
    """float32 (B,), each transition's error: |TD error| for the expected head, the loss for other
    heads. Prioritised replay draws by it."""


class _UpdateDraws(NamedTuple):
    """Random numbers of one update. Each forward pass has its own, as in DQN Zoo."""

    online: Draws
    target: Draws
    pick: Draws | None
    """For the pass that picks next actions (double) or gives the log-policy (Munchausen)."""


_Learned = tuple[Tensor, Tensor, Tensor]
"""Each transition's error (B,), the mean Q () and the loss ()."""


def _are_observations(given: object) -> bool:
    """Whether `given` is uint8 (4, 84, 84) or (B, 4, 84, 84)."""
    return (
        isinstance(given, np.ndarray)
        and given.dtype == np.uint8
        and given.ndim in (3, 4)
        and given.shape[-3:] == (STACK, SCREEN, SCREEN)
    )


def _kind_of(given: object) -> str:
    """Describes in a few words what a caller gave instead of observations."""
    if given is None:
        return "None"
    kind = type(given).__name__
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", None)
    if isinstance(given, np.ndarray):
        return f"{dtype} {shape}"
    if shape is not None:  # a tensor
        return f"a {kind}, {dtype} {tuple(shape)}, which is not a NumPy array"
    size = f" of {len(given)}" if isinstance(given, list | tuple | dict) else ""
    return f"a {kind}{size}"


class DQNAgent:
    """A deep Q-network with everything that it needs to act and to learn.

    Attributes:
        game: ROM id.
        protocol: the protocol under which the agent plays.
        num_actions: actions of the game under the protocol.
        online: the network that learns and acts.
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
            config: settings of learning; those of the run around it are not used.
            num_actions: actions of the game.
            device: device of the networks: cpu, cuda or a numbered one such as cuda:1.
            precision: arithmetic of the torso.
            seed: seed of the initial weights, and of the noise and quantile fractions of learning.
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
            online = build_network(num_actions, network, torso)
        compiled = config.compile == "on"
        self._set_up(config, network, online, num_actions, device, precision, compiled=compiled)
        self.rng = np.random.default_rng(seed)
        self._get_ready_to_learn()

    def _set_up(
        self,
        config: TrainConfig,
        network: dict[str, Any],
        online: QNetwork,
        num_actions: int,
        device: str | torch.device,
        precision: Literal["fp32", "bf16"],
        *,
        compiled: bool,
    ) -> None:
        self.config, self.num_actions = config, num_actions
        self.game = resolve_game(config.game)
        self.protocol: Protocol = get_protocol(config.protocol)
        self.device = torch_device(device)
        self.network = network
        self.manifest: Manifest | None = None
        self.name = "agent"
        self._same_bits: dict[int, bool] = {}
        online.dtype = _DTYPES[precision]
        self.online = online.to(self.device)
        self.rng = np.random.default_rng()
        self._act_forward: Callable[[Tensor, Draws | None], Tensor]
        self._act_forward = _prepared(self._forward, compiled)
        self._loss = _prepared(self._compute_loss, compiled)
        self._learn: Callable[[Batch, _UpdateDraws], _Learned] = self._descend
        if compiled and self.device.type == "cuda":
            self._act_forward = CudaGraph(self._act_forward, _tensors_to_act)
            self._learn = CudaGraph(self._descend, _tensors_to_learn)
        # The optimizer step of replay-free learning runs outside CUDA graphs. torch.compile makes
        # its own graph of the loss.
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._fit_loss = _prepared(self._compute_fit_loss, compiled, mode)

    # The target network and the optimizer are made when learning begins. An agent that only plays
    # needs neither, and the first optimizer of a process loads a compiler, which takes two seconds.

    @cached_property
    def target(self) -> QNetwork:
        """The frozen copy of the online network. It values next observations."""
        return copy.deepcopy(self.online).requires_grad_(False)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the online network's weights."""
        return _make_optimizer(self.config, self.online)

    def _get_ready_to_learn(self) -> None:
        """Makes the optimizer, and the target network before the online network changes."""
        _ = self.target, self.optimizer

    # Acting

    @property
    def acting_network(self) -> QNetwork:
        """The network that plays and that checkpoints store: `config.acting_network`."""
        # Before learning begins both are equal, and only the online network exists.
        frozen = self.config.acting_network == "target" and "target" in self.__dict__
        return self.target if frozen else self.online

    def q_values(
        self, observation: NDArray[np.uint8], *, training: bool = False
    ) -> NDArray[np.float32]:
        """Returns Q(s, ·), float32 (B, A), of observations uint8 (B, 4, 84, 84).

        An observation gives the same bits in every batch and with any number of threads.

        Args:
            observation: newest frame last.
            training: computes the values as training does. The noise of noisy layers is drawn anew,
                once for all observations. All observations go through the network in one pass, on
                all of torch's threads. That is twice as fast, but the bits depend on the batch.

        Raises:
            ValueError: `observation` has another shape or dtype.
        """
        if not _are_observations(observation) or observation.ndim != 4:
            raise ValueError(
                f"observations are uint8 (B, {STACK}, {SCREEN}, {SCREEN}), newest frame last; got "
                f"{_kind_of(observation)}"
            )
        if training:
            draws = self._draws(len(observation), taus=False)
            return self._values(observation, draws, self._act_forward)
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

    def _values(
        self,
        observation: NDArray[np.uint8],
        draws: Draws | None = None,
        forward: Callable[[Tensor, Draws | None], Tensor] | None = None,
    ) -> NDArray[np.float32]:
        """One forward pass."""
        frames = sent_to(self.device, torch.from_numpy(np.ascontiguousarray(observation)))
        with torch.no_grad():
            q_values = (forward or self._forward)(frames, draws)
        values: NDArray[np.float32] = q_values.cpu().numpy()
        return values

    def _forward(self, frames: Tensor, draws: Draws | None) -> Tensor:
        q_values: Tensor = self.acting_network(frames, draws)
        return q_values

    def act(
        self,
        observation: NDArray[np.uint8],
        epsilon: float,
        rng: np.random.Generator,
        *,
        training: bool = False,
    ) -> NDArray[np.int64]:
        """Returns ε-greedy actions, int64 (B,), for observations uint8 (B, 4, 84, 84).

        The number of draws from `rng` does not depend on epsilon. See `q_values` for `training`.

        Raises:
            DivergenceError: a Q-value is not finite, and `training` is true.
            PolicyError: a Q-value is not finite, and `training` is false.
        """
        explore, actions = self._coins(len(observation), epsilon, rng)
        if not explore.all():
            values = self.q_values(observation, training=training)
            actions = np.where(explore, actions, self._greedy(values, training=training))
        return actions

    def explore(
        self, q_values: NDArray[np.float32], epsilon: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Returns ε-greedy actions, int64 (B,), for Q-values float32 (B, A), as `act` does.

        Raises:
            DivergenceError: a Q-value is not finite.
        """
        explore, actions = self._coins(len(q_values), epsilon, rng)
        return np.where(explore, actions, self._greedy(q_values, training=True))

    def _greedy(self, q_values: NDArray[np.float32], *, training: bool) -> NDArray[np.int64]:
        """Returns the best actions, (B,). Refuses NaN, which argmax takes for the largest value."""
        bad = np.flatnonzero(~np.isfinite(q_values).all(axis=1))
        if bad.size:
            what = (
                f"the Q-values of {self.name} are not finite numbers: "
                f"{q_values[bad[0]].tolist()} for observation {bad[0]} of {len(q_values)}"
            )
            if training:
                raise DivergenceError(
                    f"{what}. Earlier saves are kept. Begin another run with a lower "
                    f"--learning-rate (it is {self.config.learning_rate:g}) or a --max-grad-norm; "
                    "--init-from can start it from the last checkpoint."
                )
            raise PolicyError(
                f"{what}. Its weights are damaged, or its training diverged. Use an older "
                "checkpoint."
            )
        best: NDArray[np.int64] = q_values.argmax(axis=1)
        return best

    def _coins(
        self, count: int, epsilon: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        explore = rng.random(count) < epsilon
        return explore, rng.integers(0, self.num_actions, count)

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
        if not _are_observations(obs):
            hint = ""
            if isinstance(obs, tuple) and obs and _are_observations(obs[0]):
                hint = ". An environment's reset returns (observation, info): give the observation"
            raise ValueError(
                f"observations are uint8 ({STACK}, {SCREEN}, {SCREEN}), or (B, {STACK}, {SCREEN}, "
                f"{SCREEN}) for B actions, newest frame last; got {_kind_of(obs)}{hint}"
            )
        single = obs.ndim == 3
        batch = obs[None] if single else obs
        epsilon = 0.0 if deterministic else self.protocol.evaluation_epsilon
        actions = self.act(batch, epsilon, np.random.default_rng())
        return (actions[0] if single else actions), state

    # Learning

    def set_learning_rate(self, rate: float) -> None:
        """Sets the step size of the updates that follow."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def update(self, batch: Batch) -> Update:
        """Takes one gradient step on transitions from replay."""
        self._get_ready_to_learn()
        size = len(batch.action)
        picks = self.config.double or self.config.munchausen
        draws = _UpdateDraws(
            online=self._draws(size),
            target=self._draws(size),
            pick=self._draws(size, taus=False) if picks else None,
        )
        if self.config.compile == "on":
            # These are views of windows. Their strides change with the windows' length, and each
            # new stride would compile a new graph.
            batch = replace(
                batch,
                observation=batch.observation.contiguous(),
                next_observation=batch.next_observation.contiguous(),
            )
        return _update(*self._learn(batch, draws))

    def _descend(self, batch: Batch, draws: _UpdateDraws) -> _Learned:
        """Takes a gradient step; returns what `_compute_loss` returns, detached."""
        self.online.train()  # spectral norm does its power iteration here, and nowhere else
        errors, mean_q, loss = self._loss(batch, draws)
        self.online.eval()
        self._step(loss)
        return errors, mean_q, loss.detach()

    def fit(self, observation: Tensor, action: Tensor, target: Tensor) -> Update:
        """Takes one gradient step towards given returns, for replay-free learning.

        Args:
            observation: uint8 (B, 4, *frame).
            action: int64 (B,).
            target: float32 (B,).
        """
        self._get_ready_to_learn()
        draws = self._draws(len(action))
        self.online.train()
        errors, mean_q, loss = self._fit_loss(observation, action, target, draws)
        self.online.eval()
        self._step(loss)
        return _update(errors, mean_q, loss.detach())

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.online.parameters(), self.config.max_grad_norm)
        self.optimizer.step()

    def _compute_loss(self, batch: Batch, draws: _UpdateDraws) -> _Learned:
        """Returns each transition's error (B,), the mean Q () and the loss ()."""
        # The target's forward pass comes first. The backward pass needs the outputs of the online
        # torso, so their memory is not free. With the target second, the target got new memory from
        # the system: 10,000 page faults, a seventh of the time of an update of 256 on a CPU.
        with torch.no_grad():
            ahead = self._ahead(batch, draws)
        features = self.online.features(batch.observation)
        with torch.no_grad():
            target = self._target(batch, draws, ahead, features)
        returns = self.online.head(features, draws.online)
        losses, errors = self._losses(returns.of(batch.action), target)
        if batch.weight is not None:
            losses = losses * batch.weight
        return errors, returns.mean().detach().mean(), losses.mean()

    def _compute_fit_loss(
        self, observation: Tensor, action: Tensor, target: Tensor, draws: Draws
    ) -> _Learned:
        """Returns what `_compute_loss` returns."""
        returns = self.online.returns(observation, draws)
        losses, errors = self._losses(returns.of(action), Returns(target.unsqueeze(1)))
        return errors, returns.mean().detach().mean(), losses.mean()

    def _ahead(self, batch: Batch, draws: _UpdateDraws) -> Returns:
        """Returns the possible returns of s′, (B, M): those of the action picked there.

        With Munchausen they are the returns of all actions, weighted by the soft policy.
        """
        ahead = self.target.returns(batch.next_observation, draws.target)
        if self.config.munchausen:
            return Returns(soft_values(ahead.values, self.config.munchausen_tau))
        picking = self.config.double
        picks = self.online(batch.next_observation, draws.pick) if picking else ahead.mean()
        return ahead.of(picks.argmax(dim=1))

    def _target(
        self, batch: Batch, draws: _UpdateDraws, ahead: Returns, features: Tensor
    ) -> Returns:
        """Returns the possible returns of (s, a), (B, M).

        `ahead` comes from `_ahead`; `features` are the online network's features of s.
        """
        reward = batch.reward
        if self.config.munchausen:
            reward = reward + self._bonus(batch, draws.pick, features)
        return ahead._replace(values=td_target(reward, batch.discount, ahead.values))

    def _bonus(self, batch: Batch, pick: Draws | None, features: Tensor) -> Tensor:
        """Returns Munchausen's bonus, (B,), from the log-probability of the action taken."""
        config = self.config
        if config.munchausen_policy == "target":
            q_values = self.target(batch.observation, pick)
        else:
            q_values = self.online.head(features, pick).mean()
        return munchausen_bonus(
            q_values,
            batch.action,
            alpha=config.munchausen_alpha,
            tau=config.munchausen_tau,
            clip=config.munchausen_clip,
        )

    def _losses(self, predicted: Returns, target: Returns) -> tuple[Tensor, Tensor]:
        """Returns each transition's loss and error, both (B,), the error detached."""
        if predicted.log_probabilities is not None:
            assert target.log_probabilities is not None
            aim = project_onto_atoms(
                target.values, target.log_probabilities.exp(), predicted.values
            )
            losses = cross_entropy(predicted.log_probabilities, aim)
            return losses, losses.detach()
        if predicted.taus is not None:
            losses = quantile_huber_loss(predicted.values, predicted.taus, target.values)
            return losses, losses.detach()
        taken, aim = predicted.values.squeeze(1), target.values.squeeze(1)
        losses = (huber_loss if self.config.loss == "huber" else squared_loss)(taken, aim)
        return losses, (aim - taken).detach().abs()

    def _draws(self, batch_size: int, *, taus: bool = True) -> Draws:
        draws = self.online.head.draw(batch_size, self.rng, taus=taus)
        return Draws(
            tuple(sent_to(self.device, part) for part in draws.noise),
            None if draws.taus is None else sent_to(self.device, draws.taus),
        )

    def sync_target(self) -> None:
        """Copies the online network to the target network, spectral norm's vectors included."""
        if "target" not in self.__dict__:
            return  # it does not exist yet, and will begin as a copy
        with torch.no_grad():
            learned = self.online.state_dict()
            for name, frozen in self.target.state_dict().items():
                frozen.copy_(learned[name])

    def update_target(self) -> None:
        """Moves the target network towards the online one, by the share `config.target_tau`.

        Polyak averaging as in Lillicrap et al. (2015), https://arxiv.org/abs/1509.02971. Spectral
        norm's vectors are copied: an average of unit vectors is not a unit vector.
        """
        tau = self.config.target_tau
        if tau == 1:
            self.sync_target()
            return
        with torch.no_grad():
            frozen: list[Tensor] = [*self.target.parameters()]
            torch._foreach_lerp_(frozen, [*self.online.parameters()], tau)
            for kept, newest in zip(self.target.buffers(), self.online.buffers(), strict=True):
                kept.copy_(newest)

    # On disk

    def weights(self) -> dict[str, NDArray[Any]]:
        """Returns the tensors of the acting network by name, float32."""
        return _arrays(self.acting_network)

    @property
    def version(self) -> str:
        """sha256 of the acting network's weights now, as a checkpoint of them would record it."""
        return weights_sha256(self.weights())

    def load_weights(self, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
        """Copies parameters, given by name, into both networks.

        Raises:
            CheckpointError: the parameters do not fit the network.
        """
        _fill(self.online, tensors, where)
        self.sync_target()

    def load_torso(self, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
        """Copies the torso's parameters, given by name, into both networks. The head is kept.

        Raises:
            CheckpointError: the parameters do not fit the torso.
        """
        kept = {name: array for name, array in self.weights().items() if not _of_torso(name)}
        taken = {name: array for name, array in tensors.items() if _of_torso(name)}
        self.load_weights(kept | taken, where)

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
            config=self.config.model_dump(mode="json"),
            preset=preset,
            seed=self.config.seed,
            parent=parent,
            git_commit=git_commit,
        )

    @classmethod
    def load(
        cls, path: str | Path | Checkpoint, *, device: str = "cpu", torso: nn.Module | None = None
    ) -> Self:
        """Loads an agent from a policy checkpoint. No code from the checkpoint is run.

        The agent acts in fp32: a checkpoint plays the same game on every machine of the same kind.

        Args:
            path: a checkpoint's folder, or a run folder, which means its newest checkpoint.
            device: device of the networks: cpu, cuda or a numbered one such as cuda:1.
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
            config = TrainConfig.model_validate(manifest.config)
            if torso is None:
                with torch.device("meta"):  # takes no memory, whatever size the manifest names
                    described = build_network(manifest.num_actions, manifest.network)
                _check_fit(described, dict(checkpoint.tensors), checkpoint.path)
            online = build_network(manifest.num_actions, manifest.network, torso)
        except (ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} describes a network that cannot be built "
                f"({reason(error).rstrip('.')}). It was written by another rlarcade, or altered."
            ) from error
        agent = cls.__new__(cls)
        agent._set_up(
            config, manifest.network, online, manifest.num_actions, device, "fp32", compiled=False
        )
        agent.manifest, agent.name = manifest, str(checkpoint.path)
        agent.game, agent.protocol = resolve_game(manifest.game), manifest.protocol
        agent.load_weights(dict(checkpoint.tensors), checkpoint.path)
        return agent

    def make_env(self, render_mode: str | None = None) -> GameEnv:
        """Makes an environment of the agent's game under the agent's protocol."""
        return make_env(self.game, protocol=self.protocol, render_mode=render_mode)

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns everything that learning needs to resume: both networks and the optimizer."""
        arrays = {f"online.{name}": array for name, array in _arrays(self.online).items()}
        arrays |= {f"target.{name}": array for name, array in _arrays(self.target).items()}
        for name, parameter in self.online.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                arrays[f"adam.{key}.{name}"] = value.detach().cpu().numpy().copy()
        return arrays

    def restore(self, arrays: dict[str, NDArray[Any]], where: Path | str) -> None:
        """Restores what `state` returned.

        Raises:
            CheckpointError: the arrays do not fit the network.
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
                # the fused step expects the memory order of the parameter
                moments[key] = torch.empty_like(parameter).copy_(moments[key])
            moments["step"] = moments["step"].to(parameter.device)
            self.optimizer.state[parameter] = moments


def _update(errors: Tensor, mean_q: Tensor, loss: Tensor) -> Update:
    # copies, because the next run of a CUDA graph overwrites its tensors
    return Update(loss=loss.clone(), mean_q=mean_q.clone(), error=errors.clone())


def _prepared(
    function: Callable[_Inputs, _Output], compiled: bool, mode: str = "default"
) -> Callable[_Inputs, _Output]:
    """Returns the function, compiled if `compiled` is true."""
    if not compiled:
        return function
    # Silence Inductor's advice about precision: we use fp32 on purpose.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\._inductor")
    return torch.compile(function, mode=mode, dynamic=False)


def _tensors_to_act(frames: Tensor, draws: Draws | None) -> list[Tensor]:
    return [frames, *(draws.noise if draws else ())]


def _tensors_to_learn(batch: Batch, draws: _UpdateDraws) -> list[Tensor]:
    tensors: list[Tensor | None] = [batch.observation, batch.action, batch.reward, batch.discount]
    tensors += [batch.next_observation, batch.weight]
    for each in draws:
        if each is not None:
            tensors += [*each.noise, each.taus]
    return [tensor for tensor in tensors if tensor is not None]


def _of_torso(name: str) -> bool:
    return name.startswith("torso.")


def _arrays(network: QNetwork) -> dict[str, NDArray[Any]]:
    return {name: t.detach().cpu().numpy().copy() for name, t in network.state_dict().items()}


def _fill(network: QNetwork, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
    """Copies arrays into a network's parameters, keeping their memory order."""
    _check_fit(network, tensors, where)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(torch.from_numpy(np.array(tensors[name])))


def _check_fit(network: QNetwork, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
    own = network.state_dict()
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in own.items()}
    foreign_torso = any(name.startswith("torso.module.") for name in tensors)
    if foreign_torso and not isinstance(network.torso, ForeignTorso):
        raise CheckpointError(
            f"{where} was made with a torso of your own. Pass the same module: "
            "DQNAgent.load(path, torso=module)."
        )
    foreign = {name: array.shape for name, array in tensors.items() if name not in own}
    missing = sorted(set(own) - set(tensors))
    wrong = [
        f"{name} is {tensors[name].dtype} {tensors[name].shape}, "
        f"not {kinds[name]} {tuple(own[name].shape)}"
        for name in own
        if name in tensors
        and (tensors[name].shape != tuple(own[name].shape) or tensors[name].dtype != kinds[name])
    ]
    if foreign or missing or wrong:
        problem = wrong[0] if wrong else f"missing {missing[:2]}, unknown {sorted(foreign)[:2]}"
        raise CheckpointError(
            f"the tensors of {where} do not fit the network that its manifest describes: {problem}."
        )


def _make_optimizer(config: TrainConfig, network: QNetwork) -> torch.optim.Optimizer:
    parameters, rate, eps = network.parameters(), config.learning_rate, config.adam_eps
    if config.optimizer == "radam":
        return torch.optim.RAdam(parameters, lr=rate, eps=eps)
    device = next(network.parameters()).device
    if device.type == "cuda":
        # A CUDA graph reads a tensor on the GPU at every replay; a Python number would be frozen.
        step_size = torch.tensor(rate, device=device)
        return torch.optim.Adam(parameters, lr=step_size, eps=eps, fused=True, capturable=True)
    return torch.optim.Adam(parameters, lr=rate, eps=eps, fused=True)
