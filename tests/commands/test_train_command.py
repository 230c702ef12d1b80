"""The training command end to end, as a user sees it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from scripted_games import Script, play_instead

from rlarcade import machine
from rlarcade.checkpoint import list_checkpoints, load_checkpoint
from rlarcade.command_line import HelpShown
from rlarcade.evaluation import Evaluation, evaluate, evaluate_agent, match
from rlarcade.learning import hardware
from rlarcade.learning.learner import Learner
from rlarcade.runs import beginning, training_run
from rlarcade.runs.metrics_file import read_metrics
from rlarcade.train import main

GOLDEN = Path(__file__).parents[1] / "data" / "written-by-0.1.0"
TINY = (
    *("--game", "SpaceInvaders", "--preset", "quick", "--device", "cpu", "--num-envs", "2"),
    *("--total-timesteps", "600", "--learning-starts", "200", "--save-interval", "200"),
    *("--batch-size", "16", "--conv-channels", "4", "4", "4", "--hidden-units", "16"),
    *("--eval-episodes", "1"),
)


@pytest.fixture
def whole_games():
    """Asked for by tests that compare scores with those of the `finished` run."""


@pytest.fixture(autouse=True)
def other_games_are_short(request):
    if "whole_games" not in request.fixturenames:
        request.getfixturevalue("short_games")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run, and what its command said."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--run-dir", folder, "--seed", 3, "--json", folder.parent / "out.json"]
    command = ["train.py", *TINY, "--eval-interval", "400", *map(str, flags)]
    stdout, stderr = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", command)
        assert main() == 0
    return folder, SimpleNamespace(stdout=stdout.getvalue(), stderr=stderr.getvalue())


def test_the_first_screen_tells_what_will_happen(finished):
    _, result = finished
    for text in (
        "SpaceInvaders, protocol v5, seed 3",
        "cpu, fp32",
        "600 steps = 2,400 frames",
        "25 updates of 16, replay ratio 1, 2 games at a time",
        "600 transitions, 0.00 GB in memory, up to 0.06 GB on disk",
        "preset  quick",
        "starting games: 2/2",
        str(finished[0]),
    ):
        assert text in result.stdout
    # nothing but how far it is, if that took so long
    for line in result.stderr.splitlines():
        assert re.match(r"(space_invaders|evaluating): +[\d,]+/[\d,]+ ", line)


def test_the_end_tells_where_the_checkpoint_is_its_scores_and_what_to_do_next(finished):
    folder, result = finished
    checkpoint = folder / "checkpoints" / "step-000000000600"
    assert f"checkpoint: {checkpoint}" in result.stdout
    assert "random 148   human 1668.7   human-normalised" in result.stdout
    assert f"next: python -m rlarcade.evaluate {folder} --episodes 100\n" in result.stdout
    document = json.loads((folder.parent / "out.json").read_text())
    assert (document["steps"], document["frames"]) == (600, 2400)
    assert document["evaluation"]["episodes"][0]["ended"] == "terminated"
    assert document["evaluation"]["game"] == "space_invaders"


def test_the_run_folder_holds_everything_of_the_run(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("run.json", "commands.jsonl", "lock", "metrics.jsonl", "tensorboard"),
        *("checkpoints", "state", "result.json"),
    }
    assert [p.name for p in list_checkpoints(folder)] == [
        "step-000000000200",
        "step-000000000400",
        "step-000000000600",
    ]
    manifest = load_checkpoint(folder).manifest
    assert (manifest.counters.steps, manifest.counters.frames) == (600, 2400)
    assert manifest.counters.updates == 25
    assert manifest.preset == "quick"
    record = json.loads((folder / "run.json").read_text())
    assert record["train"]["game"] == "space_invaders"
    assert None not in (record["train"]["buffer_size"], record["train"]["exploration_steps"])
    assert "--seed" in json.loads((folder / "commands.jsonl").read_text())["command"]
    pickles = [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pt", ".pth")]
    assert not pickles


def test_figures_go_to_tensorboard_and_to_a_file_under_the_same_names(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = finished
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert tags == {name for line in lines for name in line} - {"step"}
    assert {"eval/mean_reward", "eval/mean_ep_length"} <= tags
    by_file = [(x["step"], x["eval/mean_reward"]) for x in lines if "eval/mean_reward" in x]
    by_board = [(e.step, e.value) for e in events.Scalars("eval/mean_reward")]
    assert [step for step, _ in by_board] == [step for step, _ in by_file]
    assert by_board[0][1] == pytest.approx(by_file[0][1])
    assert [step for step, _ in by_file] == [400, 600]  # on the way, and at the end
    outcome = json.loads((folder / "result.json").read_text())
    assert by_file[1][1] == lines[-1]["eval/final_mean_reward"] == outcome["evaluation"]["mean"]
    hparams = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"exploration_steps" in hparams
    assert set(events.Tags()["histograms"]) == {"train/q_values", "train/td_error"}


def test_the_same_command_again_says_that_the_run_is_finished(finished, command):
    folder, _ = finished
    code, out, err = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    assert (code, err) == (0, "")
    assert f"already finished at step 600: {folder}" in out


def test_settings_that_cannot_change_learning_may_differ(finished, command):
    folder, _ = finished
    code, _, err = command(
        "train",
        *TINY,
        "--run-dir",
        folder,
        "--seed",
        3,
        "--save-interval",
        50,
        "--eval-episodes",
        2,
    )
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", 4], "with seed = 3, now it is 4. Continue it with --seed 3, or begin another"),
        (["--seed", 3, "--batch-size", 8], "with batch_size = 16, now it is 8"),
        (["--seed", 3, "--game", "Pong"], "with game = space_invaders, now it is pong"),
        (["--seed", 3, "--total-timesteps", 500], "with total_timesteps = 600, now it is 500"),
        (["--seed", 3, "--no-double"], "with double = true, now it is false"),
        (["--seed", 3, "--max-grad-norm", 10], "with max_grad_norm = None, now it is 10.0"),
        (["--seed", 3, "--resume", "never"], "already holds a run, and --resume is never"),
    ],
    ids=str,
)
def test_a_run_folder_of_another_run_is_refused_with_both_values(finished, command, flags, message):
    folder, _ = finished
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    code, _, err = command("train", *TINY, "--run-dir", folder, *flags)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert before == {
        p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"
    }


@pytest.fixture
def minutes_preset(tmp_path):
    """That of the `finished` run, but with a length in minutes."""
    return quick_and(tmp_path / "fifty.toml", "minutes = 50.0")


def quick_and(path, setting):
    """Writes a preset that is `quick` with one more setting."""
    text = (Path(__file__).parents[2] / "configs" / "quick.toml").read_text("utf-8")
    path.write_text(f"{text}{setting}\n")
    return path


def with_preset(preset, *, steps):
    """TINY's flags with this preset and length."""
    flags = [*TINY]
    flags[flags.index("--preset") + 1] = preset
    flags[flags.index("--total-timesteps") + 1] = steps
    return flags


