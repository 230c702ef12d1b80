"""Optuna chooses settings and stops runs: the same ones, however often the sweep is killed."""

import json
import os
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from math import log10, sin
from pathlib import Path

import pytest
from tiers import quick, quick_first

from rlarcade.sweeps.searching import Searching

pytest.importorskip("optuna")

TOTAL = 10_000
HEAD = f"""
jobs = 1
[settings]
game = "Pong"
preset = "quick"
total_timesteps = {TOTAL}
"""
RATES = """
[search.parameters]
learning_rate = { low = 1e-6, high = 1e-2, log = true }
n_steps = { low = 1, high = 5 }
double = { choices = [true, false] }
"""


def search(**keys):
    return "[search]\n" + "".join(f"{name} = {json.dumps(v)}\n" for name, v in keys.items()) + RATES


def quality(rate):
    """The score at the end: best at a learning rate of 1e-4, whatever the other settings are."""
    return 50 - 10 * abs(log10(rate) + 4)


def curve(rate, n_steps, step):
    """The score in training: it rises, and it swings by n_steps."""
    return quality(rate) * step / TOTAL + 4 * sin(n_steps + step / 1_500)


def curve_of(trial, step):
    """The score in training of a trial of the results file."""
    return curve(trial["parameters"]["learning_rate"], trial["parameters"]["n_steps"], step)


class Curves:
    """Takes the place of `subprocess.Popen`: every look at a run is a thousand steps of training.

    Attributes:
        flags: flags of each run that was started, by label.
        stopped: agent steps at which a run was told to stop, by label.
        refuse_after: starts until there are no more processes; None: never.
        codes: exit codes of runs that fail.
        diverges_above: learning rate above which training diverges at its first step.
    """

    def __init__(self):
        self.flags, self.stopped, self.refuse_after, self.codes = {}, {}, None, {}
        self.starts, self.diverges_above = [], float("inf")

    def __call__(self, command, **_):
        if self.refuse_after is not None and len(self.starts) >= self.refuse_after:
            raise OSError("no more processes")
        folder = Path(command[-1])
        words = command[3:]
        flags = {w: v for w, v in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")}
        self.flags[folder.name] = flags
        self.starts.append(folder.name)
        return _Curve(self, folder, flags)


class _Curve:
    def __init__(self, curves, folder, flags):
        self.curves, self.folder = curves, folder
        self.rate, self.n_steps = float(flags["--learning-rate"]), int(flags["--n-steps"])
        self.steps, self.told = 0, False
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text("{}")
        (folder / "metrics.jsonl").write_text("")

    def send_signal(self, number):
        assert number == signal.SIGINT
        self.told = True
        self.curves.stopped.setdefault(self.folder.name, self.steps)

    def poll(self):
        label = self.folder.name
        if label in self.curves.codes:
            return self.curves.codes[label]
        if self.rate > self.curves.diverges_above:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.steps + 1, "train/diverged": 1.0}) + "\n")
            return 1
        if self.told:
            return 130
        self.steps += 1_000
        score = curve(self.rate, self.n_steps, self.steps)
        lines = [
            {"step": self.steps - 1, "charts/episodic_return": -999.0},
            {"step": self.steps, "time/frames": 4 * self.steps, "rollout/ep_rew_mean": score},
        ]
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        if self.steps < TOTAL:
            return None
        evaluation = {"mean": quality(self.rate), "median": 0.0, "human_normalized": None}
        result = {"steps": TOTAL, "seconds": {"total": 90.0}, "evaluation": evaluation}
        (self.folder / "result.json").write_text(json.dumps(result))
        return 0


@pytest.fixture
def curves(monkeypatch):
    fake = Curves()
    monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", fake)
    monkeypatch.setattr("rlarcade.sweeps.scheduling._POLL_SECONDS", 0)
    monkeypatch.setattr("rlarcade.sweeps.searching._LOOK_SECONDS", 0)
    return fake


