"""Sections of a sweep's report: a comparison of settings, and a search for settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlarcade.reports.formats import number, percent
from rlarcade.reports.page import Table
from rlarcade.text import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPart:
    """A section of the page."""

    title: str
    name: str
    """Id on the page."""
    tables: Sequence[Table]
    text: Sequence[str]
    """Sentences below the tables."""


def plan_parts(document: Mapping[str, Any]) -> list[PlanPart]:
    """Returns a section for each of `compare` and `search` in a sweep's results file."""
    parts = []
    if "compare" in document:
        parts.append(_comparison(document["compare"]))
    if "search" in document:
        parts.append(_search(document["search"]))
    return parts


def _comparison(compare: Mapping[str, Any]) -> PlanPart:
    shown = number if compare["score"] == "mean" else percent

    def side(arm: str) -> str:
        scores = compare["scores"][arm]
        return f"{shown(fmean(scores))} ({counted(len(scores), 'seed')})" if scores else "–"

    rows = [
        [
            f"{pair['first']} against {pair['second']}",
            pair["verdict"],
            side(pair["first"]),
            side(pair["second"]),
            "–" if pair["round"] is None else number(pair["round"], 0),
        ]
        for pair in compare["pairs"]
    ]
    table = Table(
        caption="What is known about every two settings",
        columns=["settings", "the first is", "first", "second", "known after round"],
        rows=rows,
        text=("settings", "the first is"),
        name="pairs",
    )
    kind = "score" if compare["score"] == "mean" else "human-normalised score"
    return PlanPart(
        title="Which setting is better",
        name="compare",
        tables=[table],
        text=[
            f"AdaStop (Mathieu et al. 2023, arXiv:2306.10882), {compare['rounds']} of at most "
            f"{counted(compare['max_rounds'], 'round')} of {counted(compare['seeds'], 'seed')}. "
            f"Each figure is the mean {kind} of the final evaluations over the seeds.",
            stated_error(compare),
        ],
    )


def stated_error(compare: Mapping[str, Any]) -> str:
    """Returns how often a comparison may be wrong; see docs/comparing.md.

    Args:
        compare: `compare` in a sweep's results file.
    """
    most = (
        "The probability that any two settings with the same distribution of scores are called "
        f"different is at most {compare['alpha']:g}"
    )
    if len(compare["scores"]) == 2:
        return f"{most}."
    return f"{most}; with more than two settings this is approximate."


def _search(search: Mapping[str, Any]) -> PlanPart:
    names = list(dict.fromkeys(name for one in search["results"] for name in one["parameters"]))
    rows = []
    for one in search["results"]:
        state = one["state"]
        ended_at = one["stopped_at"] if one["stopped_at"] is not None else one.get("diverged_at")
        if ended_at is not None:
            state += f" at {number(ended_at, 0)}"
        if one["label"] == search["best"]:
            state += ", the best"
        chosen = [_value(one["parameters"].get(name)) for name in names]
        rows.append([one["label"], state, number(one["score"]), *chosen])
    tables = [
        Table(
            caption="Every trial",
            columns=["trial", "state", "score", *names],
            rows=rows,
            text=("trial", "state"),
            name="trials",
        )
    ]
    if search["importance"]:
        tables.append(
            Table(
                caption="Importance of the parameters",
                columns=["parameter", "importance"],
                rows=[[name, percent(share)] for name, share in search["importance"].items()],
                text=("parameter",),
                name="importance",
            )
        )
    return PlanPart(
        title="Search for settings",
        name="search",
        tables=tables,
        text=[
            f"Optuna with sampler {search['sampler']}, seed {search['seed']}, and pruner "
            f"{search['pruner']}: {len(search['results'])} of "
            f"{counted(search['trials'], 'trial')}. A score is the mean of the evaluation at a "
            "run's end. A run is stopped by its score in training, every "
            f"{number(search['report_interval'], 0)} agent steps.",
            "Importance: PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255) over the trials that "
            "went to their end. The best of many trials with one seed is partly luck: compare it "
            "with others over several seeds, by [compare] in a sweep's file.",
        ],
    )


def _value(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
