"""Killed at any moment, or with many at once, the registry loses nothing; in small numbers.

The recorded runs are in docs/results/reliability.md.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PHASES = {"opening", "register", "submission", "checks", "match", "approve", "alias move"}
PHASES |= {"rollback", "elsewhere"}


def run(script, *arguments, json_file):
    command = [sys.executable, ROOT / script, *arguments, "--json", json_file]
    outcome = subprocess.run(
        [*map(str, command)], check=False, capture_output=True, text=True, timeout=1100
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return json.loads(json_file.read_text("utf-8")), outcome.stdout


@pytest.mark.first
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_command_leaves_a_sound_registry_and_given_again_ends_as_if_never_killed(tmp_path):
    found, _ = run("tests/tools/kill_registry.py", "--kills", 30, json_file=tmp_path / "kills.json")
    assert (found["all_whole"], found["problem"]) == (True, None)
    assert found["kills"] == sum(found["kills_by_phase"].values()) == 30
    assert set(found["kills_by_phase"]) == PHASES
    # Which phase a moment falls into varies with the machine, so not each of them must be hit.
    assert sum(count > 0 for count in found["kills_by_phase"].values()) >= 6
    assert found["kills_by_way"]["at"] > 0


@pytest.mark.slow
def test_of_eight_processes_at_once_no_move_is_lost_and_every_loser_is_told(tmp_path):
    found, _ = run("tests/tools/race_registry.py", "--seconds", 5, json_file=tmp_path / "race.json")
    assert (found["nothing_lost"], found["problems"]) == (True, [])
    assert min(found["attempts_by_process"]) > 0
    for action in ("register", "promote", "roll back"):
        assert found["successes"][action] > 0
    told = (found["attempts"], found["successes"], found["told_stale"])
    attempts, successes, stale = (sum(counts.values()) for counts in told)
    assert attempts == successes + stale + found["told_nothing_to_roll_back_to"]
    assert stale > 0  # they did meet


@pytest.mark.slow
def test_the_registrys_benchmark_measures_what_has_a_goal(tmp_path):
    arguments = ("--versions", 50, "--rounds", 5, "--megabytes", 0.1)
    found, table = run("scripts/bench_registry.py", *arguments, json_file=tmp_path / "speed.json")
    figures = found["milliseconds"]
    assert set(found["goals_for_medians"]) | {"copying", "register"} == set(figures)
    assert all(one["median"] <= one["p95"] for one in figures.values())
    assert figures["register beyond copying"]["median"] < figures["register"]["median"]
    assert found["versions"] == 55
    assert [line.split("  ")[0] for line in table.splitlines()[2:8]] == list(figures)