def without_length(preset):
    """TINY's flags with this preset and no length of their own."""
    flags = with_preset(preset, steps=None)
    at = flags.index("--total-timesteps")
    del flags[at : at + 2]
    return flags


def test_the_default_length_is_in_minutes_and_a_number_of_steps_overrules_it(command):
    _, out, _ = command("train", "--game", "Pong", "--device", "cpu", "--print-config")
    assert "\nminutes = 50.0\n" in out
    assert "# total_timesteps is as many as fit into the minutes" in out
    flags = ["--game", "Pong", "--device", "cpu", "--total-timesteps=700"]
    _, out, _ = command("train", *flags, "--print-config")
    assert "# minutes is unset" in out
    assert "\ntotal_timesteps = 700\n" in out


def test_steps_and_minutes_together_are_refused(command, tmp_path):
    flags = ["--minutes", 5, "--run-dir", tmp_path / "run"]
    code, _, err = command("train", *TINY, *flags)
    assert code == 2
    assert "--total-timesteps 600 and --minutes 5 both set the length of the run. Give one" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "value", "beside"),
    [
        ("--loss", "mse", ["--custom-loss", "my:loss"]),
        ("--exploration-final-eps", 0.1, ["--custom-exploration", "my:share"]),
        ("--exploration-fraction=0.5", None, ["--custom-exploration", "my:share"]),
        ("--learning-rate-final", 1e-5, ["--custom-learning-rate", "my:rate"]),
        ("--learning-rate", 1e-3, ["--custom-learning-rate", "my:rate"]),
        ("--first-kernel", 4, ["--custom-torso", "my:Torso"]),
    ],
)
def test_a_flag_without_effect_beside_ones_own_part_is_refused(command, flag, value, beside):
    words = [flag] if value is None else [flag, value]
    code, _, err = command("train", "--game", "Pong", "--preset", "quick", *words, *beside)
    assert code == 2
    name = flag.partition("=")[0]
    assert f"{name} has no effect beside {beside[0]}. Leave one of them out." in err


def test_a_gate_without_a_pipeline_is_refused(command, tmp_path):
    code, _, err = command("train", *TINY, "--gate", tmp_path / "gate.toml")
    assert code == 2
    assert "--gate has no effect without --pipeline" in err


@pytest.mark.parametrize("preset", ["laptop", "fast", "btr"])
def test_a_share_of_exploration_replaces_the_presets_steps(command, preset):
    flags = ["--game", "Pong", "--preset", preset, "--device", "cpu", "--print-config"]
    _, out, _ = command("train", *flags)
    assert "\nexploration_steps = " in out
    code, out, _ = command("train", *flags, "--exploration-fraction", 0.9)
    assert code == 0
    assert "\nexploration_fraction = 0.9\n" in out
    assert "\nexploration_steps = " not in out
    _, out, _ = command("train", *flags, "--exploration-fraction=0.9", "--exploration-steps", 7)
    assert "\nexploration_steps = 7\n" in out


def test_a_share_of_exploration_decides_a_run_that_begins(command, tmp_path):
    """It resumes with the same command, too."""
    flags = [*TINY, "--preset", "laptop", "--exploration-fraction", 0.5, "--hidden-units", 8]
    for _ in range(2):
        code, _, err = command("train", *flags, "--run-dir", tmp_path / "run")
        assert code == 0, err
    train = json.loads((tmp_path / "run" / "run.json").read_text())["train"]
    assert (train["exploration_steps"], train["exploration_fraction"]) == (300, 0.5)


def test_a_length_in_minutes_is_fixed_once(command, tmp_path, minutes_preset, monkeypatch):
    asked = []
    monkeypatch.setattr(beginning, "steps_in", lambda m, *_: asked.append(m) or round(100 * m))
    flags = [*without_length(minutes_preset), "--run-dir", tmp_path / "run"]
    assert command("train", *flags, "--minutes", 4)[0] == 0
    assert load_checkpoint(tmp_path / "run").manifest.counters.steps == 400
    assert asked == [4]
    assert "already finished at step 400" in command("train", *flags, "--minutes", 4)[1]
    code, _, err = command("train", *flags, "--minutes", 5)
    assert code == 2
    assert "a run of 400 steps. Its length was fixed when it began, so it cannot last 5" in err
    # the preset's minutes are nobody's wish: they say nothing of a run that has begun
    assert "already finished at step 400" in command("train", *flags)[1]
    assert asked == [4]


def test_the_length_of_a_run_holds_against_a_preset_with_minutes(finished, command, minutes_preset):
    folder, _ = finished
    flags = [*without_length(minutes_preset), "--run-dir", folder, "--seed", 3]
    code, out, err = command("train", *flags)
    assert (code, err) == (0, "")
    assert "already finished at step 600" in out
    code, _, err = command("train", *flags, "--minutes", 5)
    assert code == 2
    assert "so it cannot last 5 minutes. Lengthen it with --total-timesteps" in err


def test_a_larger_total_continues_a_finished_run_with_its_schedules(finished, command, tmp_path):
    folder = tmp_path / "longer"
    shutil.copytree(finished[0], folder)
    flags = ["--run-dir", folder, "--seed", 3, "--total-timesteps", 2400]
    code, out, _ = command("train", *TINY, *flags)
    assert code == 0
    assert "resumed at step 600" in out
    assert load_checkpoint(folder).manifest.counters.steps == 2400
    record = json.loads((folder / "run.json").read_text())["train"]
    assert record["total_timesteps"] == 2400
    assert record["exploration_steps"] == 180  # 0.3 of the 600 steps it began with
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == sorted(x["step"] for x in lines)
    # two lanes have played a game or more by now; what is shown is whole games, in raw points
    games = [x for x in lines if "charts/episodic_return" in x]
    assert games
    assert all(x["charts/episodic_return"] % 5 == 0 for x in games)
    names = {name for line in lines for name in line}
    assert {"rollout/ep_rew_mean", "time/frames", "time/fps", "time/learn_share"} <= names


