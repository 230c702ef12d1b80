"""Draws the pictures of the README and the documentation with the agents of tests/data.

    python scripts/draw_pictures.py

- docs/pictures/game.webp: eight seconds of a game, as `watch --video` draws them
- docs/pictures/report.png: the report of a match, in Chromium
- docs/pictures/terminal.svg: what `compare` prints
"""

import contextlib
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console

from rlarcade import DQNAgent, compare_agents, evaluate_agent
from rlarcade.compare import main as compare
from rlarcade.evaluation.documents import recordings_of
from rlarcade.playing.recordings import Recording, median_game
from rlarcade.reports import match_report, sources_of
from rlarcade.reports.pictures import step_pictures, values_of

ROOT = Path(__file__).parents[1]
EARLY, LATE = ("tests/data/space-invaders-early", "tests/data/space-invaders-late")
PICTURES = ROOT / "docs" / "pictures"


def main() -> None:
    """Draws all of them."""
    agent = DQNAgent.load(ROOT / LATE)
    recording = median_game(recordings_of(evaluate_agent(agent, episodes=5)))
    draw_moving(agent, recording)
    draw_report()
    draw_terminal()


def draw_moving(agent: DQNAgent, recording: Recording) -> None:
    """Writes a part of a game as an animated picture of half the size, which a README can show."""
    drawn = step_pictures(recording, values_of(agent, recording), seconds=8)
    one, *others = (Image.fromarray(picture).reduce(2) for _, picture in drawn)
    one.save(
        PICTURES / "game.webp",
        save_all=True,
        append_images=others,
        duration=67,
        loop=0,
        quality=60,
        method=6,
    )


def draw_report() -> None:
    """Draws the beginning of a match's report."""
    from playwright.sync_api import sync_playwright

    match = compare_agents(DQNAgent.load(ROOT / EARLY), DQNAgent.load(ROOT / LATE))
    names = {"champion": EARLY, "candidate": LATE}
    sides = {side: getattr(match, side) for side in names}
    match = match.model_copy(
        update={side: sides[side].model_copy(update={"checkpoint": names[side]}) for side in names}
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        page.write_text(match_report(match, **sources_of([match])), "utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        view = browser.new_page(viewport={"width": 1040, "height": 900})
        view.goto(page.as_uri())
        view.screenshot(path=PICTURES / "report.png")
        browser.close()


def draw_terminal() -> None:
    """Draws what the command `compare` prints."""
    told = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(told):
        compare([EARLY, LATE])
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(f"$ python -m rlarcade.compare {EARLY} {LATE}", highlight=False)
    console.print(told.getvalue().strip(), highlight=False)
    svg = console.export_svg(title="rlarcade")
    # its fonts would come from elsewhere, and any font of the reader's does
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    (PICTURES / "terminal.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
