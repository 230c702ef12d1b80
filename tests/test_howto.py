"""The examples in docs/howto are run, and its links lead to files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOWTO = Path(__file__).parent.parent / "docs" / "howto"
NAMES = ("your-agent", "environments")


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file(name):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (HOWTO / f"{name}.md").read_text()):
        assert target.startswith("https://") or (HOWTO / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_python_examples_run_as_written(tmp_path, name):
    blocks = re.findall(r"```python\n(.+?)```", (HOWTO / f"{name}.md").read_text(), flags=re.DOTALL)
    (tmp_path / "example.py").write_text("".join(blocks))
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, timeout=280)
