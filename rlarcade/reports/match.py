"""The report of a match: which of two versions is better, with the evidence."""

from collections.abc import Sequence

from rlarcade.evaluation.documents import Comparison
from rlarcade.evaluation.sequential import Evidence
from rlarcade.evaluation.summaries import meaning_of
from rlarcade.games.names import display_name
from rlarcade.reports.beside import Clip, LearningCurve, clips_section, curves_section
from rlarcade.reports.page import Html, details, page, section
from rlarcade.reports.pairs import (
    SIDES,
    Interval,
    conditions,
    e_values_figure,
    evidence_history,
    evidence_tiles,
    interval_figure,
    interval_history,
    pairs_table,
    scores_grid,
    sides_list,
    verdict_section,
)
from rlarcade.reports.parts import grid, header, settings_of, settings_table
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
    history = evidence_history(match)
    intervals = interval_history([pair.outcome for pair in match.results], match.rule.alpha)
    contestants = [(side, getattr(match, side).checkpoint) for side in SIDES.values()]
    settings = settings_of(match, without=("results", "notes"))
    return page(
        f"{game}: {verdict.upper()} – rlarcade match",
        header("match", f"{game}: candidate against champion", conditions(match)),
        sides_list(contestants),
        verdict_section(
            verdict,
            meaning,
            _in_words(match, verdict),
            [_counted(match), *evidence_tiles(match, intervals[-1])],
            _notes(match),
        ),
        *(_played(match, history, intervals) if match.results else ()),
        # Do not use the sides' colours: it is not known here which run made which version.
        curves_section(learning_curves, first=len(SIDES)),
        clips_section(clips),
        _pairs(match, history) if match.results else "",
        details("All settings", settings_table({"value": settings}, "settings")),
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


def _played(
    match: Comparison, history: Sequence[Evidence], intervals: Sequence[Interval]
) -> tuple[Html, Html]:
    """Evidence and scores."""
    decides = "The first to reach its dotted line decides."
    outcomes = [pair.outcome for pair in match.results]
    e_values = e_values_figure(history, match.rule, "pair", decides)
    won = interval_figure(outcomes, intervals, match.rule, "pair", "Share of pairs won")
    return (
        section("Evidence", grid(e_values, won), name="evidence"),
        section("Scores", scores_grid(match), name="scores-section"),
    )


def _pairs(match: Comparison, history: Sequence[Evidence]) -> Html:
    evidence = {
        "e-value": [after.e_value for after in history[1:]],
        "futility": [after.e_value_futility for after in history[1:]],
    }
    return pairs_table(match, evidence)