def test_a_longer_run_says_which_schedules_stay_and_lets_replay_grow(finished, command, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    flags = ["--run-dir", folder, "--seed", 3, "--total-timesteps", 1_000]
    code, out, err = command("train", *TINY, *flags)
    assert (code, err) == (0, "")
    assert "the run is lengthened from 600 to 1,000 steps. Its schedules do not change: " in out
    assert "epsilon is 0.01 from step 380 on." in out  # 200 to warm up, 0.3 × 600 to explore
    assert "buffer_size is 1000, but the run began with 600: the contents of replay are kept" in out
    assert "0.3" not in (lines := [x for x in out.splitlines() if "replay  " in x])[0]
    assert lines[0].strip().startswith("replay  1,000 transitions")
    record = json.loads((folder / "run.json").read_text())
    (change,) = record["changes"]
    assert change["from_step"] == 600
    assert change["settings"] == {"total_timesteps": [600, 1000], "buffer_size": [600, 1000]}
    kept = sorted(path.name for path in (folder / "state" / "rows").iterdir())
    assert kept[0].startswith("000000000000-"), "the first rows are still there"


def test_a_longer_run_may_have_another_rate_more_replay_and_other_lanes(
    finished, command, tmp_path
):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    changed = ["--learning-rate", "1e-5", "--buffer-size", 800, "--num-envs", 3]
    flags = ["--run-dir", folder, "--seed", 3, "--total-timesteps", 1_000, *changed]
    code, out, err = command("train", *with_num_envs(None), *flags)
    assert (code, err) == (0, "")
    assert "learning_rate is 1e-05, but the run began with 0.0005: the weights will no" in out
    assert "num_envs is 3, but the run began with 2: the games in flight begin anew, and the" in out
    assert "its 3 games begin anew" in out
    record = json.loads((folder / "run.json").read_text())
    for name, value in (("learning_rate", 1e-5), ("buffer_size", 800), ("num_envs", 3)):
        assert record["train"][name] == value
        assert record["changes"][0]["settings"][name][1] == value
    assert load_checkpoint(folder).manifest.counters.steps == 1_002  # whole steps of three
    # nothing more is asked to go on with what was changed
    assert "already finished at step 1002" in command("train", "--run-dir", folder)[1]


def with_num_envs(count):
    """TINY's flags with this number of lanes, or none of their own."""
    flags = [*TINY]
    at = flags.index("--num-envs")
    flags[at : at + 2] = [] if count is None else ["--num-envs", count]
    return flags


@pytest.mark.parametrize("changed", [["--learning-rate", "1e-5"], ["--num-envs", 3]], ids=str)
def test_a_run_that_becomes_no_longer_keeps_its_rate_and_lanes(finished, command, changed):
    code, _, err = command(
        "train", *with_num_envs(None), "--run-dir", finished[0], "--seed", 3, *changed
    )
    assert code == 2
    assert "now it is" in err


@pytest.mark.parametrize("size", [400, 599])
def test_a_longer_run_gets_no_smaller_replay(finished, command, size):
    flags = ["--run-dir", finished[0], "--seed", 3, "--total-timesteps", 1_000]
    code, _, err = command("train", *TINY, *flags, "--buffer-size", size)
    assert code == 2
    assert f"with buffer_size = 600, now it is {size}" in err


def test_a_change_that_memory_does_not_allow_leaves_the_run_as_it_was(
    finished, command, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = (folder / "run.json").read_bytes(), (folder / "result.json").read_bytes()
    flags = ["--run-dir", folder, "--seed", 3, "--total-timesteps", 9_000, "--buffer-size", 9_000]
    with monkeypatch.context() as patched:
        patched.setattr(machine, "free_memory", lambda: 9_000_000)
        code, _, err = command("train", *TINY, *flags)
    assert code == 2
    assert "buffer_size = 9,000 transitions needs 0.06 GB of memory" in err
    assert ((folder / "run.json").read_bytes(), (folder / "result.json").read_bytes()) == before


def test_a_run_goes_on_with_its_own_preset_and_settings_where_none_are_given(
    finished, command, tmp_path
):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "result.json").unlink()
    code, out, err = command("train", "--run-dir", folder, "--eval-episodes", 1)
    assert (code, err) == (0, "")
    assert "resumed at step 600" in out
    assert "preset  quick" in out
    code, _, err = command("train", "--run-dir", folder, "--batch-size", 8)
    assert code == 2
    assert "with batch_size = 16, now it is 8. Continue it with --batch-size 16" in err


def test_another_preset_than_the_runs_is_named_not_thirteen_flags(finished, command):
    flags = ["--game", "SpaceInvaders", "--preset", "dqn", "--device", "cpu", "--seed", 3]
    code, _, err = command("train", *flags, "--run-dir", finished[0])
    assert code == 2
    assert "holds a run of preset quick, not of dqn; they differ in " in err
    assert "Leave --preset out to continue it with its own settings" in err
    assert "--conv-channels" not in err


def test_the_help_shows_everyday_flags_first_and_the_rest_under_headings(command):
    code, out, _ = command("train", "--help")
    assert code == 0
    places = [out.index(f"─ {title} options ─") for title in HEADINGS]
    assert places == sorted(places)
    everyday = out[places[0] : places[1]]
    for flag in ("--preset", "--game", "--total-timesteps", "--minutes", "--seed", "--run-dir"):
        assert flag in everyday
        assert flag not in out[places[1] :].replace("total_timesteps", "")
    assert "--learning-rate" in out[out.index("─ optimizer") : out.index("─ exploration")]
    assert "--save-interval" in out[out.index("─ run options") :]


HEADINGS = (
    *("everyday", "schedule", "network", "target", "memory", "optimizer", "exploration"),
    *("machine", "run"),
)


def test_a_preset_file_adds_to_its_preset_and_the_first_screen_says_so(command, tmp_path):
    (tmp_path / "mine.toml").write_text('preset = "quick"\nbatch_size = 16\n')
    flags = [*TINY[:2], *TINY[4:], "--preset", tmp_path / "mine.toml", "--total-timesteps", 100]
    code, out, _ = command("train", *flags, "--run-dir", tmp_path / "run")
    assert code == 0
    assert "preset  mine (1 setting of its own, the rest as in quick)\n" in out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["preset"] == "mine"


# Short runs


@pytest.fixture
def nothing_trains(monkeypatch):
    """Ends a run where training would begin."""

    def end(*_):
        raise HelpShown

    monkeypatch.setattr("rlarcade.train.start_lines", end)


def begun_with(command, folder, *flags):
    sizes = ["--conv-channels", 4, 4, 4, "--hidden-units", 16, "--device", "cpu", "--num-envs", 2]
    outcome = command("train", "--game", "Pong", *sizes, "--run-dir", folder, *flags)
    return json.loads((folder / "run.json").read_text())["train"], *outcome


def test_the_beginning_of_a_short_run_follows_its_length(command, tmp_path, nothing_trains):
    flags = ["--preset", "laptop", "--total-timesteps", 2_000]
    train, _, out, err = begun_with(command, tmp_path / "run", *flags)
    assert (train["learning_starts"], train["exploration_steps"]) == (100, 600)
    assert train["n_steps_duration"] == train["learning_rate_steps"] == 2_000
    assert "learning_starts 100 of 10,000" in out
    assert "exploration_steps 600 of 100,000" in out
    assert "2,000 steps are too few to learn to play. After about 40,000 steps" in err
    assert "--preset quick" in err
    # the preset's numbers are still what the same command asks for
    code, out, err = command(
        *("train", "--game", "Pong", *flags, "--run-dir", tmp_path / "run", "--device", "cpu"),
        *("--conv-channels", 4, 4, 4, "--hidden-units", 16, "--num-envs", 2),
    )
    assert (code, err) == (0, "")
    assert "nothing was saved yet" in out


def test_what_was_asked_for_one_by_one_follows_no_length(command, tmp_path, nothing_trains):
    flags = ["--total-timesteps", 2_000, "--learning-starts", 1_500, "--exploration-steps", 9_000]
    train, _, _, err = begun_with(command, tmp_path / "run", "--preset", "laptop", *flags)
    assert (train["learning_starts"], train["exploration_steps"]) == (1_500, 9_000)
    assert "too few" not in err


@pytest.mark.parametrize(
    ("preset", "length"), [("quick", 40_000), ("dqn", 300_000), ("laptop", 1_000_000)]
)
def test_a_run_of_the_usual_length_begins_as_its_preset_says(
    command, tmp_path, nothing_trains, preset, length
):
    from rlarcade.config import load_preset

    flags = ["--preset", preset, "--total-timesteps", length, "--buffer-size", 25_000]
    train, _, out, err = begun_with(command, tmp_path / "run", *flags)
    assert err == ""
    assert "a short run" not in out
    for name in ("learning_starts", "exploration_steps", "n_steps_duration"):
        assert train[name] == load_preset(preset)[1].get(name, train[name])


# Runs that older code began


def begun_by_0_1_0(name, folder):
    """A copy of a run folder that older code wrote, and the flags of its command."""
    folder = shutil.copytree(GOLDEN / name, folder)
    line = json.loads((folder / "commands.jsonl").read_text())["command"][1:]
    line[line.index("--run-dir") + 1] = str(folder)
    return folder, line


@pytest.mark.usefixtures("real_games")
def test_a_run_that_rlarcade_0_1_0_finished_becomes_longer(command, tmp_path):
    folder, line = begun_by_0_1_0("run", tmp_path / "run")
    code, out, err = command("train", *line)
    assert (code, err) == (0, "")
    assert "already finished at step 1200" in out
    longer = ["--run-dir", folder, "--total-timesteps", 1_400, "--eval-episodes", 1]
    code, out, err = command("train", *longer)
    assert (code, err) == (0, "")
    assert "resumed at step 1200" in out
    assert load_checkpoint(folder).manifest.counters.steps == 1_400


@pytest.mark.usefixtures("real_games")
def test_a_run_that_rlarcade_0_1_0_began_goes_on(command, tmp_path, monkeypatch):
    folder, line = begun_by_0_1_0("interrupted", tmp_path / "run")
    real, updates = Learner.update, []

    def update(self, batch):
        updates.append(real(self, batch))
        if len(updates) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return updates[-1]

    monkeypatch.setattr(Learner, "update", update)
    code, out, err = command("train", *line)
    assert code == 130
    assert err.strip() == "rlarcade: stopping after this step; again to quit at once"
    assert "resumed at step 2024" in out
    counters = load_checkpoint(folder).manifest.counters
    begun = load_checkpoint(GOLDEN / "interrupted").manifest.counters
    assert 2_024 < counters.steps < 3_000
    assert counters.updates == begun.updates + len(updates)


@pytest.mark.usefixtures("real_games")
@pytest.mark.slow
def test_a_run_that_rlarcade_0_1_0_began_goes_on_to_its_end(command, tmp_path):
    folder, line = begun_by_0_1_0("interrupted", tmp_path / "run")
    code, out, err = command("train", *line)
    assert (code, err) == (0, "")
    assert "resumed at step 2024" in out
    assert load_checkpoint(folder).manifest.counters.steps == 6_000


def test_an_evaluation_on_the_way_plays_other_games_than_the_one_at_the_end(
    command, tmp_path, monkeypatch
):
    played = []

    def noted(*args, **kwargs):
        played.append(evaluate_agent(*args, **kwargs))
        return played[-1]

    monkeypatch.setattr(training_run, "evaluate_agent", noted)
    flags = ["--eval-interval", 200, "--total-timesteps", 400, "--eval-episodes", 3]
    assert command("train", *TINY, *flags, "--run-dir", tmp_path / "run")[0] == 0
    first, second, last = ([game.seed for game in each.episodes] for each in played)
    assert first == second, "checkpoints are chosen between by the same games"
    assert not set(first) & set(last), "and judged by others"


def test_a_clipped_run_does_not_go_on_unclipped(command, tmp_path):
    flags = ["--run-dir", tmp_path / "run", "--max-grad-norm", 10]
    assert command("train", *TINY, *flags, "--total-timesteps", 100)[0] == 0
    code, _, err = command("train", *TINY, *flags[:2], "--total-timesteps", 200)
    assert code == 2
    assert "holds a run of preset quick with max_grad_norm = 10.0, now it is None" in err


def test_the_flags_that_a_run_of_many_other_settings_asks_for_continue_it(command, tmp_path):
    flags = ["--run-dir", tmp_path / "run"]
    begun = ["--noisy", "--no-double", "--conv-channels", 8, 4, 4, "--max-grad-norm", 10]
    assert command("train", *TINY, *flags, *begun)[0] == 0
    code, _, err = command("train", *TINY, *flags)
    assert code == 2
    assert "double = false, now it is true; " in err
    assert "noisy = true, now it is false" in err
    remedy = err.split("Continue it with ")[1].split(", or begin")[0].split()
    assert {"--no-double", "--noisy", "--conv-channels", "--max-grad-norm"} <= set(remedy)
    assert command("train", *TINY, *flags, *remedy)[0] == 0


def test_a_damaged_outcome_is_made_again(finished, command, tmp_path, whole_games, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before = json.loads((folder / "result.json").read_text())
    flags = [*TINY, "--run-dir", folder, "--seed", 3]
    for damage in (b'{"checkpoint": "half', b"", b"[]", b"{}"):
        (folder / "result.json").write_bytes(damage)
        code, out, err = command("train", *flags)
        assert (code, err) == (0, "")
        assert "resumed at step 600" in out
        again = json.loads((folder / "result.json").read_text())
        assert again["evaluation"]["episodes"] == before["evaluation"]["episodes"]
        # the same game once is enough
        known = Evaluation.model_validate(before["evaluation"])
        monkeypatch.setattr(training_run, "evaluate_agent", lambda *_, known=known, **__: known)


def test_a_damaged_policy_checkpoint_is_written_again_from_the_state(finished, command, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "result.json").unlink()
    weights = folder / "checkpoints" / "step-000000000600" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    code, _, err = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    assert (code, err) == (0, "")
    assert weights.read_bytes() == whole


def test_a_run_folder_that_was_moved_tells_the_checkpoint_where_it_is_now(
    finished, command, tmp_path
):
    folder = tmp_path / "moved"
    shutil.copytree(finished[0], folder)
    json_file = tmp_path / "out.json"
    code, out, err = command("train", "--run-dir", folder, "--json", json_file)
    assert (code, err) == (0, "")
    now = folder / "checkpoints" / "step-000000000600"
    assert f"checkpoint: {now}\n" in out
    assert json.loads(json_file.read_text())["checkpoint"] == str(now)


def test_a_finished_run_whose_checkpoint_is_lost_writes_it_again(finished, command, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    newest = folder / "checkpoints" / "step-000000000600"
    whole = (newest / "weights.safetensors").read_bytes()
    shutil.rmtree(newest)
    code, out, err = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    assert (code, err) == (0, "")
    assert "resumed at step 600" in out
    assert (newest / "weights.safetensors").read_bytes() == whole
    shutil.rmtree(folder / "state")
    shutil.rmtree(newest)
    code, out, err = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    assert code == 0
    assert "already finished at step 600" in out
    assert f"{newest}, is missing or damaged" in err


@pytest.mark.parametrize("length", [600, 800])
def test_a_run_with_checkpoints_and_no_state_does_not_begin_over_them(
    finished, command, tmp_path, length
):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "state")
    if length == 600:
        (folder / "result.json").unlink()
    before = {p: p.read_bytes() for p in folder.rglob("*.json*") if p.name != "commands.jsonl"}
    code, out, err = command(
        "train", *TINY, "--run-dir", folder, "--seed", 3, "--total-timesteps", length
    )
    assert (code, out.count("starting")) == (2, 0)
    assert "has policy checkpoints up to step-000000000600, but no training state" in err
    assert "--init-from" in err
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    "left", ["result.json", "metrics.jsonl", "checkpoints/step-000000000600/manifest.json"]
)
def test_what_is_left_of_a_run_is_not_overwritten_by_another(finished, command, tmp_path, left):
    folder = tmp_path / "run"
    (folder / left).parent.mkdir(parents=True)
    shutil.copy(finished[0] / left, folder / left)
    code, _, err = command("train", *TINY, "--run-dir", folder, "--seed", 4)
    assert code == 2
    assert f"has no run.json, but {left.removesuffix('/manifest.json')} of some run" in err
    assert (folder / left).read_bytes() == (finished[0] / left).read_bytes()
    assert not (folder / "run.json").exists()


def test_a_run_of_another_format_is_left_to_the_rlarcade_that_wrote_it(finished, command, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"format_version": 2}))
    code, _, err = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    assert code == 2
    assert "has format version 2; this rlarcade reads version 1" in err


