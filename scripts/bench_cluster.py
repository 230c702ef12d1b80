"""Measures what a Ray cluster costs: its start, each message to a worker, and whole evaluations.

    python scripts/bench_cluster.py --json docs/results/scaling.json
    python scripts/bench_cluster.py --parts overhead --rounds 3 --json docs/results/scaling.json
    python scripts/bench_cluster.py --quick  # that it runs

Nothing else may run beside it; it takes a quarter of an hour on two cores. `scripts/
simulate_cluster.py` calculates from these figures how larger clusters behave. A part that is
measured again takes the place of its earlier figures in the file.

- `start`: seconds of an own cluster's start, of a worker's start, and of sending an agent.
- `speed`: core seconds of a step when a worker plays 1 … 24 games, and of a seeded reset. A process
  is bound to each core meanwhile, so that all cores work, and none helps another one.
- `driver`: CPU seconds of the process that gives out games, for each round of its loop and for each
  exchange with a worker. It is the product's own loop with real calls of Ray. The workers play
  nothing: their games end after a while. Up to 64 are a process each; 1,000 live in 8 processes.
- `consumer`: seconds of the same process for each game that it receives, writes down and judges.
- `serving`: milliseconds of a batch of observations on a worker process and on a Ray actor.
- `registry`: seconds of a registration and of a promotion's last step, by one writer.
- `overhead`: the same evaluation with `--engine local` and `--engine ray` by turns, each in a new
  process. The start of the cluster is apart; the start of its workers is not.
"""

import argparse
import asyncio
import hashlib
import json
import os
import pickle
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from heapq import heappop, heappush
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bench_registry import measure_moves, measure_register
from bench_training import cpu_facts
from scipy.optimize import nnls

from rlarcade import DQNAgent, TrainConfig, compare_agents, evaluate_agent
from rlarcade.checkpoint import load_checkpoint, packed_checkpoint
from rlarcade.cluster import games as games_module
from rlarcade.cluster.connection import RayCluster
from rlarcade.cluster.game_worker import GameWorker
from rlarcade.cluster.games import LANES, RayGames
from rlarcade.cluster.nodes import facts_of_this_process
from rlarcade.cluster.packing import packed_player
from rlarcade.evaluation import Rule
from rlarcade.games.single import GameEnv
from rlarcade.outputs import output_file
from rlarcade.playing.episodes import EpisodeResult, Trace
from rlarcade.playing.play import Scheduled, games_played_by, play_games_here
from rlarcade.playing.players import AgentPlayer, as_player
from rlarcade.registry.registry import Registry
from rlarcade.runs.folder import code_commit
from rlarcade.serving.ray_worker import RayWorker
from rlarcade.serving.worker_process import WorkerProcess

GAME = "SpaceInvaders"
STEPS = 900  # of a made-up game
UNDECIDED = Rule(alpha=1e-9, beta=1e-9)
LANE_COUNTS = (1, 2, 4, 8, 16, 24)
CLUSTERS = ((8, 8), (32, 32), (64, 64), (64, 8), (1_000, 8))  # workers, processes
FEW = ((2, 2), (20, 2))
RATES = (100.0, 400.0, None)  # games a second of all workers together; None: as fast as it goes


# ------------------------------------------------------------------------------------ the start


def start(asked: argparse.Namespace) -> dict[str, Any]:
    """Each figure is the median of new processes."""
    rounds = [child("start", asked) for _ in range(asked.rounds)]
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def start_child(asked: argparse.Namespace) -> dict[str, float]:
    """Starts a cluster and a worker for each core, and sends them an agent."""
    figures: dict[str, float] = {}
    with taken(figures, "cluster_seconds"):
        cluster = RayCluster()
    with cluster:
        ray = cluster.ray
        made = ray.remote(num_cpus=1)(GameWorker)
        with taken(figures, "workers_seconds"):
            actors = [made.remote(facts_of_this_process(), LANES) for _ in range(cluster.cpus())]
            ray.get([actor.ready.remote() for actor in actors])
        player = as_player(agent_of(asked))
        with taken(figures, "pack_player_seconds"):
            packed = packed_player(player)
        figures["player_megabytes"] = len(pickle.dumps(packed)) / 1e6
        with taken(figures, "put_player_seconds"):
            ref = ray.put(packed)
        with taken(figures, "learn_player_seconds"):
            ray.get(actors[0].learn.remote(0, ref))
        more = []  # they wait for CPUs, so that only this process works
        for name in ("create_with_class_seconds", "create_seconds"):
            with taken(figures, name):
                for _ in range(20):
                    kind = ray.remote(num_cpus=1)(GameWorker) if "class" in name else made
                    more.append(kind.remote(facts_of_this_process(), LANES))
            figures[name] /= 20
        for actor in [*more, *actors]:
            ray.kill(actor)
        with taken(figures, "end_seconds"):
            cluster.close()
    return figures


