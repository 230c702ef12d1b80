"""The training loop, as a generator: it learns; its caller logs, saves and decides when to stop."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray

from rlarcade.checkpoint import Checkpoint
from rlarcade.config import TrainConfig, validated
from rlarcade.errors import CheckpointError, ConfigError
from rlarcade.games.episodes import Episode, EpisodeTracker
from rlarcade.games.lanes import LaneStep, Progress, TrainingLanes
from rlarcade.games.names import resolve_game
from rlarcade.learning import hardware
from rlarcade.learning.agent import DQNAgent, Update
from rlarcade.learning.networks import BLOCKED_FRAME, block_frames
from rlarcade.learning.replay import Cells, Replay
from rlarcade.learning.schedules import crossed, epsilon, updates_due
from rlarcade.seeding import SeedUse, derived_seed, generator

_LARGEST_DEFAULT_BUFFER = 1_000_000


class Lanes(Interface):
    """What the loop needs of games; `TrainingLanes` for Atari, anything alike for research."""

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
        """Sends (E,) actions."""

    def recv(self) -> LaneStep:
        """Waits for what they did."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where training stands after one step of all lanes."""

    steps: int
    """Agent steps, all lanes together."""
    updates: int
    """Gradient steps."""
    epsilon: float
    """Share of random actions in this step."""
    episodes: tuple[Episode, ...]
    """Games that ended with this step."""
    update: Update | None
    """The newest gradient step, if there was one yet."""
    seconds: dict[str, float]
    """Wall time since this process began training, by part: env, act, replay, learn."""


@dataclass(slots=True)
class TrainingState:
    """Everything that a run consists of between two steps; what is saved to go on exactly."""

    config: TrainConfig
    agent: DQNAgent
    lanes: Lanes
    replay: Replay
    tracker: EpisodeTracker
    explore_rng: np.random.Generator
    replay_rng: np.random.Generator
    steps: int = 0
    updates: int = 0
    parent: str | None = None
    """sha256 of the weights that the run started from, if not from random ones."""
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("env", "act", "replay", "learn"), 0.0)
    )

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        *,
        lanes: Lanes | None = None,
        init_from: Checkpoint | None = None,
        progress: Progress | None = None,
    ) -> "TrainingState":
        """Builds a run at step 0.

        Args:
            config: settings; `auto` and unset ones are resolved here, see `state.config`.
            lanes: games to play instead of the configured Atari game.
            init_from: a checkpoint of the same game to take the first weights from.
            progress: told while the lanes start, about 0.25 s each.

        Raises:
            ConfigError, GameError: settings that cannot be used.
            ResourceError: replay would not fit into memory.
            CheckpointError: `init_from` is of another game, action set or network.
        """
        config = resolved(config)
        state = cls.unstarted(config, lanes=lanes)
        if init_from is not None:
            _take_weights(state.agent, init_from)
            state.parent = init_from.manifest.weights_sha256
        state.lanes.start(progress)
        return state

    @classmethod
    def unstarted(cls, config: TrainConfig, *, lanes: Lanes | None = None) -> "TrainingState":
        """Builds a run from a resolved configuration, its games not begun."""
        torch.set_num_threads(config.torch_threads)
        if config.deterministic:
            torch.use_deterministic_algorithms(mode=True)
        replay = _make_replay(config)
        if lanes is None:
            lanes = TrainingLanes(
                config.game,
                num_envs=config.num_envs,
                protocol=config.protocol,
                seed=config.seed,
                reseed_interval=config.reseed_interval,
            )
        agent = DQNAgent(
            config,
            num_actions=lanes.num_actions,
            device=config.device,
            precision="bf16" if config.precision == "bf16" else "fp32",
            seed=derived_seed(config.seed, SeedUse.NETWORK),
        )
        return cls(
            config=config,
            agent=agent,
            lanes=lanes,
            replay=replay,
            tracker=EpisodeTracker(config.num_envs),
            explore_rng=generator(config.seed, SeedUse.EXPLORATION),
            replay_rng=generator(config.seed, SeedUse.REPLAY),
        )


