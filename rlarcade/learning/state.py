"""The state of a training run in memory: everything that training needs and a save keeps."""

import math
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from rlarcade import machine
from rlarcade.checked import reason, require, validated
from rlarcade.checkpoint import Checkpoint
from rlarcade.config import NetworkSettings, TrainConfig
from rlarcade.errors import CheckpointError, DivergenceError
from rlarcade.games.episodes import EpisodeTracker
from rlarcade.games.lanes import LaneStep, Progress, TrainingLanes
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import MOST_ACTIONS, STACK
from rlarcade.learning import hardware
from rlarcade.learning.custom import NOTHING, Custom, Loss, Schedule
from rlarcade.learning.frames import BLOCKED_FRAME
from rlarcade.learning.learner import Learner, Update
from rlarcade.learning.memory import require_memory_to_learn
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.replay import Replay
from rlarcade.learning.update_figures import UpdateFigures
from rlarcade.seeding import SeedUse, derived_seed, generator

_LARGEST_DEFAULT_BUFFER = 1_000_000
_TORSO_OF = "torso of "
_TORSO_SETTINGS = (
    "torso",
    "conv_channels",
    "first_kernel",
    "impala_width",
    "spectral_norm",
    "pool_size",
    "norm",
)


class Lanes(Interface):
    """The games as the loop uses them: `TrainingLanes` for Atari, your own class for research."""

    observation: NDArray[np.uint8]
    age: NDArray[np.int64]

    @property
    def num_envs(self) -> int:
        """Number of lanes, E."""

    @property
    def num_actions(self) -> int:
        """Number of actions, A."""

    def start(self, progress: Progress | None = None) -> None:
        """Opens the first episode of every lane."""

    def send(self, actions: NDArray[np.int64]) -> None:
        """Sends actions, int64 (E,), to the games."""

    def recv(self) -> LaneStep:
        """Waits for the outcome of the sent actions."""


