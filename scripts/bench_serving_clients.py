"""The clients of scripts/bench_serving.py: they send one request again and again.

Each returns its requests, how many there were in a second, and percentiles of their times.
"""

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

ACTION_BYTES = 8  # of the action in an answer, int64; the values follow, and end it

Figures = dict[str, float]


def frames() -> np.ndarray:
    """Returns the observation that every client sends, uint8 (1, 4, 84, 84)."""
    return np.random.default_rng(0).integers(0, 256, (1, 4, 84, 84), dtype=np.uint8)


def headers_and_body() -> tuple[dict[str, str], bytes]:
    """Returns a binary request of the Open Inference Protocol with one observation."""
    tensor = frames().tobytes()
    described = {
        "name": "observation",
        "shape": [1, 4, 84, 84],
        "datatype": "UINT8",
        "parameters": {"binary_data_size": len(tensor)},
    }
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, head + tensor


def _request(path: str) -> bytes:
    """Returns the whole HTTP request."""
    headers, body = headers_and_body()
    headers |= {"Host": "127.0.0.1", "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


# Our own client


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> bytes:
    """Sends a request; returns the body of the answer."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.decode())
    lines = head.lower().split(b"\r\n")
    length = next(line for line in lines if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length.partition(b":")[2]))


async def _ask(port: int, request: bytes, until: float, times: list[float]) -> None:
    """Sends the same request again and again over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (began := time.perf_counter()) < until:
        await _answer(reader, writer, request)
        times.append(time.perf_counter() - began)
    writer.close()


def own(port: int, path: str, clients: int, seconds: float) -> Figures:
    """Measures with connections of this process, one a client."""
    times: list[float] = []
    request = _request(path)

    async def together() -> float:
        began = time.perf_counter()
        until = began + seconds
        await asyncio.gather(*(_ask(port, request, until, times) for _ in range(clients)))
        return time.perf_counter() - began

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return _figures(times, runner.run(together()))


def once(port: int, path: str) -> tuple[int, np.ndarray]:
    """Returns the action and the values, float32 (6,), of one answer."""

    async def asked() -> bytes:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = await _answer(reader, writer, _request(path))
            writer.close()
            return body

    numbers = asyncio.run(asked())[-(ACTION_BYTES + 6 * 4) :]
    action = int(np.frombuffer(numbers[:ACTION_BYTES], np.int64)[0])
    return action, np.frombuffer(numbers[ACTION_BYTES:], np.float32)


def _figures(times: list[float], seconds: float) -> Figures:
    p50, p99 = 1000 * np.percentile(times, [50, 99])
    return {
        "requests": len(times),
        "requests_per_second": len(times) / seconds,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


# wrk

_SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('FOUND {{"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, ',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99)))
  io.write(string.format('"errors": %d}}\\n',
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def wrk_version() -> str | None:
    """Returns the version of `wrk`; None: it is not installed."""
    if shutil.which("wrk") is None:
        return None
    told = subprocess.run(["wrk", "--version"], check=False, capture_output=True, text=True)
    return told.stdout.partition(" Copyright")[0]


def wrk(port: int, path: str, clients: int, seconds: float) -> Figures:
    """Measures with `wrk` in one thread, for whole seconds."""
    headers, body = headers_and_body()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "body").write_bytes(body)
        lines = (f'wrk.headers["{key}"] = "{value}"' for key, value in headers.items())
        script = _SCRIPT.format(body=folder / "body", headers="\n".join(lines))
        (folder / "request.lua").write_text(script)
        how = ["-t", "1", "-c", str(clients), "-d", f"{max(1, round(seconds))}s"]
        how += ["--timeout", "10s"]
        url = f"http://127.0.0.1:{port}{path}"
        command = ["wrk", *how, "-s", str(folder / "request.lua"), url]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(told.partition("FOUND ")[2])
    if found["errors"]:
        raise RuntimeError(f"wrk had {found['errors']} errors:\n{told}")
    return {
        "requests": found["requests"],
        "requests_per_second": found["requests"] / found["us"] * 1e6,
        "p50_ms": found["p50_us"] / 1000,
        "p99_ms": found["p99_us"] / 1000,
    }


# A session


def steps_over_websocket(port: int, game: str, seconds: float) -> Figures:
    """Measures steps of an act session, one frame (7 KB) each, over a WebSocket."""
    import http.client

    from websockets.sync.client import connect

    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(
        "POST", "/v1/sessions", json.dumps({"game": game}), {"Content-Type": "application/json"}
    )
    session = json.loads(connection.getresponse().read())
    connection.close()
    frame = frames()[0, 0].tobytes()
    times = []
    url = f"ws://127.0.0.1:{port}/v1/sessions/{session['id']}/ws"
    with connect(url, compression=None, proxy=None) as socket:
        socket.send(json.dumps({"token": session["token"]}))
        socket.recv()
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            socket.send(frame)
            socket.recv()
            times.append(time.perf_counter() - began)
    return _figures(times, seconds)
