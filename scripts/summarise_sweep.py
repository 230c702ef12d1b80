"""Sums up a sweep: mean score of each variant on each game, and pairs with the first variant.

    python scripts/summarise_sweep.py precision.json --by precision --markdown precision.md

Runs are paired by game and everything else that varies, the seed above all: the difference within a
pair owes nothing to the seed's luck with the first weights, though still to that of the games.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rlarcade.outputs import output_file


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="what `rlarcade sweep --json` wrote")
    parser.add_argument("--by", required=True, help="setting whose values are compared")
    parser.add_argument("--markdown", type=output_file, help="write the table to this file too")
    asked = parser.parse_args()
    try:
        table = "\n".join(table_rows(json.loads(asked.sweep.read_text("utf-8")), asked.by))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{asked.sweep} is not what `rlarcade sweep --json` wrote: {error}")
    print(table)
    if asked.markdown:
        asked.markdown.write_text(table + "\n", "utf-8")


def table_rows(sweep: dict[str, Any], by: str) -> list[str]:
    """Returns the table's lines: one row a game and value of the setting."""
    scores: defaultdict[tuple[str, Any], dict[str, float]] = defaultdict(dict)
    minutes: defaultdict[tuple[str, Any], list[float]] = defaultdict(list)
    unfinished = []
    for run in sweep["runs"]:
        if run["result"] is None:
            unfinished.append(run["label"])
            continue
        settings = run["settings"]
        key = settings["game"], settings.get(by)
        pair = json.dumps({k: v for k, v in settings.items() if k not in ("game", by)})
        scores[key][pair] = run["result"]["evaluation"]["mean"]
        minutes[key].append(run["result"]["seconds"]["total"] / 60)
    rows = [
        f"| game | {by} | runs | mean score | lowest … highest | against the first | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for game in dict.fromkeys(game for game, _ in scores):
        values = [value for other, value in scores if other == game]
        first = scores[game, values[0]]
        for value in values:
            own = scores[game, value]
            rows.append(
                f"| {game} | {value} | {len(own)} | {fmean(own.values()):.1f} "
                f"| {min(own.values()):.1f} … {max(own.values()):.1f} "
                f"| {_difference(own, first) if value != values[0] else '–'} "
                f"| {fmean(minutes[game, value]):.1f} |"
            )
    return rows + [f"\nNot finished: {', '.join(unfinished)}"] * bool(unfinished)


def _difference(own: dict[str, float], first: dict[str, float]) -> str:
    """Mean and standard error of the differences within pairs."""
    differences = [own[pair] - first[pair] for pair in own if pair in first]
    if not differences:
        return "no pairs"
    if len(differences) == 1:  # one pair has no standard error
        return f"{differences[0]:+.1f} (1 pair)"
    error = stdev(differences) / len(differences) ** 0.5
    return f"{fmean(differences):+.1f} ± {error:.1f} ({len(differences)} pairs)"


if __name__ == "__main__":
    main()
