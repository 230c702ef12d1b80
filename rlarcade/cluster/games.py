"""Plays the games of evaluations and matches on a Ray cluster.

One worker per CPU plays some games at a time. Results come back as games end. Pairs of a match
count in schedule order all the same, so a verdict is that of this machine alone.

A worker, or a whole node, may be killed: its games are played again elsewhere. If this process is
killed, Ray ends its workers, and the records of evaluations and matches keep what had ended.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import Any, Self

from rlarcade.cluster.connection import RayCluster, raised_there
from rlarcade.cluster.dispatch import Dispatcher
from rlarcade.cluster.game_worker import Game, GameWorker
from rlarcade.cluster.nodes import facts_of_this_process
from rlarcade.cluster.packing import packed_player
from rlarcade.errors import ResourceError
from rlarcade.foreign import own_words
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import Scheduled, games_played_by, policy_error
from rlarcade.playing.players import Player
from rlarcade.playing.schedule import check_count
from rlarcade.text import counted

LANES = 24
"""Games that a worker plays at a time. With eight, its batches are so small that it takes a third
longer (docs/results/scaling.md)."""
_TICK = 0.5  # seconds
_LOOK_SECONDS = 2.0  # between looks at how many CPUs the cluster has
_PATIENCE = 30.0  # seconds without a worker, before the user is told
_PAUSES = (0.0, 4.0, 8.0, 16.0)
"""Seconds before workers are started again, after so many times that some ended before they had
begun: Ray may need half a minute to notice that a node is dead, and gives it work meanwhile."""


@dataclass(eq=False)
class _Worker:
    actor: Any
    call: Any
    """What it was asked: a reference to the answer. None: nothing."""
    round: int
    """Number of the look at the cluster that started it, maybe together with others."""
    node: str | None = None
    """None: it has not said that it is ready."""
    players: set[int] = field(default_factory=set)
    """Keys of the players that it was sent."""


class RayGames:
    """Plays games on a cluster, as a `GamesEngine`.

    with RayCluster("10.0.0.1:6379") as cluster, RayGames(cluster) as games, games.used():
        compare_agents(champion, candidate)
    """

    def __init__(
        self,
        cluster: RayCluster,
        *,
        workers: int | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Starts no worker yet.

        Args:
            cluster: where to play.
            workers: most workers, of one CPU each; None: one for each CPU of the cluster.
            warn: told when a worker was lost, or none can be had.

        Raises:
            ConfigError: `workers` is not a whole number above 0.
        """
        if workers is not None:
            check_count("workers", workers)
        self._cluster, self._ray = cluster, cluster.ray
        self._most, self._warn = workers, warn
        self._dispatcher: Dispatcher[_Worker] = Dispatcher(LANES)
        self._workers: list[_Worker] = []
        self._players: dict[int, tuple[Player, Any]] = {}
        self._worked = time.monotonic()
        self._looked = self._worked - _LOOK_SECONDS
        self._told_to_wait = False
        self._rounds = 0
        # A round fails if a worker of it ends before it has begun. How many rounds have failed
        # since a worker began; the number of the last one.
        self._stillborn, self._stillborn_round = 0, 0
        self._pause_ends = -inf

    @contextmanager
    def used(self) -> Iterator[None]:
        """Lets all evaluations and matches in the block play here."""
        with games_played_by(self):
            yield

    def play_games(
        self, schedule: Iterable[Scheduled], *, failures_count: bool
    ) -> Iterator[tuple[int, EpisodeResult]]:
        """See `play_games` of `rlarcade.playing`.

        Raises:
            ConfigError: a node has other versions, or a player cannot be sent there.
            PolicyError: a player failed, and `failures_count` is False.
            ResourceError: a game ended several workers.
        """
        known: dict[int, Scheduled] = {}
        order = self._dispatcher.open(_noted(schedule, known))
        try:
            while not order.done:
                for index, episode in order.take():
                    player = known.pop(index).player
                    if episode.failure is not None and not failures_count:
                        raise policy_error(player, episode.steps, episode.seed, episode.failure)
                    yield index, episode
                if not order.done:
                    self._pump()
        finally:
            self._dispatcher.close(order)

    # Workers

    def _pump(self) -> None:
        """Gives games to workers, and takes the results that are there after a moment."""
        self._keep_workers()
        free = [one for one in self._workers if one.node is not None and one.call is None]
        for worker, games in self._dispatcher.assign(free):
            self._send(worker, games)
        for worker in free:
            if worker.call is None and self._dispatcher.in_play(worker):
                self._send(worker, {})
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        for call in self._answered([*calls]):
            self._take(calls[call])
        self._look_for_idleness()

    def _answered(self, calls: list[Any]) -> list[Any]:
        """Waits a moment for answers; returns the calls that have one."""
        if not calls:
            time.sleep(_TICK)
            return []
        done: list[Any]
        done, rest = self._ray.wait(calls, num_returns=1, timeout=_TICK)
        if done and rest:
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return done

    def _look_for_idleness(self) -> None:
        """Tells the user once if no worker can be had."""
        now = time.monotonic()
        if any(worker.node is not None for worker in self._workers):
            self._worked = now
        elif now - self._worked > _PATIENCE and not self._told_to_wait:
            self._told_to_wait = True
            self._warn(
                f"no worker has begun for {_PATIENCE:g} seconds. The cluster has "
                f"{counted(self._cluster.cpus(), 'CPU')}, and other work may use them. Still "
                "waiting."
            )

    def _keep_workers(self) -> None:
        """Starts workers, as many as have a CPU and would have a game."""
        now = time.monotonic()
        if now < self._pause_ends or (now - self._looked < _LOOK_SECONDS and self._workers):
            return
        self._looked = now
        self._rounds += 1
        most = self._cluster.cpus()
        if self._most is not None:
            most = min(most, self._most)
        self._dispatcher.workers = self._dispatcher.wanted(most)
        while len(self._workers) < self._dispatcher.workers:
            actor = self._cluster.start_actor(GameWorker, facts_of_this_process(), LANES)
            self._workers.append(_Worker(actor, actor.ready.remote(), self._rounds))

    def _send(self, worker: _Worker, games: dict[int, Scheduled]) -> None:
        packed = {}
        for ticket, game in games.items():
            key = self._known(game.player)
            if key not in worker.players:
                worker.players.add(key)
                worker.actor.learn.remote(key, self._players[key][1])
            packed[ticket] = Game(key, game.seed, game.dice)
        worker.call = worker.actor.exchange.remote(packed)

    def _known(self, player: Player) -> int:
        """Returns the key of a player. It is put into the cluster's store once."""
        key = id(player)
        if key not in self._players:
            # The player is kept, so that no other one gets its id.
            self._players[key] = (player, self._ray.put(packed_player(player)))
        return key

    def _take(self, worker: _Worker) -> None:
        errors = self._ray.exceptions
        call, worker.call = worker.call, None
        try:
            answer = self._ray.get(call)
        except errors.RayTaskError as error:  # raised by the worker's code
            raise raised_there(error, "a worker of the cluster failed") from error
        except errors.RayError as error:  # its process or node has ended, or cannot be reached
            self._lose(worker, error)
            return
        if worker.node is None:
            worker.node, self._stillborn = answer, 0
            return
        for ticket, episode in answer:
            self._dispatcher.finished(worker, ticket, episode)

    def _lose(self, worker: _Worker, error: Exception) -> None:
        self._workers.remove(worker)
        self._cluster.end_actor(worker.actor)  # it may play on, but nobody would hear of it
        back = self._dispatcher.lost(worker)
        self._looked -= _LOOK_SECONDS
        if worker.node is None:
            self._note_stillborn(worker, error)
            self._warn(f"a worker of the cluster did not begin ({type(error).__name__})")
        else:
            self._warn(
                f"a worker on node {worker.node} has ended ({type(error).__name__}); "
                f"{counted(back, 'game')} will be played again"
            )

    def _note_stillborn(self, worker: _Worker, error: Exception) -> None:
        if worker.round <= self._stillborn_round:
            return  # another one of its round has ended, too: a node takes all its workers along
        self._stillborn_round = worker.round
        self._stillborn += 1
        if self._stillborn > len(_PAUSES):
            raise ResourceError(
                f"{self._stillborn} times, one after the other, workers of the cluster ended "
                f"before they had begun ({own_words(error)}). Their logs say why (`ray logs`); too "
                "little memory is the usual reason."
            ) from error
        self._pause_ends = time.monotonic() + _PAUSES[self._stillborn - 1]

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            self._cluster.end_actor(worker.actor)
        self._workers.clear()
        self._players.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _noted(schedule: Iterable[Scheduled], known: dict[int, Scheduled]) -> Iterator[Scheduled]:
    for index, game in enumerate(schedule):
        known[index] = game
        yield game
