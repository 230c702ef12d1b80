"""Many training runs from one file, as a user sees them."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_results import read

import rlarcade.sweeps.scheduling
from rlarcade.sweeps.file import read_sweep

TINY = """
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
"""
SEEDS = "[grid]\nseed = [0, 1]\n"


def written(folder, text, name="tiny.toml"):
    path = folder / name
    path.write_text(text)
    return path


def labels_of(out):
    return [line for line in out.splitlines() if not line.startswith(" ")]


def commands_of(out):
    return [shlex.split(line) for line in out.splitlines() if line.startswith(" ")]


def wait_for(text, path, seconds=120):
    deadline = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text!r}"
        time.sleep(0.1)


@pytest.fixture
def nothing_starts(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a run was started")

    monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", refuse)


class Trainings:
    """Stands in for the training processes; each has finished when it is looked at thrice."""

    def __init__(self):
        self.started, self.threads, self.side_by_side = [], [], []
        self.alive = 0

    def __call__(self, command, *, env, start_new_session, **_):
        assert start_new_session
        self.alive += 1
        self.started.append(Path(command[-1]).name)
        self.threads.append(env["OMP_NUM_THREADS"])
        self.side_by_side.append(self.alive)
        return _Training(self, Path(command[-1]))


class _Training:
    def __init__(self, trainings, folder):
        self.trainings, self.folder, self.looks = trainings, folder, 0

    def poll(self):
        self.looks += 1
        if self.looks < 3:
            return None
        self.trainings.alive -= 1
        self.folder.mkdir()
        (self.folder / "run.json").write_text("{}")
        evaluation = {"mean": 10.0, "median": 9.5, "human_normalized": None}
        result = {"steps": 600, "seconds": {"total": 90.0}, "evaluation": evaluation}
        (self.folder / "result.json").write_text(json.dumps(result))
        return 0


@pytest.fixture
def trainings(monkeypatch):
    monkeypatch.setattr("rlarcade.sweeps.scheduling._POLL_SECONDS", 0)
    fake = Trainings()
    monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", fake)
    return fake


# What a file asks for


def test_labels_come_from_what_varies_in_the_files_order(command, tmp_path, nothing_starts):
    path = written(
        tmp_path,
        'settings.preset = "quick"\n'
        '[grid]\ngame = ["SpaceInvaders", "ALE/Breakout-v5"]\nseed = [0, 1]\n'
        '[[variants]]\nname = "plain"\n'
        '[[variants]]\nname = "bf16"\nprecision = "bf16"\n',
    )
    code, out, err = command("sweep", path, "--list", "--dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    assert labels_of(out) == [
        *("space_invaders-plain-seed0", "space_invaders-plain-seed1"),
        *("breakout-plain-seed0", "breakout-plain-seed1"),
        *("space_invaders-bf16-seed0", "space_invaders-bf16-seed1"),
        *("breakout-bf16-seed0", "breakout-bf16-seed1"),
    ]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("grid", "label"),
    [
        ("batch_size = [256]", "pong-batch_size256"),
        ("adam_eps = [1e-5]", "pong-adam_eps1e-05"),
        ("double = [true]", "pong-doubletrue"),
        ("conv_channels = [[8, 16, 16]]", "pong-conv_channels8x16x16"),
        ('preset = ["double-dqn"]', "pong-presetdouble-dqn"),
        ("", "pong"),
    ],
)
def test_a_label_is_a_safe_name_of_a_file(command, tmp_path, grid, label):
    path = written(tmp_path, f'settings.game = "Pong"\n[grid]\n{grid}\n')
    assert labels_of(command("sweep", path, "--list")[1]) == [label]


def test_the_listed_command_trains_with_the_settings_of_the_file(command, tmp_path):
    path = written(
        tmp_path,
        'threads = 3\n[settings]\ngame = "ALE/Pong-v5"\npreset = "quick"\nlearning_rate = 1e-5\n'
        "conv_channels = [8, 8, 8]\nhidden_units = 64\nreward_clip = true\n"
        '[[variants]]\nname = "x"\ndouble = false\nhidden_units = 32\n',
    )
    code, out, _ = command("sweep", path, "--list", "--dir", tmp_path / "a b")
    assert code == 0
    (parts,) = commands_of(out)
    assert parts[:4] == ["OMP_NUM_THREADS=3", sys.executable, "-m", "rlarcade.train"]
    code, out, _ = command("train", *parts[4:], "--print-config")
    assert code == 0
    for line in (
        'game = "pong"',
        "learning_rate = 1e-05",
        "conv_channels = [8, 8, 8]",
        "hidden_units = 32",  # the variant's, not the one of [settings]
        "reward_clip = true",
        "double = false",  # the variant's, not the preset's
        "batch_size = 64",  # the preset's
        f'run_dir = "{tmp_path}/a b/pong-x"',
    ):
        assert line in out.splitlines()


def test_the_runs_of_a_sweep_have_the_trackers_that_the_file_names(command, tmp_path):
    text = '[settings]\ngame = "Pong"\npreset = "quick"\ntrack = ["wandb", "mlflow"]\n'
    code, out, _ = command("sweep", written(tmp_path, text), "--list")
    assert code == 0
    (parts,) = commands_of(out)
    code, out, _ = command("train", *parts[4:], "--print-config")
    assert code == 0
    assert 'track = ["wandb", "mlflow"]' in out.splitlines()


@pytest.mark.parametrize("where", ["settings", "grid", "variant"])
def test_the_runs_of_a_sweep_begin_from_an_agent_that_the_file_names(command, tmp_path, where):
    text = {
        "settings": 'settings.init_from = "zoo:SpaceInvaders"\n',
        "grid": 'grid.init_from = ["zoo:SpaceInvaders"]\n',
        "variant": '[[variants]]\nname = "later"\ninit_from = "zoo:SpaceInvaders"\n',
    }[where]
    code, out, _ = command("sweep", written(tmp_path, PONG + text), "--list")
    assert code == 0
    (parts,) = commands_of(out)
    assert parts[parts.index("--init-from") + 1] == "zoo:SpaceInvaders"


@pytest.mark.parametrize("preset", ["laptop", "fast", "btr", "impala-iqn", "dqn"])
def test_a_share_of_exploration_replaces_the_presets_steps_in_a_sweep(tmp_path, preset):
    text = f'settings.preset = "{preset}"\ngrid.exploration_fraction = [0.5, 0.9]\n'
    _, runs = read_sweep(written(tmp_path, PONG + text), None, jobs=1)
    assert [run.settings.train.exploration.steps for run in runs] == [None, None]
    assert [run.settings.train.exploration.fraction for run in runs] == [0.5, 0.9]


def test_a_length_in_steps_replaces_the_presets_minutes_in_a_sweep(tmp_path):
    text = 'settings.preset = "laptop"\nsettings.total_timesteps = 1000\n'
    _, (run,) = read_sweep(written(tmp_path, PONG + text), None, jobs=1)
    assert run.settings.run.minutes is None


def test_the_folder_is_called_after_the_sweep_and_the_sweep_after_its_file(command, tmp_path):
    (parts,) = commands_of(command("sweep", written(tmp_path, TINY), "--list")[1])
    assert parts[-1] == "checkpoints/sweeps/tiny/space_invaders"
    path = written(tmp_path, 'name = "other"\n' + TINY)
    (parts,) = commands_of(command("sweep", path, "--list")[1])
    assert parts[-1] == "checkpoints/sweeps/other/space_invaders"


def test_rlarcade_sweep_is_the_same_command(capfd, tmp_path, monkeypatch):
    from rlarcade.__main__ import main

    monkeypatch.setattr("sys.argv", ["rlarcade", "sweep", str(written(tmp_path, TINY)), "--list"])
    assert main() == 0
    assert labels_of(capfd.readouterr().out) == ["space_invaders"]


PONG = 'settings.game = "Pong"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs = ", "sweep FILE is not valid TOML: Invalid value"),
        ("jbos = 2\n", "sweep FILE: unknown setting 'jbos'. Did you mean 'jobs'"),
        ("jobs = 0\n", "'jobs' must be at least 1, not 0"),
        ("jobs = true\n", "'jobs' must be a whole number, not True"),
        ("threads = 0\n", "'threads' must be at least 1, not 0"),
        ('name = "../x"\n', "'name' must be text of the form ^[A-Za-z0-9]"),
        ("settings = 3\n", "'settings' must be a table, not 3"),
        ("settings.batchsize = 3\n", "'batchsize' in [settings]. Did you mean 'batch_size'"),
        (PONG + "grid.sed = [3]\n", "unknown setting 'sed' in [grid]. Did you mean 'seed'"),
        (PONG + "grid.seed = []\n", "'grid.seed' must have at least 1 part"),
        (PONG + "grid.seed = 3\n", "'grid.seed' must be a list, not 3"),
        (PONG + 'grid.game = ["Pong"]\n', "game is in both [settings] and [grid]. Remove it"),
        (PONG + "grid.seed = [1, 1]\n", "two runs would be called 'pong-seed1'"),
        ('grid.game = ["Pong", "pong"]\n', "two runs would be called 'pong'"),
        ("grid.seed = [1]\n", "no game was named. Add game to [settings]"),
        (PONG + "variants = []\n", "'variants' must have at least 1 part"),
        (PONG + "[[variants]]\nseed = 3\n", "'variants.0.name' is missing"),
        (PONG + '[[variants]]\nname = "a b"\n', "'variants.0.name' must be text of the form"),
        (PONG + '[[variants]]\nname = "a"\n' * 2, "two variants are called 'a'. Rename one"),
        (
            PONG + '[[variants]]\nname = "a"\nsede = 3\n',
            "unknown setting 'sede' in variant 'a'. Did you mean 'seed'",
        ),
        (
            PONG + 'grid.seed = [1]\n[[variants]]\nname = "a"\nseed = 3\n',
            "seed is in both variant 'a' and [grid]. Remove it from one",
        ),
        (PONG + 'settings.run_dir = "x"\n', "[settings] cannot set run_dir: the sweep sets it"),
        (PONG + 'grid.resume = ["never"]\n', "[grid] cannot set resume: the sweep sets it"),
        (
            PONG + '[[variants]]\nname = "a"\nrun_dir = "x"\n',
            "variant 'a' cannot set run_dir: the sweep sets it itself",
        ),
        (
            PONG + "settings.minutes = 5\nsettings.total_timesteps = 1000\n",
            "minutes = 5 and total_timesteps = 1000 both set the length of a run. Keep one",
        ),
        (
            PONG + "settings.minutes = 5\ngrid.total_timesteps = [1000]\n",
            "minutes = 5 and total_timesteps = 1000 both set the length of a run. Keep one",
        ),
        (
            PONG + 'settings.protocol = { name = "mine", sticky = 0.1 }\n',
            "is no name. Each run of a sweep is a command, which takes one of v5,",
        ),
        ('settings.game = "SpaceInvader"\n', "unknown game 'SpaceInvader'. Did you mean"),
        (PONG + 'settings.preset = "dqm"\n', "unknown preset 'dqm'. Did you mean 'dqn'"),
        (PONG + "settings.preset = 3\n", "unknown preset '3'"),
        (
            PONG + "grid.batch_size = [32, -5]\n",
            "sweep FILE: 'batch_size' must be at least 1, not -5",
        ),
        (
            PONG + '[[variants]]\nname = "a"\n[[variants]]\nname = "b"\nbuffer_size = 100\n',
            "learning_starts (10,000) exceeds buffer_size (100)",
        ),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_used_is_refused_before_anything_runs(
    command, tmp_path, nothing_starts, text, message
):
    path = written(tmp_path, text)
    code, _, err = command("sweep", path, "--dir", tmp_path / "runs")
    assert code == 2
    assert message.replace("FILE", str(path)) in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_what_a_command_line_gets_wrong_is_told(command, tmp_path, nothing_starts):
    code, _, err = command("sweep", "nowhere.toml")
    assert code == 2
    assert "cannot read sweep nowhere.toml: No such file or directory" in err
    path = written(tmp_path, TINY)
    code, _, err = command("sweep", path, "--jobs", 0)
    assert code == 2
    assert "'jobs' must be at least 1, not 0" in err
    code, _, err = command("sweep", path, "--json", "/proc/x.json", "--dir", tmp_path / "runs")
    assert code == 2
    assert "--json /proc/x.json cannot be written" in err
    code, _, err = command("sweep", path, "--dir", "/proc/nope")
    assert code == 1
    assert "No such file or directory: /proc/nope" in err


# Order, and what counts as the same experiment (with processes that only pretend to train)


@pytest.mark.parametrize(
    ("head", "flags", "most", "threads"),
    [
        ("jobs = 2\nthreads = 5\n", [], 2, "5"),
        ("jobs = 2\nthreads = 5\n", ["--jobs", 3], 3, "5"),
        ("jobs = 100\n", [], 4, "1"),
        ("threads = 2\n", ["--jobs", 1], 1, "2"),
    ],
)
def test_so_many_runs_at_once_in_the_files_order(
    command, tmp_path, trainings, head, flags, most, threads
):
    path = written(tmp_path, head + TINY + "[grid]\nseed = [3, 1, 2, 0]\n")
    code, out, err = command("sweep", path, "--dir", tmp_path / "runs", *flags)
    assert (code, err) == (0, "")
    assert trainings.started == [f"space_invaders-seed{seed}" for seed in (3, 1, 2, 0)]
    assert max(trainings.side_by_side) == most
    assert set(trainings.threads) == {threads}
    assert "0/4 done: space_invaders-seed3 started" in out
    assert "1/4 done: space_invaders-seed3 mean 10.0, 1.5 minutes" in out
    assert "4/4 done" in out


def test_machines_can_share_a_sweep_by_the_labels_of_its_runs(command, tmp_path, trainings):
    grid = '[grid]\ngame = ["Pong", "Breakout"]\nseed = [0, 1, 2]\n'
    path = written(tmp_path, TINY.replace('game = "SpaceInvaders"\n', "") + grid)

    def share(number, *only):
        flags = ["--dir", tmp_path / f"{number}", "--json", tmp_path / f"{number}.json"]
        code, _, err = command("sweep", path, *flags, "--jobs", 1, "--only", *only)
        assert (code, err) == (0, "")
        runs = json.loads((tmp_path / f"{number}.json").read_text())["runs"]
        assert trainings.started == [run["label"] for run in runs]
        trainings.started.clear()
        return {run["label"] for run in runs}

    first = share(1, "pong-*")
    second = share(2, "breakout-seed2", "*out-seed[01]")
    assert first == {"pong-seed0", "pong-seed1", "pong-seed2"}
    assert second == {"breakout-seed0", "breakout-seed1", "breakout-seed2"}
    listed = command("sweep", path, "--list", "--only", "*-seed1")[1]
    assert labels_of(listed) == ["pong-seed1", "breakout-seed1"]


SEARCH = "[search]\ntrials = 2\nparameters = { learning_rate = { low = 1e-5, high = 1e-3 } }\n"


@pytest.mark.parametrize(
    ("more", "pattern", "message"),
    [
        ("", "Pong-*", "--only 'Pong-*': no run of this sweep has such a label. The first of 2 "),
        (SEARCH, "*", "by the results, so leave --only out"),
        ("[compare]\n", "*", "--only is for sweeps whose runs are all known beforehand"),
    ],
)
def test_runs_that_cannot_be_chosen_are_refused(
    command, tmp_path, nothing_starts, more, pattern, message
):
    path = written(tmp_path, TINY + (more or SEEDS))
    code, _, err = command("sweep", path, "--dir", tmp_path / "runs", "--only", pattern)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_costs_nothing_and_a_new_one_is_added(command, tmp_path, trainings):
    folder = tmp_path / "runs"
    command("sweep", written(tmp_path, TINY + SEEDS), "--dir", folder)
    path = written(tmp_path, TINY + "[grid]\nseed = [0, 1, 2]\n")
    code, out, _ = command("sweep", path, "--dir", folder)
    assert code == 0
    assert out.startswith("2/3 done, ")
    assert [name[-1] for name in trainings.started] == ["0", "1", "2"]


def test_a_folder_of_another_experiment_is_refused_with_both_values(command, tmp_path, trainings):
    preset, folder = written(tmp_path, "batch_size = 8\n", "mine.toml"), tmp_path / "runs"
    text = f'[settings]\ngame = "Pong"\npreset = "{preset}"\nseed = 4\n'
    assert command("sweep", written(tmp_path, text), "--dir", folder)[0] == 0

    path = written(tmp_path, text.replace("seed = 4", "seed = 5") + "gamma = 0.9\n")
    code, _, err = command("sweep", path, "--dir", folder)
    assert code == 2
    assert f"run pong was begun in {folder}/pong with " in err
    assert "seed = 4, now 5" in err
    assert "gamma = 0.99, now 0.9" in err

    written(tmp_path, "batch_size = 16\n", "mine.toml")  # the sweep's own file is as it was
    code, _, err = command("sweep", written(tmp_path, text), "--dir", folder)
    assert code == 2
    assert "with batch_size = 8, now 16. Put the sweep's file back" in err

    (folder / "pong" / "result.json").unlink()  # begun and not finished is no different
    assert command("sweep", path, "--dir", folder)[0] == 2
    assert trainings.started == ["pong"]


def test_a_run_that_no_sweep_began_is_refused(command, tmp_path, nothing_starts):
    folder = tmp_path / "runs"
    (folder / "space_invaders").mkdir(parents=True)
    (folder / "space_invaders" / "run.json").write_text("{}")
    record = folder / "space_invaders.settings.json"
    for text in (None, "{", "[]", "3"):
        if text is not None:
            record.write_text(text)
        code, _, err = command("sweep", written(tmp_path, TINY), "--dir", folder)
        assert code == 2
        assert f"with unknown settings: {record} is missing or damaged" in err


def test_a_setting_that_came_to_rlarcade_later_stood_at_its_default(command, tmp_path, trainings):
    folder = tmp_path / "runs"
    command("sweep", written(tmp_path, TINY), "--dir", folder)
    record = folder / "space_invaders.settings.json"
    before = json.loads(record.read_text())
    del before["gamma"]
    record.write_text(json.dumps(before))
    assert command("sweep", written(tmp_path, TINY), "--dir", folder)[0] == 0
    path = written(tmp_path, TINY + "gamma = 0.5\n")
    code, _, err = command("sweep", path, "--dir", folder)
    assert code == 2
    assert "with gamma = 0.99, now 0.5. Put" in err


# Real runs


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two real runs, side by side."""
    folder = tmp_path_factory.mktemp("sweep")
    path = written(folder, "jobs = 2\nthreads = 1\n" + TINY + SEEDS)
    command = [sys.executable, "-m", "rlarcade.sweep", path, "--dir", folder / "runs"]
    result = subprocess.run(
        [*command, "--json", folder / "out.json"], capture_output=True, text=True, check=True
    )
    return path, folder / "runs", result