@dataclass(slots=True)
class TrainingState:
    """Everything that a run consists of between two steps. A save keeps it to resume exactly."""

    config: TrainConfig
    learner: Learner
    lanes: Lanes
    replay: Replay
    tracker: EpisodeTracker
    explore_rng: np.random.Generator
    replay_rng: np.random.Generator
    steps: int = 0
    updates: int = 0
    parent: str | None = None
    """sha256 of the weights that the run started from; None if they were random. From another
    game's weights only the torso is used; then this is `torso_of(sha256)`."""
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("env", "act", "replay", "learn"), 0.0)
    )
    newest: Update | None = None
    """The newest gradient step of this process."""
    newest_reward: Tensor | None = None
    """The rewards in the batch of `newest`, float32 (B,)."""
    custom: Custom = NOTHING
    """Your own functions and modules."""
    figures: UpdateFigures = field(init=False)
    """The figures of the gradient steps since they were last taken."""

    def __post_init__(self) -> None:
        self.figures = UpdateFigures(self.learner)

    @property
    def agent(self) -> DQNAgent:
        """The agent that learns, as it plays now and as a checkpoint stores it."""
        return self.learner.agent

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        *,
        lanes: Lanes | None = None,
        init_from: Checkpoint | None = None,
        progress: Progress | None = None,
        torso: nn.Module | None = None,
        loss: Loss | None = None,
        exploration: Schedule | None = None,
        learning_rate: Schedule | None = None,
    ) -> "TrainingState":
        """Builds a run at step 0.

        Args:
            config: settings; `auto` and unset ones are resolved here, see `state.config`.
            lanes: games to play instead of the configured Atari game.
            init_from: checkpoint that gives the initial weights. If its game or action set is
                another one, only the torso's weights are used.
            progress: called while the lanes start, which takes about 0.25 s each.
            torso: your own module instead of the torso, uint8 (B, 4, 84, 84) to float (B, F).
            loss: your own loss of the expected head: predictions and targets, float32 (B,), to the
                loss of each, float32 (B,).
            exploration: the share of random actions by agent steps so far.
            learning_rate: the optimizer's step size by agent steps so far.

        Raises:
            ConfigError, GameError: a setting cannot be used.
            ResourceError: the run does not fit into memory.
            CheckpointError: the weights of `init_from` do not fit the network.
        """
        require(config, TrainConfig, "config", "TrainConfig(game='Pong')")
        require(init_from, Checkpoint | None, "init_from", "load_checkpoint(PATH)")
        config = resolved(config)
        custom = Custom(torso, loss, exploration, learning_rate)
        state = cls.unstarted(config, lanes=lanes, custom=custom)
        if init_from is not None:
            whole = _take_weights(state.learner, init_from)
            sha256 = init_from.manifest.weights_sha256
            state.parent = sha256 if whole else torso_of(sha256)
        state.lanes.start(progress)
        return state

    @classmethod
    def unstarted(
        cls, config: TrainConfig, *, lanes: Lanes | None = None, custom: Custom = NOTHING
    ) -> "TrainingState":
        """Builds a run from a resolved configuration, without starting its games."""
        custom.check(config)
        hardware.set_up_torch(config.machine)
        most_actions = MOST_ACTIONS if lanes is None else lanes.num_actions
        require_memory_to_learn(config, most_actions, custom.torso)
        replay = _make_replay(config)
        if lanes is None:
            lanes = TrainingLanes(
                config.game,
                num_envs=config.schedule.num_envs,
                protocol=config.protocol,
                seed=config.seed,
                reseed_interval=config.schedule.reseed_interval,
            )
        seed = derived_seed(config.seed, SeedUse.NETWORK)
        agent = DQNAgent(
            config,
            num_actions=lanes.num_actions,
            device=config.machine.device,
            precision="bf16" if config.machine.precision == "bf16" else "fp32",
            seed=seed,
            torso=custom.torso,
        )
        return cls(
            config=config,
            learner=Learner(agent, config, seed=seed, loss=custom.loss),
            lanes=lanes,
            replay=replay,
            tracker=EpisodeTracker(config.schedule.num_envs),
            explore_rng=generator(config.seed, SeedUse.EXPLORATION),
            replay_rng=generator(config.seed, SeedUse.REPLAY),
            custom=custom,
        )

    @property
    def epsilon(self) -> float:
        """The share of random actions now."""
        return self.custom.epsilon(self.config, self.steps)

    @property
    def step_size(self) -> float:
        """The optimizer's step size now."""
        return self.custom.step_size(self.config, self.steps)

    def learned(self, update: Update, reward: Tensor) -> None:
        """Records a gradient step."""
        self.updates += 1
        self.newest, self.newest_reward = update, reward
        self.figures.add(update)

    def require_finite(self) -> None:
        """Stops a run if its loss is not finite: the weights may be ruined already.

        Raises:
            DivergenceError: the newest loss is not finite; the message names the step, the batch's
                rewards, and the settings to change.
        """
        if self.newest is None or self.newest_reward is None:
            return
        loss = self.newest.loss.item()
        if math.isfinite(loss):
            return
        low, high = self.newest_reward.min().item(), self.newest_reward.max().item()
        config = self.config
        raise DivergenceError(
            f"the loss became {loss} at step {self.steps:,} (update {self.updates:,}); the batch's "
            f"rewards were {low:g} … {high:g}, its mean Q {self.newest.mean_q.item():g}. Earlier "
            "saves are kept, but a run resumed from them would fail here again. Begin another run "
            f"with a lower --learning-rate (it is {config.optimizer.learning_rate:g}), a "
            f"--max-grad-norm (it is {config.optimizer.max_grad_norm or 'off'}), --reward-clip (it "
            f"is {'on' if config.target.reward_clip else 'off'}) or --precision fp32 (it is "
            f"{config.machine.precision}); --init-from can start it from the last checkpoint."
        )


def torso_of(sha256: str) -> str:
    """Returns the record of a parent that gave only its torso. It has the length of a sha256."""
    return f"{_TORSO_OF}{sha256}"[: len(sha256)]


def is_torso(parent: str | None) -> bool:
    """Whether only the torso of the recorded parent was used."""
    return parent is not None and parent.startswith(_TORSO_OF)


def resolved(config: TrainConfig) -> TrainConfig:
    """Replaces every `auto` and unset setting by its value on this machine.

    Raises:
        ConfigError, GameError: a setting cannot be used here.
        ResourceError: not even a small replay fits into memory.
    """
    device = hardware.resolve_device(config.machine.device)
    exploration_steps = config.exploration.steps
    if exploration_steps is None:
        exploration_steps = round(config.exploration.fraction * config.schedule.total_timesteps)
    return validated(
        TrainConfig,
        {
            **config.model_dump(),
            "game": resolve_game(config.game),
            "device": device,
            "precision": hardware.resolve_precision(config.machine.precision, device),
            "compile": hardware.resolve_compile(config.machine.compile, device),
            "torch_threads": hardware.resolve_threads(config.machine.torch_threads, device),
            "buffer_size": _buffer_size(config),
            "exploration_steps": exploration_steps,
            "learning_rate_steps": config.optimizer.learning_rate_steps
            or config.schedule.total_timesteps,
            "importance_steps": config.memory.importance_steps or config.schedule.total_timesteps,
            "n_steps_duration": config.target.n_steps_duration or config.schedule.total_timesteps,
        },
    )


