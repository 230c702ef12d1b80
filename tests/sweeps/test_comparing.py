"""Which setting is better: more seeds are asked for until it is known."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_trainings import MadeUpTrainings

PONG = '[settings]\ngame = "Pong"\npreset = "quick"\n'
TWO = '[[variants]]\nname = "plain"\n[[variants]]\nname = "wide"\nhidden_units = 64\n'
THREE = TWO + '[[variants]]\nname = "other"\nhidden_units = 32\n'


def written(folder, text):
    path = folder / "which.toml"
    path.write_text(text)
    return path


@pytest.fixture
def trainings(monkeypatch):
    """Scores follow from the label: `means` of the arms, and some spread by seed."""

    def made(**means):
        def score(label):
            arm, seed = re.fullmatch(r"[a-z]+?-(.+)-seed(\d+)", label).groups()
            # seven different values in an order of no meaning, another one for each arm
            return means[arm] + (int(seed) * 5 + len(arm) * 3) % 7

        fake = MadeUpTrainings(score)
        monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", fake)
        monkeypatch.setattr("rlarcade.sweeps.scheduling._POLL_SECONDS", 0)
        return fake

    return made


@pytest.fixture
def swept(command, tmp_path):
    """Runs a sweep; returns its exit code, its results file, what it said, and its error."""

    def sweep(text, *flags, folder="runs"):
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        path = written(tmp_path, text)
        code, said, err = command("sweep", path, "--dir", tmp_path / folder, "--json", out, *flags)
        return code, json.loads(out.read_text()) if out.exists() else None, said, err

    return sweep


def labels(arm, seeds):
    return [f"pong-{arm}-seed{seed}" for seed in seeds]


def verdicts(document):
    return {
        (pair["first"], pair["second"]): (pair["verdict"], pair["round"])
        for pair in document["compare"]["pairs"]
    }


# What is asked


def test_settings_without_overlap_are_told_apart_after_one_round(swept, trainings):
    fake = trainings(plain=100, wide=10)
    code, document, said, err = swept(PONG + TWO + "[compare]\nseeds = 5\nmax_rounds = 4\n")
    assert (code, err) == (0, "")
    assert fake.started == labels("plain", range(5)) + labels("wide", range(5))
    compare = document["compare"]
    assert verdicts(document) == {("plain", "wide"): ("better", 1)}
    assert (compare["rounds"], compare["finished"], compare["score"]) == (1, True, "mean")
    assert (compare["alpha"], compare["games"]) == (0.05, ["pong"])
    # seeds 0 … 4: (5 s + 15) mod 7 = 1, 6, 4, 2, 0, and (5 s + 12) mod 7 = 5, 3, 1, 6, 4
    assert compare["scores"] == {
        "plain": [101, 106, 104, 102, 100],
        "wide": [15, 13, 11, 16, 14],
    }
    assert "AdaStop, 1 of at most 4 rounds of 5 seeds; mean score of Pong" in said
    told = "plain against wide: better (102.6 with 5 seeds against 13.8 with 5 seeds, known after r"
    assert told in said
    assert "are called different is at most 0.05." in said


def test_only_settings_that_are_undecided_get_more_seeds(swept, trainings):
    fake = trainings(plain=10, wide=10, other=100)
    code, document, said, _ = swept(PONG + THREE + "[compare]\nseeds = 5\nmax_rounds = 2\n")
    assert code == 0
    assert fake.started == [
        *labels("plain", range(5)),
        *labels("wide", range(5)),
        *labels("other", range(5)),
        *labels("plain", range(5, 10)),
        *labels("wide", range(5, 10)),
    ]
    assert verdicts(document) == {
        ("plain", "wide"): ("no difference shown", None),
        ("plain", "other"): ("worse", 1),
        ("wide", "other"): ("worse", 1),
    }
    assert "plain against wide: no difference shown (" in said
    assert "at most 0.05; with more than two settings this is approximate." in said
    assert len(document["runs"]) == 25


def test_the_seeds_begin_with_that_of_the_settings(swept, trainings):
    fake = trainings(plain=100, wide=10)
    assert swept(PONG + "seed = 7\n" + TWO + "[compare]\nmax_rounds = 2\n")[0] == 0
    assert fake.started == labels("plain", range(7, 12)) + labels("wide", range(7, 12))


def test_every_setting_may_be_compared_with_one_only(swept, trainings):
    trainings(plain=10, wide=50, other=100)
    code, document, _, _ = swept(PONG + THREE + '[compare]\nagainst = "plain"\n')
    assert code == 0
    assert verdicts(document) == {
        ("wide", "plain"): ("better", 1),
        ("other", "plain"): ("better", 1),
    }


def test_values_of_the_grid_are_arms_and_several_games_are_one_mean(swept, trainings, monkeypatch):
    fake = MadeUpTrainings(lambda label: 30.0 if label.startswith("pong") else 50.0)
    trainings()
    monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", fake)
    text = (
        'settings.preset = "quick"\n[grid]\ngame = ["Pong", "Breakout"]\ngamma = [0.9, 0.99]\n'
        "[compare]\nseeds = 4\nmax_rounds = 1\n"
    )
    code, document, said, _ = swept(text)
    assert code == 0
    assert len(fake.started) == 16
    compare = document["compare"]
    assert (compare["score"], compare["games"]) == ("human_normalized", ["pong", "breakout"])
    assert compare["scores"] == {"gamma0.9": [0.4] * 4, "gamma0.99": [0.4] * 4}
    assert "human-normalised score of the mean over 2 games" in said
    assert "(40.0% with 4 seeds against 40.0% with 4 seeds)" in said


def test_the_report_shows_every_pair(command, tmp_path, trainings):
    trainings(plain=100, wide=10)
    path, page = written(tmp_path, PONG + TWO + "[compare]\n"), tmp_path / "page.html"
    code, _, _ = command("sweep", path, "--dir", tmp_path / "runs", "--report", page)
    assert code == 0
    words = " ".join(re.sub(r"<[^>]*>", " ", page.read_text()).split())
    assert "Which setting is better" in words
    assert "plain against wide better 102.6 (5 seeds) 13.8 (5 seeds) 1" in words
    assert "are called different is at most 0.05." in words


def test_the_list_names_the_first_round(command, tmp_path):
    path = written(tmp_path, PONG + TWO + "[compare]\nseeds = 4\n")
    code, out, err = command("sweep", path, "--list", "--dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    listed = [line for line in out.splitlines() if not line.startswith(" ")]
    assert listed == labels("plain", range(4)) + labels("wide", range(4))
    assert not (tmp_path / "runs").exists()


# Stopped, and gone on


@pytest.mark.parametrize("begun", [0, 3, 15, 17])
def test_a_comparison_that_broke_off_asks_for_the_same_runs(swept, trainings, begun):
    text = PONG + THREE + "[compare]\nseeds = 5\nmax_rounds = 2\n"
    means = {"plain": 10, "wide": 10, "other": 100}
    whole = trainings(**means)
    expected = swept(text, "--jobs", 2, folder="whole")[1]
    broken = trainings(**means)
    broken.refuse_after = begun
    code, document, _, err = swept(text, "--jobs", 2)
    assert (code, document) == (1, None)
    assert "no more processes" in err
    broken.refuse_after = None
    code, document, _, _ = swept(text, "--jobs", 2)
    assert code == 0
    assert document == expected
    assert sorted(broken.started) == sorted(whole.started)


def test_the_order_in_which_runs_end_changes_nothing(swept, trainings):
    text = PONG + THREE + "[compare]\nseeds = 5\nmax_rounds = 2\n"
    trainings(plain=10, wide=10, other=100)
    one = swept(text, "--jobs", 1, folder="one")[1]
    many = swept(text, "--jobs", 9, folder="many")[1]
    assert one == many


def test_a_run_that_fails_leaves_the_order_undecided(swept, trainings):
    fake = trainings(plain=10, wide=10)
    fake.codes["pong-wide-seed2"] = 1
    code, document, said, _ = swept(PONG + TWO + "[compare]\nseeds = 5\nmax_rounds = 2\n")
    assert code == 1
    assert len(fake.started) == 10  # no second round
    assert verdicts(document) == {("plain", "wide"): ("undecided", None)}
    assert document["compare"]["finished"] is False
    assert "plain against wide: undecided (no seed against no seed)" in said


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (TWO + "[compare]\nalpha = 0.1\n", "alpha = 0.05, now 0.1"),
        (TWO + "[compare]\nmax_rounds = 9\n", "max_rounds = 5, now 9"),
        (THREE + "[compare]\n", "arms = ['plain', 'wide'], now ['plain', 'wide', 'other']"),
    ],
)
def test_a_rule_cannot_change_after_results_were_seen(swept, trainings, text, changed):
    fake = trainings(plain=10, wide=100, other=1)
    assert swept(PONG + TWO + "[compare]\n")[0] == 0
    started = len(fake.started)
    code, _, _, err = swept(PONG + text)
    assert code == 2
    assert f"was begun with {changed}. Its stated error holds only if nobody changes" in err
    assert len(fake.started) == started


def test_a_rule_that_cannot_be_read_is_refused(swept, trainings, tmp_path):
    trainings(plain=10, wide=100)
    (tmp_path / "runs").mkdir()
    for text in ("{", "[]", "{}"):
        (tmp_path / "runs" / "compare.json").write_text(text)
        code, _, _, err = swept(PONG + TWO + "[compare]\n")
        assert code == 2
        assert "was begun with a rule that cannot be read any more" in err


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PONG + TWO + "[compare]\nseed = 3\n", "'compare.seed'. Did you mean 'seeds'"),
        (PONG + TWO + "[compare]\nseeds = 0\n", "'compare.seeds' must be at least 1, not 0"),
        (PONG + TWO + "[compare]\nalpha = 0.6\n", "'compare.alpha' must be at most 0.5"),
        (PONG + TWO + '[compare]\nscore = "best"\n', "'compare.score' must be 'mean' or 'human"),
        (
            PONG + TWO + "[compare]\nseeds = 1\n",
            "5 rounds of 1 seeds cannot show a difference at alpha 0.05",
        ),
        (PONG + "[compare]\n", "[compare] needs at least two settings. Add [[variants]]"),
        (
            PONG + "[grid]\nseed = [1, 2]\n[compare]\n",
            "[grid] cannot set seed beside [compare], which asks for one seed after another",
        ),
        (
            PONG + TWO + "seed = 3\n[compare]\n",
            "variant 'wide' cannot set seed beside [compare]",
        ),
        (
            PONG + TWO + '[compare]\nagainst = "plian"\n',
            "cannot compare against 'plian': the arms are plain, wide. Did you mean 'plain'?",
        ),
        (
            'settings.preset = "quick"\n[[variants]]\nname = "a"\ngame = "Pong"\n'
            '[[variants]]\nname = "b"\ngame = "Breakout"\n[compare]\n',
            "needs the same games for every arm, and 'b' plays Breakout while 'a' plays Pong.",
        ),
        (
            'grid.game = ["Pong", "Breakout"]\n' + TWO + '[compare]\nscore = "mean"\n',
            "cannot take the mean of raw scores of 2 games: the one with the largest numbers",
        ),
        (
            'grid.game = ["Pong", "Backgammon"]\n' + TWO + "[compare]\n",
            "cannot normalise the scores of Backgammon: no human score is published",
        ),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused_in_one_line(
    command, tmp_path, trainings, text, message
):
    fake = trainings()
    path = written(tmp_path, text)
    code, out, err = command("sweep", path, "--dir", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"sweep {path}: " in err
    assert message in err
    assert fake.started == []
    assert not (tmp_path / "runs").exists()


# Real runs

TINY = """
jobs = 2
threads = 1
[settings]
game = "SpaceInvaders"
preset = "quick"
device = "cpu"
num_envs = 2
total_timesteps = 600
learning_starts = 300
buffer_size = 600
batch_size = 16
conv_channels = [4, 4, 4]
hidden_units = 16
eval_episodes = 1
[[variants]]
name = "plain"
[[variants]]
name = "narrow"
hidden_units = 8
[compare]
seeds = 2
max_rounds = 2
alpha = 0.2
"""


@pytest.mark.slow
def test_a_killed_comparison_of_real_runs_comes_to_the_same_end(tmp_path):
    path = written(tmp_path, TINY)

    def command(name):
        words = ["--dir", tmp_path / name, "--json", tmp_path / f"{name}.json"]
        return [sys.executable, "-m", "rlarcade.sweep", path, *words]

    subprocess.run(command("whole"), stdout=subprocess.DEVNULL, check=True)
    for seconds in (4, 7, 10):
        with subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL) as sweep:
            time.sleep(seconds)
            os.kill(sweep.pid, signal.SIGKILL)
    subprocess.run(command("killed"), stdout=subprocess.DEVNULL, check=True)
    whole = json.loads((tmp_path / "whole.json").read_text())
    killed = json.loads((tmp_path / "killed.json").read_text())
    assert killed["compare"] == whole["compare"]
    assert [run["label"] for run in killed["runs"]] == [run["label"] for run in whole["runs"]]
    scores = [run["result"]["evaluation"]["episodes"] for run in whole["runs"]]
    assert [run["result"]["evaluation"]["episodes"] for run in killed["runs"]] == scores


def test_the_example_of_the_page_is_a_comparison(command, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "sweeps.md").read_text()
    (example,) = re.findall(r"```toml\n(# wider\.toml\n.+?)```", page, flags=re.DOTALL)
    code, out, err = command("sweep", written(tmp_path, example), "--list")
    assert (code, err) == (0, "")
    assert len([line for line in out.splitlines() if not line.startswith(" ")]) == 15
