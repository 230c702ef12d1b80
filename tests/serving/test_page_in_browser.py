"""The page in a real browser, with a real server.

Most games are made up, since they begin at once. With RLARCADE_PICTURES set, the screenshots of
docs/pictures are drawn anew.
"""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from urllib.parse import urlsplit

import imageio_ffmpeg
import made_up_games
import numpy as np
import pytest
import uvicorn
from ale_py import Action
from PIL import Image
from promoting import play_by_strength, quick_gate, saved_agent
from registry_helpers import EARLY, LATE, tiny
from serving_helpers import Favourite, NotANumber
from serving_house import House, until
from serving_process import TOKEN, serving
from serving_runs import Follower
from websockets.sync.client import connect

from rlarcade.errors import UnusableRegistryError
from rlarcade.learning.policy import DQNAgent
from rlarcade.promotion.pipeline import run_pipeline
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.registry import DEFAULT_REGISTRY, Registry
from rlarcade.serving import following
from rlarcade.serving import rollout_store as store
from rlarcade.serving.app import make_app
from rlarcade.serving.engine import Replica
from rlarcade.serving.http_protocol import PatientProtocol
from rlarcade.serving.referee import Dice
from rlarcade.serving.requests import Online

pytestmark = pytest.mark.slow

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
ACTIONS = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]  # of Pong
HOSTILE = "<img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


# Servers


class Valued(Favourite):
    """Values of both signs, which change from frame to frame."""

    def q_values(self, observation):
        self.calls.append(len(observation))
        phase = observation[:, -1].sum(axis=(1, 2), dtype=np.int64)[:, None]
        action = np.arange(self.num_actions)
        return np.sin(phase + 2 * action + self.action).astype(np.float32) - np.float32(0.3)


class Server(House):
    """A server in this process, whose games are made up; the tests may do things in its loop."""

    def _load(self, checkpoint):
        number = int(checkpoint.tensors["w"][0])
        return self.made.setdefault(number, Valued(number))

    @contextmanager
    def listening(self, games=2):
        online = Online(self.service, self.controller, TOKEN, str(self.registry.folder))
        config = uvicorn.Config(
            make_app(online, ("127.0.0.1",)),
            http=PatientProtocol,
            log_level="critical",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        bound = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*bound.getsockname())

        async def serve():
            self.loop = asyncio.get_running_loop()
            await server.serve([bound])

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            until(lambda: server.started and len(self.service.deployments) == games)
            yield self
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

    def do(self, work):
        """Does something in the server's loop."""

        async def done():
            return work()

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(20)

    def rollout(self, number=1):
        with urllib.request.urlopen(f"{self.url}/v1/rollouts") as answer:
            return json.load(answer)["rollouts"][number - 1]

    def roll_out(self, version, actor, **spec):
        """Starts a rollout; returns its number."""
        asked = {"version": str(version), "spec": spec, "actor": actor}
        number = post(f"{self.url}/v1/rollouts", asked)["id"]
        until(lambda: self.rollout(number)["state"] != "preparing")  # a big bang may be over
        return number


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two games, with a canary of the first: it was begun by somebody with a hostile name.

    No game ends by itself during a test.
    """
    folder = tmp_path_factory.mktemp("server")
    with (
        pytest.MonkeyPatch.context() as patch,
        made_up_games.emulator(made_up_games.MadeUpEmulator),
        Registry.open(folder / "registry") as registry,
    ):
        patch.setattr(made_up_games, "_LIVES", 500)
        for number, game in enumerate(("pong", "pong", "qbert", "qbert"), start=1):
            registry.register(tiny(folder / str(number), number, game))
        for number, game in ((1, "pong"), (3, "qbert")):
            registry.move_alias(game, "champion", number, expected_generation=0, kind="promote")
        with Server(registry).listening() as server:
            server.roll_out(2, HOSTILE, strategy="canary", steps=[50, 100])
            yield server


@contextmanager
def rolling_out(folder):
    """A server process with real agents and a canary of the early one; yields its address."""
    with Registry.open(folder / DEFAULT_REGISTRY) as registry:
        for path in (LATE, EARLY):
            registry.register(path)
        registry.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
    with serving(folder) as server:
        spec = {"strategy": "canary", "steps": [50, 100]}
        post(f"{server.url}/v1/rollouts", {"version": "2", "spec": spec, "actor": "anna"})
        server.until(lambda: server.rollout()["state"] == "progressing")
        yield server.url
        assert server.end() == 0


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    """A server process with a real agent."""
    folder = tmp_path_factory.mktemp("real")
    with Registry.open(folder / DEFAULT_REGISTRY) as registry:
        registry.register(LATE)
        registry.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
    with serving(folder) as server:
        yield server.url
        assert server.end() == 0


def post(url, document):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    asked = urllib.request.Request(url, json.dumps(document).encode(), headers)
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)


# Visitors


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get update && apt-get install -y chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


WINDOW = {"width": 1280, "height": 900}
IMPATIENT = """
    const later = window.setTimeout;
    window.setTimeout = (work, wait = 0, ...more) => later(work, wait / 10, ...more);