@pytest.fixture
def swept(command, tmp_path):
    """Runs a sweep; returns its exit code, the search's part of its results, output and error."""

    def sweep(text, *flags, folder="runs"):
        path, out = tmp_path / "rates.toml", tmp_path / "out.json"
        path.write_text(text)
        out.unlink(missing_ok=True)
        words = ["--dir", tmp_path / folder, "--json", out, *flags]
        code, said, err = command("sweep", path, *words)
        return code, json.loads(out.read_text())["search"] if out.exists() else None, said, err

    return sweep


def states(document):
    return [one["state"] for one in document["results"]]


# What is tried


def test_every_trial_is_a_run_with_settings_from_the_ranges(swept, curves, tmp_path):
    code, document, said, err = swept(HEAD + search(trials=6, sampler="random", pruner="none"))
    assert (code, err) == (0, "")
    labels = [f"trial-{n:04d}" for n in range(6)]
    assert curves.starts == labels
    assert [one["label"] for one in document["results"]] == labels
    for label, one in zip(labels, document["results"], strict=True):
        chosen, flags = one["parameters"], curves.flags[label]
        assert 1e-6 <= chosen["learning_rate"] <= 1e-2
        assert chosen["n_steps"] in range(1, 6)
        assert float(flags["--learning-rate"]) == chosen["learning_rate"]
        assert int(flags["--n-steps"]) == chosen["n_steps"]
        assert ("--double" in flags, "--no-double" in flags) == (
            chosen["double"],
            not chosen["double"],
        )
        assert one["score"] == quality(float(flags["--learning-rate"]))
        assert (tmp_path / "runs" / label / "result.json").exists()
    rates = [one["parameters"]["learning_rate"] for one in document["results"]]
    assert len(set(rates)) == 6
    best = max(document["results"], key=lambda one: one["score"])
    assert document["best"] == best["label"]
    assert "search, random with pruner none: 6 of 6 trials: 6 finished, 0 stopped" in said
    assert f"best: {best['label']}, mean score {best['score']:.1f}, learning_rate = " in said


@pytest.mark.parametrize("sampler", quick(["tpe", "random", "cmaes"], ["cmaes"]))
def test_a_search_with_the_same_seed_tries_the_same(swept, curves, sampler):
    def parameters(seed, folder):
        text = HEAD + search(trials=12, sampler=sampler, pruner="none", seed=seed)
        document = swept(text, folder=folder)[1]
        return [one["parameters"] for one in document["results"]]

    assert parameters(1, "a") == parameters(1, "b")
    assert parameters(2, "c")[0] != parameters(1, "b")[0]


@pytest.mark.slow
@pytest.mark.recorded
def test_tpe_comes_nearer_to_the_best_learning_rate_than_chance(swept, curves):
    def distance(sampler):
        document = swept(HEAD + search(trials=40, sampler=sampler, pruner="none"), folder=sampler)[
            1
        ]
        rates = [one["parameters"]["learning_rate"] for one in document["results"][15:]]
        return statistics.median(abs(log10(rate) + 4) for rate in rates)

    assert distance("tpe") < 0.75 * distance("random")


def test_the_importance_names_the_parameter_that_decides(swept, curves):
    document, said = swept(HEAD + search(trials=20, sampler="random", pruner="none"))[1:3]
    importance = document["importance"]
    assert next(iter(importance)) == "learning_rate"
    assert importance["learning_rate"] > 0.6
    assert sum(importance.values()) == pytest.approx(1)
    assert "importance of the parameters (PED-ANOVA): learning_rate " in said


def test_few_trials_show_no_importance(swept, curves):
    document, said = swept(HEAD + search(trials=3, pruner="none"))[1:3]
    assert document["importance"] is None
    assert "importance" not in said


def test_settings_that_do_not_go_together_are_a_trial_that_is_refused(swept, curves):
    text = HEAD + "learning_starts = 5_000\n" + search(trials=8, sampler="random")
    text += "buffer_size = { choices = [4_000, 50_000] }\n"
    code, document, said, _ = swept(text)
    assert code == 0
    small = [one["parameters"]["buffer_size"] == 4_000 for one in document["results"]]
    assert [state == "refused" for state in states(document)] == small
    assert 0 < sum(small) < 8
    assert len(curves.starts) == 8 - sum(small)
    assert "refused: learning_starts (5,000) exceeds buffer_size (4,000)" in said
    assert swept(text)[1] == document


