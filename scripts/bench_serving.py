"""Measures the server under load, beside bare FastAPI handlers and LitServe, by turns.

    python scripts/bench_serving.py --litserve PYTHON --json docs/results/serving-load.json
    python scripts/bench_serving.py --only rlarcade bare --rounds 1 --seconds 0.5

All servers answer the same binary request (one observation, 28 KB) with the same values of a
network of the size of DQN (2015); that is checked before they are measured. Each round measures
every server with our own client ("own") and with `wrk`, if it is installed, at several numbers of
clients. Only the server that is measured can use the CPU: all processes of the others are stopped
(SIGSTOP). Figures are medians over the rounds, ratios are medians of the ratios of each round.

LitServe is another environment's: PYTHON has litserve, this rlarcade and its extra `serve`.
"""

import argparse
import importlib.util
import itertools
import json
import platform
import shlex
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bench_serving_clients as clients
import numpy as np
import psutil
from bench_serving_clients import Figures
from bench_training import cpu_facts

from rlarcade import DQNAgent, Registry, TrainConfig, export_onnx
from rlarcade.outputs import output_file
from rlarcade.runs.folder import code_commit  # so that a result says what made it

GAME = "pong"
CLIENTS = (1, 16, 64)
LITSERVE = {
    "litserve-1": (1, 2, 0.0),
    "litserve-8": (8, 1, 0.001),
    "litserve-16": (16, 1, 0.001),
    "litserve-16x2": (16, 2, 0.001),
    "litserve-64": (64, 1, 0.001),
}
"""Settings of LitServe: largest batch, worker processes, and the seconds that a batch waits.

Tried on two cores, with batches of 16: waits of 4 and 10 ms gave fewer requests a second. With a
wait of 0 its worker turns in a loop while nothing comes. `fast_queue` is on, which costs no more.
"""
TOLERANCE = 1e-4
"""Largest difference of a value from the agent's."""
NAMES = (
    *("rlarcade", "bare", "rlarcade-processes", "rlarcade-onnx", "bare-onnx"),
    *LITSERVE,
)
RATIOS = (
    ("rlarcade", "bare"),
    *(("rlarcade", name) for name in LITSERVE),
    ("rlarcade-onnx", "bare-onnx"),
    ("rlarcade-processes", "bare"),
)
"""Servers whose requests a second are divided."""
_START_SECONDS = 120
_WARM_SECONDS = 0.3
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Server:
    """A server that can be started."""

    name: str
    command: tuple[str, ...]
    """Without its port."""

    @property
    def path(self) -> str:
        """Path of the requests."""
        return f"/v2/models/{GAME}/infer" if self.name.startswith("rlarcade") else "/infer"

    def clients_of(self, tool: str) -> tuple[int, ...]:
        """Numbers of clients that it is measured with: of LitServe, those that fill batches."""
        if self.name in LITSERVE:
            return {"own": (16, 64), "wrk": (64,)}[tool]
        return {"own": (1, 16, 64), "wrk": (16, 64)}[tool]