def train_agent(run: TrainConfig | TrainingState) -> Iterator[TrainingProgress]:
    """Deep Q-learning with experience replay (Mnih et al. 2015, Algorithm 1), step by step.

    Learning is paced by the data: how many updates are due is a function of the agent steps so far,
    so it does not depend on how many games run side by side. The state is whole whenever the
    generator is suspended, and may then be saved, evaluated or abandoned.

        state = TrainingState.create(TrainConfig(game="Pong", total_timesteps=100_000))
        for progress in train_agent(state):
            ...

    Args:
        run: a configuration, or a state to go on from.

    Yields:
        Where training stands after every step of the lanes, until `total_timesteps` is reached
        (rounded up to whole steps of all lanes).
    """
    state = run if isinstance(run, TrainingState) else TrainingState.create(run)
    config, agent, lanes, replay = state.config, state.agent, state.lanes, state.replay
    clock = _Clock(state.seconds)
    update: Update | None = None
    # Where the learner has a processor of its own, the emulators work while it learns. The order of
    # events is the same: actions are chosen before, and this step is stored after the update.
    overlap = agent.device.type == "cuda"

    while state.steps < config.total_timesteps:
        clock.start()
        share = epsilon(config, state.steps)
        actions = agent.act(lanes.observation, share, state.explore_rng)
        frame, age = block_frames(lanes.observation[:, -1]), lanes.age
        clock.lap("act")
        lanes.send(actions)
        step = None if overlap else lanes.recv()
        clock.lap("env")

        after = state.steps + lanes.num_envs
        while state.updates < updates_due(config, after) and replay.can_sample:
            batch = replay.sample(config.batch_size, state.replay_rng).to(agent.device)
            clock.lap("replay")
            update = agent.update(batch)
            state.updates += 1
            clock.lap("learn")
        if crossed(config.target_update_interval, state.steps, after):
            agent.sync_target()
            clock.lap("learn")

        if step is None:
            step = lanes.recv()
            clock.lap("env")
        replay.add(frame, _cells(config, actions, age, step))
        clock.lap("replay")
        state.steps = after
        yield TrainingProgress(
            steps=state.steps,
            updates=state.updates,
            epsilon=share,
            episodes=state.tracker.observe(step),
            update=update,
            seconds=state.seconds,
        )


def resolved(config: TrainConfig) -> TrainConfig:
    """Replaces every `auto` and unset setting by what this machine makes of it, once for all.

    Raises:
        ConfigError, GameError: settings that cannot be used here.
        ResourceError: not even a small replay fits into memory.
    """
    device = hardware.resolve_device(config.device)
    exploration_steps = config.exploration_steps
    if exploration_steps is None:
        exploration_steps = round(config.exploration_fraction * config.total_timesteps)
    return validated(
        TrainConfig,
        {
            **config.model_dump(),
            "game": resolve_game(config.game),
            "device": device,
            "precision": hardware.resolve_precision(config.precision, device),
            "torch_threads": hardware.resolve_threads(config.torch_threads),
            "buffer_size": config.buffer_size or _default_buffer_size(config),
            "exploration_steps": exploration_steps,
        },
    )


def measured_speed(config: TrainConfig, seconds: float = 8.0) -> tuple[float, float]:
    """Measures this machine's speed on throw-away work, so that a length in minutes can be fixed.

    Returns:
        Agent steps per second before and after learning starts.
    """
    trial = config.model_copy(
        update={
            "seed": derived_seed(config.seed, SeedUse.CALIBRATION),
            "total_timesteps": 10**9,
            "learning_starts": 64 * config.num_envs,
            "buffer_size": 256 * config.num_envs,
            "exploration_steps": 0,  # the network acts, as it will for most of the run
        }
    )
    state = TrainingState.create(trial)
    started, random_speed, learning_from = time.perf_counter(), 0.0, 0.0
    steps_then = 0
    for progress in train_agent(state):
        now = time.perf_counter()
        if progress.steps <= trial.learning_starts:
            random_speed = progress.steps / (now - started)
        elif progress.updates >= 3 and not learning_from:  # the first updates are slow
            learning_from, steps_then = now, progress.steps
        elif learning_from and now - learning_from > seconds:
            break
    return random_speed, (progress.steps - steps_then) / (now - learning_from)


