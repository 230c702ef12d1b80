"""The report of a round robin says who beats whom, from either side, and rates nobody."""

import statistics

import numpy as np
import pytest
from made_up_results import episode, outcomes_of, read, round_robin, slow_e_value

from rlarcade.evaluation.sequential import confidence_interval
from rlarcade.reports import round_robin_report

NAMES = ("runs/a", "runs/b", "runs/c", "runs/d")


def drawn_scores(seed, old, new, count):
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.normal(old, 40, count), rng.normal(new, 40, count)], axis=1)
    return [tuple(pair) for pair in (pairs // 5 * 5).clip(0).tolist()]


SCORES = {
    (0, 1): drawn_scores(0, 100, 300, 12),
    (0, 2): drawn_scores(1, 100, 200, 20),
    (0, 3): drawn_scores(2, 100, 20, 20),
    (1, 2): drawn_scores(3, 300, 200, 20),
    (1, 3): drawn_scores(4, 300, 20, 12),
    (2, 3): drawn_scores(5, 100, 95, 30),
}
WINNERS = {(0, 1): 1, (0, 2): 2, (0, 3): 0, (1, 2): 1, (1, 3): 1}
"""As the scores were made; C and D are too close to tell."""


@pytest.fixture(scope="module")
def played():
    return round_robin(NAMES, SCORES, max_pairs=30)


@pytest.fixture(scope="module")
def page(played):
    return read(round_robin_report(played))


def test_contestants_are_named_by_letters(page):
    sides = page.one("ul", class_="sides")
    assert [item.text for item in sides.all("li")] == [
        "A runs/a", "B runs/b", "C runs/c", "D runs/d",
    ]  # fmt: skip


def test_the_table_has_every_share_from_either_side(page):
    rows = page.one("div", id="matrix").rows()
    assert [row[0] for row in rows] == ["A", "B", "C", "D"]
    for (one, other), scores in SCORES.items():
        share = statistics.fmean(outcomes_of(scores))
        winner = WINNERS.get((one, other))
        for row, column, value in ((other, one, share), (one, other, 1 - share)):
            sign = "✓ " if winner == row else ""
            assert rows[row][1 + column] == f"{sign}{value:.2f}"
    assert [rows[place][1 + place] for place in range(4)] == ["–"] * 4


def test_who_is_better_than_whom_is_in_words(page):
    words = page.one("section", id="who").text
    assert (
        "A is better than D; B is better than A, C and D; C is better than A. Neither was shown to "
        "be better in 1 of 6 pairings." in words
    )
    assert "a probability of at most 0.05, however often one looks" in words
    assert "for each pairing, not for all of them together" in words
    assert "There is no rating" in words
    assert "Elo" not in page.text


def test_every_pairing_has_its_counts_evidence_and_verdict(page):
    rows = page.one("div", id="pairings").records()
    for row, ((one, other), scores) in zip(rows, SCORES.items(), strict=True):
        own = outcomes_of(scores)
        letters = "ABCD"[one], "ABCD"[other]
        winner = WINNERS.get((one, other))
        low, high = confidence_interval(own, 0.025)
        assert row == {
            "pairing": f"{letters[1]} against {letters[0]}",
            "won": str(own.count(1)),
            "tied": str(own.count(0.5)),
            "lost": str(own.count(0)),
            "probability of improvement": (f"{statistics.fmean(own):.2f} ({low:.2f} … {high:.2f})"),
            "e-value, better from 40": f"{slow_e_value(own):.4g}",
            "e-value, worse from 40": f"{slow_e_value([1 - y for y in own], 0.5 - 1e-9):.4g}",
            "verdict": "too close to tell" if winner is None else f"{'ABCD'[winner]} is better",
        }


def test_every_pairing_lists_its_pairs_with_the_evidence_after_each(page):
    for (one, other), scores in SCORES.items():
        champion, candidate = "ABCD"[one], "ABCD"[other]
        rows = page.one("div", id=f"pairs-{champion}-{candidate}").records()
        own = outcomes_of(scores)
        for count, (row, pair) in enumerate(zip(rows, scores, strict=True), 1):
            assert (row[champion], row[candidate]) == tuple(f"{score:g}" for score in pair)
            won = {1: "won", 0.5: "tied", 0: "lost"}[own[count - 1]]
            assert row[f"{candidate} has"] == won
            assert row[f"e-value of {candidate}"] == f"{slow_e_value(own[:count]):.4g}"
            against = [1 - outcome for outcome in own[:count]]
            assert row[f"e-value of {champion}"] == f"{slow_e_value(against, 0.5 - 1e-9):.4g}"


def test_every_contestant_is_described_by_all_its_games(page):
    rows = page.one("div", id="contestants-summary").records()
    for place, row in enumerate(rows[:4]):
        own = [
            score
            for pairing, pairs in SCORES.items()
            if place in pairing
            for score in (pair[pairing.index(place)] for pair in pairs)
        ]
        assert row["contestant"] == f"{'ABCD'[place]} {NAMES[place]}"
        assert row["mean"] == f"{statistics.fmean(own):.1f}"
        assert row["highest"] == f"{max(own):.0f}"
        profile = page.one("g", id=f"contestants-profile-profile-{place}")
        assert len(list(profile.all("path"))) == 1
    assert rows[4]["contestant"] == "random (published)"


def game_of(seed, score):
    return episode(seed, float(score), 300)


def test_a_game_that_was_played_in_several_pairings_is_described_once():
    shared = [game_of(seed, score) for seed, score in ((1, 10), (2, 20))]
    scores = {
        (0, other): [(one, game_of(one.seed, 40 + other)) for one in shared] for other in (1, 2)
    }
    page = read(round_robin_report(round_robin(NAMES[:3], scores)))
    rows = page.one("div", id="contestants-summary").records()
    assert [row["games"] for row in rows[:3]] == ["2", "2", "2"]
    assert [row["mean"] for row in rows[:3]] == ["15.0", "41.0", "42.0"]


def test_pairings_that_were_not_played_or_go_on_are_told():
    document = round_robin(NAMES[:3], {(0, 1): [(0, 5)] * 2, (1, 2): [(0, 5)]}, max_pairs=2)
    same = document.matches[1].model_copy(
        update={"max_pairs": 400, "notes": ("both are the same version",)}
    )
    on = document.matches[2]
    document = document.model_copy(update={"matches": (document.matches[0], same, on)})
    page = read(round_robin_report(document))
    verdicts = {row["pairing"]: row["verdict"] for row in page.one("div", id="pairings").records()}
    assert verdicts == {
        "B against A": "too close to tell",
        "C against A": "unfinished: 0 of 400 pairs",
        "C against B": "unfinished: 1 of 2 pairs",
    }
    assert "No contestant was shown to be better than another." in page.text
    assert "C against A: both are the same version" in page.text
    assert page.one("div", id="matrix").rows()[2][1] == "–"
    assert {"pairs-A-B", "pairs-B-C"} == {
        node.attributes["id"]
        for node in page.all("div")
        if node.attributes.get("id", "").startswith("pairs-")
    }


def test_a_contestant_without_games_keeps_its_letter():
    page = read(round_robin_report(round_robin(NAMES[:3], {(0, 2): [(1, 2), (2, 3)]})))
    rows = page.one("div", id="contestants-summary").records()
    assert [(row["contestant"], row["mean"]) for row in rows[:3]] == [
        ("A runs/a", "1.5"),
        ("B runs/b", "–"),
        ("C runs/c", "2.5"),
    ]
    assert list(page.all("g", id="contestants-scores-games-2"))
    assert not list(page.all("g", id="contestants-scores-games-1"))


def test_a_round_robin_of_which_nothing_was_played_has_no_plots():
    page = read(round_robin_report(round_robin(NAMES[:2], {})))
    assert not list(page.all("figure"))
    assert page.one("div", id="matrix").rows() == [["A", "–", "–"], ["B", "–", "–"]]


def test_settings_are_shown_once_where_all_pairings_share_them(played, page):
    settings = dict(page.one("div", id="settings").rows())
    assert settings["rule.alpha"] == "0.025"
    assert settings["max_pairs"] == "30"
    assert settings["protocol.name"] == "v5"
    assert settings["seed"] == "5"
    contestants = {row[0]: row[1:] for row in page.one("div", id="contestants-settings").rows()}
    assert contestants["checkpoint"] == list(NAMES)
    assert contestants["version"][0] == played.matches[0].champion.version
    assert contestants["version"][3] == played.matches[-1].candidate.version
    other = played.matches[0].model_copy(update={"seed": 6})
    unequal = played.model_copy(update={"matches": (other, *played.matches[1:])})
    rows = read(round_robin_report(unequal)).one("div", id="settings").records()
    seeds = next(row for row in rows if row["setting"] == "seed")
    assert (seeds["B against A"], seeds["C against A"], len(seeds)) == ("6", "5", 7)


def test_many_contestants_fit_in_one_report():
    names = tuple(f"runs/{place}" for place in range(9))
    scores = {(one, other): [(one, other)] for one in range(9) for other in range(one + 1, 9)}
    page = read(round_robin_report(round_robin(names, scores)))
    assert len(page.one("div", id="pairings").rows()) == 36
    assert len(list(page.all("figure"))) == 3


def test_nobody_to_report_on_is_an_error():
    with pytest.raises(ValueError, match="a round robin with at least one match"):
        round_robin_report(round_robin(NAMES[:1], {}))
