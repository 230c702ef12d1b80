"""Plays whole games: every episode is its own seeded reset, so it can be checked and repeated.

One emulator a lane, each with its own game; a batched policy drives all lanes, and a few threads
keep the slow seeded resets (0.13 s each) off the critical path. An episode's score depends on
nothing but the policy, the protocol and the episode's seed: not on lanes, threads or neighbours.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ConfigError
from rlarcade.evaluation.documents import EpisodeResult, Evaluation
from rlarcade.games.protocols import Protocol
from rlarcade.games.vector import GameVectorEnv
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
    if episodes < 1 or num_lanes < 1:
        raise ConfigError(f"episodes ({episodes}) and num_lanes ({num_lanes}) must be at least 1.")
    seeds = [derived_seed(seed, use, index) for index in range(episodes)]
    results: dict[int, EpisodeResult] = {}
    schedule = [Scheduled(agent, episode_seed) for episode_seed in seeds]
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
    waiting = enumerate(schedule)
    with ThreadPoolExecutor(_RESET_THREADS) as pool:
        opening = [pool.submit(_open, None, *job) for job in itertools.islice(waiting, num_lanes)]
        playing: list[_Lane] = []
        while opening or playing:
            if not playing:
                playing.append(opening.pop(0).result())
            for future in [future for future in opening if future.done()]:
                playing.append(future.result())
                opening.remove(future)
            _send_actions(playing)
            results = [(lane, lane.recv()) for lane in playing]
            playing = [lane for lane, result in results if result is None]
            for lane, result in results:
                if result is None:
                    continue
                yield lane.index, result
                opening += [pool.submit(_open, lane, *job) for job in itertools.islice(waiting, 1)]


class _Lane:
    """One emulator and the episode in it."""

    def __init__(self, game: str, protocol: Protocol) -> None:
        self.env = GameVectorEnv(game, 1, protocol=protocol, num_threads=1)
        self.agent: ValuesActions
        self.index = -1
        self.seed = 0
        self.score, self.steps = 0.0, 0
        self.rng = np.random.default_rng(0)
        self.observation: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)

    def recv(self) -> EpisodeResult | None:
        """Takes in what the sent action did; returns the episode if it ended."""
        self.observation, reward, terminated, truncated, _ = self.env.recv()
        self.score += float(reward[0])
        self.steps += 1
        if not (terminated[0] or truncated[0]):
            return None
        return EpisodeResult(
            seed=self.seed,
            score=self.score,
            steps=self.steps,
            ended="terminated" if terminated[0] else "truncated",
        )


def _open(lane: _Lane | None, index: int, job: Scheduled) -> _Lane:
    """Begins an episode in a lane, or in a new one; takes long, so it runs in a thread."""
    lane = lane or _Lane(job.agent.game, job.agent.protocol)
    lane.agent, lane.index, lane.seed = job.agent, index, job.seed
    lane.score, lane.steps = 0.0, 0
    lane.rng = generator(job.seed, SeedUse.POLICY, *([job.dice] if job.dice else []))
    lane.observation, _ = lane.env.reset(seed=np.array([job.seed], dtype=np.int32))
    return lane


def _send_actions(lanes: list[_Lane]) -> None:
    """Chooses ε-greedy actions, all lanes of an agent in one batch, each with its own dice."""
    lanes = sorted(lanes, key=lambda lane: id(lane.agent))
    for _, group in itertools.groupby(lanes, key=lambda lane: id(lane.agent)):
        its = list(group)
        agent = its[0].agent
        values = agent.q_values(np.concatenate([lane.observation for lane in its]))
        for lane, action in zip(its, values.argmax(axis=1), strict=True):
            explore = lane.rng.random() < agent.protocol.evaluation_epsilon
            random_action = lane.rng.integers(0, values.shape[1])
            lane.env.send(np.array([random_action if explore else action], dtype=np.int64))
