"""Judges the arms of a sweep by the rules that were written before its runs.

    python scripts/compare_arms.py docs/results/precision-laptop.json --rule precision
    python scripts/compare_arms.py screen.json peers.json --rule screen
    python scripts/compare_arms.py fresh.json --rule first
    python scripts/compare_arms.py fresh.json --rule fresh --level 0.93

The rules are in docs/results/precision.md and docs/results/strength.md. Each compares every other
arm with the first one by r, the logarithm of a ratio of scores.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.special import stdtrit

from rlarcade.games import display_name, published_scores
from rlarcade.outputs import output_file

Scores = dict[str, dict[str, dict[int, float]]]
"""By arm, game and seed."""
_SAMPLES = 10_000


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="+", type=Path, help="what `rlarcade sweep --json` wrote")
    parser.add_argument("--rule", choices=_RULES, required=True)
    parser.add_argument("--level", type=float, default=0.9, help="of the bound of `fresh`")
    parser.add_argument("--markdown", type=output_file, help="write the tables to this file too")
    asked = parser.parse_args()
    score = training_score if asked.rule == "precision" else evaluation_score
    try:
        runs = [run for path in asked.sweeps for run in json.loads(path.read_text("utf-8"))["runs"]]
        scores = by_arm(runs, score)
        lines = [*table(scores), "", *_RULES[asked.rule](scores, asked.level)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        parser.error(f"the sweeps cannot be judged: {type(error).__name__}: {error}")
    unfinished = [run["label"] for run in runs if run["result"] is None]
    lines += [f"\nNot finished: {', '.join(unfinished)}"] * bool(unfinished)
    print("\n".join(lines))
    if asked.markdown:
        asked.markdown.write_text("\n".join(lines) + "\n", "utf-8")


def evaluation_score(run: dict[str, Any]) -> float:
    """The mean of the games that the last checkpoint played."""
    return float(run["result"]["evaluation"]["mean"])


def training_score(run: dict[str, Any]) -> float:
    """The mean of the last hundred games of training."""
    return float(run["curve"][-1][1])


def by_arm(runs: list[dict[str, Any]], score: Any) -> Scores:
    """Returns the scores of the runs that have ended; the first arm is the baseline."""
    scores: Scores = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        if run["result"] is not None:
            scores[run["agent"]][run["game"]][run["seed"]] = score(run)
    return scores


def table(scores: Scores) -> list[str]:
    """A row for each game and arm."""
    games = dict.fromkeys(game for arm in scores.values() for game in arm)
    rows = ["| game | arm | seeds | mean | each |", "|---|---|---|---|---|"]
    for game in games:
        for arm, found in scores.items():
            if own := found.get(game):
                each = ", ".join(f"{own[seed]:.1f}" for seed in sorted(own))
                mean = fmean(own.values())
                rows.append(f"| {display_name(game)} | {arm} | {len(own)} | {mean:.1f} | {each} |")
    return rows


def distance(game: str, score: float) -> float:
    """The distance of a score above random play, at least 1 % of that from random to human."""
    published = published_scores(game)
    if published is None:
        raise ValueError(f"{game} has no published scores")
    return max(score - published.random, 0.01 * abs(published.human - published.random))


def log_ratio(game: str, own: dict[int, float], base: dict[int, float]) -> float:
    """Returns r of strength.md, from the mean scores of the seeds that both arms have."""
    seeds = own.keys() & base.keys()
    if not seeds:
        raise ValueError(f"{game} has no seed that both arms have")
    means = [fmean(scores[seed] for seed in seeds) for scores in (own, base)]
    return math.log(distance(game, means[0]) / distance(game, means[1]))


def log_ratios(
    own: dict[str, dict[int, float]], base: dict[str, dict[int, float]]
) -> dict[str, float]:
    """Returns r of every game of an arm."""
    return {game: log_ratio(game, own[game], base[game]) for game in own}


def _each(found: dict[str, float]) -> str:
    return ", ".join(f"{display_name(game)} {r:+.3f}" for game, r in found.items())


def judged_precision(scores: Scores, _: float) -> list[str]:
    """The rule of precision.md: pairs of one game and one seed, Student's t."""
    (_, base), (name, own) = scores.items()
    pairs = {
        game: [math.log(own[game][seed] / base[game][seed]) for seed in sorted(own[game])]
        for game in own
    }
    every = [r for found in pairs.values() for r in found]
    error = stdev(every) / len(every) ** 0.5
    bound = fmean(every) + stdtrit(len(every) - 1, 0.05) * error
    worst = min(map(fmean, pairs.values()))
    passed = bound > math.log(0.95) and worst >= math.log(0.9)
    return [
        *(f"{display_name(game)}: mean r {fmean(found):+.3f}" for game, found in pairs.items()),
        f"{name}: mean r {fmean(every):+.3f} over {len(every)} pairs, lower bound {bound:+.3f} "
        f"(needed: above {math.log(0.95):+.3f}; no game below {math.log(0.9):+.3f}): "
        f"{'passed' if passed else 'not passed'}",
    ]


