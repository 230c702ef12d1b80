"""Matches checkpoints against a champion, one after the other; whoever is promoted replaces it.

    python scripts/compare_checkpoints.py CHAMPION CANDIDATE [CANDIDATE …]

What `rlarcade compare` does for one candidate, on the public API: a starting point for your own.
"""

import argparse

from rlarcade import DQNAgent, RlarcadeError, Rule, compare_agents

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("champion")
parser.add_argument("candidates", nargs="+")
parser.add_argument("--max-pairs", type=int, default=400)
asked = parser.parse_args()

try:
    champion, *candidates = map(DQNAgent.load, (asked.champion, *asked.candidates))
    # each further candidate is another chance to be promoted by luck: α is shared among them
    rule = Rule(alpha=0.05 / len(asked.candidates))
    for candidate in candidates:
        match = compare_agents(champion, candidate, rule=rule, max_pairs=asked.max_pairs)
        print(
            f"{candidate.name}: {match.verdict} after {match.pairs} pairs "
            f"({match.wins} won, {match.ties} tied, {match.losses} lost, "
            f"e-value {match.e_value:.3g})"
        )
        if match.verdict == "promote":
            champion = candidate
    print(f"champion: {champion.name}")
except RlarcadeError as error:
    parser.error(str(error))
