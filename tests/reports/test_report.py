"""Reports say what the documents say, load nothing, and are the same bytes every time."""

import base64
import json
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_results import episode, evaluation, match, mixed, read, round_robin, suite
from tiers import quick

from rlarcade import reports
from rlarcade.errors import RlarcadeError
from rlarcade.evaluation import Comparison, RoundRobin, Rule, SuiteComparison
from rlarcade.evaluation.sequential import Counts, confidence_interval
from rlarcade.games.scores import published_scores
from rlarcade.reports import (
    Clip,
    LearningCurve,
    check_writable,
    evaluation_report,
    learning_curve,
    match_report,
    round_robin_report,
    suite_report,
    write_report,
)
from rlarcade.reports.evidence_plots import Bet, evidence_plot
from rlarcade.reports.formats import p_value, short_name
from rlarcade.reports.lines import match_lines
from rlarcade.reports.plots import performance_profile

FAILURE = "ValueError: action 99 is none of the 6"
LOST_BY_FAILING = (50, episode(1_003, 400.0, 77, "failed", FAILURE))
SCORES = [*mixed(25), (70, 70), (0, 0), LOST_BY_FAILING]
SCORES[3], SCORES[-1] = SCORES[-1], SCORES[3]  # a pair has one seed: the failed game is pair 4

CURVE = LearningCurve("runs/b", (1_000, 2_000, 3_000), (10.0, 20.0, 15.0), "space_invaders")
CLIPS = [Clip("a picture", "image/png", b"\x89PNG"), Clip("a video", "video/mp4", b"\0\1\2")]
HOSTILE = "<script>alert(1)</script> \"'& $\\frac{$ _x 日本\u202e\x07"


@pytest.fixture(scope="module")
def played() -> Comparison:
    return match(SCORES, notes=("only a few games differ",))


@pytest.fixture(scope="module")
def match_page(played):
    return read(match_report(played, learning_curves=[CURVE], clips=CLIPS))


@pytest.fixture(scope="module")
def evaluated():
    rng = np.random.default_rng(1)
    second = evaluation(rng.integers(0, 300, 41) * 5, name="runs/b")
    cut = [episode(900, 5.0, 27_000, "truncated"), episode(901, 10.0, 3, "failed", FAILURE)]
    second = second.model_copy(update={"episodes": (*second.episodes, *cut)})
    return [evaluation(rng.integers(0, 40, 30) * 5), second]


@pytest.fixture(scope="module")
def evaluation_page(evaluated):
    return read(evaluation_report(evaluated, learning_curves=[CURVE], clips=CLIPS))


@pytest.fixture(scope="module")
def suite_page():
    document = suite({"pong": SCORES, "tetris": mixed(28)})
    return read(suite_report(document, learning_curves=[CURVE], clips=CLIPS))


@pytest.fixture(scope="module")
def round_robin_page():
    document = round_robin(("a", "b", "c"), dict.fromkeys(((0, 1), (0, 2), (1, 2)), mixed(20)))
    return read(round_robin_report(document, learning_curves=[CURVE], clips=CLIPS))


@pytest.fixture(params=["match_page", "evaluation_page", "suite_page", "round_robin_page"])
def page(request):
    return request.getfixturevalue(request.param)


# The verdict


MATCHES = {
    "promote": match([(0, 5)] * 8),
    "reject": match([(5, 0)] * 8),
    "inconclusive": match([(0, 5), (5, 0)], max_pairs=2),
    "promote, not inferior": match([(0, 5)] * 9, rule=Rule.non_inferiority(0.1)),
    "reject, inferior": match([(5, 0)] * 9, rule=Rule.non_inferiority(0.1)),
}


@cache
def verdict_of(name):
    with pytest.MonkeyPatch.context() as patch:
        for plots in (reports.plots, reports.evidence_plots):  # saves time
            patch.setattr(plots, "drawn", lambda *arguments, **settings: "")
        return read(match_report(MATCHES[name])).one("section", id="verdict")


