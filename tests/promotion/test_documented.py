"""What the documentation says of promotion is what the code does."""

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest
from warm_python import programs

from rlarcade.promotion.gate import Gate

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "promoting.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


def walk_through():
    """The README's commands and the exit codes that it promises."""
    section = README.split("## Promote\n")[1].split("\n## ")[0]
    lines = re.findall(r"```bash\n(.+?)```", section, flags=re.DOTALL)[0].splitlines()
    for line in lines:
        command, _, comment = line.partition("  #")
        promised = re.search(r"exit (\d+)", comment)
        yield command, int(promised[1]) if promised else 0


def test_the_diagram_of_states_is_the_codes_own_table():
    shown = re.findall(r"```mermaid\n(.+?)\n```", PAGE, flags=re.DOTALL)
    assert shown == [runpy.run_path(str(ROOT / "scripts" / "draw_states.py"))["diagram"]()]
    assert "passed --> awaiting_approval" in shown[0]


def test_the_page_names_every_part_of_the_gate():
    table = PAGE.split("## The gate")[1].split("## Who decides")[0]
    named = re.findall(r"^\| ([a-z, ]+) \|", table, flags=re.MULTILINE)
    checks = {name for cell in named for name in cell.split(", ")} - {"check"}
    assert checks == {*Gate.model_fields, "files", "contract"}


def test_the_walk_through_is_made_without_force():
    commands = [command for command, _ in walk_through()]
    assert len(commands) >= 8
    assert not any("--force" in command for command in commands)


@pytest.mark.first
@pytest.mark.slow
def test_the_walk_through_of_the_readme_runs_as_written(tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    environment = {**os.environ, "PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}"}
    for command, promised in walk_through():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == promised, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
