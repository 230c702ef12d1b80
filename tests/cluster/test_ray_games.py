"""Games on a Ray cluster: the results are those of this machine, whatever is killed meanwhile."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from registry_helpers import EARLY, LATE

from rlarcade.cluster import games as games_module
from rlarcade.cluster.games import RayGames
from rlarcade.errors import ConfigError, PolicyError, ResourceError
from rlarcade.evaluation import Rule, compare_agents, compare_all, compare_suite, evaluate_agent
from rlarcade.games import get_protocol
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.play import games_played_by
from rlarcade.playing.players import Player, RandomPlayer
from rlarcade.playing.search import SearchPlayer
from rlarcade.registry.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.first]
SHORT = get_protocol("v5").model_copy(update={"name": "short", "frame_cap": 400})
LONGER = SHORT.model_copy(update={"frame_cap": 1_200})
"""Games that the better agent wins, and that last long enough to be disturbed."""
UNDECIDED = Rule(alpha=1e-9, beta=1e-9)


def wait_until_none_is_left(ray_nodes):
    end = time.monotonic() + 120
    while ray_nodes.workers("GameWorker"):
        assert time.monotonic() < end
        time.sleep(0.2)


@contextlib.contextmanager
def two_workers(cluster):
    """Two workers on the cluster; what they told is in `told`, but not that one begins late."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(games_module, "_PATIENCE", float("inf"))
        told = []
        with RayGames(cluster, workers=2, warn=told.append) as games:
            games.told = told
            yield games


@pytest.fixture(scope="module")
def _shared(ray_cluster):
    with two_workers(ray_cluster) as games:
        yield games


@pytest.fixture
def on_ray(_shared):
    """Workers that most tests share, since starting them takes ten seconds."""
    _shared.told.clear()
    return _shared


@pytest.fixture
def own_on_ray(ray_cluster, ray_nodes, _shared):
    """Workers of one test, while there are no others: they are counted, or killed."""
    _shared.close()
    wait_until_none_is_left(ray_nodes)
    with two_workers(ray_cluster) as games:
        yield games


def players(protocol=SHORT):
    both = [DQNAgent.load(folder) for folder in (EARLY, LATE)]
    for agent in both:
        agent.protocol = protocol
    return both


def play_match(**more):
    early, late = players(LONGER)
    settings = {"max_pairs": 12, "rule": UNDECIDED} | more
    return compare_agents(early, late, **settings).model_dump(mode="json")


class Steady:
    """A policy of the user's own, whose actions follow from the game's generator."""

    version = "steady"

    def new_game(self, rng):
        return lambda observation: int(rng.integers(6)) if observation.any() else 0


# Results


def test_a_match_is_that_of_this_machine_to_the_last_byte(on_ray):
    early, late = players(LONGER)
    local = compare_agents(early, late)
    with on_ray.used():
        on_cluster = compare_agents(early, late)
    assert local.verdict == "promote"
    assert on_cluster.model_dump_json() == local.model_dump_json()
    assert on_ray.told == []


def test_workers_are_as_important_as_the_process_that_asks(on_ray, ray_nodes):
    with on_ray.used():
        evaluate_agent(RandomPlayer("Pong", SHORT), episodes=1)
    assert {one.nice() for one in ray_nodes.workers("GameWorker")} == {psutil.Process().nice()}


def test_evaluations_of_agents_and_of_own_policies_are_those_of_this_machine(on_ray):
    own = Player(Steady(), game="Pong", protocol=SHORT, name="own")
    screen = Player(lambda seen: int(seen.sum()) % 6, game="Pong", protocol=SHORT)
    ahead = SearchPlayer(players()[1], simulations=1, depth=2)
    for player in (players()[1], own, screen, RandomPlayer("Breakout", SHORT), ahead):
        local = evaluate_agent(player, episodes=3)
        with on_ray.used():
            assert evaluate_agent(player, episodes=3).model_dump_json() == local.model_dump_json()


