"""How often a stream of candidates promotes one that is no better, with α shared and without.

    python scripts/simulate_attempts.py --json docs/results/attempts.json

Candidates that are exactly as good as the champion come one after another, each to a match of its
own by the default gate. "Alone" decides every match with all of α, as a stream of `compare` would;
"shared" as the pipeline does. First by calculation: without ties the wins after n pairs are a
chain, so the probability of promoting is exact. Then by playing streams at random, with ties as
well.
"""

import argparse
import json
import math
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlarcade.outputs import output_file
from rlarcade.promotion.attempts import share
from rlarcade.promotion.gate import Gate
from rlarcade.runs.folder import code_commit

GATE = Gate().match
NULL, USEFUL = 0.5, 0.6
LENGTHS = (1, 2, 5, 10, 20, 50, 100)

Array = NDArray[Any]


def log_e_value(wins: Array, ties: Array, losses: Array, null: float) -> Array:
    """Logarithm of the e-value by its definition (docs/comparing.md), of many matches at once."""
    total: Array = np.full(wins.shape, -np.inf)
    bets = np.geomspace(0.02, 0.98, 24) / null
    for bet in bets:
        money = (
            wins * np.log1p(bet * (1 - null))
            + ties * np.log1p(bet * (0.5 - null))
            + losses * np.log1p(-bet * null)
        )
        total = np.logaddexp(total, money)
    return total - math.log(len(bets))


def decided(wins: Array, ties: Array, losses: Array, alpha: Array | float) -> tuple[Array, Array]:
    """Whether these counts promote, and whether they reject."""
    promotes = log_e_value(wins, ties, losses, NULL) >= -np.log(alpha)
    rejects = log_e_value(losses, ties, wins, 1 - USEFUL) >= -np.log(GATE.beta)
    return promotes, rejects & ~promotes


def promoted_by_luck(alphas: list[float]) -> list[float]:
    """Returns the exact probability that a match promotes an equal candidate, for each α."""
    column = np.array(alphas)[:, None]
    found = np.zeros(len(alphas))
    alive = np.ones((len(alphas), 1))  # probability of each number of wins, undecided so far
    for pairs in range(1, GATE.max_pairs + 1):
        after = np.zeros((len(alphas), pairs + 1))
        after[:, :-1] += alive / 2
        after[:, 1:] += alive / 2
        wins = np.arange(pairs + 1)
        promotes, rejects = decided(wins, np.zeros(pairs + 1), pairs - wins, column)
        found += np.where(promotes, after, 0).sum(axis=1)
        alive = np.where(promotes | rejects, 0.0, after)
    return [float(one) for one in found]


def played(alphas: list[float], streams: int, tied: float, rng: np.random.Generator) -> Array:
    """Plays streams at random; returns each one's first attempt that is promoted, 0 if none is."""
    first = np.zeros(streams, dtype=np.int64)
    pairs = np.arange(1, GATE.max_pairs + 1)
    for attempt, alpha in enumerate(alphas, start=1):
        left = np.flatnonzero(first == 0)
        draws = rng.random((len(left), GATE.max_pairs))
        ties = (draws < tied).cumsum(axis=1)
        wins = (draws >= (1 + tied) / 2).cumsum(axis=1)
        promotes, rejects = decided(wins, ties, pairs - ties - wins, alpha)
        never = GATE.max_pairs
        up = np.where(promotes.any(axis=1), promotes.argmax(axis=1), never)
        down = np.where(rejects.any(axis=1), rejects.argmax(axis=1), never)
        first[left[up < down]] = attempt
    return first


def main() -> int:
    """Calculates, plays, prints and writes; exit code 1 if shared α is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=2000, help="played at random")
    parser.add_argument("--attempts", type=int, default=50, help="in each of those")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=output_file, help="write the outcome to this file")
    asked = parser.parse_args()

    most = max(*LENGTHS, asked.attempts)
    ways = {
        "alone": [GATE.alpha] * most,
        "shared": [GATE.alpha * share(number) for number in range(1, most + 1)],
    }
    exact: dict[str, dict[str, float]] = {}
    for way, alphas in ways.items():
        each = promoted_by_luck(sorted(set(alphas), reverse=True))
        chances = np.array(each if way == "shared" else each * most)
        exact[way] = {str(n): round(float(1 - np.prod(1 - chances[:n])), 5) for n in LENGTHS}
        print(way, exact[way], flush=True)
    rng = np.random.default_rng(asked.seed)
    random: dict[str, dict[str, float]] = {}
    for tied in (0.0, 0.2):
        random[f"{tied:g} tied"] = {
            way: float((played(alphas[: asked.attempts], asked.streams, tied, rng) > 0).mean())
            for way, alphas in ways.items()
        }
        print(f"{tied:g} tied", random[f"{tied:g} tied"], flush=True)
    bound = {str(n): round(1 - (1 - GATE.alpha) ** n, 5) for n in LENGTHS}
    if asked.json:
        document = {
            "alpha": GATE.alpha,
            "beta": GATE.beta,
            "max_pairs": GATE.max_pairs,
            "probability_of_a_false_promotion_by_attempts": exact,
            "bound_alone": bound,
            "played": {"streams": asked.streams, "attempts": asked.attempts, "share": random},
            "seed": asked.seed,
            "code_commit": code_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0 if max(exact["shared"].values()) <= GATE.alpha else 1


if __name__ == "__main__":
    sys.exit(main())