# ------------------------------------------------------------------------------------ the speed


def speed(asked: argparse.Namespace) -> dict[str, Any]:
    """Core seconds of a step by the number of lanes, and of a reset; medians over the cores."""
    every = children("speed", asked, os.cpu_count() or 1)
    return {
        "reset": statistics.median(one["reset"] for one in every),
        "step": {
            str(lanes): statistics.median(one[str(lanes)] for one in every) for lanes in LANE_COUNTS
        },
    }


class CountingPlayer(AgentPlayer):
    """Counts its decisions."""

    decisions = 0

    def choose(self, views: Any) -> Any:
        """See `Player.choose`."""
        self.decisions += len(views)
        return super().choose(views)


def speed_child(asked: argparse.Namespace) -> dict[str, float]:
    """Plays on one core for a while with each number of lanes."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[asked.core]})
    player = CountingPlayer(agent_of(asked))
    env = GameEnv(player.game, protocol=player.protocol)
    before = time.process_time()
    for seed in range(10):
        env.reset(seed=seed)
    figures = {"reset": (time.process_time() - before) / 10}
    for lanes in LANE_COUNTS:
        figures[str(lanes)] = step_seconds(player, lanes, 3 * asked.seconds, figures["reset"])
    return figures


def step_seconds(player: CountingPlayer, lanes: int, seconds: float, reset: float) -> float:
    """Core seconds of a step while so many games are in play, without those of the resets.

    They are those of the process's CPU time: on its one core, some thread always works.
    """
    seeds = iter(range(10**6))
    games = play_games_here((Scheduled(player, s) for s in seeds), lanes, failures_count=True)
    next(games)  # all lanes are in play by now
    before = time.process_time(), player.decisions, seeds.__length_hint__()
    while time.process_time() < before[0] + seconds:
        next(games)
    after = time.process_time(), player.decisions, seeds.__length_hint__()
    games.close()  # type: ignore[attr-defined]
    return (after[0] - before[0] - (before[2] - after[2]) * reset) / (after[1] - before[1])


# ----------------------------------------------------------------------------------- the driver


def made_up_game(seed: int = 1) -> EpisodeResult:
    """A result as large as that of a real game."""
    rng = np.random.default_rng(seed)
    rewards = [float(one) for one in rng.choice([0, 0, 0, 0, 0, 0, 0, 5, 10, 30], STEPS)]
    trace = Trace.of(rng.integers(0, 6, STEPS).tolist(), rewards)
    return EpisodeResult(
        seed=seed, score=sum(rewards), steps=STEPS, ended="terminated", trace=trace
    )


class _Packed:
    """A result that the process of the workers need not understand."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.data,)


class Host:
    """Workers in one process, whose games end after a while. It is an actor."""

    def __init__(self, data: bytes, seconds: float) -> None:
        self.data, self.seconds = data, seconds
        self.playing: dict[int, list[tuple[float, int]]] = {}

    async def ready(self) -> str:
        """See `GameWorker.ready`."""
        return "host"

    async def exchange(
        self, worker: int, games: dict[int, tuple[int, ...]]
    ) -> list[tuple[int, _Packed]]:
        """See `GameWorker.exchange`."""
        shortest, longest = (0.5, 1.5) if worker in self.playing else (0.0, 1.0)
        playing = self.playing.setdefault(worker, [])
        for ticket in games:
            ends = time.monotonic() + self.seconds * random.uniform(shortest, longest)
            heappush(playing, (ends, ticket))
        await asyncio.sleep(max(playing[0][0] - time.monotonic(), 0))
        ended = [(heappop(playing)[1], _Packed(self.data))]
        while playing and playing[0][0] <= time.monotonic():
            ended.append((heappop(playing)[1], _Packed(self.data)))
        return ended