def test_suites_and_round_robins_are_those_of_this_machine(on_ray):
    games = ("Pong", "Breakout", "SpaceInvaders")
    sides = [
        (RandomPlayer(game, SHORT), Player(Steady(), game=game, protocol=SHORT, version="s"))
        for game in games
    ]
    three = [
        RandomPlayer("Pong", SHORT),
        *(Player(Steady(), game="Pong", protocol=SHORT, version=v) for v in "ab"),
    ]

    def both():
        suite = compare_suite(sides, max_rounds=2)
        return suite.model_dump_json(), compare_all(three, max_pairs=2).model_dump_json()

    local = both()
    with on_ray.used():
        assert both() == local


@pytest.mark.recorded
def test_the_python_example_of_the_page_runs(tmp_path, ray_nodes):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "ray.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.+?)```", page, flags=re.DOTALL)
    for name, agent in (("champion", EARLY), ("my-agent", LATE)):
        shutil.copytree(agent, tmp_path / name)
    code = example.replace("10.0.0.1:6379", ray_nodes.address)
    code = code.replace("RayGames(cluster)", "RayGames(cluster, workers=2)")  # for two cores
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines()[-1] == "promote"


@pytest.mark.recorded
def test_the_gate_of_a_registry_plays_on_the_cluster(tmp_path, ray_nodes, command):
    def promoted(folder, *flags):
        (tmp_path / "gate.toml").write_text(
            "[random]\nenabled = false\n[latency]\nenabled = false\n[smoke]\nenabled = false\n"
        )
        with Registry.open(tmp_path / folder) as registry:
            for path in (EARLY, LATE):
                registry.register(path)
            registry.move_alias(
                "space_invaders", "champion", 1, expected_generation=0, kind="promote"
            )
        words = ("--registry", tmp_path / folder, "--gate", tmp_path / "gate.toml")
        code, out, _ = command("promote", "promote", "2", *words, *flags)
        assert code == 0
        return [line for line in out.splitlines() if "pairs" in line]

    local = promoted("local")
    flags = ("--engine", "ray", "--address", ray_nodes.address, "--workers", "2")
    assert promoted("cluster", *flags) == local != []


# Failures


def test_a_player_that_fails_ends_its_game_as_on_this_machine(on_ray):
    def failing(observation):
        raise ZeroDivisionError("it fell over")

    player = Player(failing, game="Pong", protocol=SHORT, name="failing")
    with pytest.raises(PolicyError) as local:
        evaluate_agent(player, episodes=1)
    with on_ray.used(), pytest.raises(PolicyError) as there:
        evaluate_agent(player, episodes=1)
    assert str(there.value).partition(" (")[0] == str(local.value).partition(" (")[0]
    with on_ray.used():
        match = compare_agents(player, RandomPlayer("Pong", SHORT), max_pairs=2)
    assert [pair.champion.ended for pair in match.results] == ["failed"] * 2


def test_a_game_that_ends_every_worker_is_told(own_on_ray, monkeypatch):
    monkeypatch.setattr("rlarcade.cluster.dispatch.MOST_DEATHS", 2)
    player = Player(lambda _: os._exit(3), game="Pong", protocol=SHORT, name="deadly")
    with (
        own_on_ray.used(),
        pytest.raises(ResourceError, match="2 workers of the cluster ended while"),
    ):
        evaluate_agent(player, episodes=1)
    assert len(own_on_ray.told) == 1
    assert "1 game will be played again" in own_on_ray.told[0]


def test_a_policy_that_cannot_be_sent_is_told(on_ray):
    lock = threading.Lock()
    player = Player(lambda _: lock.locked(), game="Pong", protocol=SHORT, name="locked")
    with on_ray.used(), pytest.raises(ConfigError, match="locked cannot be sent to a cluster"):
        evaluate_agent(player, episodes=1)


def test_a_node_with_other_versions_is_told(own_on_ray, monkeypatch):
    here = dict(games_module.facts_of_this_process()) | {"torch": "1.0", "source": "0" * 12}
    monkeypatch.setattr(games_module, "facts_of_this_process", lambda: here)
    told = r"node \S+ has torch [\d.+a-z]+ instead of 1.0, the source of rlarcade \w+ instead of 0"
    with own_on_ray.used(), pytest.raises(ConfigError, match=told):
        evaluate_agent(RandomPlayer("Pong", SHORT), episodes=1)


