"""The page in a real browser, with a real server, real agents and real games.

With RLARCADE_PICTURES set, the screenshots of docs/pictures are drawn anew.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from urllib.parse import urlsplit

import imageio_ffmpeg
import numpy as np
import pytest
from ale_py import Action
from PIL import Image
from websockets.sync.client import connect

from rlarcade.registry.registry import DEFAULT_REGISTRY, Registry
from rlarcade.serving.referee import Dice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
PICTURES = ROOT / "docs" / "pictures"
TOKEN = "operators-token"
ACTIONS = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]  # of Space Invaders
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def process(folder):
    """A server process on a free port, whose champion is the late agent; yields its address."""
    log = folder / "server.log"
    words = [sys.executable, "-m", "rlarcade.serve", "--port", "0"]
    with log.open("w") as file:
        server = subprocess.Popen(
            words,
            cwd=folder,
            env=os.environ | {"RLARCADE_TOKEN": TOKEN},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 60
        while "listening on " not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield re.search(r"listening on (\S+)", log.read_text())[1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0, log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


@contextmanager
def rolling_out(folder, actor):
    """A server with a canary of the early agent in progress; yields its address."""
    with Registry.open(folder / DEFAULT_REGISTRY) as registry:
        for name in ("late", "early"):
            registry.register(DATA / f"space-invaders-{name}")
        registry.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
    with process(folder) as url:
        spec = {"strategy": "canary", "steps": [50, 100]}
        post(f"{url}/v1/rollouts", {"version": "2", "spec": spec, "actor": actor})
        until(lambda: rollout(url)["state"] == "progressing")
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The rollout was opened by somebody with a hostile name."""
    with rolling_out(tmp_path_factory.mktemp("server"), "<img src=x onerror=alert(1)>") as url:
        yield url


def post(url, document):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    asked = urllib.request.Request(url, json.dumps(document).encode(), headers)
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)