"""

# Every text of a game's state goes into `window.states`, however short it stands.
WRITE_DOWN_STATES = """() => {
    const state = document.querySelector(".state");
    window.states = [];
    const write = () => window.states.push(state.textContent);
    new MutationObserver(write).observe(state, { childList: true });
}"""


class Visit:
    """One visitor with the page open, which waits a tenth of the time between its looks."""

    def __init__(self, chromium, url, path="/", prepare=None, **settings):
        self.url = url
        self.context = chromium.new_context(**({"viewport": WINDOW} | settings))
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.add_init_script(IMPATIENT)
        self.page.on("console", lambda told: self.complaints.append(told.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.on("dialog", self._asked)
        if prepare is not None:
            prepare(self.page)
        self.open(path)

    def open(self, path="/"):
        """Opens the page anew; returns the seconds until the first picture."""
        self.complaints, self.asked, self.questions = [], [], []
        began = time.monotonic()
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_selector(".panel[data-step]")
        return time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    def _asked(self, dialog):
        self.questions.append(dialog.message)
        dialog.accept()

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def text(self, selector, panel=0):
        return self.page.locator(".panel").nth(panel).locator(selector).inner_text()

    def step(self, panel=0):
        return int(self.text(".steps", panel).replace(",", ""))

    def stands_still(self, panel=0):
        """Whether no step comes: one look, after a halt of the machine, would not show it."""
        before = self.step(panel)
        for _ in range(3):
            time.sleep(0.15)
            if self.step(panel) != before:
                return False
        return True

    def screen(self, panel=0):
        """The canvas's pixels, uint8 (210, 160, 3)."""
        canvas = self.page.locator("canvas").nth(panel)
        told = canvas.evaluate("one => one.toDataURL('image/png')")
        png = base64.b64decode(told.removeprefix("data:image/png;base64,"))
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def message(self):
        return self.page.locator("#message").inner_text()

    def ordered(self):
        return self.page.locator("#ordered").inner_text()

    def card(self, number):
        return self.page.locator(f"#rollout-{number}")

    def buttons(self, number):
        return self.card(number).get_by_role("button").all_inner_texts()


@pytest.fixture(scope="module")
def visitor(chromium, server):
    with Visit(chromium, server.url) as one:
        yield one


@pytest.fixture
def visit(visitor):
    """The page, opened anew in a window that the tests share."""
    visitor.page.set_viewport_size(WINDOW)
    visitor.open()
    yield visitor
    assert visitor.complaints == []
    assert {urlsplit(url).netloc for url in visitor.asked} == {urlsplit(visitor.url).netloc}
    visitor.page.evaluate("sessionStorage.clear()")


# Watching


def test_the_champion_plays_within_two_seconds_of_opening(chromium, real_server):
    with Visit(chromium, real_server) as visit:
        # other work may hold the machine up during a visit, but not during all of them
        assert any(visit.open() < 2 for _ in range(60))
        assert visit.text("h3") == "Space Invaders: version 1"
        assert len(np.unique(visit.screen().reshape(-1, 3), axis=0)) > 4
        until(lambda: visit.step() > 10)
        assert visit.text(".lives") in "123"
        assert int(visit.text(".seed")) < 2**31
        assert "champion: version 1" in visit.page.locator("#version").inner_text()
        assert visit.complaints == []
        assert {urlsplit(url).netloc for url in visit.asked} == {urlsplit(real_server).netloc}


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
    path = f"/?game=pong&seed={seed}&version=1"
    with Visit(chromium, server.url, path, reduced_motion="reduce") as one:
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

    with Visit(chromium, server.url, prepare=prepare) as one:
        seed = one.text(".seed")
        until(lambda: one.step() > 2)
        one.page.evaluate(WRITE_DOWN_STATES)  # the message stands for a tenth of a second
        sockets[0].close(code=1011)
        lost = "The connection was lost. It is made again …"
        until(lambda: one.page.evaluate("window.states") == [lost, ""])
        before = one.step()
        until(lambda: one.step() > before + 3)
        assert len(sockets) == 2
        assert one.text(".seed") == seed
        assert one.text(".state") == ""


