"""The report of a sweep: what several agents reach in several games with several seeds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

from rlarcade.evaluation.across_runs import AcrossRuns, Estimate, across_runs, run_profile
from rlarcade.games.curves import published_agents
from rlarcade.games.names import display_name
from rlarcade.games.protocols import FRAMESKIP
from rlarcade.games.scores import human_normalized_score, published_scores
from rlarcade.reports.formats import interval, number, percent
from rlarcade.reports.page import Figure, Table, part, render
from rlarcade.reports.parts import settings_table
from rlarcade.reports.svg import limits, thinned
from rlarcade.reports.sweep_games import game_part
from rlarcade.reports.sweep_plans import plan_parts
from rlarcade.reports.sweep_plots import run_profiles_plot
from rlarcade.reports.swept import (
    DRAWN,
    FinalScores,
    Sweep,
    SweptRun,
    budgets,
    point_at,
    published_name,
)
from rlarcade.text import counted

_FEW = 4  # runs that a note names
_MOST_PROFILED = 8.0  # times human: a few games far beyond it would hide the rest of a profile


def sweep_report(
    name: str, runs: Sequence[SweptRun], document: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Renders a sweep, finished or not.

    Args:
        name: name of the sweep.
        runs: at least one. Runs that are not finished count in no figure.
        document: the results file; its parts `compare` and `search` are shown if they are there.

    Returns:
        The whole HTML file.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("a report needs a sweep with at least one run")
    sweep = Sweep(
        runs,
        list(dict.fromkeys(run.agent for run in runs)),
        list(dict.fromkeys(run.game for run in runs)),
    )
    heading = f"{counted(len(sweep.agents), 'agent')}, {counted(len(sweep.games), 'game')}"
    seeds = len({run.seed for run in runs})
    return render(
        "sweep.html",
        title=name,
        heading=f"{name}: {heading}",
        subtitle=f"{len(sweep.finished)} of {counted(len(runs), 'run')} finished, "
        f"{counted(seeds, 'seed')}",
        notes=_notes(sweep),
        plans=plan_parts(document),
        together=_together(sweep),
        games=[
            game_part(sweep, game, f"game-{place}") for place, game in enumerate(sweep.games, 1)
        ],
        runs=_runs(sweep),
        settings=[_settings(sweep)],
    )


def _notes(sweep: Sweep) -> list[str]:
    notes = []
    if open_ := [run.label for run in sweep.runs if run.scores is None]:
        named = ", ".join(open_[:_FEW]) + (" …" if len(open_) > _FEW else "")
        notes.append(
            f"{counted(len(open_), 'run')} of {len(sweep.runs)} not finished, so counted in no "
            f"figure: {named}"
        )
    if unknown := [game for game in sweep.games if published_scores(game) is None]:
        games = ", ".join(map(display_name, unknown))
        notes.append(f"no human score is published, so not counted over all games: {games}")
    counts = [len(runs) for agent in sweep.agents for runs in sweep.normalised(agent).values()]
    if counts and min(counts) == 1:
        notes.append(
            "an interval over all games needs at least two finished runs of the agent in each game"
        )
    return notes


# All games


class _Together(NamedTuple):
    """All games that have a published human score."""

    table: Table
    published: list[Table]
    figures: list[Figure]
    games: Table


def _together(sweep: Sweep) -> _Together | None:
    """Returns the aggregates; None if no run is finished in a game with a human score."""
    known = {agent: scores for agent in sweep.agents if (scores := sweep.normalised(agent))}
    if not known:
        return None
    rows = [
        [
            sweep.heads(agent),
            number(len(scores), 0),
            number(sum(map(len, scores.values())), 0),
            _frames(s for game in scores for s in sweep.scores(agent, game)),
            *_figures_of(across_runs(list(scores.values()))),
        ]
        for agent, scores in known.items()
    ]
    nearest, later = budgets(sweep)[:1], budgets(sweep)[1:]
    for frames in nearest:
        rows += _published_rows(sweep, frames)
    return _Together(
        _figures_table("All games together, human-normalised", rows, "together-table"),
        [
            _figures_table(
                f"Published agents after {number(frames, 0)} frames",
                _published_rows(sweep, frames),
                f"published-{frames}",
            )
            for frames in later
            if frames is not None
        ],
        [_profiles(sweep, known)],
        _by_game(sweep, known),
    )


def _figures_table(caption: str, rows: Sequence[Sequence[str]], name: str) -> Table:
    heads = ("agent", "games", "runs", "frames", "median", "IQM", "mean", "optimality gap")
    return Table(caption=caption, columns=heads, rows=rows, text=("agent",), name=name)


def _frames(scores: Iterable[FinalScores]) -> str:
    """Returns the lengths of runs, in emulator frames."""
    frames = sorted({FRAMESKIP * one.steps for one in scores})
    return " … ".join(number(one, 0) for one in dict.fromkeys((frames[0], frames[-1])))


def _figures_of(summed: AcrossRuns) -> list[str]:
    return [_cell(one) for one in (summed.median, summed.iqm, summed.mean, summed.optimality_gap)]


def _cell(estimate: Estimate) -> str:
    if estimate.interval is None:
        return percent(estimate.value)
    low, high = estimate.interval
    return part("below", percent(estimate.value), interval(100 * low, 100 * high))


def _published_rows(sweep: Sweep, frames: int) -> list[list[str]]:
    rows = []
    for agent in published_agents():
        shares = [
            human_normalized_score(game, point.mean)
            for game in sweep.games
            if (point := point_at(game, agent, frames)) is not None
        ]
        known = [[share] for share in shares if share is not None]
        if known:
            name = part("whole", published_name(agent))
            cells = [name, number(len(known), 0), "–", number(frames, 0)]
            rows.append([*cells, *_figures_of(across_runs(known))])
    return rows


def _profiles(sweep: Sweep, known: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    every = sorted({s for games in known.values() for scores in games.values() for s in scores})
    left, right = limits([0.0, *every])
    inside = [every[i] for i in thinned(len(every)) if every[i] < _MOST_PROFILED]
    taus = [left, *inside, min(right, _MOST_PROFILED)]
    profiles = {
        sweep.agents.index(agent): run_profile(list(games.values()), taus)
        for agent, games in known.items()
    }
    caption = (
        "Performance profile: share of runs that score more than τ, each game counted equally, "
        "with its 95 % bootstrap interval. The higher line is the better one at that score."
    )
    if every[-1] >= _MOST_PROFILED:
        caption += f" Scores beyond {percent(_MOST_PROFILED)} lie outside the picture."
    plot = run_profiles_plot("profiles", "Share of runs that score more, by score", profiles)
    return Figure(plot, caption, sweep.named(profiles))


def _by_game(sweep: Sweep, known: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Returns the mean human-normalised score of every agent in every game."""
    last = budgets(sweep)[-1:]
    others = [(agent, frames) for frames in last for agent in DRAWN]
    rows = []
    for game in sweep.games:
        if not any(game in scores for scores in known.values()):
            continue
        cells = [display_name(game)]
        for scores in known.values():
            cells.append(percent(fmean(scores[game]) if game in scores else None))
        for agent, frames in others:
            point = point_at(game, agent, frames)
            share = None if point is None else human_normalized_score(game, point.mean)
            cells.append(percent(share))
        rows.append(cells)
    heads = [f"{sweep.keys[sweep.agents.index(agent)]} {agent}" for agent in known]
    heads += [f"{agent[0]} (published), {frames // 10**6}M frames" for agent, frames in others]
    return Table(
        caption="Mean human-normalised score in every game",
        columns=["game", *heads],
        rows=rows,
        text=("game",),
        name="by-game",
    )


# Everything


def _runs(sweep: Sweep) -> Table:
    rows = []
    for run in sweep.runs:
        scores, cells = run.scores, ["–"] * 5
        if scores is not None:
            share = percent(human_normalized_score(run.game, scores.mean))
            cells = [number(scores.steps, 0), number(scores.mean), number(scores.median)]
            cells += [share, number(scores.minutes)]
        rows.append([run.label, run.state, *cells])
    return Table(
        caption=f"Every run ({number(len(rows), 0)})",
        columns=["run", "state", "steps", "mean", "median", "human-normalised", "minutes"],
        rows=rows,
        text=("run", "state"),
        name="runs",
    )


def _settings(sweep: Sweep) -> Table:
    columns: dict[str, dict[str, str]] = {}
    for key, agent in zip(sweep.keys, sweep.agents, strict=True):
        run = next(run for run in sweep.runs if run.agent == agent)
        own = {name: value for name, value in run.settings.items() if name not in ("game", "seed")}
        columns[key] = {k: v if isinstance(v, str) else json.dumps(v) for k, v in own.items()}
    return settings_table(columns, "settings", "Settings of the agents")
