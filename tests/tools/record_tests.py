"""Runs the recorded tests, or those of some files, and writes down what came of each.

    python tests/tools/record_tests.py
    python tests/tools/record_tests.py tests/cluster

They take an hour of two slow cores, so .ci/run leaves them out: whoever changes what they
test runs them. What came of the others stays in docs/results/recorded-tests.json. Tests that are no
longer recorded leave the file when all are run.
"""

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rlarcade.files import write_file
from rlarcade.runs.folder import code_commit

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "results" / "recorded-tests.json"


class Recorder:
    """The plugin of pytest that hears what comes of each test."""

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self.tests = json.loads(RECORD.read_text())["tests"] if RECORD.exists() else {}
        self._seconds: dict[str, float] = {}
        self._outcomes: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid
        self._seconds[name] = self._seconds.get(name, 0) + report.duration
        self._outcomes.setdefault(name, set()).add(report.outcome)
        if report.when != "teardown":
            return
        outcomes = self._outcomes[name]
        self.tests[name] = {
            "outcome": next(one for one in ("failed", "skipped", "passed") if one in outcomes),
            "seconds": round(self._seconds[name], 1),
            "date": datetime.now(UTC).date().isoformat(),
            "git_commit": code_commit(),
            "python": platform.python_version(),
        }
        self._write()

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self._everything and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            ran = self._outcomes
            self.tests = {name: test for name, test in self.tests.items() if name in ran}
            self._write()

    def _write(self) -> None:
        text = json.dumps({"tests": dict(sorted(self.tests.items()))}, indent=1)
        write_file(RECORD, f"{text}\n".encode())


if __name__ == "__main__":
    asked = sys.argv[1:] or [str(ROOT / "tests")]
    recorder = Recorder(everything=not sys.argv[1:])
    sys.exit(pytest.main(["-m", "recorded", *asked], plugins=[recorder]))
