"""Draws the pictures of the README and the documentation with the agents of tests/data.

    python scripts/draw_pictures.py

- docs/pictures/game.webp: eight seconds of a game, as `watch --video` draws them
- docs/pictures/report.png, docs/results/compare-close.png: reports of two matches, in Chromium
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
from rlarcade.evaluation.documents import Comparison, recordings_of
from rlarcade.playing.recordings import Recording, median_game
from rlarcade.reports import match_report, sources_of
from rlarcade.reports.pictures import step_pictures, values_of

ROOT = Path(__file__).parents[1]
EARLY, LATE = ("tests/data/space-invaders-early", "tests/data/space-invaders-late")
PICTURES, RESULTS = ROOT / "docs" / "pictures", ROOT / "docs" / "results"


def main() -> None:
    """Draws all of them."""
    agent = DQNAgent.load(ROOT / LATE)
    recording = median_game(recordings_of(evaluate_agent(agent, episodes=5)))
    draw_moving(agent, recording)
    draw_report(match_of_both(), PICTURES / "report.png", (1040, 900))
    close = Comparison.model_validate_json((RESULTS / "compare-close.json").read_bytes())
    draw_report(close, RESULTS / "compare-close.png", (1000, 1500))
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


def match_of_both() -> Comparison:
    """Plays the match of the two agents of tests/data, which it calls by their paths there."""
    match = compare_agents(DQNAgent.load(ROOT / EARLY), DQNAgent.load(ROOT / LATE))
    names = {"champion": EARLY, "candidate": LATE}
    sides = {side: getattr(match, side) for side in names}
    return match.model_copy(
        update={side: sides[side].model_copy(update={"checkpoint": names[side]}) for side in names}
    )


def draw_report(match: Comparison, picture: Path, size: tuple[int, int]) -> None:
    """Draws the beginning of a match's report, as a window of this size shows it."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        page.write_text(match_report(match, **sources_of([match])), "utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        view = browser.new_page(viewport={"width": size[0], "height": size[1]})
        view.goto(page.as_uri())
        shown = Image.open(io.BytesIO(view.screenshot())).convert("RGB")
        shown.quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)
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