@pytest.mark.parametrize("name", MATCHES)
def test_a_match_shows_the_verdict_and_what_it_means_as_the_terminal_does(name):
    document = MATCHES[name]
    assert document.verdict == name.partition(",")[0]
    verdict = verdict_of(name)
    badge, meaning = verdict.one("strong").text, verdict.one("p", class_="verdict").text
    assert badge.endswith(f" {document.verdict.upper()}")
    assert f"verdict: {meaning.partition(' ')[2]}" == match_lines(document)[-1].replace(" –", "")


def test_the_verdict_comes_with_its_counts_evidence_and_interval(played, match_page):
    facts = match_page.one("section", id="verdict").facts()
    wins = sum(b > a for a, b in SCORES if not hasattr(b, "score"))
    ties = sum(b == a for a, b in SCORES if not hasattr(b, "score"))
    losses = len(SCORES) - wins - ties
    assert min(wins, ties, losses) > 1
    evidence = Rule().evidence(Counts(wins, ties, losses))
    low, high = confidence_interval([pair.outcome for pair in played.results])
    assert facts == {
        "candidate, 28 pairs": f"{wins} won, {ties} tied, {losses} lost",
        "probability of improvement": f"{(wins + ties / 2) / 28:.2f} ({low:.2f} … {high:.2f})",
        "e-value, promote from 20": f"{evidence.e_value:.4g}",
        "p-value at any time": f"{played.p_value:.3f}",
        "futility e-value, reject from 10": f"{evidence.e_value_futility:.4g}",
    }


def test_a_match_says_what_its_verdict_is_about(played, match_page):
    text = match_page.one("section", id="verdict").text
    assert (
        "This is a claim about these two versions; that one algorithm is better than another "
        "needs several training runs of each." in text
    )
    assert "only a few games differ" in text
    assert "the match is unfinished: 28 of 400 pairs are played" in text
    described = match_page.one("section", id="scores-section").text
    assert "not gated on" in described
    assert "fixed-N, not for peeking" in described
    difference = np.mean([pair.candidate.score - pair.champion.score for pair in played.results])
    assert f"Mean difference of the scores {difference:.1f}".replace("-", "−") in described


def test_the_guarantee_of_the_verdict_is_in_words():
    words = {name: verdict_of(name).text for name in MATCHES}
    assert "improvement were 0.5 or less, a match would end in promotion" in words["promote"]
    assert "with a probability of at most 0.05, however often one looks" in words["promote"]
    assert "improvement were 0.6 or more, a match would end in rejection" in words["reject"]
    assert "with a probability of at most 0.1, however often" in words["reject"]
    assert "improvement were 0.4 or less" in words["promote, not inferior"]
    assert "Neither e-value reached its bound" in words["inconclusive"]


# Histories


def test_the_evidence_after_each_pair_is_the_rules_of_the_counts_so_far(played):
    history = reports.pairs.evidence_history(played)
    assert len(history) == len(SCORES) + 1
    for pairs, evidence in enumerate(history):
        outcomes = [pair.outcome for pair in played.results[:pairs]]
        counts = Counts(outcomes.count(1), outcomes.count(0.5), outcomes.count(0))
        assert evidence == played.rule.evidence(counts)
    assert history[-1] == (played.e_value, played.e_value_futility)


def test_an_interval_is_that_of_the_pairs_up_to_it():
    outcomes = [1.0, 0.5, 0.0, 1.0, 1.0]
    assert reports.pairs.interval_history(outcomes, 0.05) == [
        (0, 1),
        *(confidence_interval(outcomes[:n], 0.05) for n in range(1, 6)),
    ]
    assert reports.pairs.interval_history([], 0.05) == [(0, 1)]


# Plots


def marks(page, name):
    """Where the marks of a group of a plot are."""
    group = page.one("g", id=name)
    return [(float(mark.attributes["x"]), float(mark.attributes["y"])) for mark in group.all("use")]


