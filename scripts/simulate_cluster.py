"""Calculates how evaluations and matches go on clusters of 1 to thousands of workers.

    python scripts/simulate_cluster.py --json docs/results/scaling-simulated.json
    python scripts/simulate_cluster.py --workers 1,10 --games 3  # that it runs

The games are given out by the product's own `Dispatcher`, in the rounds of `RayGames`: games are
given to the workers that can be told, then the first answer is waited for, then all answers that
are there are taken. A worker plays several games at a time on one core. Lengths of games are
those of recorded games. `scripts/bench_cluster.py` measured what a step, a reset, a round, an
exchange and a result cost. One machine cannot measure the network (`--latency`, `--bandwidth`), the
cores of other machines (`--cores`), and how long a death remains unnoticed: these are assumed.

First the run with which `bench_cluster.py` measured the overhead is calculated, game for game, and
compared with what it took.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rlarcade.cluster.dispatch import Dispatcher, Order
from rlarcade.cluster.games import LANES
from rlarcade.evaluation.sequential import Counts, Rule
from rlarcade.outputs import output_file
from rlarcade.playing.play import Scheduled
from rlarcade.runs.folder import code_commit

RESULTS = Path(__file__).parent.parent / "docs" / "results"
TICK, LOOK = 0.5, 2.0  # seconds, as in `RayGames`
MOST_PAIRS = 400


@dataclass(frozen=True)
class Costs:
    """Seconds, if nothing else is said."""

    step: dict[int, float]
    """Of a core for a step, by the games that its worker plays."""
    reset: float
    """Of a core for the start of a game."""
    round: float
    """Of the driver for a round of its loop."""
    round_per_worker: float
    exchange: float
    """Of the driver for a call of a worker and its answer."""
    game: float
    """Of the driver for a result that is written down."""
    create: float
    """Of the driver for a new worker."""
    worker_start: float
    player_megabytes: float
    latency: float = 0.0005
    """Of a message, one way."""
    bandwidth: float = 125.0
    """Megabytes a second of the driver's network: 1 Gbit/s."""
    cores: int = 64
    """Of a machine: an agent is sent to each machine once."""
    noticed: float = 15.0
    """From a worker's death to the driver's knowledge, if its machine has died with it."""
    deaths_an_hour: float = 0.0
    """Of each worker."""
    lanes: int = LANES
    """Most games that a worker plays at a time."""

    @classmethod
    def measured(cls, path: Path, **assumed: float) -> "Costs":
        """Reads the figures of `bench_cluster.py`."""
        found = json.loads(path.read_text("utf-8"))
        start, driver = found["start"], found["driver"]
        return cls(
            step={int(lanes): seconds for lanes, seconds in found["speed"]["step"].items()},
            reset=found["speed"]["reset"],
            round=driver["round_seconds"],
            round_per_worker=driver["round_seconds_per_worker"],
            exchange=driver["exchange_seconds"],
            game=found["consumer"]["game_kept_seconds"],
            create=start["create_seconds"],
            worker_start=start["workers_seconds"],
            player_megabytes=start["player_megabytes"],
            **assumed,  # type: ignore[arg-type]
        )

    @cached_property
    def by_lanes(self) -> list[float]:
        """Core seconds of a step while 0, 1, 2 … games are in play."""
        lanes = np.arange(self.lanes + 1)
        return [float(one) for one in np.interp(lanes, [*self.step], [*self.step.values()])]

    def work(self, lengths: Iterable[int]) -> float:
        """Core seconds of games of so many steps, on a worker whose lanes are all busy."""
        return sum(length * self.by_lanes[-1] + self.reset for length in lengths)


@dataclass(eq=False)
class Worker:
    """One core with its games. All of them advance alike."""

    costs: Costs
    ready: bool = False
    alive: bool = True
    asked: bool = False
    """Whether a call waits for the end of a game."""
    playing: list[tuple[float, int]] = field(default_factory=list)
    """A heap of games: `clock` at which it ends, ticket."""
    ended: list[int] = field(default_factory=list)
    clock: float = 0.0
    """Steps of a game that was in play from the beginning on."""
    seen: float = 0.0
    """Time up to which `clock` is right."""
    stamp: int = 0
    """Changes with each change of `playing`: ends that were foreseen before are void."""

    @property
    def pace(self) -> float:
        """Seconds until each game has advanced by one step."""
        return len(self.playing) * self.costs.by_lanes[len(self.playing)]

    def advance(self, now: float) -> None:
        """Plays until now."""
        if self.playing:
            self.clock += (now - self.seen) / self.pace
        self.seen = now

    def begin(self, ticket: int, steps: int) -> None:
        """Takes a game. Its reset counts as steps that take as long."""
        reset = self.costs.reset / self.costs.by_lanes[-1]
        heappush(self.playing, (self.clock + steps + reset, ticket))

    def next_end(self) -> float:
        """The time at which the next game ends."""
        return self.seen + max(self.playing[0][0] - self.clock, 0.0) * self.pace

    def end_first(self) -> None:
        """Ends the game that is first."""
        self.clock, ticket = max(self.clock, self.playing[0][0]), heappop(self.playing)[1]
        self.ended.append(ticket)


