"""The report of a suite: is a version better over several games, and worse in none?"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from rlarcade.evaluation.suite import SuiteComparison
from rlarcade.evaluation.summaries import games_with_alarm, suite_meaning
from rlarcade.games.names import display_name
from rlarcade.games.scores import human_normalized_score
from rlarcade.reports.beside import Clip, LearningCurve, curve_figures
from rlarcade.reports.evidence_plots import Bet, Share, evidence_plot, shares_plot
from rlarcade.reports.formats import evidence_value, number, percent
from rlarcade.reports.page import Figure, Table, part, render
from rlarcade.reports.pairs import (
    SIDES,
    PairScores,
    Verdict,
    conditions,
    e_values_figure,
    evidence_tiles,
    interval_figure,
    interval_history,
    pair_scores,
    pairs_table,
    share_text,
)
from rlarcade.reports.parts import settings_of, settings_table
from rlarcade.reports.plots import CANDIDATE
from rlarcade.text import counted

_OUTCOMES = {"wins": "won", "ties": "tied", "losses": "lost"}
_DECIDES = {
    "prove": "The first to reach its dotted line decides. For promotion, every game's guard must "
    "have reached its own line, too.",
    "alarm": "The first to reach its dotted line decides, if no game's guard raises the alarm.",
    "none": "The first to reach its dotted line decides.",
}
_GUARDS = {
    "prove": "The same bet on each game's own pairs: that the candidate is not worse by {margin:g} "
    "there. For promotion, every line must have reached the dotted line once.",
    "alarm": "A bet on each game's own pairs: that the candidate is worse there. The first line to "
    "reach the dotted line ends the match. No alarm is no proof that all is well.",
}


def suite_report(
    suite: SuiteComparison,
    *,
    learning_curves: Sequence[LearningCurve] = (),
    clips: Sequence[Clip] = (),
) -> str:
    """Renders a suite, decided or unfinished.

    Args:
        suite: suite with at least one game and any number of rounds, including none.
        learning_curves: curves of the versions' runs.
        clips: pictures or videos of games.

    Returns:
        The whole HTML file.

    Raises:
        ValueError: there are no games.
    """
    if not suite.matches:
        raise ValueError("a report needs a suite with at least one game")
    verdict, meaning = suite_meaning(suite)
    intervals = interval_history(suite.means, suite.rule.alpha)
    games = _games(suite)
    against = " and ".join(games) if len(games) < 3 else f"{len(games)} games"
    return render(
        "suite.html",
        title=f"{counted(len(games), 'game')}: {verdict.upper()}",
        heading=f"{against}: candidate against champion",
        subtitle="One match over all games. A round is one same-seed pair of whole games in each; "
        "its outcome is the mean of the pairs' outcomes",
        verdict=Verdict(
            verdict,
            meaning,
            _in_words(suite, verdict),
            [_counted(suite), *evidence_tiles(suite, intervals[-1]), *_guarded(suite)],
            _notes(suite),
        ),
        played=_played(suite, intervals) if suite.rounds else None,
        games=[_game(suite, place) for place in range(len(games))],
        curves=curve_figures(learning_curves, [""] * _place(len(games))),
        clips=clips,
        settings=_settings(suite),
    )


def _games(suite: SuiteComparison) -> list[str]:
    return [display_name(match.game) for match in suite.matches]


def _place(index: int) -> int:
    """Returns a game's index among the series of the page. The two sides come first."""
    return len(SIDES) + index


def _counted(suite: SuiteComparison) -> tuple[str, str]:
    rounds, games = suite.rounds, len(suite.matches)
    sums = (sum(getattr(match, what) for match in suite.matches) for what in _OUTCOMES)
    return (
        f"candidate, {rounds} round{'' if rounds == 1 else 's'} of {games} "
        f"pair{'' if games == 1 else 's'}",
        ", ".join(f"{count} {word}" for count, word in zip(sums, _OUTCOMES.values(), strict=True)),
    )


