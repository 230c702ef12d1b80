"""Human-level Space Invaders by the clock: trains, evaluates and writes the evidence.

    python scripts/record_space_invaders.py --json docs/results/record-space-invaders.json

Human level is the published mean of a professional tester, 1,669 points (Mnih et al. 2015). The
claim is a mean of at least that over 100 whole games under `v5`, raw scores, after ten minutes. The
clock starts before the training command does. Shortly before the time is over the command is
stopped, as by Ctrl-C, and the clock stops when the policy checkpoint that it then saves is on the
disk: imports, starting the emulators and compiling all count; the evaluation afterwards does not.
One run, nothing chosen afterwards: the newest checkpoint is evaluated. Exit code 0 if the claim
holds, 1 if not. Flags that are not known here go to the training command.

Where a GPU costs by the minute, `--episodes 0` leaves the games out. They can be played elsewhere:

    python -m rlarcade.evaluate RUN --episodes 100 --json games.json
    python scripts/record_space_invaders.py --json FILE --games games.json
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from record_run import played, row

from rlarcade.checkpoint import find_checkpoint
from rlarcade.console import EXIT_INTERRUPTED
from rlarcade.errors import CheckpointError
from rlarcade.games import published_scores
from rlarcade.outputs import output_file

_GAME, _PROTOCOL = "SpaceInvaders", "v5"
_EPISODES = 100
_SECONDS_TO_SAVE = 15.0


def main() -> int:
    """Makes the attempt; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of wall-clock, to train in")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--episodes", type=int, default=_EPISODES, help="fewer prove nothing")
    parser.add_argument("--run-dir", type=Path, default=Path("checkpoints/record-space-invaders"))
    parser.add_argument("--json", type=output_file, required=True, help="where the evidence goes")
    parser.add_argument("--games", type=Path, help="judge the run in --json by these games")
    asked, flags = parser.parse_known_args()
    if asked.games is None:
        code = _attempt(asked, flags)
        if code or not asked.episodes:
            return code
    document = json.loads(asked.json.read_text("utf-8"))
    games = asked.games or _games_file(asked.run_dir)
    try:
        evaluation = played(games, by=document["weights_sha256"])
    except ValueError as error:
        print(f"record_space_invaders: error: {error}", file=sys.stderr)
        return 2
    document = {"claim": _claim(document, evaluation)} | document | {"evaluation": evaluation}
    print(json.dumps(document["claim"]))
    asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0 if document["claim"]["holds"] else 1


def _attempt(asked: argparse.Namespace, flags: list[str]) -> int:
    """Trains by the clock, writes what is known of it, and plays the games."""
    command = [sys.executable, "-m", "rlarcade.train", "--game", _GAME, "--preset", asked.preset]
    command += ["--run-dir", str(asked.run_dir), "--eval-episodes", "1"]
    # a run that had been interrupted would have a clock that stood still meanwhile
    command += [*flags, "--resume", "never"]
    started = time.time()
    with subprocess.Popen(command) as training:
        try:
            code = training.wait(timeout=asked.minutes * 60 - _SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            training.send_signal(signal.SIGINT)
            code = training.wait()
    if code not in (0, EXIT_INTERRUPTED):
        return code
    try:
        checkpoint = find_checkpoint(asked.run_dir)
    except CheckpointError:
        print(
            f"record_space_invaders: error: nothing was trained within {asked.minutes:g} minutes, "
            f"{_SECONDS_TO_SAVE:g} seconds of which are kept for saving. Raise --minutes.",
            file=sys.stderr,
        )
        return 2
    manifest = json.loads((checkpoint / "manifest.json").read_text("utf-8"))
    run = row(asked.run_dir, asked.run_dir.name, games=None)
    config = run["settings"]
    document = {
        "minutes": ((checkpoint / "manifest.json").stat().st_mtime - started) / 60,
        "minutes_allowed": asked.minutes,
        "weights_sha256": manifest["weights_sha256"],
        "counters": manifest["counters"],
        "config": config,
        "training_return": run["training_return"],
        "training_minutes": run["training_minutes"],
        **provenance(),
        "machine": {
            "device": torch.cuda.get_device_name() if config["device"] == "cuda" else "cpu",
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if not asked.episodes:
        return 0
    command = [sys.executable, "-m", "rlarcade.evaluate", str(checkpoint)]
    command += ["--episodes", str(asked.episodes), "--json", str(_games_file(asked.run_dir))]
    return subprocess.run(command, check=False).returncode


def _games_file(run: Path) -> Path:
    return run / "record-games.json"


def _claim(document: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    published = published_scores(evaluation["game"])
    assert published is not None
    claim: dict[str, Any] = {
        "mean": evaluation["mean"],
        "human": published.human,
        "minutes": document["minutes"],
        "minutes_allowed": document["minutes_allowed"],
        "episodes": len(evaluation["episodes"]),
        "protocol": document["config"]["protocol"],
    }
    claim["holds"] = (
        claim["mean"] >= claim["human"]
        and claim["minutes"] <= claim["minutes_allowed"]
        and claim["episodes"] >= _EPISODES
        and claim["protocol"] == _PROTOCOL
    )
    return claim


if __name__ == "__main__":
    sys.exit(main())
