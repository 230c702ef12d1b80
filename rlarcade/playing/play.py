"""Plays whole games. Every episode starts with its own seeded reset, so it can be replayed.

Each lane is one emulator with its own game. A batched policy drives the lanes in two groups by
turns: while one group's emulators step, the policy chooses the other group's actions. A few threads
run the slow seeded resets (0.13 s each) beside this. Emulators are kept for the next evaluation.
An episode's score depends only on the policy, the protocol and the episode's seed. It does not
depend on the number of lanes or threads, on the other games or on earlier games.
"""

import atexit
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from rlarcade.checked import require
from rlarcade.errors import ConfigError, PolicyError
from rlarcade.foreign import own_words
from rlarcade.games.simulator import Mirror
from rlarcade.games.single import GameEnv
from rlarcade.playing.episodes import EpisodeResult, Trace
from rlarcade.playing.players import Agent, Choice, Player, SearchTree, View, as_player
from rlarcade.playing.schedule import check_count, evaluation_seeds
from rlarcade.seeding import SeedUse, generator
from rlarcade.text import quoted, said

DEFAULT_LANES = 24
_ROWS_STEP = 4  # batch sizes are multiples of this: see `DQNAgent.q_values`
_RESET_THREADS = 2
_MOST_IDLE = 2 * DEFAULT_LANES
_GIVES_WAY = 10  # added niceness; it leaves a tenth of the normal share of a core


class Scheduled(NamedTuple):
    """A game to play."""

    player: Player
    seed: int
    """Seed of the emulator. Together with `dice` it also seeds the player's random actions."""
    dice: int = 0
    """Index of the stream of random actions. Each seed has several independent streams."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision in an evaluated game, and its result."""

    observation: NDArray[np.uint8] = field(repr=False)
    """uint8 (4, 84, 84), newest frame last: the observation before the action."""
    q_values: NDArray[np.float32] | None = field(repr=False)
    """float32 (A,); None if the policy has no action values."""
    action: int
    explored: bool
    """Whether the action was random, because of the protocol's evaluation ε."""
    reward: float
    """Raw points."""
    terminated: bool
    truncated: bool
    next_observation: NDArray[np.uint8] = field(repr=False)
    """uint8 (4, 84, 84)."""
    episode: EpisodeResult | None
    """The finished game, if this step ended it."""
    seed: int
    """Seed of the game."""
    number: int
    """Index of this step in the game, from 0."""
    score: float
    """Score of the game so far, including this step's reward."""
    tree: SearchTree | None = field(default=None, repr=False)
    """The tree that the player grew, if it looks ahead."""


def play_steps(
    agent: Agent | Player,
    env: GameEnv | None = None,
    *,
    episodes: int = 1,
    first: int = 0,
    seed: int = 0,
    use: SeedUse = SeedUse.EVALUATION,
) -> Iterator[Step]:
    """Plays whole games step by step, with the games and scores of `evaluate_agent`.

        env = make_env("SpaceInvaders", render_mode="rgb_array")
        for step in play_steps(agent, env):
            picture = env.render()  # after the step

    Args:
        agent: as for `evaluate_agent`.
        env: environment to play in, if you want to render it. It has the agent's game and protocol.
        episodes: number of games.
        first: index of the first of them in an evaluation.
        seed: as for `evaluate_agent`.
        use: as for `evaluate_agent`.

    Yields:
        Every step, before the next action is chosen.

    Raises:
        ConfigError: fewer than one episode; `first` is negative; `env` has another game or
            protocol; or the policy needs the screen and `env` does not render it.
        PolicyError: the agent crashed, took too long or returned an invalid action.
    """
    player = as_player(agent)
    if env is not None:
        require(env, GameEnv, "env", "make_env(agent.game, protocol=agent.protocol)")
    if env is not None and (env.game, env.protocol) != (player.game, player.protocol):
        raise ConfigError(
            f"the agent plays {player.game} under {player.protocol.name}, but the environment is "
            f"{env.game} under {env.protocol.name}, or its protocol was altered. Make it with "
            "make_env(agent.game, protocol=agent.protocol)."
        )
    if env is not None and player.sees_screen and env.render_mode is None:
        raise ConfigError(
            f"{player.name} sees the screen, but this environment does not render it. Make it with "
            "render_mode='rgb_array'."
        )
    schedule = evaluation_schedule(player, episodes, seed, use, first=first)
    return (_step_of(lane) for (lane,) in _rounds(schedule, 1, env=env))


