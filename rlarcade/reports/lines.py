"""Results as lines on a terminal and as rows of a table in a notebook."""

from collections.abc import Sequence
from statistics import fmean

from rlarcade.evaluation.documents import Comparison, Evaluation
from rlarcade.evaluation.round_robin import RoundRobin
from rlarcade.evaluation.suite import SuiteComparison
from rlarcade.evaluation.summaries import (
    endings,
    interval_text,
    meaning_of,
    share_cell,
    suite_meaning,
)
from rlarcade.games.names import display_name
from rlarcade.games.scores import published_scores
from rlarcade.reports.words import fitted, wrapped
from rlarcade.text import counted, printable

_MOST_CELLS = 9  # cells of a row in 80 columns


def score_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Returns lines that show raw scores beside the random and human ones."""
    lines = []
    for evaluation in evaluations:
        scores = [episode.score for episode in evaluation.episodes]
        published = published_scores(evaluation.game)
        normalised = evaluation.human_normalized
        steps = fmean(episode.steps for episode in evaluation.episodes)
        lines += [
            f"{display_name(evaluation.game)}, protocol {evaluation.protocol}, "
            f"epsilon {evaluation.epsilon:g}, {counted(len(scores), 'whole game')}, raw scores",
            f"  {fitted(evaluation.checkpoint)}",
            *(["  it has emulator access"] if evaluation.league == "emulator" else []),
            *wrapped(
                f"mean {evaluation.mean:.1f}",
                f"median {evaluation.median:.1f}",
                f"min {min(scores):.1f}",
                f"max {max(scores):.1f}",
                f"({endings(evaluation)})",
            ),
            *wrapped(
                f"interquartile mean {evaluation.iqm:.1f} {interval_text(evaluation.iqm_interval)}",
                f"steps a game {steps:,.0f}",
            ),
            f"  random {_shown(published.random if published else None)}   "
            f"human {_shown(published.human if published else None)}   "
            f"human-normalised {'–' if normalised is None else f'{normalised:.1%}'}",
        ]
    return lines


def human_line(game: str) -> str:
    """Returns a line with the published human score. No game is played for it."""
    published = published_scores(game)
    if published is None:
        return f"{display_name(game)}, human: no score is published"
    return f"{display_name(game)}, human: {published.human:g} ({published.source})"


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:g}"


def suite_lines(suite: SuiteComparison) -> list[str]:
    """Returns lines with the result of a suite."""
    low, high = suite.interval
    share = suite.improvement_probability
    verdict, meaning = suite_meaning(suite)
    lines = [
        f"{counted(len(suite.matches), 'game')}, {counted(suite.rounds, 'round')} of one same-seed "
        "pair in each"
    ]
    shown = suite.guards or (None,) * len(suite.matches)
    for match, guard in zip(suite.matches, shown, strict=True):
        champion, candidate = _both_fitted(match, " against ", 4)
        lines += [
            f"  {display_name(match.game)}: {match.wins} won, {match.ties} tied, "
            f"{match.losses} lost"
            + ("" if guard is None else f"; {_GUARDS[suite.guard]} {guard:.4g}"),
            f"    {champion} against {candidate}",
            *(f"    note: {printable(note)}" for note in match.notes),
        ]
    if share is not None:
        lines += [
            f"  probability of improvement, mean of the games {share:.2f} ({low:.2f} … {high:.2f})",
            _evidence_line(suite),
        ]
    for side, summed in suite.human_normalized.items():
        between = ""
        if summed.iqm_interval is not None:
            between = f" ({summed.iqm_interval[0]:.1%} … {summed.iqm_interval[1]:.1%})"
        lines.append(
            f"  {side + ',':<10} human-normalised: interquartile mean {summed.iqm:.1%}{between}, "
            f"optimality gap {summed.optimality_gap:.1%}"
        )
    return [*lines, f"verdict: {verdict.upper()} – {meaning}"]


_GUARDS = {
    "prove": "evidence that it is not worse",
    "alarm": "evidence that it is worse",
}


def round_robin_lines(table: RoundRobin) -> list[str]:
    """Returns lines with each player's share of pairs won against each other one."""
    players = range(len(table.players))
    lines = [f"  {place}  {fitted(name, 7)}" for place, name in enumerate(table.players)]
    for first in range(0, len(players), _MOST_CELLS):
        shown = players[first : first + _MOST_CELLS]
        lines += ["", "      " + "".join(f"{place:>8}" for place in shown)]
        for one in players:
            lines.append(f"  {one:>3} " + "".join(share_cell(table, one, other) for other in shown))
    pairs = sum(match.pairs for match in table.matches)
    looking = [str(place) for place in players if table.league(place) == "emulator"]
    return [
        *lines,
        "",
        *([f"with emulator access: {', '.join(looking)}"] if looking else []),
        f"share of pairs won by the row against the column, of {pairs} in all; *: better, with "
        f"an error probability of at most {2 * table.matches[0].rule.alpha:g} per pairing",
    ]


