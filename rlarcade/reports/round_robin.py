"""The report of a round robin: which of several versions are better than which."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from rlarcade.evaluation.documents import Comparison
from rlarcade.evaluation.round_robin import RoundRobin
from rlarcade.evaluation.summaries import crashed
from rlarcade.games.names import display_name
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.reports.beside import Clip, LearningCurve, curve_figures
from rlarcade.reports.evidence_plots import Share, shares_plot
from rlarcade.reports.formats import evidence_value, number
from rlarcade.reports.page import Figure, Table, part, render
from rlarcade.reports.pairs import conditions, evidence_history, pairs_table, share_text
from rlarcade.reports.parts import (
    Scores,
    contestants_scores,
    keys_of,
    settings_of,
    settings_table,
)
from rlarcade.text import counted


class _Pairing(NamedTuple):
    """One match of the round robin. The candidate is the later player of the two."""

    champion: int
    candidate: int
    """Indices of the players."""
    sides: tuple[str, str]
    """Their keys on the page: champion, candidate."""
    match: Comparison

    @property
    def title(self) -> str:
        return f"{self.sides[1]} against {self.sides[0]}"


def round_robin_report(
    round_robin: RoundRobin,
    *,
    learning_curves: Sequence[LearningCurve] = (),
    clips: Sequence[Clip] = (),
) -> str:
    """Renders a round robin.

    Args:
        round_robin: round robin with at least one match. A match may have any number of pairs.
        learning_curves: curves of the contestants' runs.
        clips: pictures or videos of games.

    Returns:
        The whole HTML file.

    Raises:
        ValueError: there are no matches.
    """
    if not round_robin.matches:
        raise ValueError("a report needs a round robin with at least one match")
    players, first = round_robin.players, round_robin.matches[0]
    keys = keys_of(len(players))
    pairings = [
        _Pairing(one, other, (keys[one], keys[other]), round_robin.match_of(one, other))
        for one, other in combinations(range(len(players)), 2)
    ]
    played = [pairing for pairing in pairings if pairing.match.results]
    game = display_name(first.game)
    return render(
        "round_robin.html",
        title=f"{game}: {len(players)} contestants",
        heading=f"{game}: {len(players)} contestants, everybody against everybody",
        subtitle=conditions(first),
        sides=list(zip(keys, players, strict=True)),
        words=_in_words(round_robin, keys),
        notes=[f"{pairing.title}: {note}" for pairing in pairings for note in pairing.match.notes],
        matrix=_matrix(round_robin, keys),
        shares=_shares_figure(played) if played else None,
        pairings=_pairings_table(pairings),
        by_luck=f"{first.rule.alpha + first.rule.beta:g}",
        scores=_scores(round_robin, pairings) if played else None,
        curves=curve_figures(learning_curves, players),
        clips=clips,
        pairs=[_pairs(pairing) for pairing in played],
        settings=_settings(keys, pairings),
    )


def _in_words(round_robin: RoundRobin, keys: Sequence[str]) -> str:
    """Sentences that say which versions were shown to be better than which."""
    places = range(len(keys))
    found = []
    for one in places:
        others = [other for other in places if other != one]
        if beaten := [keys[other] for other in others if round_robin.better(one, other)]:
            found.append(f"{keys[one]} is better than {_listed(beaten)}")
    open_ = sum(match.verdict not in ("promote", "reject") for match in round_robin.matches)
    total = len(round_robin.matches)
    if not found:
        return "No contestant was shown to be better than another."
    rest = f" Neither was shown to be better in {open_} of {total} pairings." if open_ else ""
    return f"{'; '.join(found)}.{rest}"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _matrix(round_robin: RoundRobin, keys: Sequence[str]) -> Table:
    rows = []
    for one, key in enumerate(keys):
        shares = [
            None if one == other else round_robin.share(one, other) for other in range(len(keys))
        ]
        better = [one != other and round_robin.better(one, other) for other in range(len(keys))]
        cells = (
            f"{'✓ ' if shown else ''}{number(share, 2)}"
            for share, shown in zip(shares, better, strict=True)
        )
        rows.append([key, *cells])
    return Table(
        caption="Share of pairs won by the row against the column",
        columns=["", *keys],
        rows=rows,
        text=("",),
        name="matrix",
    )


def _shares_figure(pairings: Sequence[_Pairing]) -> Figure:
    shares = [
        Share(
            pairing.title,
            pairing.candidate,
            pairing.match.improvement_probability or 0.0,
            pairing.match.interval,
        )
        for pairing in pairings
    ]
    certain = 1 - pairings[0].match.rule.alpha
    return Figure(
        shares_plot("shares", "Probability of winning a pair, by pairing", shares, (0.5,)),
        "Share of pairs won by the first against the second, ties counting half. The bar contains "
        f"the true probability at all looks at once, with probability {certain:g}. Dotted: 0.5, "
        "equals.",
    )


def _pairings_table(pairings: Sequence[_Pairing]) -> Table:
    rule = pairings[0].match.rule
    heads = ["pairing", "won", "tied", "lost", "probability of improvement"]
    heads += [
        f"e-value, better from {1 / rule.alpha:g}",
        f"e-value, worse from {1 / rule.beta:g}",
        "verdict",
    ]
    rows = []
    for pairing in pairings:
        match = pairing.match
        share = match.improvement_probability
        counts = (number(count, 0) for count in match.counts)
        rows.append(
            [
                part("whole", pairing.title),
                *counts,
                number(share, 2) if share is None else share_text(share, match.interval),
                evidence_value(match.e_value),
                evidence_value(match.e_value_futility),
                _verdict(pairing),
            ]
        )
    return Table(
        caption="Every pairing, counted for the first of the two",
        columns=heads,
        rows=rows,
        text=("pairing", "verdict"),
        name="pairings",
    )


def _verdict(pairing: _Pairing) -> str:
    champion, candidate = pairing.sides
    match = pairing.match
    if match.same_version:
        return "the same version twice"
    if match.verdict is None:
        return f"unfinished: {match.pairs} of {counted(match.max_pairs, 'pair')}"
    if reason := crashed(match, champion, candidate):
        return reason
    return {
        "promote": f"{candidate} is better",
        "reject": f"{champion} is better",
        "inconclusive": "too close to tell",
    }[match.verdict]


def _scores(round_robin: RoundRobin, pairings: Sequence[_Pairing]) -> Scores:
    """Scores of each contestant, over all its pairings."""
    games: list[list[EpisodeResult]] = [[] for _ in round_robin.players]
    for pairing in pairings:
        for pair in pairing.match.results:
            games[pairing.champion].append(pair.champion)
            games[pairing.candidate].append(pair.candidate)
    # Players without a version play the same seeds in every pairing. Count an equal game once.
    contestants = [
        (who, list(dict.fromkeys(own))) for who, own in zip(round_robin.players, games, strict=True)
    ]
    game = round_robin.matches[0].game
    return contestants_scores(game, contestants, "contestant", "contestants")


def _pairs(pairing: _Pairing) -> Table:
    one, other = pairing.sides
    evidence: dict[str, list[float]] = {f"e-value of {other}": [], f"e-value of {one}": []}
    for after in evidence_history(pairing.match)[1:]:
        evidence[f"e-value of {other}"].append(after.e_value)
        evidence[f"e-value of {one}"].append(after.e_value_futility)
    return pairs_table(
        pairing.match,
        evidence,
        sides=pairing.sides,
        title=f"Every pair of {pairing.title}",
        name=f"pairs-{one}-{other}",
    )


def _settings(keys: Sequence[str], pairings: Sequence[_Pairing]) -> list[Table]:
    contestants = {}
    for pairing in pairings:
        for key, side in zip(
            pairing.sides, (pairing.match.champion, pairing.match.candidate), strict=True
        ):
            contestants[key] = settings_of(side, without=())
    shared = ("champion", "candidate", "results", "notes")
    matches = {pairing.title: settings_of(pairing.match, without=shared) for pairing in pairings}
    if len({tuple(settings.items()) for settings in matches.values()}) == 1:
        matches = {"every pairing": next(iter(matches.values()))}
    return [
        settings_table(
            {key: contestants[key] for key in keys}, "contestants-settings", "The contestants"
        ),
        settings_table(matches, "settings", "Settings of the pairings"),
    ]