def test_a_link_opens_the_same_game_again(visit, chromium, server):
    seed = visit.text(".seed")
    address = urlsplit(visit.page.url)
    assert address.query == f"game=pong&seed={seed}&version=1"
    path = f"/?game=pong&seed={seed}&version=2"
    with Visit(chromium, server.url, path, reduced_motion="reduce") as other:
        assert (other.text(".seed"), other.text(".version")) == (seed, "2")


def test_a_version_that_looks_ahead_plays_beside_one_that_does_not(visit, chromium, server):
    visit.click("Pause")
    visit.page.select_option("#ahead", "8")
    visit.click("Add a game beside")
    until(lambda: visit.page.locator(".panel[data-step]").count() == 2)
    assert visit.text("h3", 1) == "Pong: version 1, looking ahead"
    assert [visit.text(".sees", place) for place in (0, 1)] == [
        "screen",
        "emulator (8 simulations)",
    ]
    visit.click("Step")
    until(lambda: visit.step(1) == 1)
    link = urlsplit(visit.page.locator(".link").nth(1).get_attribute("href")).query
    assert link.endswith("&version=1&simulations=8")
    with Visit(chromium, server.url, f"/?{link}", reduced_motion="reduce") as other:
        assert other.text(".sees") == "emulator (8 simulations)"
    visit.click("Play against it")
    until(lambda: visit.page.locator(".of-person").count() == 1)
    assert visit.text(".sees", 1) == "screen"


def test_who_wants_little_motion_sees_the_first_picture_and_starts_the_game(chromium, server):
    with Visit(chromium, server.url, reduced_motion="reduce") as one:
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


def test_a_person_plays_the_agents_seed_with_the_keyboard(
    chromium, server, tmp_path, command, monkeypatch
):
    monkeypatch.setattr(made_up_games, "_LIVES", 1)  # a game of one second
    with Visit(chromium, server.url, reduced_motion="reduce") as visit:
        visit.click("Play against it")
        until(lambda: visit.page.locator(".panel[data-step]").count() == 2)
        assert visit.text("h3", 0) == "Pong: you"
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
        with visit.page.expect_download() as download:
            visit.page.locator("a.recording").click()  # once the game is over
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        code, out, err = command("watch", file, "--verify")
        assert (code, err) == (0, "")
        assert "1 of 1 games reproduced to the point" in out
        [episode] = json.loads(file.read_text())["evaluations"][0]["episodes"]
        told = f"{episode['score']:,.0f} points in {episode['steps']:,} steps"
        assert told in visit.text(".state", 0)
        until(lambda: re.search(r"you [\d,]+, version 1 [\d,]+", visit.message()))


# A spectator that takes nothing


def test_a_spectator_that_takes_no_pictures_stops_its_game(real_server):
    """The connection's buffers take some steps, but not a game: that would be minutes of delay."""
    asked = {"game": "SpaceInvaders", "version": "1", "seed": 5}
    game = post(f"{real_server}/v1/watch", asked)
    address = f"ws{real_server.removeprefix('http')}/v1/watch/{game['id']}/ws"
    with connect(address, compression=None, close_timeout=0.1) as socket:
        socket.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        socket.send(json.dumps({"token": game["token"], "speed": 0}))

        def steps():
            headers = {"X-Session-Token": game["token"]}
            shown = urllib.request.Request(f"{real_server}/v1/watch/{game['id']}", headers=headers)
            with urllib.request.urlopen(shown) as answer:
                return json.load(answer)["steps"]

        def stands_still():
            before = steps()
            time.sleep(0.5)
            return steps() == before > 0

        until(stands_still)
        assert steps() < 300  # of 917


# Versions and rollouts