@pytest.mark.slow
def test_a_sweep_trains_every_run_and_shows_them_together(swept):
    path, folder, result = swept
    for line in result.stderr.splitlines():  # only how far the runs are, if it took that long
        assert re.match(
            r"\d/2 runs ended, |space_invaders-seed[01]  (beginning$|[\d,]+/600 steps)", line
        )
    assert {p.name for p in folder.iterdir()} == {
        *("space_invaders-seed0", "space_invaders-seed0.log", "space_invaders-seed0.settings.json"),
        *("space_invaders-seed1", "space_invaders-seed1.log", "space_invaders-seed1.settings.json"),
    }
    document = json.loads((path.parent / "out.json").read_text())
    assert document["sweep"] == "tiny"
    for seed, run in enumerate(document["runs"]):
        assert run["label"] == f"space_invaders-seed{seed}"
        assert run["exit"] == 0
        assert run["settings"]["seed"] == seed
        assert run["settings"]["preset"] == "quick"
        saved = json.loads((folder / run["label"] / "result.json").read_text())
        assert run["result"] == saved
        assert saved["steps"] == 600
        mean = saved["evaluation"]["mean"]
        assert f"{run['label']} mean {mean:.1f}" in result.stdout
        row = next(x for x in result.stdout.splitlines() if x.strip().startswith(run["label"]))
        assert row.split()[:4] == [run["label"], "600", f"{mean:.1f}", f"{mean:.1f}"]
        assert "600 steps = 2,400 frames" in (folder / f"{run['label']}.log").read_text()


