"""The learner: improves an agent. It holds all that learning needs and playing does not."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlarcade.config import NetworkSettings, TrainConfig
from rlarcade.errors import ConfigError, DivergenceError
from rlarcade.learning.acting import not_finite, require_observations, toss
from rlarcade.learning.algorithms import UpdateDraws, algorithm_of, needs_pick
from rlarcade.learning.cuda_graph import CudaGraph
from rlarcade.learning.custom import Loss
from rlarcade.learning.hardware import sent_to
from rlarcade.learning.heads import Draws, Returns
from rlarcade.learning.losses import loss_of
from rlarcade.learning.networks import QNetwork, are_rounded, arrays_of, fill
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.replay import Batch
from rlarcade.learning.torsos import ForeignTorso

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


_Learned = tuple[Tensor, Tensor, Tensor]
"""Each transition's error (B,), the mean Q () and the loss ()."""


class Learner:
    """Trains an agent: owns the target network, the optimizer and the random numbers of learning.

    Attributes:
        agent: the agent. It plays with the network that `acting_network` names.
        config: settings of learning; those of the run around it are not used.
        online: the network that learns.
        target: its frozen copy, which values next observations.
        optimizer: the optimizer of the online network's weights.
        rng: random generator of noise and quantile fractions. It also seeds each update of a torso
            of your own.
    """

    def __init__(
        self, agent: DQNAgent, config: TrainConfig, *, seed: int = 0, loss: Loss | None = None
    ) -> None:
        """Prepares an agent to learn.

        Args:
            agent: its network learns. If `acting_network` is "target", the agent plays with the
                target network from now on.
            config: settings of learning.
            seed: seed of noise and quantile fractions, and of what a torso of your own draws.
            loss: your own loss of the expected head, see `Custom`.

        Raises:
            ConfigError: the agent's network is not the one that `config` describes.
        """
        if NetworkSettings.model_validate(agent.network) != config.network:
            raise ConfigError(
                f"{agent.name} has another network than the settings of learning describe. Make "
                "the settings with the agent's network, or the agent with these settings."
            )
        self.agent, self.config = agent, config
        self.device = agent.device
        self.online = agent.q_network
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        if config.target.acting_network == "target":
            agent.q_network = self.target
        self.optimizer = make_optimizer(config, self.online, self.device)
        self.rng = np.random.default_rng(seed)
        # the shipped torsos draw no random numbers
        self._torso_may_draw = isinstance(self.online.torso, ForeignTorso)
        self._unclipped: Tensor | None = None
        self._algorithm, self._transition_loss = algorithm_of(config), loss_of(config, loss)
        self._prepare(compiled=config.machine.compile == "on")

    def _prepare(self, *, compiled: bool) -> None:
        """Compiles the functions that run at every step, and makes them CUDA graphs on a GPU."""
        self._forward: Callable[[Tensor, Draws | None], Tensor]
        self._forward = _prepared(self._compute_values, compiled)
        self._loss = _prepared(self._compute_loss, compiled)
        self._learn: Callable[[Batch, UpdateDraws], _Learned] = self._descend
        if compiled and self.device.type == "cuda":
            self._forward = CudaGraph(self._forward, _tensors_to_act)
            self._learn = CudaGraph(self._descend, _tensors_to_learn)
        # The optimizer step of replay-free learning runs outside CUDA graphs. torch.compile makes
        # its own graph of the loss.
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._fit_loss = _prepared(self._compute_fit_loss, compiled, mode)

    # Acting in training

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns Q(s, ·) to act by in training, float32 (B, A), of uint8 (B, 4, 84, 84).

        The noise of noisy layers is drawn anew, once for all observations. All observations go
        through the network in one pass, on all of torch's threads. That is twice as fast as
        `DQNAgent.q_values`, but the bits depend on the batch.

        Raises:
            ValueError: `observation` has another shape or dtype.
        """
        require_observations(observation)
        draws = self._draws(len(observation), taus=False)
        frames = sent_to(self.device, torch.from_numpy(np.ascontiguousarray(observation)))
        with torch.no_grad():
            values: NDArray[np.float32] = self._forward(frames, draws).cpu().numpy()
        return values

    def _compute_values(self, frames: Tensor, draws: Draws | None) -> Tensor:
        q_values: Tensor = self.agent.q_network(frames, draws)
        return q_values

    def act(
        self, observation: NDArray[np.uint8], epsilon: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Returns ε-greedy actions by `q_values`, int64 (B,), for uint8 (B, 4, 84, 84).

        The number of draws from `rng` does not depend on epsilon.

        Raises:
            ValueError: `observation` has another shape or dtype.
            DivergenceError: a Q-value is not finite.
        """
        explore, actions = toss(len(observation), self.agent.num_actions, epsilon, rng)
        if explore.all():
            return actions
        return np.where(explore, actions, self._greedy(self.q_values(observation)))

    def explore(
        self, q_values: NDArray[np.float32], epsilon: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Returns ε-greedy actions, int64 (B,), for Q-values float32 (B, A), as `act` does.

        Raises:
            DivergenceError: a Q-value is not finite.
        """
        explore, actions = toss(len(q_values), self.agent.num_actions, epsilon, rng)
        return np.where(explore, actions, self._greedy(q_values))

    def _greedy(self, q_values: NDArray[np.float32]) -> NDArray[np.int64]:
        problem = not_finite(q_values, self.agent.name)
        if problem is not None:
            rate = self.config.optimizer.learning_rate
            raise DivergenceError(
                f"{problem}. Earlier saves are kept. Begin another run with a lower "
                f"--learning-rate (it is {rate:g}) or a --max-grad-norm; "
                "--init-from can start it from the last checkpoint."
            )
        best: NDArray[np.int64] = q_values.argmax(axis=1)
        return best

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
        size = len(batch.action)
        draws = UpdateDraws(
            online=self._draws(size),
            target=self._draws(size),
            pick=self._draws(size, taus=False) if needs_pick(self.config) else None,
        )
        if self.config.machine.compile == "on":
            # These are views of windows. Their strides change with the windows' length, and each
            # new stride would compile a new graph.
            batch = replace(
                batch,
                observation=batch.observation.contiguous(),
                next_observation=batch.next_observation.contiguous(),
            )
        with self._torso_draws():
            learned = self._learn(batch, draws)
        return _update(*learned)

    def _descend(self, batch: Batch, draws: UpdateDraws) -> _Learned:
        """Takes a gradient step; returns what `_compute_loss` returns, detached."""
        self.online.train()  # spectral norm does its power iteration here, and nowhere else
        errors, mean_q, loss = self._loss(batch, draws)
        self.online.eval()
        self._step(loss)
        return errors, mean_q, loss.detach()

    def _compute_loss(self, batch: Batch, draws: UpdateDraws) -> _Learned:
        """Returns each transition's error (B,), the mean Q () and the loss ()."""
        returns, target = self._algorithm(self.online, self.target, batch, draws)
        losses, errors = self._transition_loss(returns.of(batch.action), target)
        if batch.weight is not None:
            losses = losses * batch.weight
        return errors, returns.mean().detach().mean(), losses.mean()

    def fit(self, observation: Tensor, action: Tensor, target: Tensor) -> Update:
        """Takes one gradient step towards given returns, for replay-free learning.

        Args:
            observation: uint8 (B, 4, *frame).
            action: int64 (B,).
            target: float32 (B,).
        """
        draws = self._draws(len(action))
        with self._torso_draws():
            self.online.train()
            errors, mean_q, loss = self._fit_loss(observation, action, target, draws)
            self.online.eval()
            self._step(loss)
        return _update(errors, mean_q, loss.detach())

    def _compute_fit_loss(
        self, observation: Tensor, action: Tensor, target: Tensor, draws: Draws
    ) -> _Learned:
        """Returns what `_compute_loss` returns."""
        returns = self.online.returns(observation, draws)
        losses, errors = self._transition_loss(returns.of(action), Returns(target.unsqueeze(1)))
        return errors, returns.mean().detach().mean(), losses.mean()

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.optimizer.max_grad_norm is not None:
            self._unclipped = torch.nn.utils.clip_grad_norm_(
                self.online.parameters(), self.config.optimizer.max_grad_norm
            )
        self.optimizer.step()

    @contextmanager
    def _torso_draws(self) -> Iterator[None]:
        """Seeds torch's generators from `rng` for an update of a torso of the user's own.

        Its layers may draw from them, as dropout does. A run saves `rng`, and not torch's. The
        seeding stands outside CUDA graphs: a graph reads the seed each time that it runs.
        """
        if not self._torso_may_draw:
            yield
            return
        device = next(self.online.parameters()).device  # a GPU with its number
        gpus = [device.index] if device.type == "cuda" else []
        seed = int(self.rng.integers(2**63))
        with torch.random.fork_rng(devices=gpus):
            torch.default_generator.manual_seed(seed)
            for gpu in gpus:
                torch.cuda.default_generators[gpu].manual_seed(seed)
            yield

    def gradient_norm(self) -> Tensor | None:
        """Returns the norm of the newest gradient before clipping, (); None before any update.

        Without clipping it is computed here, from the gradients that the update has left behind.
        So updates take no time for it.
        """
        if self._unclipped is not None:
            return self._unclipped
        gradients = [one.grad for one in self.online.parameters() if one.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else None

    def _draws(self, batch_size: int, *, taus: bool = True) -> Draws:
        draws = self.online.head.draw(batch_size, self.rng, taus=taus)
        return Draws(
            tuple(sent_to(self.device, part) for part in draws.noise),
            None if draws.taus is None else sent_to(self.device, draws.taus),
        )

    # The target network

    def sync_target(self) -> None:
        """Copies the online network to the target network, spectral norm's vectors included."""
        with torch.no_grad():
            learned = self.online.state_dict()
            for name, frozen in self.target.state_dict().items():
                frozen.copy_(learned[name])

    def update_target(self) -> None:
        """Moves the target network towards the online one, by the share `target_tau`.

        Polyak averaging as in Lillicrap et al. (2015), https://arxiv.org/abs/1509.02971. Spectral
        norm's vectors are copied: an average of unit vectors is not a unit vector.
        """
        tau = self.config.target.target_tau
        if tau == 1:
            self.sync_target()
            return
        with torch.no_grad():
            frozen: list[Tensor] = [*self.target.parameters()]
            torch._foreach_lerp_(frozen, [*self.online.parameters()], tau)
            for kept, newest in zip(self.target.buffers(), self.online.buffers(), strict=True):
                kept.copy_(newest)

    # Saving and starting from saved weights

    def load_weights(self, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
        """Copies parameters, given by name, into both networks.

        Raises:
            CheckpointError: the parameters do not fit the network.
        """
        fill(self.online, tensors, where)
        self.sync_target()

    def load_torso(self, tensors: dict[str, NDArray[Any]], where: Path | str) -> None:
        """Copies the torso's parameters, given by name, into both networks. The head is kept.

        Raises:
            CheckpointError: the parameters do not fit the torso.
        """
        own = arrays_of(self.online)
        kept = {name: array for name, array in own.items() if not _of_torso(name)}
        taken = {name: array for name, array in tensors.items() if _of_torso(name)}
        if are_rounded(taken):
            taken = {name: array.astype(np.float32) for name, array in taken.items()}
        self.load_weights(kept | taken, where)

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns everything that learning needs to resume: both networks and the optimizer."""
        arrays = {f"online.{name}": array for name, array in arrays_of(self.online).items()}
        arrays |= {f"target.{name}": array for name, array in arrays_of(self.target).items()}
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
        fill(self.online, parts["online"], where)
        fill(self.target, parts["target"], where)
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
            if self.optimizer.defaults["capturable"]:  # otherwise the count stays on the CPU
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


def _tensors_to_learn(batch: Batch, draws: UpdateDraws) -> list[Tensor]:
    tensors: list[Tensor | None] = [batch.observation, batch.action, batch.reward, batch.discount]
    tensors += [batch.next_observation, batch.weight]
    for each in draws:
        if each is not None:
            tensors += [*each.noise, each.taus]
    return [tensor for tensor in tensors if tensor is not None]


def _of_torso(name: str) -> bool:
    return name.startswith("torso.")


def make_optimizer(
    config: TrainConfig, network: QNetwork, device: torch.device
) -> torch.optim.Optimizer:
    """Returns the optimizer of a network's weights on a device."""
    kind, rate = config.optimizer.kind, config.optimizer.learning_rate
    options: dict[str, Any] = {"eps": config.optimizer.adam_eps}
    if kind == "adam":
        options["fused"] = True
    make = torch.optim.RAdam if kind == "radam" else torch.optim.Adam
    # A CUDA graph cannot read numbers back to Python. RAdam does so unless it is capturable, which
    # PyTorch says is slower. Without replay its step runs outside CUDA graphs.
    if device.type == "cuda" and not (kind == "radam" and config.memory.kind == "none"):
        # A CUDA graph reads a tensor on the GPU at every replay; a Python number would be frozen.
        step_size = torch.tensor(rate, device=device)
        return make(network.parameters(), lr=step_size, capturable=True, **options)
    return make(network.parameters(), lr=rate, **options)