def test_each_pair_is_a_mark_at_its_two_scores(played, match_page):
    at, scores = [], []
    for kind, outcome in (("won", 1), ("tied", 0.5), ("lost", 0)):
        of_kind = [pair for pair in played.results if pair.outcome == outcome]
        shown = marks(match_page, f"scatter-{kind}")
        assert len(shown) == len(of_kind) > 0
        at += shown
        scores += [(pair.champion.score, pair.candidate.score) for pair in of_kind]
    for axis, direction in ((0, 1), (1, -1)):  # y grows downwards on a page
        place, score = np.array(at)[:, axis], np.array(scores)[:, axis]
        slope, start = np.polyfit(score, place, 1)
        assert slope * direction > 0
        np.testing.assert_allclose(place, start + slope * score, atol=1e-3)
    assert len(marks(match_page, "scatter-failed")) == 1


def test_each_game_is_a_dot_in_the_row_of_its_version(evaluated, evaluation_page):
    for place, one in enumerate(evaluated):
        fine = [game.score for game in one.episodes if game.ended != "failed"]
        dots = marks(evaluation_page, f"group-1-scores-games-{place}")
        xs = np.array([x for x, _ in dots])
        slope, start = np.polyfit(fine, xs, 1)
        np.testing.assert_allclose(xs, start + slope * np.array(fine), atol=1e-3)
    failed = [len(marks(evaluation_page, f"group-1-scores-failed-{place}")) for place in (0, 1)]
    assert failed == [0, 1]


@given(st.lists(st.integers(-3, 6).map(float), min_size=1, max_size=30))
def test_a_performance_profile_is_the_share_of_games_above_each_score(scores):
    taus, shares = performance_profile(scores)
    assert list(taus) == sorted(set(scores))
    assert list(shares) == [sum(score > tau for score in scores) / len(scores) for tau in taus]


def test_the_profile_that_is_drawn_falls_from_all_games_to_none(evaluated, evaluation_page):
    (path,) = evaluation_page.one("g", id="group-1-profile-profile-0").all("path")
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", path.attributes["d"]), dtype=float)
    taus, shares = performance_profile([game.score for game in evaluated[0].episodes])
    corners = np.unique(points[:, 1].round(4))  # heights, from the top
    heights = np.unique([1.0, *shares])[::-1]
    slope, start = np.polyfit(heights, corners, 1)
    np.testing.assert_allclose(corners, start + slope * heights, atol=1e-2)
    assert len(np.unique(points[:, 0].round(4))) == len(taus) + 2


def test_a_plot_shows_published_scores_that_lie_near_and_tells_the_others(evaluation_page):
    caption = evaluation_page.one("section", id="group-1").all("figcaption")
    assert "human" not in next(caption).text  # 1,668.7 of 1,495 points
    near = read(evaluation_report([evaluation([100, 150, 200])]))
    texts = [text.text for text in near.one("section", id="group-1").all("text")]
    assert "random" in texts
    assert "human" not in texts
    assert "The human score, 1,668.7, lies outside the picture." in near.text


# Tables