def test_the_same_sweep_again_starts_nothing(command, tmp_path, trainings):
    path = written(tmp_path, TINY + SEEDS)
    written_twice = []
    for _ in range(2):
        flags = ["--dir", tmp_path / "runs", "--json", tmp_path / "out.json"]
        code, out, err = command("sweep", path, *flags)
        assert (code, err) == (0, "")
        written_twice.append((tmp_path / "out.json").read_text())
    assert out.startswith("2/2 done")
    assert len(trainings.started) == 2
    assert written_twice[0] == written_twice[1]


# What is shown


def outcomes_of(labels):
    scores = {"mean": 123_456.7, "median": 98_765.4, "human_normalized": 12.345}
    result = {"steps": 50_000_000, "evaluation": scores, "seconds": {"total": 600_000.0}}
    return [{"label": label, "exit": 0, "result": result} for label in labels]


def drawn(labels, width):
    from rich.console import Console

    from rlarcade.sweeps.tables import show_table

    with io.StringIO() as text:
        show_table(outcomes_of(labels), Console(width=width, file=text))
        return text.getvalue()


@pytest.mark.parametrize("rate", ["0.0001", "0.00000000000000000000000000000000000001"])
def test_at_80_columns_the_table_shows_what_differs_and_cuts_no_number(rate):
    labels = [f"space_invaders-plain-double-dqn-learning_rate{rate}-seed{n}" for n in (0, 1)]
    labels.append(labels[0].replace("-seed0", "9-seed0"))
    shown = drawn(labels, 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "runs of space_invaders-plain-double-dqn\n" in shown
    assert "…" not in shown
    for number in ("50,000,000", "123456.7", "98765.4", "1234.5%", "10000.0"):
        assert shown.count(number) == 3
    lines = shown.splitlines()
    width = next(line.index("steps") for line in lines if "steps" in line)
    words = re.sub(r"[^\w.-]", "", "".join(line[:width] for line in lines))
    assert f"learning_rate{rate}-seed0" in words
    assert "seed1" in words
    assert labels[0] in drawn(labels, 200)


def test_a_name_that_another_one_begins_with_is_no_error():
    labels = ["space_invaders-" + "long-" * 20 + "a", "space_invaders-" + "long-" * 20 + "a-b"]
    shown = drawn(labels, 80)
    rows = [line.split()[0] for line in shown.splitlines() if "50,000,000" in line]
    assert rows == ["a", "a-b"]


def test_one_run_keeps_its_whole_name():
    assert "space_invaders-plain" in drawn(["space_invaders-plain"], 80)


def test_while_runs_train_each_tells_its_steps_speed_time_left_and_score(
    command, tmp_path, trainings, monkeypatch
):
    golden = Path(__file__).parents[1] / "data" / "written-by-0.1.0" / "interrupted"
    figures = {"step": 3_000, "time/fps": 250.0, "rollout/ep_rew_mean": 1.25}

    class Slow(_Training):
        def poll(self):
            if self.looks == 0 and not self.folder.exists():
                self.folder.mkdir()
                (self.folder / "run.json").write_text((golden / "run.json").read_text())
                (self.folder / "metrics.jsonl").write_text(json.dumps(figures) + "\n")
            self.looks += 1
            if self.looks < 4:
                return None
            shutil.rmtree(self.folder)
            return super().poll()

    monkeypatch.setattr(sys.modules[__name__], "_Training", Slow)
    monkeypatch.setattr("rlarcade.sweeps.tables._PLAIN_SECONDS", 0)
    code, _, err = command("sweep", written(tmp_path, TINY), "--dir", tmp_path / "runs")
    assert code == 0
    told = "space_invaders  3,000/6,000 steps  250 steps/s  ETA 0:12  score 1.2"
    assert told in err.splitlines()
    assert "0/1 runs ended, 1 running, 0 waiting, ETA 0:12" in err.splitlines()


def test_the_live_table_fits_a_terminal_and_counts_what_does_not():
    from rich.console import Console

    from rlarcade.sweeps.tables import Progress, live_table

    rows = [
        Progress(f"space_invaders-plain-double-dqn-seed{n}", f"node{n}", 3_000, 6_000, 250.0, 1.5)
        for n in range(20)
    ]
    rows[1] = Progress(rows[1].label, "node1", note="beginning")
    with io.StringIO() as text:
        terminal = Console(width=60, height=12, file=text)
        terminal.print(live_table("3/30 runs ended", rows, terminal))
        lines = text.getvalue().splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 60
    assert lines[0] == "3/30 runs ended"
    assert [line.split() for line in lines if "seed0" in line] == [
        ["seed0", "node0", "3,000/6,000", "250", "0:12", "1.5"]
    ]
    assert [line.split() for line in lines if "seed1" in line] == [["seed1", "node1", "beginning"]]
    assert lines[-1] == "… and 13 more"


def test_the_time_left_is_that_of_all_runs_together_and_untold_while_it_is_unknown():
    from rlarcade.config import RunSettings, Settings, TrainConfig
    from rlarcade.sweeps.file import SweepRun
    from rlarcade.sweeps.tables import Progress, headline

    def waiting(**run):
        train = TrainConfig(game="pong", total_timesteps=9_000)
        settings = Settings(preset="x", train=train, run=RunSettings(**run))
        return SweepRun("pong", "x", Path("pong"), {}, settings)

    rows = [Progress("a", "", 1_000, 3_000, 100.0), Progress("b", "", 0, 4_000, 200.0)]
    assert headline(rows, [], 1, 3) == "1/3 runs ended, 2 running, 0 waiting, ETA 0:20"
    # 6,000 + 9,000 steps at 300 a second
    assert headline(rows, [waiting()], 1, 4).endswith("1 waiting, ETA 0:50")
    assert headline(rows, [waiting(minutes=5.0)], 1, 4).endswith("1 waiting")
    assert headline([*rows, Progress("c")], [], 1, 4).endswith("0 waiting")
    assert headline([], [waiting()], 3, 4).endswith("1 waiting")


# The results file and the report


def test_the_results_file_tells_game_agent_seed_and_curve(command, tmp_path, trainings):
    text = TINY.replace('preset = "quick"\n', "") + (
        '[grid]\nseed = [0, 1]\nbatch_size = [8]\n[[variants]]\nname = "a"\npreset = "quick"\n'
    )
    path, folder = written(tmp_path, text.replace("batch_size = 16\n", "")), tmp_path / "runs"
    flags = ["--dir", folder, "--json", tmp_path / "out.json"]
    assert command("sweep", path, *flags)[0] == 0
    lines = [{"step": 100 * n, "rollout/ep_rew_mean": float(n)} for n in range(1, 1_001)]
    for seed in (0, 1):
        metrics = folder / f"space_invaders-a-seed{seed}-batch_size8" / "metrics.jsonl"
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command("sweep", path, *flags)[0] == 0
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["agent"] for run in runs] == ["a-batch_size8"] * 2
    assert [(run["game"], run["seed"]) for run in runs] == [
        ("space_invaders", 0),
        ("space_invaders", 1),
    ]
    assert len(runs[0]["curve"]) == 400
    assert (runs[0]["curve"][0], runs[0]["curve"][-1]) == ([100, 1.0], [100_000, 1_000.0])