def _guarded(suite: SuiteComparison) -> list[tuple[str, str]]:
    """How many guards have reached their bound."""
    if suite.guard == "none":
        return []
    count = f"{sum(after is not None for after in suite.reached.guards)} of {len(suite.matches)}"
    if suite.guard == "prove":
        return [(f"games shown not to be worse by {suite.margin:g}", count)]
    return [(f"games with an alarm, from e-value {suite.guard_bound:g}", count)]


def _in_words(suite: SuiteComparison, verdict: str) -> str:
    if not suite.rounds:
        return "No rounds were played."
    rule, reached = suite.rule, suite.reached
    mean = "the mean over the games of the candidate's probability of improvement"
    often = "however often one looks."
    if verdict == "promote":
        worse = (
            f", or its probability of improvement in some game {0.5 - suite.margin:g} or less"
            if suite.guard == "prove"
            else ""
        )
        return (
            f"If {mean} were {rule.null:g} or less{worse}, a match would end in promotion with a "
            f"probability of at most {rule.alpha:g}, {often}"
        )
    if verdict == "reject" and games_with_alarm(suite):
        return (
            "If the candidate were worse in no game, a match would end by an alarm with a "
            f"probability of at most {rule.alpha:g}, all games taken together, {often}"
        )
    if verdict == "reject":
        return (
            f"If {mean} were {rule.useful:g} or more, a match would end in rejection by the "
            f"futility bet with a probability of at most {rule.beta:g}, {often}"
        )
    if reached.better is not None:
        open_ = [g for g, after in zip(_games(suite), reached.guards, strict=True) if after is None]
        return (
            f"The candidate was shown to be better overall after round {reached.better}. But it "
            f"was not ruled out that it is worse by {suite.margin:g} in {' and '.join(open_)}."
        )
    return "Neither e-value reached its bound."


def _notes(suite: SuiteComparison) -> list[str]:
    notes = [
        f"{game}: {note}"
        for game, match in zip(_games(suite), suite.matches, strict=True)
        for note in match.notes
    ]
    if suite.verdict is None:
        most = counted(suite.max_rounds, "round")
        notes.append(f"the match is unfinished: {suite.rounds} of {most} are done")
    if suite.verdict == "promote" and suite.guard == "none":
        notes.append("no game was guarded: the candidate may be worse in one of them")
    return notes


class _Played(NamedTuple):
    """What only a suite with rounds has."""

    games: Table
    certain: str
    """Probability with which the interval of each game holds."""
    together: Table | None
    evidence: list[Figure]
    rounds: Table


def _played(suite: SuiteComparison, intervals: Sequence[tuple[float, float]]) -> _Played:
    mean = "Mean over the games of the share of pairs won"
    return _Played(
        _by_game(suite),
        f"{1 - suite.rule.alpha:g}",
        _together(suite),
        [
            e_values_figure(suite.history, suite.rule, "round", _DECIDES[suite.guard]),
            interval_figure(suite.means, intervals, suite.rule, "round", mean),
            *([] if suite.guard == "none" else [_guards_figure(suite)]),
            _shares_figure(suite),
        ],
        _rounds(suite),
    )


def _by_game(suite: SuiteComparison) -> Table:
    """Returns one line per game. The plots of its scores follow further down."""
    heads = ["game", "won", "tied", "lost", "probability of improvement"]
    if suite.guard != "none":
        heads.append(f"guard's e-value, from {suite.guard_bound:g}")
    for side in SIDES.values():
        heads.append(f"{side}'s mean, human-normalised")
    rows = [_line(suite, place) for place in range(len(suite.matches))]
    return Table(caption="Games", columns=heads, rows=rows, text=("game",), name="games-table")


def _together(suite: SuiteComparison) -> Table | None:
    """Returns each side's aggregate over all games; None if no game has a human score."""
    rows = [
        [
            side,
            part("below", percent(summed.iqm), _percents(summed.iqm_interval)),
            percent(summed.optimality_gap),
        ]
        for side, summed in suite.human_normalized.items()
    ]
    if not rows:
        return None
    return Table(
        caption="All games together",
        columns=["human-normalised", "interquartile mean", "optimality gap"],
        rows=rows,
        text=("human-normalised",),
        name="together",
    )


