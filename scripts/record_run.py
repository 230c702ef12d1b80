"""Adds a run to a file of recorded runs: what it was, its learning curve, its times and its scores.

    python scripts/record_run.py RUN --into docs/results/cpu-default.json --under plain --games FILE

The run's folder is not needed any more then: `plot_learning_curve.py FILE.json:NAME` draws the rows
under a name. A run that was recorded before takes its row's place.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from plot_learning_curve import curves

from rlarcade.files import write_file
from rlarcade.outputs import output_file

_STEPS_BETWEEN = 5_000  # of the learning curve; all of a run's figures would be megabytes


def main() -> int:
    """Writes the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--into", type=output_file, required=True, help="file of recorded runs")
    parser.add_argument("--under", required=True, metavar="NAME", help="experiment it belongs to")
    parser.add_argument("--games", type=Path, help="what `rlarcade evaluate --json` wrote")
    parser.add_argument("--as", dest="label", help="the row's name. Unset: the folder's")
    asked = parser.parse_args()
    if not (asked.run / "run.json").exists():
        print(f"record_run: error: {asked.run} is not a run folder.", file=sys.stderr)
        return 2
    try:
        new = row(asked.run, asked.label or asked.run.name, asked.games)
        document = json.loads(asked.into.read_text("utf-8")) if asked.into.exists() else {}
        rows = document.setdefault(asked.under, [])
        rows[:] = [old for old in rows if old["run"] != new["run"]] + [new]
        # in one step: what was recorded before outlives a full disk
        write_file(asked.into, (json.dumps(document, separators=(",", ":")) + "\n").encode())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"record_run: error: {error}", file=sys.stderr)
        return 2
    print(f"{asked.into}:{asked.under} has {new['run']}, {new['steps']:,} steps")
    return 0


def row(run: Path, label: str, games: Path | None) -> dict[str, Any]:
    """Returns what is kept of a run, finished or not.

    Raises:
        ValueError: the games are another checkpoint's.
    """
    by_step, evaluations = curves(run, in_minutes=False)
    by_minute, _ = curves(run, in_minutes=True)
    kept: list[tuple[float, float, float]] = []
    for (steps, score), (minutes, _) in zip(by_step, by_minute, strict=True):
        if not kept or steps // _STEPS_BETWEEN > kept[-1][0] // _STEPS_BETWEEN:
            kept.append((steps, round(score, 2), round(minutes, 2)))
    result_file = run / "result.json"
    result = json.loads(result_file.read_text("utf-8")) if result_file.exists() else None
    recorded = {
        "run": label,
        "settings": json.loads((run / "run.json").read_text("utf-8"))["train"],
        "steps": result["steps"] if result else max((steps for steps, _ in by_step), default=0),
        "finished": result is not None,
        "training_return": [[steps, score] for steps, score, _ in kept],
        "training_minutes": [minutes for *_, minutes in kept],
        "evaluations_on_the_way": evaluations,
        "final": result and _scores(result["evaluation"]),
        "seconds": result and result["seconds"],
    }
    if games:
        evaluation = played(games, by=result["evaluation"]["version"] if result else None)
        recorded[f"evaluated_over_{len(evaluation['episodes'])}_games"] = _scores(evaluation)
    return recorded


def played(games: Path, by: str | None) -> dict[str, Any]:
    """Returns the evaluation in a file that `rlarcade evaluate --json` wrote of one checkpoint.

    Raises:
        ValueError: the games are not those of this version, the hash of a checkpoint's weights.
    """
    (evaluation,) = json.loads(games.read_text("utf-8"))["evaluations"]
    if by not in (None, evaluation["version"]):
        raise ValueError(
            f"the games in {games} are not those of the run's last checkpoint: they were played by "
            f"{evaluation['checkpoint']}, weights {evaluation['version']}, not {by}."
        )
    return dict(evaluation)


def _scores(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Returns the mean and every game's score."""
    scores = [episode["score"] for episode in evaluation["episodes"]]
    return {"mean": evaluation["mean"], "scores": scores}


if __name__ == "__main__":
    sys.exit(main())
