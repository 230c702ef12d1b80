"""The notebooks of the documentation: what they show was computed, and computes again."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SHORTER = [
    ("total_timesteps=40_000", "total_timesteps=64"),
    ("episodes=10", "episodes=1"),
    ("compare_agents(early, late)", "compare_agents(early, late, max_pairs=2)"),
    ("compare_agents(late, early)", "compare_agents(late, early, max_pairs=2)"),
]

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_was_run_from_top_to_bottom_and_is_small(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert path.stat().st_size < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text("utf-8"))


@pytest.mark.first
@pytest.mark.slow
@pytest.mark.recorded
def test_a_notebook_runs_and_shows_as_many_results_as_it_has_shown(path):
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    shown = [[out.output_type for out in cell.outputs] for cell in code_cells(notebook)]
    for cell in code_cells(notebook):
        for long, short in SHORTER:
            cell.source = cell.source.replace(long, short)
    resources = {"metadata": {"path": ROOT}}
    NotebookClient(notebook, timeout=200, resources=resources).execute()
    assert [[out.output_type for out in cell.outputs] for cell in code_cells(notebook)] == shown