def test_an_agent_is_called_after_its_preset_if_nothing_else_varies(command, tmp_path, trainings):
    flags = ["--dir", tmp_path / "runs", "--json", tmp_path / "out.json"]
    assert command("sweep", written(tmp_path, TINY + SEEDS), *flags)[0] == 0
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["agent"] for run in runs] == ["quick", "quick"]


def test_the_report_has_the_scores_of_the_runs(command, tmp_path, trainings):
    page = tmp_path / "report.html"
    path, flags = written(tmp_path, TINY + SEEDS), ["--dir", tmp_path / "runs", "--report", page]
    code, out, err = command("sweep", path, *flags)
    assert (code, err) == (0, "")
    assert f"report: {page}" in out
    shown = read(page.read_text())
    assert "2 of 2 runs finished, 2 seeds" in shown.text
    rows = shown.one("div", id="runs").records()
    assert [(row["run"], row["mean"], row["median"], row["minutes"]) for row in rows] == [
        (f"space_invaders-seed{seed}", "10.0", "9.5", "1.5") for seed in (0, 1)
    ]


def test_metrics_that_cannot_be_read_cost_the_curve_only(command, tmp_path, trainings):
    path, folder = written(tmp_path, TINY), tmp_path / "runs"
    command("sweep", path, "--dir", folder)
    (folder / "space_invaders" / "metrics.jsonl").symlink_to(path)
    code, _, err = command("sweep", path, "--dir", folder, "--json", tmp_path / "out.json")
    assert code == 0
    assert "leave its learning curve out" in err
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert run["curve"] == []
    assert run["result"]["steps"] == 600