class GamesEngine(Interface):
    """Plays scheduled games somewhere else, such as on a cluster. See `games_played_by`."""

    def play_games(
        self, schedule: Iterable[Scheduled], *, failures_count: bool
    ) -> Iterator[tuple[int, EpisodeResult]]:
        """Plays games, with the results and errors of the function `play_games`."""


_elsewhere: ContextVar[GamesEngine | None] = ContextVar("_elsewhere", default=None)


@contextmanager
def games_played_by(engine: GamesEngine | None) -> Iterator[None]:
    """Lets an engine play all games of evaluations and matches in the block; None: this process.

    It holds for this thread only. `play_steps` always plays here.
    """
    token = _elsewhere.set(engine)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def play_games(
    schedule: Iterable[Scheduled], num_lanes: int = DEFAULT_LANES, *, failures_count: bool = False
) -> Iterator[tuple[int, EpisodeResult]]:
    """Plays scheduled games, in parallel lanes here, or by the engine of `games_played_by`.

    Args:
        schedule: the games. They start in this order; at most `num_lanes` are read ahead.
        num_lanes: number of games in parallel. An engine chooses it itself.
        failures_count: a player that fails ends only its own game. Without this, it raises.

    Yields:
        (index in the schedule, episode), in the order in which episodes end. Short games end
        before long ones. A caller that stops early must count by index, or it favours short games.

    Raises:
        PolicyError: a player failed, and `failures_count` is False.
    """
    engine = _elsewhere.get()
    if engine is not None:
        return engine.play_games(schedule, failures_count=failures_count)
    return play_games_here(schedule, num_lanes, failures_count=failures_count)


def play_games_here(
    schedule: Iterable[Scheduled | None], num_lanes: int, *, failures_count: bool
) -> Iterator[tuple[int, EpisodeResult]]:
    """Plays games in parallel lanes of this process; see `play_games`.

    The schedule may yield None: no game now, ask again after the next steps. It must not while no
    game is in play.
    """
    for lanes in _rounds(schedule, num_lanes, failures_count=failures_count):
        for lane in lanes:
            if lane.result is not None:
                yield lane.index, lane.result


def evaluation_schedule(
    player: Player, episodes: int, seed: int, use: SeedUse, *, first: int = 0
) -> "Iterator[Scheduled]":
    """Returns the games of an evaluation, in their order; `first` is the index of the first one."""
    check_count("episodes", episodes)
    if not isinstance(first, int | np.integer) or first < 0:
        raise ConfigError(f"first is the index of a game, 0 or more, got {quoted(first)}.")
    seeds = evaluation_seeds(seed, use, first)
    return (Scheduled(player, one) for one in islice(seeds, episodes))


