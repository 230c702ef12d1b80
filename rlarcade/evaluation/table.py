"""Evaluations as a table on a terminal."""

from collections.abc import Sequence
from statistics import fmean

from rlarcade.evaluation.documents import Comparison, Evaluation
from rlarcade.evaluation.round_robin import RoundRobin
from rlarcade.evaluation.suite import SuiteComparison
from rlarcade.games.names import display_name
from rlarcade.games.scores import published_scores


def score_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Returns lines that show raw scores beside the random and human ones."""
    lines = []
    for evaluation in evaluations:
        scores = [episode.score for episode in evaluation.episodes]
        published = published_scores(evaluation.game)
        normalised = evaluation.human_normalized
        low, high = evaluation.iqm_interval
        steps = fmean(episode.steps for episode in evaluation.episodes)
        cut = sum(episode.ended == "truncated" for episode in evaluation.episodes)
        lines += [
            f"{display_name(evaluation.game)}, protocol {evaluation.protocol.name}, "
            f"epsilon {evaluation.epsilon:g}, {len(scores)} whole games, raw scores",
            f"  {evaluation.checkpoint}",
            f"  mean {evaluation.mean:.1f}   median {evaluation.median:.1f}   "
            f"min {min(scores):.1f}   max {max(scores):.1f}   "
            + (f"({cut} cut by the frame cap)" if cut else "(all ended by themselves)"),
            f"  interquartile mean {evaluation.iqm:.1f} ({low:.1f} … {high:.1f})   "
            f"steps a game {steps:,.0f}",
            f"  random {_shown(published.random if published else None)}   "
            f"human {_shown(published.human if published else None)}   "
            f"human-normalised {'–' if normalised is None else f'{normalised:.1%}'}",
        ]
    return lines


def human_line(game: str) -> str:
    """Returns a line with the published score of a human; nobody plays for it."""
    published = published_scores(game)
    if published is None:
        return f"{display_name(game)}, human: no score is published"
    return f"{display_name(game)}, human: {published.human:g} ({published.source})"


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:g}"


_MEANINGS = {
    "promote": "the candidate is better",
    "reject": "the candidate is not usefully better",
    "inconclusive": "too close to tell; the champion stays",
}


def suite_lines(suite: SuiteComparison) -> list[str]:
    """Returns lines that say how a match over several games ended and why."""
    low, high = suite.interval
    share = suite.improvement_probability
    verdict, meaning = suite_meaning(suite)
    lines = [f"{len(suite.matches)} games, {suite.rounds} rounds of one same-seed pair in each"]
    shown = suite.guards or (None,) * len(suite.matches)
    for match, guard in zip(suite.matches, shown, strict=True):
        lines += [
            f"  {display_name(match.game)}: {match.wins} won, {match.ties} tied, "
            f"{match.losses} lost"
            + ("" if guard is None else f"; {_GUARDS[suite.guard]} {guard:.4g}"),
            f"    {match.champion.checkpoint} against {match.candidate.checkpoint}",
            *(f"    note: {note}" for note in match.notes),
        ]
    if share is not None:
        lines += [
            f"  probability of improvement, mean of the games {share:.2f} ({low:.2f} … {high:.2f})",
            _evidence_line(suite),
        ]
    for side, summed in suite.human_normalized.items():
        low, high = summed.iqm_interval
        lines.append(
            f"  {side + ',':<10} human-normalised: interquartile mean {summed.iqm:.1%} "
            f"({low:.1%} … {high:.1%}), optimality gap {summed.optimality_gap:.1%}"
        )
    return [*lines, f"verdict: {verdict.upper()} – {meaning}"]


def suite_meaning(suite: SuiteComparison) -> tuple[str, str]:
    """Returns the verdict, of a suite that is on "inconclusive", and what it means in words."""
    verdict = suite.verdict or "inconclusive"
    if verdict == "inconclusive":
        return verdict, _MEANINGS[verdict]
    if verdict == "promote":
        proven = f", and in no game worse by {suite.margin:g}" if suite.guard == "prove" else ""
        return verdict, f"{_MEANINGS[verdict]} on the whole{proven}"
    if alarms := games_with_alarm(suite):
        return verdict, f"the candidate is worse in {' and '.join(alarms)}"
    return verdict, f"{_MEANINGS[verdict]} on the whole"


def games_with_alarm(suite: SuiteComparison) -> list[str]:
    """Returns the games whose pairs have shown that the candidate is worse; none unless asked."""
    if suite.guard != "alarm":
        return []
    reached = zip(suite.matches, suite.reached.guards, strict=True)
    return [display_name(match.game) for match, after in reached if after is not None]


_GUARDS = {
    "prove": "evidence that it is not worse",
    "alarm": "evidence that it is worse",
}


def round_robin_lines(table: RoundRobin) -> list[str]:
    """Returns lines with each player's share of pairs won against each other one."""
    lines = [f"  {place}  {name}" for place, name in enumerate(table.players)]
    lines += ["", "      " + "".join(f"{place:>8}" for place in range(len(table.players)))]
    for one in range(len(table.players)):
        cells = []
        for other in range(len(table.players)):
            share = None if one == other else table.share(one, other)
            better = one != other and table.better(one, other)
            cells.append("       –" if share is None else f"{share:7.2f}{'*' if better else ' '}")
        lines.append(f"  {one:>3} " + "".join(cells))
    pairs = sum(match.pairs for match in table.matches)
    return [
        *lines,
        "",
        f"share of pairs won by the row against the column, of {pairs} in all; * better, with an "
        f"error of at most {2 * table.matches[0].rule.alpha:g} a pairing",
    ]