def _evidence_line(document: Comparison | SuiteComparison) -> str:
    rule = document.rule
    return (
        f"  e-value {document.e_value:.4g} (promote from {1 / rule.alpha:g}), futility "
        f"{document.e_value_futility:.4g} (reject from {1 / rule.beta:g})"
    )


def how_played(match: Comparison) -> str:
    """Returns a line with game, protocol and ε of a match."""
    return (
        f"{display_name(match.game)}, protocol {match.protocol}, epsilon "
        f"{match.protocol.evaluation_epsilon:g}, same-seed pairs of whole games, raw scores"
    )


def standing(match: Comparison) -> str:
    """Returns a match's counts, interval of the probability of improvement, and e-value so far."""
    low, high = match.interval
    return (
        f"{match.wins} won  {match.ties} tied  {match.losses} lost  "
        f"({low:.2f} … {high:.2f})  e-value {match.e_value:.3g} of {1 / match.rule.alpha:g}"
    )


def suite_standing(suite: SuiteComparison) -> str:
    """Returns a suite's e-value and interval so far, then the counts of each game."""
    low, high = suite.interval
    won = "  ".join(f"{match.wins}/{match.ties}/{match.losses}" for match in suite.matches)
    return (
        f"e-value {suite.e_value:.3g} of {1 / suite.rule.alpha:g}  ({low:.2f} … {high:.2f})  "
        f"won/tied/lost {won}"
    )


def match_lines(match: Comparison) -> list[str]:
    """Returns lines with the result of a match."""
    low, high = match.interval
    share = match.improvement_probability
    verdict, meaning = meaning_of(match)
    lines = [
        how_played(match),
        f"  champion   {fitted(match.champion.checkpoint, 13)}",
        f"  candidate  {fitted(match.candidate.checkpoint, 13)}",
    ]
    if share is not None:
        champion, candidate = (
            fmean(getattr(pair, side).score for pair in match.results)
            for side in ("champion", "candidate")
        )
        lines += [
            f"  {match.wins} won, {match.ties} tied, {match.losses} lost of "
            f"{counted(match.pairs, 'pair')}; mean score {champion:.1f} against {candidate:.1f}",
            f"  probability of improvement {share:.2f} ({low:.2f} … {high:.2f})",
            _evidence_line(match),
        ]
    lines += [f"  note: {printable(note)}" for note in match.notes]
    return [*lines, f"verdict: {verdict.upper()} – {meaning}"]


def _both_fitted(match: Comparison, between: str, indent: int) -> tuple[str, str]:
    """Both names, shortened so that they fit on one line."""
    names = [match.champion.checkpoint, match.candidate.checkpoint]
    champion, candidate = (
        fitted(name, indent + len(between) + len(fitted(other, 41)))
        for name, other in (names, names[::-1])
    )
    return champion, candidate