def replay_capacity(config: TrainConfig) -> int:
    """Returns the cells of the ring: buffer_size, or without replay one rollout and its frames.

    Needs a resolved configuration.
    """
    if config.memory.kind == "none":
        return config.schedule.num_envs * (config.memory.rollout_steps + STACK + 1)
    assert config.memory.buffer_size is not None, "replay_capacity() needs a resolved configuration"
    return config.memory.buffer_size


def capped_buffer(config: TrainConfig, size: int) -> int:
    """Returns `size`, but at most the run's transitions, or what replay needs if that is more."""
    least = max(
        config.schedule.learning_starts,
        config.schedule.num_envs * (config.target.n_steps + STACK + 1),
    )
    return min(size, max(config.schedule.total_timesteps, 64 * config.schedule.num_envs, least))


def regrown_buffer(config: TrainConfig, asked: int | None) -> int | None:
    """Returns the size of replay for a lengthened run, never less than its present size.

    Args:
        config: the resolved configuration, with the new length and the old size of replay.
        asked: the size that a preset or a flag asked for when the run began.
    """
    now = config.memory.buffer_size
    if config.memory.kind == "none" or now is None:
        return now
    wanted = _buffer_size(config.model_copy(update={"buffer_size": asked})) or now
    return max(now, min(wanted, transitions_that_fit()))


def transitions_that_fit() -> int:
    """Returns how many transitions half of the free memory holds."""
    return machine.free_memory() // 2 // Replay.bytes_needed(1, BLOCKED_FRAME)


def _buffer_size(config: TrainConfig) -> int | None:
    """Returns the size of replay: as asked, by default 1,000,000; never more than the run fills.

    The default is lower if half of the free memory holds fewer transitions.
    """
    if config.memory.kind == "none":
        return config.memory.buffer_size
    if config.memory.buffer_size is not None:
        return capped_buffer(config, config.memory.buffer_size)
    per_transition = Replay.bytes_needed(1, BLOCKED_FRAME)
    fits = transitions_that_fit()
    size = min(
        _LARGEST_DEFAULT_BUFFER,
        max(config.schedule.total_timesteps, 64 * config.schedule.num_envs),
        fits,
    )
    if size < min(config.schedule.learning_starts, config.schedule.total_timesteps):
        machine.require_memory(
            config.schedule.learning_starts * per_transition,
            f"a replay of learning_starts = {config.schedule.learning_starts:,} transitions",
            "Lower --learning-starts, or free memory.",
            machine.free_memory() // 2,
        )
    # a run shorter than its warm-up is allowed: it fills replay and learns nothing
    return max(size, min(config.schedule.learning_starts, fits))


def _make_replay(config: TrainConfig) -> Replay:
    capacity = replay_capacity(config)
    needed = Replay.bytes_needed(capacity, BLOCKED_FRAME)
    device = "cpu"
    if config.machine.device == "cuda" and needed < 0.8 * torch.cuda.mem_get_info()[0]:
        device = "cuda"
    if device == "cpu":
        machine.require_memory(
            needed,
            f"a replay of buffer_size = {capacity:,} transitions",
            f"Lower --buffer-size (to {transitions_that_fit():,}, say).",
        )
    return Replay(
        capacity,
        num_envs=config.schedule.num_envs,
        frame_shape=BLOCKED_FRAME,
        n_steps=config.target.n_steps if config.memory.kind == "replay" else 1,
        gamma=config.target.gamma,
        reward_clip=config.target.reward_clip,
        priority_exponent=config.memory.priority_exponent if config.memory.prioritized else None,
        device=device,
    )


def _take_weights(learner: Learner, checkpoint: Checkpoint) -> bool:
    """Copies the weights of a checkpoint; if it is another game's, only those of the torso.

    Returns:
        Whether all weights were copied.
    """
    manifest, agent = checkpoint.manifest, learner.agent
    try:
        theirs = NetworkSettings.model_validate(manifest.network).model_dump(mode="json")
    except ValidationError as error:
        raise CheckpointError(
            f"{checkpoint.path} describes a network that cannot be built "
            f"({reason(error).rstrip('.')}). It was written by another rlarcade, or altered."
        ) from error
    # The head's outputs belong to one game's actions; for another game they mean nothing.
    whole = (manifest.game, manifest.num_actions) == (agent.game, agent.num_actions)
    for name in theirs if whole else _TORSO_SETTINGS:
        if agent.network[name] != theirs[name]:
            part = "a network" if whole else "a torso"
            raise CheckpointError(
                f"{checkpoint.path} is {part} with {name} = {theirs[name]}, but this run has "
                f"{name} = {agent.network[name]}, so the weights do not fit. Choose the preset or "
                "the flags that the checkpoint was trained with."
            )
    take = learner.load_weights if whole else learner.load_torso
    take(dict(checkpoint.tensors), checkpoint.path)
    return whole
