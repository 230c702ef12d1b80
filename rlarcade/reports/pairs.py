"""Shared parts of the reports of matches, suites and round robins: pairs and their evidence."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

from rlarcade.evaluation.documents import Comparison, PairResult
from rlarcade.evaluation.sequential import Counts, Evidence, Rule, confidence_sequence
from rlarcade.evaluation.statistics import sign_flip_p
from rlarcade.evaluation.suite import SuiteComparison
from rlarcade.games.names import display_name
from rlarcade.reports.evidence_plots import Bet, evidence_plot, interval_plot
from rlarcade.reports.formats import evidence_value, interval, number, p_value, points
from rlarcade.reports.lines import how_played
from rlarcade.reports.page import Figure, Table
from rlarcade.reports.parts import described, ending, scores_figures, series_of
from rlarcade.reports.plots import CANDIDATE, CHAMPION, Point, scatter_plot

SIDES = {CHAMPION: "champion", CANDIDATE: "candidate"}
"""Names of the two sides, by index."""
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


class Verdict(NamedTuple):
    """The verdict: as one word, as a sentence and as figures."""

    word: str
    meaning: str
    words: str
    """The guarantee in words."""
    tiles: Sequence[tuple[str, str]]
    """(term, value) of the figures."""
    notes: Sequence[str]
    """Warnings for the reader."""

    @property
    def sign(self) -> str:
        """The word as a sign."""
        return _SIGNS[self.word]


def evidence_tiles(
    document: Comparison | SuiteComparison, last_interval: Interval
) -> list[tuple[str, str]]:
    """Returns the figures of the evidence, for `Verdict`."""
    share, rule = document.improvement_probability, document.rule
    shown = number(share, 2) if share is None else share_text(share, last_interval)
    return [
        ("probability of improvement", shown),
        (f"e-value, promote from {1 / rule.alpha:g}", evidence_value(document.e_value)),
        ("p-value at any time", p_value(document.p_value)),
        (
            f"futility e-value, reject from {1 / rule.beta:g}",
            evidence_value(document.e_value_futility),
        ),
    ]


def share_text(share: float, around: Interval) -> str:
    """Returns a probability of improvement with its interval."""
    return f"{number(share, 2)} {interval(*around, 2)}"


def e_values_figure(history: Sequence[Evidence], rule: Rule, unit: str, decides: str) -> Figure:
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
    return Figure(
        evidence_plot("e-values", f"Both e-values after each {unit}", bets, f"{unit}s"),
        f"Two bets on every {unit}, each started with one coin: one that the candidate is better, "
        f"one that it is not usefully better. {decides} Logarithmic scale.",
        {CANDIDATE: "e-value", CHAMPION: "futility e-value"},
    )


def interval_figure(
    outcomes: Sequence[float], intervals: Sequence[Interval], rule: Rule, unit: str, mean: str
) -> Figure:
    """Returns the probability of improvement over time.

    Args:
        outcomes: outcomes of pairs or rounds.
        intervals: intervals before the first outcome and after each.
        rule: rule of the match.
        unit: "pair" or "round".
        mean: name of the mean outcome.
    """
    label = f"Probability of improvement and its interval after each {unit}"
    return Figure(
        interval_plot("interval", label, outcomes, intervals, rule, f"{unit}s"),
        f"{mean}, ties counting half. The band contains the true probability at all looks at once, "
        f"with probability {1 - rule.alpha:g}. It is shown and decides nothing. Dotted: "
        f"{rule.null:g}, which a better candidate exceeds, and {rule.useful:g}, from which it "
        "should be promoted.",
        {CANDIDATE: "pairs won by the candidate"},
    )


class PairScores(NamedTuple):
    """The scores of both sides in one game, pair by pair and in summary."""

    figures: list[Figure]
    described: Table
    difference: float
    """Mean difference of the scores."""
    sign_flip_p: float


def pair_scores(match: Comparison, prefix: str = "") -> PairScores:
    """Returns the scores of both sides in one game.

    Args:
        match: match with at least one pair.
        prefix: prefix of all ids.
    """
    champion, candidate = (
        series_of(side, place, [getattr(pair, side) for pair in match.results])
        for place, side in SIDES.items()
    )
    differences = [pair.candidate.score - pair.champion.score for pair in match.results]
    return PairScores(
        [
            _scatter(match.results, f"{prefix}scatter"),
            *scores_figures(prefix, match.game, [champion, candidate], SIDES),
        ],
        _described(match, f"{prefix}described"),
        fmean(differences),
        sign_flip_p(differences),
    )


def _scatter(results: Sequence[PairResult], name: str) -> Figure:
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
    return Figure(scatter_plot(name, label, pairs), caption)


def _described(match: Comparison, name: str) -> Table:
    champion = described(match.game, [pair.champion for pair in match.results])
    candidate = described(match.game, [pair.candidate for pair in match.results])
    return Table(
        caption="Scores described",
        columns=["", "champion", "candidate"],
        rows=[[what, champion[what], candidate[what]] for what in champion],
        text=("",),
        name=name,
    )


def pairs_table(
    match: Comparison,
    evidence: Mapping[str, Sequence[float]],
    *,
    sides: tuple[str, str] = ("champion", "candidate"),
    title: str = "Every pair",
    name: str = "pairs",
) -> Table:
    """Returns every pair of a match.

    Args:
        match: match with at least one pair.
        evidence: columns of e-values, one value after each pair.
        sides: names of champion and candidate in the table.
        title: title of the table. The number of pairs is added.
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
    caption = f"{title} ({number(len(rows), 0)})"
    return Table(caption=caption, columns=columns, rows=rows, text=words, name=name)
