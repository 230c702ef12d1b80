"""A document is held to what it says of itself: seeds, order, ends and figures."""

import json
from pathlib import Path

import pytest

from rlarcade import Player, Protocol, compare_agents, compare_suite, evaluate_agent
from rlarcade.errors import RecordingError
from rlarcade.evaluation.document_files import load_recorded

DATA = Path(__file__).parents[1] / "data"
SHORT = Protocol(name="short", frame_cap=1_200)


def moving(observation):
    return [1, 2, 3][int(observation.astype(int).sum() % 3)]


def player(version, game="space_invaders", policy=moving):
    return Player(policy, game=game, protocol=SHORT, name=version, version=version)


@pytest.fixture(scope="module")
def evaluation():
    return json.loads(evaluate_agent(player("v1"), episodes=4, seed=3).model_dump_json())


@pytest.fixture(scope="module")
def match():
    sides = player("a", policy=lambda seen: 2), player("b")
    return json.loads(compare_agents(*sides, max_pairs=12).model_dump_json())


@pytest.fixture(scope="module")
def suite():
    games = [(player(f"a{game}", game, lambda seen: 1), player(f"b{game}", game)) for game in GAMES]
    return json.loads(compare_suite(games, max_rounds=3).model_dump_json())


GAMES = ("space_invaders", "breakout")


def problems_of(tmp_path, document):
    (tmp_path / "d.json").write_text(json.dumps(document))
    return load_recorded(tmp_path / "d.json").problems


def test_an_honest_document_has_no_problems(tmp_path, evaluation, match, suite):
    for document in (evaluation, match, suite, {"evaluations": [evaluation]}):
        assert problems_of(tmp_path, document) == []


def test_documents_of_an_older_rlarcade_have_no_problems(tmp_path):
    old = DATA / "written-by-0.1.0"
    (record,) = (old / "matches").iterdir()
    for path, games in ((old / "comparison.json", 16), (old / "evaluation.json", 2), (record, 16)):
        found = load_recorded(path)
        assert (len(found.recordings), found.problems) == (games, [])


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_game_that_was_taken_out_is_noticed(tmp_path, evaluation, match, taken):
    for document, part, said in ((evaluation, "episodes", "game"), (match, "results", "pair")):
        left = [one for place, one in enumerate(document[part]) if place != taken]
        (first, *_) = problems_of(tmp_path, document | {part: left})
        seed = left[taken].get("seed") or left[taken]["champion"]["seed"]
        assert first.startswith(f"{said} {taken} has seed {seed}, but the")


def test_pairs_in_another_order_are_noticed(tmp_path, match):
    (first, *_) = problems_of(tmp_path, match | {"results": match["results"][::-1]})
    assert first.startswith("pair 0 has seed")


def test_lost_pairs_that_were_removed_are_noticed(tmp_path, match):
    won = [p for p in match["results"] if p["candidate"]["score"] >= p["champion"]["score"]]
    assert len(won) < len(match["results"])
    assert problems_of(tmp_path, match | {"results": won})


@pytest.mark.parametrize(
    ("name", "value"),
    [("wins", 13), ("losses", 14), ("e_value", 1e6), ("verdict", "promote"), ("pairs", 13)],
)
def test_a_figure_that_does_not_follow_from_the_games_is_noticed(tmp_path, match, name, value):
    assert match[name] != value
    (problem,) = problems_of(tmp_path, match | {name: value})
    assert problem.startswith(f"{name} {value!r} is claimed, but")


def test_the_figures_of_an_evaluation_and_of_a_suite_have_to_follow_too(
    tmp_path, evaluation, suite
):
    (problem,) = problems_of(tmp_path, evaluation | {"mean": 1234.5})
    assert problem.startswith("mean 1234.5 is claimed, but")
    (problem,) = problems_of(tmp_path, suite | {"e_value": 21.0})
    assert problem.startswith("e_value 21.0 is claimed, but")


def test_a_match_that_goes_on_after_its_end_is_noticed(tmp_path, match):
    found = problems_of(tmp_path, match | {"rule": match["rule"] | {"beta": 0.9}})
    assert "the match was decided after" in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        '{"a":' * 20_000,
        '{"results": ' + "1" * 5_000 + "}",
        "{}",
        "null",
        '{"matches": 3}',
        '{"evaluations": 7}',
        '{"matches": [{}], "guard": 1}',
        '{"results": null}',
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_what_is_no_document_is_one_line(tmp_path, text, ending):
    (tmp_path / f"d.{ending}").write_text(text)
    with pytest.raises(RecordingError, match="is no result document, or it is damaged"):
        load_recorded(tmp_path / f"d.{ending}")
