"""Sections of a sweep's report: a comparison of settings."""

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
    """Returns a section for `compare` in a sweep's results file."""
    parts = []
    if "compare" in document:
        parts.append(_comparison(document["compare"]))
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
            "The probability that any two settings with the same distribution of scores are called "
            f"different is at most {compare['alpha']:g}.",
        ],
    )