class Running:
    """A server that runs, or is stopped so that it uses no CPU."""

    def __init__(self, server: Server, log: Path) -> None:
        self.server, self._log = server, log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        with log.open("w") as file:
            self._process = psutil.Popen(
                [*server.command, "--port", str(self.port)], stdout=file, stderr=file
            )

    def wait(self, wanted: np.ndarray) -> None:
        """Waits until it answers, and requires its answer to be the agent's.

        Args:
            wanted: the agent's values, float32 (A,).
        """
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                action, values = clients.once(self.port, self.server.path)
                break
            except (OSError, RuntimeError, EOFError) as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(
                        f"bench_serving: {self.server.name} does not answer ({error!r}):\n"
                        + self._log.read_text()[-3_000:]
                    ) from error
                time.sleep(0.2)
        difference = float(np.abs(values - wanted).max())
        if action != wanted.argmax() or not difference <= TOLERANCE:
            raise SystemExit(f"bench_serving: {self.server.name} answers {action}, {values}")

    def _all(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all its processes."""
        for one in self._all():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self._all())

    def end(self) -> None:
        """Kills all its processes."""
        self.signal(signal.SIGKILL)
        self._process.wait()


def measured(running: Running, measure: Callable[[float], Figures], seconds: float) -> Figures:
    """Lets a server run while it is measured; adds its CPU time for a request."""
    running.signal(signal.SIGCONT)
    try:
        clients.own(running.port, running.server.path, 4, _WARM_SECONDS)
        before = running.cpu_seconds()
        found = measure(seconds)
        spent = running.cpu_seconds() - before
    finally:
        running.signal(signal.SIGSTOP)
    return found | {"cpu_ms_per_request": 1000 * spent / found["requests"]}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=output_file, help="write all figures to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--litserve", metavar="PYTHON", help="an interpreter that has litserve")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, help="measure these servers only"
    )
    flags = parser.parse_args()
    names = measurable(flags)
    if not names:
        parser.error("nothing can be measured")
    if clients.wrk_version() is None:
        print("wrk is not installed, so only our own client is used")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        agent = DQNAgent(
            TrainConfig(game=GAME, conv_channels=(32, 64, 64), hidden_units=512), num_actions=6
        )
        servers = made(names, flags.litserve, agent, folder)
        values = agent.q_values(clients.frames())[0]
        started = []
        for server in servers:
            print(f"starting {server.name}", flush=True)
            one = Running(server, folder / f"{server.name}.log")
            stack.callback(one.end)
            one.wait(values)
            one.signal(signal.SIGSTOP)
            started.append(one)
        write(flags, [one_round(started, flags.seconds) for _ in range(flags.rounds)])


def measurable(flags: argparse.Namespace) -> list[str]:
    """Returns the names of the servers that can be measured here; says which cannot."""
    names = [name for name in NAMES if name in flags.only]
    lacks = []
    if not all(importlib.util.find_spec(one) for one in ("onnx", "onnxscript", "onnxruntime")):
        lacks.append(("onnx", "the extra `onnx` is not installed"))
    if flags.litserve is None:
        lacks.append(("litserve", "--litserve PYTHON is not given"))
    for part, why in lacks:
        for name in [name for name in names if part in name]:
            print(f"{name} is not measured: {why}")
            names.remove(name)
    return names


def made(names: list[str], python: str, agent: DQNAgent, folder: Path) -> list[Server]:
    """Returns servers of an agent.

    Args:
        names: their names.
        python: an interpreter that has litserve.
        agent: the agent.
        folder: where its files are written.
    """
    checkpoint, file = str(folder / "nature"), str(folder / "nature.onnx")
    agent.save(checkpoint)
    with Registry.open(folder / "registry") as registry:
        version = registry.register(checkpoint).number
        registry.move_alias(GAME, "champion", version, expected_generation=0, kind="promote")
    if "bare-onnx" in names:
        export_onnx(agent, file)
    rlarcade = (sys.executable, "-m", "rlarcade.serve", "--registry", str(folder / "registry"))
    bare = (sys.executable, str(_HERE / "bench_serving_bare.py"))
    litserve = (python, str(_HERE / "bench_serving_litserve.py"), "--checkpoint", checkpoint)
    commands = {
        "rlarcade": rlarcade,
        "bare": (*bare, "--checkpoint", checkpoint),
        "rlarcade-processes": (*rlarcade, "--engine", "processes", "--replicas", "2"),
        "rlarcade-onnx": (*rlarcade, "--engine", "onnx"),
        "bare-onnx": (*bare, "--onnx", file),
    }
    for name, (batch, workers, wait) in LITSERVE.items():
        settings = ("--batch", str(batch), "--workers", str(workers), "--wait", str(wait))
        commands[name] = (*litserve, *settings)
    return [Server(name, commands[name]) for name in names]


def one_round(servers: list[Running], seconds: float) -> dict[str, Figures]:
    """Measures all servers; returns figures by "server, client, number of clients"."""
    found = {}

    def measure(one: Running, how: str, asked: Callable[[float], Figures]) -> None:
        name = f"{one.server.name}, {how}"
        found[name] = measured(one, asked, seconds)
        print(name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)

    tools = [clients.own, *([clients.wrk] if clients.wrk_version() is not None else [])]
    for tool, count in itertools.product(tools, CLIENTS):
        for one in servers:
            if count in one.server.clients_of(tool.__name__):
                asked = partial(tool, one.port, one.server.path, count)
                measure(one, f"{tool.__name__}, {count}", asked)
    for one in servers:
        if one.server.name == "rlarcade":
            asked = partial(clients.steps_over_websocket, one.port, GAME)
            measure(one, "steps over a WebSocket, 1", asked)
    return found


def ratios_of(rounds: list[dict[str, Figures]]) -> dict[str, float]:
    """Returns medians of the ratios of requests a second, by servers, client and clients."""
    found = {}
    for one, other in RATIOS:
        for key in rounds[0]:
            name, _, how = key.partition(", ")
            if name == one and f"{other}, {how}" in rounds[0]:
                speeds = [
                    [figures[f"{server}, {how}"]["requests_per_second"] for server in (one, other)]
                    for figures in rounds
                ]
                found[f"{one} / {other}, {how}"] = statistics.median(a / b for a, b in speeds)
    return {name: round(value, 2) for name, value in found.items()}


def write(flags: argparse.Namespace, rounds: list[dict[str, Figures]]) -> None:
    """Prints the figures and the ratios, and writes them."""
    medians = {
        name: {
            key: round(statistics.median(one[name][key] for one in rounds), 3)
            for key in rounds[0][name]
        }
        for name in rounds[0]
    }
    ratios = ratios_of(rounds)
    for name, figures in (medians | ratios).items():
        print(name, figures)
    document = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": code_commit(),
        "machine": cpu_facts(1, None) | {"system": platform.platform()},
        "wrk": clients.wrk_version(),
        "rounds": flags.rounds,
        "seconds": flags.seconds,
        "litserve": {
            name: {"batch": batch, "workers": workers, "wait_seconds": wait}
            for name, (batch, workers, wait) in LITSERVE.items()
        },
        "servers": medians,
        "ratios": ratios,
        "every_round": rounds,
    }
    if flags.json is not None:
        flags.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
