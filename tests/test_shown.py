"""Results show themselves in one short line, in a small escaped table, and in true words."""

import re
import sys

import numpy as np
import pytest
from made_up_results import episode, evaluation, match, mixed, read, round_robin, suite

from rlarcade.evaluation import Rule, evaluate_agent
from rlarcade.evaluation.documents import PairResult, Side
from rlarcade.evaluation.match import match_notes
from rlarcade.evaluation.round_robin import RoundRobin
from rlarcade.evaluation.summaries import meaning_of, suite_meaning
from rlarcade.games import Protocol
from rlarcade.playing import EpisodeResult
from rlarcade.playing.episodes import Trace
from rlarcade.playing.play import play_steps
from rlarcade.playing.players import RandomPlayer
from rlarcade.reports import (
    Clip,
    LearningCurve,
    evaluation_report,
    match_report,
    round_robin_report,
    suite_report,
)
from rlarcade.reports.lines import (
    match_lines,
    round_robin_lines,
    score_lines,
    suite_lines,
    suite_standing,
)
from rlarcade.reports.words import fitted, wrapped
from rlarcade.shown import ShortlyShown
from rlarcade.text import counted

HOSTILE = "<script>alert(1)</script>\x1b[31m\n\u202e\"'&" + "x" * 500
TRACE = Trace.of([1, 2, 3] * 2_000, [0, 5, 0] * 2_000)
GAME = EpisodeResult(seed=7, score=10_000, steps=6_000, ended="terminated", trace=TRACE)
CRASH = "RuntimeError: " + HOSTILE


def played(*scores, **fields):
    return match(scores, **fields)


def failed(seed, score=0.0):
    return episode(seed, score, 5, "failed", "it crashed")


def crashes(champion, candidate, pairs=2, **fields):
    """A match in which one side or both fail in every game."""
    return match(
        [
            (failed(1_000 + i) if champion else 10.0, failed(1_000 + i) if candidate else 10.0)
            for i in range(pairs)
        ],
        max_pairs=pairs,
        **fields,
    )


DOCUMENTS = {
    "trace": TRACE,
    "episode": GAME,
    "failed episode": GAME.model_copy(update={"ended": "failed", "failure": CRASH}),
    "contestant": Side(checkpoint=HOSTILE, version="ab" * 32),
    "pair": PairResult(champion=GAME, candidate=GAME),
    "evaluation": evaluation(range(300), name=HOSTILE),
    "evaluation of one game": evaluation([3], name=HOSTILE),
    "evaluation of nothing": evaluation([1]).model_copy(update={"episodes": ()}),
    "match": match(mixed(200), names=(HOSTILE, HOSTILE), notes=(HOSTILE,) * 50),
    "match of nothing": match([], names=(HOSTILE, "new")),
    "suite": suite({"pong": mixed(50), "boxing": mixed(50)}, notes={"pong": (HOSTILE,)}),
    "suite of no rounds": suite({"pong": []}),
    "suite of nothing": suite({}),
    "round robin": round_robin([HOSTILE, "b", "c"], {(0, 1): mixed(30)}),
    "round robin of nothing": RoundRobin(players=(), matches=()),
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=list(DOCUMENTS))
def test_a_result_is_one_short_printable_line(document):
    for line in (repr(document), str(document)):
        assert len(line) < 300
        assert line.isprintable()
    assert repr(document).startswith(f"{type(document).__name__}(")
    assert len(repr([document, document])) < 610, "within something else, too"


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=list(DOCUMENTS))
def test_a_notebook_shows_a_small_table_that_runs_and_loads_nothing(document):
    html = document._repr_html_()
    assert len(html) < 5_000
    tree = read(html)
    assert len(list(tree.all("table"))) == 1
    allowed = {"table", "caption", "tr", "th", "td"}
    assert {node.tag for node in tree.all()} <= allowed
    assert not any(node.attributes for node in tree.all() if node.tag in allowed)
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_what_stands_beside_results_is_short_too():
    curve = LearningCurve("runs/a", tuple(range(9_000)), (1.0,) * 9_000, "pong")
    assert repr(curve) == "LearningCurve(name='runs/a', game='pong')"
    assert repr(Clip("a game", "image/png", bytes(10_000))) == (
        "Clip(caption='a game', mime='image/png')"
    )
    step = next(play_steps(RandomPlayer("pong")))
    assert "\n" not in repr(step)
    assert len(repr(step)) < 200


