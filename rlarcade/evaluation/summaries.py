"""What a result means, in a few words and as rows of a table."""

from rlarcade.evaluation.documents import Comparison, Evaluation
from rlarcade.evaluation.round_robin import RoundRobin
from rlarcade.evaluation.suite import SuiteComparison
from rlarcade.games.names import display_name
from rlarcade.playing.players import LEAGUES
from rlarcade.shown import Rows

_MOST_NOTES = 5


def endings(evaluation: Evaluation) -> str:
    """Describes how the games of an evaluation ended."""
    cut = sum(episode.ended == "truncated" for episode in evaluation.episodes)
    if cut:
        return f"{cut:,} cut by the frame cap"
    return "it ended by itself" if len(evaluation.episodes) == 1 else "all ended by themselves"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Returns an interval of scores in brackets."""
    if interval is None:
        return "(one game has no interval)"
    low, high = interval
    return f"({low:.1f} … {high:.1f})"


def score_rows(evaluation: Evaluation) -> Rows:
    """Returns an evaluation's scores as rows of a table."""
    if not evaluation.episodes:
        return [("games", "0")]
    scores = [episode.score for episode in evaluation.episodes]
    normalised = evaluation.human_normalized
    return [
        ("game", f"{display_name(evaluation.game)}, protocol {evaluation.protocol}"),
        ("checkpoint", evaluation.checkpoint),
        *([("league", LEAGUES["emulator"])] if evaluation.league == "emulator" else []),
        ("games", f"{len(scores):,} ({endings(evaluation)})"),
        ("mean", f"{evaluation.mean:.1f}"),
        ("median", f"{evaluation.median:.1f}"),
        ("lowest, highest", f"{min(scores):.1f}, {max(scores):.1f}"),
        ("interquartile mean", f"{evaluation.iqm:.1f} {interval_text(evaluation.iqm_interval)}"),
        ("human-normalised", "–" if normalised is None else f"{normalised:.1%}"),
    ]


_MEANINGS = {
    "promote": "the candidate is better",
    "reject": "the candidate is not usefully better",
    "inconclusive": "too close to tell; the champion stays",
}
_SAME_VERSION = "both are the same version, so nothing was played; the champion stays"


def suite_meaning(suite: SuiteComparison) -> tuple[str, str]:
    """Returns a suite's verdict and its meaning. An unfinished suite is "inconclusive"."""
    verdict, meaning = _suite_meaning(suite)
    return verdict, meaning + "".join(sorted(set(map(_leagues, suite.matches))))


def _suite_meaning(suite: SuiteComparison) -> tuple[str, str]:
    verdict = suite.verdict or "inconclusive"
    if verdict == "inconclusive":
        if suite.matches and suite.same_versions:
            return verdict, _SAME_VERSION
        reasons = {crashed(match) for match in suite.matches}
        if len(reasons) == 1 and (reason := reasons.pop()):
            return verdict, f"{reason}; the champion stays"
        return verdict, _MEANINGS[verdict]
    if verdict == "promote":
        proven = f", and in no game worse by {suite.margin:g}" if suite.guard == "prove" else ""
        return verdict, f"{_MEANINGS[verdict]} overall{proven}"
    if alarms := games_with_alarm(suite):
        return verdict, f"the candidate is worse in {' and '.join(alarms)}"
    return verdict, f"{_MEANINGS[verdict]} overall"


def games_with_alarm(suite: SuiteComparison) -> list[str]:
    """Returns the games that raised the alarm; none for another guard than `alarm`."""
    if suite.guard != "alarm":
        return []
    reached = zip(suite.matches, suite.reached.guards, strict=True)
    return [display_name(match.game) for match, after in reached if after is not None]


def suite_rows(suite: SuiteComparison) -> Rows:
    """Returns a suite's verdict and each game's outcomes as rows of a table."""
    verdict, meaning = suite_meaning(suite)
    rows: list[tuple[str, ...]] = [
        ("verdict", verdict if suite.verdict else "the match is unfinished", meaning),
        ("rounds", f"{suite.rounds:,}", ""),
    ]
    for match in suite.matches:
        rows.append((display_name(match.game), _outcomes(match), _sides(match)))
    return rows


def share_cell(table: RoundRobin, one: int, other: int) -> str:
    """Returns the share of pairs that `one` won against `other`, starred if it is better."""
    share = None if one == other else table.share(one, other)
    if share is None:
        return "       –"
    return f"{share:7.2f}{'*' if table.better(one, other) else ' '}"


def round_robin_rows(table: RoundRobin) -> Rows:
    """Returns each player's share of pairs won as rows of a table."""
    places = range(len(table.players))
    rows: list[tuple[str, ...]] = [("", *map(str, places))]
    for one, name in enumerate(table.players):
        cells = (share_cell(table, one, other).strip() for other in places)
        rows.append((f"{one} {name}", *cells))
    return rows


def meaning_of(match: Comparison) -> tuple[str, str]:
    """Returns a match's verdict and its meaning. An unfinished match is "inconclusive"."""
    verdict, meaning = _meaning_of(match)
    return verdict, meaning + _leagues(match)


def _meaning_of(match: Comparison) -> tuple[str, str]:
    verdict = match.verdict or "inconclusive"
    margin = 0.5 - match.rule.null
    if match.same_version and verdict == "inconclusive":
        return verdict, _SAME_VERSION
    if reason := crashed(match):
        stays = "" if verdict == "promote" else "; the champion stays"
        return verdict, f"{reason}{stays}"
    if margin > 0 and verdict == "promote":
        return verdict, f"the candidate is not worse by {margin:g}"
    if margin > 0 and verdict == "reject":
        return verdict, "the candidate is worse"
    return verdict, _MEANINGS[verdict]


def _leagues(match: Comparison) -> str:
    """Says what the sides of a match see, if one has emulator access; empty otherwise."""
    champion, candidate = match.champion.league, match.candidate.league
    if match.mixes_leagues:
        return f"; the champion {LEAGUES[champion]}, the candidate {LEAGUES[candidate]}"
    return "; both have emulator access" if champion == "emulator" else ""


def match_rows(match: Comparison) -> Rows:
    """Returns a match's result so far as rows of a table."""
    verdict, meaning = meaning_of(match)
    low, high = match.interval
    share = match.improvement_probability
    between = "–" if share is None else f"{share:.2f} ({low:.2f} … {high:.2f})"
    return [
        ("game", f"{display_name(match.game)}, protocol {match.protocol}"),
        ("champion", match.champion.checkpoint),
        ("candidate", match.candidate.checkpoint),
        ("verdict", f"{verdict}: {meaning}" if match.verdict else "the match is unfinished"),
        ("pairs", f"{match.pairs:,}: {_outcomes(match)}"),
        ("probability of improvement", between),
        *(("note", note) for note in match.notes[:_MOST_NOTES]),
    ]


def _outcomes(match: Comparison) -> str:
    return f"{match.wins} won, {match.ties} tied, {match.losses} lost"


def _sides(match: Comparison) -> str:
    return f"{match.champion.checkpoint} against {match.candidate.checkpoint}"


def crashed(
    match: Comparison, champion: str = "the champion", candidate: str = "the candidate"
) -> str:
    """Returns a sentence that names the sides that failed in every game; empty if none did."""
    failed = [
        name
        for side, name in (("champion", champion), ("candidate", candidate))
        if match.results and all(getattr(pair, side).ended == "failed" for pair in match.results)
    ]
    if not failed:
        return ""
    who = failed[0] if len(failed) == 1 else f"both {failed[0]} and {failed[1]}"
    return f"{who} failed in every game"
