"""Agents that come with rlarcade, named wherever a checkpoint is named."""

import shutil
import tomllib
from pathlib import Path

import pytest

from rlarcade import DQNAgent, TrainingState, load_checkpoint
from rlarcade.compare import main as compare
from rlarcade.config import load_preset, make_settings
from rlarcade.errors import CheckpointError, GameError
from rlarcade.evaluate import main as evaluate
from rlarcade.export import main as export
from rlarcade.playing.named import named_players
from rlarcade.playing.references import load_named
from rlarcade.predict import main as predict
from rlarcade.promote import main as promote
from rlarcade.train import main as train
from rlarcade.watch import main as watch
from rlarcade.zoo import is_zoo_name, zoo_folder, zoo_games, zoo_name

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("game", zoo_games())
def test_every_agent_of_the_zoo_plays_the_game_of_its_name(game):
    agent = DQNAgent.load(zoo_name(game))
    assert agent.game == game
    assert agent.name == zoo_name(game)
    assert agent.protocol.name == "v5"


@pytest.mark.parametrize("spelling", ["SpaceInvaders", "space_invaders", "ALE/SpaceInvaders-v5"])
def test_a_game_is_spelled_as_everywhere_else(spelling):
    checkpoint = load_named(f"zoo:{spelling}")
    assert str(checkpoint.path) == "zoo:SpaceInvaders"
    known = load_checkpoint(zoo_folder("zoo:SpaceInvaders"))
    assert checkpoint.manifest == known.manifest


def test_a_path_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_zoo_name("zoo:SpaceInvaders")
    shutil.copytree(ROOT / "tests" / "data" / "space-invaders-early", "zoo:SpaceInvaders")
    assert not is_zoo_name("zoo:SpaceInvaders")
    assert load_named("zoo:SpaceInvaders").manifest.counters.steps == 2_000


def test_a_player_of_the_zoo_is_no_entry_point_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "zoo.py").write_text("def SpaceInvaders(game): raise AssertionError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (player,) = named_players(["zoo:SpaceInvaders"])
    assert player.name == "zoo:SpaceInvaders"
    assert player.version == load_named("zoo:SpaceInvaders").manifest.weights_sha256


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("zoo:Alien", CheckpointError, r"no agent for Alien\. Train one with .*--game Alien`"),
        ("zoo:Alien", CheckpointError, r"name one of these: .*zoo:SpaceInvaders"),
        ("zoo:", CheckpointError, "zoo: names no game. The zoo has .*zoo:SpaceInvaders"),
        ("zoo:SpaceInvader", GameError, "Did you mean SpaceInvaders"),
        ("zoo:../../data", GameError, "unknown game"),
        (f"zoo:{'x' * 5_000}", GameError, "a game's name is a text"),
    ],
)
def test_what_the_zoo_does_not_have_is_refused_in_words(name, kind, words):
    for load in (DQNAgent.load, load_checkpoint, load_named):
        with pytest.raises(kind, match=words):
            load(name)


def test_commands_refuse_it_with_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (
        lambda: evaluate(["zoo:Alien"]),
        lambda: compare(["zoo:Alien", "random"]),
        lambda: watch(["zoo:Alien"]),
        lambda: export(["zoo:Alien", "--onnx", "a.onnx"]),
        lambda: predict(["zoo:Alien", "--input", "a.npz", "--output", "b.npz"]),
        lambda: promote(["register", "zoo:Alien"]),
        lambda: train(["--game", "Alien", "--init-from", "zoo:Alien"]),
    ):
        assert command() == 2
        assert "the zoo has no agent for Alien" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_commands_take_an_agent_of_the_zoo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate(["zoo:SpaceInvaders", "--episodes", "1", "--json", "games.json"]) == 0
    assert watch(["games.json", "--verify"]) == 0
    assert watch(["games.json", "--picture", "moments.png"]) == 0  # finds the agent by its name
    assert predict(["zoo:SpaceInvaders", "--input", "games.json", "--output", "actions.npz"]) == 0
    assert compare(["zoo:SpaceInvaders", "random", "--max-pairs", "1"]) == 4
    assert promote(["register", "zoo:SpaceInvaders"]) == 0
    assert promote(["show", "1"]) == 0
    assert "zoo:SpaceInvaders" in capsys.readouterr().out


def test_training_starts_from_an_agent_of_the_zoo():
    parent = load_named("zoo:SpaceInvaders")
    values = dict(load_preset("quick")[1], game="SpaceInvaders", device="cpu", buffer_size=2_000)
    state = TrainingState.create(make_settings("quick", values).train, init_from=parent)
    learned = state.agent.q_network.state_dict()
    for name, array in parent.tensors.items():
        assert learned[name].numpy().tobytes() == array.tobytes()


def test_a_wheel_has_the_zoo_of_the_source():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    packed = {
        Path(there).name: ROOT / here
        for here, there in included.items()
        if there.startswith("rlarcade/agents/")
    }
    assert packed == {game: zoo_folder(zoo_name(game)) for game in zoo_games()}