def test_the_line_says_what_counts():
    assert repr(evaluation([1, 2, 6], name="runs/a")) == (
        "Evaluation(game='space_invaders', checkpoint='runs/a', games=3, mean=3.0)"
    )
    assert repr(GAME) == "EpisodeResult(seed=7, score=10000.0, steps=6000, ended='terminated')"
    assert repr(PairResult(champion=failed(3), candidate=episode(3, 5.0))) == (
        "PairResult(seed=3, champion='failed', candidate=5.0)"
    )
    assert repr(played((1, 2), (2, 1), (1, 1))) == (
        "Comparison(game='space_invaders', champion='old', candidate='new', verdict=None, wins=1, "
        "ties=1, losses=1)"
    )
    assert repr(TRACE) == "Trace(steps=6000)"


def test_the_table_says_what_a_terminal_says():
    cells = read(evaluation([1, 2, 6], name="runs/<a>")._repr_html_()).text
    for text in ("SpaceInvaders, protocol v5", "runs/<a>", "3 (all ended by themselves)", "3.0"):
        assert text in cells
    cells = read(match([(1, 2)] * 20)._repr_html_()).text
    for text in ("promote: the candidate is better", "20: 20 won, 0 tied, 0 lost"):
        assert text in cells
    assert "the match is unfinished" in read(played((1, 2))._repr_html_()).text
    cells = read(round_robin(["a", "b"], {(0, 1): [(1, 2)] * 20})._repr_html_()).text
    assert "0 a" in cells
    assert "1.00*" in cells


def test_a_document_that_does_not_say_what_its_line_shows_cannot_be_made():
    class Mute(ShortlyShown):
        score: float

    with pytest.raises(TypeError, match="abstract"):
        Mute(score=1)
    with pytest.raises(TypeError, match="abstract"):
        Mute.model_validate_json('{"score": 1}')


def test_what_is_shown_shortly_is_kept_whole():
    document = evaluation([1, 2, 6])
    again = type(document).model_validate_json(document.model_dump_json())
    assert again == document
    assert hash(again.episodes[0]) == hash(document.episodes[0])


# One and many


def test_one_game_has_no_interval_and_is_one_game():
    one = evaluation([10], name="runs/a")
    assert one.iqm_interval is None
    text = "\n".join(score_lines([one]))
    assert "1 whole game, raw scores" in text
    assert "interquartile mean 10.0 (one game has no interval)" in text
    assert "it ended by itself" in text
    assert "1 whole games" not in read(evaluation_report([one])).text
    assert "1 whole game with each checkpoint" in read(evaluation_report([one])).text
    assert "(one game has none)" in read(evaluation_report([one])).text
    two = "\n".join(score_lines([evaluation([10, 10])]))
    assert "2 whole games" in two
    assert "(10.0 … 10.0)" in two


def test_games_that_were_cut_by_the_frame_cap_are_noted():
    games = [episode(1, 5.0), episode(2, 6.0, ended="truncated"), episode(3, 7.0)]
    lines = score_lines([evaluation([], episodes=tuple(games))])
    assert "(1 cut by the frame cap)" in "\n".join(lines)
    assert "by themselves" not in "\n".join(lines)
    table = evaluation([], episodes=tuple(games))._repr_html_()
    assert "3 (1 cut by the frame cap)" in table


def test_a_match_notes_how_many_games_of_each_side_were_cut():
    cut = {(0, "champion"), (1, "candidate"), (2, "candidate")}
    results = match([(5, 6), (7, 8), (9, 1)]).results
    pairs = [
        pair.model_copy(
            update={
                side: getattr(pair, side).model_copy(update={"ended": "truncated"})
                for side in ("champion", "candidate")
                if (place, side) in cut
            }
        )
        for place, pair in enumerate(results)
    ]
    assert match_notes(results) == ()
    champion, candidate = match_notes(pairs)
    assert champion.startswith("1 of the champion's 3 games")
    assert candidate.startswith("2 of the candidate's 3 games")
    assert all("cut by the frame cap" in note for note in (champion, candidate))


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 games"), (1, "1 game"), (2_000, "2,000 games")]
)
def test_only_one_has_no_plural(number, text):
    assert counted(number, "game") == text


