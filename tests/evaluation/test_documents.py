"""Result documents from anywhere: bounded, refused in words; older ones are still read."""

import base64
import gc
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_up_results import episode, evaluation, match, suite
from pydantic import ValidationError

from rlarcade.evaluation import Comparison, Evaluation, SuiteComparison
from rlarcade.evaluation.documents import MOST_GAMES, PairResult
from rlarcade.playing import EpisodeResult
from rlarcade.playing.episodes import Trace
from rlarcade.playing.packed import LONGEST_GAME, PackedBytes

OLD = Path(__file__).parent.parent / "data" / "written-by-0.1.0"


def packed(data):
    return base64.b64encode(zlib.compress(data, 9)).decode()


def document(**changes):
    """An evaluation as JSON has it, with changes to it or, by `episode`, to its first game."""
    found = json.loads(evaluation([1.0, 2.0]).model_dump_json())
    found["episodes"][0] |= changes.pop("episode", {})
    return found | changes


# What was written before is read


def test_an_evaluation_written_by_0_1_0_is_read_and_written_with_its_league():
    text = (OLD / "evaluation.json").read_text("utf-8")
    (old,) = json.loads(text)["evaluations"]
    read = Evaluation.model_validate(old)
    again = json.loads(read.model_dump_json())
    assert again == old | {"league": "screen"}
    assert sum(reward for _, reward in read.episodes[0].trace.steps) == read.episodes[0].score


def test_a_match_written_by_0_1_0_is_read_and_written_with_its_leagues():
    old = json.loads((OLD / "comparison.json").read_text("utf-8"))
    read = Comparison.model_validate(old)
    for side in ("champion", "candidate"):
        old[side]["league"] = "screen"
    assert json.loads(read.model_dump_json()) == old
    assert all(len(pair.champion.trace.actions) == pair.champion.steps for pair in read.results)


def test_a_record_of_a_match_written_by_0_1_0_is_read_line_by_line():
    (path,) = (OLD / "matches").iterdir()
    _, *lines = path.read_text("utf-8").splitlines()
    assert lines
    for line in lines:
        assert PairResult.model_validate_json(line).model_dump_json() == line


# Traces stay packed


def test_a_trace_that_was_read_equals_the_one_that_was_played():
    played = Trace.of([0, 3, 1] * 100, [0, 0, 5] * 100)
    read = Trace.model_validate_json(played.model_dump_json())
    assert read == played
    assert hash(read) == hash(played)
    assert read.steps == played.steps == [(0, 0), (3, 0), (1, 5)] * 100
    assert (bytes(read.actions), list(read.actions)[:3]) == (bytes([0, 3, 1] * 100), [0, 3, 1])
    assert read.model_dump_json() == played.model_dump_json()
    assert read.model_dump() == {
        "actions": bytes([0, 3, 1] * 100),
        "rewards": np.array([0, 0, 5] * 100, dtype="<i4").tobytes(),
    }
    assert read != Trace.of([0, 3, 2] * 100, [0, 0, 5] * 100)
    assert read.actions != PackedBytes(b"\0")
    assert read.actions == bytes([0, 3, 1] * 100)
    assert read.actions != "text"


