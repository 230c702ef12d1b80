"""The report of a suite says what the suite says, of all games together and of each."""

import json
import statistics
from functools import cache

import numpy as np
import pytest
from made_up_results import mixed, outcomes_of, read, slow_e_value, suite

from rlarcade import reports
from rlarcade.evaluation.sequential import confidence_interval
from rlarcade.games.scores import published_scores
from rlarcade.reports import suite_report
from rlarcade.reports.lines import suite_lines

WIN, LOSS, TIE = (0, 5), (5, 0), (5, 5)
GAMES = {
    "space_invaders": mixed(40, 0.85, 0),
    "pong": mixed(40, 0.7, 1),
    "tetris": mixed(40, 0.8, 2),
}
"""The guard of Pong is below its bound at the end, which it had reached before."""


@pytest.fixture(scope="module")
def played():
    return suite(GAMES, notes={"pong": ("the candidate failed in 1 of 40 games",)})


@pytest.fixture(scope="module")
def page(played):
    return read(suite_report(played))


def outcomes():
    """Of each game, in order."""
    return [outcomes_of(scores) for scores in GAMES.values()]


def means():
    return [statistics.fmean(row) for row in zip(*outcomes(), strict=True)]


SUITES = {
    "proven": suite({"pong": [WIN] * 14, "boxing": [WIN] * 14}),
    "no alarm": suite({"pong": [WIN] * 14, "boxing": [WIN] * 14}, "alarm"),
    "unguarded": suite({"pong": [WIN] * 20, "boxing": [LOSS] + [WIN] * 19}, "none"),
    "futile": suite({"pong": [LOSS] * 14, "boxing": [LOSS] * 14}),
    "alarmed": suite({"pong": [LOSS] * 14, "boxing": [WIN] * 14}, "alarm"),
    "too close": suite({"pong": [LOSS], "boxing": [WIN]}, max_rounds=1),
    "unproven": suite({"pong": [WIN] * 20, "boxing": [WIN, LOSS] * 10}, max_rounds=20),
    "still on": suite({"pong": [WIN], "boxing": [WIN]}),
    "not begun": suite({"pong": [], "boxing": []}),
}
VERDICTS = dict(
    zip(
        SUITES,
        ["promote"] * 3 + ["reject"] * 2 + ["inconclusive"] * 4,
        strict=True,
    )
)


@cache
def page_of(name):
    with pytest.MonkeyPatch.context() as patch:
        for plots in (reports.plots, reports.evidence_plots):  # saves time
            patch.setattr(plots, "drawn", lambda *arguments, **settings: "")
        return read(suite_report(SUITES[name]))


def verdict_of(name):
    return page_of(name).one("section", id="verdict")


# The verdict


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_shows_the_verdict_and_what_it_means_as_the_terminal_does(name):
    document = SUITES[name]
    shown = verdict_of(name).one("p", class_="verdict").text
    sign, verdict, meaning = shown.split(" ", 2)
    assert (sign, verdict.lower()) == (
        {"promote": "✓", "reject": "✕", "inconclusive": "?"}[VERDICTS[name]],
        VERDICTS[name],
    )
    assert (document.verdict or "inconclusive") == VERDICTS[name]
    assert suite_lines(document)[-1] == f"verdict: {verdict} – {meaning}"


def test_the_meaning_says_what_decided():
    meanings = {name: suite_lines(document)[-1] for name, document in SUITES.items()}
    assert "better overall, and in no game worse by 0.1" in meanings["proven"]
    for name in ("no alarm", "unguarded"):
        assert meanings[name] == "verdict: PROMOTE – the candidate is better overall"
    assert "the candidate is not usefully better overall" in meanings["futile"]
    assert "REJECT – the candidate is worse in Pong" in meanings["alarmed"]
    assert "too close to tell" in meanings["unproven"]


def test_the_guarantee_of_each_verdict_is_in_words():
    mean = "the mean over the games of the candidate's probability of improvement were"
    words = {name: verdict_of(name).text for name in SUITES}
    assert (
        f"If {mean} 0.5 or less, or its probability of improvement in some game 0.4 or less, a "
        in (words["proven"])
    )
    for name in ("no alarm", "unguarded"):
        assert f"If {mean} 0.5 or less, a match would end in promotion" in words[name]
    for name in ("proven", "no alarm", "unguarded"):
        assert "promotion with a probability of at most 0.05, however often" in words[name]
    assert f"If {mean} 0.58 or more, a match would end in rejection" in words["futile"]
    assert "with a probability of at most 0.1, however often one looks" in words["futile"]
    assert (
        "worse in no game, a match would end by an alarm with a probability of at most 0.05"
        in (words["alarmed"])
    )
    for name in ("too close", "still on"):
        assert "Neither e-value reached its bound" in words[name]
    assert "No rounds were played." in words["not begun"]
    assert "several training runs of each" in words["proven"]


