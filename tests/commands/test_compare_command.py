"""`rlarcade compare`: verdicts as exit codes, a document, and a match that goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_games import Script, play_instead

from rlarcade.config import TrainConfig
from rlarcade.evaluation import compare_agents
from rlarcade.games import get_protocol
from rlarcade.learning.policy import DQNAgent

AGENTS = Path(__file__).parent.parent / "data"
EARLY, LATE = AGENTS / "space-invaders-early", AGENTS / "space-invaders-late"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one's own to run in: records lie under checkpoints/matches."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, game="pong", **settings):
    config = TrainConfig(game=game, conv_channels=(2, 2, 2), hidden_units=4, **settings)
    num_actions = 18 if game == "boxing" else 6
    DQNAgent(config, num_actions=num_actions, seed=settings.get("seed", 0)).save(path)
    return path


def test_the_same_weights_are_inconclusive_at_once(command, here):
    code, out, err = command("compare", LATE, LATE, "--json", "match.json")
    assert (code, err) == (4, "")
    assert "both are the same version" in out
    assert "verdict: INCONCLUSIVE" in out
    document = json.loads((here / "match.json").read_text())
    assert (document["verdict"], document["pairs"], document["e_value"]) == ("inconclusive", 0, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-pairs", "0"], "max_pairs must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be 0 to 4294967295, got -1"),
        (["--alpha", "0"], "'alpha' must be above 0, not 0.0"),
        (["--beta", "1.5"], "'beta' must be below 1, not 1.5"),
        (["--non-inferiority", "0.5"], "non_inferiority must be between 0 and 0.5, got 0.5"),
        (["--device", "tpu"], "--device is one of auto, cpu, cuda"),
        (["--suite", "x.toml"], "name two checkpoints or a --suite, not both"),
        ([LATE, "--non-inferiority", "0.1"], "leave --non-inferiority out"),
        ([LATE, "--beta", "0.2"], "a round robin only tests who is better; leave --beta out"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(command, here, flags, message):
    code, _, err = command("compare", EARLY, LATE, *flags)
    assert code == 2
    assert message in err
    assert not (here / "checkpoints").exists()


@pytest.mark.parametrize("names", [[], [LATE]])
def test_fewer_than_two_are_refused(command, here, names):
    code, _, err = command("compare", *names)
    assert code == 2
    assert "name a champion and a candidate" in err


def test_checkpoints_that_cannot_be_compared_are_refused(command, here):
    pong = save(here / "pong")
    machado = save(here / "machado", game="space_invaders", protocol="machado")
    for other, message in (
        (pong, "champion plays space_invaders, the candidate pong"),
        (machado, "different protocols"),
        (here / "nothing", "does not exist"),
    ):
        code, _, err = command("compare", LATE, other)
        assert code == 2
        assert message in err


@pytest.fixture
def brief(monkeypatch):
    """Checkpoints play games of 60 steps."""
    brief = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 240})

    def load(checkpoint, *, device="cpu"):
        agent = DQNAgent.load(checkpoint, device=device)
        agent.protocol = brief
        return agent

    monkeypatch.setattr("rlarcade.playing.named.load_agent", load)


@pytest.fixture
def nobody_plays(monkeypatch):
    """Fails if a game is begun."""

    def play(*arguments, **settings):
        raise AssertionError("a game was begun")

    monkeypatch.setattr("rlarcade.evaluation.match.play_games", play)


@pytest.mark.parametrize("how", ["match", "round robin", "suite"])
def test_a_report_that_cannot_be_written_is_told_before_a_game_is_played(
    command, here, suite, nobody_plays, how
):
    names = {"match": [EARLY, LATE], "round robin": [EARLY, LATE, "random"]}
    what = names.get(how, ["--suite", suite])
    code, out, err = command("compare", *what, "--json", "x.json", "--report", here)
    assert (code, out) == (2, "")
    assert f"report {here} cannot be written: Is a directory. Choose another file." in err
    assert not (here / "x.json").exists()
    assert not (here / "checkpoints").exists()


def test_a_report_that_cannot_be_written_after_all_leaves_the_document(
    command, here, brief, monkeypatch
):
    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlarcade.reports.file.write_file", fail)
    flags = ["--max-pairs", 1, "--json", "m.json", "--report", "m.html"]
    code, out, err = command("compare", "random", save(here / "pong"), *flags)
    assert code == 2
    assert "verdict: INCONCLUSIVE" in out
    assert "report m.html cannot be written: No space left on device" in err
    assert json.loads((here / "m.json").read_text())["pairs"] == 1


def test_more_than_two_play_a_round_robin(command, here, brief):
    names = [str(save(here / name, seed=seed)) for seed, name in enumerate("abc")]
    flags = ["--max-pairs", 1, "--json", "table.json", "--report", "table.html"]
    code, out, err = command("compare", *names, *flags)
    assert (code, err) == (0, "")
    assert "report: table.html" in out
    page = (here / "table.html").read_text()
    assert "everybody against everybody" in page
    assert page.count("data:video/mp4;base64,") == 3
    assert "share of pairs won by the row against the column" in out
    document = json.loads((here / "table.json").read_text())
    assert document["players"] == names
    assert [match["pairs"] for match in document["matches"]] == [1, 1, 1]


def test_a_report_shows_the_match(command, here, brief):
    names = [save(here / "a"), save(here / "b", seed=1)]
    code, out, err = command("compare", *names, "--max-pairs", 1, "--report", "match.html")
    assert (code, err) == (4, "")
    assert "report: match.html" in out
    page = (here / "match.html").read_text()
    assert "INCONCLUSIVE" in page
    assert page.count("data:video/mp4;base64,") == 2


def test_the_same_weights_have_a_report_too(command, here):
    assert command("compare", LATE, LATE, "--report", "match.html")[0] == 4
    assert "both are the same version" in (here / "match.html").read_text()


@pytest.fixture
def suite(here):
    lines = ['guard = "alarm"', "margin = 0.2"]
    for game in ("pong", "boxing"):
        lines += ["[[games]]", 'champion = "random"', f'candidate = "{save(here / game, game)}"']
    path = here / "suite.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_suite_is_a_match_over_several_games(command, here, brief, suite):
    flags = ["--max-pairs", 2, "--json", "s.json", "--report", "s.html"]
    code, out, err = command("compare", "--suite", suite, *flags)
    assert (code, err) == (4, "")
    assert "2 games, 2 rounds" in out
    assert "Pong: " in out
    assert "Boxing: " in out
    assert "verdict: INCONCLUSIVE" in out
    document = json.loads((here / "s.json").read_text())
    assert (document["rounds"], document["guard"], document["margin"]) == (2, "alarm", 0.2)
    assert {match["game"] for match in document["matches"]} == {"pong", "boxing"}
    assert "report: s.html" in out
    page = (here / "s.html").read_text()
    assert "Pong and Boxing: candidate against champion" in page
    assert page.count("data:video/mp4;base64,") == 4


def test_a_suite_takes_its_games_from_its_file(command, here, suite):
    code, _, err = command("compare", "--suite", suite, "--game", "Pong")
    assert code == 2
    assert "a suite takes its games from its file; leave --game out" in err
    assert not (here / "checkpoints").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'games' is missing"),
        ("games = []", "'games' must have at least 1 part"),
        (
            "gaurd = 1\ngames = [{champion='a', candidate='b'}]",
            "unknown setting 'gaurd'. Did you mean 'guard'",
        ),
        ("[[games]]\nchampion = 'x'", "'games.0.candidate' is missing"),
        (
            "margin = '0.1'\n[[games]]\nchampion = 'a'\ncandidate = 'b'",
            "'margin' must be a number, not '0.1'",
        ),
        ("guard = 'hope'", "'guard' must be 'prove', 'alarm' or 'none', not 'hope'"),
        ("=", "is not valid TOML"),
        (
            "[[games]]\nchampion = 'random'\ncandidate = 'random'\ngame = 'pong'\n" * 2,
            "a suite has each game once",
        ),
    ],
)
def test_suites_that_make_no_sense_are_refused(command, here, text, message):
    (here / "suite.toml").write_text(text)
    code, _, err = command("compare", "--suite", "suite.toml")
    assert code == 2
    assert message in err
    assert command("compare", "--suite", "nothing.toml")[0] == 2


def test_random_can_be_the_champion(command, here, brief):
    code, out, _ = command("compare", "random", save(here / "pong"), "--max-pairs", 1)
    assert code == 4
    assert "champion   random" in out


@pytest.fixture
def candidate_scores(monkeypatch):
    """Nobody plays: `random` scores 50 in every game, all others what the test says."""

    def scripted(score):
        script = Script(lambda game: (50.0 if game.player.name == "random" else score, 1.0))
        play_instead(monkeypatch, script)

    return scripted


@pytest.mark.parametrize(
    ("score", "code", "verdict"),
    [(60.0, 0, "PROMOTE"), (40.0, 3, "REJECT")],
)
def test_the_verdict_on_a_suite_is_the_exit_code(
    command, here, suite, candidate_scores, score, code, verdict
):
    candidate_scores(score)
    told = command("compare", "--suite", suite, "--max-pairs", 30)
    assert (told[0], told[2]) == (code, "")
    assert f"verdict: {verdict}" in told[1]


def test_a_candidate_that_is_as_good_passes_where_it_need_not_be_better(
    command, here, candidate_scores
):
    candidate_scores(50.0)
    pong = save(here / "pong")
    assert command("compare", "random", pong, "--max-pairs", 60)[0] == 3
    flags = ["--non-inferiority", 0.1, "--max-pairs", 60, "--dir", "other"]
    code, out, err = command("compare", "random", pong, *flags)
    assert (code, err) == (0, "")
    assert "verdict: PROMOTE – the candidate is not worse by 0.1" in out


@pytest.mark.usefixtures("real_games")
@pytest.mark.slow  # whole games of real agents
def test_the_late_agent_replaces_the_early_one_and_never_the_other_way(command, here, monkeypatch):
    code, out, _ = command("compare", EARLY, LATE, "--json", "up.json")
    assert code == 0
    assert "verdict: PROMOTE" in out
    up = json.loads((here / "up.json").read_text())
    assert up["wins"] > up["losses"]
    assert up["e_value"] >= 20
    code, out, _ = command("compare", LATE, EARLY, "--json", "down.json")
    assert code == 3
    assert "verdict: REJECT" in out
    down = json.loads((here / "down.json").read_text())
    assert down["e_value"] < 1 < 10 <= down["e_value_futility"]
    # decided already: the same command says it again, and asks no agent
    monkeypatch.setattr(DQNAgent, "q_values", None)
    assert command("compare", EARLY, LATE)[0] == 0


@pytest.mark.slow  # whole games of a real agent
def test_a_real_agent_is_not_better_than_itself_with_other_dice():
    agent = DQNAgent.load(LATE)
    match = compare_agents(agent, agent, same_dice=False, max_pairs=24, seed=1)
    assert match.verdict != "promote"
    assert match.e_value < 20
    different = [pair.champion != pair.candidate for pair in match.results]
    assert sum(different) > len(different) / 2, "their dice differ, and so do their games"
    low, high = match.interval
    assert low < 0.5 < high


@pytest.mark.slow  # whole games of real agents, and a process for each of three attempts
def test_a_match_that_is_killed_or_interrupted_goes_on_to_the_same_verdict(here):
    compare = [sys.executable, "-m", "rlarcade.compare", str(EARLY), str(LATE)]
    # So that the match lasts for longer than it takes to see its fourth pair and to stop it.
    settings = ("--seed", "3", "--alpha", "1e-6")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def played():
        records = here / "checkpoints" / "matches"
        return sum(path.read_text().count("\n") for path in records.glob("*"))

    def until(pairs, number):
        process = subprocess.Popen([*compare, *settings], env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        before = played()
        while played() <= max(pairs, before):  # one of its own, so it is up and plays
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        return process.communicate(timeout=60)[1], process.returncode

    assert until(2, signal.SIGKILL)[1] == -signal.SIGKILL
    told, code = until(4, signal.SIGTERM)
    assert code == 130
    assert "the same command resumes from there" in told
    documents = []
    for folder in ("checkpoints/matches", "another"):
        flags = [*settings, "--dir", folder, "--json", f"{len(documents)}.json"]
        assert subprocess.run([*compare, *flags], env=environment, check=False).returncode == 0
        documents.append(json.loads((here / f"{len(documents)}.json").read_text()))
    assert documents[0] == documents[1]
    assert documents[0]["pairs"] > 4


# What an exit code of 0 must never mean


@pytest.mark.parametrize("body", ["sys.exit()", "raise SystemExit(0)", "sys.exit(3)"])
def test_a_policy_that_exits_is_no_verdict(command, tmp_path, monkeypatch, body):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quits.py").write_text(f"import sys\ndef make(game):\n    {body}\n")
    monkeypatch.delitem(sys.modules, "quits", raising=False)
    code, out, err = command("compare", LATE, "quits:make")
    assert (code, out) == (2, "")
    assert "quits:make gave no policy: SystemExit" in err


def test_weights_that_were_overwritten_are_no_old_verdict(command, tmp_path, monkeypatch):
    """The policy's source stays the same; its weights lie in another file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "def make(game):\n"
        "    action = int(Path('weights').read_text())\n"
        "    return lambda observation: action\n"
    )
    flags = ["--game", "Pong", "--max-pairs", 2, "--dir", tmp_path / "m"]
    for action in ("2", "3"):
        (tmp_path / "weights").write_text(action)
        code, out, err = command("compare", "random", "mine:make", *flags)
        assert code == 4
        assert "taken from" not in out
        assert "mine:make has no version, so these games are not kept for a later command" in err
    assert not (tmp_path / "m").exists()


