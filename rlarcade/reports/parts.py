"""Shared parts of all reports."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from pydantic import BaseModel

from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval
from rlarcade.games.names import display_name
from rlarcade.games.scores import human_normalised_score, published_scores
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.reports.formats import interval, number, percent, points
from rlarcade.reports.page import Figure, Table, part
from rlarcade.reports.plots import Series, profile_plot, scores_plot, visible

Games = Sequence[EpisodeResult]

_LONGEST_REASON = 300
_FEW = 4  # names that fit under a plot
_PROFILE = (
    "Performance profile: share of games that scored more than τ. The higher line is the better "
    "one at that score."
)


def described(game: str, episodes: Sequence[EpisodeResult]) -> dict[str, str]:
    """Returns summary statistics of some games, by name."""
    scores = [episode.score for episode in episodes]
    mean = fmean(scores)
    endings = Counter(episode.ended for episode in episodes)
    return {
        "games": number(len(scores), 0),
        "mean": number(mean),
        "median": number(median(scores)),
        "IQM (95 % interval)": part("below", number(interquartile_mean(scores)), _between(scores)),
        "lowest": points(min(scores)),
        "highest": points(max(scores)),
        "human-normalised": percent(human_normalised_score(game, mean)),
        "mean steps": number(fmean(episode.steps for episode in episodes), 0),
        "ended": ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items())),
    }


def _between(scores: Sequence[float]) -> str:
    around = iqm_interval(scores)
    return "(one game has none)" if around is None else interval(*around)


def ending(episode: EpisodeResult) -> str:
    """Returns how a game ended, with the reason if the policy failed."""
    reason = " ".join((episode.failure or "").split())
    reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
    return f"{episode.ended}: {reason}" if reason else episode.ended


def series_of(key: str, place: int, episodes: Sequence[EpisodeResult]) -> Series:
    """Returns games as a series for plots."""
    return Series(
        key,
        place,
        tuple(episode.score for episode in episodes),
        tuple(episode.ended == "failed" for episode in episodes),
    )


def keys_of(count: int) -> list[str]:
    """Returns short keys for contestants: A, B, …, or 1, 2, … for more than 26."""
    return [chr(ord("A") + place) if count <= 26 else str(place + 1) for place in range(count)]


class Scores(NamedTuple):
    """The scores of any number of contestants in one game."""

    summary: Table
    figures: list[Figure]


def contestants_scores(
    game: str, contestants: Sequence[tuple[str, Games]], heading: str, name: str
) -> Scores:
    """Returns the scores of any number of contestants in one game, as a table and as plots.

    Args:
        game: ROM id. Its published scores are added to the table.
        contestants: (name, games) of each. At least one has games.
        heading: kind of the contestants, as the heading of the first column.
        name: prefix of all ids.
    """
    keys = keys_of(len(contestants))
    named_here = len(keys) <= _FEW  # with more, the names are only in the table
    names, series = {}, []
    for place, (key, (who, games)) in enumerate(zip(keys, contestants, strict=True)):
        if games:
            names[place] = f"{key} {who}" if named_here else key
            series.append(series_of(key, place, games))
    return Scores(
        _summary(game, contestants, heading, name=f"{name}-summary"),
        scores_figures(f"{name}-", game, series, names),
    )


def _summary(
    game: str, contestants: Sequence[tuple[str, Games]], heading: str, *, name: str
) -> Table:
    cells = [described(game, games) if games else {} for _, games in contestants]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    keys = keys_of(len(contestants))
    rows = [
        [part("named", place, key, who), *(cells[place].get(column, "–") for column in columns)]
        for place, (key, (who, _)) in enumerate(zip(keys, contestants, strict=True))
    ]
    published = published_scores(game)
    if published:
        for who, score in (("random", published.random), ("human", published.human)):
            share = percent(human_normalised_score(game, score))
            known = {"mean": number(score), "human-normalised": share}
            rows.append([f"{who} (published)", *(known.get(column, "–") for column in columns)])
    return Table(
        caption=f"Scores in {display_name(game)}",
        columns=[heading, *columns],
        rows=rows,
        text=(heading, "ended"),
        name=name,
    )


def scores_figures(
    prefix: str, game: str, series: Sequence[Series], legend: Mapping[int, str]
) -> list[Figure]:
    """Returns two plots of scores: every game, and the share of games above each score."""
    profile = profile_plot(f"{prefix}profile", "Share of games that scored more, by score", series)
    return [
        _every_game(f"{prefix}scores", game, series, legend),
        Figure(profile, _PROFILE, legend),
    ]


def _every_game(
    name: str, game: str, series: Sequence[Series], legend: Mapping[int, str]
) -> Figure:
    """Returns every game as a dot, with the random and the human score as lines."""
    published = published_scores(game)
    known = {"random": published.random, "human": published.human} if published else {}
    shown = visible(known, series)
    caption = (
        "Each dot is a game; its height within the row means nothing. Box and line: the middle "
        "half of the games and their median. Diamond: interquartile mean with its 95 % bootstrap "
        "interval over games."
    )
    if any(any(one.failed) for one in series):
        caption += " Crosses: games in which the policy failed, at the score it had reached."
    for reference, score in known.items():
        if reference not in shown:
            caption += f" The {reference} score, {points(score)}, lies outside the picture."
    label = "Scores of all games of " + " and of ".join(one.key for one in series)
    return Figure(scores_plot(name, label, series, shown), caption, legend)


def settings_table(
    columns: Mapping[str, Mapping[str, str]], name: str, caption: str = "All settings"
) -> Table:
    """Returns a table of settings from `settings_of`, one column per document."""
    fields = dict.fromkeys(field for column in columns.values() for field in column)
    rows = [[field, *(column.get(field, "–") for column in columns.values())] for field in fields]
    heads = ["setting", *columns]
    return Table(caption=caption, columns=heads, rows=rows, text=heads, name=name)


def settings_of(document: BaseModel, without: Iterable[str]) -> dict[str, str]:
    """Returns a document's fields by their JSON names, except computed fields and `without`."""
    fields = set(type(document).model_fields) - set(without)
    return dict(_flat(document.model_dump(mode="json", include=fields)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