def test_what_is_not_proven_of_a_game_is_said():
    outcomes, means = [1, 0] * 10, [1, 0.5] * 10
    first = next(n for n in range(1, 21) if slow_e_value(means[:n]) >= 20)
    assert max(slow_e_value(outcomes[:n], 0.4) for n in range(1, 21)) < 20
    assert (
        f"better overall after round {first}. But it was not ruled out that it is worse by 0.1 in "
        "Boxing." in verdict_of("unproven").text
    )


def test_a_suite_that_goes_on_or_has_no_guard_is_told():
    assert "the match is unfinished: 1 of 400 rounds are done" in verdict_of("still on").text
    assert "no game was guarded" in verdict_of("unguarded").text
    for name in ("proven", "alarmed"):
        assert not list(verdict_of(name).all("ul"))


def test_the_notes_of_a_game_come_with_its_name(page):
    notes = page.one("section", id="verdict").one("ul")
    assert notes.text == "Pong: the candidate failed in 1 of 40 games"


def test_the_figures_of_the_verdict_are_those_of_the_rounds(page):
    facts = page.one("section", id="verdict").facts()
    every = [outcome for own in outcomes() for outcome in own]
    counts = [every.count(outcome) for outcome in (1, 0.5, 0)]
    low, high = confidence_interval(means())
    assert max(slow_e_value(means()[:n]) for n in range(41)) > 1_000
    assert facts == {
        "candidate, 40 rounds of 3 pairs": "{} won, {} tied, {} lost".format(*counts),
        "probability of improvement": f"{np.mean(every):.2f} ({low:.2f} … {high:.2f})",
        "e-value, promote from 20": f"{slow_e_value(means()):.4g}",
        "p-value at any time": "< 0.001",
        "futility e-value, reject from 10": f"{slow_e_value([1 - m for m in means()], 0.42):.4g}",
        "games shown not to be worse by 0.1": "3 of 3",
    }
    assert verdict_of("alarmed").facts()["games with an alarm, from e-value 40"] == "1 of 2"
    assert len(verdict_of("unguarded").facts()) == 5


# The games


def test_all_games_together_are_in_one_table_and_those_without_a_human_score_are_not(page):
    rows = page.one("div", id="together").records()
    assert [row["human-normalised"] for row in rows] == ["champion", "candidate"]
    human = {"space_invaders": (148.0, 1668.7), "pong": (-20.7, 14.6)}  # nobody measured Tetris

    def percent(share):
        return f"{share:.1%}".replace("-", "−")

    for side, row in enumerate(rows):
        scores = [
            (pair[side] - random) / (person - random)
            for game, (random, person) in human.items()
            for pair in GAMES[game]
        ]
        cut = len(scores) // 4
        middle = sorted(scores)[cut : len(scores) - cut]
        assert row["interquartile mean"].startswith(percent(np.mean(middle)))
        assert row["optimality gap"] == percent(np.mean([max(0, 1 - s) for s in scores]))


def test_every_game_has_a_line(page):
    rows = page.one("div", id="games-table").records()
    assert [row["game"] for row in rows] == ["SpaceInvaders", "Pong", "Tetris"]
    for row, (game, scores), own in zip(rows, GAMES.items(), outcomes(), strict=True):
        counts = [str(own.count(outcome)) for outcome in (1, 0.5, 0)]
        assert [row["won"], row["tied"], row["lost"]] == counts
        low, high = confidence_interval(own)
        assert row["probability of improvement"] == (
            f"{statistics.fmean(own):.2f} ({low:.2f} … {high:.2f})"
        )
        published = published_scores(game)
        for place, side in enumerate(("champion", "candidate")):
            mean = statistics.fmean(pair[place] for pair in scores)
            share = "–"
            if published:
                width = published.human - published.random
                share = f"{(mean - published.random) / width:.1%}".replace("-", "−")
            assert row[f"{side}'s mean, human-normalised"] == f"{mean:.1f} {share}"


def test_a_guard_that_was_passed_stays_passed(page):
    rows = page.one("div", id="games-table").records()
    final = []
    for row, own in zip(rows, outcomes(), strict=True):
        values = [slow_e_value(own[:count], 0.4) for count in range(1, len(own) + 1)]
        final.append(values[-1])
        first = next(round_ for round_, value in enumerate(values, 1) if value >= 20)
        assert row["guard's e-value, from 20"] == (f"{values[-1]:.4g} reached after round {first}")
    assert min(final) < 20


def test_an_alarm_is_shared_among_the_games_and_its_round_is_told():
    pong, boxing = page_of("alarmed").one("div", id="games-table").records()
    losses = next(n for n in range(1, 99) if slow_e_value([1] * n) >= 40)
    assert pong["guard's e-value, from 40"] == (
        f"{slow_e_value([1] * 14):.4g} reached after round {losses}"
    )
    assert boxing["guard's e-value, from 40"] == f"{slow_e_value([0] * 14):.4g}"


def test_without_guards_none_is_shown():
    page = page_of("unguarded")
    heads = [head.text for head in page.one("div", id="games-table").one("thead").all("th")]
    assert not [head for head in heads if "guard" in head]
    assert len(list(page.one("section", id="evidence").all("figure"))) == 3
    assert len(list(page_of("alarmed").one("section", id="evidence").all("figure"))) == 4


