"""The commands of the how-to pages and of all others run, with shorter runs and games.

A page that is added is run, too, unless `ELSEWHERE` names the test that does it.
"""

import re
import shutil

import pytest
from docs_helpers import PAGES, ROOT, blocks, run_lines
from postgres_server import new_database, own_server
from promoting import saved_agent
from tiers import RECORDED

from rlarcade.registry.registry import Registry

__all__ = ["own_server"]

DATA = ROOT / "tests" / "data"
ELSEWHERE = {
    "README": "promotion/test_documented.py; the rest is shown in the tutorials, too",
    "docs/predicting": "commands/test_predict_command.py",
    "docs/tutorials/first-agent": "test_docs_tutorials.py",
    "docs/tutorials/which-is-better": "test_docs_tutorials.py",
    "docs/tutorials/champion": "test_docs_tutorials.py",
    "docs/tutorials/serve": "test_docs_tutorials.py",
}
NOT_RUN = {
    r"^python3 -m venv .*": "the tests have an environment",
    r"^pip install .*": "the environment has what would be installed",
    r"^hf upload .*": "needs an account at the Hugging Face Hub",
    r"^wandb sync .*": "needs a server of Weights & Biases",
    r"^tensorboard .*": "serves a browser until somebody ends it",
    r"^createdb .*": "the server of the tests has a database",
    r"^python scripts/bench_cluster.*": "takes a quarter of an hour, and many clusters",
    r"^export RAY_AUTH_MODE=.*|^ray .*": "a test has one cluster on this machine",
}
"""Commands that cannot run here, and why."""
SHORTER = {
    **dict.fromkeys(NOT_RUN, ":"),
    # A shell's background programs do not hear Ctrl-C; SIGTERM is the same to a command.
    r"^(.*rlarcade\.train .*?) +# Ctrl-C at any moment$": (
        r"\1 > train.log & until grep -q 'run folder' train.log; do kill -0 $! || exit; sleep 0.1; "
        "done; kill $!; wait $!; [ $? = 130 ]"
    ),
    r" +# .*": "",
    r"(scripts/simulate_cluster.*)": r"\1 --workers 1,8",
    r"--total-timesteps (\d+)000\b": r"--total-timesteps \g<1>0",
    r"(rlarcade\.train (?!.*--total-timesteps).*)": r"\1 --total-timesteps 64",
    r"(rlarcade\.train )": (
        r"\1--num-envs 4 --conv-channels 4 4 4 --hidden-units 16 --eval-episodes 1 "
    ),
    r"--conv-channels 4 4 4 (.*--custom-torso )": r"\1",  # they would have no effect
    r"(--preset (?:btr|fast|impala-\w+).*)": r"\1 --impala-width 1 --batch-size 8",
    r"\bsearch(,simulations=\d+)?:": "search,simulations=1,depth=2:",
    # each worker imports torch, which takes seconds of a core
    r"(rlarcade\.(?:evaluate|compare|promote) .*--engine ray .*)": r"\1 --workers 2",
    r"--replicas 6 --address": "--replicas 2 --address",
    r"(rlarcade\.promote pipeline run .*--engine ray .*)": r"\1 --gate gate.toml",
    r"--(episodes|games) \d+": r"--\1 1",
    r"(rlarcade\.evaluate (?!.*--episodes).*)": r"\1 --episodes 1",
    r"(rlarcade\.compare .*)": r"\1 --max-pairs 1; [ $? = 4 ]",  # one pair decides nothing
}
HAPPENED = {
    "python -m rlarcade.promote rollback": (
        "python -m rlarcade.promote register tests/data/space-invaders-early; "
        "python -m rlarcade.promote promote 2 --force --reason 'somebody promotes another version'"
    ),
    "python -m rlarcade.rollout start 2 5 --strategy phased --phases pong,breakout": (
        "python -m rlarcade.rollout abort 1"
    ),
    "python -m rlarcade.rollout decide 1 --winner candidate": (
        'KEY=ada; python -m rlarcade.play --server $SERVER --game Pong --key "$KEY"'
    ),
}
"""What happens before a command and is no command of the page."""
TINY = (
    "eval_episodes = 1\nlearning_starts = 2900\nconv_channels = [4, 4, 4]\nhidden_units = 16\n"
    "total_timesteps = 3000"
)
SHORTER_SWEEPS = {
    "precision": {
        "eval_episodes = 100": TINY,
        '["SpaceInvaders", "Breakout"]': '["SpaceInvaders"]',
        "[0, 1, 2]": "[0]",
    },
    "wider": {
        'preset = "quick"': 'preset = "quick"\n'
        + TINY.replace("2900", "500").replace("3000", "600"),
        "seeds = 5 ": "seeds = 3 ",
        "max_rounds = 5": "max_rounds = 1",
        "alpha = 0.05": "alpha = 0.1",
    },
    "rates": {"total_timesteps = 200_000": TINY, "trials = 30": "trials = 2"},
}
"""What takes the place of parts of the files that the page about sweeps shows."""
BY_HEADING = {"docs/serving"}
"""Pages whose headings are alternatives: each begins anew, with a registry and a server."""
HOWTO = ("ray", "many-machines", "sweeps", "share-a-checkpoint", "look-ahead")
COSTLY = ("docs/algorithms/", "docs/results/", *(f"docs/howto/{name}" for name in HOWTO))
"""How the names of pages begin that are recorded: many that are alike, or that take a minute."""