def test_a_server_with_more_replicas_than_the_cluster_has_cpus_is_told(ray_nodes, command):
    flags = ("--engine", "ray", "--replicas", "8", "--address", ray_nodes.address, "--port", "0")
    code, _, told = command("serve", *flags)
    assert code == 2
    assert "8 replicas need 9 CPUs, one of them for a rollout, and the cluster has 8" in told


def test_a_cluster_without_a_free_cpu_is_waited_for_and_that_is_told(own_on_ray, monkeypatch):
    monkeypatch.setattr(games_module, "_PATIENCE", 0.5)
    ray = own_on_ray._ray
    taken = [ray.remote(num_cpus=4)(lambda: time.sleep(6)).remote() for _ in range(2)]
    with own_on_ray.used():
        assert evaluate_agent(RandomPlayer("Pong", SHORT), episodes=1).episodes
    assert [line for line in own_on_ray.told if "no worker has begun for 0.5 seconds" in line]
    ray.get(taken)


# Kills


@contextlib.contextmanager
def killed_while_playing(games, kill, times=1):
    """Kills something soon after workers have been given games, so many times."""
    ended = threading.Event()

    def watch():
        for _ in range(times):
            while not any(games._dispatcher.in_play(one) for one in [*games._workers]):
                if ended.wait(0.05):
                    return
            ended.wait(1.0)
            kill()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_worker_that_is_killed_costs_time_and_no_pair(own_on_ray, ray_nodes):
    local = play_match()

    def kill():
        ray_nodes.workers("GameWorker")[0].kill()

    with own_on_ray.used(), killed_while_playing(own_on_ray, kill, times=2):
        killed = play_match()
    assert killed == local
    assert any("will be played again" in line for line in own_on_ray.told), own_on_ray.told


@pytest.mark.recorded
def test_a_node_that_dies_costs_time_and_no_pair(own_on_ray, ray_nodes):
    local = play_match(max_pairs=14)

    def kill():
        """Kills a node that plays."""
        playing = ray_nodes.workers("GameWorker")[0]
        (node,) = (one for one in ray_nodes.nodes if playing in ray_nodes.processes(one))
        ray_nodes.kill(node)

    with own_on_ray.used(), killed_while_playing(own_on_ray, kill):
        killed = play_match(max_pairs=14)
    ray_nodes.add()
    assert killed == local
    assert any("will be played again" in line for line in own_on_ray.told), own_on_ray.told


@pytest.mark.recorded
def test_a_driver_that_is_killed_goes_on_where_it_was(tmp_path, ray_nodes):
    where = ("--engine", "ray", "--address", ray_nodes.address, "--workers", "2")
    words = ("compare", EARLY, LATE, "--max-pairs", "8", "--alpha", "1e-9", "--beta", "1e-9")

    def command(*flags):
        return [sys.executable, "-m", "rlarcade", *map(str, (*words, *flags))]

    record = tmp_path / "d"
    with subprocess.Popen(command("--dir", record, *where), stdout=subprocess.DEVNULL) as driver:
        while not any(len(p.read_bytes().splitlines()) > 4 for p in record.glob("*.jsonl")):
            assert driver.poll() is None
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
    # Ray ends the workers of a driver that has gone.
    wait_until_none_is_left(ray_nodes)
    done = subprocess.run(
        command("--dir", record, "--json", tmp_path / "ray.json", *where),
        check=False,
        capture_output=True,
        text=True,
    )
    assert "pairs taken from" in done.stdout
    local = subprocess.run(
        command("--dir", tmp_path / "l", "--json", tmp_path / "local.json"),
        check=False,
        capture_output=True,
    )
    assert done.returncode == local.returncode
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ray", "local")]
    assert found[0] == found[1]


def test_an_engine_holds_for_its_block_only(own_on_ray, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("it was played on the cluster")

    with own_on_ray.used():
        pass
    monkeypatch.setattr(own_on_ray, "play_games", refused)
    with games_played_by(None):
        evaluate_agent(RandomPlayer("Pong", SHORT), episodes=1)
    evaluate_agent(RandomPlayer("Pong", SHORT), episodes=1)
