"""Scripts that sum results up, on results made by hand."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "scripts"


def a_run(game, precision, seed, mean):
    result = {"evaluation": {"mean": mean}, "seconds": {"total": 120.0}}
    return {
        "label": f"{game}-{precision}-{seed}",
        "settings": {"game": game, "precision": precision, "seed": seed},
        "exit": 0 if mean is not None else None,
        "result": result if mean is not None else None,
    }


def test_a_sweep_is_summed_up_by_pairs_of_one_seed(tmp_path):
    runs = [
        *(a_run("Pong", "fp32", seed, mean) for seed, mean in ((0, 10.0), (1, 20.0), (2, 60.0))),
        *(a_run("Pong", "bf16", seed, mean) for seed, mean in ((0, 11.0), (1, 23.0), (2, None))),
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"sweep": "precision", "runs": runs}))
    command = [sys.executable, str(SCRIPTS / "summarise_sweep.py"), str(tmp_path / "sweep.json")]
    table = tmp_path / "table.md"
    subprocess.run([*command, "--by", "precision", "--markdown", str(table)], check=True)
    lines = table.read_text().splitlines()
    assert lines[2] == "| Pong | fp32 | 3 | 30.0 | 10.0 … 60.0 | – | 2.0 |"
    # seeds 0 and 1 make pairs: +1 and +3, mean 2, standard error √2/√2
    assert lines[3] == "| Pong | bf16 | 2 | 17.0 | 11.0 … 23.0 | +2.0 ± 1.0 (2 pairs) | 2.0 |"
    assert lines[-1] == "Not finished: Pong-bf16-2"