@pytest.mark.parametrize("told", ["at once", "by the next sweep"])
def test_a_search_goes_on_without_a_trial_that_diverged(swept, curves, monkeypatch, told):
    """Its steps would diverge again, so the search could never end, and would never learn it."""
    curves.diverges_above = 3e-4
    text = HEAD + search(trials=8, sampler="random", pruner="none")
    if told == "by the next sweep":  # the first one is killed before it can tell Optuna
        with monkeypatch.context() as killed:
            killed.setattr(Searching, "given_up_at", lambda *_: None)
            killed.setattr(Searching, "_fail_if_diverged", lambda *_: None)
            assert swept(text)[0] == 1
    before = len(curves.starts)
    code, document, said, _ = swept(text)
    assert code == 0
    rates = [one["parameters"]["learning_rate"] for one in document["results"]]
    assert [state == "diverged" for state in states(document)] == [rate > 3e-4 for rate in rates]
    assert 0 < states(document).count("diverged") < 8
    for one in document["results"]:
        diverged = one["state"] == "diverged"
        assert (one["score"] is None, one["diverged_at"]) == (diverged, 1 if diverged else None)
        assert (f"{one['label']} diverged at step 1\n" in said) == diverged
    assert document["best"] in {f"trial-{i:04d}" for i, rate in enumerate(rates) if rate <= 3e-4}
    assert len(curves.starts) == (8 if told == "at once" else before), "no trial is repeated"
    assert swept(text)[1] == document


def test_the_report_shows_every_trial_and_what_was_important(command, tmp_path, curves):
    path, page, out = tmp_path / "rates.toml", tmp_path / "page.html", tmp_path / "out.json"
    path.write_text(HEAD + search(trials=12, startup_trials=4))
    words = ["--dir", tmp_path / "runs", "--report", page, "--json", out]
    assert command("sweep", path, *words)[0] == 0
    shown = " ".join(re.sub(r"<[^>]*>", " ", page.read_text()).split())
    document = json.loads(out.read_text())["search"]
    assert "Search for settings" in shown
    for one in document["results"]:
        rate = f"{one['parameters']['learning_rate']:.4g}"
        if one["state"] == "stopped":
            assert f"{one['label']} stopped at {one['stopped_at']:,} – {rate} " in shown
        else:
            best = ", the best" * (one["label"] == document["best"])
            assert f"{one['label']} finished{best} {one['score']:.1f} {rate} " in shown
    assert "stopped" in states(document)
    assert f"learning_rate {document['importance']['learning_rate']:.1%}" in shown


def test_a_search_whose_settings_never_go_together_is_refused(swept, curves):
    text = HEAD + "learning_starts = 5_000\n" + search(trials=4)
    text += "buffer_size = { choices = [3_000, 4_000] }\n"
    for _ in range(2):
        code, document, _, err = swept(text)
        assert (code, document) == (2, None)
        assert "none of the 4 trials of the search in" in err
        assert "such as the last one: learning_starts (5,000) exceeds buffer_size" in err
    assert curves.starts == []


# What is stopped


def stopped_by_median(document, startup, interval):
    """The median rule in plain words: steps at which trials are stopped, in order."""
    finished, found = [], []
    for one in document["results"]:
        scores = {step: curve_of(one, step) for step in range(interval, TOTAL, interval)}
        stop = None
        for step in scores if len(finished) >= startup else ():
            so_far = max(score for at, score in scores.items() if at <= step)
            if so_far < statistics.median(other[step] for other in finished):
                stop = step
                break
        if stop is None:
            finished.append(scores)
        found.append(stop)
    return found


def test_a_run_below_the_median_of_the_finished_ones_is_stopped(swept, curves):
    keys = {"trials": 16, "sampler": "random", "startup_trials": 3, "report_interval": 2_000}
    code, document, said, _ = swept(HEAD + search(**keys))
    assert code == 0
    expected = stopped_by_median(document, 3, 2_000)
    assert [one["stopped_at"] for one in document["results"]] == expected
    assert len(set(expected)) > 2  # at several steps
    assert expected[:3] == [None] * 3
    for one, step in zip(document["results"], expected, strict=True):
        assert one["state"] == ("finished" if step is None else "stopped")
        assert (one["score"] is None) == (step is not None)
        if step is not None:
            assert f"{one['label']} stopped at step {step:,}, score " in said
            assert curves.stopped[one["label"]] >= step


