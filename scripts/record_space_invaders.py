"""Human-level Space Invaders by the clock: trains, evaluates and writes the evidence.

    python scripts/record_space_invaders.py --json docs/results/record-space-invaders.json

Human level is the published mean of a professional tester, 1,669 points (Mnih et al. 2015). The
claim is a mean of at least that over 100 whole games under `v5`, raw scores, after ten minutes. The
clock starts before the training command does and stops when its last policy checkpoint is on the
disk: imports, starting the emulators, compiling and measuring the speed all count; the evaluation
afterwards does not. One run, nothing chosen afterwards: the newest checkpoint is evaluated. Exit
code 0 if the claim holds, 1 if not. Flags that are not known here go to the training command.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from rlarcade.games import published_scores
from rlarcade.learning.metrics import read_metrics
from rlarcade.learning.run_folder import code_commit

_GAME, _PROTOCOL = "SpaceInvaders", "v5"
_EPISODES = 100


def main() -> int:
    """Makes the attempt; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of wall-clock, to train in")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--episodes", type=int, default=_EPISODES, help="fewer prove nothing")
    parser.add_argument("--run-dir", type=Path, default=Path("checkpoints/record-space-invaders"))
    parser.add_argument("--json", type=Path)
    asked, flags = parser.parse_known_args()

    command = [sys.executable, "-m", "rlarcade.train", "--game", _GAME, "--preset", asked.preset]
    if "--total-timesteps" not in flags:
        command += ["--minutes", str(asked.minutes)]
    command += ["--run-dir", str(asked.run_dir), "--eval-episodes", str(asked.episodes)]
    # a run that had been interrupted would have a clock that stood still meanwhile
    command += [*flags, "--resume", "never"]
    started = time.time()
    if code := subprocess.run(command, check=False).returncode:
        return code
    result = json.loads((asked.run_dir / "result.json").read_text())
    saved = (Path(result["checkpoint"]) / "manifest.json").stat().st_mtime
    config = json.loads((asked.run_dir / "run.json").read_text())["train"]

    published = published_scores(config["game"])
    assert published is not None
    claim = {
        "mean": result["evaluation"]["mean"],
        "human": published.human,
        "minutes": (saved - started) / 60,
        "minutes_allowed": asked.minutes,
        "episodes": len(result["evaluation"]["episodes"]),
        "protocol": config["protocol"],
    }
    claim["holds"] = (
        claim["mean"] >= claim["human"]
        and claim["minutes"] <= claim["minutes_allowed"]
        and claim["episodes"] >= _EPISODES
        and claim["protocol"] == _PROTOCOL
    )
    document = {
        "claim": claim,
        "result": result,
        "config": config,
        "curve": [
            (line["step"], line["rollout/ep_rew_mean"])
            for line in read_metrics(asked.run_dir)
            if "rollout/ep_rew_mean" in line
        ],
        "command": ["python", "scripts/record_space_invaders.py", *sys.argv[1:]],
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": code_commit(),
        "machine": {
            "device": torch.cuda.get_device_name() if config["device"] == "cuda" else "cpu",
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    print(json.dumps(claim))
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0 if claim["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
