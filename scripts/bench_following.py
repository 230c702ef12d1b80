"""Measures how much a training is slowed down by `serve --run` beside it.

    python scripts/bench_following.py --rounds 5 --json following.json
    python scripts/bench_following.py --rounds 1 --steps 6000      # a look at whether it works

Each round trains the same agent three times, in an order that changes from round to round: alone,
beside a server that nobody looks at ("idle"), and beside one whose page is open ("watched"). A
visitor does what the page does: it watches one game of the newest checkpoint after the other, and
asks for the curve every two seconds. What a browser needs to draw the page is not measured. A
server that gives way may show fewer than 15 steps a second; "shown" says how many.

The speed is that of the steps after learning has begun. It comes from the run's own figures, so
that starting the processes does not count. A ratio is the median of the ratios of each round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from websockets.sync.client import connect

from rlarcade import read_metrics
from rlarcade.outputs import output_file
from rlarcade.runs.folder import code_commit  # so that a result says what made it
from rlarcade.serving.following import give_way

WAYS = ("alone", "idle", "watched")
LOOK_SECONDS = 2.0


def main() -> None:
    """Runs the rounds, and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="SpaceInvaders")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--steps", type=int, default=40_000, help="agent steps of each training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=output_file)
    args = parser.parse_args()
    rounds: list[dict[str, float]] = []
    shown: list[float] = []
    for number in range(args.rounds):
        order = WAYS[number % 3 :] + WAYS[: number % 3]
        rounds.append({way: speed(way, args, shown) for way in order})
        print("  ".join(f"{way} {rounds[-1][way]:.1f} steps/s" for way in WAYS), flush=True)
    ratios = {way: statistics.median(one[way] / one["alone"] for one in rounds) for way in WAYS[1:]}
    for way, ratio in ratios.items():
        print(f"{way}: {ratio:.3f} of the speed alone ({1 - ratio:+.1%} slower)")
    print(f"shown: {statistics.median(shown):.1f} steps/s of a game")
    if args.json is not None:
        told = {
            "commit": code_commit(),
            "cores": os.cpu_count(),
            "preset": args.preset,
            "steps": args.steps,
            "rounds": rounds,
            "ratios": ratios,
            "shown_steps_a_second": shown,
        }
        args.json.write_text(json.dumps(told, indent=2) + "\n")


def speed(way: str, args: argparse.Namespace, shown: list[float]) -> float:
    """Trains once; returns agent steps a second, after learning has begun.

    The steps a second that a visitor saw are appended to `shown`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        train = [sys.executable, "-m", "rlarcade.train", "--game", args.game]
        train += ["--preset", args.preset, "--total-timesteps", str(args.steps), "--seed", "1"]
        train += ["--save-interval", str(max(args.steps // 8, 1_000)), "--eval-episodes", "1"]
        train += ["--run-dir", str(folder)]
        with beside(way, folder, shown):
            subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        lines = [line for line in read_metrics(folder) if "time/fps" in line]
    learning = [line for line in lines if "train/loss" in line][1:]
    every = [b["step"] - a["step"] for a, b in pairwise(lines)]
    steps = every[-len(learning) :]
    seconds = sum(count / line["time/fps"] for count, line in zip(steps, learning, strict=True))
    return sum(steps) / seconds


@contextmanager
def beside(way: str, folder: Path, shown: list[float]) -> Iterator[None]:
    """Runs a server beside the training, and a visitor if it is watched."""
    if way == "alone":
        yield
        return
    serve = [sys.executable, "-m", "rlarcade.serve", "--port", "0", "--run", str(folder)]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    over = threading.Event()
    seen = [0, 0.0]  # steps, and the seconds that they took
    visitor: threading.Thread | None = None
    try:
        assert server.stdout is not None
        url = next(line.split()[2] for line in server.stdout if line.startswith("listening on"))
        if way == "watched":
            visitor = threading.Thread(target=visit, args=(url, over, seen))
            visitor.start()
        yield
    finally:
        over.set()
        server.terminate()
        server.wait()
        if visitor is not None:
            visitor.join()
            shown.append(seen[0] / max(seen[1], 1e-9))


def visit(url: str, over: threading.Event, seen: list[float]) -> None:
    """Does what the page does, until the training is over."""
    give_way()  # this thread only
    while not over.is_set():
        with suppress(OSError, StopIteration, KeyError, ValueError):
            ask(f"{url}/v1/run")
            game = next(one["game"] for one in ask(f"{url}/v1/deployments")["deployments"])
            watch(url, ask(f"{url}/v1/watch", {"game": game}), over, seen)
        over.wait(LOOK_SECONDS)


def watch(url: str, game: dict[str, object], over: threading.Event, seen: list[float]) -> None:
    """Watches one game at the usual speed to its end."""
    address = f"ws{url.removeprefix('http')}/v1/watch/{game['id']}/ws"
    with connect(address, max_size=None) as socket, suppress(TimeoutError):
        socket.send(json.dumps({"token": game["token"]}))
        looked = began = time.monotonic()
        while not over.is_set():
            told = socket.recv(timeout=10)
            if isinstance(told, bytes):
                now = time.monotonic()
                seen[0], seen[1], began = seen[0] + 1, seen[1] + now - began, now
            elif json.loads(told).get("ended") or "error" in json.loads(told):
                return
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                ask(f"{url}/v1/run")


def ask(url: str, body: dict[str, object] | None = None) -> dict[str, object]:
    """Asks the server; a body makes it a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
    return found


if __name__ == "__main__":
    main()