def test_successive_halving_lets_the_best_quarter_go_on(swept, curves):
    document = swept(HEAD + search(trials=20, sampler="random", pruner="successive-halving"))[1]
    rungs = {1_000: [], 4_000: []}
    for one in document["results"]:
        stop = None
        for step, scores in rungs.items():
            scores.append(curve_of(one, step))
            good = sorted(scores, reverse=True)[max(len(scores) // 4, 1) - 1]
            if scores[-1] < good:
                stop = step
                break
        assert one["stopped_at"] == stop, one["label"]
    assert states(document).count("stopped") > 5


@pytest.mark.parametrize("pruner", quick(["median", "successive-halving"], ["median"]))
def test_what_is_stopped_does_not_depend_on_when_one_looks(swept, curves, monkeypatch, pruner):
    """A run that ends before the first look is judged by all its scores, in order."""
    text = HEAD + search(trials=14, pruner=pruner, startup_trials=2)
    looked_often = swept(text, folder="often")[1]
    monkeypatch.setattr("rlarcade.sweeps.searching._LOOK_SECONDS", 1e9)
    curves.stopped.clear()
    looked_once = swept(text, folder="once")[1]  # after a thousand steps of each run
    assert looked_once == looked_often
    assert states(looked_once).count("stopped") > len(curves.stopped)


def test_a_score_before_the_first_game_has_ended_is_none(swept, curves, monkeypatch):
    poll = _Curve.poll

    def without_scores(self):
        code = poll(self)
        path = self.folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line["step"] <= 5_000:
                line.pop("rollout/ep_rew_mean", None)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return code

    monkeypatch.setattr(_Curve, "poll", without_scores)
    document = swept(HEAD + search(trials=8, startup_trials=2))[1]
    for one in document["results"]:
        assert all(int(step) > 5_000 for step in one["scores_in_training"])
    assert "stopped" in states(document)


# Stopped, killed, and gone on


@pytest.mark.parametrize(
    ("begun", "sampler"), quick_first([(11, "tpe"), (7, "cmaes"), (0, "tpe")], 1)
)
def test_a_search_that_broke_off_goes_on_as_if_it_had_not(swept, curves, begun, sampler):
    text = HEAD + search(trials=14, sampler=sampler, startup_trials=2)
    whole = swept(text, folder="whole")[1]
    curves.starts.clear()
    curves.refuse_after = begun
    code, document, _, err = swept(text)
    assert (code, document) == (1, None)
    assert "no more processes" in err
    curves.refuse_after = None
    code, document, _, _ = swept(text)
    assert code == 0
    assert document == whole
    assert curves.starts == [f"trial-{n:04d}" for n in range(14)]


@pytest.mark.parametrize("followed", [False, True], ids=["nothing", "all but the stop"])
@pytest.mark.parametrize("pruner", quick(["median", "successive-halving"], ["median"]))
def test_a_kill_while_an_answer_is_followed_does_not_change_it(
    swept, curves, monkeypatch, pruner, followed
):
    """The rule's answer is stored, then what follows from it: here the sweep ends in between."""
    text = HEAD + search(trials=9, sampler="random", startup_trials=2, pruner=pruner)
    whole = swept(text, folder="whole")[1]
    assert "stopped" in states(whole)
    follow, ended = Searching._follow, []

    def ends_at_the_first_stop(self, trial, answer):
        if not answer["stop"] or ended:
            return follow(self, trial, answer)
        if followed:
            follow(self, trial, answer | {"stop": False})
        ended.append(trial.number)
        raise OSError("killed")

    monkeypatch.setattr(Searching, "_follow", ends_at_the_first_stop)
    code, document, _, err = swept(text)
    assert (code, document) == (1, None)
    assert "killed" in err
    assert swept(text)[:2] == (0, whole)


def test_more_trials_may_be_asked_for_later(swept, curves):
    whole = swept(HEAD + search(trials=12), folder="whole")[1]
    first = swept(HEAD + search(trials=5))[1]
    assert len(first["results"]) == 5
    assert swept(HEAD + search(trials=12))[1] == whole


def test_a_run_that_fails_is_tried_again_by_the_same_command(swept, curves):
    curves.codes["trial-0001"] = 1
    code, document, _, _ = swept(HEAD + search(trials=3, pruner="none"))
    assert code == 1
    assert states(document) == ["finished", "not finished", "finished"]
    curves.codes.clear()
    code, document, _, _ = swept(HEAD + search(trials=3, pruner="none"))
    assert code == 0
    assert states(document) == ["finished"] * 3
    assert curves.starts == ["trial-0000", "trial-0001", "trial-0002", "trial-0001"]


def test_several_jobs_finish_every_trial_once(swept, curves):
    code, document, _, _ = swept(HEAD + search(trials=12, startup_trials=2), "--jobs", 4)
    assert code == 0
    assert sorted(curves.starts) == [f"trial-{n:04d}" for n in range(12)]
    assert set(states(document)) <= {"finished", "stopped"}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (HEAD + search(trials=3, seed=1), "search.seed = 0, now 1"),
        (HEAD + search(trials=3, sampler="random"), "search.sampler = tpe, now random"),
        (
            HEAD.replace("10000", "20000") + search(trials=3),
            "search.report_interval = 1000, now 2000",
        ),
    ],
)
def test_a_search_cannot_become_another_one(swept, curves, text, changed):
    assert swept(HEAD + search(trials=3))[0] == 0
    code, _, _, err = swept(text)
    assert code == 2
    assert "was begun with " in err
    assert changed in err
    assert "Only trials may change." in err
    assert len(curves.starts) == 3


