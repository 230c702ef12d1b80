import json
import re

import pytest

from rlarcade.config import TrainConfig
from rlarcade.evaluation import evaluate
from rlarcade.learning.policy import DQNAgent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "checkpoint"
    config = TrainConfig(game="pong", conv_channels=(2, 2, 2), hidden_units=4)
    DQNAgent(config, num_actions=6).save(path, steps=8, updates=1)
    return path


@pytest.fixture(autouse=True)
def short_games(monkeypatch):
    from rlarcade.games import protocols

    short = protocols.get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 400})
    monkeypatch.setattr(
        "rlarcade.learning.policy.DQNAgent.load",
        lambda c, device="cpu", real=DQNAgent.load: _with_protocol(real(c, device=device), short),
    )


def _with_protocol(agent, protocol):
    agent.protocol = protocol
    return agent


def test_whole_games_are_played_and_written_as_a_document(command, checkpoint, tmp_path):
    flags = ["--episodes", 3, "--seed", 5, "--json", tmp_path / "new" / "e.json"]
    code, out, err = command("evaluate", checkpoint, *flags)
    assert (code, err) == (0, "")
    (evaluation,) = json.loads((tmp_path / "new" / "e.json").read_text())["evaluations"]
    assert [(e["steps"], e["ended"]) for e in evaluation["episodes"]] == [(100, "truncated")] * 3
    mean = sum(e["score"] for e in evaluation["episodes"]) / 3
    assert evaluation["mean"] == pytest.approx(mean)
    assert evaluation["human_normalized"] == pytest.approx((mean + 20.7) / (14.6 + 20.7))
    scores = sorted(e["score"] for e in evaluation["episodes"])
    low, high = evaluation["iqm_interval"]
    for text in (
        f"mean {mean:.1f}   median {scores[1]:.1f}   min {scores[0]:.1f}   max {scores[2]:.1f}",
        "(3 cut by the frame cap)",
        f"interquartile mean {evaluation['iqm']:.1f} ({low:.1f} … {high:.1f})   steps a game 100",
    ):
        assert text in out


def test_the_same_seed_plays_the_same_games_and_another_does_not(command, checkpoint, tmp_path):
    documents = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.json"
        command("evaluate", checkpoint, "--episodes", 2, "--seed", seed, "--json", path)
        documents.append(json.loads(path.read_text()))
    assert documents[0] == documents[1] != documents[2]


