"""The part of a sweep's report about one game."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval
from rlarcade.games.curves import published_agents, published_curve
from rlarcade.games.names import display_name
from rlarcade.games.protocols import FRAMESKIP
from rlarcade.games.scores import human_normalized_score, published_scores
from rlarcade.reports.formats import interval, number, percent, points
from rlarcade.reports.page import Figure, Table, part
from rlarcade.reports.plots import Series, scores_plot, visible
from rlarcade.reports.sweep_plots import bundled, bundles_plot
from rlarcade.reports.swept import DRAWN, FinalScores, Sweep, budgets, point_at, published_name


class GamePart(NamedTuple):
    """One game of the sweep."""

    name: str
    """Id on the page."""
    title: str
    table: Table
    figures: list[Figure]
    published: Table | None


def game_part(sweep: Sweep, game: str, name: str) -> GamePart:
    """Returns the tables and plots of one game; all their ids begin with `name`."""
    return GamePart(
        name,
        display_name(game),
        _game_table(sweep, game, f"{name}-table"),
        [*_curves(sweep, game, f"{name}-curves"), *_dots(sweep, game, f"{name}-scores")],
        _published_in(sweep, game, f"{name}-published"),
    )


def _game_table(sweep: Sweep, game: str, name: str) -> Table:
    heads = ["agent", "runs", "mean of runs", "IQM (95 % interval)", "human-normalised"]
    heads += ["steps", "minutes a run"]
    rows = []
    for agent in sweep.agents:
        scores = sweep.scores(agent, game)
        begun = sum((run.agent, run.game) == (agent, game) for run in sweep.runs)
        if not begun:
            continue
        cells = [f"{len(scores)} of {begun}" if len(scores) < begun else number(begun, 0)]
        rows.append([sweep.heads(agent), *cells, *(_of_runs(game, scores) or ["–"] * 5)])
    if published := published_scores(game):
        for who, score in (("random", published.random), ("human", published.human)):
            share = percent(human_normalized_score(game, score))
            rows.append([f"{who} (published)", "–", number(score), "–", share, "–", "–"])
    return Table(
        caption=f"Scores in {display_name(game)}",
        columns=heads,
        rows=rows,
        text=("agent",),
        name=name,
    )


def _of_runs(game: str, scores: Sequence[FinalScores]) -> list[str] | None:
    if not scores:
        return None
    means = [one.mean for one in scores]
    around = iqm_interval(means)
    steps = sorted({one.steps for one in scores})
    return [
        part("below", number(fmean(means)), f"({points(min(means))} … {points(max(means))})"),
        part(
            "below",
            number(interquartile_mean(means)),
            "(one run has none)" if around is None else interval(*around),
        ),
        percent(human_normalized_score(game, fmean(means))),
        " … ".join(number(one, 0) for one in dict.fromkeys((steps[0], steps[-1]))),
        number(fmean(one.minutes for one in scores)),
    ]


def _curves(sweep: Sweep, game: str, name: str) -> list[Figure]:
    """Returns the plot of the learning curves, if there are any."""
    bundles = {}
    for place, agent in enumerate(sweep.agents):
        own = [run for run in sweep.runs if (run.agent, run.game) == (agent, game) and run.curve]
        finished = [run for run in own if run.scores is not None]
        if curves := [run.curve for run in finished or own if run.curve is not None]:
            bundles[place] = bundled(curves)
    if not bundles:
        return []
    longest = max(one.steps[-1] for one in bundles.values())
    published, names = {}, sweep.named(bundles)
    for place, other in enumerate(DRAWN, len(sweep.agents)):
        reached = [p for p in published_curve(game, *other) if p.frames <= FRAMESKIP * longest]
        if len(reached) > 1:
            steps = [p.frames / FRAMESKIP for p in reached]
            published[place] = (steps, [p.mean for p in reached])
            names[place] = f"{other[0]} (published)"
    what = f"Training in {display_name(game)}"
    caption = (
        f"{what}: mean score of the last hundred games, while exploring. Line: mean of the "
        "finished runs. Band: from the lowest run to the highest."
    )
    plot = bundles_plot(name, f"{what}: score by agent steps", bundles, published)
    return [Figure(plot, caption, names)]


def _dots(sweep: Sweep, game: str, name: str) -> list[Figure]:
    """Returns the plot of every run's score, if one is finished."""
    series = []
    for place, agent in enumerate(sweep.agents):
        means = tuple(one.mean for one in sweep.scores(agent, game))
        if means:
            series.append(Series(sweep.keys[place], place, means, (False,) * len(means)))
    if not series:
        return []
    published = published_scores(game)
    known = {"random": published.random, "human": published.human} if published else {}
    shown = visible(known, series)
    caption = (
        "Each dot is a run: the mean score of its final evaluation. Its height within the row "
        "means nothing. Box and line: the middle half of the runs and their median. Diamond: "
        "interquartile mean with its 95 % bootstrap interval over runs."
    )
    for reference, score in known.items():
        if reference not in shown:
            caption += f" The {reference} score, {points(score)}, lies outside the picture."
    label = f"Scores of all runs in {display_name(game)}"
    plot = scores_plot(name, label, series, shown, axis="mean score of a run")
    return [Figure(plot, caption, sweep.named(one.place for one in series))]


def _published_in(sweep: Sweep, game: str, name: str) -> Table | None:
    rows = []
    for frames in budgets(sweep):
        for agent in published_agents():
            if point := point_at(game, agent, frames):
                share = percent(human_normalized_score(game, point.mean))
                cells = [number(frames, 0), number(point.mean), number(point.sd), share]
                rows.append([published_name(agent), *cells])
    if not rows:
        return None
    return Table(
        caption=f"Published agents in {display_name(game)}",
        columns=["agent", "frames", "mean", "sd over seeds", "human-normalised"],
        rows=rows,
        text=("agent",),
        name=name,
    )