def row(table, role):
    """The cells of a version's row, by their headings."""
    heads = table.locator("thead th").all_inner_texts()
    found = table.locator("tbody tr").filter(has=table.page.locator(f"th:text-is('{role}')"))
    return dict(zip(heads, found.locator("th, td").all_inner_texts(), strict=True))


def test_versions_and_rollouts_are_shown_and_a_strangers_words_are_only_text(visit):
    page = visit.page
    table = page.locator("#deployments table").filter(has_text="Pong")
    assert table.locator("tbody th").all_inner_texts() == ["champion", "control", "candidate"]
    assert row(table, "candidate")["Share"] == "50 %"
    told = visit.card(1).inner_text()
    assert "Rollout 1: canary of version 2 in Pong" in told
    assert f"begun by {HOSTILE}" in told
    assert page.locator("#rollouts img").count() == 0
    assert "E-value: it is better" in told


def test_a_rollout_with_games_shows_its_scores_and_both_e_values(visit, server):
    card = visit.card(1)
    assert card.locator("svg").count() == 0
    scores = {"candidate": [5, 0, 7, 1, 9], "control": [4, 3, 2, 8, 6]}

    def played():
        for role, found in scores.items():
            for score in found:
                server.play(role, float(score))

    server.do(played)
    until(lambda: "After each of 5 pairs" in card.inner_text())
    assert card.locator("svg.evalues polyline").count() == 2
    for role, found in scores.items():
        strokes = card.locator(f"svg.strip[aria-label^='{role}: 5 scores around'] .score")
        assert strokes.count() == len(found)
    table = card.locator("table")
    assert (row(table, "candidate")["Mean score"], row(table, "control")["Games"]) == ("4.4", "5")


def test_the_latency_of_each_version_is_shown_in_milliseconds(visit, server):
    decided = server.service.metrics.decided
    table = visit.page.locator("#deployments table").filter(has_text="Qbert")
    assert row(table, "champion")["Median, ms"] == "–"
    server.do(lambda: [decided(3, "champion", "ok", time) for time in (0.0012, 0.0012, 1.5)])
    until(lambda: row(table, "champion")["Median, ms"] == "1.2")
    assert row(table, "champion")["99th percentile, ms"] == "1,500.0"


def test_what_has_the_focus_or_is_scrolled_stays_so_when_figures_change(visit, server):
    page = visit.page
    page.set_viewport_size({"width": 360, "height": 700})
    region = page.get_by_role("region", name="Variants of rollout 1")
    cell = region.locator("tbody tr").first.locator("td").last
    region.focus()
    region.evaluate("one => { one.scrollLeft = 50; }")
    for seconds in (0.25, 0.5):
        before = cell.inner_text()
        server.do(lambda: server.service.metrics.decided(1, "champion", "ok", seconds))  # noqa: B023
        until(lambda: cell.inner_text() != before)  # noqa: B023
        assert region.evaluate("one => one === document.activeElement")
        assert region.evaluate("one => one.scrollLeft") == 50


def test_workers_are_shown_with_their_health_and_versions(visit, server, monkeypatch):
    table = visit.page.locator("#replicas table")
    name, health, versions = table.locator("tbody tr").inner_text().split("\t")
    assert (name, health) == ("the server itself", "healthy")
    assert versions.startswith("1, 2, 3")
    workers = [Replica("worker 1", True, (1, 2)), Replica("worker 2", False, ())]
    monkeypatch.setattr(server.service.engine, "replicas", lambda: workers)
    until(lambda: table.locator("tbody tr").count() == 2)
    told = [one.split("\t") for one in table.locator("tbody tr").all_inner_texts()]
    assert told == [["worker 1", "healthy", "1, 2"], ["worker 2", "down", "none"]]
    workers[:] = [Replica("onnx", True, (1,))]
    until(lambda: table.locator("tbody tr").count() == 1)
    assert table.locator("tbody th").inner_text() == "the server itself, by onnxruntime"


def test_while_the_registry_cannot_be_used_games_go_on_and_the_page_says_why(
    chromium, server, monkeypatch
):
    def unreachable(*ignored):
        raise UnusableRegistryError("the disk cannot be read")

    with monkeypatch.context() as away:
        away.setattr(store, "rollouts_of", unreachable)
        with Visit(chromium, server.url) as visit:
            until(lambda: visit.step() > 2)
            until(lambda: visit.page.inner_text("#unknown") == "the disk cannot be read")
            online = visit.page.locator("#online")
            until(lambda: "Trouble: the disk cannot be read" in online.inner_text())
            assert any("503" in line for line in visit.complaints)  # the browser's own line
            away.undo()
            until(lambda: "Rollout 1" in visit.page.inner_text("#rollouts"))
            until(lambda: visit.page.inner_text("#unknown") == "")
            visit.complaints.clear()