class Cluster:
    """A driver and its workers. `play` is a generator as `RayGames.play_games` is."""

    def __init__(self, costs: Costs, workers: int, seed: int = 0) -> None:
        self.costs, self.most = costs, workers
        self.dispatcher: Dispatcher[Worker] = Dispatcher(costs.lanes)
        self.now = self.busy = 0.0
        self.begun = self.lost = self.made = 0
        self._workers: dict[Worker, None] = {}
        self._free: dict[Worker, None] = {}
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = count()
        self._answers: list[tuple[Worker, list[int] | None]] = []
        self._looked = -LOOK
        self._rng = np.random.default_rng(seed)

    def _at(self, when: float, what: Callable[..., None], *about: Any) -> None:
        heappush(self._events, (when, next(self._numbers), what, about))

    def work(self, seconds: float) -> None:
        """Lets the driver work."""
        self.now += seconds
        self.busy += seconds

    # The driver, as `RayGames._pump`

    def pump(self) -> None:
        """One round."""
        self._keep_workers()
        for worker, games in self.dispatcher.assign(list(self._free)):
            self._send(worker, {ticket: game.seed for ticket, game in games.items()})
        for worker in list(self._free):
            if self.dispatcher.in_play(worker):
                self._send(worker, {})
        self.work(self.costs.round + self.costs.round_per_worker * len(self._workers))
        self._wait(self.now + TICK)
        answers, self._answers = self._answers, []
        for worker, ended in answers:
            if ended is None:
                self._lose(worker)
                continue
            self.work(self.costs.exchange / 2)
            self._free[worker] = None
            for ticket in ended:
                self.dispatcher.finished(worker, ticket, None)  # type: ignore[arg-type]

    def _keep_workers(self) -> None:
        if self.now - self._looked < LOOK and self._workers:
            return
        self._looked = self.now
        self.dispatcher.workers = self.dispatcher.wanted(self.most)
        while len(self._workers) < self.dispatcher.workers:
            self.work(self.costs.create)
            self.made += 1
            worker = Worker(self.costs)
            machine = len(self._workers) // self.costs.cores
            sent = machine * self.costs.player_megabytes / self.costs.bandwidth
            self._workers[worker] = None
            self._at(self.now + self.costs.worker_start + sent, self._ready, worker)

    def _send(self, worker: Worker, games: dict[int, int]) -> None:
        self.work(self.costs.exchange / 2)
        self.begun += len(games)
        del self._free[worker]
        self._at(self.now + self.costs.latency, self._told, worker, games)

    def _wait(self, until: float) -> None:
        """Waits for an answer, and takes those that came while the driver worked."""
        while self._events and self._events[0][0] <= (until if not self._answers else self.now):
            when, _, what, about = heappop(self._events)
            self.now = max(self.now, when)
            what(when, *about)
        if not self._answers:
            self.now = until

    def _lose(self, worker: Worker) -> None:
        self._workers.pop(worker, None)
        self._free.pop(worker, None)
        self.lost += self.dispatcher.lost(worker)
        self._looked -= LOOK

    # The workers

    def _ready(self, now: float, worker: Worker) -> None:
        worker.seen = now
        self._at(now + self.costs.latency, self._answer, worker, [])
        if self.costs.deaths_an_hour:
            lives = self._rng.exponential(3600 / self.costs.deaths_an_hour)
            self._at(now + lives, self._dies, worker)

    def _told(self, now: float, worker: Worker, games: dict[int, int]) -> None:
        worker.advance(now)
        worker.asked = True
        for ticket, steps in games.items():
            worker.begin(ticket, steps)
        self._go_on(now, worker)

    def _ends(self, now: float, worker: Worker, stamp: int) -> None:
        if worker.alive and worker.stamp == stamp:
            worker.advance(now)
            worker.end_first()
            self._go_on(now, worker)

    def _go_on(self, now: float, worker: Worker) -> None:
        """Foresees the next end, and answers a call if games have ended."""
        if not worker.alive:
            return
        worker.stamp += 1
        if worker.playing:
            self._at(worker.next_end(), self._ends, worker, worker.stamp)
        if worker.asked and worker.ended:
            self._at(now + self.costs.latency, self._answer, worker, worker.ended)
            worker.asked, worker.ended = False, []

    def _dies(self, now: float, worker: Worker) -> None:
        worker.alive = False
        self._at(now + self.costs.noticed, self._answer, worker, None)

    def _answer(self, now: float, worker: Worker, ended: list[int] | None) -> None:
        del now
        if worker in self._workers:
            self._answers.append((worker, ended))

    def results(self, order: Order) -> Iterator[int]:
        """Yields the indices of an order's games as they are received."""
        while not order.done:
            for index, _ in order.take():
                self.work(self.costs.game)
                yield index
            if not order.done:
                self.pump()