def test_an_interrupted_match_says_that_pairs_are_kept_only_if_they_are(
    command, tmp_path, monkeypatch
):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    (tmp_path / "unnamed.py").write_text("def make(game):\n    return lambda observation: 0\n")
    monkeypatch.setattr("rlarcade.compare.compare_agents", interrupted)
    kept = "finished pairs are kept; the same command resumes from there."
    for names, told in (([EARLY, LATE], True), ([LATE, "unnamed:make"], False)):
        code, _, err = command("compare", *names)
        assert code == 130
        assert (kept in err) is told


def test_games_that_come_from_a_record_are_told(command, tmp_path):
    flags = [EARLY, LATE, "--dir", tmp_path / "m", "--max-pairs", 1]
    first = command("compare", *flags)
    again = command("compare", *flags)
    assert "taken from" not in first[1]
    assert f"1 pair taken from {tmp_path / 'm'}" in again[1]
    assert again[1].splitlines()[1:] == first[1].splitlines()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sticky": 2.0}, "'protocol.sticky' must be at most 1, not 2"),
        ({"sticky": 0.5}, "protocol v5 has sticky 0.25, not 0.5"),
        ({"frame_cap": 0}, "'protocol.frame_cap' must be above 0, not 0"),
        ({"evaluation_epsilon": 5}, "'protocol.evaluation_epsilon' must be at most 1, not 5"),
        ({"max_noops": 10**6}, "'protocol.max_noops' must be at most 255, not 1000000"),
        ({"name": "x\x1b[31m", "sticky": 0.5}, "'protocol.name' must be text of the form"),
    ],
)
def test_a_manifest_whose_protocol_is_not_what_its_name_says_plays_no_match(
    command, tmp_path, change, said
):
    shutil.copytree(LATE, tmp_path / "odd")
    path = tmp_path / "odd" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["protocol"] |= change
    path.write_text(json.dumps(manifest))
    code, out, err = command("compare", EARLY, tmp_path / "odd")
    assert (code, out) == (2, "")
    assert said in err
