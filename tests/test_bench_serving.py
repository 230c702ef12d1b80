"""The benchmark of the server under load."""

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
SCRIPT = SCRIPTS / "bench_serving.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(SCRIPTS))
        yield runpy.run_path(str(SCRIPT))


def test_a_ratio_is_that_of_most_rounds_and_not_of_two_servers_best_rounds(script):
    def a_round(ours, bare):
        figures = {"rlarcade, own, 16": ours, "bare, own, 16": bare, "rlarcade, own, 1": 5.0}
        return {name: {"requests_per_second": speed} for name, speed in figures.items()}

    rounds = [a_round(100.0, 50.0), a_round(400.0, 100.0), a_round(300.0, 250.0)]
    assert script["ratios_of"](rounds) == {"rlarcade / bare, own, 16": 2.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "rlarcad"], "invalid choice: 'rlarcad'"),
        (["--only", "litserve-1"], "error: nothing can be measured"),
    ],
)
def test_servers_that_cannot_be_measured_are_told(script, monkeypatch, capsys, words, said):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    with pytest.raises(SystemExit) as ended:
        script["main"]()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert said in told.err
    assert ("litserve-1 is not measured: --litserve PYTHON" in told.out) == ("litserve-1" in words)


FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
time.sleep(99)
"""


def test_all_processes_of_a_server_are_stopped_and_ended_together(script, tmp_path):
    server = script["Server"]("bare", (sys.executable, "-c", FAMILY))
    running = script["Running"](server, tmp_path / "log")
    until(lambda: len(running._all()) == 2)
    family = running._all()
    running.signal(signal.SIGSTOP)
    until(lambda: {one.status() for one in family} == {psutil.STATUS_STOPPED})
    running.signal(signal.SIGCONT)
    until(lambda: psutil.STATUS_STOPPED not in {one.status() for one in family})
    running.signal(signal.SIGSTOP)
    running.end()
    until(lambda: not any(one.is_running() for one in family))


def test_a_server_that_ends_is_told_with_its_last_words(script, tmp_path):
    server = script["Server"]("bare", (sys.executable, "-c", "raise OSError('no room')"))
    running = script["Running"](server, tmp_path / "log")
    with pytest.raises(SystemExit, match="(?s)bare does not answer .*OSError: no room"):
        running.wait(np.zeros(6, dtype=np.float32))
    running.end()


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.mark.slow  # starts a server
def test_the_figures_of_a_server_are_written(tmp_path):
    command = [sys.executable, str(SCRIPT), "--only", "bare", "--rounds", "1"]
    command += ["--seconds", "0.3", "--json", str(tmp_path / "load.json")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    document = json.loads((tmp_path / "load.json").read_text())
    tools = {"own": (1, 16, 64)} | ({} if document["wrk"] is None else {"wrk": (16, 64)})
    cases = {f"bare, {tool}, {count}" for tool, counts in tools.items() for count in counts}
    assert set(document["servers"]) == cases
    for figures in document["servers"].values():
        assert figures["requests"] > 0
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        assert 0 < figures["cpu_ms_per_request"] < 1000
