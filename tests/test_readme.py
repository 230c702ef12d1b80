"""The README and the pages that it leads to tell the truth."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

import rlarcade
from rlarcade.config import TrainConfig, load_preset, preset_names
from rlarcade.games import FRAMESKIP, get_protocol
from rlarcade.learning.frames import BLOCKED_FRAME
from rlarcade.learning.replay import Replay

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def recorded(name):
    return json.loads((ROOT / "docs" / "results" / name).read_text("utf-8"))


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def prose(text):
    return " ".join(text.split())


def table_rows(text, heading, number=0):
    section = text.split(f"# {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_table_of_presets_is_what_the_presets_are():
    rows = {
        re.findall(r"`(.+?)`", row[0])[0]: row for row in table_rows(page("presets"), "Presets")
    }
    assert set(rows) == set(preset_names())
    for name, row in rows.items():
        preset = load_preset(name)[1]
        config = TrainConfig.model_validate(
            {"game": "pong"} | {k: v for k, v in preset.items() if k in TrainConfig.setting_names}
        )
        _, torso, head, target, memory, n_steps, batch, steps, _ = row
        assert ("Impala" in torso) == (config.torso == "impala")
        assert ("spectral" in torso) == config.spectral_norm
        assert ("norm" in torso.replace("spectral norm", "")) == (config.norm != "none")
        assert head.split(",")[0].split(" ")[0] == config.head
        assert ("dueling" in head, "noisy" in head) == (config.dueling, config.noisy)
        assert ("Double" in target, "Munchausen" in target) == (config.double, config.munchausen)
        assert ("none" in memory) == ("Q(λ)" in target) == (config.memory.kind == "none")
        assert ("prioritised" in memory) == config.prioritized
        minutes = preset.get("minutes")
        assert steps == (f"{minutes:g} minutes" if minutes else f"{config.total_timesteps:,}")
        if config.memory.kind == "none":
            assert batch == f"{config.batch_size}, {config.num_epochs} epochs"
            continue
        shortened = "" if config.n_steps_final is None else f" → {config.n_steps_final}"
        assert n_steps == f"{config.n_steps}{shortened}"
        rounds = "" if config.gradient_steps == 1 else f"{config.gradient_steps} × "
        assert batch == f"{rounds}{config.batch_size} / {config.train_freq}"


def test_the_table_of_protocols_is_what_the_protocols_are():
    for row in table_rows(page("protocols"), "Protocols"):
        protocol = get_protocol(re.findall(r"`(.+?)`", row[0])[0])
        assert float(row[1]) == protocol.sticky
        assert ("18" in row[2]) == protocol.full_action_space
        assert ("no-ops" in row[3]) == bool(protocol.max_noops)
        assert float(row[4]) == protocol.evaluation_epsilon


DOCS = ROOT / "docs"
NAMES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))
PAGES = {"README": README} | {
    name: page(name) for name in NAMES if not name.startswith("generated/")
}


@pytest.mark.parametrize("name", PAGES)
def test_every_name_that_an_example_imports_is_public(name):
    for names in re.findall(r"from rlarcade import (.+)", PAGES[name]):
        assert set(names.split(", ")) <= set(rlarcade.__all__)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file(name):
    folder = ROOT if name == "README" else (DOCS / name).parent
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[name]):
        if not target.startswith("https://") and "generated/" not in target:  # Sphinx makes those
            assert (folder / target).exists(), target


WITH_OWN_TESTS = {"predicting", "serving", "howto/ray"}
WITH_PYTHON = [name for name, text in PAGES.items() if "```python" in text]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(WITH_PYTHON) - WITH_OWN_TESTS))
def test_the_python_examples_run_as_written_but_shorter(tmp_path, name):
    example = "".join(re.findall(r"```python\n(.+?)```", PAGES[name], flags=re.DOTALL))
    code = example.replace("100_000", "64")
    code = re.sub(r"episodes=\d+", "episodes=1", re.sub(r"simulations=\d+", "simulations=2", code))
    (tmp_path / "example.py").write_text(code)
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, check=True, timeout=200)


def test_the_readme_can_be_read_in_five_minutes():
    words = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE).split()
    assert len(words) <= 1_000
    assert README[: README.index("pip install")].count("\n") < 30


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    extraction = re.findall(r"command=\$\((.+)\)", script)[0]
    command = subprocess.run(
        ["bash", "-c", extraction], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert command.strip() == "pip install -c constraints.txt '.[test]' && python -m pytest"


def test_the_figures_about_speed_are_those_of_the_recorded_benchmark():
    ratio = recorded("training-speed.json")["ratio"]
    rows = {row[0]: row[1:] for row in table_rows(README, "Speed")}
    for setting, name in (("same_schedule", "the same"), ("large_batch", "256 / 32")):
        row = next(row for key, row in rows.items() if name in key)
        for cell, peer in zip(row, ("cleanrl", "sb3"), strict=True):
            assert float(cell.rstrip("×")) == pytest.approx(ratio[setting][peer], abs=0.05)


def test_the_requests_a_second_of_the_page_about_serving_are_the_recorded_ones():
    own, bare = re.search(
        r"answers ([\d,]+) requests a second of 16 clients, a bare handler with the same network "
        r"([\d,]+) ",
        prose(page("serving")),
    ).groups()
    servers = recorded("serving-load.json")["servers"]
    for shown, name in ((own, "rlarcade, own, 16"), (bare, "bare, own, 16")):
        assert shown == f"{servers[name]['requests_per_second']:,.0f}"


def test_the_scores_to_expect_are_those_of_the_recorded_games():
    files = {"Pong": "pong", "Breakout": "breakout", "SpaceInvaders": "space-invaders"}
    rows = table_rows(page("expectations"), "The plain command")
    assert len(rows) == len(files)
    assert [[game, mean] for game, _, mean, *_ in table_rows(README, "Scores")] == [
        [game, mean] for game, _, mean, *_ in rows
    ]
    for game, _, mean, *_ in rows:
        (evaluation,) = recorded(f"laptop-{files[game.split(',')[0]]}.json")["evaluations"]
        assert len(evaluation["episodes"]) == 100
        digits = len(mean.partition(".")[2])
        assert mean == f"{evaluation['mean']:.{digits}f}"


def test_a_score_that_links_to_recorded_games_is_their_mean():
    links = re.findall(r"\[([\d.]+)\]\(results/(\S+\.json)\)", page("expectations"))
    assert links
    for score, name in links:
        (evaluation,) = recorded(name)["evaluations"]
        assert score == f"{evaluation['mean']:.{len(score.partition('.')[2])}f}"


def test_the_scores_on_the_way_are_those_of_the_recorded_runs():
    runs = recorded("cpu-default.json")
    sources = {
        "Breakout, `--minutes 120`": ("two-hours", "breakout"),
        "Breakout": ("within-the-hour", "breakout"),
        "Pong": ("plain-shorter", "pong"),
        "SpaceInvaders": ("plain-shorter", "space_invaders"),
    }
    rows = table_rows(page("expectations"), "The plain command", 1)
    assert [row[0] for row in rows] == list(sources)
    for name, *cells, end in rows:
        key, label = sources[name]
        (run,) = (run for run in runs[key] if run["run"] == label)
        steps, scores = zip(*run["training_return"], strict=True)
        last = sum(run["seconds"][part] for part in ("env", "act", "replay", "learn")) / 60
        # rows of former times have none for each point, and went at an even pace
        minutes = run.get("training_minutes") or [step * last / steps[-1] for step in steps]
        for asked, cell in zip((15, 30, 45, 60, 90), cells, strict=True):
            assert bool(cell) == (asked < last)
            if cell:
                before = max(i for i, minute in enumerate(minutes) if minute <= asked)
                assert float(cell) == round(scores[before])
        assert end == f"{round(scores[-1])} after {int(last)}"


def test_the_memory_that_a_million_transitions_take_is_what_was_measured():
    (replay, peak) = re.search(
        r"million transitions take ([\d.]+) GB .+? whole run peaks at ([\d.]+) GB", prose(README)
    ).groups()
    assert replay == f"{Replay.bytes_needed(1_000_000, BLOCKED_FRAME) / 1e9:.1f}"
    assert peak == f"{recorded('training-memory.json')['memory']['peak_rss_gb']:.1f}"


def test_the_figures_of_the_preset_dqn_are_those_of_the_recorded_run():
    steps, minutes, first, last, games = re.search(
        r"`--preset dqn`, ([\d,]+) steps in (\d+)½ minutes, .+? \((\d+) points in the first million"
        r".+? ends at (\d+) points in training, (\d+) in ten games",
        prose(page("expectations")),
    ).groups()
    run = recorded("dqn-space-invaders.json")
    result, curve = run["result"], run["curve"]
    assert int(steps.replace(",", "")) == result["steps"] == run["train"]["total_timesteps"]
    assert float(minutes) + 0.5 == pytest.approx(result["seconds"]["total"] / 60, abs=0.25)
    assert int(last) == pytest.approx(curve[-1][1], abs=0.5)
    assert int(games) == result["evaluation"]["mean"]
    assert len(result["evaluation"]["episodes"]) == 10
    # the curve is of the last hundred games at each point, which lags a little behind
    until = fmean(score for step, score in curve if step * FRAMESKIP <= 1_000_000)
    assert int(first) == pytest.approx(until, rel=0.06)
