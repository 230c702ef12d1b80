"""Measures the server under load, beside a bare FastAPI handler and LitServe, interleaved.

    python scripts/bench_serving.py --json docs/results/serving-load.json

All three answer the same binary request (one stack, 28 KB) with the same `q_values` of a network of
the size of DQN (2015). Each round measures every server at every number of clients for some
seconds; the figures are medians over the rounds. LitServe is measured if it is installed.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
import uvloop

from rlarcade import DQNAgent, Registry, TrainConfig
from rlarcade.outputs import output_file

CLIENTS = (1, 16, 64)
GAME = "pong"


def request_of(path: str) -> bytes:
    """Returns a whole HTTP request of the Open Inference Protocol with one stack."""
    tensor = np.random.default_rng(0).integers(0, 256, 4 * 84 * 84, dtype=np.uint8).tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "observation",
                    "shape": [1, 4, 84, 84],
                    "datatype": "UINT8",
                    "parameters": {"binary_data_size": len(tensor)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + len(tensor)}",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + head + tensor


async def ask(port: int, request: bytes, until: float, times: list[float]) -> None:
    """Sends the same request again and again over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        times.append(time.perf_counter() - began)
    writer.close()


def measure(port: int, path: str, clients: int, seconds: float, process: psutil.Process) -> dict:
    """Returns requests a second, latencies, and the servers' CPU time per request."""
    times: list[float] = []

    async def together() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(ask(port, request_of(path), until, times) for _ in range(clients)))

    before = cpu_seconds(process)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(together())
    spent = cpu_seconds(process) - before
    return {
        "requests_per_second": len(times) / seconds,
        "p50_ms": 1000 * float(np.percentile(times, 50)),
        "p99_ms": 1000 * float(np.percentile(times, 99)),
        "cpu_ms_per_request": 1000 * spent / len(times),
    }


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and its children."""
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])


def play_steps_over_websocket(port: int, seconds: float) -> dict:
    """Returns the time of a step in an act session, one frame (7 KB) over a WebSocket."""
    import http.client

    from websockets.sync.client import connect

    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(
        "POST", "/v1/sessions", json.dumps({"game": GAME}), {"Content-Type": "application/json"}
    )
    session = json.loads(connection.getresponse().read())
    frame = np.random.default_rng(0).integers(0, 256, 84 * 84, dtype=np.uint8).tobytes()
    times = []
    url = f"ws://127.0.0.1:{port}/v1/sessions/{session['id']}/ws"
    with connect(url, compression=None, proxy=None) as socket:
        socket.send(json.dumps({"token": session["token"]}))
        socket.recv()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            socket.send(frame)
            socket.recv()
            times.append(time.perf_counter() - began)
    return {
        "steps_per_second": len(times) / seconds,
        "p50_ms": 1000 * float(np.percentile(times, 50)),
        "p99_ms": 1000 * float(np.percentile(times, 99)),
    }


# The other servers, each in a process of its own


def serve_bare(checkpoint: str, port: int) -> None:
    """A FastAPI handler that parses the same request and calls the same `q_values`."""
    import uvicorn
    from fastapi import FastAPI, Request, Response

    agent = DQNAgent.load(checkpoint)
    agent.q_values(np.zeros((1, 4, 84, 84), dtype=np.uint8))
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> Response:
        body = await request.body()
        length = int(request.headers["inference-header-content-length"])
        json.loads(body[:length])
        observation = np.frombuffer(body, np.uint8, offset=length).reshape(1, 4, 84, 84)
        values = agent.q_values(observation)
        return Response(values.argmax(axis=1).tobytes() + values.tobytes())

    uvicorn.run(app, port=port, log_level="warning", loop="uvloop", http="httptools")


def serve_lit(checkpoint: str, port: int, batch: int) -> None:
    """LitServe with batches, and the same `q_values`."""
    import litserve
    from fastapi import Request, Response

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            del device
            self.agent = DQNAgent.load(checkpoint)
            for rows in (1, 4, 8, 12, 16):
                self.agent.q_values(np.zeros((rows, 4, 84, 84), dtype=np.uint8))

        async def decode_request(self, request: Request) -> np.ndarray:
            body = await request.body()
            length = int(request.headers["inference-header-content-length"])
            return np.frombuffer(body, np.uint8, offset=length).reshape(4, 84, 84)

        def batch(self, inputs: list) -> np.ndarray:
            return np.stack(inputs)

        def predict(self, observations: np.ndarray) -> np.ndarray:
            return self.agent.q_values(observations.reshape(-1, 4, 84, 84))

        def unbatch(self, values: np.ndarray) -> list:
            return list(values)

        def encode_response(self, values: np.ndarray) -> Response:
            return Response(values.tobytes())

    api = Api(max_batch_size=batch, batch_timeout=0.001, api_path="/infer")
    litserve.LitServer(api, accelerator="cpu").run(port=port, generate_client_file=False)


def started(words: list[str], port: int, path: str) -> subprocess.Popen:
    """Starts a server and waits until it answers."""
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        try:
            measure(port, path, 1, 0.2, psutil.Process(process.pid))
        except (OSError, RuntimeError, asyncio.IncompleteReadError, ZeroDivisionError):
            time.sleep(0.2)
            continue
        return process
    raise RuntimeError(f"{words} does not answer")


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=output_file)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--serve", choices=("bare", "litserve"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=16, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve == "bare":
        serve_bare(flags.checkpoint, flags.port)
    elif flags.serve == "litserve":
        serve_lit(flags.checkpoint, flags.port, flags.batch)
    else:
        benchmark(flags)


def benchmark(flags: argparse.Namespace) -> None:
    """Starts the servers, measures them by turns, and writes the medians."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = f"{folder}/nature"
        config = TrainConfig(game=GAME, conv_channels=(32, 64, 64), hidden_units=512)
        DQNAgent(config, num_actions=6).save(checkpoint)
        with Registry.open(f"{folder}/registry") as registry:
            version = registry.register(checkpoint).number
            registry.move_alias(GAME, "champion", version, expected_generation=0, kind="promote")
        port = flags.port
        words = {
            "rlarcade": ["-m", "rlarcade.serve", "--registry", f"{folder}/registry"],
            "bare FastAPI": [__file__, "--serve", "bare", "--checkpoint", checkpoint],
        }
        paths = {"rlarcade": f"/v2/models/{GAME}/infer"}
        try:
            import litserve  # noqa: F401
        except ImportError:
            print("LitServe is not installed, so it is not measured")
        else:
            for batch in (1, 16, 64):
                words[f"LitServe, batch {batch}"] = [
                    *(__file__, "--serve", "litserve", "--checkpoint", checkpoint),
                    *("--batch", str(batch)),
                ]
        running = {}
        try:
            for number, (name, command) in enumerate(words.items()):
                place = port + number
                path = paths.get(name, "/infer")
                process = started([*command, "--port", str(place)], place, path)
                running[name] = (process, place, path)
            write(flags, measured(flags, running))
        finally:
            for process, _, _ in running.values():
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()