def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(
    command, tmp_path, nothing_starts
):
    for name, why in (("/proc/x.html", "cannot be written"), ("x.pdf", "must end in .html")):
        code, _, err = command("sweep", written(tmp_path, TINY), "--report", name)
        assert code == 2
        assert why in err


# Files


def test_settings_with_an_exponent_are_whole_numbers(command, tmp_path, nothing_starts):
    text = 'settings.game = "Pong"\n[grid]\ntotal_timesteps = [1e6, 2e6]\nbuffer_size = [1e5]\n'
    code, out, err = command("sweep", written(tmp_path, text), "--list")
    assert (code, err) == (0, "")
    assert labels_of(out)[0] == "pong-total_timesteps1000000-buffer_size100000"
    assert commands_of(out)[1][-6:-2] == ["--total-timesteps", "2000000", "--buffer-size", "100000"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 20_000, "is nested too deeply"),
        ("settings.seed = " + "9" * 5_000, "Exceeds the limit (4300 digits)"),
        ("settings.seed = 1.5", "no game was named"),
        (PONG + "settings.seed = 1.5", "'seed' must be a whole number, not 1.5"),
    ],
)
def test_a_hostile_file_is_one_line(command, tmp_path, nothing_starts, text, message):
    code, out, err = command("sweep", written(tmp_path, text))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "set_int_max_str_digits" not in err


