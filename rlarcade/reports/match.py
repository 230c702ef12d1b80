"""The report of a match: which of two versions is better, with the evidence."""

from collections.abc import Sequence
from typing import NamedTuple

from rlarcade.evaluation.documents import Comparison
from rlarcade.evaluation.summaries import meaning_of
from rlarcade.games.names import display_name
from rlarcade.reports.beside import Clip, LearningCurve, curve_figures
from rlarcade.reports.page import Figure, Table, render
from rlarcade.reports.pairs import (
    SIDES,
    Interval,
    PairScores,
    Verdict,
    conditions,
    e_values_figure,
    evidence_history,
    evidence_tiles,
    interval_figure,
    interval_history,
    pair_scores,
    pairs_table,
)
from rlarcade.reports.parts import settings_of, settings_table
from rlarcade.text import counted


def match_report(
    match: Comparison,
    *,
    learning_curves: Sequence[LearningCurve] = (),
    clips: Sequence[Clip] = (),
) -> str:
    """Renders a match, decided or unfinished.

    Args:
        match: match with any number of pairs, including none.
        learning_curves: curves of the runs of both versions.
        clips: pictures or videos of games.

    Returns:
        The whole HTML file.
    """
    game = display_name(match.game)
    verdict, meaning = meaning_of(match)
    intervals = interval_history([pair.outcome for pair in match.results], match.rule.alpha)
    settings = settings_of(match, without=("results", "notes"))
    return render(
        "match.html",
        title=f"{game}: {verdict.upper()}",
        heading=f"{game}: candidate against champion",
        subtitle=conditions(match),
        sides=[(side, getattr(match, side).checkpoint) for side in SIDES.values()],
        verdict=Verdict(
            verdict,
            meaning,
            _in_words(match, verdict),
            [_counted(match), *evidence_tiles(match, intervals[-1])],
            _notes(match),
        ),
        played=_played(match, intervals) if match.results else None,
        curves=curve_figures(
            learning_curves, [match.champion.checkpoint, match.candidate.checkpoint]
        ),
        clips=clips,
        settings=settings_table({"value": settings}, "settings"),
    )


def _counted(match: Comparison) -> tuple[str, str]:
    return (
        f"candidate, {counted(match.pairs, 'pair')}",
        f"{match.wins} won, {match.ties} tied, {match.losses} lost",
    )


def _notes(match: Comparison) -> list[str]:
    notes = [*match.notes]
    if match.verdict is None:
        notes.append(
            f"the match is unfinished: {match.pairs} of {counted(match.max_pairs, 'pair')} are "
            "played"
        )
    return notes


def _in_words(match: Comparison, verdict: str) -> str:
    rule = match.rule
    if not match.results:
        return "No pairs were played."
    played = (
        f"The candidate won {match.wins} of {counted(match.pairs, 'same-seed pair')}, tied "
        f"{match.ties} and lost {match.losses}. "
    )
    if verdict == "promote":
        return played + (
            f"If its probability of improvement were {rule.null:g} or less, a match would end in "
            f"promotion with a probability of at most {rule.alpha:g}, however often one looks."
        )
    if verdict == "reject":
        return played + (
            f"If its probability of improvement were {rule.useful:g} or more, a match would end in "
            f"rejection with a probability of at most {rule.beta:g}, however often one looks."
        )
    return played + "Neither e-value reached its bound."


class _Played(NamedTuple):
    """What only a match with pairs has."""

    evidence: list[Figure]
    scores: PairScores
    pairs: Table


def _played(match: Comparison, intervals: Sequence[Interval]) -> _Played:
    decides = "The first to reach its dotted line decides."
    outcomes = [pair.outcome for pair in match.results]
    history = evidence_history(match)
    won = interval_figure(outcomes, intervals, match.rule, "pair", "Share of pairs won")
    evidence = {
        "e-value": [after.e_value for after in history[1:]],
        "futility": [after.e_value_futility for after in history[1:]],
    }
    return _Played(
        [e_values_figure(history, match.rule, "pair", decides), won],
        pair_scores(match),
        pairs_table(match, evidence),
    )