def measured(flags: argparse.Namespace, running: dict) -> dict:
    """Returns the median figures by server and number of clients."""
    rounds: dict[str, list[dict]] = {}
    for _ in range(flags.rounds):
        for clients in CLIENTS:
            for name, (process, port, path) in running.items():
                found = measure(port, path, clients, flags.seconds, psutil.Process(process.pid))
                rounds.setdefault(f"{name}, {clients} clients", []).append(found)
        step = play_steps_over_websocket(running["rlarcade"][1], flags.seconds)
        rounds.setdefault("rlarcade, a step over a WebSocket", []).append(step)
    return {
        name: {key: round(statistics.median(one[key] for one in found), 3) for key in found[0]}
        for name, found in rounds.items()
    }


def write(flags: argparse.Namespace, found: dict) -> None:
    """Prints the figures and the ratios, and writes them."""
    ratios = {}
    for clients in CLIENTS:
        own = found[f"rlarcade, {clients} clients"]["requests_per_second"]
        others = [name for name in found if name.endswith(f", {clients} clients")]
        for name in others[1:]:
            ratios[f"rlarcade / {name}"] = round(own / found[name]["requests_per_second"], 2)
    for name, figures in (found | {"ratios": ratios}).items():
        print(name, figures)
    document = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "rounds": flags.rounds,
        "seconds": flags.seconds,
        "servers": found,
        "ratio": ratios,
    }
    if flags.json is not None:
        flags.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
