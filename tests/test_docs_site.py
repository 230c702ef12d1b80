"""The site of the documentation builds strictly, its search finds pages, no page is too wide."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading

import pytest
from docs_helpers import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `.ci/run` and the workflow build it: every warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(folder)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The site behind a web server, because a browser lets no file search in others."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *ignored):
            pass

    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


QUESTIONS = {
    "train DQN": "algorithms/dqn",
    "hyperparameters default": "generated/settings",
    "preset file": "presets",
    "command line flags": "generated/commands",
    "make_vec_env": "howto/environments",
    "reward_clip": "generated/settings",
    "sticky actions": "protocols",
    "save load checkpoint": "files",
    "save-interval": "generated/commands",
    "resume replay": "howto/resume",
    "total-timesteps longer": "howto/resume",
    "evaluate_agent": "generated/api",
    "eval-episodes": "generated/commands",
    "which is better": "tutorials/which-is-better",
    "champion rollback": "tutorials/champion",
    "predict deterministic": "python",
    "callback": "howto/from-sb3",
    "torso module": "howto/own-parts",
    "learning rate schedule": "howto/own-parts",
    "tensorboard": "howto/trackers",
    "wandb": "howto/trackers",
    "video": "tutorials/first-agent",
    "model card": "howto/share-a-checkpoint",
    "onnx": "predicting",
    "Stable-Baselines3 agent match": "howto/your-agent",
    "Rainbow": "algorithms/rainbow",
    "sweep seeds": "howto/sweeps",
    "Optuna": "howto/sweeps",
    "seed reproducibility": "training",
    "disk memory size": "training",
    "licence": "index",
    "custom environment": "howto/environments",
    "frame skip": "protocols",
    "GPU cuda": "howto/gpu",
    "canary": "serving",
}
"""What somebody who knows Stable-Baselines3 looks for, and the page that answers."""


@pytest.mark.first
@pytest.mark.slow
def test_what_a_reader_looks_for_is_found_by_the_search(address, browser):
    page = browser.new_page()
    missed = {}
    for words, answer in QUESTIONS.items():
        page.goto(f"{address}/search.html?q={words.replace(' ', '+')}")
        page.wait_for_selector("#search-results ul.search li, #search-results p.search-summary")
        page.wait_for_function(
            "document.querySelector('.search-summary').textContent.match(/found|match/)"
        )
        links = page.eval_on_selector_all(
            "#search-results ul.search li > a", "all => all.map(one => one.getAttribute('href'))"
        )
        pages = dict.fromkeys(link.partition("#")[0].partition("?")[0] for link in links)
        first = list(pages)[:10]
        if f"{answer}.html" not in first:
            missed[words] = first
    assert not missed, "\n".join(f"{words}: {found}" for words, found in missed.items())


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_a_screen(address, browser, site, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    for path in sorted(site.rglob("*.html")):
        page.goto(f"{address}/{path.relative_to(site)}")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, path


@pytest.mark.slow
def test_the_api_shows_types_and_not_what_pydantic_makes_of_them(site):
    page = (site / "generated" / "api.html").read_text("utf-8")
    assert "Comparison" in page
    assert re.findall(r"0x[0-9a-f]{6,}|FieldInfo|Validator|Annotated|model_config", page) == []


@pytest.mark.slow
def test_the_site_has_a_table_in_place_of_a_diagram_that_github_draws(site):
    page = (site / "promoting.html").read_text("utf-8")
    assert "stateDiagram" not in page
    cells = [re.sub(r"<.+?>", "", cell) for cell in re.findall(r"<td>(.+?)</td>", page, re.DOTALL)]
    place = [cell.strip() for cell in cells].index("approved")
    assert cells[place + 1].strip() == "promoted, stale"