def rollout(url):
    with urllib.request.urlopen(f"{url}/v1/rollouts") as answer:
        return json.load(answer)["rollouts"][-1]


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get update && apt-get install -y chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """One visitor with the page open."""

    def __init__(self, chromium, url, path="/", prepare=None, **settings):
        self.context = chromium.new_context(
            **({"viewport": {"width": 1280, "height": 900}} | settings)
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints, self.asked = [], []
        self.page.on("console", lambda told: self.complaints.append(told.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        if prepare is not None:
            prepare(self.page)
        began = time.monotonic()
        self.page.goto(f"{url}{path}")
        self.page.wait_for_selector(".panel[data-step]")
        self.first_picture = time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def text(self, selector, panel=0):
        return self.page.locator(".panel").nth(panel).locator(selector).inner_text()

    def step(self, panel=0):
        return int(self.text(".steps", panel).replace(",", ""))

    def stands_still(self, panel=0):
        before = self.step(panel)
        time.sleep(0.5)
        return self.step(panel) == before

    def screen(self, panel=0):
        """The canvas's pixels, uint8 (210, 160, 3)."""
        pixels = (
            self.page.locator("canvas")
            .nth(panel)
            .evaluate("one => Array.from(one.getContext('2d').getImageData(0, 0, 160, 210).data)")
        )
        return np.array(pixels, dtype=np.uint8).reshape(210, 160, 4)[..., :3]

    def message(self):
        return self.page.locator("#message").inner_text()


@pytest.fixture
def visit(chromium, server):
    with Visit(chromium, server) as one:
        yield one
        assert one.complaints == []
        assert {urlsplit(url).netloc for url in one.asked} == {urlsplit(server).netloc}


def test_the_champion_plays_within_two_seconds_of_opening(visit):
    assert visit.first_picture < 2
    assert visit.text("h3") == "Space Invaders: version 1"
    assert len(np.unique(visit.screen().reshape(-1, 3), axis=0)) > 4
    until(lambda: visit.step() > 10)
    assert visit.text(".lives") in "123"
    assert int(visit.text(".seed")) < 2**31
    assert "champion: version 1" in visit.page.locator("#version").inner_text()


def test_the_screen_is_drawn_with_whole_pixels(visit):
    canvas = visit.page.locator("canvas")
    box = canvas.bounding_box()
    assert (box["width"] % 160, box["height"] % 210) == (0, 0)
    assert box["width"] / 160 == box["height"] / 210
    style = "one => getComputedStyle(one).imageRendering"
    assert canvas.evaluate(style) == "pixelated"


def test_keys_pause_step_and_change_the_speed(visit):
    press = visit.page.keyboard.press
    until(lambda: visit.step() > 3)
    press("Space")
    until(visit.stands_still)
    before = visit.step()
    press("ArrowRight")
    until(lambda: visit.step() == before + 1)
    assert visit.stands_still()
    press("+")
    assert visit.page.locator("#speed").input_value() == "30"
    press("Space")
    until(lambda: visit.step() > before + 5)


def test_keys_that_are_typed_into_a_field_steer_nothing(visit):
    visit.page.locator("#seed").press_sequentially("1 2")
    assert visit.page.locator("#pause").inner_text() == "Pause"


def test_bars_are_as_long_as_the_values_and_the_chosen_action_is_marked(visit):
    until(lambda: visit.step() > 3)
    visit.click("Pause")
    until(visit.stands_still)
    rows = visit.page.locator(".values tbody tr")
    found = [
        (
            row.locator("th").inner_text(),
            float(row.locator(".value").inner_text().replace("−", "-")),
            row.locator(".bar").bounding_box()["width"],
            row.locator(".mark").inner_text(),
        )
        for row in rows.all()
    ]
    names, values, widths, marks = zip(*found, strict=True)
    assert list(names) == ACTIONS
    # all bars begin at one zero, so lengths and values have one ratio (the texts are rounded)
    per_point = widths[int(np.argmax(np.abs(values)))] / max(np.abs(values))
    assert np.allclose(widths, np.abs(values) * per_point, atol=0.01 * per_point + 1)
    [mark] = [mark for mark in marks if mark]
    assert mark in ("◀ chosen", "◀ random")
    if mark == "◀ chosen":
        assert values[marks.index(mark)] == max(values)
    assert "All bars begin at 0" in visit.text("caption")
    assert re.search(r"from −?[\d.]+ to −?[\d.]+", visit.text("figcaption"))


def test_a_random_action_is_marked_as_random(chromium, server):
    """The seed tells at which step the protocol's ε strikes, and with which action."""
    seed, step, action = next(
        (seed, step, action)
        for seed in range(1_000)
        for dice in [Dice(seed, 6, 0.01)]
        for step in range(1, 5)
        for action in [dice.roll()]
        if action is not None
    )
    path = f"/?game=space_invaders&seed={seed}&version=1"
    with Visit(chromium, server, path, reduced_motion="reduce") as one:
        for number in range(1, step + 1):
            assert one.page.locator("tr.random").count() == 0
            one.click("Step")
            until(lambda number=number: one.step() == number)
        row = one.page.locator("tr.random")
        assert row.locator("th").inner_text() == ACTIONS[action]
        assert row.locator(".mark").inner_text() == "◀ random"


def test_a_connection_that_breaks_is_made_again_and_the_game_goes_on(chromium, server):
    sockets = []

    def passed_on(socket):
        socket.connect_to_server()
        sockets.append(socket)

    def prepare(page):
        page.route_web_socket(re.compile(r"/ws$"), passed_on)

    with Visit(chromium, server, prepare=prepare) as one:
        seed = one.text(".seed")
        until(lambda: one.step() > 2)
        before = one.step()
        sockets[0].close(code=1011)
        one.page.get_by_text("The connection was lost. It is made again").wait_for()
        until(lambda: one.step() > before + 3)
        assert len(sockets) == 2
        assert one.text(".seed") == seed
        assert one.text(".state") == ""


def test_a_link_opens_the_same_game_again(visit, chromium, server):
    seed = visit.text(".seed")
    address = urlsplit(visit.page.url)
    assert address.query == f"game=space_invaders&seed={seed}&version=1"
    path = f"/?game=space_invaders&seed={seed}&version=2"
    with Visit(chromium, server, path, reduced_motion="reduce") as other:
        assert (other.text(".seed"), other.text(".version")) == (seed, "2")


def test_who_wants_little_motion_sees_the_first_picture_and_starts_the_game(chromium, server):
    with Visit(chromium, server, reduced_motion="reduce") as one:
        assert one.step() == 0
        assert one.stands_still()
        assert "little motion" in one.message()
        one.click("Play")
        until(lambda: one.step() > 2)


def test_champion_and_candidate_play_the_same_seed_side_by_side(visit):
    visit.click("Pause")
    visit.click("Champion and candidate, same seed")
    until(lambda: visit.page.locator(".panel[data-step]").count() == 2)
    assert visit.text(".seed", 0) == visit.text(".seed", 1)
    assert [visit.text(".version", panel) for panel in (0, 1)] == ["1", "2"]
    assert np.array_equal(visit.screen(0), visit.screen(1))
    visit.click("Play")
    until(lambda: visit.step(0) > 3 and visit.step(1) > 3)


def test_several_games_stand_side_by_side_and_each_can_be_removed(visit):
    visit.click("Add a game beside")
    visit.page.wait_for_selector(".panel:nth-child(2)[data-step]")
    boxes = [visit.page.locator(".panel").nth(panel).bounding_box() for panel in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]
    visit.page.get_by_role("button", name="Remove").first.click()
    until(lambda: visit.page.locator(".panel").count() == 1)


def test_a_double_click_begins_one_game(visit):
    def begun():
        return sum(urlsplit(url).path == "/v1/watch" for url in visit.asked)

    seed = visit.text(".seed")
    visit.page.get_by_role("button", name="Watch", exact=True).dblclick()
    until(lambda: visit.page.locator(".panel .seed").inner_text() != seed)
    time.sleep(0.5)
    assert begun() == 2
    assert visit.page.locator(".panel").count() == 1


def test_a_game_that_cannot_be_had_is_told_in_words(visit):
    visit.page.locator("#seed").fill("99999999999")
    visit.click("Watch")
    visit.page.locator("#seed").fill("4294967296")
    visit.click("Watch")
    until(lambda: "seed" in visit.message())
    assert visit.complaints  # the browser tells of the answer 400
    visit.complaints.clear()


def test_keys_are_the_joystick(visit):
    """All 18 positions of a joystick are told apart; a game without one gets the nearest."""
    every = [action.name for action in Action]
    script = """
        async ([pressed, names]) => {
            const { actionOf } = await import("/play.js");
            return names[actionOf(new Set(pressed), names)];
        }
    """

    def played(pressed, names):
        return visit.page.evaluate(script, [pressed, names])

    for name in every:
        pressed = [one for one in ("UP", "DOWN", "LEFT", "RIGHT", "FIRE") if one in name]
        assert played(pressed, every) == name
    assert played(["LEFT", "RIGHT", "UP", "DOWN"], every) == "NOOP"
    assert played(["UP", "RIGHT", "FIRE"], ACTIONS) == "RIGHTFIRE"
    assert played(["UP", "FIRE"], ACTIONS) == "FIRE"
    assert played(["UP"], ACTIONS) == "NOOP"
    assert played(["RIGHT", "FIRE"], ["NOOP", "FIRE", "RIGHT"]) == "FIRE"


def test_a_person_plays_the_agents_seed_with_the_keyboard(visit, tmp_path, run_verb):
    visit.click("Play against it")
    until(lambda: visit.page.locator(".panel[data-step]").count() == 2)
    assert visit.text("h3", 0) == "Space Invaders: you"
    assert visit.text(".seed", 0) == visit.text(".seed", 1)
    assert np.array_equal(visit.screen(0), visit.screen(1))
    assert "with probability 0.25" in visit.text(".sticky", 0)
    assert visit.step(0) == 0
    keyboard = visit.page.keyboard
    keyboard.press("Enter")
    keyboard.down("ArrowRight")
    keyboard.down("Space")
    until(lambda: visit.step(0) > 5 and visit.step(1) > 5)
    down = visit.page.locator("kbd.down").all_inner_texts()
    assert down == ["→", "Space"]
    keyboard.up("ArrowRight")
    link = visit.page.locator("a.recording")
    link.wait_for(timeout=300_000)  # until the game is over
    with visit.page.expect_download() as download:
        link.click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    done = run_verb("watch", file, "--verify")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 games reproduced to the point" in done.stdout
    [episode] = json.loads(file.read_text())["evaluations"][0]["episodes"]
    assert f"{episode['score']:,.0f} points in {episode['steps']:,} steps" in visit.text(
        ".state", 0
    )
    until(lambda: re.search(r"you [\d,]+, version 1 [\d,]+", visit.message()), 300)


def test_versions_and_rollouts_are_shown_and_a_strangers_words_are_only_text(visit):
    page = visit.page
    table = page.locator("#deployments table")
    assert table.locator("tbody th").all_inner_texts() == ["champion", "control", "candidate"]
    card = page.locator("#rollouts article").first
    told = card.inner_text()
    assert "Rollout 1: canary of version 2 in Space Invaders" in told
    assert "begun by <img src=x onerror=alert(1)>" in told
    assert page.locator("#rollouts img").count() == 0
    assert "E-value: it is better" in told


def test_a_rollout_with_games_shows_its_scores_and_both_e_values(visit, server, run_verb):
    done = run_verb("play", "--server", server, "--games", "10")
    assert done.returncode == 0, done.stderr
    # the referee is done when every game has its score
    until(lambda: sum(len(one["scores"]) for one in rollout(server)["variants"]) == 10, 60)
    told = rollout(server)
    pairs = told["wins"] + told["ties"] + told["losses"]
    assert pairs > 0
    card = visit.page.locator("#rollouts article").first
    until(lambda: f"After each of {pairs} pairs" in card.inner_text())
    assert card.locator("svg.evalues polyline").count() == 2
    for one in told["variants"]:
        strokes = card.locator(f"svg.strip[aria-label^='{one['role']}'] .score")
        until(lambda strokes=strokes, one=one: strokes.count() == len(one["scores"]))


def test_a_spectator_that_takes_no_pictures_stops_its_game(server):
    """The connection's buffers take some steps, but not a game: that would be minutes of delay."""
    asked = {"game": "SpaceInvaders", "version": "1", "seed": 5}
    game = post(f"{server}/v1/watch", asked)
    address = f"ws{server.removeprefix('http')}/v1/watch/{game['id']}/ws"
    with connect(address, compression=None, close_timeout=0.1) as socket:
        socket.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        socket.send(json.dumps({"token": game["token"], "speed": 0}))

        def steps():
            headers = {"X-Session-Token": game["token"]}
            shown = urllib.request.Request(f"{server}/v1/watch/{game['id']}", headers=headers)
            with urllib.request.urlopen(shown) as answer:
                return json.load(answer)["steps"]

        def stands_still():
            before = steps()
            time.sleep(0.5)
            return steps() == before > 0

        until(stands_still)
        assert steps() < 300  # of 917


def test_orders_need_the_operators_token(visit, server):
    page = visit.page
    page.get_by_label("Operator's token").fill("wrong-token")
    visit.click("Pause rollout 1")
    until(lambda: "token is wrong" in page.locator("#ordered").inner_text())
    assert rollout(server)["state"] == "progressing"
    assert any("403" in line for line in visit.complaints)  # the browser's own line
    visit.complaints.clear()
    page.get_by_label("Operator's token").fill(TOKEN)
    visit.click("Pause rollout 1")
    until(lambda: page.locator("#ordered").inner_text() == "Rollout 1 is paused.")
    visit.click("Resume rollout 1")
    until(lambda: rollout(server)["state"] == "progressing")
    assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == (
        '[{},{},""]'
    )
    assert all(TOKEN not in url for url in visit.asked)


def test_everything_can_be_reached_by_the_keyboard_and_has_a_name(visit):
    page = visit.page
    visit.click("Pause")
    page.locator("h1").click()
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if not focused.count():
            break
        seen.append(focused.evaluate("one => one.id || one.textContent.trim()"))
        outline = focused.evaluate("one => getComputedStyle(one).outlineStyle")
        assert outline != "none", seen
    for wanted in ("game", "version", "seed", "Watch", "beside", "play", "pause", "step", "token"):
        assert wanted in seen, wanted
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, select, input, canvas')]"
        ".filter(one => !(one.textContent.trim() || one.labels?.length || one.ariaLabel)).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("width", [360, 800])
def test_a_narrow_window_never_scrolls_sideways(chromium, server, width):
    with Visit(chromium, server, viewport={"width": width, "height": 700}) as one:
        wide = one.page.evaluate("document.documentElement.scrollWidth")
        assert wide == width


@pytest.mark.skipif(not os.environ.get("RLARCADE_PICTURES"), reason="draws docs/pictures")
def test_the_pictures_of_the_documentation_are_drawn(chromium, tmp_path, run_verb):
    settings = {"viewport": {"width": 1240, "height": 800}, "color_scheme": "light"}
    with rolling_out(tmp_path, "anna") as url:
        run_verb("play", "--server", url, "--games", "18")
        with Visit(chromium, url, "/?game=space_invaders&seed=7&version=1", **settings) as one:
            until(lambda: one.step() > 250)
            one.page.keyboard.press("Space")
            until(one.stands_still)
            one.page.screenshot(path=PICTURES / "page.png", full_page=True)
            one.page.locator("#rollouts article").screenshot(path=PICTURES / "rollout.png")
            one.click("Play against it")
            until(lambda: one.page.locator(".panel[data-step]").count() == 2)
            one.page.keyboard.press("Enter")
            one.page.keyboard.down("ArrowRight")
            one.page.keyboard.down("Space")
            until(lambda: one.step() > 160)
            one.page.locator("#games").screenshot(path=PICTURES / "play.png")


@pytest.mark.skipif(not os.environ.get("RLARCADE_PICTURES"), reason="draws docs/pictures")
def test_the_clip_of_the_documentation_is_drawn(chromium, tmp_path):
    """Twenty seconds: the champion, then champion and candidate with the same seed."""
    settings = {"viewport": {"width": 1008, "height": 944}, "color_scheme": "light"}
    with rolling_out(tmp_path, "anna") as url, Visit(chromium, url, **settings) as one:
        pictures, began = [], time.monotonic()
        while (passed := time.monotonic() - began) < 20:
            pictures.append(one.page.screenshot())
            if passed > 8 and one.page.locator(".panel").count() == 1:
                one.click("Champion and candidate, same seed")
        fps = len(pictures) / passed
    clip = imageio_ffmpeg.write_frames(
        str(PICTURES / "page.mp4"), (1008, 944), fps=fps, codec="libx264", macro_block_size=8
    )
    clip.send(None)
    for picture in pictures:
        clip.send(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).tobytes())
    clip.close()
