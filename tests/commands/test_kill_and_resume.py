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
def test_a_run_killed_at_many_moments_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path):
    # docs/results has 459 kills of five presets; these few see that it is still so.
    command = [sys.executable, SCRIPT, "--kills", "6", "--presets", "quick"]
    outcome = subprocess.run(
        [*map(str, command), "--json", str(tmp_path / "kills.json")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    document = json.loads((tmp_path / "kills.json").read_text())
    assert document["kills"] >= 4
    assert min(document["kills_by_moment"].values()) >= 1
    assert document["resumed"] >= 1
    assert [(r["same_weights"], r["same_figures"]) for r in document["rounds"]] == [(True, True)]