def judged_screen(scores: Scores, _: float) -> list[str]:
    """The rule of strength.md, section 3."""
    (_, base), *others = scores.items()
    lines = []
    for name, own in others:
        found = log_ratios(own, base)
        mean, worst = fmean(found.values()), min(found.values())
        dropped = all(r < math.log(0.85) for r in found.values())
        passed = mean >= 0.05 and worst >= -0.15
        each = _each(found)
        verdict = "passed" if passed else "dropped" if dropped else "not passed"
        lines.append(f"{name}: {each}; mean r {mean:+.3f}: {verdict}")
    return lines


def judged_first(scores: Scores, _: float) -> list[str]:
    """The rule of strength.md, 2026-12-01, for seed 1: ahead in every game."""
    (_, base), *others = scores.items()
    lines = []
    for name, own in others:
        found = log_ratios(own, base)
        each = _each(found)
        ahead = sum(r > 0 for r in found.values())
        verdict = "passed" if ahead == len(found) else "goes on with seed 2"
        lines.append(f"{name}: {each}; ahead in {ahead} of {len(found)} games: {verdict}")
    return lines


def judged_fresh(scores: Scores, level: float) -> list[str]:
    """The rule of strength.md, section 4: a bootstrap over games, and over seeds within a game."""
    (_, base), *others = scores.items()
    lines = []
    for name, own in others:
        games = list(own)
        found = log_ratios(own, base)
        rng = np.random.default_rng(0)
        means = []
        for _ in range(_SAMPLES):
            drawn = [games[index] for index in rng.integers(len(games), size=len(games))]
            means.append(fmean(_resampled(game, own[game], base[game], rng) for game in drawn))
        mean, bound = fmean(found.values()), float(np.quantile(means, 1 - level))
        passed = bound > 0 and min(found.values()) >= math.log(0.7)
        lines += [f"{display_name(game)}: r {r:+.3f}" for game, r in found.items()]
        lines.append(
            f"{name}: mean r {mean:+.3f} (a ratio of {math.exp(mean):.2f}), lower bound "
            f"{bound:+.3f} at {level:.0%} (needed: above 0; no game below {math.log(0.7):+.3f}): "
            f"{'passed' if passed else 'not passed'}"
        )
    return lines


def _resampled(
    game: str, own: dict[int, float], base: dict[int, float], rng: np.random.Generator
) -> float:
    """Returns r with seeds drawn anew, for each arm apart: their luck is not shared."""
    means = [
        fmean(rng.choice(list(scores.values()), size=len(scores)).tolist())
        for scores in (own, base)
    ]
    return math.log(distance(game, means[0]) / distance(game, means[1]))


_RULES = {
    "precision": judged_precision,
    "screen": judged_screen,
    "first": judged_first,
    "fresh": judged_fresh,
}


if __name__ == "__main__":
    main()
