"""`rlarcade watch`: a checkpoint's game, a document's games, and whether they are true."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlarcade.evaluation import Evaluation, compare_agents, evaluate_agent
from rlarcade.games import get_protocol
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing import Player, RandomPlayer
from rlarcade.playing.players import AgentPlayer
from rlarcade.reports.pictures import SIZE

LATE = Path(__file__).parent.parent / "data" / "space-invaders-late"
SHORT = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 200})


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_agent(RandomPlayer("space_invaders", SHORT), episodes=3)


@pytest.fixture
def document(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"evaluations": [evaluation.model_dump(mode="json")]}))
    return path


def test_true_games_are_confirmed(command, document, evaluation):
    code, out, err = command("watch", document, "--verify")
    assert (code, err) == (0, "")
    assert "3 of 3 games reproduced to the point" in out
    for episode in evaluation.episodes:
        assert str(episode.seed) in out


def test_a_false_game_is_named_and_is_an_error(command, document, evaluation):
    claims = json.loads(document.read_text())
    claims["evaluations"][0]["episodes"][1]["score"] += 5
    document.write_text(json.dumps(claims))
    code, out, err = command("watch", document, "--verify")
    assert code == 1
    assert "2 of 3 games reproduced" in out
    assert f"random's game with seed {evaluation.episodes[1].seed} does not reproduce" in err


def test_a_recorded_game_becomes_a_video_and_a_picture(command, document, tmp_path):
    video, picture = tmp_path / "game.mp4", tmp_path / "game.png"
    flags = ["--episode", 2, "--video", video, "--picture", picture]
    code, out, err = command("watch", document, *flags)
    assert (code, err) == (0, "")
    assert f"video: {video}" in out
    assert f"picture: {picture}" in out
    assert b"ftyp" in video.read_bytes()[:16]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_flags_the_games_are_listed(command, document):
    code, out, _ = command("watch", document)
    assert code == 0
    assert out.count("SpaceInvaders  seed") == 3
    assert "--video F.mp4" in out


@pytest.mark.slow  # whole games of a real agent
def test_a_checkpoint_plays_the_games_that_evaluate_plays_and_shows_what_it_thinks(
    command, tmp_path
):
    assert command("evaluate", LATE, "--episodes", 2, "--json", tmp_path / "e.json")[0] == 0
    (evaluated,) = json.loads((tmp_path / "e.json").read_text())["evaluations"]
    code, out, _ = command("watch", LATE, "--episode", 1, "--picture", tmp_path / "by_itself.png")
    assert code == 0
    flags = ["--episode", 1, "--picture", tmp_path / "by_document.png"]
    code, out, _ = command("watch", tmp_path / "e.json", *flags)
    assert code == 0
    one, other = ((tmp_path / f"by_{name}.png").read_bytes() for name in ("itself", "document"))
    assert one == other, "the document's agent is found, and its values are shown"
    code, out, _ = command("watch", LATE, "--episode", 1, "--verify")
    assert str(evaluated["episodes"][1]["seed"]) in out


@pytest.fixture(scope="module")
def short_game():
    """A game of a real agent that ends early, as evaluate writes it."""
    return evaluate_agent(AgentPlayer(DQNAgent.load(LATE), protocol=SHORT), episodes=1)


def test_what_an_agent_looks_at_is_marked_in_red(command, tmp_path, short_game):
    path = tmp_path / "e.json"
    path.write_text(json.dumps({"evaluations": [short_game.model_dump(mode="json")]}))
    assert command("watch", path, "--picture", tmp_path / "plain.png")[0] == 0
    code, _, err = command("watch", path, "--saliency", "--picture", tmp_path / "marked.png")
    assert (code, err) == (0, "")
    plain, marked = (
        np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("plain", "marked")
    )
    change = marked - plain
    panels = np.arange(change.shape[1]) % SIZE[0] >= 480
    assert not change[:, panels].any(), "what stands beside the screens stays as it is"
    assert (change[:, ~panels, 0] > 100).sum() > 200, "some pixels become red"


def test_nothing_can_be_marked_without_the_agent_or_a_picture(command, document, tmp_path):
    code, _, err = command("watch", document, "--saliency", "--picture", tmp_path / "p.png")
    assert code == 2
    assert "--saliency needs the agent that played, and random is not found" in err
    code, _, err = command("watch", document, "--saliency")
    assert code == 2
    assert "Add --picture F.png or --video F.mp4" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["nowhere.json"], "nowhere.json does not exist"),
        (["DOCUMENT", "--episode", 3, "--picture", "x.png"], "has no episode 3: it holds 0 to 2"),
        (["DOCUMENT", "--episode", -1], "episode must be 0 or more, got -1"),
        (["DOCUMENT", "--seed", -1], "seed must be 0 to 4294967295"),
        (["DOCUMENT", "--seed", 0], "are recorded. Choose one of them by --episode"),
        (["DOCUMENT", "--seed", 7, "--verify"], "leave --seed out"),
        (["zoo:Breakout", "--seed", 7, "--verify"], "leave --seed out"),
        (["DOCUMENT", "--video", "x.gif"], "x.gif must end in .mp4"),
        (["DOCUMENT", "--picture", "/proc/x/y.png"], "cannot be written"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_words(command, document, flags, message):
    code, _, err = command("watch", *[document if flag == "DOCUMENT" else flag for flag in flags])
    assert code == 2
    assert message in err


def test_a_relabelled_ending_and_a_pair_taken_out_do_not_verify(command, tmp_path):
    sides = RandomPlayer("pong", SHORT), Player(lambda seen: 0, game="pong", protocol=SHORT)
    document = json.loads(compare_agents(*sides, max_pairs=3).model_dump_json())
    path = tmp_path / "match.json"
    path.write_text(json.dumps(document))
    assert command("watch", path, "--verify")[0] == 0

    relabelled = json.loads(json.dumps(document))
    relabelled["results"][1]["champion"] |= {"ended": "failed", "failure": "it crashed"}
    path.write_text(json.dumps(relabelled))
    code, out, err = command("watch", path, "--verify")
    assert code == 1
    assert "by itself, but the record says its player failed" in err
    assert "5 of 6 games reproduced to the point" in out
    assert "1 of them say that the player failed; only the player itself can confirm that" in out

    path.write_text(json.dumps(document | {"results": document["results"][1:]}))
    code, out, err = command("watch", path, "--verify")
    assert code == 1
    assert "pair 0 has seed" in err
    assert "4 of 4 games reproduced to the point" in out