def test_every_checkpoint_is_summed_up_beside_the_published_scores(evaluated, evaluation_page):
    rows = evaluation_page.one("div", id="group-1-summary").records()
    published = published_scores("space_invaders")
    for key, document, row in zip("AB", evaluated, rows, strict=False):
        scores = sorted(game.score for game in document.episodes)
        mean = sum(scores) / len(scores)
        middle = scores[len(scores) // 4 : len(scores) - len(scores) // 4]
        low, high = document.iqm_interval
        share = (mean - published.random) / (published.human - published.random)
        assert row["checkpoint"] == f"{key} {document.checkpoint}"
        assert row["games"] == str(len(scores))
        assert row["mean"] == f"{mean:.1f}"
        assert row["median"] == f"{statistics.median(scores):.1f}"
        iqm = f"{statistics.fmean(middle):.1f} ({low:.1f} … {high:.1f})"
        assert row["IQM (95 % interval)"] == iqm
        assert (row["lowest"], row["highest"]) == (f"{scores[0]:,.0f}", f"{scores[-1]:,.0f}")
        assert row["human-normalised"] == f"{share:.1%}".replace("-", "−")
        steps = statistics.fmean(game.steps for game in document.episodes)
        assert row["mean steps"] == f"{steps:,.0f}"
    assert rows[0]["ended"] == "30 terminated"
    assert rows[1]["ended"] == "1 failed, 41 terminated, 1 truncated"
    who = [(row["checkpoint"], row["mean"], row["human-normalised"]) for row in rows[2:]]
    assert who == [
        ("random (published)", "148.0", "0.0%"),
        ("human (published)", "1,668.7", "100.0%"),
    ]


def test_every_game_of_an_evaluation_is_listed(evaluated, evaluation_page):
    for key, document in zip("AB", evaluated, strict=True):
        rows = evaluation_page.one("div", id=f"group-1-episodes-{key}").rows()
        expected = [
            [str(game.seed), f"{game.score:,.0f}", f"{game.steps:,}", game.ended]
            for game in document.episodes
        ]
        if key == "B":
            expected[-1][-1] = f"failed: {FAILURE}"
        assert rows == expected


def test_every_pair_of_a_match_is_listed_with_the_evidence_after_it(played, match_page):
    rows = match_page.one("div", id="pairs").records()
    assert len(rows) == len(SCORES)
    for number, (row, pair) in enumerate(zip(rows, played.results, strict=True), 1):
        assert (row["pair"], row["seed"]) == (str(number), str(pair.seed))
        assert row["champion"] == f"{pair.champion.score:g}"
        assert row["candidate"] == f"{pair.candidate.score:g}"
        assert row["candidate has"] == {1: "won", 0.5: "tied", 0: "lost"}[pair.outcome]
        assert row["champion's steps"] == str(pair.champion.steps)
    assert rows[-1]["e-value"] == f"{played.e_value:.4g}"
    assert rows[-1]["futility"] == f"{played.e_value_futility:.4g}"


def test_a_failed_game_loses_its_pair_keeps_its_score_and_says_why(match_page):
    row = match_page.one("div", id="pairs").records()[3]
    assert (row["candidate"], row["candidate has"]) == ("400", "lost")
    assert row["candidate ended"] == f"failed: {FAILURE}"
    described = {row[0]: row[1:] for row in match_page.one("div", id="described").rows()}
    assert described["ended"] == ["28 terminated", "1 failed, 27 terminated"]
    assert float(described["highest"][1]) >= 400


def test_both_sides_are_described(played, match_page):
    described = {row[0]: row[1:] for row in match_page.one("div", id="described").rows()}
    for place, side in enumerate(("champion", "candidate")):
        scores = sorted(getattr(pair, side).score for pair in played.results)
        assert described["mean"][place] == f"{statistics.fmean(scores):.1f}"
        assert described["IQM (95 % interval)"][place].startswith(
            f"{statistics.fmean(scores[7:21]):.1f} ("
        )


def test_every_setting_is_there_under_the_name_it_has_in_the_document(
    played, evaluated, match_page, evaluation_page
):
    def flat(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)

    fields = set(type(played).model_fields) - {"results", "notes"}
    settings = dict(match_page.one("div", id="settings").rows())
    assert settings == dict(flat(played.model_dump(mode="json", include=fields)))
    assert settings["rule.alpha"] == "0.05"
    rows = evaluation_page.one("div", id="group-1-settings").rows()
    fields = set(type(evaluated[0]).model_fields) - {"episodes"}
    for place, document in enumerate(evaluated, 1):
        expected = dict(flat(document.model_dump(mode="json", include=fields)))
        assert {row[0]: row[place] for row in rows} == expected


# The page


def test_a_page_loads_nothing_and_runs_nothing(page):
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {
        node.tag for node in page.all()
    }
    (policy,) = [m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes]
    assert policy == (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    )
    for node in page.all():
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:", "#")), value
            assert "://" not in (value or "")
            assert all(u.startswith("url(#") for u in re.findall(r"url\([^)]*", value or ""))
    styles = "".join(node.text for node in page.all("style"))
    assert "url(" not in styles
    assert "@import" not in styles
    assert "://" not in page.text


def test_a_page_says_its_language_and_fits_a_telephone(page):
    assert page.one("html").attributes["lang"] == "en"
    assert len(list(page.all("h1"))) == len(list(page.all("main"))) == 1
    names = {m.attributes.get("name"): m.attributes.get("content") for m in page.all("meta")}
    assert names["viewport"] == "width=device-width, initial-scale=1"
    for table in page.all("table"):
        assert table.one("caption").text
    for box in page.all("div", class_="scroll"):
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["aria-label"]


def test_no_two_things_of_a_page_have_one_name(page):
    names = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(names) == len(set(names)) > 100
    used = {node.attributes["xlink:href"][1:] for node in page.all("use")}
    for node in page.all():
        for value in node.attributes.values():
            used.update(re.findall(r"url\(#([^)]*)\)", value or ""))
        if "aria-labelledby" in node.attributes:
            used.add(node.attributes["aria-labelledby"])
    assert used <= set(names)


def test_plots_refer_to_parts_of_their_own_alone(page):
    for plot in page.all("svg", class_="plot"):
        own = {node.attributes.get("id") for node in plot.all()}
        for node in plot.all():
            clip = re.findall(r"url\(#([^)]*)\)", node.attributes.get("clip-path", ""))
            assert set(clip) <= own
            assert node.attributes.get("xlink:href", "#")[1:] in own | {""}


def test_every_figure_has_a_caption_and_a_label(page):
    figures = list(page.all("figure"))
    assert len(figures) >= 5
    for figure in figures:
        assert figure.one("figcaption").text
        pictures = [node for node in figure.all() if node.attributes.get("role") == "img"]
        pictures += [*figure.all("img"), *figure.all("video")]
        (picture,) = pictures
        assert picture.attributes.get("aria-label") or picture.attributes.get("alt")


def test_plots_follow_the_colours_of_the_page(page):
    styles = " ".join(
        node.attributes.get("style", "")
        for plot in page.all("svg", role="img")
        for node in plot.all()
    )
    assert "var(--s0)" in styles
    assert "var(--ink)" in styles
    assert not re.findall(r"#[0-9a-f]{6}", styles)


def test_clips_are_inside_the_page(page):
    section = page.one("section", id="clips")
    image, video = section.one("img").attributes, section.one("video").attributes
    for node, clip in ((image, CLIPS[0]), (video, CLIPS[1])):
        kind, _, data = node["src"].partition(";base64,")
        assert kind == f"data:{clip.mime}"
        assert base64.b64decode(data) == clip.data
    assert {"controls", "loop", "muted"} <= set(video)
    assert [caption.text for caption in section.all("figcaption")] == ["a picture", "a video"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("runs/pong-seed0/checkpoints/step-000001500000", "pong-seed0, step 1,500,000"),
        ("/a/pong/checkpoints/step-000000000000/", "pong, step 0"),
        ("runs/a", "runs/a"),
        ("random", "random"),
        ("/home/somebody/experiments/2026/november/pong-7", "…/experiments/2026/november/pong-7"),
        ("/" + "x" * 50, "…/" + "x" * 50),
        ("module:" + "x" * 50, "module:" + "x" * 50),
    ],
)  # fmt: skip
def test_a_long_path_is_shown_by_its_end_and_a_checkpoint_by_run_and_step(name, short):
    assert short_name(name) == short
    page = read(match_report(match([], names=(name, "new"))))
    (first, _) = page.one("ul", class_="sides").all("span", class_="name")
    assert (first.text, first.attributes["title"]) == (short, name)


