"""A document is held to what it says of itself: seeds, order, ends and figures."""

import json
from pathlib import Path

import pytest

from rlarcade import (
    PairResult,
    Player,
    Protocol,
    Rule,
    SuiteComparison,
    compare_agents,
    compare_suite,
    evaluate_agent,
)
from rlarcade.errors import RecordingError
from rlarcade.evaluation.document_files import load_recorded
from rlarcade.evaluation.documents import Comparison, Side
from rlarcade.evaluation.suite import SUITE_RULE
from rlarcade.games import get_protocol
from rlarcade.playing.episodes import EpisodeResult, Trace
from rlarcade.playing.schedule import match_seeds

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
ONE_ACTION = Trace.of([0], [0.0])


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
    longer = match | {"rule": match["rule"] | {"beta": 0.9}}
    for document in (longer, longer | {"suite": True}):
        found = problems_of(tmp_path, document)
        assert "the match was decided after" in found[0]


def made_up_suite(outcomes, max_rounds=400):
    """A suite of as many games as a round has outcomes, with the guard of each; as JSON.

    Its games have the seeds of a match's schedule, and one action each.
    """
    sides = {side: Side(checkpoint=side, version=side) for side in ("champion", "candidate")}
    matches = []
    for game, column in zip(GAMES, zip(*outcomes, strict=True), strict=True):
        pairs = []
        for seed, outcome in zip(match_seeds(0, ("champion", "candidate")), column, strict=False):
            games = {
                side: EpisodeResult(
                    seed=seed, score=score, steps=1, ended="terminated", trace=ONE_ACTION
                )
                for side, score in (("champion", 1 - outcome), ("candidate", outcome))
            }
            pairs.append(PairResult(**games))
        matches.append(
            Comparison(
                game=game,
                protocol=get_protocol("v5"),
                rule=Rule.non_inferiority(0.10),
                seed=0,
                max_pairs=max_rounds,
                results=tuple(pairs),
                **sides,
            )
        )
    suite = SuiteComparison(
        rule=SUITE_RULE, guard="prove", margin=0.10, max_rounds=max_rounds, matches=tuple(matches)
    )
    return json.loads(suite.model_dump_json())


def test_a_suite_may_go_on_after_the_own_rule_of_one_game(tmp_path):
    document = made_up_suite([(1, place % 2) for place in range(40)], max_rounds=40)
    assert (document["verdict"], document["rounds"]) == ("inconclusive", 40)
    alone = Comparison.model_validate(document["matches"][0])
    assert alone.model_copy(update={"results": alone.results[:30]}).verdict == "promote"
    assert problems_of(tmp_path, document) == []


def test_a_suite_that_goes_on_after_its_end_is_noticed(tmp_path):
    decided = next(n for n in range(1, 100) if made_up_suite([(1, 1)] * n)["verdict"])
    assert problems_of(tmp_path, made_up_suite([(1, 1)] * decided)) == []
    assert problems_of(tmp_path, made_up_suite([(1, 1)] * (decided + 1))) == [
        f"the suite was decided after {decided} rounds, but has {decided + 1}"
    ]


def test_a_suite_with_more_rounds_than_it_may_have_is_noticed(tmp_path):
    mixed = [(place % 2, 1 - place % 2) for place in range(5)]
    assert problems_of(tmp_path, made_up_suite(mixed, max_rounds=5)) == []
    assert problems_of(tmp_path, made_up_suite(mixed, max_rounds=3)) == [
        "the suite was decided after 3 rounds, but has 5"
    ]


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