def test_the_page_shows_the_newest_rollouts_and_how_many_there_are_earlier(
    chromium, server, monkeypatch
):
    def rollouts(route):
        assert route.request.url.endswith("/v1/rollouts?newest=20")
        told = server.rollout()
        route.fulfill(json={"rollouts": [told], "earlier": 7})

    def prepare(page):
        page.route(re.compile(r"/v1/rollouts"), rollouts)

    with Visit(chromium, server.url, prepare=prepare) as visit:
        until(lambda: "There are 7 earlier ones" in visit.page.inner_text("#earlier"))


# Orders


def test_orders_need_the_operators_token_and_are_recorded_with_the_operators_name(visit, server):
    page = visit.page
    page.get_by_label("Operator's token").fill("wrong-token")
    visit.click("Pause, rollout 1")
    until(lambda: "token is wrong" in visit.ordered())
    assert server.rollout()["state"] == "progressing"
    assert any("403" in line for line in visit.complaints)  # the browser's own line
    visit.complaints.clear()
    page.get_by_label("Operator's token").fill(TOKEN)
    for name, note in [("", "operator: "), (HOSTILE, f"operator {HOSTILE}: ")]:
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Pause, rollout 1").dblclick()
        until(lambda: visit.ordered() == "Rollout 1 is paused.")
        until(lambda: f"{note}pause" in visit.card(1).inner_text())  # noqa: B023
        assert server.rollout()["state"] == "paused"
        visit.click("Resume, rollout 1")
        until(lambda: visit.ordered() == "Rollout 1 is progressing.")
        assert server.rollout()["note"] == f"{note}resume"
    assert page.locator("#rollouts img").count() == 0
    kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
    assert json.loads(page.evaluate(kept)) == [{}, {"name": HOSTILE}, ""]
    assert all(TOKEN not in url for url in visit.asked)
    assert visit.questions == []
    page.reload()
    assert page.get_by_label("Your name").input_value() == HOSTILE
    assert page.get_by_label("Operator's token").input_value() == ""


def test_an_experiment_is_decided_and_undone_where_that_is_possible(visit, server):
    page = visit.page
    page.get_by_label("Operator's token").fill(TOKEN)
    page.get_by_label("Your name").fill("anna")
    last = server.roll_out(4, "anna", strategy="ab")
    decide = ["Decide for the candidate", "Decide for the champion"]
    until(lambda: visit.buttons(last) == ["Pause", *decide, "Abort"])
    visit.click(f"Decide for the champion, rollout {last}")
    until(lambda: visit.ordered() == f"Rollout {last} is aborted.")
    until(lambda: visit.buttons(last) == [])
    assert server.rollout(last)["note"] == "operator anna: decided for the champion"
    after = server.roll_out(4, "anna", strategy="ab")
    until(lambda: visit.buttons(after) == ["Pause", *decide, "Abort"])
    visit.click(f"Decide for the candidate, rollout {after}")
    until(lambda: visit.buttons(after) == ["Undo"])
    table = page.locator("#deployments table").filter(has_text="Qbert")
    until(lambda: row(table, "champion")["Version"] == "4")
    visit.click(f"Undo, rollout {after}")
    until(lambda: visit.ordered() == f"Rollout {after} is rolled back.")
    until(lambda: row(table, "champion")["Version"] == "3")
    assert visit.buttons(after) == []
    assert server.rollout(after)["note"] == "undone by anna"
    assert visit.questions == [
        f"Decide rollout {last} for the champion? Version 3 plays all new games.",
        f"Decide rollout {after} for the candidate? Version 4 plays all new games.",
        f"Undo rollout {after}? Version 3 becomes the champion again.",
    ]


