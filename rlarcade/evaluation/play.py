"""Plays whole games: every episode is its own seeded reset, so it can be checked and repeated.

One emulator a lane, each with its own game; a batched policy drives all lanes, and a few threads
keep the slow seeded resets (0.13 s each) off the critical path. An episode's score depends on
nothing but the policy, the protocol and the episode's seed: not on lanes, threads or neighbours.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ConfigError
from rlarcade.evaluation.documents import EpisodeResult, Evaluation
from rlarcade.games.protocols import Protocol
from rlarcade.games.vector import GameVectorEnv
from rlarcade.seeding import SeedUse, derived_seed, generator

_DEFAULT_LANES = 8
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
    num_lanes: int = _DEFAULT_LANES,
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
    for index, result in _play(agent, seeds, min(num_lanes, episodes)):
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


class _Lane:
    """One emulator and the episode in it."""

    def __init__(self, game: str, protocol: Protocol) -> None:
        self.env = GameVectorEnv(game, 1, protocol=protocol, num_threads=1)
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


def _play(
    agent: ValuesActions, seeds: list[int], num_lanes: int
) -> Iterator[tuple[int, EpisodeResult]]:
    """Yields episodes as they end, each with its place in `seeds`."""
    waiting = list(enumerate(seeds))[::-1]
    with ThreadPoolExecutor(_RESET_THREADS) as pool:
        opening = [
            pool.submit(_open, None, agent.game, agent.protocol, *waiting.pop())
            for _ in range(num_lanes)
        ]
        playing: list[_Lane] = []
        while opening or playing:
            if not playing:
                playing.append(opening.pop(0).result())
            for future in [future for future in opening if future.done()]:
                playing.append(future.result())
                opening.remove(future)
            _send_actions(agent, playing)
            results = [(lane, lane.recv()) for lane in playing]
            playing = [lane for lane, result in results if result is None]
            for lane, result in results:
                if result is None:
                    continue
                yield lane.index, result
                if waiting:
                    job = pool.submit(_open, lane, agent.game, agent.protocol, *waiting.pop())
                    opening.append(job)


def _open(lane: _Lane | None, game: str, protocol: Protocol, index: int, seed: int) -> _Lane:
    """Begins an episode in a lane, or in a new one; takes long, so it runs in a thread."""
    lane = lane or _Lane(game, protocol)
    lane.index, lane.seed = index, seed
    lane.score, lane.steps = 0.0, 0
    lane.rng = generator(seed, SeedUse.POLICY)
    lane.observation, _ = lane.env.reset(seed=np.array([seed], dtype=np.int32))
    return lane


def _send_actions(agent: ValuesActions, lanes: list[_Lane]) -> None:
    """Chooses ε-greedy actions for all lanes in one batch, each with its episode's own chance."""
    values = agent.q_values(np.concatenate([lane.observation for lane in lanes]))
    for lane, action in zip(lanes, values.argmax(axis=1), strict=True):
        explore = lane.rng.random() < agent.protocol.evaluation_epsilon
        random_action = lane.rng.integers(0, values.shape[1])
        lane.env.send(np.array([random_action if explore else action], dtype=np.int64))
