"""Reports in a real browser: they are drawn, say their verdict, and fit a telephone."""

import html
import io
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from made_up_results import evaluation, match, mixed, read, round_robin, suite
from PIL import Image

from rlarcade.reports import (
    Clip,
    FinalScores,
    LearningCurve,
    SweptRun,
    evaluation_report,
    match_report,
    round_robin_report,
    suite_report,
    sweep_report,
)

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",  # what the page complains of
)
LONG = "checkpoints/space_invaders-dqn-seed0/checkpoints/step-000000300000" + "x" * 60
CURVE = LearningCurve(LONG, tuple(range(1_000, 90_000, 1_000)), tuple(map(float, range(89))))
REPORTS = ("match", "evaluation", "suite", "round robin", "sweep")


def long_match():
    return match([(0, 5)] * 8, names=("old", LONG), notes=("a" * 200,))


def swept():
    """Two agents, three games, three seeds."""
    curve = tuple(range(1_000, 900_000, 1_000)), tuple(float(n % 50) for n in range(899))
    return [
        SweptRun(
            label=f"{game}-{agent}-seed{seed}",
            agent=agent,
            game=game,
            seed=seed,
            settings={"preset": "quick"},
            state="finished",
            scores=FinalScores(steps=900_000, mean=10.0 + seed, median=9.0, minutes=3.0),
            curve=curve,
        )
        for agent in ("plain", "b" * 60)
        for game in ("pong", "breakout", "space_invaders")
        for seed in (0, 1, 2)
    ]


@cache
def report(kind):
    curves = [CURVE]
    if kind == "match":
        return match_report(long_match(), learning_curves=curves)
    if kind == "evaluation":
        evaluations = [evaluation([a, b], name=LONG) for a, b in mixed(4)]
        return evaluation_report(evaluations, learning_curves=curves)
    if kind == "suite":
        names = ("space_invaders", "pong", "breakout")
        games = {game: mixed(12, 0.8, n) for n, game in enumerate(names)}
        return suite_report(suite(games, notes={"pong": ("a" * 200,)}), learning_curves=curves)
    if kind == "sweep":
        return sweep_report("x" * 80, swept())
    pairs = [(one, other) for one in range(4) for other in range(one + 1, 4)]
    pairings = {(one, other): mixed(9, 0.9, other) for one, other in pairs}
    return round_robin_report(
        round_robin((LONG, "b", "runs/" + "y" * 80, "d"), pairings), learning_curves=curves
    )


@pytest.fixture
def browser(tmp_path):
    """Opens a page in Chromium; returns what was asked for on stdout, and what went wrong."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("there is no chromium: apt-get update && apt-get install -y chromium")

    def run(page, *arguments):
        file = tmp_path / "page.html"
        file.write_text(page, "utf-8")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [chromium, *FLAGS, profile, *arguments, file.as_uri()],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [400, 1000])
def test_a_report_is_drawn(browser, tmp_path, name, width):
    from matplotlib.image import imread

    picture = tmp_path / "picture.png"
    browser(report(name), f"--screenshot={picture}", f"--window-size={width},1400")
    pixels = imread(picture)[..., :3]
    shades = np.unique((pixels.reshape(-1, 3) * 15).round(), axis=0)
    assert len(shades) > 30
    inked = (np.abs(pixels - pixels[0, 0]) > 0.1).any(axis=-1)
    assert 0.02 < inked.mean() < 0.6
    assert inked[-300:].any(), "the page goes on to the end of the window"


def test_the_browser_shows_the_verdict_and_every_plot(browser):
    dom, complaints = browser(report("match"), "--dump-dom")
    assert complaints == []
    page = read(dom)
    verdict = page.one("section", id="verdict").text
    assert "PROMOTE the candidate is better" in verdict
    assert "8 won, 0 tied, 0 lost" in verdict
    assert len(list(page.all("svg", role="img"))) == len(list(page.all("figure"))) == 6


@pytest.mark.parametrize(
    ("name", "figures", "told"),
    [
        ("suite", 4 + 3 * 3 + 1, "12 of 400 rounds are done"),
        ("round robin", 4, "everybody against everybody"),
        ("sweep", 1 + 3 * 2, "18 of 18 runs finished"),
    ],
)
def test_the_browser_shows_every_plot_without_complaint(browser, name, figures, told):
    dom, complaints = browser(report(name), "--dump-dom")
    assert complaints == []
    page = read(dom)
    assert told in page.text
    assert len(list(page.all("svg", role="img"))) == len(list(page.all("figure"))) == figures


def test_the_policy_of_a_page_keeps_everything_else_out(browser):
    hostile = report("match").replace(
        "</main>", "<script>document.title = 'obeyed'</script><img src='file:///x.png'></main>"
    )
    dom, complaints = browser(hostile, "--dump-dom")
    assert "<title>obeyed" not in dom
    assert len([line for line in complaints if "Content Security Policy" in line]) == 2


def widths(browser, page, width):
    """The width of a page's content and of its window, with everything that opens opened."""
    # a window itself may have a least width; a frame has none
    frame = f'<iframe id="frame" style="width: {width}px; height: 900px; border: 0" srcdoc="'
    frame += html.escape(page.replace("<details>", "<details open>")) + '"></iframe>'
    measure = (
        "<script>onload = () => { const root = document.getElementById('frame').contentDocument"
        ".documentElement; document.title = root.scrollWidth + ' of ' + root.clientWidth }</script>"
    )
    dom, _ = browser(f"<!DOCTYPE html><title></title>{frame}{measure}", "--dump-dom")
    found = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert found, dom[:300]
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [320, 400, 1000])
def test_a_page_never_scrolls_sideways(browser, name, width):
    assert widths(browser, report(name), width) == (width, width)


def clip_of(mime):
    """Thirty frames of 64×48 pixels, or one of them."""
    frame = np.full((48, 64, 3), 200, dtype=np.uint8)
    if mime == "image/png":
        png = io.BytesIO()
        Image.fromarray(frame).save(png, "PNG")
        return Clip("a game", mime, png.getvalue())
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        video = imageio_ffmpeg.write_frames(file.name, (64, 48), fps=60, codec="libx264")
        video.send(None)
        for _ in range(30):
            video.send(frame.tobytes())
        video.close()
        return Clip("a game", mime, Path(file.name).read_bytes())


@pytest.mark.parametrize(
    ("mime", "shown"), [("image/png", "64 x 48"), ("video/mp4", "64 x 48, 0.5 s")]
)
def test_the_browser_shows_pictures_and_videos_of_games(browser, mime, shown):
    page = match_report(long_match(), clips=[clip_of(mime)])
    frame = f'<iframe id="frame" srcdoc="{html.escape(page)}"></iframe>'
    look = """<script>setInterval(() => {
        const page = document.getElementById('frame').contentDocument;
        const image = page.querySelector('img'), video = page.querySelector('video');
        if (image?.complete) document.title = `${image.naturalWidth} x ${image.naturalHeight}`;
        if (video?.readyState) document.title =
            `${video.videoWidth} x ${video.videoHeight}, ${video.duration} s`;
    }, 50)</script>"""
    dom, complaints = browser(
        f"<!DOCTYPE html><title></title>{frame}{look}",
        *("--dump-dom", "--virtual-time-budget=20000"),
    )
    assert complaints == []
    assert f"<title>{shown}</title>" in dom


def test_a_page_that_does_scroll_sideways_would_be_found(browser):
    wide = report("match").replace("<main>", '<main><div style="width: 500px">wide</div>')
    content, window = widths(browser, wide, 400)
    assert content > window == 400