def parts():
    """The lines of each page, or of what stands under each heading."""
    for name in sorted(set(PAGES) - set(ELSEWHERE)):
        texts = {name: PAGES[name]}
        if name in BY_HEADING:
            sections = re.split(r"^#+ (.+)\n", PAGES[name], flags=re.MULTILINE)[1:]
            texts = {
                f"{name}: {heading}": text
                for heading, text in zip(sections[::2], sections[1::2], strict=True)
            }
        for part, text in texts.items():
            if lines := list(blocks(text)):
                marks = RECORDED if name.startswith(COSTLY) else pytest.mark.slow
                yield pytest.param(name, lines, id=part.replace(" ", "-"), marks=marks)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Agents of three games: versions 1, 3 and 4 are the champions, 2 and 5 the candidates."""
    folder = tmp_path_factory.mktemp("registry")
    agents = [
        saved_agent(folder / "1", 0, "pong"),
        saved_agent(folder / "2", 1, "pong"),
        DATA / "space-invaders-early",
        saved_agent(folder / "4", 0, "breakout", num_actions=4),
        saved_agent(folder / "5", 1, "breakout", num_actions=4),
    ]
    with Registry.open(folder / "registry") as opened:
        for agent in agents:
            opened.register(agent)
        for game, number in (("pong", 1), ("space_invaders", 3), ("breakout", 4)):
            opened.move_alias(game, "champion", number, expected_generation=0, kind="promote")
    return folder / "registry"


@pytest.fixture(scope="module")
def model_of_sb3(tmp_path_factory):
    """A model that Stable-Baselines3 has trained for a moment."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    path = tmp_path_factory.mktemp("sb3") / "model.zip"
    envs = VecFrameStack(make_atari_env("ALE/SpaceInvaders-v5", seed=0), 4)
    model = DQN("CnnPolicy", envs, buffer_size=100, learning_starts=16, device="cpu")
    model.learn(32)
    model.save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A clone's files that pages name."""
    for name in ("tests", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def code_of(name, language, beginning):
    """The page's block of code that begins with a text."""
    (code,) = re.findall(rf"```{language}\n({beginning}.+?)```", PAGES[name], flags=re.DOTALL)
    return code


def write_files_of(lines, folder):
    """Writes the files that lines of a page name and that the page shows or links."""
    if any("my_module" in line for line in lines):
        code = code_of("docs/howto/own-parts", "python", "import torch")
        (folder / "my_module.py").write_text(code.partition("\nconfig = ")[0])
    for name, shorter in SHORTER_SWEEPS.items():
        if any(f"{name}.toml" in line for line in lines):
            toml = code_of("docs/howto/sweeps", "toml", f"# {name}.toml")
            for given, less in shorter.items():
                assert given in toml
                toml = toml.replace(given, less)
            (folder / f"{name}.toml").write_text(toml)
    if any("docs/results/" in line for line in lines):  # copies: pictures are drawn beside them
        (folder / "docs" / "results").mkdir(parents=True)
        for path in (ROOT / "docs" / "results").glob("*.json"):
            shutil.copy(path, folder / "docs" / "results")


def with_a_server(lines, folder, request):
    """The lines of a page about PostgreSQL, with a database and a place for blobs of the tests."""
    shutil.copytree(request.getfixturevalue("registry"), folder / "checkpoints" / "registry")
    shutil.copytree(DATA / "space-invaders-late", folder / "runs" / "pong")
    database = new_database(request.getfixturevalue("own_server").url)
    there = {"postgresql://anna@db.example/games": database, "/srv/rlarcade": str(folder)}
    for given, own in there.items():
        assert any(given in line for line in lines)
        lines = [line.replace(given, own) for line in lines]
    return lines


@pytest.mark.first
@pytest.mark.parametrize(("name", "lines"), list(parts()))
def test_the_commands_of_a_page_run_one_after_the_other(name, lines, folder, request):
    if name in BY_HEADING:
        shutil.copytree(request.getfixturevalue("registry"), folder / "checkpoints" / "registry")
        if not any("rlarcade.serve" in line for line in lines):
            lines = ["python -m rlarcade.serve", *lines]
        lines = ["export RLARCADE_TOKEN=operators-token", *lines]
    if any("space_invaders-laptop-seed0" in line for line in lines):
        run = folder / "checkpoints" / "space_invaders-laptop-seed0" / "checkpoints"
        shutil.copytree(DATA / "space-invaders-late", run / "step-000000040000")
    if any("model.zip" in line for line in lines):
        shutil.copy(request.getfixturevalue("model_of_sb3"), folder)
    if name == "docs/howto/ray":
        shutil.copytree(request.getfixturevalue("registry"), folder / "checkpoints" / "registry")
        shutil.copytree(DATA / "space-invaders-late", folder / "runs" / "space-invaders")
        (folder / "gate.toml").write_text("[random]\nenabled = false\n")  # 26 pairs of games
    if any("--engine ray" in line for line in lines):
        there = request.getfixturevalue("ray_nodes").address
        lines = [line.replace("10.0.0.1:6379", there) for line in lines]
    if name == "docs/howto/team-registry":
        lines = with_a_server(lines, folder, request)
    write_files_of(lines, folder)
    lines = [one for line in lines for one in (HAPPENED.get(line, ":"), line)]
    run_lines(lines, folder, SHORTER, made_up_games=True)


def test_the_tables_name_no_page_and_no_command_that_is_gone():
    every = [line for text in PAGES.values() for line in blocks(text)]
    assert set(ELSEWHERE) <= set(PAGES)
    assert set(HAPPENED) <= set(every)
    for pattern in NOT_RUN:
        assert any(re.search(pattern, line) for line in every), pattern
