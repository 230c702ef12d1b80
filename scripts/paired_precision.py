"""Trains the same runs in fp32 and in bf16, seed by seed, to see whether learning suffers.

    python scripts/paired_precision.py --games SpaceInvaders Krull --seeds 4 --dir precision-runs \
        --json docs/results/precision.json

On a CPU without bf16 instructions torch's own bf16 takes ten times as long. There each product is
computed in fp32 from operands rounded to bf16, and then rounded: what the instructions do (they too
accumulate in fp32), some rounding of sums apart. The outcome says which of the two was done.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rlarcade.learning.hardware import has_bf16_instructions
from rlarcade.outputs import output_file
from rlarcade.runs.metrics_file import read_metrics
from rlarcade.train import main as train

_PRODUCTS = {F.conv2d, F.linear}


class ProductsInFp32(TorchFunctionMode):
    """Computes products of bf16 tensors in fp32 and rounds them, forward and backward."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Sends convolutions and linear layers on bf16 tensors another way."""
        if func in _PRODUCTS and args[0].dtype == torch.bfloat16:
            operands = [x.float() if isinstance(x, torch.Tensor) else x for x in args]
            return func(*operands, **(kwargs or {})).bfloat16()
        return func(*args, **(kwargs or {}))


def main() -> int:
    """Trains all pairs and writes what `summarise_sweep.py` reads."""
    if sys.argv[1:2] == ["--one"]:
        if has_bf16_instructions():
            return train(sys.argv[2:])
        with ProductsInFp32():
            return train(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=4, help="pairs a game")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--dir", type=Path, required=True, help="the runs' folders; goes on there")
    parser.add_argument("--json", type=output_file, required=True)
    asked, flags = parser.parse_known_args()
    plan = [
        {"game": game, "precision": precision, "seed": seed}
        for seed in range(asked.seeds)
        for game in asked.games
        for precision in ("fp32", "bf16")
    ]
    asked.dir.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(asked.jobs) as pool:
        runs = list(pool.map(lambda settings: _run(settings, asked.dir, flags), plan))
    document = {
        "sweep": "precision",
        "bf16": "by the CPU" if has_bf16_instructions() else "emulated: fp32 products, rounded",
        **provenance(),
        "runs": runs,
    }
    asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def _run(settings: dict[str, Any], folder: Path, flags: list[str]) -> dict[str, Any]:
    label = "-".join(map(str, settings.values()))
    command = [sys.executable, __file__, "--one", "--run-dir", str(folder / label), *flags]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    with (folder / f"{label}.log").open("ab") as log:
        code = subprocess.run(
            command,
            stdout=log,
            stderr=log,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ).returncode
    print(f"{label}: exit code {code}", flush=True)
    if code:
        return {"label": label, "settings": settings, "exit": code, "result": None}
    result = json.loads((folder / label / "result.json").read_text())
    return {
        "label": label,
        "settings": settings,
        "exit": code,
        "result": result,
        "curve": _curve(folder / label),
    }


def _curve(run: Path) -> list[tuple[int, float]]:
    """Mean score of the last hundred games, every thousand steps."""
    return [
        (line["step"], round(line["rollout/ep_rew_mean"], 2))
        for line in read_metrics(run)
        if "rollout/ep_rew_mean" in line
    ]


if __name__ == "__main__":
    sys.exit(main())
