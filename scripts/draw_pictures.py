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
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image
from rich.console import Console

from rlarcade import DQNAgent, compare_agents, evaluate_agent
from rlarcade.compare import main as compare
from rlarcade.evaluation.documents import recordings_of
from rlarcade.playing.recordings import median_game
from rlarcade.reports import match_report, sources_of
from rlarcade.reports.pictures import SIZE, clip_of, values_of

ROOT = Path(__file__).parents[1]
EARLY, LATE = ("tests/data/space-invaders-early", "tests/data/space-invaders-late")
PICTURES = ROOT / "docs" / "pictures"
SMALL = (SIZE[0] // 2, SIZE[1] // 2)


def main() -> None:
    """Draws all of them."""
    agent = DQNAgent.load(ROOT / LATE)
    recording = median_game(recordings_of(evaluate_agent(agent, episodes=5)))
    values = values_of(agent, recording)
    clip = clip_of(recording, values)
    assert clip is not None, "ffmpeg was not found"
    draw_moving(clip)
    draw_report()
    draw_terminal()


def draw_moving(clip: bytes) -> None:
    """Writes a video as an animated picture of 15 frames a second, which a README can show."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(clip)
        file.flush()
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", file.name]
        scaled = ["-vf", f"fps=15,scale={SMALL[0]}:{SMALL[1]}:flags=area"]
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        data = subprocess.run([*ffmpeg, *scaled, *raw], check=True, capture_output=True).stdout
    shape = (-1, SMALL[1], SMALL[0], 3)
    frames = [Image.fromarray(frame) for frame in np.frombuffer(data, np.uint8).reshape(shape)]
    frames[0].save(
        PICTURES / "game.webp",
        save_all=True,
        append_images=frames[1:],
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