def _evidence_line(document: Comparison | SuiteComparison) -> str:
    rule = document.rule
    return (
        f"  e-value {document.e_value:.4g} (promote from {1 / rule.alpha:g}), futility "
        f"{document.e_value_futility:.4g} (reject from {1 / rule.beta:g})"
    )


def meaning_of(match: Comparison) -> tuple[str, str]:
    """Returns the verdict, of a match that is on "inconclusive", and what it means in words."""
    verdict = match.verdict or "inconclusive"
    margin = 0.5 - match.rule.null
    if margin > 0 and verdict == "promote":
        return verdict, f"the candidate is not worse by {margin:g}"
    if margin > 0 and verdict == "reject":
        return verdict, "the candidate is worse"
    return verdict, _MEANINGS[verdict]


def how_played(match: Comparison) -> str:
    """Returns a line that says what was played, and how."""
    return (
        f"{display_name(match.game)}, protocol {match.protocol.name}, epsilon "
        f"{match.protocol.evaluation_epsilon:g}, same-seed pairs of whole games, raw scores"
    )


def standing(match: Comparison) -> str:
    """Returns a few words that say how a match stands; the interval is that of winning a pair."""
    low, high = match.interval
    return (
        f"{match.wins} won  {match.ties} tied  {match.losses} lost  "
        f"({low:.2f} … {high:.2f})  e-value {match.e_value:.3g} of {1 / match.rule.alpha:g}"
    )


def suite_standing(suite: SuiteComparison) -> str:
    """Returns a few words that say how a match over several games stands."""
    low, high = suite.interval
    won = "  ".join(f"{match.wins}/{match.ties}/{match.losses}" for match in suite.matches)
    return (
        f"won/tied/lost {won}  ({low:.2f} … {high:.2f})  "
        f"e-value {suite.e_value:.3g} of {1 / suite.rule.alpha:g}"
    )


def match_lines(match: Comparison) -> list[str]:
    """Returns lines that say how a match ended and why."""
    low, high = match.interval
    share = match.improvement_probability
    verdict, meaning = meaning_of(match)
    lines = [
        how_played(match),
        f"  champion   {match.champion.checkpoint}",
        f"  candidate  {match.candidate.checkpoint}",
    ]
    if share is not None:
        champion, candidate = (
            fmean(getattr(pair, side).score for pair in match.results)
            for side in ("champion", "candidate")
        )
        lines += [
            f"  {match.wins} won, {match.ties} tied, {match.losses} lost of {match.pairs} pairs; "
            f"mean score {champion:.1f} against {candidate:.1f}",
            f"  probability of improvement {share:.2f} ({low:.2f} … {high:.2f})",
            _evidence_line(match),
        ]
    lines += [f"  note: {note}" for note in match.notes]
    return [*lines, f"verdict: {verdict.upper()} – {meaning}"]