def test_what_is_no_file_is_refused_without_waiting(command, tmp_path, nothing_starts):
    os.mkfifo(tmp_path / "pipe.toml")
    code, _, err = command("sweep", tmp_path / "pipe.toml")
    assert code == 2
    assert "it is a FIFO, not a regular file" in err


@pytest.mark.parametrize("name", ["space_invaders.log", "space_invaders.settings.json"])
def test_a_link_beside_the_runs_is_refused_and_leads_nowhere(
    command, tmp_path, nothing_starts, name
):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / name).symlink_to(tmp_path / "precious")
    code, _, err = command("sweep", written(tmp_path, TINY), "--dir", tmp_path / "runs")
    assert code == 2
    assert "is a link" in err
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    "result",
    ["{}", '{"steps": 600}', '{"steps": 600, "evaluation": 3, "seconds": 3}', "[" * 20_000],
)
def test_an_outcome_without_its_parts_is_made_again(command, tmp_path, trainings, result):
    path, folder = written(tmp_path, TINY), tmp_path / "runs"
    command("sweep", path, "--dir", folder)
    outcome = folder / "space_invaders" / "result.json"
    outcome.write_text(result)
    shutil.move(folder / "space_invaders", tmp_path / "moved")
    (folder / "space_invaders.settings.json").unlink()
    code, _, err = command("sweep", path, "--dir", folder)
    assert (code, err) == (0, "")
    assert trainings.started == ["space_invaders"] * 2


