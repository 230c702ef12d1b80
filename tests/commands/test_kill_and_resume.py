"""Killed at any moment, a run ends with the bytes of one that was not."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlarcade.checkpoint import find_checkpoint

KILLER = Path(__file__).parent.parent / "killer.py"
# the preset's own number of lanes; a ring that wraps, and lanes seeded anew in between
ARGUMENTS = (
    *("--game", "SpaceInvaders", "--preset", "quick", "--device", "cpu", "--seed", "3"),
    *("--total-timesteps", "12000", "--save-interval", "800", "--buffer-size", "3000"),
    *("--reseed-interval", "200", "--eval-episodes", "1"),
)


def train(folder, *, prefix=("-m", "rlarcade.train")):
    return [sys.executable, *map(str, prefix), *ARGUMENTS, "--run-dir", str(folder)]


def digest_of_the_end(folder):
    assert find_checkpoint(folder).name == "step-000000012000"
    return (find_checkpoint(folder) / "weights.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_many_moments_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path):
    subprocess.run(train(tmp_path / "whole"), check=True, capture_output=True)

    rng = random.Random(0)
    folder, kills = tmp_path / "killed", 0
    in_a_save = iter([1, 2, 3, 5, 7, 8, 9, 11, 13, 15, 17, 19, 22, 25])
    while not (folder / "result.json").exists():
        if kills % 2 == 0 and (nth := next(in_a_save, None)) is not None:
            # at the nth write to the disk: within a save, between its files
            command = train(folder, prefix=(KILLER, nth, "train"))
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            process.wait(timeout=300)
        else:
            process = subprocess.Popen(train(folder), stdout=subprocess.PIPE, text=True)
            for line in process.stdout:
                if "run folder" in line:  # training is about to go on
                    break
            if kills < 28:
                time.sleep(rng.uniform(0, 2.5))
                process.kill()
            else:
                process.communicate(timeout=300)
            process.stdout.close()
            process.wait(timeout=300)
        kills += process.returncode == -9
        assert process.returncode in (-9, 0)
    assert kills >= 20
    assert digest_of_the_end(folder) == digest_of_the_end(tmp_path / "whole")

    # one unbroken curve: every figure of the whole run once, in order
    def curve(run):
        import json

        lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]

    assert curve(folder) == curve(tmp_path / "whole")
