"""Workers that end before they have begun, on a made-up cluster; no game is really played."""

from types import SimpleNamespace

import pytest

from rlarcade.cluster import games as games_module
from rlarcade.cluster.games import RayGames
from rlarcade.errors import ResourceError
from rlarcade.games import get_protocol
from rlarcade.playing.play import Scheduled
from rlarcade.playing.players import RandomPlayer

PLAYED = SimpleNamespace(failure=None)
GAME = Scheduled(RandomPlayer("Pong", get_protocol("v5")), seed=1)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class Cluster:
    """Its workers end before they have begun, so many times; those of later times play at once."""

    def __init__(self, times, cpus=8):
        self.ray, self.times, self.started = self, times, []
        self.cpus = lambda: cpus
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def start_actor(self, *_):
        number = len(self.started)
        self.started.append(number)
        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: ("ready", number, ())),
            learn=SimpleNamespace(remote=lambda *_: None),
            exchange=SimpleNamespace(remote=lambda games: ("exchange", number, tuple(games))),
        )

    def end_actor(self, actor):
        pass

    def put(self, player):
        pass

    def wait(self, calls, *, num_returns, timeout):
        return calls[:num_returns], calls[num_returns:]

    def get(self, call):
        name, number, games = call
        if number < self.times * self.cpus():
            raise RayError("its node has died")
        return "node" if name == "ready" else [(ticket, PLAYED) for ticket in games]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(games_module, "_PAUSES", (0.0,) * 4)
    monkeypatch.setattr(games_module, "_TICK", 0.0)


def played(cluster, count=8):
    told = []
    with RayGames(cluster, warn=told.append) as games:
        results = list(games.play_games([GAME] * count, failures_count=True))
    return sorted(index for index, _ in results), told


@pytest.mark.usefixtures("quick")
def test_a_node_that_takes_all_its_workers_along_counts_once():
    cluster = Cluster(times=4)
    indices, told = played(cluster)
    assert indices == list(range(8))
    assert told == ["a worker of the cluster did not begin (RayError)"] * 4 * 8


@pytest.mark.usefixtures("quick")
def test_workers_that_never_begin_are_told():
    with pytest.raises(
        ResourceError, match="^5 times, one after the other, workers .*its node has died.*memory"
    ):
        played(Cluster(times=5))


def test_between_attempts_the_cluster_gets_time_to_notice_a_dead_node(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(games_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        games_module.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    )
    assert played(Cluster(times=4))[0] == list(range(8))
    assert 28 <= clock[0] <= 32