def test_a_curve_has_the_colour_of_the_player_that_its_run_made():
    curve = replace(CURVE, player="new")
    html = match_report(match([], names=("old", "new")), learning_curves=[curve])
    (line,) = re.findall(r'id="curve-1-line2d_\d+">\s*<path[^>]*?fill: none; [^"]*--s1', html)
    assert line
    unknown = match_report(match([], names=("old", "new")), learning_curves=[CURVE])
    assert re.findall(r'<path[^>]*?fill: none; [^"]*--s2', unknown)


def test_every_game_and_every_pair_tells_its_scores_on_hover():
    html = match_report(match([(1, 2), (5, 5), (9_000, 3)]))
    told = re.findall(r"<use [^>]*><title>(.+?)</title></use>", html)
    assert sorted(told) == sorted(
        [
            *("champion: 1", "champion: 5", "champion: 9,000"),
            *("candidate: 2", "candidate: 5", "candidate: 3"),
            "champion 1, candidate 2",
            "champion 5, candidate 5",
            "champion 9,000, candidate 3",
        ]
    )


def test_a_clip_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="video/mp4 or image/png, not 'text/html'"):
        Clip("", "text/html", b"")


def test_names_from_outside_are_shown_and_never_obeyed():
    failed = episode(1_000, 1.0, 5, "failed", f"{HOSTILE}\nTraceback")
    curve = LearningCurve(HOSTILE, (1, 2), (0.0, 1.0))
    clip = Clip(HOSTILE, "image/png", b"")
    document = match([(3, failed)], names=(HOSTILE, "new"), notes=(HOSTILE,))
    scores = evaluation([1, 2], name=HOSTILE, game="breakout")
    many = document.model_copy(update={"rule": Rule.which_is_better()})
    robin = RoundRobin(players=(HOSTILE, "new"), matches=(many,))
    games = SuiteComparison(
        rule=Rule(), guard="prove", margin=0.1, max_rounds=9, matches=(document,)
    )
    shown = HOSTILE.replace("\u202e", "�").replace("\x07", "�")
    for html, times in (
        (match_report(document, learning_curves=[curve], clips=[clip]), 6),
        (evaluation_report([scores], learning_curves=[curve], clips=[clip]), 8),
        (suite_report(games, learning_curves=[curve], clips=[clip]), 6),
        (round_robin_report(robin, learning_curves=[curve], clips=[clip]), 9),
    ):
        page = read(html)
        assert not list(page.all("script"))
        assert shown in page.text
        assert page.text.count(shown[-14:]) == times, "a long name may be shown by its end"
        assert "<script" not in html
        assert not {"\u202e", "\x07"} & set(html)