def steps_in(minutes: float, config: TrainConfig) -> int:
    """Returns the agent steps that fit into so many minutes, from measured speed.

    A twentieth is left for the start, saves and the evaluation at the end.
    """
    started = time.perf_counter()
    random_speed, learning_speed = measured_speed(config)
    left = minutes * 60 * 0.95 - (time.perf_counter() - started)
    warm_up = config.learning_starts / random_speed
    steps = int(
        left * random_speed
        if left < warm_up
        else config.learning_starts + (left - warm_up) * learning_speed
    )
    if steps < config.num_envs:
        raise ConfigError(
            f"minutes = {minutes:g} is too short: measuring this machine's speed takes longer. "
            "Raise --minutes, or give --total-timesteps."
        )
    return steps


def _default_buffer_size(config: TrainConfig) -> int:
    """1,000,000, but no more than the run fills and than fits in half of the free memory."""
    per_transition = Replay.bytes_needed(1, BLOCKED_FRAME)
    fits = hardware.free_memory() // 2 // per_transition
    size = min(_LARGEST_DEFAULT_BUFFER, max(config.total_timesteps, 64 * config.num_envs), fits)
    if size < min(config.learning_starts, config.total_timesteps):
        hardware.require_memory(
            config.learning_starts * per_transition,
            f"a replay of learning_starts = {config.learning_starts:,} transitions",
            "Lower --learning-starts, or free memory.",
            hardware.free_memory() // 2,
        )
    # a run shorter than its warm-up is allowed: it fills replay and learns nothing
    return max(size, min(config.learning_starts, fits))


def _make_replay(config: TrainConfig) -> Replay:
    assert config.buffer_size is not None, "unstarted() needs a resolved configuration"
    needed = Replay.bytes_needed(config.buffer_size, BLOCKED_FRAME)
    device = "cpu"
    if config.device == "cuda" and needed < 0.8 * torch.cuda.mem_get_info()[0]:
        device = "cuda"
    if device == "cpu":
        hardware.require_memory(
            needed,
            f"a replay of buffer_size = {config.buffer_size:,} transitions",
            "Lower --buffer-size "
            f"(to {hardware.free_memory() // 2 // Replay.bytes_needed(1, BLOCKED_FRAME):,}, say).",
        )
    return Replay(
        config.buffer_size,
        num_envs=config.num_envs,
        frame_shape=BLOCKED_FRAME,
        n_steps=config.n_steps,
        gamma=config.gamma,
        reward_clip=config.reward_clip,
        device=device,
    )


def _cells(
    config: TrainConfig, actions: NDArray[np.int64], age: NDArray[np.int64], step: LaneStep
) -> Cells:
    terminal = step.terminated
    if config.terminal_on_life_loss:
        terminal = terminal | step.life_lost
    return Cells(
        action=actions.astype(np.uint8),
        reward=step.reward,
        terminal=terminal,
        last=step.terminated | step.truncated,
        reset=step.reset,
        age=np.minimum(age, 255).astype(np.uint8),
    )


def _take_weights(agent: DQNAgent, checkpoint: Checkpoint) -> None:
    manifest = checkpoint.manifest
    if (manifest.game, manifest.num_actions) != (agent.game, agent.num_actions):
        raise CheckpointError(
            f"{checkpoint.path} was trained on {manifest.game} with {manifest.num_actions} "
            f"actions, but this run plays {agent.game} with {agent.num_actions}. A network's last "
            "layer cannot be resized: start from a checkpoint of the same game and protocol."
        )
    agent.load_weights(dict(checkpoint.tensors), checkpoint.path)


class _Clock:
    """Adds wall time up by part."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self._seconds[part] += now - self._since
        self._since = now
