"""`search:CHECKPOINT` is a player wherever one is named, in a league of its own."""

import json
from pathlib import Path

import pytest

from rlarcade import DQNAgent, Evaluation, SearchPlayer, compare_agents, evaluate_agent
from rlarcade.config import TrainConfig
from rlarcade.errors import ConfigError
from rlarcade.evaluation import compare_all, compare_suite
from rlarcade.evaluation.document_files import load_recorded
from rlarcade.playing.named import named_players
from rlarcade.reports import evaluation_report

cut_off = pytest.mark.usefixtures("short_games")  # of searches, a whole game takes ten seconds
LATE = Path(__file__).parent.parent / "data" / "space-invaders-late"
SEARCH = f"search,simulations=3,depth=3:{LATE}"
WHOLE_NAME = f"search,simulations=3,depth=3,skip=4,kind=uct:{LATE}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, game="pong", **settings):
    config = TrainConfig(game=game, conv_channels=(2, 2, 2), hidden_units=4, **settings)
    DQNAgent(config, num_actions=18 if config.protocol == "machado" else 6, seed=0).save(path)
    return path


def test_evaluate_says_that_the_player_has_emulator_access(command, here):
    code, out, err = command("evaluate", SEARCH, "--episodes", 2, "--json", "e.json")
    assert (code, err) == (0, "")
    assert "it has emulator access" in out
    (document,) = json.loads((here / "e.json").read_text())["evaluations"]
    assert (document["league"], document["checkpoint"]) == ("emulator", WHOLE_NAME)
    assert Evaluation.model_validate(document).league == "emulator"
    again = evaluate_agent(
        SearchPlayer(DQNAgent.load(LATE), simulations=3, depth=3, name="other"), episodes=2
    )
    assert [game["score"] for game in document["episodes"]] == [g.score for g in again.episodes]


def test_the_name_in_a_result_names_the_same_player(command):
    (player,) = named_players([SEARCH])
    (again,) = named_players([player.name])
    assert (again.name, again.version) == (player.name, player.version)
    assert player.name == WHOLE_NAME


@cut_off
def test_leagues_never_share_a_table(command, here):
    code, _, _ = command("evaluate", LATE, SEARCH, "--episodes", 1, "--report", "r.html")
    assert code == 0
    agents = [DQNAgent.load(LATE), named_players([SEARCH])[0]]
    page = evaluation_report([evaluate_agent(agent, episodes=1) for agent in agents])
    assert [f'id="group-{place}-summary"' in page for place in (1, 2, 3)] == [True, True, False]
    assert "a table for each league" in page
    assert ", with emulator access" in page


def test_a_match_of_two_leagues_must_be_asked_for_and_says_so(command, here):
    code, out, err = command("compare", LATE, SEARCH, "--max-pairs", 1)
    assert (code, out) == (2, "")
    assert f"{WHOLE_NAME} has emulator access: they are of different leagues" in err
    assert "--mix-leagues" in err
    arguments = ["compare", LATE, SEARCH, "--max-pairs", 1, "--mix-leagues", "--json", "m.json"]
    code, out, _ = command(*arguments)
    assert code == 4
    said = "the champion sees only the screen, the candidate has emulator access"
    assert said in out.splitlines()[-1]
    document = json.loads((here / "m.json").read_text())
    assert [document[side]["league"] for side in ("champion", "candidate")] == [
        "screen",
        "emulator",
    ]
    code, out, _ = command(*arguments)
    assert (code, "1 pair taken from" in out) == (4, True)
    assert said in out
    (record,) = (here / "checkpoints" / "matches").glob("*.jsonl")
    recorded, problems = load_recorded(record)
    assert (len(recorded), problems) == (2, [])


@cut_off
def test_a_match_within_the_league_needs_no_flag(command):
    more = f"search,simulations=4,depth=3:{LATE}"
    code, out, _ = command("compare", SEARCH, more, "--max-pairs", 1)
    assert code == 4
    assert "both have emulator access" in out.splitlines()[-1]


def test_the_same_search_of_the_same_weights_is_the_same_version(command):
    code, out, _ = command("compare", SEARCH, f"search,depth=3,simulations=3:{LATE}")
    assert code == 4
    assert "both are the same version" in out


@cut_off
def test_a_round_robin_names_those_with_emulator_access(command):
    arguments = ["compare", LATE, SEARCH, "random", "--max-pairs", 1]
    assert command(*arguments)[0] == 2
    code, out, _ = command(*arguments, "--mix-leagues")
    assert code == 0
    assert "with emulator access: 1" in out