def test_a_name_that_looks_like_a_template_is_text():
    name = "{{ 7 * 7 }}{% for x in y %}{# gone #}"
    document = match([], names=(name, "new"), notes=(name,))
    text = read(match_report(document)).text
    assert text.count(name) == 3  # side, note, setting
    assert "49" not in text


@pytest.mark.parametrize("kind", quick(["match", "suite", "evaluation", "round robin"], ["match"]))
def test_the_same_document_is_the_same_bytes_whatever_the_users_style(kind):
    import matplotlib as mpl

    document, report = {
        "match": (match(mixed(5), max_pairs=5), match_report),
        "suite": (suite({"pong": mixed(3), "breakout": mixed(3)}), suite_report),
        "evaluation": (evaluation(range(9)), lambda one: evaluation_report([one])),
        "round robin": (round_robin("ab", {(0, 1): mixed(3)}), round_robin_report),
    }[kind]
    first = report(document)
    with mpl.rc_context({"font.size": 30, "font.family": "monospace", "xtick.direction": "in"}):
        before = dict(mpl.rcParams)
        assert report(type(document).model_validate_json(document.model_dump_json())) == first
        assert dict(mpl.rcParams) == before


def test_importing_loads_neither_matplotlib_nor_torch_and_drawing_no_window():
    code = (
        "import sys, rlarcade.reports as r; sys.path.insert(0, sys.argv[1]); "
        "print([m for m in ('torch', 'matplotlib') if m in sys.modules]); "
        "from made_up_results import evaluation; r.evaluation_report([evaluation([1, 2])]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent.parent)]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    assert out.stdout.splitlines() == ["[]", "False"]


# Unusual documents


def test_a_match_that_was_not_played_is_reported():
    same = "both are the same weights: every pair would be a tie, so none was played"
    page = read(match_report(match([], notes=(same,))))
    assert same in page.text
    assert "INCONCLUSIVE" in page.one("strong").text
    assert page.one("section", id="verdict").facts()["probability of improvement"] == "–"
    assert not list(page.all("figure"))


@pytest.mark.parametrize(
    "document",
    [match([(3, 4)]), match([(0, 0)] * 9), match([(1e6, 0.5)] * 2, game="tetris")],
    ids=["one pair", "only ties", "large"],
)
def test_any_match_has_all_its_plots(document):
    page = read(match_report(document))
    assert len(list(page.all("figure"))) == 5
    assert len(page.one("div", id="pairs").rows()) == document.pairs


def test_a_very_small_p_value_is_not_shown_as_zero():
    page = read(match_report(match([(0, 10)] * 40)))
    assert page.one("section", id="verdict").facts()["p-value at any time"] == "< 0.001"
    assert "its sign-flip permutation p < 0.001:" in " ".join(page.one("body").text.split())
    assert [p_value(p) for p in (0.00099, 0.001, 0.04567, 1.0)] == [
        "< 0.001",
        "0.001",
        "0.046",
        "1.000",
    ]


def test_evidence_beyond_all_bounds_can_be_drawn():
    bets = [Bet(1, [1, 1e-300, 1e304], 1e9, "promote"), Bet(0, [1, 1e304, 0], 10, "reject")]
    plot = read(evidence_plot("x", "label", bets, "pairs"))
    assert {"promote from 1e+09", "reject from 10"} <= {text.text for text in plot.all("text")}


def test_a_mean_that_its_interval_had_ruled_out_is_drawn():
    document = match([(0, 5)] * 60 + [(5, 0)] * 7)
    low, high = document.interval
    assert not low <= document.improvement_probability <= high
    assert len(list(read(match_report(document)).all("figure"))) == 5


@pytest.mark.parametrize(
    "document",
    [
        evaluation([3]),
        evaluation([0, 0, 0]),
        evaluation([-21, -21, -20.5], game="pong"),
        evaluation([1, 2, 3], game="tetris"),
    ],
    ids=["one game", "equal scores", "negative", "nothing published"],
)
def test_any_evaluation_has_its_plots_and_summary(document):
    page = read(evaluation_report([document]))
    assert len(list(page.all("figure"))) == 2
    rows = page.one("div", id="group-1-summary").records()
    assert len(rows) == (1 if document.game == "tetris" else 3)
    assert rows[0]["mean"] == f"{document.mean:.1f}".replace("-", "−")
    if document.game == "tetris":
        assert rows[0]["human-normalised"] == "–"


def test_scores_that_do_not_compare_are_not_drawn_together():
    documents = [
        evaluation([1, 2], game="pong"),
        evaluation([3, 4], game="breakout"),
        evaluation([5, 6], game="pong", name="other"),
        evaluation([7, 8], game="pong", protocol="nature", epsilon=0.05),
    ]
    page = read(evaluation_report(documents))
    sections = [page.one("section", id=f"group-{n}") for n in (1, 2, 3)]
    assert [section.one("h2").text for section in sections] == ["Pong", "Breakout", "Pong"]
    summaries = [page.one("div", id=f"group-{n}-summary").records() for n in (1, 2, 3)]
    means = [[row["mean"] for row in summary[:-2]] for summary in summaries]
    assert means == [["1.5", "5.5"], ["3.5"], ["7.5"]]
    assert "Protocol nature, ε 0.05, 2 whole games with each" in sections[2].text
    assert "Pong and Breakout" in page.one("h1").text


def test_many_checkpoints_fit_in_one_report():
    page = read(evaluation_report([evaluation([i, i + 1], name=f"runs/{i}") for i in range(30)]))
    assert len(page.one("div", id="group-1-summary").rows()) == 32
    lines = [node for node in page.all("g") if "-profile-profile-" in node.attributes.get("id", "")]
    assert len(lines) == 30


@pytest.mark.parametrize(
    "documents", [[], [evaluation([1]), evaluation([1]).model_copy(update={"episodes": ()})]]
)
def test_nothing_to_report_is_an_error(documents):
    with pytest.raises(ValueError, match="at least one episode"):
        evaluation_report(documents)


# Learning curves


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "step-000000002000"
    checkpoint.mkdir(parents=True)
    lines = [
        {"step": 500, "charts/episodic_return": 7.0},
        {"step": 1_000, "rollout/ep_rew_mean": 5.0},
        {"step": 1_500, "rollout/ep_rew_mean": float("nan")},
        {"step": 2_000, "rollout/ep_rew_mean": 8},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"train": {"game": "pong"}}))
    return folder, checkpoint


