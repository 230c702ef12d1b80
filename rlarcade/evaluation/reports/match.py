"""The report of a match: which of two versions is better, and how that came out."""

from collections.abc import Sequence
from itertools import accumulate

from rlarcade.evaluation.documents import Comparison, PairResult
from rlarcade.evaluation.reports.page import (
    Html,
    details,
    element,
    evidence_value,
    facts,
    figure,
    interval,
    number,
    page,
    points,
    section,
    table,
)
from rlarcade.evaluation.reports.parts import (
    PROFILE,
    Clip,
    LearningCurve,
    clips_section,
    curves_section,
    described,
    ending,
    grid,
    header,
    legend,
    named,
    scores_figure,
    series_of,
    settings_of,
)
from rlarcade.evaluation.reports.plots import (
    CANDIDATE,
    CHAMPION,
    Point,
    evidence_plot,
    interval_plot,
    profile_plot,
    scatter_plot,
)
from rlarcade.evaluation.sequential import Counts, Evidence, confidence_sequence
from rlarcade.evaluation.table import how_played, meaning_of
from rlarcade.games.names import display_name

CLAIM = (
    "This is a claim about these two versions; that one algorithm is better than another needs "
    "several training runs of each."
)
_NOT_GATED = (
    "Described, not gated on: the verdict looks at who won each pair, not at these figures. A "
    "version may win most games by a little and lose some by a lot."
)
_SIGNS = {"promote": "✓", "reject": "✕", "inconclusive": "?"}
_OUTCOMES = {1.0: "won", 0.5: "tied", 0.0: "lost"}


def match_report(
    match: Comparison,
    *,
    learning_curves: Sequence[LearningCurve] = (),
    clips: Sequence[Clip] = (),
) -> str:
    """Renders a match, decided or as far as it was played.

    Args:
        match: with any number of pairs, none included.
        learning_curves: of the runs the two versions come from.
        clips: to look at.

    Returns:
        The whole HTML file.
    """
    game = display_name(match.game)
    how = how_played(match).removeprefix(f"{game}, ")
    verdict, meaning = meaning_of(match)
    history = evidence_history(match)
    intervals = interval_history([pair.outcome for pair in match.results], match.rule.alpha)
    sides = {CHAMPION: "champion", CANDIDATE: "candidate"}
    contestants = (match.champion.checkpoint, match.candidate.checkpoint)
    return page(
        f"{game}: {verdict.upper()} – rlarcade match",
        header("match", f"{game}: candidate against champion", how[0].upper() + how[1:]),
        element(
            "ul",
            *(
                element("li", named(place, side, contestants[place]))
                for place, side in sides.items()
            ),
            class_="sides",
        ),
        _verdict(match, verdict, meaning, intervals[-1]),
        *((_evidence(match, history, intervals), _scores(match)) if match.results else ()),
        # neither side's colour: who trained which is not known here
        curves_section(learning_curves, first=len(sides)),
        clips_section(clips),
        _pairs(match, history) if match.results else "",
        details("All settings", _settings(match)),
    )


def evidence_history(match: Comparison) -> list[Evidence]:
    """Returns both e-values before the first pair and after each."""
    counts = accumulate((pair.outcome for pair in match.results), Counts.after, initial=Counts())
    return [match.rule.evidence(so_far) for so_far in counts]


def interval_history(outcomes: Sequence[float], alpha: float) -> list[tuple[float, float]]:
    """Returns intervals of the probability of improvement before the first pair and after each."""
    return [(0.0, 1.0), *confidence_sequence(outcomes, alpha)]


def _verdict(
    match: Comparison, verdict: str, meaning: str, last_interval: tuple[float, float]
) -> Html:
    badge = element("strong", f"{_SIGNS[verdict]} {verdict.upper()}", class_=f"badge {verdict}")
    notes = [*match.notes]
    if match.verdict is None:
        notes.append(f"the match is still on: {match.pairs} of {match.max_pairs} pairs are played")
    share = match.improvement_probability
    tiles = (
        (
            f"candidate, {match.pairs} pair{'' if match.pairs == 1 else 's'}",
            f"{match.wins} won, {match.ties} tied, {match.losses} lost",
        ),
        (
            "probability of improvement",
            number(share, 2) + (f" {interval(*last_interval, 2)}" if match.results else ""),
        ),
        (
            f"e-value, promote from {1 / match.rule.alpha:g}",
            evidence_value(match.e_value),
        ),
        (
            f"futility e-value, reject from {1 / match.rule.beta:g}",
            evidence_value(match.e_value_futility),
        ),
    )
    return section(
        "Verdict",
        element("p", badge, " ", element("span", meaning), class_="verdict"),
        element("p", _in_words(match, verdict)),
        facts(tiles, "tiles"),
        element("ul", *(element("li", note) for note in notes), class_="notes") if notes else "",
        element("p", CLAIM, class_="aside"),
        name="verdict",
    )


