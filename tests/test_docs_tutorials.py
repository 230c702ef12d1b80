"""The tutorials, as a reader follows them, with shorter games."""

import pytest
from docs_helpers import PAGES, ROOT, blocks, run_lines

SHORTER = {
    r"^python3 -m venv.*": ":",
    r"^pip install.*": ":",
    r"--episodes 100": "--episodes 1",
    r"--games 100": "--games 1",
    r"(rlarcade\.train .*)": r"\1 --total-timesteps 64 --num-envs 2 --eval-episodes 1",
    r"^if .*; then (.*); fi$": r"\1",
}
TUTORIALS = {
    "first-agent": ["first-agent"],
    "which-is-better": ["which-is-better"],
    "serve": ["champion", "serve"],
}
"""Each with those that come before it."""


@pytest.mark.first
@pytest.mark.slow
@pytest.mark.recorded
@pytest.mark.parametrize("name", TUTORIALS)
def test_the_commands_of_a_tutorial_run_one_after_the_other(name, tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for old, age in (("old", "early"), ("new", "late")):
        (tmp_path / old).symlink_to(ROOT / "tests" / "data" / f"space-invaders-{age}")
    lines = [line for one in TUTORIALS[name] for line in blocks(PAGES[f"docs/tutorials/{one}"])]
    # A gate needs agents of which one is better, which none is in made-up games.
    run_lines(lines, tmp_path, SHORTER, made_up_games=name == "first-agent")
