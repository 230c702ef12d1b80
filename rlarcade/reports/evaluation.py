"""The report of evaluations: scores of checkpoints."""

from collections.abc import Sequence
from typing import NamedTuple

from rlarcade.evaluation.documents import Evaluation
from rlarcade.games.names import display_name
from rlarcade.playing.players import League
from rlarcade.reports.beside import Clip, LearningCurve, curve_figures
from rlarcade.reports.formats import number, points
from rlarcade.reports.page import Table, render
from rlarcade.reports.parts import (
    Scores,
    contestants_scores,
    ending,
    keys_of,
    settings_of,
    settings_table,
)


def evaluation_report(
    evaluations: Sequence[Evaluation],
    *,
    learning_curves: Sequence[LearningCurve] = (),
    clips: Sequence[Clip] = (),
) -> str:
    """Renders evaluations, grouped by game, protocol, ε and league.

    Args:
        evaluations: at least one.
        learning_curves: curves of the checkpoints' runs.
        clips: pictures or videos of games.

    Returns:
        The whole HTML file.

    Raises:
        ValueError: there are no evaluations, or one has no episodes.
    """
    if not evaluations or not all(one.episodes for one in evaluations):
        raise ValueError("a report needs evaluations, with at least one episode each")
    groups: dict[tuple[str, str, float, League], list[Evaluation]] = {}
    for one in evaluations:  # scores under different protocols or leagues cannot be compared
        rules = (one.game, one.protocol.model_dump_json(), one.epsilon, one.league)
        groups.setdefault(rules, []).append(one)
    games = list(dict.fromkeys(display_name(one.game) for one in evaluations))
    heading = " and ".join(games) if len(games) < 3 else f"{len(games)} games"
    return render(
        "evaluation.html",
        title=heading,
        heading=heading,
        subtitle=_played(evaluations),
        groups=[_group(group, f"group-{place}") for place, group in enumerate(groups.values(), 1)],
        curves=curve_figures(
            learning_curves, [one.checkpoint for one in max(groups.values(), key=len)]
        ),
        clips=clips,
    )


class _Group(NamedTuple):
    """Evaluations with one game, protocol, ε and league, so that their scores can be compared."""

    name: str
    """Id on the page."""
    game: str
    played: str
    scores: Scores
    episodes: list[Table]
    settings: Table


def _played(evaluations: Sequence[Evaluation]) -> str:
    """Protocols, ε and numbers of games."""
    lengths = sorted({len(one.episodes) for one in evaluations})
    protocols = dict.fromkeys(str(one.protocol) for one in evaluations)
    epsilons = dict.fromkeys(f"{one.epsilon:g}" for one in evaluations)
    games = " to ".join(dict.fromkeys(number(end, 0) for end in (lengths[0], lengths[-1])))
    return (
        f"Protocol {' and '.join(protocols)}, ε {' and '.join(epsilons)}, {games} whole "
        f"game{'' if lengths == [1] else 's'} with each checkpoint, raw scores"
        f"{_told_leagues({one.league for one in evaluations})}"
    )


def _told_leagues(leagues: set[League]) -> str:
    if len(leagues) > 1:
        return ", a table for each league"
    return ", with emulator access" if "emulator" in leagues else ""


def _group(evaluations: Sequence[Evaluation], name: str) -> _Group:
    game = evaluations[0].game
    contestants = [(one.checkpoint, one.episodes) for one in evaluations]
    keyed = dict(zip(keys_of(len(evaluations)), evaluations, strict=True))
    settings = {key: settings_of(one, without=("episodes",)) for key, one in keyed.items()}
    return _Group(
        name,
        display_name(game),
        _played(evaluations),
        contestants_scores(game, contestants, "checkpoint", name),
        [_episodes(one, key, name=f"{name}-episodes-{key}") for key, one in keyed.items()],
        settings_table(settings, f"{name}-settings"),
    )


def _episodes(evaluation: Evaluation, key: str, *, name: str) -> Table:
    rows = [
        [str(episode.seed), points(episode.score), number(episode.steps, 0), ending(episode)]
        for episode in evaluation.episodes
    ]
    return Table(
        caption=f"Every game of {key}, {evaluation.checkpoint} ({number(len(rows), 0)})",
        columns=["seed", "score", "steps", "ended"],
        rows=rows,
        text=("ended",),
        name=name,
    )