def test_one_of_each_is_in_the_singular_everywhere():
    single = {
        "match": (match_lines(played((1, 2))), match_report(played((1, 2)))),
        "suite": (suite_lines(suite({"pong": [(1, 2)]})), suite_report(suite({"pong": [(1, 2)]}))),
        "robin": (
            round_robin_lines(round_robin(["a", "b"], {(0, 1): [(1, 2)]})),
            round_robin_report(round_robin(["a", "b"], {(0, 1): [(1, 2)]})),
        ),
        "scores": (score_lines([evaluation([1])]), evaluation_report([evaluation([1])])),
    }
    for name, (lines, html) in single.items():
        words = re.sub("<svg.*?</svg>", "", html, flags=re.DOTALL)  # where 1 is a tick
        for text in ("\n".join(lines), read(words).text):
            wrong = re.findall(
                r"(?<![\d.,])1 (?:games|pairs|rounds|whole games|contestants)\b", text
            )
            assert not wrong, (name, wrong)


# Words of a verdict


def test_who_crashed_in_every_game_is_not_too_close_to_tell():
    cases = {
        (False, True): "the candidate failed in every game",
        (True, True): "both the champion and the candidate failed in every game",
    }
    for sides, meaning in cases.items():
        verdict, said = meaning_of(crashes(*sides))
        assert (verdict, said) == ("inconclusive", f"{meaning}; the champion stays")
        document = crashes(*sides)
        assert meaning in match_lines(document)[-1]
        assert meaning in read(match_report(document)).text
        assert "too close" not in read(match_report(document)).text
    verdict, said = meaning_of(crashes(False, True, pairs=30))
    assert (verdict, said) == ("reject", "the candidate failed in every game; the champion stays")
    verdict, said = meaning_of(crashes(True, False, pairs=30))
    assert (verdict, said) == ("promote", "the champion failed in every game")


def test_a_crash_in_one_game_of_two_is_told_by_the_notes_only():
    document = match([(failed(1_000), 5.0), (4.0, 5.0)], max_pairs=2)
    assert meaning_of(document) == ("inconclusive", "too close to tell; the champion stays")


def test_the_same_version_twice_is_not_too_close_to_tell():
    same = Side(checkpoint="x", version="aa" * 32)
    document = match([]).model_copy(update={"champion": same, "candidate": same})
    said = "both are the same version, so nothing was played; the champion stays"
    assert meaning_of(document) == ("inconclusive", said)
    assert said in read(match_report(document)).text
    whole = suite({"pong": []}).model_copy(update={"matches": (document,)})
    assert suite_meaning(whole) == ("inconclusive", said)
    robin = RoundRobin(players=("x", "x"), matches=(document,))
    page = read(round_robin_report(robin)).text
    assert "the same version twice" in page
    assert "too close" not in page


def test_a_suite_whose_candidate_crashed_everywhere_says_so():
    both = {"pong": [(10.0, failed(1_000))], "boxing": [(10.0, failed(1_000))]}
    said = "the candidate failed in every game; the champion stays"
    assert suite_meaning(suite(both, max_rounds=1)) == ("inconclusive", said)
    some = {"pong": [(10.0, failed(1_000))], "boxing": [(10.0, 20.0)]}
    assert "too close" in suite_meaning(suite(some, max_rounds=1))[1]


def test_a_round_robin_tells_who_crashed():
    robin = round_robin(["a", "b"], {(0, 1): [(10.0, failed(2_000))]}, max_pairs=1)
    row = read(round_robin_report(robin)).one("div", id="pairings").records()[0]
    assert row["verdict"] == "B failed in every game"


# Eighty columns


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")


LONG = "checkpoints/sweeps/" + "a-very-long-folder/" * 8 + "step-000000040000"


def test_on_a_terminal_of_eighty_columns_no_line_of_scores_is_wider(terminal):
    many = evaluation(np.linspace(0, 1_234_567, 99), name=LONG, game="montezuma_revenge")
    cut = many.model_copy(
        update={
            "episodes": tuple(
                game.model_copy(update={"ended": "truncated"}) for game in many.episodes
            )
        }
    )
    for document in (many, cut, evaluation([5], name=LONG)):
        lines = score_lines([document])
        assert max(map(len, lines)) <= 80
        shown = lines[1].strip()
        assert shown.startswith("checkpoints/sweeps/")
        assert shown.endswith("step-000000040000")
        assert "…" in shown


def test_names_in_tables_of_matches_fit_a_terminal(terminal):
    document = match(mixed(20), names=(LONG, LONG))
    assert max(len(line) for line in match_lines(document)[1:]) <= 80
    games = suite({"pong": mixed(20)})
    one = games.matches[0].model_copy(
        update={side: Side(checkpoint=LONG, version="x") for side in ("champion", "candidate")}
    )
    lines = suite_lines(games.model_copy(update={"matches": (one,)}))
    assert len(lines[2]) <= 80
    assert lines[2].count("…") == 2
    robin = round_robin([LONG, LONG + "b"], {(0, 1): mixed(20)})
    assert max(len(line) for line in round_robin_lines(robin)[:2]) <= 80