def test_what_a_kill_left_unfinished_goes_away(finished, command, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    left = [".run.json.writing", ".metrics.jsonl.0a1b2c3d.writing", ".result.json.00000000.writing"]
    for name in (*left, ".mine.writing"):
        (folder / name).write_text("half")
    assert command("train", *TINY, "--run-dir", folder, "--seed", 3)[0] == 0
    assert [name for name in (*left, ".mine.writing") if (folder / name).exists()] == [
        ".mine.writing"
    ]


def test_a_damaged_state_is_told_and_the_run_goes_on_from_an_older_one_to_the_same_end(
    finished, command, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "result.json").unlink()
    arrays = folder / "state" / "step-000000000600" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1])
    code, out, err = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    assert code == 0
    assert "resumed at step 400" in out
    assert str(arrays) in err
    assert "Resuming from an older state." in err
    ours, theirs = (load_checkpoint(run).manifest for run in (folder, finished[0]))
    assert ours.weights_sha256 == theirs.weights_sha256


def test_a_longer_run_that_the_disk_cannot_hold_is_refused(
    finished, command, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    monkeypatch.setattr(psutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    code, _, err = command(
        "train", *TINY, "--run-dir", folder, "--seed", 3, "--total-timesteps", 60_000
    )
    assert code == 2
    assert "the run may need 0.0" in err
    assert "GB on the disk of" in err
    assert (folder / "result.json").exists()


@pytest.fixture
def large_replay_preset(tmp_path):
    return quick_and(tmp_path / "large.toml", "buffer_size = 2_000")


def test_a_replay_is_never_larger_than_the_run(command, tmp_path, large_replay_preset):
    flags = with_preset(large_replay_preset, steps=400)
    for asked in ([], ["--buffer-size", 3_000]):
        folder = tmp_path / f"run{len(asked)}"
        assert command("train", *flags, *asked, "--run-dir", folder)[0] == 0
        assert json.loads((folder / "run.json").read_text())["train"]["buffer_size"] == 400
        longer = [*flags, *asked, "--total-timesteps", 500, "--run-dir", folder]
        for said in ("resumed at step 400", "already finished at step 500"):
            code, out, err = command("train", *longer)
            assert (code, err) == (0, "")
            assert said in out
        assert json.loads((folder / "run.json").read_text())["train"]["buffer_size"] == 500
    code, out, err = command("train", *longer, "--buffer-size", 2_999)  # no larger than the run
    assert (code, err, "already finished" in out) == (0, "", True)
    code, _, err = command("train", *longer, "--buffer-size", 450)
    assert code == 2
    assert "with buffer_size = 500, now it is 450" in err


def test_a_presets_replay_gives_way_to_a_small_memory_and_one_asked_for_is_refused(
    command, tmp_path, large_replay_preset, monkeypatch
):
    flags = with_preset(large_replay_preset, steps=2_000)
    monkeypatch.setattr(machine, "free_memory", lambda: 1_500 * 7_100)
    code, _, err = command("train", *flags, "--run-dir", tmp_path / "a", "--buffer-size", 2_000)
    assert code == 2
    assert "buffer_size = 2,000 transitions needs 0.01 GB of memory" in err
    code, _, err = command("train", *flags, "--run-dir", tmp_path / "b")
    assert code == 0
    assert "has a replay of 2,000 transitions. Half of the free memory holds 75" in err
    taken = json.loads((tmp_path / "b" / "run.json").read_text())["train"]["buffer_size"]
    assert 750 <= taken < 760
    monkeypatch.undo()
    code, out, _ = command("train", *flags, "--run-dir", tmp_path / "b")
    assert (code, "already finished" in out) == (0, True)


def test_another_thread_count_is_allowed_with_a_warning(finished, command, tmp_path):
    folder = tmp_path / "threads"
    shutil.copytree(finished[0], folder)
    flags = ["--run-dir", folder, "--seed", 3, "--total-timesteps", 620, "--torch-threads", 2]
    code, _, err = command("train", *TINY, *flags)
    assert code == 0
    assert "torch_threads is 2, but the run began with 1" in err


def test_a_lock_refuses_a_second_process(command, tmp_path):
    from rlarcade.runs.folder import RunFolder

    folder = RunFolder(tmp_path / "run")
    code, _, err = command("train", *TINY, "--run-dir", tmp_path / "run")
    folder.close()
    assert code == 2
    assert f"is in use by process {os.getpid()}" in err


def test_a_run_starts_from_a_checkpoint_and_records_its_parent(finished, command, tmp_path):
    folder, _ = finished
    parent = load_checkpoint(folder).manifest.weights_sha256
    flags = [*TINY, "--run-dir", tmp_path / "child", "--init-from", folder]
    code, _, _ = command("train", *flags, "--total-timesteps", 300)
    assert code == 0
    assert load_checkpoint(tmp_path / "child").manifest.parent == parent
    other = folder / "checkpoints" / "step-000000000200"
    flags[-1] = str(other)
    code, _, err = command("train", *flags, "--total-timesteps", 300)
    assert code == 2
    assert "holds a run that began from" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_130_and_the_same_command_goes_on(tmp_path, number):
    command = [sys.executable, "-m", "rlarcade.train", *TINY, "--run-dir", str(tmp_path / "run")]
    command[command.index("600")] = "50000"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while "run folder" not in process.stdout.readline():
            pass
        time.sleep(0.5)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    stopped = int(out.split("stopped at step ")[1].split(";")[0])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = ""
        while "resumed" not in line:
            line = process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=60)
    assert line.strip() == f"resumed at step {stopped}"


def after_ctrl_c(played):
    """Plays games as `played` does, but Ctrl-C comes first."""

    def play(schedule, num_lanes, **settings):
        os.kill(os.getpid(), signal.SIGINT)
        yield from played(schedule, num_lanes, **settings)

    return play


def test_a_stop_during_an_evaluation_on_the_way_leaves_it_to_the_run_that_goes_on(
    whole_games, finished, command, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    flags = [*TINY, "--run-dir", run, "--seed", 3, "--eval-interval", 400]
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "play_games", after_ctrl_c(evaluate.play_games))
        code, out, _ = command("train", *flags)
    assert code == 130
    assert "stopped at step 400" in out
    assert not any("eval/mean_reward" in line for line in read_metrics(run))
    assert command("train", *flags)[0] == 0

    def figures(folder):
        return [
            {name: value for name, value in line.items() if not name.startswith("time/")}
            for line in read_metrics(folder)
        ]

    assert figures(run) == figures(finished[0])
    assert [line["step"] for line in figures(run) if "eval/mean_reward" in line] == [400, 600]


def test_a_second_ctrl_c_quits_at_once(tmp_path):
    code = (
        "import os, signal, time\n"
        "from rlarcade.console import StopSignal\n"
        "with StopSignal() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT); assert stop.requested\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
    )
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 130
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("faster", [True, False])
def test_bf16_that_is_slower_than_fp32_here_is_told(command, tmp_path, monkeypatch, faster):
    monkeypatch.setattr(hardware, "_seconds_per_update", lambda t: (t == torch.bfloat16) != faster)
    flags = (*TINY, "--run-dir", tmp_path / "run", "--precision", "bf16", "--total-timesteps", 210)
    code, _, err = command("train", *flags)
    assert code == 0
    assert ("bf16 is slower than fp32 on this CPU" in err) != faster


# Bad input: one clear line, exit code 2, nothing lost


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--game", "SpaceInvader"], "unknown game 'SpaceInvader'. Did you mean SpaceInvaders"),
        (
            ["--game", "SpaceInvader", "--minutes", "5", "--run-dir", "run"],
            "unknown game 'SpaceInvader'. Did you mean SpaceInvaders",
        ),
        (["--game", "joust"], "game 'joust' cannot be trained: its ROM has no single-player mode"),
        ([], "--game"),
        (["--game", "Pong", "--preset", "dqm"], "unknown preset 'dqm'. Did you mean 'dqn'"),
        (["--game", "Pong", "--batchsize", "3"], "--batch-size"),
        (["--game", "Pong", "--batch-size", "x"], "--batch-size takes a whole number, got 'x'"),
        (
            ["--game", "Pong", "--buffer-size", "1.5"],
            "--buffer-size takes a whole number, got '1.5'",
        ),
        (["--game", "Pong", "--seed", "1e6.5"], "--seed takes a whole number, got '1e6.5'"),
        (["--game", "Pong", "--buffer-size", "-5"], "'buffer_size' must be at least 1, not -5"),
        (["--game", "Pong", "--num-envs", "9" * 5_000], f"got '{'9' * 39}…{'9' * 38}'."),
        (["--game", "Pong", "--num-taus", "2e8"], "'num_taus' must be at most 512, not 200000000"),
        (["--game", "Pong", "--lr", "3"], "unknown flag --lr. Did you mean --learning-rate?"),
        (["--game", "Pong", "--device", "cuda:1"], "Use CUDA_VISIBLE_DEVICES=1 and device cuda."),
        (["--game", "Pong", "--batch-size", "-5"], "'batch_size' must be at least 1, not -5"),
        (
            ["--game", "Pong", "--protocol", "v4"],
            "one of machado, nature, v5, got 'v4'",
        ),
        (
            ["--game", "Pong", "--buffer-size", "100", "--num-envs", "2"],
            "learning_starts (10,000) exceeds buffer_size (100)",
        ),
        (
            [
                *("--game", "Pong", "--buffer-size", "90000000000"),
                *("--total-timesteps", "90000000000"),
            ],
            "lower --buffer-size",
        ),
        (["--game", "Pong", "--init-from", "nowhere"], "nowhere does not exist"),
        (["--game", "Pong", "--run-dir", "/proc/nope"], "run folder /proc/nope cannot be used"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_words(command, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("train", *flags)
    assert code == 2
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert "validation error" not in err
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())


@pytest.mark.skipif(__import__("torch").cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused(command, tmp_path):
    flags = ("--game", "Pong", "--device", "cuda", "--run-dir", tmp_path / "r")
    for length in ("--total-timesteps", "--minutes"):
        code, out, err = command("train", *flags, length, 600)
        assert (code, out) == (2, "")
        assert err.startswith("rlarcade: error: device cuda was asked for")


def test_a_run_record_that_was_altered_is_refused(command, tmp_path):
    (tmp_path / "run.json").write_text('{"preset": 3}')
    code, _, err = command("train", *TINY, "--run-dir", tmp_path)
    assert code == 2
    assert "run.json cannot be read" in err
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    code, _, err = command("train", *TINY, "--run-dir", tmp_path)
    assert code == 2


def test_print_config_shows_a_preset_that_gives_the_same_settings(command, tmp_path):
    code, out, _ = command("train", *TINY, "--print-config")
    assert code == 0
    assert "batch_size = 16" in out
    path = tmp_path / "printed.toml"
    path.write_text(out)
    assert command("train", "--preset", path, "--print-config")[1] == out


@pytest.mark.parametrize("flag", [["--total-timesteps", "1e6"], ["--total_timesteps=1E+6"]])
def test_a_whole_number_may_be_written_with_an_exponent(command, tmp_path, flag):
    _, out, _ = command("train", "--game", "Pong", "--preset", "dqn", *flag, "--print-config")
    assert "\ntotal_timesteps = 1000000\n" in out
    path = tmp_path / "mine.toml"
    path.write_text("total_timesteps = 2e6\nbuffer_size = 1e5\n")
    _, out, _ = command("train", "--game", "Pong", "--preset", path, "--print-config")
    assert "\ntotal_timesteps = 2000000\n" in out
    assert "\nbuffer_size = 100000\n" in out


def test_a_command_that_is_printed_can_be_pasted(command, tmp_path, finished):
    folder = shutil.copytree(finished[0], tmp_path / "my runs; ls")
    (folder / "result.json").unlink()
    _, out, _ = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    line = next(x for x in out.splitlines() if x.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words == ["python", "-m", "rlarcade.evaluate", str(folder), "--episodes", "100"]


@pytest.mark.parametrize("name", ["state", "metrics.jsonl", "run.json"])
def test_a_link_in_a_run_folder_ends_the_command_and_destroys_nothing(
    finished, command, tmp_path, name
):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    moved = tmp_path / "elsewhere"
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())
    code, out, err = command("train", *TINY, "--run-dir", folder, "--seed", 3)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"its {name} is a link" in err
    assert before == sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())


def test_a_run_that_starts_from_another_game_tells_what_it_takes(finished, command, tmp_path):
    flags = [*TINY, "--run-dir", tmp_path / "pong", "--init-from", finished[0]]
    flags[flags.index("SpaceInvaders")] = "Pong"
    code, out, _ = command("train", *flags, "--total-timesteps", 220)
    assert code == 0
    assert "plays SpaceInvaders with 6 actions: its torso is used, the head starts anew" in out
    sha256 = load_checkpoint(finished[0]).manifest.weights_sha256
    assert load_checkpoint(tmp_path / "pong").manifest.parent == f"torso of {sha256}"[:64]
    code, out, _ = command("train", *flags, "--total-timesteps", 220)
    assert (code, "already finished" in out) == (0, True)


def test_a_preset_file_may_be_overruled_by_flags(command, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('game = "Pong"\nbatch_size = 7\ndouble = true\n')
    _, out, _ = command("train", "--preset", path, "--batch-size", 9, "--print-config")
    assert "batch_size = 9" in out
    assert "double = true" in out
    assert 'game = "Pong"' in out


@pytest.mark.parametrize(
    ("flags", "gpu", "preset"),
    [
        ([], False, "laptop"),
        ([], True, "fast"),
        (["--device", "cpu"], True, "laptop"),
        (["--device=cuda"], True, "fast"),
        (["--preset", "iqn"], True, "iqn"),
    ],
    ids=str,
)
def test_without_a_preset_it_is_the_one_for_the_machine(command, monkeypatch, flags, gpu, preset):
    from rlarcade.config import load_preset

    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    _, out, _ = command("train", "--game", "Pong", *flags, "--print-config")
    for name, value in load_preset(preset)[1].items():
        assert f"{name} = {json.dumps(value)}" in out


def test_the_default_run_folder_is_a_function_of_game_preset_and_seed():
    from rlarcade.config import make_settings
    from rlarcade.runs.folder import default_run_folder

    settings = make_settings("quick", {"game": "ALE/SpaceInvaders-v5", "seed": 4})
    assert str(default_run_folder(settings)) == "checkpoints/space_invaders-quick-seed4"


def test_a_full_disk_on_the_way_is_told_and_training_goes_on(command, tmp_path, monkeypatch):
    from rlarcade.runs.state_store import StateStore

    real, calls = StateStore.save, []

    def sometimes(self, state, seconds):
        calls.append(state.steps)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(self, state, seconds)

    monkeypatch.setattr(StateStore, "save", sometimes)
    code, _, err = command("train", *TINY, "--run-dir", tmp_path / "run")
    assert code == 0
    assert "could not save at step 400: No space left on device. The last good state" in err
    assert "kept (step 200)" in err


def test_a_full_disk_at_the_end_is_an_error_and_keeps_the_last_good_state(
    command, tmp_path, monkeypatch
):
    from rlarcade.runs.state_store import StateStore

    real = StateStore.save

    def never_at_the_end(self, state, seconds):
        if state.steps >= 590:
            raise OSError(28, "No space left on device")
        real(self, state, seconds)

    monkeypatch.setattr(StateStore, "save", never_at_the_end)
    code, _, err = command("train", *TINY, "--run-dir", tmp_path / "run")
    assert code == 1
    assert "No space left on device" in err
    assert "Once the disk can be written, the same command resumes the run" in err
    monkeypatch.undo()
    code, out, _ = command("train", *TINY, "--run-dir", tmp_path / "run")
    assert code == 0
    assert "resumed at step 400" in out


def test_a_warm_up_longer_than_the_run_is_told(command, tmp_path):
    code, _, err = command("train", *TINY, "--total-timesteps", 100, "--run-dir", tmp_path / "run")
    assert code == 0
    assert (
        "nothing will be learned: learning_starts (200) is not below total_timesteps (100)" in err
    )


# Pipelines


def piped(command, folder, *flags):
    return command(
        "train",
        *("--game", "Pong", "--preset", "dqn", "--total-timesteps", 128, "--learning-starts", 32),
        *("--num-envs", 2, "--buffer-size", 64, "--conv-channels", 2, 2, 2, "--hidden-units", 4),
        *("--eval-episodes", 1, "--save-interval", 64, "--run-dir", folder, *flags),
    )


@pytest.fixture
def stronger_later(tmp_path, monkeypatch):
    """Pipelines whose matches are made up: the version with more steps wins every pair."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gate.toml").write_text(
        "[smoke]\nsteps = 3\n[random]\nenabled = false\n[latency]\nmax_milliseconds = 10_000\n"
    )
    script = Script(lambda game: (game.player._agent.manifest.counters.steps, 1.0), lanes=4)
    play_instead(monkeypatch, script)
    return script


def test_training_improves_the_champion_by_itself(command, stronger_later, tmp_path):
    code, out, err = piped(command, "run", "--pipeline", "deployment", "--gate", "gate.toml")
    assert (code, err) == (0, "")
    told = [line for line in out.splitlines() if line.startswith("submission")]
    assert [line.split(" – ")[0] for line in told] == [
        "submission 1: version 1 of Pong, deployment: PROMOTED",
        "submission 2: version 2 of Pong, deployment: PROMOTED",
    ]
    code, out, _ = command("promote", "show", "champion@pong", "--json", "champion.json")
    version = json.loads(Path("champion.json").read_text())["version"]
    assert (version["number"], version["steps"], version["preset"]) == (2, 128, "dqn")


def test_delivery_leaves_the_choice_to_a_person_and_the_run_goes_on(command, stronger_later):
    code, out, _ = piped(
        command, "run", "--pipeline", "delivery", "--gate", "gate.toml", "--registry", "mine"
    )
    assert code == 0
    assert out.count("AWAITING APPROVAL") == 2
    assert Path("mine/registry.sqlite").exists()
    assert not Path("checkpoints").exists()


def test_a_pipeline_that_fails_is_told_and_does_not_end_the_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("blocked").write_text("a file where the registry should be")
    code, _, err = piped(command, "run", "--pipeline", "ci", "--registry", "blocked")
    assert code == 0
    assert err.count("warning: pipeline, step") == 2
    assert "blocked" in err


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://anna@127.0.0.1:1/games", "cannot be reached"),
        ("mysql://anna@db.example/games", "is no kind of registry"),
        ("postgresql:/games", "is no address of a database"),
    ],
)
@pytest.mark.parametrize("mode", ["ci", "delivery", "deployment"])
def test_a_registry_that_cannot_be_used_is_told_before_training(
    command, tmp_path, monkeypatch, address, message, mode
):
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    code, _, err = piped(command, "run", "--pipeline", mode, "--registry", address)
    assert code != 0
    assert message in err
    assert not Path("run").exists()


def test_an_address_stays_an_address_and_its_password_is_not_kept(command, tmp_path, monkeypatch):
    address = "postgresql://anna:secret@db.example/games?blobs=s3://b/f"
    code, out, _ = piped(command, tmp_path / "run", "--registry", address, "--print-config")
    assert code == 0
    assert f'registry = "{address}"' in out
    monkeypatch.setattr(sys, "argv", ["rlarcade", "--registry", address])
    assert piped(command, tmp_path / "run", "--registry", address)[0] == 0
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*.json*"))
    assert b"secret" not in kept
    line = json.loads((tmp_path / "run" / "commands.jsonl").read_text())
    assert "postgresql://anna:…@db.example/games?blobs=s3://b/f" in line["command"]


def test_a_gate_that_means_nothing_is_told_before_training(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = piped(command, "run", "--pipeline", "ci", "--gate", "none.toml")
    assert code == 2
    assert "cannot read gate none.toml" in err
    assert not Path("run").exists()


def test_a_run_that_goes_on_sends_the_checkpoint_that_it_goes_on_from(command, stronger_later):
    """A kill may have come between its save and its match."""
    assert piped(command, "run", "--total-timesteps", 64)[0] == 0
    code, out, _ = piped(command, "run", "--pipeline", "deployment", "--gate", "gate.toml")
    assert code == 0
    assert "resumed at step 64" in out
    assert out.count("PROMOTED") == 2


def test_a_stop_during_a_match_keeps_it_and_stops_the_run(command, stronger_later, monkeypatch):
    """Ctrl-C while the second version's match is on."""
    with monkeypatch.context() as patched:
        patched.setattr(match, "play_games", after_ctrl_c(match.play_games))
        code, _, err = piped(command, "run", "--pipeline", "deployment", "--gate", "gate.toml")
    assert code == 130
    assert "the match of step 128 was stopped; the resumed run continues it" in err


def test_trackers_are_named_by_a_flag_that_may_be_repeated(command, tmp_path):
    flags = ["--game", "Pong", "--print-config", "--run-dir", tmp_path / "run"]
    for given, shown in (
        ((), "[]"),
        (("--track", "wandb"), '["wandb"]'),
        (("--track", "mlflow", "--track", "wandb"), '["mlflow", "wandb"]'),
    ):
        code, out, _ = command("train", *flags, *given)
        assert code == 0
        assert f"\ntrack = {shown}" in out
    code, _, err = command("train", *flags, "--track", "comet")
    assert code == 2
    assert "--track" in err
    assert "wandb" in err


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_written(
    command, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, _, err = command("train", *TINY, "--run-dir", tmp_path / "run", "--track", "mlflow")
    assert code == 2
    assert "MLflow needs the extra `mlflow`" in err
    assert not (tmp_path / "run").exists()


def test_a_preset_file_may_name_trackers_and_videos(command, tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text('total_timesteps = 600\ntrack = ["mlflow"]\nvideo_interval = 300\n')
    code, out, _ = command("train", "--game", "Pong", "--preset", preset, "--print-config")
    assert code == 0
    assert '\ntrack = ["mlflow"]\n' in out
    assert "\nvideo_interval = 300\n" in out


def test_a_run_films_its_agent_on_the_way(command, tmp_path):
    run = tmp_path / "run"
    code, _, err = command("train", *TINY, "--run-dir", run, "--video-interval", 400)
    assert (code, err) == (0, "")
    assert [path.name for path in (run / "videos").iterdir()] == ["step-000000000400.mp4"]