def schedule(lengths: Iterable[int]) -> Iterator[Scheduled]:
    """Games of so many steps; the seed is the length."""
    player: Any = SimpleNamespace(name="a simulated player")
    return (Scheduled(player, length) for length in lengths)


# ----------------------------------------------------------------------------------- what is played


def evaluation(costs: Costs, workers: int, lengths: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """Plays one evaluation to its end."""
    cluster = Cluster(costs, workers, seed)
    played = sum(1 for _ in cluster.results(cluster.dispatcher.open(schedule(lengths))))
    ideal = costs.work(lengths) / workers
    playing = cluster.now - costs.worker_start
    return {
        "workers": workers,
        "games": played,
        "seconds": cluster.now,
        "games_a_second": played / playing,
        "efficiency": ideal / cluster.now,
        "efficiency_without_the_workers_start": ideal / playing,
        "driver_busy": cluster.busy / cluster.now,
        "played_again": cluster.lost,
    }


def pairs_needed(chance: float, rng: np.random.Generator) -> int:
    """Draws how many pairs a match needs if the candidate wins each with this chance."""
    rule, counts = Rule(), Counts()
    for pair in range(1, MOST_PAIRS + 1):
        counts = counts.after(float(rng.random() < chance))
        if rule.verdict(counts) is not None:
            return pair
    return MOST_PAIRS


def match(
    costs: Costs, workers: int, pairs: Sequence[tuple[int, int]], needed: int
) -> dict[str, Any]:
    """Plays pairs until the first `needed` ones have ended."""
    cluster = Cluster(costs, workers)
    order = cluster.dispatcher.open(schedule(game for pair in pairs for game in pair))
    first_missing, ended = 0, set()
    for index in cluster.results(order):
        ended.add(index)
        while first_missing in ended:
            first_missing += 1
        if first_missing >= 2 * needed:
            break
    return {
        "workers": workers,
        "pairs": needed,
        "seconds": cluster.now,
        "games_thrown_away": cluster.begun - 2 * needed,
        "core_seconds": cluster.now * cluster.made,
    }


def suite(costs: Costs, workers: int, games: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Plays a suite to its last round: one pair of each game after the other."""
    cluster = Cluster(costs, workers)
    orders = [cluster.dispatcher.open(schedule(lengths)) for lengths in games]
    sources = [cluster.results(order) for order in orders]
    waiting: list[set[int]] = [set() for _ in games]
    for first in range(0, len(games[0]), 2):
        for source, ended in zip(sources, waiting, strict=True):
            while not {first, first + 1} <= ended:
                ended.add(next(source))
    every = [length for lengths in games for length in lengths]
    return {
        "workers": workers,
        "games": len(every),
        "seconds": cluster.now,
        "efficiency": costs.work(every) / workers / cluster.now,
        "driver_busy": cluster.busy / cluster.now,
    }


# --------------------------------------------------------------------------------------- the inputs


def recorded_lengths() -> dict[str, list[int]]:
    """Steps of recorded games, by where they are from."""
    found: dict[str, list[int]] = {}
    for name in ("laptop-space-invaders", "laptop-breakout", "laptop-pong"):
        document = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        found[name] = [game["steps"] for game in document["evaluations"][0]["episodes"]]
    runs = json.loads((RESULTS / "precision.json").read_text("utf-8"))["runs"]
    found["assault"] = [
        game["steps"]
        for run in runs
        if run["result"]["evaluation"]["game"] == "assault"
        for game in run["result"]["evaluation"]["episodes"]
    ]
    return found


def recorded_pairs() -> list[tuple[int, int]]:
    """Steps of both sides of the recorded match."""
    document = json.loads((RESULTS / "compare-close.json").read_text("utf-8"))
    return [(one["champion"]["steps"], one["candidate"]["steps"]) for one in document["results"]]


def heavy_tailed(lengths: dict[str, list[int]], rng: np.random.Generator) -> list[list[int]]:
    """Returns the lengths of a suite of twenty games; in each, one in fifty reaches the cap."""
    games = []
    for number in range(20):
        source = list(lengths.values())[number % len(lengths)]
        drawn = rng.choice(source, 2 * MOST_PAIRS) * rng.uniform(0.5, 2.0)
        drawn[rng.random(2 * MOST_PAIRS) < 0.02] = 27_000
        games.append([int(one) for one in np.minimum(drawn, 27_000)])
    return games


def checked(costs: Costs, path: Path) -> dict[str, float] | None:
    """Calculates the measured evaluation on the cores of that machine."""
    found = json.loads(path.read_text("utf-8"))
    if "overhead" not in found:
        return None
    rounds = found["overhead"]["rounds"]
    engine, cores = f"ray, {LANES} lanes", found["machine"]["cores"]
    here = replace(costs, latency=0.0, cores=cores, lanes=LANES)
    told = evaluation(here, cores, rounds[0][engine]["lengths"])
    measured = statistics.median(one[engine]["seconds"] for one in rounds)
    return {
        "measured_seconds": measured,
        "simulated_seconds": told["seconds"],
        "ratio": told["seconds"] / measured,
    }


def main() -> int:
    """Calculates, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--costs", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--workers", default="1,2,8,32,128,256,512,1000,2000,4000")
    parser.add_argument("--games", type=int, default=50, help="for each worker")
    parser.add_argument("--latency", type=float, default=0.0005, help="of a message, in seconds")
    parser.add_argument("--bandwidth", type=float, default=125.0, help="megabytes a second")
    parser.add_argument("--cores", type=int, default=64, help="of a machine")
    parser.add_argument("--deaths", type=float, default=0.5, help="of a worker, an hour")
    parser.add_argument("--lanes", type=int, default=LANES, help="most games of a worker at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=output_file, help="write the outcome to this file")
    asked = parser.parse_args()
    costs = Costs.measured(
        asked.costs,
        latency=asked.latency,
        bandwidth=asked.bandwidth,
        cores=asked.cores,
        lanes=asked.lanes,
    )
    document = simulated(costs, [int(one) for one in asked.workers.split(",")], asked)
    document |= {
        "check": checked(costs, asked.costs),
        "costs": asdict(costs),
        "command": "python scripts/simulate_cluster.py",
        "seed": asked.seed,
        "code_commit": code_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(f"check: {document['check']}")
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def simulated(costs: Costs, sizes: list[int], asked: argparse.Namespace) -> dict[str, Any]:
    """Plays all kinds of work on clusters of all sizes."""
    rng = np.random.default_rng(asked.seed)
    lengths = recorded_lengths()

    def drawn(number: int) -> list[int]:
        return [int(one) for one in rng.choice(lengths["laptop-space-invaders"], number)]

    deadly = replace(costs, deaths_an_hour=asked.deaths)
    tables: dict[str, list[dict[str, Any]]] = {
        "games for each worker": [evaluation(costs, n, drawn(asked.games * n)) for n in sizes],
        "the same, and workers die": [evaluation(deadly, n, drawn(asked.games * n)) for n in sizes],
    }
    for number in (100, 1_000, 10_000):
        games = drawn(number)
        tables[f"{number:,} games"] = [evaluation(costs, n, games) for n in sizes]
    pairs = recorded_pairs()
    for chance in (0.5, 0.6, 0.7):
        needed = sorted(pairs_needed(chance, rng) for _ in range(9))[4]
        order = rng.permutation(np.resize(np.arange(len(pairs)), MOST_PAIRS))
        played = [pairs[place] for place in order]
        tables[f"match, chance {chance}"] = [match(costs, n, played, needed) for n in sizes]
    games_of_suite = heavy_tailed(lengths, rng)
    tables["suite of 20 games"] = [suite(costs, n, games_of_suite) for n in sizes]
    for name, rows in tables.items():
        print(f"\n{name}")
        print("".join(f"{column[:22]:>24}" for column in rows[0]))
        for row in rows:
            print("".join(f"{value:>24.4g}" for value in row.values()), flush=True)
    saturated = 1 / (costs.exchange + costs.game)
    one = 1 / (costs.work(lengths["laptop-space-invaders"]) / len(lengths["laptop-space-invaders"]))
    limits = {
        "driver_games_a_second": saturated,
        "worker_games_a_second": one,
        "workers_that_saturate_the_driver": math.floor(saturated / one),
    }
    print(f"\nlimits: {limits}")
    return {"tables": tables, "limits": limits}


if __name__ == "__main__":
    sys.exit(main())