def _rounds(
    schedule: Iterable[Scheduled | None],
    num_lanes: int,
    *,
    env: GameEnv | None = None,
    failures_count: bool = False,
) -> Iterator[list["_Lane"]]:
    """Yields the lanes that have just stepped, until all scheduled games are played.

    Lanes step in two groups by turns: while one group's emulators run, the actions of the other
    group are chosen.
    """
    waiting = _Queue(schedule)
    lanes = [_Lane(env) for _ in range(num_lanes)]
    free = [*lanes]
    opening: dict[Future[_Lane], Player] = {}
    ready: list[_Lane] = []
    moving: list[_Lane] = []
    with ExitStack() as stack:
        for lane in lanes if env is None else ():
            stack.callback(lane.leave)
        pool = ThreadPoolExecutor(_RESET_THREADS)
        # On an early exit, do not wait for games that have not begun.
        stack.callback(pool.shutdown, cancel_futures=True)
        while True:
            busy = [*opening.values(), *(lane.player for lane in [*ready, *moving])]
            while free and (job := waiting.next(busy)):
                opening[pool.submit(free.pop().open, *job)] = job[1].player
                busy.append(job[1].player)
            if not opening and not ready and not moving:
                return
            opened, _ = wait(opening, 0 if ready or moving else None, FIRST_COMPLETED)
            for future in opened:
                ready.append(future.result())
                del opening[future]
            # Half of the lanes, rounded up to a multiple of _ROWS_STEP.
            in_play = len(ready) + len(moving)
            group = _next_group(ready, -(-in_play // (2 * _ROWS_STEP)) * _ROWS_STEP)
            _send_actions(group, failures_count)
            if moving:
                for lane in moving:
                    lane.recv()
                yield moving
                free += [lane for lane in moving if lane.result is not None]
                ready += [lane for lane in moving if lane.result is None]
            moving = group


def _next_group(ready: list["_Lane"], size: int) -> list["_Lane"]:
    """Removes and returns the lanes to step next: those of the player with most ready lanes."""
    counts = Counter(id(lane.player) for lane in ready)
    most = counts.most_common(1)[0][0] if ready else 0
    group = [lane for lane in ready if id(lane.player) == most][:size]
    ready[:] = [lane for lane in ready if lane not in group]
    return group


class _Queue:
    """The games to play, in order.

    A player with `one_at_a_time` plays one game at a time. Its next game waits, and so do all games
    after it.
    """

    def __init__(self, schedule: Iterable[Scheduled | None]) -> None:
        self._schedule = iter(schedule)
        self._first: Scheduled | None = None
        self._begun = 0

    def next(self, busy: list[Player]) -> tuple[int, Scheduled] | None:
        """Returns (index, next game), or None if no game can begin now."""
        game = self._first or next(self._schedule, None)
        held_up = game is not None and game.player.one_at_a_time and game.player in busy
        self._first = game if held_up else None
        if game is None or held_up:
            return None
        self._begun += 1
        return self._begun - 1, game


class _IdleEmulators:
    """Idle emulators, kept for the next evaluation.

    Starting an emulator takes as long as a seeded reset and blocks Python. It runs in a thread of
    low priority, and the emulator's threads inherit that priority. An emulator has a whole turn to
    finish its step. At normal priority, many emulators on few cores would delay the one thread
    that chooses the other group's actions.
    """

    def __init__(self, most: int = _MOST_IDLE) -> None:
        self._envs: deque[GameEnv] = deque(maxlen=most)  # drops the oldest
        self._lock = threading.Lock()
        self._starter = ThreadPoolExecutor(1, initializer=_give_way)
        atexit.register(self._envs.clear)  # their threads must end before the interpreter does

    def take(self, player: Player) -> GameEnv:
        """Returns an emulator of the player's game and protocol; it renders for `sees_screen`."""
        kind = (player.game, player.protocol, "rgb_array" if player.sees_screen else None)
        with self._lock:
            for env in self._envs:
                if (env.game, env.protocol, env.render_mode) == kind:
                    self._envs.remove(env)
                    return env
        game, protocol, render_mode = kind
        return self._starter.submit(
            GameEnv, game, protocol=protocol, render_mode=render_mode
        ).result()

    def give(self, env: GameEnv) -> None:
        """Takes back an emulator. It must not have an unfinished step."""
        with self._lock:
            self._envs.append(env)


def _suits(env: GameEnv, player: Player) -> bool:
    """Whether a player can play in an emulator."""
    same_game = (env.game, env.protocol) == (player.game, player.protocol)
    return same_game and (env.render_mode is not None or not player.sees_screen)


def _give_way() -> None:
    """Lowers the priority of this thread and of threads that it starts (Linux only)."""
    if sys.platform == "linux":
        with suppress(OSError):  # without it, evaluation is only slower
            thread = threading.get_native_id()
            lower = os.getpriority(os.PRIO_PROCESS, thread) + _GIVES_WAY
            os.setpriority(os.PRIO_PROCESS, thread, min(lower, 19))


_idle = _IdleEmulators()


class _Lane:
    """One emulator, the episode in it, and its newest step."""

    player: Player
    seed: int
    index: int
    rng: np.random.Generator
    values: NDArray[np.float32] | None
    tree: SearchTree | None
    action: int
    explored: bool
    reward: float
    before: NDArray[np.uint8]
    observation: NDArray[np.uint8]
    result: EpisodeResult | None

    def __init__(self, env: GameEnv | None = None) -> None:
        self._env = env
        self._sent = False

    def open(self, index: int, job: Scheduled) -> "_Lane":
        """Begins an episode. This is slow, so it runs in a thread."""
        player = job.player
        if self._env is None or not _suits(self._env, player):
            self.leave()
            self._env = _idle.take(player)
        self.num_actions = self._env.num_actions
        self.player, self.index, self.seed = player, index, job.seed
        self.score, self.result = 0.0, None
        self._actions: list[int] = []
        self._rewards: list[float] = []
        self.rng = generator(job.seed, SeedUse.POLICY, *([job.dice] if job.dice else []))
        self._memory = player.sit(generator(job.seed, SeedUse.POLICY, job.dice, 1))
        self.observation, info = self._env.reset(seed=job.seed)
        self._mirror: Mirror | None = None
        if player.league == "emulator":
            self._mirror = Mirror.begun(player.game, player.protocol, info)
        self._lives, self._life_lost = info["lives"], False
        return self

    @property
    def steps(self) -> int:
        """Steps of the episode so far."""
        return len(self._actions)

    def view(self) -> View:
        """What the player sees now."""
        assert self._env is not None
        seen = self._env.render() if self.player.sees_screen else self.observation
        assert seen is not None
        state = None if self._mirror is None else self._mirror.state()
        return View(seen, self._memory, self.num_actions, self._life_lost, state)

    def send(self, choice: Choice) -> None:
        """Sends the chosen action or, with probability ε, a random one from the episode's rng."""
        assert self._env is not None
        self.values, self.tree = choice.values, choice.tree
        self.explored = bool(self.rng.random() < self.player.protocol.evaluation_epsilon)
        drawn = int(self.rng.integers(0, self.num_actions))
        self.action = drawn if self.explored else choice.action
        self._sent = True
        self._env.send(self.action)

    def recv(self) -> None:
        """Receives the result of the sent action."""
        if self.result is not None:  # the player failed, so no action was sent
            return
        assert self._env is not None
        self.before = self.observation
        self.observation, self.reward, terminated, truncated, info = self._env.recv()
        if self._mirror is not None:
            self._mirror.follow(self.action)
        self._life_lost = 0 < info["lives"] < self._lives
        self._lives = info["lives"]
        self._sent = False
        self.score += self.reward
        self._actions.append(self.action)
        self._rewards.append(self.reward)
        if terminated or truncated:
            self._end("terminated" if terminated else "truncated")

    def leave(self) -> None:
        """Releases the emulator. It is kept for other games, unless a step is unfinished."""
        if self._env is not None and not self._sent:
            _idle.give(self._env)
        self._env = None

    def fail(self, error: Exception) -> None:
        """Ends the episode because its player failed."""
        self._end("failed", _failure(error))

    def _end(
        self, how: Literal["terminated", "truncated", "failed"], failure: str | None = None
    ) -> None:
        self.result = EpisodeResult(
            seed=self.seed,
            score=self.score,
            steps=self.steps,
            ended=how,
            failure=failure,
            trace=Trace.of(self._actions, self._rewards),
        )


def _send_actions(lanes: list[_Lane], failures_count: bool) -> None:
    """Lets the player of these lanes choose all their actions in one call, and sends them."""
    if not lanes:
        return
    choices = lanes[0].player.choose([lane.view() for lane in lanes])
    for lane, decided in zip(lanes, choices, strict=True):
        choice = _checked(decided, lane.num_actions)
        if isinstance(choice, Choice):
            lane.send(choice)
        elif failures_count:
            lane.fail(choice)
        else:
            raise policy_error(lane.player, lane.steps, lane.seed, _failure(choice)) from choice


def policy_error(player: Player, steps: int, seed: int, failure: str) -> PolicyError:
    """Returns the error for a player that failed after so many steps of the game with a seed."""
    return PolicyError(
        f"{player.name} failed at step {steps} of the game with seed {seed}: {failure}."
    )


def _checked(choice: Choice | Exception, num_actions: int) -> Choice | Exception:
    if isinstance(choice, Choice) and not 0 <= choice.action < num_actions:
        return PolicyError(
            f"it chose action {choice.action}, which is outside 0 … {num_actions - 1}"
        )
    return choice


def _failure(error: Exception) -> str:
    """Describes why a player failed: a `PolicyError` as it is, any other with type and line."""
    return said(error) if isinstance(error, PolicyError) else own_words(error)


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
        tree=lane.tree,
    )