def test_a_file_gets_whole_names(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert LONG in score_lines([evaluation([5], name=LONG)])[1]
    assert fitted("a\nb") == r"a\nb"


def test_a_round_robin_of_many_stays_within_eighty_columns():
    names = [f"player-{place}" for place in range(20)]
    lines = round_robin_lines(round_robin(names, {(0, 1): [(1, 2)] * 20}))
    assert max(map(len, lines[:-1])) <= 80
    heads = [line.split() for line in lines if line.strip().startswith(("0 ", "9 ", "18 "))]
    assert [str(place) for place in range(20)] == [
        place
        for line in lines
        if line.startswith("       ") and line.split()[0].isdigit()
        for place in line.split()
    ], heads


def test_what_decides_a_suite_comes_before_its_games():
    games = {f"game{place}": [(1, 2)] * 3 for place in range(9)}
    assert suite_standing(suite(games)).startswith("e-value ")


def test_parts_are_wrapped_between_and_never_lost():
    parts = ["a" * 30, "b" * 30, "c" * 30, "d" * 100]
    lines = wrapped(*parts)
    assert lines == [f"  {parts[0]}   {parts[1]}", f"  {parts[2]}", f"  {parts[3]}"]


# Odd data


ODD_SCORES = {
    "one game": [(5, 5)],
    "all ties": [(5, 5)] * 30,
    "all zero": [(0, 0)] * 5,
    "huge": [(1e14, -1e14)] * 3,
    "fractions": [(0.5, 0.25), (1e-9, 2e-9)],
    "one crash": [(failed(1_000), failed(1_000))],
    "long": [(i % 7, i % 5) for i in range(300)],
}
ODDEST = ("one crash",)


@pytest.mark.parametrize(
    "scores",
    [
        # a page is a second's work
        pytest.param(scores, id=name, marks=() if name in ODDEST else pytest.mark.slow)
        for name, scores in ODD_SCORES.items()
    ],
)
def test_every_report_of_odd_scores_is_a_page(scores):
    champions = tuple(pair.champion for pair in match(scores).results)
    pages = (
        match_report(match(scores)),
        suite_report(suite({"pong": scores, "combat": scores})),
        round_robin_report(round_robin(["a", "b", "c"], {(0, 1): scores})),
        evaluation_report([evaluation([], episodes=champions)]),
    )
    for page in pages:
        assert read(page).one("head").one("title")
        assert "nan" not in read(page).one("main").text.lower()


ODD_NAMES = [
    HOSTILE,
    "",
    " ",
    "שלום/עולם",
    "a" * 5_000,
    "\ud800",
    "$\\frac{$",
    "日本/語",
    "../../x",
    "A&amp;B",
]


def test_every_report_survives_any_name():
    scores = [(1, 2), (2, 1)]
    pages = [
        suite_report(suite({"pong": scores}, notes={"pong": ODD_NAMES})),
        round_robin_report(round_robin(ODD_NAMES, {(0, 1): scores})),
        evaluation_report([evaluation([1, 2], name=name) for name in ODD_NAMES]),
    ]
    for name, other in (ODD_NAMES[:2], ODD_NAMES[5:7]):
        pages.append(match_report(match(scores, names=(name, other), notes=ODD_NAMES)))
    pages.append(evaluation_report([evaluation([1], game=name) for name in ODD_NAMES]))
    for page in pages:
        page.encode("utf-8")
        assert not list(read(page).all("script"))
        assert not list(read(page).all("b", onclick=True))


def test_rules_that_are_hardly_one_have_a_report():
    tight = Rule(alpha=1e-12, beta=1 - 1e-12)
    assert read(match_report(match(mixed(10), tight))).one("head").one("title")


def test_a_protocol_of_your_own_is_shown_with_what_differs():
    own = Protocol(name="sticky10", sticky=0.1)
    seen = evaluate_agent(
        RandomPlayer("pong", own.model_copy(update={"frame_cap": 40})), episodes=1
    )
    assert "protocol sticky10 (v5 but sticky 0.1, frame_cap 40)" in score_lines([seen])[0]
    assert "sticky10 (v5 but" in seen._repr_html_()