class CountingRay:
    """Ray for `RayGames`: it counts rounds and exchanges, and its workers live in hosts."""

    def __init__(self, ray: Any, hosts: list[Any]) -> None:
        self._ray, self._hosts = ray, hosts
        self.exceptions, self.get = ray.exceptions, ray.get
        self.rounds = self.exchanges = self._made = 0

    def wait(self, calls: list[Any], *, num_returns: int, timeout: float | None) -> Any:
        """Waits. The loop looks a second time, without waiting, for other answers."""
        self.rounds += timeout != 0
        return self._ray.wait(calls, num_returns=num_returns, timeout=timeout)

    def start_actor(self, *_: Any) -> Any:
        """Makes a worker."""
        number, host = self._made, self._hosts[self._made % len(self._hosts)]
        self._made += 1

        def exchange(games: dict[int, Any]) -> Any:
            self.exchanges += 1
            return host.exchange.remote(number, {t: tuple(game) for t, game in games.items()})

        return SimpleNamespace(
            ready=SimpleNamespace(remote=host.ready.remote),
            learn=SimpleNamespace(remote=lambda *_: None),
            exchange=SimpleNamespace(remote=exchange),
        )

    def put(self, player: Any) -> None:
        """Players are not needed."""

    def end_actor(self, worker: Any) -> None:
        """Hosts end later."""