def test_an_evaluation_that_was_stopped_goes_on_and_leaves_only_its_document(
    command, checkpoint, tmp_path, monkeypatch
):
    """Ctrl-C during the second of two: not even the first one's games are played again."""
    file = tmp_path / "e.json"
    flags = [checkpoint, "random", "--episodes", 3, "--seed", 5, "--json", file]
    begun = []
    played = evaluate.play_games

    def counted(schedule, num_lanes):
        games = list(schedule)
        begun.append(len(games))
        return played(games, num_lanes)

    def interrupted(schedule, num_lanes):
        for number, ended in enumerate(counted(schedule, num_lanes)):
            if len(begun) == 2 and number == 1:
                raise KeyboardInterrupt
            yield ended

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "play_games", interrupted)
        code, _, err = command("evaluate", *flags)
    assert code == 130
    assert "finished games are kept; the same command resumes from there." in err
    assert not file.exists()
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "play_games", counted)
        code, out, _ = command("evaluate", *flags)
    assert code == 0
    for name, games in (("pong-mine-", "3 games"), ("pong-mine-random", "1 game")):
        assert re.search(rf"{games} taken from \S*e\.json\.{name}\S*, played again from", out)
    assert begun == [3, 3, 0, 2]
    whole = json.loads(file.read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
    command("evaluate", *flags)
    assert json.loads(file.read_text()) == whole


def test_a_policy_of_ones_own_plays_by_its_name(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "always.py").write_text("def make(game):\n    return lambda observation: 2\n")
    flags = ["--game", "Freeway", "--episodes", 2, "--json", "e.json"]
    code, out, err = command("evaluate", "always:make", *flags)
    assert code == 0
    assert "always:make has no version, so these games are not kept for a later command" in err
    assert "  always:make\n" in out
    (evaluation,) = json.loads((tmp_path / "e.json").read_text())["evaluations"]
    assert (evaluation["game"], evaluation["checkpoint"]) == ("freeway", "always:make")
    assert evaluation["version"] is None


def test_random_plays_beside_a_checkpoint_and_a_human_is_looked_up(command, checkpoint, tmp_path):
    path = tmp_path / "e.json"
    names = [checkpoint, "random", "human"]
    code, out, err = command("evaluate", *names, "--episodes", 2, "--json", path)
    assert (code, err) == (0, "")
    one, other = json.loads(path.read_text())["evaluations"]
    assert (one["checkpoint"], other["checkpoint"]) == (str(checkpoint), "random")
    assert other["version"] == "random"
    assert "Pong, human: 14.6" in out


def test_a_report_and_a_video_show_what_was_played(command, checkpoint, tmp_path):
    report, video = tmp_path / "new" / "report.html", tmp_path / "game.mp4"
    names = [checkpoint, "random"]
    code, out, err = command(
        "evaluate", *names, "--episodes", 1, "--report", report, "--video", video
    )
    assert (code, err) == (0, "")
    assert f"report: {report}" in out
    assert f"video: {video}" in out
    page = report.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("data:video/mp4;base64,") == 2
    assert b"ftyp" in video.read_bytes()[:16]


def test_a_report_that_cannot_be_written_is_told_before_a_game_is_played(
    command, checkpoint, tmp_path, monkeypatch
):
    def play(*arguments, **settings):
        raise AssertionError("a game was begun")

    monkeypatch.setattr("rlarcade.evaluate.evaluate_agent", play)
    flags = ["--report", tmp_path, "--json", tmp_path / "e.json"]
    code, out, err = command("evaluate", checkpoint, *flags)
    assert (code, out) == (2, "")
    assert f"report {tmp_path} cannot be written: Is a directory. Choose another file." in err
    assert not (tmp_path / "e.json").exists()


def test_a_human_score_needs_a_game_and_nobody_to_play(command):
    code, out, _ = command("evaluate", "human", "--game", "SpaceInvaders")
    assert (code, "SpaceInvaders, human: 1668.7" in out) == (0, True)
    code, _, err = command("evaluate", "human")
    assert code == 2
    assert "which game's human score?" in err


def test_a_game_without_a_human_score_shows_a_dash():
    from rlarcade.evaluation import Evaluation
    from rlarcade.games import get_protocol
    from rlarcade.playing import EpisodeResult
    from rlarcade.reports.lines import human_line, score_lines

    evaluation = Evaluation(
        checkpoint="x",
        version=None,
        game="tetris",
        protocol=get_protocol("v5"),
        epsilon=0.01,
        seed=0,
        episodes=(EpisodeResult(seed=1, score=3, steps=9, ended="terminated"),),
    )
    assert score_lines([evaluation])[-1] == "  random –   human –   human-normalised –"
    assert human_line("tetris") == "Tetris, human: no score is published"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        ([], "no checkpoint was named"),
        (["random"], "which game should the others play?"),
        (["json:loads", "--game", "pong"], "json:loads gave no policy"),
        (["CHECKPOINT", "--game", "Breakout"], "plays pong, not breakout"),
        (["CHECKPOINT", "--protocol", "v6"], "unknown protocol 'v6'"),
        (["CHECKPOINT", "--episodes", 0], "episodes must be at least 1, got 0"),
        (["CHECKPOINT", "--seed", -1], "seed must be 0 to 4294967295, got -1"),
        (
            ["human", "--game", "pong", "--video", "x.mp4"],
            "there is no game for a report or a video",
        ),
        (["CHECKPOINT", "--json", "/proc/x/y.json", "--episodes", 1], "cannot be written"),
        (["CHECKPOINT", "--report", "/proc/x/y.html", "--episodes", 1], "cannot be written"),
        (["CHECKPOINT", "--video", "/proc/x/y.mp4", "--episodes", 1], "cannot be written"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_words(command, checkpoint, flags, message):
    flags = [checkpoint if flag == "CHECKPOINT" else flag for flag in flags]
    code, out, err = command("evaluate", *flags)
    assert code == 2
    assert message in err
    assert "mean" not in out, "before any game is played"


def test_tensors_of_another_network_are_refused(command, checkpoint, tmp_path):
    import shutil

    shutil.copytree(checkpoint, tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"network": {"conv_channels": [2, 2, 2], "hidden_units": 5}}, "do not fit the network"),
        (
            {"network": {"conv_channels": [2, 2, 2], "hidden_units": 10**12}},
            "describes a network that cannot be built",
        ),
        ({"num_actions": 10**9}, "'num_actions' must be at most 18, not 1000000000"),
        ({"num_actions": 7}, "do not fit the network"),
        ({"network": {"conv_channels": [2, 2]}}, "describes a network that cannot be built"),
        ({"network": {"width": 3}}, "describes a network that cannot be built"),
    ]:
        path.write_text(json.dumps(good | change))
        code, _, err = command("evaluate", tmp_path / "c")
        assert code == 2
        assert message in err


def test_a_verb_can_be_misspelled(capfd, monkeypatch):
    from rlarcade.__main__ import main

    monkeypatch.setattr("sys.argv", ["rlarcade", "evalute"])
    assert main() == 2
    assert "unknown verb 'evalute'. Did you mean evaluate?" in capfd.readouterr().err
    monkeypatch.setattr("sys.argv", ["rlarcade"])
    assert main() == 0
    assert "train" in capfd.readouterr().out
