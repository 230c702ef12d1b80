"""Plays whole games: every episode is its own seeded reset, so it can be checked and repeated.

One emulator a lane, each with its own game; a batched policy drives all lanes, and a few threads
keep the slow seeded resets (0.13 s each) off the critical path. An episode's score depends on
nothing but the policy, the protocol and the episode's seed: not on lanes, threads or neighbours.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ConfigError
from rlarcade.evaluation.documents import EpisodeResult, Evaluation
from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv
from rlarcade.seeding import SeedUse, derived_seed, generator

DEFAULT_LANES = 8
_RESET_THREADS = 2

EpisodeDone = Callable[[EpisodeResult, int, int], None]
"""Called with an episode that ended, how many have ended, and how many there will be."""


class ValuesActions(Interface):
    """What evaluation needs of an agent."""

    game: str
    protocol: Protocol

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (B, A) values of observations (B, 4, 84, 84)."""


def evaluate_agent(
    agent: ValuesActions,
    *,
    episodes: int = 100,
    seed: int = 0,
    name: str = "agent",
    weights_sha256: str | None = None,
    use: SeedUse = SeedUse.EVALUATION,
    num_lanes: int = DEFAULT_LANES,
    on_episode: EpisodeDone | None = None,
) -> Evaluation:
    """Plays whole games and reports raw scores.

    Args:
        agent: plays ε-greedily, with its protocol's evaluation ε.
        episodes: how many games.
        seed: the episodes' seeds follow from it; the same seed means the same games.
        name: what the result calls the agent.
        weights_sha256: digest of its weights, for the result.
        use: what the evaluation is for; seeds of different uses never meet.
        num_lanes: games at a time. Changes the time it takes, never a score.
        on_episode: called after each game.

    Returns:
        An `Evaluation`, its episodes in the order of their seeds.

    Raises:
        ConfigError: fewer than one episode or lane.
    """
    if num_lanes < 1:
        raise ConfigError(f"num_lanes must be at least 1, got {num_lanes}.")
    schedule = _schedule(agent, episodes, seed, use)
    results: dict[int, EpisodeResult] = {}
    for index, result in play_games(schedule, num_lanes):
        results[index] = result
        if on_episode is not None:
            on_episode(result, len(results), episodes)
    return Evaluation(
        checkpoint=name,
        weights_sha256=weights_sha256,
        game=agent.game,
        protocol=agent.protocol,
        epsilon=agent.protocol.evaluation_epsilon,
        seed=seed,
        episodes=tuple(results[index] for index in range(episodes)),
    )


class Scheduled(NamedTuple):
    """A game that is to be played."""

    agent: ValuesActions
    seed: int
    """Of the emulator and, with `dice`, of the agent's own random actions."""
    dice: int = 0
    """Which of the streams of random actions that belong to the seed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision in an evaluated game, and what came of it."""

    observation: NDArray[np.uint8]
    """uint8 (4, 84, 84), newest frame last: what was decided upon."""
    q_values: NDArray[np.float32]
    """float32 (A,)."""
    action: int
    explored: bool
    """Whether the action was drawn at random, with the protocol's evaluation ε."""
    reward: float
    """Raw points."""
    terminated: bool
    truncated: bool
    next_observation: NDArray[np.uint8]
    """uint8 (4, 84, 84)."""
    episode: EpisodeResult | None
    """The game, if it ended with this step."""
    seed: int
    """Of the game."""
    number: int
    """Steps of the game before this one."""
    score: float
    """Of the game so far, this step's reward included."""


def play_steps(
    agent: ValuesActions,
    env: GameEnv | None = None,
    *,
    episodes: int = 1,
    seed: int = 0,
    use: SeedUse = SeedUse.EVALUATION,
) -> Iterator[Step]:
    """Plays whole games step by step: `evaluate_agent` with one lane, its games and its scores.

        env = make_env("SpaceInvaders", render_mode="rgb_array")
        for step in play_steps(agent, env):
            picture = env.render()  # after the step

    Args:
        agent: plays ε-greedily, with its protocol's evaluation ε.
        env: the game to play in, for its pictures; of the agent's game and protocol.
        episodes: how many games.
        seed: the games' seeds follow from it, as in `evaluate_agent`.
        use: what the games are for, likewise.

    Yields:
        Every step, before the next one is decided upon.

    Raises:
        ConfigError: fewer than one episode, or `env` is of another game or protocol.
    """
    if env is not None and (env.game, env.protocol) != (agent.game, agent.protocol):
        raise ConfigError(
            f"the agent plays {agent.game} under {agent.protocol.name}, but the environment is "
            f"{env.game} under {env.protocol.name}, or its protocol was altered. Make it with "
            "agent.make_env()."
        )
    schedule = _schedule(agent, episodes, seed, use)
    return (_step_of(lane) for (lane,) in _rounds(schedule, 1, env))


