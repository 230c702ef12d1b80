"""The line that says how far work is: as long as a terminal is wide, a plain one elsewhere."""

import os
import pty
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from rlarcade import progress
from rlarcade.progress import Part, ProgressLine, duration, fitted

PARTS = [
    Part("━━━━━━──────", "━━───", 5),
    Part("412,384/1,213,456 steps", "412k/1.21M", 0),
    Part("1,412 steps/s", "1.41k/s", 7),
    Part("12:03 elapsed", "12:03", 4),
    Part("ETA 42:10", "ETA 42:10", 1),
    Part("score 412.3", "score 412.3", 2),
    Part("loss 0.0312", "loss 0.0312", 3),
    Part("epsilon 0.05", "epsilon 0.05", 6),
]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_plain_line_says_how_far_how_long_and_until_when(clock, capsys):
    with ProgressLine(400, "drawing", unit="frames") as line:
        for done in range(1, 11):
            clock[0] += 1.1
            line.update(done * 11, lambda: "5 won")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "drawing: 110/400 frames  10 frames/s  0:10 elapsed  ETA 0:28  5 won"
    ]


def test_of_work_that_may_end_at_any_time_no_end_is_foretold(clock, capsys):
    with ProgressLine(400, "match", unit="pairs", at_most=True) as line:
        for done in range(1, 11):
            clock[0] += 1.1
            line.update(done, lambda: "5 won")
    assert capsys.readouterr().err.splitlines() == [
        "match: 10 of at most 400 pairs  0:10 elapsed  5 won"
    ]


def test_a_wide_terminal_shows_everything_at_full_length():
    line = fitted("space_invaders", PARTS, 200)
    for part in PARTS:
        assert part.long in line


def test_eighty_columns_show_the_bar_the_count_the_end_the_score_and_the_loss():
    line = fitted("⠋ space_invaders", PARTS, 79)
    assert cell_len(line) <= 79
    for shown in (
        "space_invaders",
        "412k/1.21M",
        "ETA 42:10",
        "score 412.3",
        "loss 0.0312",
        "12:03",
    ):
        assert shown in line


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 70, 80, 100, 120])
def test_what_matters_least_goes_first_and_the_line_never_wraps(width):
    line = fitted("train", PARTS, width)
    assert cell_len(line) <= width
    there = [part for part in PARTS if part.short in line or (part.long and part.long in line)]
    gone = [part for part in PARTS if part not in there]
    if there and gone:
        assert max(part.rank for part in there) <= min(part.rank for part in gone)


def test_a_part_from_outside_is_shown_and_not_obeyed():
    assert "\\x1b[31m" in fitted("x", [Part("\x1b[31mred", "\x1b[31mred", 0)], 80)


def test_times_are_written_as_clocks_do():
    assert [duration(s) for s in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


SCRIPT = """
import sys, time
from rlarcade.progress import ProgressLine
with ProgressLine(400, "a/long/path/to/a/checkpoint/step-000000040000") as line:
    time.sleep(1.2)
    for done in range(8):
        line.update(done, lambda: "score 12.5  [red]loss[/red] 0.1")
        time.sleep(0.3)
    print("a result")
"""


def test_on_a_terminal_the_line_is_live_and_results_go_to_stdout_alone(tmp_path):
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with (tmp_path / "out").open("wb") as out:
        ran = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], stdout=out, stderr=follower, env=environment
        )
        os.close(follower)
        drawn = b""
        while True:
            try:
                more = os.read(leader, 65536)
            except OSError:  # the other end has closed
                break
            if not more:
                break
            drawn += more
    assert ran.wait() == 0
    os.close(leader)
    shown = drawn.decode()
    assert (tmp_path / "out").read_text() == "a result\n"
    assert "a result" not in shown
    assert "…" in shown  # the long name is cut in its middle
    assert "[red]loss[/red] 0.1" in shown  # markup from outside is text
    assert "score 12.5" in shown
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines():
        assert cell_len(line) < 80
