"""The tiers of the tests: what .ci/run leaves out has been run, and its record is committed."""

import json
import subprocess
import sys
from pathlib import Path

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