def test_a_folder_of_another_experiment_is_refused(swept, curves, tmp_path):
    (tmp_path / "runs" / "trial-0001").mkdir(parents=True)
    (tmp_path / "runs" / "trial-0001" / "run.json").write_text("{}")
    code, _, _, err = swept(HEAD + search(trials=3))
    assert code == 2
    assert "run trial-0001 was begun in" in err
    assert curves.starts == ["trial-0000"]


# The storage


def test_a_second_sweep_in_the_same_folder_is_refused(swept, curves, tmp_path):
    from rlarcade.locks import try_lock

    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs" / "search.lock").open("w") as held:
        assert try_lock(held.fileno())
        code, _, _, err = swept(HEAD + search(trials=3))
    assert code == 2
    assert "another sweep searches in" in err
    assert swept(HEAD + search(trials=3))[0] == 0


@pytest.mark.parametrize("content", [b"no database" * 200, b""])
def test_a_damaged_storage_is_refused_and_an_empty_one_is_filled(swept, curves, tmp_path, content):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "search.db").write_bytes(content)
    code, _, _, err = swept(HEAD + search(trials=1))
    assert code == (2 if content else 0)
    if content:
        assert "search.db cannot be used as the storage of a search: " in err
        assert err.count("\n") == 1


def test_the_folder_may_have_any_name(swept, curves, tmp_path):
    text = HEAD + search(trials=2)
    document = swept(text, folder="what? 100% #1 {SCHEMA_VERSION}")[1]
    assert swept(text, folder="what? 100% #1 {SCHEMA_VERSION}")[1] == document
    assert (tmp_path / "what? 100% #1 {SCHEMA_VERSION}" / "search.db").exists()
    assert len(curves.starts) == 2


def test_a_storage_that_is_a_link_is_refused(swept, curves, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "runs" / "search.db").symlink_to(tmp_path / "precious")
    code, _, _, err = swept(HEAD + search(trials=1))
    assert code == 2
    assert "link" in err
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_storage_of_somebody_elses_study_is_refused(swept, curves, tmp_path):
    assert swept(HEAD + search(trials=1))[0] == 0
    with sqlite3.connect(tmp_path / "runs" / "search.db") as database:
        database.execute("DELETE FROM study_user_attributes")
    code, _, _, err = swept(HEAD + search(trials=1))
    assert code == 2
    assert "search.sampler = None, now tpe" in err


