"""Kills training runs again and again and checks that nothing comes of it.

    python tests/tools/kill_and_resume.py --kills 300 --jobs 2 \\
        --json docs/results/kill-and-resume.json

A round is one run that is left alone, and the same run killed (SIGKILL) and started again until it
has had its share of kills: at a random moment of training, at a random moment after its launch
(imports, rebuilding games), and at the nth write to the disk, which is within a save. Then both
must have the same weights and the same figures in metrics.jsonl, byte for byte.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ale_py
import torch

from rlarcade.machine import cores
from rlarcade.outputs import output_file
from rlarcade.runs.folder import code_commit
from rlarcade.runs.metrics_file import read_metrics

_KILLS_A_ROUND = 24
_MOST_WRITES = 28  # a save of these runs makes fewer; a run that survives its nth write goes on
# Small and short, but with everything on the way: rings that wrap, lanes seeded anew in between.
_SHORT = (
    *("--device", "cpu", "--save-interval", "800", "--reseed-interval", "200"),
    *("--eval-episodes", "1", "--buffer-size", "3000"),
)
_SMALL = ("--conv-channels", "8", "8", "8", "--hidden-units", "32")
_WORK = {
    "quick": ("--preset", "quick", "--total-timesteps", "12000"),
    "rainbow": (
        *("--preset", "rainbow", *_SMALL, "--num-envs", "4", "--learning-starts", "1000"),
        *("--batch-size", "16", "--total-timesteps", "6000"),
    ),
    "laptop": (
        *("--preset", "laptop", "--hidden-units", "32", "--num-envs", "4"),
        *("--learning-starts", "1000", "--total-timesteps", "6000"),
    ),
    "iqn": (
        *("--preset", "iqn", *_SMALL, "--num-envs", "4", "--learning-starts", "1000"),
        *("--batch-size", "16", "--total-timesteps", "6000"),
    ),
    "pqn": ("--preset", "pqn", *_SMALL, "--num-envs", "8", "--total-timesteps", "12000"),
}
_WALL_TIME = ("time/", "charts/SPS")
_GAMES = ("SpaceInvaders", "Breakout", "Seaquest")


@dataclass
class Round:
    """What happened to one run."""

    game: str
    preset: str
    seed: int
    kills: dict[str, int] = field(default_factory=lambda: {"training": 0, "launch": 0, "save": 0})
    resumed: int = 0
    """Launches that went on from a saved state."""
    from_older_state: int = 0
    """Of these, those that found the newest state damaged."""
    same_weights: bool = False
    same_figures: bool = False

    @property
    def good(self) -> bool:
        """Whether the kills left no trace."""
        return self.same_weights and self.same_figures


def main() -> int:
    """Runs the rounds; exit code 1 if any of them left a trace."""
    if len(sys.argv) > 1 and sys.argv[1] == "--die-at-write":
        return _train_and_die_at_write(int(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, help="shared out; a run may end first")
    parser.add_argument("--jobs", type=int, default=1, help="rounds side by side")
    parser.add_argument("--presets", nargs="+", default=list(_WORK), choices=list(_WORK))
    parser.add_argument("--json", type=output_file, help="write the outcome to this file")
    asked = parser.parse_args()

    started, rounds = time.monotonic(), -(-asked.kills // _KILLS_A_ROUND)
    plan = [
        Round(_GAMES[i % len(_GAMES)], asked.presets[i % len(asked.presets)], seed=i)
        for i in range(rounds)
    ]
    shares = [asked.kills // rounds + (i < asked.kills % rounds) for i in range(rounds)]
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(asked.jobs) as pool,
    ):
        folders = [Path(folder) / str(i) for i in range(rounds)]
        done: list[Round] = []
        for round_ in pool.map(_play, plan, shares, folders):
            done.append(round_)
            document = _document(done, time.monotonic() - started)
            if asked.json:  # after every round: what is known is kept
                asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(json.dumps({name: document[name] for name in ("kills", "resumed", "all_identical")}))
    return 0 if document["all_identical"] else 1


def _play(round_: Round, kills: int, folder: Path) -> Round:
    folder.mkdir()
    arguments = [
        *("--game", round_.game, "--seed", str(round_.seed)),
        *_WORK[round_.preset],
        *_SHORT,
        "--run-dir",
    ]
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(
        [sys.executable, "-m", "rlarcade.train", *arguments, str(whole)],
        check=True,
        capture_output=True,
    )
    rng = random.Random(round_.seed)
    while not (killed / "result.json").exists():
        command = [*arguments, str(killed)]
        if sum(round_.kills.values()) >= kills:
            _run(round_, None, None, command)
        else:
            how = rng.choices(("training", "launch", "save"), weights=(2, 1, 2))[0]
            _run(round_, how, rng, command)
    round_.same_weights = _weights(whole) == _weights(killed)
    round_.same_figures = _figures(whole) == _figures(killed)
    print(f"{round_.game} {round_.preset}: {round_.kills}, the same: {round_.good}", flush=True)
    return round_


def _run(round_: Round, how: str | None, rng: random.Random | None, command: list[str]) -> None:
    """Launches the run once, to be killed in the given way, or to its end."""
    start = ["-m", "rlarcade.train"]
    if how == "save" and rng:
        start = [__file__, "--die-at-write", str(rng.randint(1, _MOST_WRITES))]
    process = subprocess.Popen(
        [sys.executable, *start, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said: list[str] = []
    if how == "launch" and rng:
        time.sleep(rng.uniform(0, 8))
        process.kill()
    for line in process.stdout:
        said.append(line)
        if how == "training" and rng and "run folder" in line:
            time.sleep(rng.uniform(0, 3))
            process.kill()
    code = process.wait()
    text = "".join(said)
    round_.resumed += "resumed at step" in text
    round_.from_older_state += "Resuming from an older state" in text
    if how is not None and code == -signal.SIGKILL:
        round_.kills[how] += 1
    elif code != 0:
        raise RuntimeError(f"the run ended with exit code {code}:\n{text[-3000:]}")


def _train_and_die_at_write(nth: int, arguments: list[str]) -> int:
    """Trains, and kills this very process at its nth write to the disk."""
    writes = iter(range(1, 1_000_000))

    def counted(real: Any) -> Any:
        def call(*positional: Any, **named: Any) -> Any:
            if next(writes) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*positional, **named)

        return call

    os.fsync = counted(os.fsync)
    for name in ("rename", "replace", "unlink"):
        setattr(Path, name, counted(getattr(Path, name)))
    from rlarcade.train import main as train

    return train(arguments)


def _weights(run: Path) -> bytes:
    newest = max((run / "checkpoints").iterdir())
    return (newest / "weights.safetensors").read_bytes()


def _figures(run: Path) -> list[dict[str, Any]]:
    """One unbroken curve: every figure once, in order; only wall time may differ."""
    return [
        {name: value for name, value in line.items() if not name.startswith(_WALL_TIME)}
        for line in read_metrics(run)
    ]


def _document(rounds: list[Round], seconds: float) -> dict[str, Any]:
    return {
        "kills": sum(sum(r.kills.values()) for r in rounds),
        "kills_by_moment": {
            how: sum(r.kills[how] for r in rounds) for how in ("training", "launch", "save")
        },
        "resumed": sum(r.resumed for r in rounds),
        "from_older_state": sum(r.from_older_state for r in rounds),
        "all_identical": all(r.good for r in rounds),
        "rounds": [asdict(r) for r in rounds],
        "command": ["python", "tests/tools/kill_and_resume.py", *sys.argv[1:]],
        "minutes": round(seconds / 60, 1),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": cores(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "ale_py": ale_py.__version__,
        },
        "git_commit": code_commit(),
    }


if __name__ == "__main__":
    sys.exit(main())
