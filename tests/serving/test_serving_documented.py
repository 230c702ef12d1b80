"""docs/serving.md tells the truth."""

import re
from pathlib import Path
from typing import get_args

from rlarcade.registry.rollouts import RolloutState
from rlarcade.serving.settings import RolloutSpec

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")


def test_the_table_of_states_has_all_states():
    table = re.search(r"\| state \| meaning \|\n(?:\|.*\n)+", PAGE)[0]
    assert set(re.findall(r"`([a-z_]+)`", table)) - {"undo"} == set(get_args(RolloutState))


def test_the_settings_that_the_page_names_are_the_defaults():
    canary = RolloutSpec(strategy="canary")
    assert canary.steps == (1, 5, 25, 50, 100)
    assert "1, 5, 25, 50 and 100 %" in PAGE
    assert canary.min_sessions == 10
    assert "ten games of the candidate (`--min-sessions`)" in PAGE
    assert canary.alpha == 0.05
    assert "must reach 20 (`--alpha 0.05`)" in PAGE