def _percents(bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return "one round has no interval"
    return " … ".join(percent(bound) for bound in bounds)


def _line(suite: SuiteComparison, index: int) -> list[str]:
    match = suite.matches[index]
    game = part("whole", part("keyed", _place(index), display_name(match.game)))
    cells: list[str] = [game, *(number(getattr(match, what), 0) for what in _OUTCOMES)]
    cells.append(share_text(match.improvement_probability or 0.0, match.interval))
    if suite.guard != "none":
        after = suite.reached.guards[index]
        when = "" if after is None else f"reached after round {after}"
        cells.append(part("below", evidence_value(suite.guards[index]), when))
    for side in SIDES.values():
        mean = fmean(getattr(pair, side).score for pair in match.results)
        share = percent(human_normalized_score(match.game, mean))
        cells.append(part("below", number(mean), share))
    return cells


def _guards_figure(suite: SuiteComparison) -> Figure:
    wins = {"prove": "not worse", "alarm": "alarm"}[suite.guard]
    bets = [
        Bet(_place(index), values, suite.guard_bound, wins)
        for index, values in enumerate(suite.guard_histories)
    ]
    names = {_place(index): game for index, game in enumerate(_games(suite))}
    plot = evidence_plot("guards", "Every game's guard after each round", bets, "rounds")
    caption = _GUARDS[suite.guard].format(margin=suite.margin)
    return Figure(plot, f"{caption} Logarithmic scale.", names)


def _shares_figure(suite: SuiteComparison) -> Figure:
    shares = [
        Share(game, _place(index), match.improvement_probability or 0.0, match.interval)
        for index, (game, match) in enumerate(zip(_games(suite), suite.matches, strict=True))
    ]
    whole = Share("all games", CANDIDATE, fmean(suite.means), suite.interval)
    marks, dotted = [suite.rule.null], f"{suite.rule.null:g}, to be exceeded overall"
    if suite.guard == "prove":
        marks.append(0.5 - suite.margin)
        dotted += f", and {marks[1]:g}, to be exceeded in every game"
    return Figure(
        shares_plot("shares", "Probability of improvement by game", [*shares, whole], marks),
        f"Share of pairs won in each game and in all, with its interval. Dotted: {dotted}.",
    )


class _Game(NamedTuple):
    """One game of the suite."""

    name: str
    """Id on the page."""
    title: str
    conditions: str
    sides: list[tuple[str, str]]
    scores: PairScores | None
    """None: no pair was played."""
    pairs: Table | None


def _game(suite: SuiteComparison, index: int) -> _Game:
    match, name = suite.matches[index], f"game-{index + 1}"
    evidence = {}
    if suite.guard != "none":
        evidence["guard's e-value"] = suite.guard_histories[index][1:]
    return _Game(
        name,
        display_name(match.game),
        conditions(match),
        [(side, getattr(match, side).checkpoint) for side in SIDES.values()],
        pair_scores(match, f"{name}-") if match.results else None,
        pairs_table(match, evidence, name=f"{name}-pairs") if match.results else None,
    )


def _rounds(suite: SuiteComparison) -> Table:
    rows = [
        [str(place), number(mean, 3), *map(evidence_value, evidence)]
        for place, (mean, evidence) in enumerate(
            zip(suite.means, suite.history[1:], strict=True), 1
        )
    ]
    return Table(
        caption=f"Every round ({number(len(rows), 0)})",
        columns=["round", "mean outcome", "e-value", "futility"],
        rows=rows,
        name="rounds",
    )


def _settings(suite: SuiteComparison) -> list[Table]:
    whole = {"value": settings_of(suite, without=("matches",))}
    games = {
        game: settings_of(match, without=("results", "notes"))
        for game, match in zip(_games(suite), suite.matches, strict=True)
    }
    return [
        settings_table(whole, "settings", "Settings of the suite"),
        settings_table(games, "games-settings", "Settings of every game"),
    ]