def _in_words(match: Comparison, verdict: str) -> str:
    rule = match.rule
    if not match.results:
        return "No pairs were played."
    played = (
        f"The candidate won {match.wins} of {match.pairs} same-seed pairs, tied {match.ties} and "
        f"lost {match.losses}. "
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
    return played + "Neither bet against luck has been won: neither e-value reached its bound."


def _evidence(
    match: Comparison,
    history: Sequence[Evidence],
    intervals: Sequence[tuple[float, float]],
) -> Html:
    e_values = evidence_plot("e-values", "Both e-values after each pair", history, match.rule)
    won = interval_plot(
        "interval",
        "Probability of improvement and its interval after each pair",
        [pair.outcome for pair in match.results],
        intervals,
        match.rule,
    )
    bets = legend({CANDIDATE: "e-value", CHAMPION: "futility e-value"})
    return section(
        "Evidence",
        grid(
            figure(
                e_values,
                "What one coin has become by a bet on every pair: one bet that the candidate is "
                "better, one that it is not usefully better. The first to reach its dotted line "
                "decides. Logarithmic scale.",
                bets,
            ),
            figure(
                won,
                "Share of pairs won, ties counting half, and where the true probability lies: with "
                f"probability {1 - match.rule.alpha:g} at all looks at once. Shown, never decided "
                f"on. Dotted: {match.rule.null:g}, which a better candidate exceeds, and "
                f"{match.rule.useful:g}, from which it should be found better.",
                legend({CANDIDATE: "pairs won by the candidate"}),
            ),
        ),
        name="evidence",
    )


def _scores(match: Comparison) -> Html:
    champion = series_of("champion", CHAMPION, [pair.champion for pair in match.results])
    candidate = series_of("candidate", CANDIDATE, [pair.candidate for pair in match.results])
    names = legend({CHAMPION: "champion", CANDIDATE: "candidate"})
    both = [champion, candidate]
    return section(
        "Scores",
        grid(
            _scatter(match.results),
            scores_figure("scores", match.game, both, names),
            figure(
                profile_plot("profile", "Share of games that scored more, by score", both),
                PROFILE,
                names,
            ),
            _described(match),
        ),
        name="scores-section",
    )


def _scatter(results: Sequence[PairResult]) -> Html:
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
        caption += " Crossed out: a policy failed, and lost whatever it had scored."
    label = "The candidate's score against the champion's, pair by pair"
    return figure(scatter_plot("scatter", label, pairs), caption)


def _described(match: Comparison) -> Html:
    champion = described(match.game, [pair.champion for pair in match.results])
    candidate = described(match.game, [pair.candidate for pair in match.results])
    rows = [[what, champion[what], candidate[what]] for what in champion]
    return element(
        "div",
        table(
            "Scores described", ["", "champion", "candidate"], rows, text=("",), name="described"
        ),
        element("p", _NOT_GATED, class_="aside"),
        class_="cell",
    )


def _pairs(match: Comparison, history: Sequence[Evidence]) -> Html:
    rows = [
        [
            str(place),
            str(pair.seed),
            points(pair.champion.score),
            points(pair.candidate.score),
            _OUTCOMES[pair.outcome],
            evidence_value(evidence.e_value),
            evidence_value(evidence.e_value_futility),
            number(pair.champion.steps, 0),
            number(pair.candidate.steps, 0),
            ending(pair.champion),
            ending(pair.candidate),
        ]
        for place, (pair, evidence) in enumerate(zip(match.results, history[1:], strict=True), 1)
    ]
    columns = ["pair", "seed", "champion", "candidate", "candidate has", "e-value", "futility"]
    columns += ["champion's steps", "candidate's steps", "champion ended", "candidate ended"]
    title = f"Every pair ({number(len(rows), 0)})"
    words = ("candidate has", "champion ended", "candidate ended")
    return details(title, table(title, columns, rows, text=words, name="pairs"))


def _settings(match: Comparison) -> Html:
    rows = list(settings_of(match, without=("results", "notes")).items())
    columns = ("setting", "value")
    return table("All settings", columns, rows, text=columns, name="settings")
