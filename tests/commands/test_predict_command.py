"""`rlarcade predict`: offline, an agent does and values to the bit what it does step by step."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlarcade import Player, compare_agents, evaluate_agent, play_steps
from rlarcade.games import get_protocol
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.players import AgentPlayer
from rlarcade.playing.predicting import PredictionSummary, predict_batches

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "predicting.md").read_text("utf-8")
DATA = ROOT / "tests" / "data"
LATE, EARLY = DATA / "space-invaders-late", DATA / "space-invaders-early"
# Short games of a real agent with many random actions.
SHORT = get_protocol("v5").model_copy(
    update={"name": "mine", "frame_cap": 200, "evaluation_epsilon": 0.3}
)


@pytest.fixture(scope="module")
def late():
    return DQNAgent.load(LATE)


@pytest.fixture(scope="module")
def played(late):
    """Three games step by step: what the player saw, thought and did."""
    return list(play_steps(AgentPlayer(late, protocol=SHORT), episodes=3))


@pytest.fixture(scope="module")
def observations(played):
    return np.stack([step.observation for step in played])


@pytest.fixture
def document(late, tmp_path):
    """The same games, as `evaluate --json` writes them."""
    evaluation = evaluate_agent(AgentPlayer(late, protocol=SHORT), episodes=3)
    path = tmp_path / "games.json"
    path.write_text(json.dumps({"evaluations": [evaluation.model_dump(mode="json")]}))
    return path


@pytest.fixture
def predict(command, tmp_path):
    """Runs the command; returns the arrays and the lines that it wrote."""

    def run(checkpoint, given, *flags):
        output = tmp_path / "actions.npz"
        code, out, err = command(
            "predict", checkpoint, "--input", given, "--output", output, *flags
        )
        assert (code, err) == (0, "")
        assert f"actions: {output}" in out
        with np.load(output) as arrays:
            return dict(arrays), out

    return run


@pytest.mark.parametrize("rows", [1, 3, 64, 4096])
def test_frames_get_the_values_of_step_by_step_play_to_the_bit(
    predict, tmp_path, late, played, observations, rows
):
    np.savez_compressed(tmp_path / "frames.npz", observation=observations)
    found, _ = predict(LATE, tmp_path / "frames.npz", "--batch-size", rows)
    assert {name: (a.dtype.str, a.shape) for name, a in found.items()} == {
        "action": ("<i8", (len(played),)),
        "q_values": ("<f4", (len(played), 6)),
    }
    for step, action, values in zip(played, found["action"], found["q_values"], strict=True):
        assert values.tobytes() == step.q_values.tobytes()
        assert values.tobytes() == late.q_values(step.observation[None]).tobytes()
        assert action == step.q_values.argmax()
        assert action == step.action or step.explored


@pytest.mark.parametrize("rows", [7, 64])
def test_recorded_games_are_played_again_and_compared_with_what_was_done(
    predict, document, played, rows
):
    found, out = predict(LATE, document, "--batch-size", rows)
    assert found["q_values"].tobytes() == b"".join(step.q_values.tobytes() for step in played)
    assert found["step"].tolist() == [step.number for step in played]
    assert found["taken"].tolist() == [step.action for step in played]
    ends = np.cumsum([step.episode is not None for step in played])
    assert found["game"].tolist() == [0, *ends[:-1]]
    differs = found["taken"] != found["action"]
    explored = np.array([step.explored for step in played])
    assert not (differs & ~explored).any(), "an agent's own games differ at random actions only"
    assert differs.any()
    assert f"{1 - differs.mean():.1%} of the recorded actions are equal" in out


def test_a_batch_size_and_a_second_run_change_no_byte(predict, document, tmp_path):
    files = []
    for rows in (1, 64, 64):
        predict(LATE, document, "--batch-size", rows)
        files.append((tmp_path / "actions.npz").read_bytes())
    assert files[0] == files[1] == files[2]


def test_the_summary_says_what_another_agent_would_have_done(predict, document, played, tmp_path):
    early = DQNAgent.load(EARLY)
    found, out = predict(EARLY, document, "--json", tmp_path / "summary.json")
    wanted = [int(early.q_values(step.observation[None]).argmax()) for step in played]
    assert found["action"].tolist() == wanted
    text = (tmp_path / "summary.json").read_text()
    summary = PredictionSummary.model_validate_json(text)
    assert json.loads(summary.model_dump_json()) == json.loads(text)
    assert (summary.version, summary.game) == (early.version, "space_invaders")
    assert summary.observations == len(played)
    assert summary.mean_max_q == pytest.approx(found["q_values"].max(axis=1).mean(), rel=1e-5)
    names = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
    assert summary.actions == {name: wanted.count(i) for i, name in enumerate(names)}
    shown = re.findall(r"(\w+) ([\d.]+)%", out.split("greedy actions: ")[1].split("  mean")[0])
    assert {name: float(share) for name, share in shown} == {
        name: round(100 * count / len(played), 1)
        for name, count in summary.actions.items()
        if count
    }
    agreed = [
        sum(w == s.action for w, s in zip(wanted, played, strict=True) if s.seed == game.seed)
        for game in summary.games
    ]
    assert [game.agreed for game in summary.games] == agreed
    assert summary.agreement == pytest.approx(sum(agreed) / len(played))
    assert json.loads(text)["agreement"] == summary.agreement
    assert re.search(r"^ +[\d,]+ observations/s$", out, re.MULTILINE)


def test_a_version_of_a_registry_predicts_by_its_number(predict, command, observations, tmp_path):
    assert command("promote", "register", LATE, "--registry", tmp_path / "registry")[0] == 0
    np.save(tmp_path / "frames.npy", observations[:3])
    by_path, _ = predict(LATE, tmp_path / "frames.npy")
    by_number, out = predict(1, tmp_path / "frames.npy", "--registry", tmp_path / "registry")
    assert by_number["q_values"].tobytes() == by_path["q_values"].tobytes()
    assert "  1, version 1a93b0ca1a48" in out


@pytest.mark.slow
def test_a_real_game_gets_the_values_of_step_by_step_play_to_the_bit(
    real_games, predict, late, tmp_path
):
    steps = list(play_steps(late, episodes=1))
    evaluation = evaluate_agent(late, episodes=1)
    (tmp_path / "game.json").write_text(evaluation.model_dump_json())
    np.savez(tmp_path / "frames.npz", observation=np.stack([step.observation for step in steps]))
    wanted = b"".join(step.q_values.tobytes() for step in steps)
    for given in ("game.json", "frames.npz"):
        assert predict(LATE, tmp_path / given)[0]["q_values"].tobytes() == wanted


@pytest.mark.slow
def test_the_record_of_a_real_match_is_predicted_on_both_sides(real_games, predict):
    (record,) = (DATA / "written-by-0.1.0" / "matches").glob("*.jsonl")
    pairs = len(record.read_text().splitlines()) - 1
    found, out = predict(LATE, record)
    assert set(found["game"]) == set(range(2 * pairs))
    shares = re.findall(r"([\d.]+)% equal  (\w+)", out)
    late = [float(share) for share, player in shares if player.startswith("1a93b0ca1a48")]
    early = [float(share) for share, player in shares if player.startswith("a29f843c878d")]
    assert (len(late), len(early)) == (pairs, pairs)
    assert min(late) > 95
    assert max(early) < 95


def test_both_sides_of_a_match_and_only_games_that_the_agent_plays_are_asked(
    predict, command, tmp_path
):
    def still(_observation):
        return 0

    full = SHORT.model_copy(update={"full_action_space": True, "name": "full"})
    for name, game, protocol in (
        ("match", "space_invaders", SHORT),
        ("pong", "pong", SHORT),
        ("full", "space_invaders", full),
    ):
        sides = [
            Player(still, game=game, protocol=protocol, name=side, version=side)
            for side in ("one", "two")
        ]
        match = compare_agents(*sides, max_pairs=2)
        (tmp_path / f"{name}.json").write_text(match.model_dump_json())
    found, out = predict(LATE, tmp_path / "match.json")
    assert set(found["game"]) == {0, 1, 2, 3}
    assert (found["taken"] == 0).mean() > 0.6, "both stand still, apart from random actions"
    assert ("one" in out, "two" in out) == (True, True)
    for other in ("pong", "full"):
        code, _, err = command(
            "predict", LATE, "--input", tmp_path / f"{other}.json", "--output", tmp_path / "x.npz"
        )
        assert code == 2
        assert f"{other}.json has no game of SpaceInvaders with the 6 actions of {LATE}" in err

    other_end = SHORT.model_copy(
        update={"name": "shorter", "frame_cap": 120, "evaluation_epsilon": 0}
    )
    alone = {"evaluations": []}
    for place, (game, protocol) in enumerate(
        (
            ("pong", SHORT),
            ("space_invaders", SHORT),
            ("space_invaders", full),
            ("space_invaders", other_end),
        )
    ):
        player = Player(still, game=game, protocol=protocol, name=f"player {place}")
        alone["evaluations"].append(evaluate_agent(player, episodes=1).model_dump(mode="json"))
    (tmp_path / "several.json").write_text(json.dumps(alone))
    found, out = predict(LATE, tmp_path / "several.json")
    indices, counts = np.unique(found["game"], return_counts=True)
    assert dict(zip(indices, counts, strict=True)) == {1: 50, 3: 30}, "as in the document"
    assert not (found["action"] == 0)[50:].any()
    assert re.search(r"game   3 .* 30 steps +0.0% equal  player 3", out)
    assert "2 games left out, which" in out
    assert ("player 1" in out, "player 2" in out) == (True, False)


def test_few_batches_are_read_ahead_and_they_stay_in_their_order(late, observations):
    made, done = 0, 0

    def batches():
        nonlocal made
        for first in range(0, len(observations), 4):
            made += 4
            assert made - done <= 4 * ((os.cpu_count() or 1) + 2)
            yield observations[first : first + 4]

    def count(number):
        nonlocal done
        done = number

    found = predict_batches(late, batches(), count)
    assert done == len(observations) > 100
    assert found.q_values.tobytes() == late.q_values(observations).tobytes()


def test_a_game_that_goes_another_way_is_an_error_and_the_older_output_stays(
    command, document, tmp_path
):
    claims = json.loads(document.read_text())
    claims["evaluations"][0]["episodes"][1]["score"] += 5
    document.write_text(json.dumps(claims))
    (tmp_path / "actions.npz").write_bytes(b"older")
    code, out, err = command(
        "predict", LATE, "--input", document, "--output", tmp_path / "actions.npz"
    )
    assert (code, out) == (2, "")
    assert "does not reproduce" in err
    assert (tmp_path / "actions.npz").read_bytes() == b"older"


def test_an_interrupted_command_leaves_no_output(command, document, tmp_path, monkeypatch):
    def interrupted(recordings, rows):
        yield np.zeros((rows, 4, 84, 84), dtype=np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr("rlarcade.predict.replayed_batches", interrupted)
    code, out, err = command("predict", LATE, "--input", document, "--output", tmp_path / "a.npz")
    assert (code, out, err) == (130, "", "rlarcade: error: interrupted.\n")
    assert not list(tmp_path.glob("*a.npz*"))


def test_values_that_are_no_numbers_choose_no_action(command, observations, tmp_path):
    broken = DQNAgent.load(LATE)
    next(broken.q_network.head.values.parameters()).data.fill_(np.nan)
    broken.save(tmp_path / "broken")
    np.save(tmp_path / "frames.npy", observations[:5])
    flags = ["--input", tmp_path / "frames.npy", "--output", tmp_path / "a.npz", "--batch-size", 2]
    code, _, err = command("predict", tmp_path / "broken", *flags)
    assert code == 2
    assert "not finite numbers: [nan, nan, nan, nan, nan, nan] for observation 0 of 2" in err
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([LATE, "--input", "x.npz"], "rlarcade predict needs --output"),
        ([LATE, "--input", "x.txt", "--output", "a.npz"], "--input x.txt must end in .npz or .npy"),
        ([LATE, "--input", "x", "--output", "a.npz"], ".json or .jsonl (recorded games)"),
        ([LATE, "--input", "x.npz", "--output", "a.npz"], "from x.npz: No such file"),
        ([LATE, "--input", "x.json", "--output", "a.npz"], "cannot read x.json: No such file"),
        (["nowhere", "--input", "x.npz", "--output", "a.npz"], "nowhere does not exist"),
        (["7", "--input", "x.npz", "--output", "a.npz"], "no registry"),
        (
            [LATE, "--input", "x.npz", "--output", "a.npz", "--batch-size", 0],
            "batch-size must be 1 to 4096, got 0",
        ),
        ([LATE, "--input", "x.npz", "--output", "x.npz"], "--input and --output are the same file"),
        (
            [LATE, "--input", "x.npz", "--output", "a.npz", "--json", "a.npz"],
            "--output and --json are the same file",
        ),
    ],
    ids=str,
)
def test_mistakes_are_refused_in_words(command, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("predict", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_with_more_actions_than_its_game_is_told(command, tmp_path):
    late = DQNAgent.load(LATE)
    late.game = "pong"
    late.num_actions = 6
    late.protocol = get_protocol("machado")
    late.save(tmp_path / "odd")
    code, _, err = command(
        "predict", tmp_path / "odd", "--input", "x.npz", "--output", tmp_path / "a.npz"
    )
    assert code == 2
    assert "has 6 actions, but Pong has 18 under protocol machado" in err


def examples():
    """The commands and the Python examples of the page, in their order."""
    for language, text in re.findall(r"```(bash|python)\n(.+?)```", PAGE, flags=re.DOTALL):
        if language == "python":
            yield [sys.executable, "-c", text]
        for line in text.splitlines() if language == "bash" else ():
            yield ["bash", "-c", line]


def test_the_page_shows_both_commands_and_imports_names_that_exist():
    shown = [words[-1] for words in examples()]
    for verb in ("predict", "export"):
        assert any(f"python -m rlarcade.{verb} " in text for text in shown)
    for module, names in re.findall(r"^from (rlarcade\.\S+) import (.+)$", PAGE, re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(__import__(module, fromlist=[name]), name)


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for words in examples():
        if words[-1].startswith("pip install"):
            continue
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
    with np.load(tmp_path / "late.npz") as late:
        assert (late["action"] == late["taken"]).mean() > 0.95, "all but the random actions"