def test_every_game_has_its_pairs_scores_and_sides(page):
    for place, (game, scores) in enumerate(GAMES.items(), 1):
        section = page.one("section", id=f"game-{place}")
        sides = [item.text for item in section.one("ul", class_="sides").all("li")]
        assert sides == [f"champion runs/{game}-old", f"candidate runs/{game}-new"]
        for kind, outcome in (("won", 1), ("tied", 0.5), ("lost", 0)):
            marks = section.one("g", id=f"game-{place}-scatter-{kind}")
            assert len(list(marks.all("use"))) == outcomes_of(scores).count(outcome)
        described = {
            row[0]: row[1:] for row in section.one("div", id=f"game-{place}-described").rows()
        }
        for side in (0, 1):
            own = sorted(pair[side] for pair in scores)
            assert described["mean"][side] == f"{statistics.fmean(own):.1f}"
            assert described["median"][side] == f"{statistics.median(own):.1f}"
            assert described["IQM (95 % interval)"][side].startswith(
                f"{statistics.fmean(own[10:30]):.1f} ("
            )
        rows = section.one("div", id=f"game-{place}-pairs").records()
        own = outcomes_of(scores)
        for count, (row, pair) in enumerate(zip(rows, scores, strict=True), 1):
            assert (row["champion"], row["candidate"]) == tuple(f"{score:g}" for score in pair)
            assert row["guard's e-value"] == f"{slow_e_value(own[:count], 0.4):.4g}"


# The evidence


def test_every_round_is_listed_with_the_evidence_after_it(page):
    rows = page.one("div", id="rounds").records()
    assert len(rows) == 40
    for count, row in enumerate(rows, 1):
        so_far = means()[:count]
        assert row == {
            "round": str(count),
            "mean outcome": f"{so_far[-1]:.3f}",
            "e-value": f"{slow_e_value(so_far):.4g}",
            "futility": f"{slow_e_value([1 - mean for mean in so_far], 0.42):.4g}",
        }


def test_the_plots_of_evidence_count_rounds_and_have_a_line_for_every_guard(page):
    evidence = page.one("section", id="evidence")
    labels = [plot.attributes["aria-label"] for plot in evidence.all("svg", role="img")]
    assert labels == [
        "Both e-values after each round",
        "Probability of improvement and its interval after each round",
        "Every game's guard after each round",
        "Probability of improvement by game",
    ]
    for place in (2, 3, 4):
        (path,) = evidence.one("g", id=f"guards-bet-{place}").all("path")
        assert len(path.attributes["d"].split("L")) > 20
    texts = [text.text for text in evidence.all("text")]
    assert texts.count("not worse from 20") == 1
    assert texts.count("rounds") == 3


def test_probabilities_are_drawn_where_they_are(page):
    def at(name):
        (mark,) = page.one("g", id=name).all("use")
        return float(mark.attributes["x"])

    places = [at(f"shares-share-{row}") for row in range(4)]
    shares = [statistics.fmean(own) for own in outcomes()]
    slope, start = np.polyfit([*shares, statistics.fmean(means())], places, 1)
    np.testing.assert_allclose(places[:3], start + slope * np.array(shares), atol=1e-3)
    assert slope > 0
    ends = [float(m.attributes["x"]) for m in page.one("g", id="shares-interval-1").all("use")]
    expected = start + slope * np.array(confidence_interval(outcomes()[1]))
    np.testing.assert_allclose(ends, expected, atol=1e-3)


# All the rest


def test_every_setting_of_a_suite_and_of_its_games_is_there(played, page):
    def flat(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)

    whole = played.model_dump(mode="json", include={"rule", "guard", "margin", "max_rounds"})
    assert dict(page.one("div", id="settings").rows()) == dict(flat(whole))
    rows = page.one("div", id="games-settings").rows()
    for place, match in enumerate(played.matches, 1):
        fields = set(type(match).model_fields) - {"results", "notes"}
        expected = dict(flat(match.model_dump(mode="json", include=fields)))
        assert {row[0]: row[place] for row in rows} == expected


def test_a_suite_without_rounds_is_reported():
    page = page_of("not begun")
    assert not list(page.all("figure"))
    assert page.one("section", id="verdict").facts()["probability of improvement"] == "–"
    assert page.one("section", id="game-2").one("h2").text == "Boxing"


@pytest.mark.parametrize(
    "games",
    [{"pong": [TIE]}, {"pong": [WIN] * 3, "tetris": [(1e6, 0.5)] * 3}],
    ids=["one pair", "large scores"],
)
def test_any_suite_has_all_its_plots(games):
    page = read(suite_report(suite(games)))
    assert len(list(page.all("figure"))) == 4 + 3 * len(games)


def test_a_suite_of_no_games_is_refused():
    with pytest.raises(ValueError, match="a suite with at least one game"):
        suite_report(suite({"pong": []}).model_copy(update={"matches": ()}))
