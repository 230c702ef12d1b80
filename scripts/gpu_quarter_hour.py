"""Makes the most of a quarter of an hour on a borrowed GPU, in two calls.

    python scripts/gpu_quarter_hour.py measure --out OUT       # 200 seconds
    python scripts/gpu_quarter_hour.py attempt --out OUT       # 570 seconds

The first one runs the tests marked `gpu`, and measures how fast four compositions train with 128,
256 and 64 games at a time, as far as its time goes. The second one trains SpaceInvaders with what
would score most at the measured speed, by published curves; `record_space_invaders.py` does that.
OUT then has `measured.json`, `record.json` and the newest checkpoint, whose games are played
elsewhere. `--rehearse` does all of it on a CPU in tiny sizes.

Nothing needs a network. Each call ends in time, and leaves what it has found by then.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
_START_SECONDS = 75.0  # of an attempt, until it learns: imports, emulators, compilation
_LEAST_SECONDS = 10.0  # that a measurement needs when everything has been compiled
_TO_WRITE = 2.0  # seconds, at the end
_LANES = (128, 256, 64)
_LARGEST_FILE = 16_000_000  # bytes that come back from a borrowed machine
_TINY = {
    "device": "cpu",
    "compile": "off",
    "batch_size": 8,
    "impala_width": 1,
    "hidden_units": 8,
    "buffer_size": 2_000,
    "learning_starts": 64,
}
_TINY_LANES = {128: 8, 256: 16, 64: 4}


class Composition(NamedTuple):
    """Something to train, and what is known of it in SpaceInvaders."""

    preset: str
    changes: dict[str, Any]
    curve: tuple[tuple[float, float], ...]
    """Million frames, score; in the order of the frames."""


# Dopamine's IQN with Impala (five seeds, sticky 0.25); BTR (Clark et al. 2024, sticky: 735 points
# at 10M frames, human level at 23M); CleanRL's PQN with Nature's network (not sticky).
_IQN = ((6, 832), (8, 984), (10, 1_502), (13, 2_154), (20, 5_584))
_BTR = ((10, 735), (23, 1_669))
_PQN = ((40, 1_325),)
COMPOSITIONS = {
    "impala-iqn": Composition("impala-iqn", {}, _IQN),
    "fast with impala ×1": Composition("fast", {"impala_width": 1}, _BTR),
    "impala-pqn": Composition("impala-pqn", {}, _PQN),
    "fast": Composition("fast", {}, _BTR),
}


def main() -> int:
    """Does one of the calls; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    calls = parser.add_subparsers(dest="call", required=True)
    for name, seconds in (("measure", 200.0), ("attempt", 570.0), ("one", 6.0)):
        call = calls.add_parser(name)
        call.add_argument("--seconds", type=float, default=seconds, help="that it may take")
        call.add_argument("--rehearse", action="store_true", help="on a CPU, in tiny sizes")
        if name == "one":  # a measurement in a process of its own
            call.add_argument("--composition", choices=COMPOSITIONS, required=True)
            call.add_argument("--lanes", type=int, choices=_LANES, required=True)
        else:
            call.add_argument("--out", type=Path, required=True, help="folder of the results")
    asked = parser.parse_args()
    if asked.call == "one":
        print(json.dumps(speed(asked)))
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    return (measure if asked.call == "measure" else attempt)(asked)


def settings(name: str, lanes: int, *, rehearse: bool) -> dict[str, Any]:
    """Returns what differs from the preset: the games at a time, and as many samples a step."""
    from rlarcade.config import load_preset

    composition = COMPOSITIONS[name]
    _, preset = load_preset(composition.preset)
    values = {"num_envs": lanes, "device": "cuda", **composition.changes}
    if rehearse:
        values |= {"num_envs": _TINY_LANES[lanes], **_TINY}
    if preset.get("memory") == "none":
        for unused in ("buffer_size", "learning_starts"):
            values.pop(unused, None)
    else:
        updates = preset["gradient_steps"] * lanes // preset["num_envs"]
        values |= {"train_freq": values["num_envs"], "gradient_steps": updates}
    return values


# The first call


def measure(asked: argparse.Namespace) -> int:
    """Runs the tests, and measures one composition after the other until the time is over."""
    ends = time.monotonic() + asked.seconds
    document: dict[str, Any] = {"speeds": [], **_circumstances()}
    # Beside the tests, everything is compiled: what torch compiles stays on the disk.
    marked = str(HERE.parent / "tests" / "learning" / "test_training.py")
    tests = _begun("-m", "pytest", "-q", "-n", "4", "-m", "gpu", marked)
    warming = [_begun(*_one(name, _LANES[0], 0.0, asked)) for name in COMPOSITIONS]
    told = _ended(tests, time.monotonic() + asked.seconds / 2).strip().splitlines()
    document["tests"] = {"exit_code": tests.returncode, "said": told[-1:]}
    for process in warming:
        _ended(process, time.monotonic() + max(1.0, (ends - time.monotonic()) / 4))
    _write(asked.out / "measured.json", document)
    seconds = 1.0 if asked.rehearse else 6.0
    longest = _LEAST_SECONDS
    for lanes in _LANES:
        for name in COMPOSITIONS:
            begun = time.monotonic()
            if ends - begun < longest + _TO_WRITE:
                return _told(document)
            process = _begun(*_one(name, lanes, seconds, asked))
            said = _ended(process, ends - _TO_WRITE)
            longest = max(longest, time.monotonic() - begun)
            row = {"composition": name, "lanes": lanes}
            if process.returncode == 0:
                row |= json.loads(said.strip().splitlines()[-1])
            else:
                row |= {"failed": said[-500:]}
            document["speeds"].append(row)
            _write(asked.out / "measured.json", document)
    return _told(document)


