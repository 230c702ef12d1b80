"""Altered files of every format are read or refused on purpose; in small numbers.

The recorded run is in docs/results/reliability.md.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "tools" / "fuzz_formats.py"


@pytest.mark.first
@pytest.mark.slow
def test_no_altered_file_of_any_format_makes_a_fault(tmp_path):
    flags = ["--inputs", "8", "--seed", "7", "--json", str(tmp_path / "fuzz.json")]
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *flags], check=False, capture_output=True, text=True
    )
    found = json.loads((tmp_path / "fuzz.json").read_text())
    examples = {name: one["examples"] for name, one in found["formats"].items() if one["faults"]}
    assert (ran.returncode, examples) == (0, {})
    assert found["inputs"] == 8 * len(found["formats"]) > 96
    tried = found["formats"].values()
    assert sum(one["refused"] for one in tried) > sum(one["read"] for one in tried) > 0