def test_an_experiment_shows_each_arms_outcomes_and_what_its_test_says(visit, server):
    number = server.roll_out(4, "anna", strategy="ab")
    card = visit.card(number)
    until(lambda: "Enough data\nnot yet" in card.locator("dl").inner_text())
    assert "later outcome" not in card.inner_text()
    keys = {"candidate": [], "control": []}
    while min(map(len, keys.values())) < 3:
        key = f"user {sum(map(len, keys.values()))}"
        session = post(f"{server.url}/v1/sessions", {"game": "Qbert", "key": key})
        keys[session["role"]].append(key)
    for role, values in {"candidate": [0, 1, 5.25], "control": [-1234.5]}.items():
        for key, value in zip(keys[role], values, strict=False):
            post(f"{server.url}/v1/outcomes", {"session": key, "value": value})
    told = {one["role"]: one["outcomes"] for one in server.rollout(number)["variants"]}
    assert told["candidate"]["mean"] == pytest.approx(6.25 / 3)
    arms = card.locator("table")
    until(lambda: arms.get_by_text("Users with a later outcome").count() == 1)
    until(lambda: row(arms, "control")["Users with a later outcome"] == "1")
    until(lambda: row(arms, "candidate")["Users with a later outcome"] == "3")
    candidate, control = row(arms, "candidate"), row(arms, "control")
    assert candidate["Mean outcome"] == "2.083"
    assert candidate["95 % interval"] == "−4.842 to 9.008"  # ± 4.303 standard errors
    assert (control["Mean outcome"], control["95 % interval"]) == ("−1,235", "–")
    assert candidate["Users without"] == str(told["candidate"]["missing"])

    def played():
        live = server.service.deployments["qbert"].live
        for number in range(18):
            role = ("candidate", "control")[number % 2]
            live.assign(live.plan.variant(role), f"later user {number}", None)
        for game in live.open_games():
            score = 10.0 if game.role == "candidate" else 20.0
            live.end(game.number, None, ended="terminated", score=score, steps=10)

    server.do(played)
    until(lambda: "Enough data\nyes: it is worse" in card.locator("dl").inner_text())
    assert "from 40 on it is). The test ends nothing: a person decides." in card.inner_text()
    assert row(arms, "candidate")["Games"] == str(len(keys["candidate"]) + 9)
    assert row(arms, "candidate")["Mean score"] == "10.0"
    post(f"{server.url}/v1/rollouts/{number}/abort", {})


def test_a_rollout_that_was_overtaken_offers_no_undo(visit, server):
    """Version 4 wins, then somebody makes version 3 the champion again by other means."""
    number = server.roll_out(4, "anna", strategy="big-bang")
    until(lambda: visit.buttons(number) == ["Undo"])
    generation = server.service.deployments["qbert"].generation
    server.registry.move_alias(
        "qbert", "champion", 3, expected_generation=generation, kind="force", reason="x"
    )
    server.do(server.service.changed.set)
    until(lambda: visit.buttons(number) == [])
    assert server.rollout(number)["state"] == "succeeded"


def test_a_shadow_is_shown_by_what_it_would_have_done(visit, server):
    number = server.roll_out(4, "anna", strategy="parallel", mode="shadow")
    visit.page.locator("#game").select_option("qbert")
    visit.click("Watch")
    facts = visit.card(number).locator("dl")
    until(lambda: re.search(r"Same action\s+\d+ of [1-9]", facts.inner_text()))
    assert "Regret" in facts.inner_text()
    assert "E-value" not in facts.inner_text()
    assert "Decide for the candidate" in visit.buttons(number)
    post(f"{server.url}/v1/rollouts/{number}/abort", {})


class AnyServer(Server):
    """Any checkpoint plays alike."""

    def _load(self, checkpoint):
        return self.made.setdefault(checkpoint.manifest.weights_sha256, Valued(2))


