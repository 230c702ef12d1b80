"""Shared parts of the reports of matches, suites and round robins: pairs and their evidence."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean

from rlarcade.evaluation.documents import Comparison, PairResult
from rlarcade.evaluation.sequential import Counts, Evidence, Rule, confidence_sequence
from rlarcade.evaluation.statistics import sign_flip_p
from rlarcade.evaluation.suite import SuiteComparison
from rlarcade.games.names import display_name
from rlarcade.reports.evidence_plots import Bet, evidence_plot, interval_plot
from rlarcade.reports.formats import evidence_value, interval, number, points
from rlarcade.reports.lines import how_played
from rlarcade.reports.page import Html, details, element, facts, figure, section, table
from rlarcade.reports.parts import (
    described,
    ending,
    grid,
    legend,
    named,
    scores_figures,
    series_of,
)
from rlarcade.reports.plots import CANDIDATE, CHAMPION, Point, scatter_plot

SIDES = {CHAMPION: "champion", CANDIDATE: "candidate"}
"""Names of the two sides, by index."""

CLAIM_BEYOND = "that one algorithm is better than another needs several training runs of each."
"""A claim that no report supports."""
_NOT_GATED = (
    "Described, not gated on: the verdict only counts which side won each pair. A version may win "
    "most games by a little and lose some by a lot."
)
_SIGNS = {"promote": "✓", "reject": "✕", "inconclusive": "?"}
_OUTCOMES = {1.0: "won", 0.5: "tied", 0.0: "lost"}

Interval = tuple[float, float]


def evidence_history(match: Comparison) -> list[Evidence]:
    """Returns both e-values before the first pair and after each."""
    counts = accumulate((pair.outcome for pair in match.results), Counts.after, initial=Counts())
    return [match.rule.evidence(so_far) for so_far in counts]


def interval_history(outcomes: Sequence[float], alpha: float) -> list[Interval]:
    """Returns intervals of the mean outcome before the first one and after each."""
    return [(0.0, 1.0), *confidence_sequence(outcomes, alpha)]


def conditions(match: Comparison) -> str:
    """Returns protocol and ε of a match, as a line below its title."""
    how = how_played(match).removeprefix(f"{display_name(match.game)}, ")
    return how[0].upper() + how[1:]


def sides_list(contestants: Sequence[tuple[str, str]]) -> Html:
    """Returns a list of the players: (short key on the page, full name)."""
    items = (
        element("li", named(place, key, name)) for place, (key, name) in enumerate(contestants)
    )
    return element("ul", *items, class_="sides")


def notes_list(notes: Sequence[str]) -> Html:
    """Returns a list of warnings for the reader; nothing if there are none."""
    items = (element("li", note) for note in notes)
    return element("ul", *items, class_="notes") if notes else Html()


def verdict_section(
    verdict: str,
    meaning: str,
    words: str,
    tiles: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> Html:
    """Returns the verdict: as one word, as a sentence and as figures."""
    badge = element("strong", f"{_SIGNS[verdict]} {verdict.upper()}", class_=f"badge {verdict}")
    return section(
        "Verdict",
        element("p", badge, " ", element("span", meaning), class_="verdict"),
        element("p", words),
        facts(tiles, "tiles"),
        notes_list(notes),
        element("p", f"This is a claim about these two versions; {CLAIM_BEYOND}", class_="aside"),
        name="verdict",
    )


def evidence_tiles(
    document: Comparison | SuiteComparison, last_interval: Interval
) -> list[tuple[str, str]]:
    """Returns the figures of the evidence, for `verdict_section`."""
    share, rule = document.improvement_probability, document.rule
    shown = number(share, 2) if share is None else share_text(share, last_interval)
    return [
        ("probability of improvement", shown),
        (f"e-value, promote from {1 / rule.alpha:g}", evidence_value(document.e_value)),
        ("p-value at any time", number(document.p_value, 3)),
        (
            f"futility e-value, reject from {1 / rule.beta:g}",
            evidence_value(document.e_value_futility),
        ),
    ]


def share_text(share: float, around: Interval) -> str:
    """Returns a probability of improvement with its interval."""
    return f"{number(share, 2)} {interval(*around, 2)}"


def e_values_figure(history: Sequence[Evidence], rule: Rule, unit: str, decides: str) -> Html:
    """Returns both e-values over time.

    Args:
        history: e-values before the first pair or round and after each.
        rule: rule of the match.
        unit: "pair" or "round".
        decides: sentence that says what ends the match.
    """
    bets = [
        Bet(CANDIDATE, [one.e_value for one in history], 1 / rule.alpha, "promote"),
        Bet(CHAMPION, [one.e_value_futility for one in history], 1 / rule.beta, "reject"),
    ]
    return figure(
        evidence_plot("e-values", f"Both e-values after each {unit}", bets, f"{unit}s"),
        f"Two bets on every {unit}, each started with one coin: one that the candidate is better, "
        f"one that it is not usefully better. {decides} Logarithmic scale.",
        legend({CANDIDATE: "e-value", CHAMPION: "futility e-value"}),
    )


def interval_figure(
    outcomes: Sequence[float], intervals: Sequence[Interval], rule: Rule, unit: str, mean: str
) -> Html:
    """Returns the probability of improvement over time.

    Args:
        outcomes: outcomes of pairs or rounds.
        intervals: intervals before the first outcome and after each.
        rule: rule of the match.
        unit: "pair" or "round".
        mean: name of the mean outcome.
    """
    label = f"Probability of improvement and its interval after each {unit}"
    return figure(
        interval_plot("interval", label, outcomes, intervals, rule, f"{unit}s"),
        f"{mean}, ties counting half. The band contains the true probability at all looks at once, "
        f"with probability {1 - rule.alpha:g}. It is shown and decides nothing. Dotted: "
        f"{rule.null:g}, which a better candidate exceeds, and {rule.useful:g}, from which it "
        "should be promoted.",
        legend({CANDIDATE: "pairs won by the candidate"}),
    )


def scores_grid(match: Comparison, prefix: str = "") -> Html:
    """Returns the scores of both sides in one game, pair by pair and in summary.

    Args:
        match: match with at least one pair.
        prefix: prefix of all ids.
    """
    champion, candidate = (
        series_of(side, place, [getattr(pair, side) for pair in match.results])
        for place, side in SIDES.items()
    )
    return grid(
        _scatter(match.results, f"{prefix}scatter"),
        *scores_figures(prefix, match.game, [champion, candidate], legend(SIDES)),
        _described(match, f"{prefix}described"),
    )


def _scatter(results: Sequence[PairResult], name: str) -> Html:
    pairs = [
        Point(
            pair.champion.score,
            pair.candidate.score,
            pair.outcome,
            "failed" in (pair.champion.ended, pair.candidate.ended),
        )
        for pair in results
    ]
    caption = (
        "Each mark is a pair of games with one seed. Above the diagonal the candidate scored more "
        "(triangles), below it the champion (circles); squares are ties."
    )
    if any(pair.failed for pair in pairs):
        caption += " Crossed out: a policy failed and lost the pair, whatever its score."
    label = "The candidate's score against the champion's, pair by pair"
    return figure(scatter_plot(name, label, pairs), caption)


def _described(match: Comparison, name: str) -> Html:
    champion = described(match.game, [pair.champion for pair in match.results])
    candidate = described(match.game, [pair.candidate for pair in match.results])
    rows = [[what, champion[what], candidate[what]] for what in champion]
    return element(
        "div",
        table("Scores described", ["", "champion", "candidate"], rows, text=("",), name=name),
        element("p", _NOT_GATED, class_="aside"),
        element("p", _sign_flip(match.results), class_="aside"),
        class_="cell",
    )


def _sign_flip(results: Sequence[PairResult]) -> str:
    differences = [pair.candidate.score - pair.champion.score for pair in results]
    return (
        f"Mean difference of the scores {number(fmean(differences))}, its sign-flip permutation p "
        f"{number(sign_flip_p(differences), 3)}: fixed-N, not for peeking. It is only valid if the "
        "number of pairs was fixed in advance, and a match does not fix it."
    )


def pairs_table(
    match: Comparison,
    evidence: Mapping[str, Sequence[float]],
    *,
    sides: tuple[str, str] = ("champion", "candidate"),
    title: str = "Every pair",
    name: str = "pairs",
) -> Html:
    """Returns every pair of a match, in a part of the page that opens on a click.

    Args:
        match: match with at least one pair.
        evidence: columns of e-values, one value after each pair.
        sides: names of champion and candidate in the table.
        title: title of the part. The number of pairs is added.
        name: id of the table.
    """
    one, other = sides
    words = [f"{other} has", f"{one} ended", f"{other} ended"]
    columns = ["pair", "seed", one, other, words[0], *evidence]
    columns += [f"{one}'s steps", f"{other}'s steps", *words[1:]]
    rows = [
        [
            str(place),
            str(pair.seed),
            points(pair.champion.score),
            points(pair.candidate.score),
            _OUTCOMES[pair.outcome],
            *map(evidence_value, values),
            number(pair.champion.steps, 0),
            number(pair.candidate.steps, 0),
            ending(pair.champion),
            ending(pair.candidate),
        ]
        for place, (pair, *values) in enumerate(
            zip(match.results, *evidence.values(), strict=True), 1
        )
    ]
    title = f"{title} ({number(len(rows), 0)})"
    return details(title, table(title, columns, rows, text=words, name=name))
