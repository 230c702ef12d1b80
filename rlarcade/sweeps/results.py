"""The results file of a sweep, and its report."""

from collections.abc import Mapping
from typing import Any

from rlarcade.console import EXIT_OK, say_warning
from rlarcade.errors import RlarcadeError
from rlarcade.reports import FinalScores, SweptRun, learning_curve, sweep_report
from rlarcade.reports.svg import thinned
from rlarcade.sweeps.file import SweepRun


def outcome_of(
    run: SweepRun,
    code: int | None,
    *,
    stopped_at: int | None = None,
    diverged_at: int | None = None,
) -> dict[str, Any]:
    """Returns a run's part of the results file.

    Args:
        run: the run.
        code: exit code of its training; None: it was not begun.
        stopped_at: agent step by whose score a search has stopped it; None: it has not.
        diverged_at: agent step at which it diverged, so that a search goes on without it.
    """
    return {
        "label": run.label,
        "agent": run.agent,
        "game": run.settings.train.game,
        "seed": run.settings.train.seed,
        "settings": run.given,
        "exit": code,
        "result": run.result() if code == EXIT_OK and stopped_at is None else None,
        "curve": _curve(run),
        **({} if stopped_at is None else {"stopped_at": stopped_at}),
        **({} if diverged_at is None else {"diverged_at": diverged_at}),
    }


def _curve(run: SweepRun) -> list[tuple[int, float]]:
    """Returns (agent steps, mean score of the last hundred games) of at most 400 points."""
    try:
        curve = learning_curve(run.folder)
    except RlarcadeError as error:  # the runs have trained: their scores must not be lost
        say_warning(str(error))
        return []
    if curve is None:
        return []
    return [(curve.steps[i], curve.scores[i]) for i in thinned(len(curve.steps))]


def state_of(outcome: Mapping[str, Any]) -> str:
    """Returns how far a run is, in words."""
    if outcome["result"]:
        return "finished"
    if "stopped_at" in outcome:
        return f"stopped at {outcome['stopped_at']:,}"
    if "diverged_at" in outcome:
        return f"diverged at {outcome['diverged_at']:,}"
    return "not started" if outcome["exit"] is None else "not finished"


def report_of(document: Mapping[str, Any]) -> str:
    """Renders the report of a sweep from its results file; returns the whole HTML file."""
    runs = [_swept(outcome) for outcome in document["runs"]]
    return sweep_report(document["sweep"], runs, document)


def _swept(outcome: Mapping[str, Any]) -> SweptRun:
    scores, result, curve = None, outcome["result"], outcome["curve"]
    if result:
        scores = FinalScores(
            steps=result["steps"],
            mean=result["evaluation"]["mean"],
            median=result["evaluation"]["median"],
            minutes=result["seconds"]["total"] / 60,
        )
    return SweptRun(
        label=outcome["label"],
        agent=outcome["agent"],
        game=outcome["game"],
        seed=outcome["seed"],
        settings=outcome["settings"],
        state=state_of(outcome),
        scores=scores,
        curve=([step for step, _ in curve], [score for _, score in curve]) if curve else None,
    )