def test_a_version_that_waits_is_approved_or_denied_on_the_page(chromium, tmp_path, monkeypatch):
    paths = [saved_agent(tmp_path / name, seed) for seed, name in enumerate("abc")]
    play_by_strength(monkeypatch, {DQNAgent.load(path).version: n for n, path in enumerate(paths)})
    with Registry.open(tmp_path / "registry") as registry:
        first, *others = map(registry.register, paths)
        run_pipeline(registry, first, "promote", quick_gate())
        for version in others:
            run_pipeline(registry, version, "delivery", quick_gate(), actor=HOSTILE)
        with (
            made_up_games.emulator(made_up_games.MadeUpEmulator),
            AnyServer(registry).listening(games=1) as server,
            Visit(chromium, server.url) as visit,
        ):
            page = visit.page
            page.get_by_label("Operator's token").fill(TOKEN)
            card = page.locator("#approval-2")
            until(lambda: "It would replace version 1" in card.inner_text())
            assert f"Submitted by {HOSTILE}" in card.inner_text()
            assert page.locator("#approvals img").count() == 0
            assert row(card.locator("table"), "match")["Outcome"] == "pass"
            visit.click("Approve version 2")
            until(lambda: "needs your name and a reason" in visit.ordered())
            page.get_by_label("Your name").fill("anna")
            card.get_by_label("Reason").fill("won every pair")
            page.locator("#approval-3").get_by_label("Reason").fill("we keep the other one")
            card.get_by_label("It takes over").select_option("big-bang")
            visit.click("Approve version 2")
            until(lambda: visit.ordered() == "Version 2 is approved.")
            until(lambda: registry.alias("pong").version == 2)
            until(lambda: "The champion has changed" in page.locator("#approval-3").inner_text())
            assert page.get_by_role("button", name="Approve version 3").count() == 0
            visit.click("Deny version 3")
            until(lambda: "earlier champion" in visit.ordered())  # its verdict was about version 1
            until(lambda: page.locator("#approvals article").count() == 0)
            assert submissions_of(registry, version=2)[0].approvals[0].by == "anna"
            assert submissions_of(registry, version=2)[0].note == "won every pair"


# Everybody


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
    for wanted in (
        "game",
        "version",
        "seed",
        "Watch",
        "beside",
        "play",
        "pause",
        "step",
        "token",
        "name",
    ):
        assert wanted in seen, wanted
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, select, input, canvas')]"
        ".filter(one => !(one.textContent.trim() || one.labels?.length || one.ariaLabel)).length"
    )
    assert unnamed == 0


def test_a_narrow_window_never_scrolls_sideways(visit):
    for width in (360, 800):
        visit.page.set_viewport_size({"width": width, "height": 700})
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.skipif(not os.environ.get("RLARCADE_PICTURES"), reason="draws docs/pictures")
def test_the_pictures_of_the_documentation_are_drawn(chromium, tmp_path, run_verb):
    settings = {"viewport": {"width": 1240, "height": 800}, "color_scheme": "light"}
    with rolling_out(tmp_path) as url:
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
    with rolling_out(tmp_path) as url, Visit(chromium, url, **settings) as one:
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


# A run that trains


@contextmanager
def page_of_a_run(folder):
    """A server that follows a run whose files the test writes; yields the run and its address."""
    follower = Follower(folder, agent=Valued)
    follower.run._clock, follower.run._monotonic = time.time, time.monotonic
    config = uvicorn.Config(
        make_app(Online(follower.service, None, None, None, follower.run), ("127.0.0.1",)),
        http=PatientProtocol,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    bound = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        until(lambda: server.started)
        yield follower, "http://{}:{}".format(*bound.getsockname())
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "PERIOD", 0.1)
    monkeypatch.setattr(following, "_FIGURES_SECONDS", 0.1)
    with (
        made_up_games.emulator(made_up_games.MadeUpEmulator),
        page_of_a_run(tmp_path / "run") as (follower, url),
    ):
        yield follower, url


class Early(Visit):
    """A visitor of a page that may have no game yet."""

    def open(self, path="/"):
        self.complaints, self.asked, self.questions = [], [], []
        self.page.goto(f"{self.url}{path}")

    def told(self):
        return self.page.locator("#run").inner_text()


