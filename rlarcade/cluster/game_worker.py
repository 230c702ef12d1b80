"""What plays games on a node: one process with one thread for networks, and some lanes."""

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rlarcade.cluster.nodes import Facts, check_node
from rlarcade.cluster.packing import PackedPlayer
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import Scheduled, play_games_here
from rlarcade.playing.players import Player


class Game(NamedTuple):
    """A game to play."""

    player: int
    """Key of the player; see `GameWorker.learn`."""
    seed: int
    dice: int


class GameWorker:
    """Plays games beside the calls that bring them. It is an actor: Ray makes one call at a time.

    A player that fails ends its own game only.
    """

    def __init__(self, driver: Facts, lanes: int) -> None:
        """Plays nothing yet.

        Args:
            driver: versions of the process that asks.
            lanes: most games at a time.
        """
        self._driver, self._lanes = driver, lanes
        self._players: dict[int, Player | Exception] = {}
        self._given: queue.SimpleQueue[tuple[int, Game]] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[int, EpisodeResult] | BaseException] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    def ready(self) -> str:
        """Returns the name of the node.

        Raises:
            ConfigError: games would be others here, because the node has other versions.
        """
        import torch

        torch.set_num_threads(1)
        return check_node(self._driver)

    def learn(self, key: int, packed: PackedPlayer) -> None:
        """Takes a player. If it cannot be made, `exchange` tells."""
        try:
            self._players[key] = packed.unpacked()
        except Exception as error:
            self._players[key] = error

    def exchange(self, games: Mapping[int, Game]) -> list[tuple[int, EpisodeResult]]:
        """Takes games, by ticket, and waits until one that it plays has ended.

        Returns:
            The games that have ended since the last call, at least one, by ticket.

        Raises:
            RlarcadeError: a player cannot be made here.
        """
        for ticket, game in games.items():
            player = self._players[game.player]
            if isinstance(player, Exception):
                raise player
            self._given.put((ticket, game))
        if self._thread is None:
            self._thread = threading.Thread(target=self._play, name="games", daemon=True)
            self._thread.start()
        ended = []
        one = self._ended.get()
        while not isinstance(one, BaseException):
            ended.append(one)
            if self._ended.empty():
                return ended
            one = self._ended.get()
        raise one

    def _play(self) -> None:
        tickets: list[int] = []
        finished = 0

        def schedule() -> Iterator[Scheduled | None]:
            while True:
                try:
                    ticket, game = self._given.get(block=finished == len(tickets))
                except queue.Empty:
                    yield None
                    continue
                tickets.append(ticket)
                player = self._players[game.player]
                assert isinstance(player, Player)
                yield Scheduled(player, game.seed, game.dice)

        try:
            for index, episode in play_games_here(schedule(), self._lanes, failures_count=True):
                finished += 1
                self._ended.put((tickets[index], episode))
        except BaseException as error:
            self._ended.put(error)
