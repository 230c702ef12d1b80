"""The tutorials, as a reader follows them, with shorter games."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from docs_helpers import PAGES, ROOT, blocks

SERVER = "http://127.0.0.1:PORT"
SERVE = (
    "python -m rlarcade.serve --port PORT > server.log & pid=$!; trap 'kill $pid; wait' EXIT; "
    "until grep -q http server.log; do sleep 0.1; done"
)
SHORTER = {
    r"^python3 -m venv.*": ":",
    r"^pip install.*": ":",
    r"--episodes 100": "--episodes 1",
    r"--games 100": "--games 1",
    r"(rlarcade\.train .*)": r"\1 --total-timesteps 64 --num-envs 2 --eval-episodes 1",
    r"^if .*; then (.*); fi$": r"\1",
    r"^python -m rlarcade\.serve &$": SERVE,
    r"http://127\.0\.0\.1:8000": SERVER,
    r"rlarcade\.rollout (.*)": rf"rlarcade.rollout \1 --server {SERVER}",
}
TUTORIALS = {
    "first-agent": ["first-agent"],
    "which-is-better": ["which-is-better"],
    "serve": ["champion", "serve"],
}
"""Each with those that come before it."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TUTORIALS)
def test_the_commands_of_a_tutorial_run_one_after_the_other(name, tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for old, age in (("old", "early"), ("new", "late")):
        (tmp_path / old).symlink_to(ROOT / "tests" / "data" / f"space-invaders-{age}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    lines = [line for one in TUTORIALS[name] for line in blocks(PAGES[f"docs/tutorials/{one}"])]
    for pattern, shorter in SHORTER.items():
        lines = [re.sub(pattern, shorter, line).replace("PORT", port) for line in lines]
    # 5: a version waits for its approval
    script = "\n".join(f"{line}\ncode=$?; [ $code = 0 -o $code = 5 ] || exit 99" for line in lines)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
