"""TrainingRun: the command's run, in a notebook. It may be left anywhere and goes on exactly."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_games import weights_digest
from toy_runs import SIZES, config, trained

from rlarcade import TrainingRun, evaluate_agent, load_checkpoint
from rlarcade.errors import ConfigError, DivergenceError, RunFolderError
from rlarcade.learning.policy import DQNAgent
from rlarcade.runs import beginning, training_run
from rlarcade.runs.listener import Listener
from rlarcade.runs.metrics_file import diverged_at, read_metrics
from rlarcade.runs.state_store import StateStore
from rlarcade.train import main

pytestmark = pytest.mark.usefixtures("short_games")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights, replay and optimizer of an uninterrupted run."""
    with TrainingRun.open(config(), tmp_path_factory.mktemp("runs") / "whole") as run:
        return digest(trained(run).state)


def digest(state):
    return weights_digest(state), state.replay.rows_added, state.updates


@pytest.mark.parametrize("leave", ["closed", "left open", "dropped"])
@pytest.mark.parametrize("at", [4, 104, 396])
def test_a_loop_that_is_left_anywhere_goes_on_bit_for_bit(tmp_path, whole, at, leave):
    run = trained(TrainingRun.open(config(), tmp_path / "run", save_interval=40), until=at)
    if leave == "closed":
        run.close()
    elif leave == "dropped":  # as after a kill: nothing is saved
        del run
    again = TrainingRun.open(config(), tmp_path / "run")
    assert again.steps == (at // 40 * 40 if leave == "dropped" else at)
    assert digest(trained(again).state) == whole
    again.close()


def test_the_command_and_the_library_train_the_same_weights(tmp_path, whole):
    flags = [
        part
        for name, value in (SIZES | {"total_timesteps": 400, "eval_episodes": 1}).items()
        for part in (
            f"--{name.replace('_', '-')}",
            *(map(str, value) if isinstance(value, tuple) else [str(value)]),
        )
    ]
    flags += ["--game", "Pong", "--learning-rate", "1e-4", "--exploration-fraction", "0.2"]
    (tmp_path / "plain.toml").write_text("")
    assert (
        main([*flags, "--preset", str(tmp_path / "plain.toml"), "--run-dir", str(tmp_path / "run")])
        == 0
    )
    made = DQNAgent.load(tmp_path / "run")
    with TrainingRun.open(config(), tmp_path / "other") as run:
        assert trained(run).state.agent.version == made.version
    with TrainingRun.open(config(), tmp_path / "run") as finished:
        assert finished.outcome["steps"] == 400


def test_a_finished_run_has_its_outcome_and_can_be_lengthened(tmp_path):
    with TrainingRun.open(config(), tmp_path / "run", eval_episodes=2) as run:
        outcome = trained(run).finish()
        assert run.finish() is outcome
    assert outcome == json.loads((tmp_path / "run" / "result.json").read_text())
    agent = DQNAgent.load(outcome["checkpoint"])
    assert outcome["evaluation"]["mean"] == evaluate_agent(agent, episodes=2).mean
    with TrainingRun.open(config(), tmp_path / "run") as again:
        assert (again.steps, again.outcome) == (400, outcome)
        assert list(again) == []
        with pytest.raises(RunFolderError, match="is finished. Open it again with a larger total_"):
            _ = again.state
    with TrainingRun.open(config(total_timesteps=500), tmp_path / "run") as longer:
        assert (longer.steps, longer.length, longer.outcome) == (400, 500, None)
        assert trained(longer).steps == 500


def test_the_time_of_a_run_is_that_of_all_its_processes(tmp_path, monkeypatch):
    """The hours that a run is open count, those between two processes do not."""
    hours = SimpleNamespace(now=50)
    monkeypatch.setattr(training_run, "time", SimpleNamespace(monotonic=lambda: hours.now))
    folder = tmp_path / "run"
    run = trained(TrainingRun.open(config(), folder, save_interval=40), until=130)
    learned = run.state.seconds["learn"]
    hours.now += 3
    run.close()
    hours.now += 100
    killed = trained(TrainingRun.open(config(), folder, save_interval=40), until=170)
    learned += killed.state.seconds["learn"]
    hours.now += 20
    del killed  # after the save at step 160
    hours.now += 100
    with TrainingRun.open(config(), folder, eval_episodes=1) as again:
        assert again.steps == 160
        trained(again)
        learned += again.state.seconds["learn"]
        hours.now += 2
        seconds = again.finish()["seconds"]
    assert seconds["total"] == 5
    assert seconds["learn"] == pytest.approx(learned, rel=0.5)


def test_a_run_is_finished_only_at_its_end(tmp_path):
    with TrainingRun.open(config(), tmp_path / "run") as run:
        trained(run, until=40)
        with pytest.raises(RunFolderError, match="is at step 40 of 400. Iterate over it to its"):
            run.finish()
        assert not (tmp_path / "run" / "result.json").exists()


def test_a_step_that_was_interrupted_is_neither_saved_nor_gone_on_with(
    tmp_path, whole, monkeypatch
):
    with TrainingRun.open(config(), tmp_path / "run", save_interval=100) as run:
        trained(run, until=200)
        with monkeypatch.context() as patched:

            def interrupted(*_):
                raise KeyboardInterrupt

            patched.setattr(run.state.replay, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                trained(run)
        with pytest.raises(RunFolderError, match="interrupted in the middle of a step. Open it"):
            trained(run)
    with TrainingRun.open(config(), tmp_path / "run") as again:
        assert again.steps == 200
        assert digest(trained(again).state) == whole


def test_a_run_that_diverged_says_so_in_its_figures_until_it_goes_on(tmp_path):
    folder = tmp_path / "run"
    run = trained(TrainingRun.open(config(), folder), until=200)
    run.save()
    assert diverged_at(folder) is None
    with torch.no_grad():
        next(run.state.learner.online.parameters()).fill_(float("nan"))
    with pytest.raises(DivergenceError):
        trained(run)
    assert diverged_at(folder) == run.steps + 1
    run.close()
    with TrainingRun.open(config(), folder) as again:
        assert again.steps == 200
        assert diverged_at(folder) == 201, "nothing was done yet"
        trained(again)
        assert diverged_at(folder) is None


def test_a_run_that_diverged_keeps_its_earlier_save_alone(tmp_path):
    with (
        pytest.raises(DivergenceError, match="the loss became (nan|inf)|are not finite"),
        TrainingRun.open(config(learning_rate=1e30), tmp_path / "run", save_interval=50) as run,
    ):
        trained(run)
    saves = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saves
    assert load_checkpoint(tmp_path / "run").manifest.counters.steps < 400


def test_a_closed_run_is_told_to_be_opened_again(tmp_path):
    run = TrainingRun.open(config(), tmp_path / "run")
    run.close()
    for use in (lambda: trained(run), lambda: run.state, run.save):
        with pytest.raises(RunFolderError, match="is closed. Open it again"):
            use()
    run.close()


def test_the_folder_of_a_run_that_was_never_closed_is_free_when_the_run_is_gone(tmp_path):
    run = trained(TrainingRun.open(config(), tmp_path / "run", save_interval=40), until=100)
    del run
    code = (
        "import sys; from rlarcade.runs.folder import RunFolder; from pathlib import Path; "
        "RunFolder(Path(sys.argv[1])).close()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True, timeout=60)


def test_a_run_evaluates_and_saves_on_the_way_and_writes_its_figures(tmp_path):
    saved = []
    listener = Listener(saved=lambda path: saved.append(path.name))
    with TrainingRun.open(
        config(),
        tmp_path / "run",
        save_interval=100,
        eval_interval=200,
        eval_episodes=1,
        listener=listener,
    ) as run:
        last = [*run][-1]
        assert run.summary(last).startswith("loss ")
    assert saved == [f"step-{step:012}" for step in (100, 200, 300, 400)]
    lines = read_metrics(tmp_path / "run")
    assert [one["step"] for one in lines if "eval/mean_reward" in one] == [200, 400]


def test_a_listener_hears_of_a_run_and_can_stop_it(tmp_path, whole):
    heard, works = [], []

    class Counted:
        asked = 0

        def __call__(self):
            self.asked += 1
            return self.asked > 30

    listener = Listener(say=heard.append, warn=heard.append, stop=Counted())
    run = trained(TrainingRun.open(config(), tmp_path / "run", listener=listener))
    assert run.steps == 120
    run.close()

    def work(what, total, unit):
        works.append(what)
        return nullcontext(lambda done, of: works.append((done, of)))

    listener = Listener(say=heard.append, work=work)
    with TrainingRun.open(config(), tmp_path / "run", listener=listener) as again:
        assert digest(trained(again).state) == whole
    assert heard == ["resumed at step 120"]
    assert works[0] == "rebuilding the games in flight"


def test_without_a_listener_a_warning_is_a_python_warning(tmp_path, monkeypatch):
    with TrainingRun.open(config(), tmp_path / "run", save_interval=40) as run:
        real, calls = StateStore.save, []

        def full(store, state, seconds):
            calls.append(state.steps)
            if len(calls) == 1:
                raise OSError(28, "No space left on device")
            real(store, state, seconds)

        monkeypatch.setattr(StateStore, "save", full)
        with pytest.warns(UserWarning, match="could not save at step 40: No space left on device"):
            trained(run, until=90)
    assert calls[:2] == [40, 80]


def test_other_settings_than_the_runs_are_refused(tmp_path):
    TrainingRun.open(config(), tmp_path / "run").close()
    with pytest.raises(RunFolderError, match="with batch_size = 16, now it is 8"):
        TrainingRun.open(config(batch_size=8), tmp_path / "run")
    with pytest.raises(ConfigError, match="config"):
        TrainingRun.open("quick", tmp_path / "run")
    with pytest.raises(ConfigError, match="save_interval"):
        TrainingRun.open(config(), tmp_path / "run", save_interval=0)


def test_a_run_begins_from_a_checkpoint(tmp_path, whole):
    with TrainingRun.open(config(), tmp_path / "first") as first:
        parent = load_checkpoint(trained(first, until=200).save())
    with TrainingRun.open(config(), tmp_path / "second", init_from=parent) as second:
        assert second.state.agent.version == parent.manifest.weights_sha256
        assert second.state.parent == parent.manifest.weights_sha256
    with pytest.raises(RunFolderError, match="a run that began from random weights, not from"):
        TrainingRun.open(config(), tmp_path / "first", init_from=parent)


def slowly(steps):
    return max(0.1, 1 - steps / 300)


def squared(predicted, target):
    return (predicted - target) ** 2


def test_functions_of_ones_own_are_kept_by_name_and_source_and_asked_for_again(tmp_path):
    with TrainingRun.open(config(), tmp_path / "whole", loss=squared, exploration=slowly) as run:
        whole_run = digest(trained(run).state)
    own = {"loss": squared, "exploration": slowly}
    with TrainingRun.open(config(), tmp_path / "run", **own, save_interval=100) as run:
        trained(run, until=200)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["custom"]
    assert set(record) == {"loss", "exploration"}
    assert record["loss"].startswith(f"{__name__}.squared sha256:")
    for other, message in (
        ({}, f"exploration {__name__}.slowly sha256:.*, now it is as configured. Give the same"),
        (own | {"loss": slowly_too}, "a run with loss .*squared .*, now it is .*slowly_too"),
        (own | {"learning_rate": slowly}, "with learning_rate as configured, now it is .*slowly"),
    ):
        with pytest.raises(RunFolderError, match=message):
            TrainingRun.open(config(), tmp_path / "run", **other)
    with TrainingRun.open(config(), tmp_path / "run", **own) as again:
        assert digest(trained(again).state) == whole_run


def slowly_too(predicted, target):
    return (predicted - target).abs()


def test_a_function_without_a_source_is_refused_before_anything_is_written(tmp_path):
    made = {}
    exec("def rate(steps):\n    return 1e-4", made)
    with pytest.raises(ConfigError, match="source of learning_rate, .*, cannot be read"):
        TrainingRun.open(config(), tmp_path / "run", learning_rate=made["rate"])
    assert not (tmp_path / "run").exists()


class Pooled(nn.Module):
    """A torso: one average pool and a layer."""

    def __init__(self):
        super().__init__()
        self.pool, self.layer = nn.AvgPool2d(12), nn.Linear(4 * 49, 8)

    def forward(self, frames):
        return self.layer(self.pool(frames.float() / 255).flatten(1)).relu()


def test_a_run_with_a_torso_of_ones_own_is_resumed_and_finished(tmp_path):
    def made():
        torch.manual_seed(3)
        return Pooled()

    with TrainingRun.open(config(), tmp_path / "whole", torso=made()) as run:
        version = trained(run).state.agent.version
    with TrainingRun.open(config(), tmp_path / "run", torso=made(), eval_episodes=1) as run:
        trained(run, until=200)
    with TrainingRun.open(config(), tmp_path / "run", torso=made(), eval_episodes=1) as again:
        outcome = trained(again).finish()
        assert again.outcome is outcome
    agent = DQNAgent.load(outcome["checkpoint"], torso=made())
    assert agent.version == version
    assert evaluate_agent(agent, episodes=1).mean == outcome["evaluation"]["mean"]


class Wide(nn.Module):
    """A torso with a million parameters, whatever the settings say of the shipped ones."""

    def __init__(self):
        super().__init__()
        self.pool, self.layer = nn.AvgPool2d(12), nn.Linear(4 * 49, 6_800)

    def forward(self, frames):
        hidden = self.layer(self.pool(frames.float() / 255).flatten(1)).relu()
        return hidden.view(len(frames), 8, -1).mean(2)


def test_a_run_with_a_large_torso_of_ones_own_is_resumed(tmp_path):
    with TrainingRun.open(config(), tmp_path / "run", torso=Wide()) as run:
        trained(run, until=120)
    state = next((tmp_path / "run" / "state").glob("step-*/arrays.safetensors"))
    assert state.stat().st_size > 20_000_000
    with TrainingRun.open(config(), tmp_path / "run", torso=Wide()) as again:
        assert again.steps == 120
        assert trained(again, until=140).steps == 140


def test_a_large_torso_of_ones_own_must_fit_onto_the_disk(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(beginning, "require_disk", lambda needed, *_: asked.append(needed))
    for torso in (None, Wide()):
        TrainingRun.open(config(), tmp_path / f"run{len(asked)}", torso=torso).close()
    assert asked[1] - asked[0] > 13 * 4 * 1_300_000  # three states of four networks, one checkpoint


def test_the_command_imports_functions_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_parts.py").write_text(
        "import torch\n"
        "def squared(predicted, target):\n    return (predicted - target) ** 2\n"
        "def slowly(steps):\n    return max(0.1, 1 - steps / 300)\n"
        "def torso():\n    torch.manual_seed(3)\n    return torch.nn.Sequential(\n"
        "        Scale(), torch.nn.AvgPool2d(12), torch.nn.Flatten())\n"
        "class Scale(torch.nn.Module):\n    def forward(self, x):\n        return x / 255\n"
    )
    flags = ["--game", "Pong", "--preset", "quick", "--total-timesteps", "300", "--num-envs", "4"]
    flags += ["--learning-starts", "100", "--run-dir", "run", "--eval-episodes", "1"]
    own = ["--custom-loss", "my_parts:squared", "--custom-exploration", "my_parts:slowly"]
    assert main([*flags, *own, "--custom-torso", "my_parts:torso"]) == 0
    assert set(json.loads(Path("run/run.json").read_text())["custom"]) == {
        *("loss", "exploration", "torso")
    }
    capsys.readouterr()
    assert main([*flags, *own, "--total-timesteps", "400"]) == 2
    assert "with torso torch.nn.modules.container.Sequential" in capsys.readouterr().err
    for wrong, message in (
        ("my_parts:no", "custom_loss my_parts:no cannot be imported: AttributeError"),
        ("no_such_module:x", "cannot be imported: ModuleNotFoundError: No module named"),
        ("squared", "custom_loss must be MODULE:NAME, such as mine:make, not 'squared'"),
    ):
        assert main([*flags[:-4], "--run-dir", "other", "--custom-loss", wrong]) == 2
        assert message in capsys.readouterr().err
        assert not Path("other").exists()


def test_a_disk_that_fills_up_at_the_end_is_told_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "result.json")

    monkeypatch.setattr(training_run, "write_file", full)
    with (
        pytest.raises(OSError, match="No space left on device: 'result.json'"),
        TrainingRun.open(config(), tmp_path / "run", eval_episodes=1) as run,
    ):
        trained(run).finish()
    assert load_checkpoint(tmp_path / "run").manifest.counters.steps == 400