def _told(document: dict[str, Any]) -> int:
    for row in document["speeds"]:
        found = f"{row['steps_per_second']:,.0f} steps/s" if "failed" not in row else "failed"
        print(f"{row['composition']:<22}{row['lanes']:>4} games  {found}")
    print("tests:", *document["tests"]["said"])
    return 0 if any("failed" not in row for row in document["speeds"]) else 1


def _one(name: str, lanes: int, seconds: float, asked: argparse.Namespace) -> list[str]:
    words = [__file__, "one", "--composition", name, "--lanes", str(lanes)]
    return [*words, "--seconds", str(seconds), *["--rehearse"] * asked.rehearse]


def speed(asked: argparse.Namespace) -> dict[str, float]:
    """Returns the steps per second of training, and the share of each part of the loop."""
    from bench_gpu import end_to_end

    from rlarcade import TrainingState
    from rlarcade.config import load_preset, make_settings

    preset = COMPOSITIONS[asked.composition].preset
    _, values = load_preset(preset)
    values |= {"game": "SpaceInvaders", "total_timesteps": 10**9, "exploration_steps": 0}
    if values.get("memory") != "none":
        values |= {"buffer_size": 200_000, "learning_starts": 10_000}
    values |= settings(asked.composition, asked.lanes, rehearse=asked.rehearse)
    state = TrainingState.create(make_settings(preset, values).train)
    return end_to_end(state, asked.seconds)


# The second call


def best(speeds: list[dict[str, Any]], seconds: float) -> tuple[dict[str, Any], float]:
    """Returns the measurement whose composition would score most after so many seconds of learning.

    Args:
        speeds: of `measured.json`.
        seconds: how long it would learn.

    Raises:
        ValueError: nothing was measured.
    """
    rows = [row for row in speeds if "failed" not in row]
    if not rows:
        raise ValueError("no composition was measured: run `measure` first.")

    def score(row: dict[str, Any]) -> float:
        frames = 4e-6 * row["steps_per_second"] * seconds
        return published(COMPOSITIONS[row["composition"]].curve, frames)

    chosen = max(rows, key=score)
    return chosen, score(chosen)


def published(curve: tuple[tuple[float, float], ...], frames: float) -> float:
    """Reads a curve at so many million frames: between its points, and no further than the last.

    Before the first point it rises from 148, the score of random play (Mnih et al. 2015).
    """
    reached, scores = zip((0.0, 148.0), *curve, strict=True)
    return float(np.interp(frames, reached, scores))


def attempt(asked: argparse.Namespace) -> int:
    """Trains what would score most until the time is over; keeps the newest checkpoint."""
    started = time.monotonic()
    try:
        document = json.loads((asked.out / "measured.json").read_text("utf-8"))
        row, expected = best(document["speeds"], asked.seconds - _START_SECONDS)
    except (OSError, ValueError) as error:
        print(f"gpu_quarter_hour: error: {error}", file=sys.stderr)
        return 2
    print(f"{row['composition']} with {row['lanes']} games; {expected:,.0f} points by its curve")
    values = settings(row["composition"], row["lanes"], rehearse=asked.rehearse)
    values["total_timesteps"] = int(row["steps_per_second"] * asked.seconds)
    flags = [str(w) for key, value in values.items() for w in (f"--{key.replace('_', '-')}", value)]
    run = asked.out / "run"
    command = [sys.executable, str(HERE / "record_space_invaders.py"), "--episodes", "0"]
    command += ["--minutes", str((asked.seconds - 20.0) / 60), "--run-dir", str(run)]
    command += ["--preset", COMPOSITIONS[row["composition"]].preset]
    command += ["--json", str(asked.out / "record.json"), *flags]
    code = subprocess.run(command, check=False).returncode
    if code:
        return code
    newest = max((run / "checkpoints").glob("step-*"))
    shutil.copytree(newest, asked.out / "checkpoint", dirs_exist_ok=True)
    for path in (asked.out / "checkpoint").iterdir():
        if path.stat().st_size > _LARGEST_FILE:
            print(f"{path} is larger than 16 MB: it will not come back.", file=sys.stderr)
    shutil.rmtree(run)  # memory and states, which nobody needs elsewhere
    print(f"{newest.name} after {time.monotonic() - started:.0f} seconds: {asked.out}/checkpoint")
    return 0


# Processes and files


def _begun(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its children can be ended with it
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])},
    )


def _ended(process: "subprocess.Popen[str]", until: float) -> str:
    """Returns what a process has said, once it has ended or its time is over."""
    try:
        return process.communicate(timeout=max(0.0, until - time.monotonic()))[0]
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0] + "\nits time was over"


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _circumstances() -> dict[str, Any]:
    import torch
    from provenance import provenance

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    cores = len(os.sched_getaffinity(0))
    python, torch_version = platform.python_version(), torch.__version__
    return {
        "machine": {"device": device, "cores": cores, "python": python, "torch": torch_version},
        **provenance(),
    }


if __name__ == "__main__":
    sys.exit(main())
