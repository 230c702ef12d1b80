"""The documentation: the site builds strictly, its search finds pages, its commands run."""

import contextlib
import functools
import http.server
import importlib
import io
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlarcade.__main__ import VERBS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path.read_text("utf-8")
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if "generated" not in path.parts
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def blocks(text):
    """The commands of a page's bash blocks, each as a line without a comment."""
    for block in re.findall(r"```bash\n(.+?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip():
                yield line


def commands(text):
    """The words of each command of rlarcade's in a page's bash blocks, from its verb on."""
    for line in blocks(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        words = list(lexer)
        ends = [place for place, word in enumerate(words) if set(word) <= set(";&|")]
        for begin, end in itertools.pairwise([-1, *ends, len(words)]):
            part = [word for word in words[begin + 1 : end] if word not in ("if", "then")]
            if part[:2] == ["python", "-m"] and part[2].startswith("rlarcade."):
                yield [part[2].removeprefix("rlarcade."), *part[3:]]
            elif part[:1] == ["rlarcade"] and not part[1].startswith("-"):
                yield part[1:]


@functools.cache
def help_of(*words):
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        importlib.import_module(f"rlarcade.{words[0]}").main([*words[1:], "--help"])
    return told.getvalue()


def subcommands(*words):
    usage = "".join(help_of(*words).partition("\n\n")[0].split())
    return re.findall(r"[a-z]+", (re.findall(r"\[-h\]\{([a-z,]+)\}", usage) or [""])[0])


WITH_COMMANDS = [name for name, text in PAGES.items() if any(commands(text))]


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_commands_of_a_page_and_their_flags_exist(name):
    for verb, *words in commands(PAGES[name]):
        assert verb in VERBS
        subcommand = []
        while words and words[0] in subcommands(verb, *subcommand):
            subcommand.append(words.pop(0))
        for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
            known = help_of(verb, *subcommand)
            assert re.search(rf"{re.escape(flag)}(?![\w-])", known), (verb, subcommand, flag)


# The site


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
    "Optuna": "libraries",
    "seed reproducibility": "training",
    "disk memory size": "training",
    "licence": "index",
    "custom environment": "howto/environments",
    "frame skip": "protocols",
    "GPU cuda": "howto/gpu",
    "canary": "serving",
}
"""What somebody who knows Stable-Baselines3 looks for, and the page that answers."""


@pytest.mark.slow
@pytest.mark.timeout(300)
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


# The tutorials, as a reader follows them, with shorter games

SERVER = "http://127.0.0.1:PORT"
SERVE = (
    "python -m rlarcade.serve --port PORT > server.log & pid=$!; trap 'kill $pid; wait' EXIT; "
    "until grep -q http server.log; do sleep 0.1; done"
)
SHORTER = {
    r"^python3 -m venv.*": ":",
    r"^pip install.*": ":",
    r"--episodes 100": "--episodes 1",
    r"--games 100": "--games 1",
    r"(rlarcade\.train .*)": r"\1 --total-timesteps 64 --num-envs 2 --eval-episodes 1",
    r"^if .*; then (.*); fi$": r"\1",
    r"^python -m rlarcade\.serve &$": SERVE,
    r"http://127\.0\.0\.1:8000": SERVER,
    r"rlarcade\.rollout (.*)": rf"rlarcade.rollout \1 --server {SERVER}",
}
TUTORIALS = {
    "first-agent": ["first-agent"],
    "which-is-better": ["which-is-better"],
    "serve": ["champion", "serve"],
}
"""Each with those that come before it."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TUTORIALS)
def test_the_commands_of_a_tutorial_run_one_after_the_other(name, tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for old, age in (("old", "early"), ("new", "late")):
        (tmp_path / old).symlink_to(ROOT / "tests" / "data" / f"space-invaders-{age}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    lines = [line for one in TUTORIALS[name] for line in blocks(PAGES[f"docs/tutorials/{one}"])]
    for pattern, shorter in SHORTER.items():
        lines = [re.sub(pattern, shorter, line).replace("PORT", port) for line in lines]
    # 5: a version waits for its approval
    script = "\n".join(f"{line}\ncode=$?; [ $code = 0 -o $code = 5 ] || exit 99" for line in lines)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