def test_a_run_is_shown_from_before_its_beginning_and_each_new_checkpoint_takes_over(
    run_page, chromium
):
    follower, url = run_page
    with Early(chromium, url) as visit:
        until(lambda: "The run has no checkpoint yet" in visit.message())
        assert visit.page.locator("#run .badge").inner_text() == "waiting"
        follower.score(1_000, 10.0)
        follower.save(1_000, 1)
        visit.page.wait_for_selector(".panel[data-step]")
        assert visit.text("h3") == "Pong: step 1,000"
        until(lambda: "The checkpoint of step 1,000 plays" in visit.told())
        assert visit.page.locator("#run .badge").inner_text() == "training"
        assert "newest: step 1,000" in visit.page.locator("#version").inner_text()
        for name in ("#operations", "#versions", "#versus"):
            assert not visit.page.locator(name).is_visible(), "there is nothing to roll out"

        follower.score(2_000, 35.0)
        follower.figures({"step": 2_000, "eval/mean_reward": 40.0})
        follower.save(2_000, 2)
        until(lambda: "The checkpoint of step 2,000 plays" in visit.told())
        assert visit.text("h3") == "Pong: step 1,000", "the game stays with the one that began it"
        visit.page.locator("#speed").select_option("0")
        visit.page.locator("#speed").dispatch_event("change")
        until(lambda: visit.page.locator(".panel h3").all_inner_texts() == ["Pong: step 2,000"])
        until(lambda: visit.step() > 0)
        assert visit.complaints == []
        assert {urlsplit(one).netloc for one in visit.asked} == {urlsplit(url).netloc}


def test_the_learning_curve_has_its_scores_and_its_steps(run_page, chromium):
    follower, url = run_page
    follower.save(4_000, 1)
    for step, score in ((0, 0.0), (1_000, 100.0), (2_000, 50.0), (4_000, 200.0)):
        follower.score(step, score)
    follower.figures({"step": 3_000, "eval/mean_reward": 100.0})
    with Visit(chromium, url) as visit:
        line = visit.page.locator("#run polyline.score")
        line.wait_for(state="attached")
        points = [tuple(map(float, one.split(","))) for one in line.get_attribute("points").split()]
        xs, ys = np.array(points).T
        assert np.allclose((xs - xs[0]) / (xs[-1] - xs[0]), [0, 0.25, 0.5, 1], atol=0.01)
        assert np.allclose((ys[0] - ys) / (ys[0] - ys[-1]), [0, 0.5, 0.25, 1], atol=0.01)
        dot = visit.page.locator("#run .evaluation").get_attribute("d")
        at = np.array(re.findall(r"[\d.]+", dot)[:2], dtype=float)
        assert np.allclose(at, [(xs[2] + xs[3]) / 2, ys[1]], atol=0.2), "(3,000, 100)"
        mark = float(visit.page.locator("#run .plays").get_attribute("x1"))
        assert mark == pytest.approx(xs[-1], abs=0.2)
        labels = visit.page.locator("#run .axis").all_inner_texts()
        assert labels[1].split() == ["0", "2,000", "4,000"]
        assert labels[0].split() == ["210", "100", "−10"]
        assert "from 0.0 to" in visit.page.locator("#run svg").get_attribute("aria-label")
        assert "200.0" in visit.page.locator("#run .facts").inner_text()
        for width in (390, 1280):
            visit.page.set_viewport_size({"width": width, "height": 900})
            inner = visit.page.evaluate("document.documentElement.scrollWidth")
            assert inner <= width, "nothing is wider than the window"
        box = visit.page.locator("#run svg").bounding_box()
        left = visit.page.locator("#run").bounding_box()["x"]
        assert box["x"] - left < 100, "the labels take only their own width"


def test_a_run_that_stopped_and_a_checkpoint_that_cannot_be_served_are_told(run_page, chromium):
    follower, url = run_page
    follower.save(1_000, 1)
    follower.score(1_000, 10.0)
    for path in [follower.folder, *follower.folder.rglob("*")]:
        os.utime(path, (time.time() - 300,) * 2)
    with Visit(chromium, url) as visit:
        until(lambda: visit.page.locator("#run .badge").inner_text() == "stopped")
        text = visit.page.locator("#run").inner_text()
        assert "No process works on the run. It last wrote something 5 minutes ago." in text
        follower.made[2] = NotANumber(after=0)
        follower.save(2_000, 2)
        until(lambda: "The newest checkpoint is not served" in visit.page.inner_text("#run"))
        assert "The checkpoint of step 1,000 plays" in visit.page.inner_text("#run")


def test_a_game_ends_and_no_other_begins_if_the_visitor_wants_so(run_page, chromium):
    follower, url = run_page
    follower.save(1_000, 1)
    with Visit(chromium, url) as visit:
        visit.page.locator("#follow").uncheck()
        visit.page.locator("#speed").select_option("0")
        visit.page.locator("#speed").dispatch_event("change")
        until(lambda: "Game over" in visit.text(".state"))
        seed = visit.text(".seed")
        time.sleep(1)
        assert visit.text(".seed") == seed