# Killed


def test_a_run_that_another_process_trains_is_waited_for(command, tmp_path, trainings, monkeypatch):
    from rlarcade.runs.folder import RunFolder

    held = [RunFolder(tmp_path / "runs" / "space_invaders-seed0")]
    real = trainings.__call__

    def started(*args, **kwargs):
        if trainings.started:  # seed 1 has gone first
            raise AssertionError("it was not waited for")
        held.pop().close()
        shutil.rmtree(tmp_path / "runs" / "space_invaders-seed0", ignore_errors=True)
        monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", real)
        return real(*args, **kwargs)

    monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", started)
    path = written(tmp_path, TINY + SEEDS)
    code, out, err = command("sweep", path, "--dir", tmp_path / "runs", "--jobs", 1)
    assert (code, err) == (0, "")
    assert f"space_invaders-seed0 waits for process {os.getpid()}, which works on it" in out
    assert trainings.started == ["space_invaders-seed1", "space_invaders-seed0"]


def test_a_run_that_another_sweep_began_in_the_same_moment_is_waited_for(
    command, tmp_path, trainings, monkeypatch
):
    """This one's process finds the folder locked, ends with 2, and begins nothing."""
    from rlarcade.runs.folder import RunFolder

    real, folder, others = trainings.__call__, tmp_path / "runs" / "space_invaders", []

    class Refused:
        def poll(self):
            return 2

    def started(*args, **kwargs):
        others.append(RunFolder(folder))
        return Refused()

    def other_finishes(seconds):
        if others and "waits for process" in capture[-1]:
            others.pop().close()
            shutil.rmtree(folder, ignore_errors=True)
            training = real(["x", folder], env={"OMP_NUM_THREADS": "1"}, start_new_session=True)
            while training.poll() is None:
                pass

    capture = [""]
    say = rlarcade.sweeps.scheduling.say
    monkeypatch.setattr(
        "rlarcade.sweeps.scheduling.say", lambda line: (capture.append(line), say(line))
    )
    monkeypatch.setattr("rlarcade.sweeps.local.subprocess.Popen", started)
    monkeypatch.setattr("rlarcade.sweeps.scheduling.time.sleep", other_finishes)
    path = written(tmp_path, TINY)
    code, out, err = command("sweep", path, "--dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    assert "waits for process" in out
    assert "exit code 2" not in out


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_runs_with_it_and_the_next_goes_on(tmp_path):
    path = written(tmp_path, TINY.replace("= 600\nl", "= 50_000\nl"))
    command = [sys.executable, "-m", "rlarcade.sweep", path, "--dir", tmp_path / "runs"]
    run = tmp_path / "runs" / "space_invaders"
    log = run.with_name("space_invaders.log")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sweep:
        wait_for("run folder", log)
        trained = int((run / "lock").read_text().split()[0])
        sweep.kill()
    wait_for("stopped at step", log, seconds=60)
    step = log.read_text().split("stopped at step ")[1].split(";")[0]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sweep:
        wait_for(f"resumed at step {step}", log)
        sweep.send_signal(signal.SIGINT)
        out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "stopped with 0/1 done" in out
    with pytest.raises(ProcessLookupError):
        os.kill(trained, 0)


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_go_on(command, tmp_path):
    huge = "buffer_size = 90_000_000_000\ntotal_timesteps = 90_000_000_000\n"
    variants = f'[[variants]]\nname = "huge"\n{huge}'
    path = written(tmp_path, TINY + variants + '[[variants]]\nname = "good"\n')
    flags = ["--dir", tmp_path / "runs", "--jobs", 1, "--json", tmp_path / "out.json"]
    code, out, _ = command("sweep", path, *flags)
    assert code == 1
    log = tmp_path / "runs" / "space_invaders-huge.log"
    assert f"0/2 done: space_invaders-huge ended with exit code 2; {log} ends: rlarcade: er" in out
    assert "lower --buffer-size" in out
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["exit"] for run in runs] == [2, 0]
    assert runs[0]["result"] is None
    assert runs[1]["result"]["steps"] == 600


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_cleanly_and_the_same_command_goes_on(tmp_path):
    path = written(tmp_path, TINY.replace("= 600\nl", "= 50_000\nl") + SEEDS)
    command = [sys.executable, "-m", "rlarcade.sweep", path, "--dir", tmp_path / "runs"]
    command += ["--jobs", "1", "--json", tmp_path / "out.json"]
    log = tmp_path / "runs" / "space_invaders-seed0.log"

    def stopped_when_the_log_says(text):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sweep:
            wait_for(text, log)
            time.sleep(0.5)
            sweep.send_signal(signal.SIGINT)
            out, _ = sweep.communicate(timeout=60)
        assert sweep.returncode == 130
        assert "stopped with 0/2 done; the same command resumes from there" in out
        runs = json.loads((tmp_path / "out.json").read_text())["runs"]
        assert [run["exit"] for run in runs] == [130, None]

    stopped_when_the_log_says("run folder")
    step = log.read_text().split("stopped at step ")[1].split(";")[0]
    stopped_when_the_log_says(f"resumed at step {step}")
    assert not (tmp_path / "runs" / "space_invaders-seed1").exists()