def play_games(
    schedule: Iterable[Scheduled], num_lanes: int = DEFAULT_LANES
) -> Iterator[tuple[int, EpisodeResult]]:
    """Plays games as lanes become free, all agents of one game and protocol.

    Args:
        schedule: the games, begun in this order. Read no further ahead than there are lanes.
        num_lanes: games at a time.

    Yields:
        Episodes as they end, each with its place in the schedule. Short ones overtake long ones:
        whoever stops early must go by places, or favours whatever ends quickly.
    """
    for lanes in _rounds(schedule, num_lanes):
        for lane in lanes:
            if lane.result is not None:
                yield lane.index, lane.result


def _schedule(agent: ValuesActions, episodes: int, seed: int, use: SeedUse) -> list[Scheduled]:
    if episodes < 1:
        raise ConfigError(f"episodes must be at least 1, got {episodes}.")
    return [Scheduled(agent, derived_seed(seed, use, index)) for index in range(episodes)]


def _rounds(
    schedule: Iterable[Scheduled], num_lanes: int, env: GameEnv | None = None
) -> Iterator[list["_Lane"]]:
    """Yields the lanes that have just moved, until the schedule is played."""
    waiting = enumerate(schedule)
    lanes = [_Lane(env) for _ in range(num_lanes)]
    with ThreadPoolExecutor(_RESET_THREADS) as pool:
        opening: list[Future[_Lane]] = []
        opening += [pool.submit(lane.open, *job) for lane, job in zip(lanes, waiting, strict=False)]
        playing: list[_Lane] = []
        while opening or playing:
            if not playing:
                playing.append(opening.pop(0).result())
            for future in [future for future in opening if future.done()]:
                playing.append(future.result())
                opening.remove(future)
            _send_actions(playing)
            for lane in playing:
                lane.recv()
            yield playing
            free = [lane for lane in playing if lane.result is not None]
            playing = [lane for lane in playing if lane.result is None]
            opening += [
                pool.submit(lane.open, *job) for lane, job in zip(free, waiting, strict=False)
            ]


class _Lane:
    """One emulator, the episode in it, and its newest step."""

    agent: ValuesActions
    seed: int
    rng: np.random.Generator
    values: NDArray[np.float32]
    action: int
    explored: bool
    reward: float
    before: NDArray[np.uint8]

    def __init__(self, env: GameEnv | None = None) -> None:
        self._env = env
        self.index = -1
        self.score, self.steps = 0.0, 0
        self.observation: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self.result: EpisodeResult | None = None

    def open(self, index: int, job: Scheduled) -> "_Lane":
        """Begins an episode; takes long, so it runs in a thread."""
        if self._env is None:
            self._env = GameEnv(job.agent.game, protocol=job.agent.protocol)
        self.agent, self.index, self.seed = job.agent, index, job.seed
        self.score, self.steps, self.result = 0.0, 0, None
        self.rng = generator(job.seed, SeedUse.POLICY, *([job.dice] if job.dice else []))
        self.observation, _ = self._env.reset(seed=job.seed)
        return self

    def send(self, values: NDArray[np.float32]) -> None:
        """Chooses an ε-greedy action with the episode's own dice, and sends it."""
        assert self._env is not None
        self.values = values
        self.explored = bool(self.rng.random() < self.agent.protocol.evaluation_epsilon)
        drawn = int(self.rng.integers(0, len(values)))
        self.action = drawn if self.explored else int(values.argmax())
        self._env.send(self.action)

    def recv(self) -> None:
        """Takes in what the sent action did."""
        assert self._env is not None
        self.before = self.observation
        self.observation, self.reward, terminated, truncated, _ = self._env.recv()
        self.score += self.reward
        self.steps += 1
        if terminated or truncated:
            self.result = EpisodeResult(
                seed=self.seed,
                score=self.score,
                steps=self.steps,
                ended="terminated" if terminated else "truncated",
            )


def _send_actions(lanes: list[_Lane]) -> None:
    """Lets every agent look at all its lanes in one batch."""
    lanes = sorted(lanes, key=lambda lane: id(lane.agent))
    for _, group in itertools.groupby(lanes, key=lambda lane: id(lane.agent)):
        its = list(group)
        values = its[0].agent.q_values(np.stack([lane.observation for lane in its]))
        for lane, row in zip(its, values, strict=True):
            lane.send(row)


def _step_of(lane: _Lane) -> Step:
    ended = lane.result.ended if lane.result else None
    return Step(
        observation=lane.before,
        q_values=lane.values,
        action=lane.action,
        explored=lane.explored,
        reward=lane.reward,
        terminated=ended == "terminated",
        truncated=ended == "truncated",
        next_observation=lane.observation,
        episode=lane.result,
        seed=lane.seed,
        number=lane.steps - 1,
        score=lane.score,
    )
