"""Decides which worker plays which game. It knows no Ray and no clock.

A game that a worker loses is played again by another worker, under another ticket. If the first
one finishes after all, its ticket is unknown by then, so the result changes nothing.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from rlarcade.errors import ResourceError
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import Scheduled

MOST_DEATHS = 5
"""Workers that may end while they play a game, before the game counts as their cause."""

W = TypeVar("W", bound=Hashable)


@dataclass(eq=False)
class Order:
    """The games of one evaluation or match."""

    schedule: Iterator[Scheduled]
    ended: deque[tuple[int, EpisodeResult]] = field(default_factory=deque)
    """Results that nobody has taken: index in the schedule, game."""
    begun: int = 0
    """Games that were read from the schedule."""
    taken: int = 0
    """Results that were taken."""
    read: bool = False
    """Whether the schedule has no more games."""
    closed: bool = False

    @property
    def in_hand(self) -> int:
        """Games that wait, are in play, or have ended and were not taken."""
        return self.begun - self.taken

    @property
    def done(self) -> bool:
        """Whether every game was played and taken."""
        return self.read and self.taken == self.begun

    def take(self) -> Iterator[tuple[int, EpisodeResult]]:
        """Takes the results that are there."""
        while self.ended:
            self.taken += 1
            yield self.ended.popleft()


@dataclass(eq=False)
class Attempt:
    """A game to play, and how often it was tried. Games that were read earlier come first."""

    number: int
    """Games of all orders that were read before it."""
    order: Order
    index: int
    """Index in the schedule."""
    game: Scheduled
    deaths: int = 0
    """Workers that ended while they played it."""

    def __lt__(self, other: "Attempt") -> bool:
        return self.number < other.number


class Dispatcher(Generic[W]):
    """Gives games to workers, in the order of the schedules.

    Attributes:
        workers: number of workers that are expected. Games are spread over so many.
    """

    def __init__(self, capacity: int) -> None:
        """Makes a dispatcher.

        Args:
            capacity: most games that one worker plays at a time.
        """
        self.workers = 0
        self._capacity = capacity
        self._unread: list[Order] = []
        self._waiting: list[Attempt] = []  # a heap
        self._in_play: dict[W, dict[int, Attempt]] = {}
        self._playing = self._numbers = self._tickets = 0

    def open(self, schedule: Iterable[Scheduled]) -> Order:
        """Takes games to play."""
        order = Order(iter(schedule))
        self._unread.append(order)
        return order

    def close(self, order: Order) -> None:
        """Forgets an order. Workers end its games in play, and nobody hears of them."""
        order.closed = True
        if not order.read:
            self._unread.remove(order)
        self._waiting = [one for one in self._waiting if one.order is not order]
        heapify(self._waiting)

    def wanted(self, most: int) -> int:
        """Returns how many of so many workers would have a game."""
        self._read(most * self._capacity)
        return min(most, len(self._waiting) + self._playing)

    def assign(self, free: Sequence[W]) -> list[tuple[W, dict[int, Scheduled]]]:
        """Gives games to workers that can be told of them now.

        Returns:
            For each worker that gets games: the games by ticket.
        """
        self._read(max(self.workers, len(free)) * self._capacity)
        if not self._waiting:
            return []
        in_hand = len(self._waiting) + self._playing
        share = min(self._capacity, -(-in_hand // max(self.workers, len(free), 1)))
        given: dict[W, dict[int, Scheduled]] = {}
        by_load = sorted(free, key=self.in_play)
        for load in range(share):  # one game for each worker, before one gets two
            for worker in by_load:
                if not self._waiting or self.in_play(worker) > load:
                    break
                ticket, game = self._give(worker)
                given.setdefault(worker, {})[ticket] = game
        return list(given.items())

    def _give(self, worker: W) -> tuple[int, Scheduled]:
        """Gives the first game that waits; returns its ticket and it."""
        attempt = heappop(self._waiting)
        self._tickets += 1
        self._playing += 1
        self._in_play.setdefault(worker, {})[self._tickets] = attempt
        return self._tickets, attempt.game

    def in_play(self, worker: W) -> int:
        """Counts the games that a worker plays."""
        return len(self._in_play.get(worker, ()))

    def finished(self, worker: W, ticket: int, result: EpisodeResult) -> None:
        """Takes a result. One of an unknown ticket changes nothing."""
        attempt = self._in_play.get(worker, {}).pop(ticket, None)
        if attempt is not None:
            self._playing -= 1
            if not attempt.order.closed:
                attempt.order.ended.append((attempt.index, result))

    def lost(self, worker: W) -> int:
        """Takes back the games of a worker that has ended; returns how many will be played again.

        Raises:
            ResourceError: one of them has ended too many workers.
        """
        playing = self._in_play.pop(worker, {}).values()
        self._playing -= len(playing)
        back = [attempt for attempt in playing if not attempt.order.closed]
        for attempt in back:
            attempt.deaths += 1
            heappush(self._waiting, attempt)
        deadly = max(back, key=lambda attempt: attempt.deaths, default=None)
        if deadly is not None and deadly.deaths >= MOST_DEATHS:
            raise ResourceError(
                f"{deadly.deaths} workers of the cluster ended while they played the game of "
                f"{deadly.game.player.name} with seed {deadly.game.seed}. Their logs say why "
                "(`ray logs`); too little memory is the usual reason."
            )
        return len(back)

    def _read(self, most: int) -> None:
        """Reads games from the schedules until so many are waiting or in play."""
        room = most - len(self._waiting) - self._playing
        while room > 0 and self._unread:
            # Of several matches, none shall run ahead of the others.
            order = min(self._unread, key=lambda one: (one.in_hand, one.begun))
            game = next(order.schedule, None)
            if game is None:
                order.read = True
                self._unread.remove(order)
                continue
            heappush(self._waiting, Attempt(self._numbers, order, order.begun, game))
            self._numbers += 1
            order.begun += 1
            room -= 1