@cut_off
def test_library_functions_refuse_mixed_leagues_too():
    players = named_players([str(LATE), SEARCH])
    for play in (
        lambda **more: compare_agents(*players, max_pairs=1, **more),
        lambda **more: compare_all(players, max_pairs=1, **more),
        lambda **more: compare_suite([players], max_rounds=1, **more),
    ):
        with pytest.raises(ConfigError, match="different leagues"):
            play()
        play(mix_leagues=True)


def test_a_suite_says_that_it_mixes_leagues(command, here):
    (here / "suite.toml").write_text(f'[[games]]\nchampion = "{LATE}"\ncandidate = "{SEARCH}"\n')
    assert command("compare", "--suite", "suite.toml", "--max-pairs", 1)[0] == 2
    code, out, _ = command("compare", "--suite", "suite.toml", "--max-pairs", 1, "--mix-leagues")
    assert code == 4
    assert "the candidate has emulator access" in out.splitlines()[-1]


def test_watch_plays_shows_and_verifies_without_searching(command, here, monkeypatch):
    code, out, err = command("watch", SEARCH, "--picture", "p.png")
    assert (code, err) == (0, "")
    assert (here / "p.png").exists()
    assert command("evaluate", SEARCH, "--episodes", 1, "--json", "e.json")[0] == 0
    monkeypatch.setattr(SearchPlayer, "choose", None)
    code, out, _ = command("watch", "e.json", "--verify")
    assert code == 0
    assert "1 of 1 games reproduced to the point" in out
    assert command("watch", "e.json", "--picture", "q.png")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["promote", "register", SEARCH],
        ["promote", "pipeline", "run", SEARCH, "--mode", "ci"],
        ["export", SEARCH, "--onnx", "a.onnx"],
        ["predict", SEARCH, "--input", "o.npz", "--output", "v.npz"],
        ["train", "--game", "SpaceInvaders", "--init-from", SEARCH],
    ],
)
def test_what_needs_a_checkpoint_refuses_a_player_that_looks_ahead(command, here, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "is no checkpoint but a player that looks ahead: it has access to the emulator" in err
    assert f"Name the agent itself: {LATE}" in err.replace("\n", " ")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("search:", "search: does not say which agent looks ahead"),
        ("search,kind=iw:", "does not say which agent looks ahead"),
        ("search:random", "random has no action values, so it cannot look ahead"),
        ("search:module:factory", "module:factory has no action values"),
        (f"search,:{LATE}", "the options simulations, depth, skip, kind; '' is not one of them"),
        (f"search,sims=3:{LATE}", "'sims' is not one of them"),
        (f"search,depth=3,depth=4:{LATE}", "'depth' is there twice"),
        (f"search,simulations=0:{LATE}", "a whole number from 1 to 10,000, not 0"),
        (f"search,simulations=1000000000:{LATE}", "from 1 to 10,000, not 1000000000"),
        (f"search,simulations=9999999999999999999:{LATE}", "from 1 to 10,000, not '99999999"),
        (f"search,simulations=1e3:{LATE}", "from 1 to 10,000, not '1e3'"),
        (f"search,depth=-1:{LATE}", "from 1 to 1,000, not '-1'"),
        (f"search,depth=1000,skip=60:{LATE}", "lasts 240,000 frames, but a game under v5 ends"),
        (f"search,kind=mcts:{LATE}", "a search is uct or iw, not 'mcts'"),
        ("search:nowhere", "nowhere does not exist"),
        (f"search:search:{LATE}", "is no checkpoint but a player that looks ahead"),
    ],
)
def test_a_bad_search_is_one_clear_line(command, here, name, words):
    code, out, err = command("evaluate", name, "--game", "SpaceInvaders")
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_games_and_protocols_that_cannot_be_searched_are_refused(command):
    code, _, err = command("evaluate", f"search:{save('tetris', game='tetris')}")
    assert (code, "no player can look ahead in Tetris: ale-py does not clone" in err) == (2, True)
    code, _, err = command("watch", f"search:{save('all', protocol='machado')}")
    assert (code, "machado plays with all 18 actions" in err) == (2, True)


def test_a_file_with_such_a_name_is_that_file(command, here):
    save(here / "search:pong")
    code, out, _ = command("evaluate", "search:pong", "--episodes", 1)
    assert (code, "emulator access" in out) == (0, False)
