"""Agents that come with rlarcade, named wherever a checkpoint is named."""

import json
import shutil
import tomllib
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest

from rlarcade import DQNAgent, TrainingState, load_checkpoint
from rlarcade.cards import check_own_game, open_card
from rlarcade.cards.model_card import EVALUATION
from rlarcade.compare import main as compare
from rlarcade.config import load_preset, make_settings
from rlarcade.errors import CheckpointError, GameError
from rlarcade.evaluate import main as evaluate
from rlarcade.evaluation.document_files import load_evaluations
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


@pytest.mark.slow  # games of Atari with the values of every step
@pytest.mark.parametrize("game", zoo_games())
def test_a_recorded_game_of_every_agent_is_its_own_and_its_card_claims_nothing_else(
    game, real_games
):
    card = open_card(zoo_folder(zoo_name(game)))
    assert card.problems == []
    check_own_game(card.agent, min(card.recordings, key=lambda one: one.episode.steps))


@pytest.mark.parametrize("game", zoo_games())
def test_every_agent_is_small_and_chosen_by_the_gate(game):
    folder = zoo_folder(zoo_name(game))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1_200_000
    chosen = json.loads((ROOT / "docs" / "results" / "zoo.json").read_text())["games"][game]
    assert game in chosen["command"]
    assert chosen["git_commit"]
    states = {one["weights_sha256"]: one["state"] for one in chosen["submissions"]}
    assert states[load_named(zoo_name(game)).manifest.weights_sha256] == "promoted"


def test_the_page_of_the_zoo_has_the_scores_of_the_cards():
    page = (ROOT / "docs" / "zoo.md").read_text()
    for game in zoo_games():
        (evaluation,), _ = load_evaluations(zoo_folder(zoo_name(game)) / EVALUATION)
        scores = [episode.score for episode in evaluation.episodes]
        steps = load_named(zoo_name(game)).manifest.counters.steps
        row = f"| `{zoo_name(game)}` | {fmean(scores):,.1f} ± {pstdev(scores):,.1f} | {steps:,} |"
        assert row in page


@pytest.mark.parametrize("spelling", ["SpaceInvaders", "space_invaders", "ALE/SpaceInvaders-v5"])
def test_a_game_is_spelled_as_everywhere_else(spelling):
    checkpoint = load_named(f"zoo:{spelling}")
    assert str(checkpoint.path) == "zoo:SpaceInvaders"
    known = load_checkpoint(zoo_folder("zoo:SpaceInvaders"))
    assert checkpoint.manifest == known.manifest


def test_only_a_folder_with_a_checkpoint_is_an_agent(tmp_path, monkeypatch):
    late = ROOT / "tests" / "data" / "space-invaders-late"
    shutil.copytree(late, tmp_path / "space_invaders")
    shutil.copytree(late, tmp_path / ".pong.writing")
    (tmp_path / "breakout").mkdir()
    (tmp_path / "README.md").write_text("agents")
    monkeypatch.setattr("rlarcade.zoo._AGENTS", tmp_path)
    assert zoo_games() == ("space_invaders",)
    with pytest.raises(CheckpointError, match=r"name one of these: zoo:SpaceInvaders\."):
        zoo_folder("zoo:Pong")


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
    values = dict(load_preset("laptop")[1], game="SpaceInvaders", device="cpu")
    values |= {"buffer_size": 2_000, "learning_starts": 100}
    state = TrainingState.create(make_settings("laptop", values).train, init_from=parent)
    learned = state.agent.q_network.state_dict()
    for name, array in parent.tensors.items():  # float16
        assert learned[name].numpy().tobytes() == array.astype(np.float32).tobytes()


def test_a_wheel_has_the_zoo_of_the_source():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (packed,) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for game in zoo_games():
        assert zoo_folder(zoo_name(game)) == ROOT / packed / "agents" / game