def driver(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the driver's thread for a round, for each worker in it, and for an exchange."""
    rows = []
    for workers, processes in FEW if asked.quick else CLUSTERS:
        with RayCluster(num_cpus=1) as cluster:
            made = cluster.ray.remote(num_cpus=0, max_concurrency=2_000)(Host)
            for rate in RATES[-1:] if asked.quick else RATES:
                seconds = 0.0 if rate is None else LANES * workers / rate
                data = pickle.dumps(made_up_game())
                hosts = [made.remote(data, seconds) for _ in range(processes)]
                cluster.ray.get([host.ready.remote() for host in hosts])
                row = driven(CountingRay(cluster.ray, hosts), workers, asked)
                rows.append({"workers": workers, "processes": processes} | row)
                print(json.dumps(rows[-1]), flush=True)
                for host in hosts:
                    cluster.ray.kill(host)
    return {
        "rows": rows,
        "result_bytes": len(pickle.dumps([(1, made_up_game())])),
        **fitted(rows, "thread_seconds"),
    }


def driven(ray: CountingRay, workers: int, asked: argparse.Namespace) -> dict[str, float]:
    """Plays made-up games, and returns what that cost this process."""
    player = as_player(agent_of(asked))
    schedule = (Scheduled(player, seed) for seed in count())
    cluster: Any = SimpleNamespace(
        ray=ray, cpus=lambda: workers, start_actor=ray.start_actor, end_actor=ray.end_actor
    )
    with RayGames(cluster) as games:
        results = games.play_games(schedule, failures_count=True)
        receive(results, asked.seconds)  # so that all workers play
        before = time.perf_counter(), time.thread_time(), time.process_time()
        ray.rounds = ray.exchanges = 0
        ended = receive(results, 2 * asked.seconds)
        after = time.perf_counter(), time.thread_time(), time.process_time()
    seconds, thread, process = (b - a for a, b in zip(before, after, strict=True))
    return {
        "seconds": seconds,
        "games": ended,
        "rounds": ray.rounds,
        "exchanges": ray.exchanges,
        "thread_seconds": thread,
        "process_seconds": process,
    }


def receive(results: Iterator[Any], seconds: float) -> int:
    """Takes results for a while; returns how many they were."""
    until = time.perf_counter() + seconds
    return next(number for number, _ in enumerate(results, 1) if time.perf_counter() > until)


def fitted(rows: list[dict[str, float]], name: str) -> dict[str, float]:
    """Seconds = rounds · (a + b · workers) + exchanges · c, by least squares of relative errors."""
    terms = [[row["rounds"], row["rounds"] * row["workers"], row["exchanges"]] for row in rows]
    scale = np.array([row[name] for row in rows])
    found, _ = nnls(np.array(terms) / scale[:, None], np.ones(len(rows)))
    told = np.array(terms) @ found / scale
    return {
        "round_seconds": float(found[0]),
        "round_seconds_per_worker": float(found[1]),
        "exchange_seconds": float(found[2]),
        "largest_relative_error": float(np.abs(told - 1).max()),
    }


# --------------------------------------------------------------------------------- the consumer


class Instant:
    """A `GamesEngine` whose games take no time."""

    def play_games(
        self, schedule: Any, *, failures_count: bool
    ) -> Iterator[tuple[int, EpisodeResult]]:
        """See `GamesEngine`."""
        del failures_count
        known = made_up_game()
        for index, game in enumerate(schedule):
            yield (
                index,
                known.model_copy(update={"seed": game.seed, "score": float(index % 4 in (1, 2))}),
            )


def consumer(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds for each game that is received, and of a pair late in a match."""
    agent, other = agent_of(asked), DQNAgent(TrainConfig(game=GAME, seed=1), num_actions=6)
    games = 100 if asked.quick else 2_000
    figures: dict[str, Any] = {"games": games}
    with tempfile.TemporaryDirectory() as name, games_played_by(Instant()):
        with taken(figures, "game_seconds"):
            evaluate_agent(agent, episodes=games)
        with taken(figures, "game_kept_seconds"):
            player = AgentPlayer(agent)
            player.version = "made up"
            evaluate_agent(player, episodes=games, record=Path(name) / "record")
        figures["game_seconds"] /= games
        figures["game_kept_seconds"] /= games
        for pairs in (100, 400):
            with taken(figures, f"match_of_{pairs}_seconds"):
                compare_agents(agent, other, max_pairs=pairs, rule=UNDECIDED)
    return figures


# ---------------------------------------------------------------------------------- the serving


def serving(asked: argparse.Namespace) -> dict[str, Any]:
    """Medians for batches of some sizes, on one worker of each kind."""
    with tempfile.TemporaryDirectory() as name:
        agent_of(asked).save(Path(name) / "agent")
        package = packed_checkpoint(load_checkpoint(Path(name) / "agent"))
    with RayCluster() as cluster:
        return asyncio.run(_serving(cluster, package, asked))


async def _serving(cluster: RayCluster, package: Any, asked: argparse.Namespace) -> dict[str, Any]:
    workers = {"process": await WorkerProcess.start(), "ray": await RayWorker.start(cluster)}
    figures: dict[str, Any] = {}
    for kind, worker in workers.items():
        with taken(figures, f"{kind}, load_seconds"):
            await worker.load(1, package)
        for rows in (1, 16, 64):
            batch = [np.zeros((rows, 4, 84, 84), np.uint8)]
            times, cpu = [], time.process_time()
            until = time.perf_counter() + asked.seconds
            while time.perf_counter() < until:
                began = time.perf_counter()
                await worker.values(1, batch, 10.0)
                times.append(time.perf_counter() - began)
            figures[f"{kind}, {rows} rows"] = {
                "p50_ms": 1000 * statistics.median(times),
                "p99_ms": 1000 * float(np.quantile(times, 0.99)),
                "server_cpu_ms": 1000 * (time.process_time() - cpu) / len(times),
            }
    for worker in workers.values():
        await worker.end()
    return figures


# --------------------------------------------------------------------------------- the registry


def registry(asked: argparse.Namespace) -> dict[str, Any]:
    """Medians of writes by one writer: to a folder, and to a database if one is named."""
    rounds = 5 if asked.quick else 50
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        places: dict[str, str | Path] = {"folder": Path(name) / "registry"}
        if asked.registry is not None:
            places["PostgreSQL"] = f"{asked.registry}?blobs={name}/blobs"
        for kind, place in places.items():
            with Registry.open(place) as opened:
                found = measure_register(opened, Path(name), rounds, 6.75)
                found |= measure_moves(opened, rounds)
            figures[kind] = {what: statistics.median(seconds) for what, seconds in found.items()}
    return figures


# --------------------------------------------------------------------------------- the overhead


def overhead(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of all engines by turns, and the ratios of each round."""
    engines = ["local", *(f"ray, {lanes} lanes" for lanes in asked.lanes)]
    rounds: list[dict[str, Any]] = []
    for number in range(asked.rounds):
        one: dict[str, Any] = {}
        for engine in engines if number % 2 == 0 else engines[::-1]:
            one[engine] = child("overhead", asked, "--engine", engine)
            print(engine, f"{one[engine]['seconds']:.1f} s", flush=True)
        if len({found["games"] for found in one.values()}) > 1:
            raise SystemExit("bench_cluster: error: the engines played different games.")
        rounds.append(one)
    ratios = {
        engine: [one[engine]["seconds"] / one["local"]["seconds"] for one in rounds]
        for engine in engines[1:]
    }
    medians = {engine: statistics.median(every) for engine, every in ratios.items()}
    return {"rounds": rounds, "ratios": ratios, "medians": medians}


def overhead_child(asked: argparse.Namespace) -> dict[str, Any]:
    """Evaluates once."""
    agent, figures = agent_of(asked), {"cluster_seconds": 0.0}
    if asked.engine == "local":
        with taken(figures, "seconds"):
            found = evaluate_agent(agent, episodes=asked.episodes)
    else:
        games_module.LANES = int(asked.engine.split()[1])
        with taken(figures, "cluster_seconds"):
            cluster = RayCluster()
        with cluster, RayGames(cluster) as games, games.used(), taken(figures, "seconds"):
            found = evaluate_agent(agent, episodes=asked.episodes)
    played = [(game.seed, game.score, game.steps) for game in found.episodes]
    steps = sum(game.steps for game in found.episodes)
    digest = hashlib.sha256(json.dumps(played).encode()).hexdigest()
    driver_cpu = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **figures,
        "steps": steps,
        "games": digest,
        "lengths": [game.steps for game in found.episodes],
        "process_cpu_seconds": driver_cpu.ru_utime + driver_cpu.ru_stime,
    }


# ---------------------------------------------------------------------------------------- tools


@contextmanager
def taken(figures: dict[str, Any], name: str) -> Iterator[None]:
    """Writes down how many seconds a block took."""
    began = time.perf_counter()
    yield
    figures[name] = time.perf_counter() - began


def agent_of(asked: argparse.Namespace) -> DQNAgent:
    """Returns the agent that plays: by default the network of Mnih et al. (2015), untrained."""
    if asked.checkpoint is not None:
        return DQNAgent.load(asked.checkpoint)
    return DQNAgent(TrainConfig(game=GAME), num_actions=6)


def _command(name: str, asked: argparse.Namespace, *more: str) -> list[str]:
    command = [sys.executable, __file__, "--child", name, "--seconds", str(asked.seconds)]
    command += ["--episodes", str(asked.episodes), *more]
    return [*command, "--checkpoint", str(asked.checkpoint)] if asked.checkpoint else command


def child(name: str, asked: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Measures in a new process."""
    done = subprocess.run(
        _command(name, asked, *more), check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def children(name: str, asked: argparse.Namespace, number: int) -> list[dict[str, Any]]:
    """Measures in several new processes at once, one for each core."""
    every = [
        subprocess.Popen(
            _command(name, asked, "--core", str(core)), stdout=subprocess.PIPE, text=True
        )
        for core in range(number)
    ]
    outputs = [one.communicate()[0] for one in every]
    if any(one.returncode for one in every):
        raise SystemExit(f"bench_cluster: error: {name} failed.")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


PARTS = {one.__name__: one for one in (start, speed, driver, consumer, serving, registry, overhead)}
CHILDREN = {"start": start_child, "speed": speed_child, "overhead": overhead_child}


def main() -> int:
    """Measures the parts, and writes them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="some of them, with commas between"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the start and the overhead")
    parser.add_argument("--seconds", type=float, default=4.0, help="about a third of a measurement")
    parser.add_argument("--episodes", type=int, default=400, help="games for the overhead")
    parser.add_argument(
        "--lanes", type=int, nargs="+", default=[LANES], help="of a worker, for the overhead"
    )
    parser.add_argument("--checkpoint", help="the agent that plays")
    parser.add_argument("--registry", help="an empty PostgreSQL database, for the registry")
    parser.add_argument("--quick", action="store_true", help="only that it runs")
    parser.add_argument("--json", type=output_file, help="write the figures to this file")
    for hidden in ("--child", "--engine"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        print(json.dumps(CHILDREN[asked.child](asked)))
        return 0
    if unknown := set(asked.parts.split(",")) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if asked.quick:
        asked.rounds, asked.seconds, asked.episodes = 1, 0.3, 4
    known: dict[str, Any] = {}
    if asked.json and asked.json.exists():
        known = json.loads(asked.json.read_text("utf-8"))
    known["machine"] = cpu_facts(1, None) | {
        "system": platform.platform(),
        "python": platform.python_version(),
        "ray": version("ray"),
    }
    for name in asked.parts.split(","):
        found = PARTS[name](asked)
        told = {key: value for key, value in found.items() if key not in ("rows", "rounds")}
        print(name, json.dumps(told), flush=True)
        known[name] = found | {
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).date().isoformat(),
            "code_commit": code_commit(),
        }
        if asked.json:
            asked.json.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