def test_a_storage_that_fails_on_the_way_ends_the_sweep_in_one_line(
    swept, curves, tmp_path, monkeypatch
):
    poll = _Curve.poll

    def destroys(self):
        if self.steps == 3_000:
            with sqlite3.connect(tmp_path / "runs" / "search.db") as database:
                database.execute("DROP TABLE IF EXISTS trial_values")
        return poll(self)

    monkeypatch.setattr(_Curve, "poll", destroys)
    code, document, _, err = swept(HEAD + search(trials=2))
    assert (code, document) == (1, None)
    assert "no such table: trial_values" in err
    assert "search.db" in err
    assert err.count("\n") == 1


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (search(trials=3, trails=3), "unknown setting 'search.trails'. Did you mean 'trials'?"),
        (search(), "'search.trials' is missing"),
        ("[search]\ntrials = 3\n", "'search.parameters' is missing"),
        ("[search]\ntrials = 3\nparameters = {}\n", "'search.parameters' must have at least 1"),
        (search(trials=3, sampler="tpa"), "'search.sampler' must be 'tpe', 'random' or 'cmaes'"),
        (search(trials=3, report_interval=10), "'search.report_interval' must be at least 1000"),
        (search(trials=3) + "seed = { low = 1, high = 2 }\n", "cannot have seed: the best seed is"),
        (
            search(trials=3) + 'game = { choices = ["Pong", "Boxing"] }\n',
            "cannot have game: score",
        ),
        (
            search(trials=3) + "gama = { low = 0.1, high = 0.2 }\n",
            "unknown setting 'gama' in [search.parameters]. Did you mean 'gamma'",
        ),
        (
            search(trials=3) + "gamma = { low = 0.1, hihg = 0.2 }\n",
            "unknown setting 'search.parameters.gamma.hihg'. Did you mean 'high'?",
        ),
        (
            search(trials=3) + "total_timesteps = { low = 1, high = 2 }\n",
            "total_timesteps is in both [settings] and [search.parameters]",
        ),
        (search(trials=3) + "gamma = { low = 0.1 }\n", "it needs low and high, or choices"),
        (search(trials=3) + "gamma = { low = 0.2, high = 0.1 }\n", "low (0.2) must be below high"),
        (
            search(trials=3) + "gamma = { low = 0, high = 0.1, log = true }\n",
            "low must be above 0 on a logarithmic scale",
        ),
        (
            search(trials=3) + "gamma = { low = 0.1, choices = [0.1, 0.2] }\n",
            "it has choices, so it cannot have low, high or log",
        ),
        (
            search(trials=3) + "gamma = { choices = [0.1, 0.1] }\n",
            "one of its choices occurs twice",
        ),
        (
            search(trials=3) + "gamma = { low = 0.9, high = 1.5 }\n",
            "'gamma' must be at most 1, not",
        ),
        (
            search(trials=3) + "batch_size = { low = 1.5, high = 8 }\n",
            "batch_size in [search.parameters] must have whole numbers as low and high, not 1.5",
        ),
        (search(trials=3) + "[compare]\n", "so [compare] cannot stand beside it"),
        (search(trials=3) + "[grid]\nseed = [1]\n", "so [grid] cannot stand beside it"),
        (search(trials=3) + '[[variants]]\nname = "a"\n', "so [[variants]] cannot stand beside it"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_in_one_line(
    command, tmp_path, curves, text, message
):
    path = tmp_path / "rates.toml"
    path.write_text(HEAD + text)
    code, out, err = command("sweep", path, "--dir", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"sweep {path}: " in err
    assert message in err
    assert curves.starts == []
    assert not (tmp_path / "runs").exists()


def test_presets_can_be_searched_if_they_exist(command, tmp_path, curves):
    path = tmp_path / "rates.toml"
    head = HEAD.replace('preset = "quick"\n', "")
    for names, code in ((["quick", "no"], 2), (["quick", "double-dqn"], 0)):
        path.write_text(head + search(trials=5) + f"preset = {{ choices = {names} }}\n")
        found, _, err = command("sweep", path, "--dir", tmp_path / "runs")
        assert found == code
        assert ("unknown preset 'no'" in err) == (code == 2)
    presets = {flags["--preset"] for flags in curves.flags.values()}
    assert presets == {"quick", "double-dqn"}


def test_minutes_do_not_go_with_a_pruner(command, tmp_path, curves):
    path = tmp_path / "rates.toml"
    path.write_text(HEAD.replace("total_timesteps = 10000", "minutes = 1") + search(trials=1))
    code, _, err = command("sweep", path, "--dir", tmp_path / "runs")
    assert code == 2
    assert "pruner 'median' compares scores at the same agent steps" in err


@pytest.mark.parametrize("missing", ["optuna", "cmaes"])
def test_without_the_extra_the_command_says_what_to_install(
    command, tmp_path, curves, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    path = tmp_path / "rates.toml"
    path.write_text(HEAD + search(trials=1, sampler="cmaes"))
    code, _, err = command("sweep", path, "--dir", tmp_path / "runs")
    assert code == 2
    assert "[search] needs the extra `search`" in err
    assert "pip install -c constraints.txt '.[search]'" in err


def test_a_search_has_no_list_of_runs(command, tmp_path, curves):
    path = tmp_path / "rates.toml"
    path.write_text(HEAD + search(trials=4))
    code, out, err = command("sweep", path, "--list", "--dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    assert out == "4 trials, each chosen by the results of those before it\n"
    assert not (tmp_path / "runs").exists()


def test_the_example_of_the_page_is_a_search(command, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "sweeps.md").read_text()
    (example,) = re.findall(r"```toml\n(# rates\.toml\n.+?)```", page, flags=re.DOTALL)
    path = tmp_path / "rates.toml"
    path.write_text(example)
    code, out, err = command("sweep", path, "--list")
    assert (code, err) == (0, "")
    assert out == "30 trials, each chosen by the results of those before it\n"


# Real runs

TINY = """
jobs = 1
threads = 1
[settings]
game = "SpaceInvaders"
preset = "quick"
device = "cpu"
num_envs = 2
total_timesteps = 3_000
learning_starts = 300
buffer_size = 600
batch_size = 16
conv_channels = [4, 4, 4]
hidden_units = 16
eval_episodes = 1
save_interval = 500
[search]
trials = 5
startup_trials = 2
[search.parameters]
learning_rate = { low = 1e-5, high = 1e-2, log = true }
n_steps = { low = 1, high = 3 }
"""


def weights_and_games(run):
    """The digest of a finished run's weights, and its games, action by action."""
    if run["result"] is None:
        return None
    evaluation = run["result"]["evaluation"]
    return evaluation["version"], evaluation["episodes"]


@pytest.mark.slow
@pytest.mark.recorded
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_search_of_real_runs_loses_and_doubles_no_trial(tmp_path, jobs):
    path = tmp_path / "rates.toml"
    path.write_text(TINY)

    def command(name):
        words = ["--dir", tmp_path / name, "--json", tmp_path / f"{name}.json", "--jobs", str(jobs)]
        return [sys.executable, "-m", "rlarcade.sweep", path, *words]

    subprocess.run(command("whole"), stdout=subprocess.DEVNULL, check=True)
    for seconds in (3, 5, 6, 8, 9):
        with subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL) as sweep:
            time.sleep(seconds)
            os.kill(sweep.pid, signal.SIGKILL)
    subprocess.run(command("killed"), stdout=subprocess.DEVNULL, check=True)
    whole = json.loads((tmp_path / "whole.json").read_text())
    killed = json.loads((tmp_path / "killed.json").read_text())
    labels = [f"trial-{n:04d}" for n in range(5)]
    assert [run["label"] for run in killed["runs"]] == labels
    assert set(states(killed["search"])) <= {"finished", "stopped"}
    assert sorted(p.name for p in (tmp_path / "killed").glob("trial-*[0-9]")) == labels
    for run in killed["runs"]:
        log = (tmp_path / "killed" / f"{run['label']}.log").read_text()
        assert len(re.findall("run folder", log)) >= 1
    if jobs == 1:  # nothing depends on the machine's speed
        assert killed["search"] == whole["search"]
        assert [weights_and_games(run) for run in killed["runs"]] == [
            weights_and_games(run) for run in whole["runs"]
        ]
