"""Killed at any moment, a run ends with the bytes of one that was not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "kill_and_resume.py"


@pytest.mark.first
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_killed_at_many_moments_end_with_the_bytes_of_uninterrupted_ones(tmp_path):
    command = [sys.executable, SCRIPT, "--kills", "28", "--presets", "quick", "rainbow"]
    outcome = subprocess.run(
        [*map(str, command), "--json", str(tmp_path / "kills.json")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    document = json.loads((tmp_path / "kills.json").read_text())
    assert document["kills"] >= 20
    assert min(document["kills_by_moment"].values()) >= 1
    assert document["resumed"] >= 5
    assert [(r["same_weights"], r["same_figures"]) for r in document["rounds"]] == [
        (True, True)
    ] * 2
