"""The tiers of the tests: what .ci/run leaves out has been run, and its record is committed."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow  # the modules of all tests are imported
def test_every_recorded_test_and_no_other_is_in_the_record_and_none_has_failed():
    command = [sys.executable, "-m", "pytest", "-m", "recorded", "--collect-only", "-q", "-n", "0"]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    collected = [line for line in told.splitlines() if "::" in line]
    record = json.loads((ROOT / "docs" / "results" / "recorded-tests.json").read_text())["tests"]
    assert sorted(record) == sorted(collected)
    assert {test["outcome"] for test in record.values()} == {"passed", "skipped"}  # two, on Ray


@pytest.mark.parametrize(
    ("everything", "exitstatus", "left"),
    [
        (True, pytest.ExitCode.OK, ["old", "run"]),
        (True, pytest.ExitCode.INTERRUPTED, ["gone", "old", "run"]),
        (False, pytest.ExitCode.OK, ["gone", "old", "run"]),
    ],
)
def test_only_a_whole_run_of_the_recorded_tests_removes_those_that_are_gone(
    tmp_path, monkeypatch, everything, exitstatus, left
):
    monkeypatch.syspath_prepend(ROOT / "tests" / "tools")
    import record_tests

    record = tmp_path / "recorded-tests.json"
    record.write_text(json.dumps({"tests": {"gone": {"outcome": "passed"}, "old": {}}}))
    monkeypatch.setattr(record_tests, "RECORD", record)
    recorder = record_tests.Recorder(everything=everything)
    for name in ("old", "run"):
        for when, outcome in (("setup", "passed"), ("call", "failed"), ("teardown", "passed")):
            recorder.pytest_runtest_logreport(
                SimpleNamespace(nodeid=name, when=when, outcome=outcome, duration=0.25)
            )
    recorder.pytest_sessionfinish(exitstatus)
    tests = json.loads(record.read_text())["tests"]
    assert sorted(tests) == left
    assert tests["run"]["outcome"] == "failed"
    assert tests["run"]["seconds"] == 0.8
