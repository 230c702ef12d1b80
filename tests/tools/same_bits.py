"""Shows that this code learns, plays and judges bit for bit what another commit does.

    python tests/tools/same_bits.py COMMIT

Trains five presets with tiny networks, evaluates a committed agent and plays a match, with the code
of the commit and with the code of the working tree, each in processes of its own. Prints what each
gave. Exits with 1 if anything differs. Takes about two minutes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGENTS = ROOT / "tests" / "data"
SMALL = (
    *("--game", "SpaceInvaders", "--seed", "5", "--device", "cpu", "--torch-threads", "1"),
    *("--conv-channels", "8", "8", "8", "--hidden-units", "32", "--eval-episodes", "1"),
)
REPLAY = ("--num-envs", "4", "--total-timesteps", "2000", "--learning-starts", "400")
PRESETS = {
    "quick": ("--total-timesteps", "4000", "--learning-starts", "500", "--eval-interval", "2000"),
    "laptop": ("--total-timesteps", "4000", "--learning-starts", "500"),
    "rainbow": REPLAY,
    "munchausen-iqn": REPLAY,
    "pqn": ("--num-envs", "16", "--total-timesteps", "4096", "--batch-size", "64"),
}
FIGURES = ("train/loss", "train/q_mean", "eval/mean_reward", "charts/episodic_return")


def results(code: Path, folder: Path) -> dict[str, object]:
    """Returns what the code in a folder gives: digests and scores by name."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}

    def command(*words: object) -> int:
        words = (sys.executable, "-m", *map(str, words))
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode in (1, 2):
            raise SystemExit(f"{' '.join(words)} failed: {done.stderr}")
        return done.returncode

    found: dict[str, object] = {}
    for preset, flags in PRESETS.items():
        command("rlarcade.train", "--preset", preset, *SMALL, *flags, "--run-dir", preset)
        run = folder / preset
        newest = sorted((run / "checkpoints").iterdir())[-1]
        weights = (newest / "weights.safetensors").read_bytes()
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        figures = [[line.get(name) for name in ("step", *FIGURES)] for line in lines]
        evaluation = json.loads((run / "result.json").read_text())["evaluation"]
        found[preset] = [hashlib.sha256(weights).hexdigest(), digest(figures), digest(evaluation)]
    late, early = AGENTS / "space-invaders-late", AGENTS / "space-invaders-early"
    command("rlarcade.evaluate", late, "--episodes", 3, "--json", "scores.json")
    found["evaluation"] = digest(json.loads((folder / "scores.json").read_text()))
    files = ("--json", "match.json", "--dir", "pairs")
    verdict = command("rlarcade.compare", early, late, "--max-pairs", 12, *files)
    found["match"] = [verdict, digest(json.loads((folder / "match.json").read_text()))]
    return found


def digest(document: object) -> str:
    """Returns a digest of a JSON document, without names of checkpoints, which may be paths."""

    def without_paths(value: object) -> object:
        if isinstance(value, dict):
            return {k: without_paths(v) for k, v in value.items() if k != "checkpoint"}
        return [without_paths(one) for one in value] if isinstance(value, list) else value

    return hashlib.sha256(json.dumps(without_paths(document), sort_keys=True).encode()).hexdigest()


def main() -> int:
    """Runs the tool; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commit", help="the commit to compare with")
    commit = parser.parse_args().commit
    with tempfile.TemporaryDirectory() as temporary:
        other = Path(temporary) / "code"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(other)], check=True)
        subprocess.run(["git", "-C", str(other), "checkout", "--quiet", commit], check=True)
        both = []
        for name, code in ((commit, other), ("working tree", ROOT)):
            folder = Path(temporary) / f"work-{len(both)}"
            folder.mkdir()
            both.append(results(code, folder))
            print(f"{name}: {json.dumps(both[-1], indent=2)}", flush=True)
    different = [name for name in both[0] if both[0][name] != both[1][name]]
    print(f"different: {', '.join(different)}" if different else "all the same")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