def test_a_learning_curve_is_found_from_the_run_and_from_its_checkpoints(run):
    folder, checkpoint = run
    expected = LearningCurve(str(folder), (1_000, 2_000), (5.0, 8.0), "pong")
    for path in (folder, checkpoint, checkpoint / "weights.safetensors"):
        assert learning_curve(path) == expected
    (folder / "run.json").unlink()
    assert learning_curve(folder).game is None


def test_a_curve_has_each_step_once_with_its_last_score_and_no_more_points_than_are_seen(tmp_path):
    lines = [(step, step / 2) for step in range(60_000, 0, -1)]
    lines += [(1, 7.0), (60_000, 8.0)]
    text = "".join(f'{{"step": {step}, "rollout/ep_rew_mean": {score}}}\n' for step, score in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    curve = learning_curve(tmp_path)
    assert 40_000 < len(curve.steps) <= 50_000
    assert list(curve.steps) == sorted(set(curve.steps))
    assert (curve.steps[0], curve.steps[-1]) == (1, 60_000)
    assert (curve.scores[0], curve.scores[-1]) == (7.0, 8.0)
    between = zip(curve.steps[1:-1], curve.scores[1:-1], strict=True)
    assert all(score == step / 2 for step, score in between)


def test_a_checkpoint_outside_its_run_has_no_learning_curve(run, tmp_path):
    folder, checkpoint = run
    away = tmp_path / "away" / "deeper"
    away.mkdir(parents=True)
    assert learning_curve(away) is None
    (folder / "metrics.jsonl").write_text('{"step": 3, "train/loss": 1.0}\n')
    assert learning_curve(checkpoint) is None


def test_a_learning_curve_that_cannot_be_read_is_told(run):
    folder, checkpoint = run
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    with pytest.raises(RlarcadeError, match=r"metrics of run .*run cannot be read: it is a folder"):
        learning_curve(checkpoint)


def test_a_learning_curve_has_a_score_at_every_step():
    for steps, scores in (((), ()), ((1, 2), (1.0,))):
        with pytest.raises(ValueError, match="one score per step"):
            LearningCurve("x", steps, scores)


def test_learning_curves_of_one_game_share_a_plot():
    other = LearningCurve("runs/c", (10, 20), (1.0, 2.0), "space_invaders")
    pong = LearningCurve("runs/d", tuple(range(5_000)), (0.0,) * 5_000, "pong")
    html = match_report(match([]), learning_curves=[CURVE, pong, other])
    section = read(html).one("section", id="curves")
    legends = [[key.text for key in legend.all("li")] for legend in section.all("ul")]
    assert legends == [["runs/b", "runs/c"], ["runs/d"]]
    assert len(html) < 60_000, "a long curve is thinned"


# The file


def test_a_report_is_written_whole_into_a_new_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "report.html"
    for html in ("<p>é</p>", "<p>again</p>"):
        write_report(path, html)
        assert path.read_text("utf-8") == html
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("write", [check_writable, lambda path: write_report(path, "<p></p>")])
def test_a_report_that_cannot_be_written_is_told_with_the_reason(tmp_path, write):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, reason in (
        (tmp_path / "file" / "report.html", "(Not a directory|File exists)"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / f"{'x' * 250}.html", "File name too long"),
        (Path("/proc/report.html"), "No such file or directory"),
        (Path("/dev/null"), "it is not a file"),
    ):
        message = f"report {path} cannot be written: {reason}. Choose another file."
        with pytest.raises(RlarcadeError, match=message):
            write(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert not Path("/dev/null").is_file()


def test_looking_ahead_leaves_the_old_report_as_it_is_and_nothing_behind(tmp_path):
    old = tmp_path / "old.html"
    old.write_text("<p>old</p>")
    check_writable(old)
    check_writable(tmp_path / "new" / "report.html")
    check_writable(None)
    assert old.read_text() == "<p>old</p>"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["old.html"]
