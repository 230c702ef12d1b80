"""The report of evaluations: what checkpoints scored."""

from collections.abc import Sequence

from rlarcade.evaluation.documents import Evaluation
from rlarcade.evaluation.reports.page import (
    Html,
    details,
    element,
    figure,
    number,
    page,
    percent,
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
from rlarcade.evaluation.reports.plots import profile_plot
from rlarcade.games.names import display_name
from rlarcade.games.scores import human_normalised_score, published_scores

_FEW = 4


def evaluation_report(
    evaluations: Sequence[Evaluation],
    *,
    learning_curves: Sequence[LearningCurve] = (),
    clips: Sequence[Clip] = (),
) -> str:
    """Renders evaluations, those of one game and protocol together.

    Args:
        evaluations: at least one.
        learning_curves: of the runs they come from.
        clips: to look at.

    Returns:
        The whole HTML file.

    Raises:
        ValueError: there are no evaluations, or one has no episodes.
    """
    if not evaluations or not all(one.episodes for one in evaluations):
        raise ValueError("a report needs evaluations, with at least one episode each")
    groups: dict[tuple[str, str, float], list[Evaluation]] = {}
    for one in evaluations:  # scores under different protocols do not compare
        rules = (one.game, one.protocol.model_dump_json(), one.epsilon)
        groups.setdefault(rules, []).append(one)
    games = list(dict.fromkeys(display_name(one.game) for one in evaluations))
    title = " and ".join(games) if len(games) < 3 else f"{len(games)} games"
    return page(
        f"{title} – rlarcade evaluation",
        header("evaluation", title, _played(evaluations)),
        *(
            _group(group, f"group-{place}", alone=len(groups) == 1)
            for place, group in enumerate(groups.values(), 1)
        ),
        curves_section(learning_curves, first=max(map(len, groups.values()))),
        clips_section(clips),
        element(
            "p",
            "The intervals tell how much a figure owes to the luck of these games. Which of two "
            "checkpoints is better is for a match to say: rlarcade compare.",
            class_="aside",
        ),
    )


def _played(evaluations: Sequence[Evaluation]) -> str:
    """How the games were played."""
    lengths = sorted({len(one.episodes) for one in evaluations})
    protocols = dict.fromkeys(one.protocol.name for one in evaluations)
    epsilons = dict.fromkeys(f"{one.epsilon:g}" for one in evaluations)
    games = " to ".join(dict.fromkeys(number(end, 0) for end in (lengths[0], lengths[-1])))
    return (
        f"Protocol {' and '.join(protocols)}, ε {' and '.join(epsilons)}, {games} whole "
        f"game{'' if lengths == [1] else 's'} with each checkpoint, raw scores"
    )


def _group(evaluations: Sequence[Evaluation], name: str, *, alone: bool) -> Html:
    """Evaluations whose scores compare."""
    game = evaluations[0].game
    lettered = list(enumerate(zip(_keys(len(evaluations)), evaluations, strict=True)))
    series = [series_of(key, place, one.episodes) for place, (key, one) in lettered]
    named_here = len(evaluations) <= _FEW  # many names are read in the table above
    names = legend(
        {place: f"{key} {one.checkpoint}" if named_here else key for place, (key, one) in lettered}
    )
    profile = profile_plot(f"{name}-profile", "Share of games that scored more, by score", series)
    return section(
        "Scores" if alone else display_name(game),
        "" if alone else element("p", _played(evaluations), class_="subtitle"),
        _summary(evaluations, name=f"{name}-summary"),
        grid(
            scores_figure(f"{name}-scores", game, series, names),
            figure(profile, PROFILE, names),
        ),
        *(_episodes(one, key, name=f"{name}-episodes-{key}") for _, (key, one) in lettered),
        details("All settings", _settings(evaluations, name=f"{name}-settings")),
        name=name,
    )


def _keys(count: int) -> list[str]:
    """What plots call so many checkpoints."""
    return [chr(ord("A") + place) if count <= 26 else str(place + 1) for place in range(count)]


def _summary(evaluations: Sequence[Evaluation], *, name: str) -> Html:
    game = evaluations[0].game
    cells = [described(game, one.episodes) for one in evaluations]
    columns = list(cells[0])
    rows = [
        [named(place, key, one.checkpoint), *described_.values()]
        for place, (key, one, described_) in enumerate(
            zip(_keys(len(evaluations)), evaluations, cells, strict=True)
        )
    ]
    published = published_scores(game)
    if published:
        for who, score in (("random", published.random), ("human", published.human)):
            share = percent(human_normalised_score(game, score))
            known = {"mean": number(score), "human-normalised": share}
            rows.append([f"{who} (published)", *(known.get(column, "–") for column in columns)])
    caption = f"Scores in {display_name(game)}"
    return table(caption, ["checkpoint", *columns], rows, text=("checkpoint", "ended"), name=name)


def _episodes(evaluation: Evaluation, key: str, *, name: str) -> Html:
    rows = [
        [str(episode.seed), points(episode.score), number(episode.steps, 0), ending(episode)]
        for episode in evaluation.episodes
    ]
    title = f"Every game of {key}, {evaluation.checkpoint} ({number(len(rows), 0)})"
    columns = ["seed", "score", "steps", "ended"]
    return details(title, table(title, columns, rows, text=("ended",), name=name))


def _settings(evaluations: Sequence[Evaluation], *, name: str) -> Html:
    keys = _keys(len(evaluations))
    columns = [settings_of(one, without=("episodes",)) for one in evaluations]
    rows = [[field, *(column[field] for column in columns)] for field in columns[0]]
    return table("All settings", ["setting", *keys], rows, text=("setting", *keys), name=name)