BOMBS = """
import json, resource, sys
from rlarcade.evaluation import Evaluation
text = open(sys.argv[1]).read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
document = Evaluation.model_validate(json.loads(text))
print(len(document.episodes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow  # a process of its own, ten megabytes
def test_a_document_of_ten_megabytes_of_long_games_takes_memory_in_proportion(tmp_path):
    steps = LONGEST_GAME
    trace = {"actions": packed(bytes(steps)), "rewards": packed(bytes(4 * steps))}
    game = {"seed": 1, "score": 0, "steps": steps, "ended": "terminated", "trace": trace}
    text = json.dumps(game)
    count = 10_000_000 // len(text)
    path = tmp_path / "bombs.json"
    path.write_text(json.dumps(document(episodes=[game] * count)))
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, path], capture_output=True, text=True, check=True, timeout=200
    )
    episodes, kilobytes = map(int, done.stdout.split())
    assert episodes == count > 10_000
    assert kilobytes < 250_000, f"{count * 5 * steps / 1e9:.1f} GB are packed in it"


def test_traces_that_are_read_are_kept_packed():
    text = Trace.of([0] * 20_000, [0] * 20_000).model_dump_json()
    traces = [Trace.model_validate_json(text) for _ in range(50)]
    gc.collect()
    held = sum(sys.getsizeof(each._data) for one in traces for each in (one.actions, one.rewards))
    assert held < 50 * 500


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ({"actions": "!", "rewards": ""}, "not packed bytes"),
        ({"actions": "é", "rewards": ""}, "not packed bytes"),
        ({"actions": packed(b"")[:-6], "rewards": packed(b"")}, "not packed bytes|cut off"),
        ({"actions": base64.b64encode(b"no zlib").decode(), "rewards": ""}, "not packed bytes"),
        ({"actions": 5, "rewards": 5}, "packed bytes are base64 text, not int"),
        ({"actions": None, "rewards": None}, "packed bytes are base64 text, not NoneType"),
        ({"actions": packed(bytes(3)), "rewards": packed(bytes(3))}, "3 actions need 12 bytes"),
        (
            {"actions": packed(bytes(200_000)), "rewards": packed(bytes(800_000))},
            "too many for a game",
        ),
        ({"actions": bytes(200_000), "rewards": b""}, "too many for a game"),
        ({"actions": packed(b"")}, "Field required"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_the_reason(trace, said):
    with pytest.raises(ValidationError, match=said):
        Trace.model_validate(trace)


# Bounds


BAD_GAMES = {
    "score nan": {"score": float("nan")},
    "score inf": {"score": float("inf")},
    "score huge": {"score": 1e300},
    "score text": {"score": "many"},
    "steps negative": {"steps": -1},
    "steps beyond any game": {"steps": LONGEST_GAME + 1},
    "steps half": {"steps": 1.5},
    "seed negative": {"seed": -1},
    "seed of 32 bits": {"seed": 2**31},
    "another ending": {"ended": "won"},
    "a list": {"score": [1]},
    "a foreign field": {"lives": 3},
    "failure a number": {"failure": 5},
    "trace a list": {"trace": []},
}


@pytest.mark.parametrize("changes", BAD_GAMES.values(), ids=list(BAD_GAMES))
def test_a_game_that_cannot_be_is_refused(changes):
    good = json.loads(episode(1, 2.0).model_dump_json())
    assert EpisodeResult.model_validate(good)
    with pytest.raises(ValidationError):
        EpisodeResult.model_validate(good | changes)
    with pytest.raises(ValidationError):
        Evaluation.model_validate(document(episode=changes))


BAD_EVALUATIONS = {
    "no episodes": {"episodes": []},
    "episodes a number": {"episodes": 5},
    "epsilon nan": {"epsilon": float("nan")},
    "epsilon 5": {"epsilon": 5},
    "epsilon negative": {"epsilon": -0.1},
    "seed negative": {"seed": -1},
    "seed of 33 bits": {"seed": 2**32},
    "seed half": {"seed": 0.5},
    "no protocol": {"protocol": None},
    "game a list": {"game": ["pong"]},
}


@pytest.mark.parametrize("changes", BAD_EVALUATIONS.values(), ids=list(BAD_EVALUATIONS))
def test_an_evaluation_that_cannot_be_is_refused(changes):
    assert Evaluation.model_validate(document())
    with pytest.raises(ValidationError):
        Evaluation.model_validate(document(**changes))


@pytest.mark.parametrize("field", ["checkpoint", "game", "protocol", "epsilon", "seed", "episodes"])
def test_an_evaluation_without_a_field_is_refused(field):
    missing = document()
    del missing[field]
    with pytest.raises(ValidationError, match="Field required"):
        Evaluation.model_validate(missing)


def test_more_games_than_any_evaluation_has_are_refused():
    one = document()["episodes"][0]
    with pytest.raises(ValidationError, match="at most 100000 items"):
        Evaluation.model_validate(document(episodes=[one] * (MOST_GAMES + 1)))


@pytest.mark.slow  # it reads as many pairs as are allowed
def test_more_pairs_than_any_match_has_are_refused():
    whole = json.loads(match([(1, 2)]).model_dump_json())
    with pytest.raises(ValidationError, match="at most 100000 items"):
        Comparison.model_validate(whole | {"results": whole["results"] * (MOST_GAMES + 1)})


@pytest.mark.parametrize(
    "changes",
    [{"max_pairs": 0}, {"max_pairs": -1}, {"seed": -1}, {"seed": 2**32}, {"results": None}],
    ids=str,
)
def test_a_match_that_cannot_be_is_refused(changes):
    whole = json.loads(match([(1, 2)]).model_dump_json())
    assert Comparison.model_validate(whole)
    with pytest.raises(ValidationError):
        Comparison.model_validate(whole | changes)


def test_a_suite_whose_games_have_other_numbers_of_rounds_is_refused():
    whole = json.loads(suite({"pong": [(1, 2)] * 2, "boxing": [(2, 1)] * 2}).model_dump_json())
    assert SuiteComparison.model_validate(whole)
    whole["matches"][0]["results"] = whole["matches"][0]["results"][:1]
    with pytest.raises(ValidationError, match=r"every game has a pair of every round.*1 and 2"):
        SuiteComparison.model_validate(whole)


@pytest.mark.parametrize("changes", [{"max_rounds": 0}, {"margin": 0.6}, {"guard": "all"}], ids=str)
def test_a_suite_that_cannot_be_is_refused(changes):
    whole = json.loads(suite({"pong": [(1, 2)]}).model_dump_json())
    with pytest.raises(ValidationError):
        SuiteComparison.model_validate(whole | changes)


def test_the_largest_scores_that_pass_are_summed_up_without_overflow():
    most = evaluation([1e14, -1e14, 1e14])
    assert np.isfinite(most.mean)
    assert np.isfinite(most.iqm)
    assert json.loads(most.model_dump_json())["mean"] == most.mean
