"""Matches checkpoints against a champion, one after the other; whoever is promoted replaces it.

    python scripts/compare_checkpoints.py CHAMPION CANDIDATE [CANDIDATE …]

What `rlarcade compare` does for one candidate, on the public API: a starting point for your own.
"""

import argparse

from rlarcade import DQNAgent, Rule, compare_agents, load_checkpoint

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("champion")
parser.add_argument("candidates", nargs="+")
parser.add_argument("--max-pairs", type=int, default=400)
asked = parser.parse_args()

champion = load_checkpoint(asked.champion)
# each further candidate is another chance to be promoted by luck: α is shared among them
rule = Rule(alpha=0.05 / len(asked.candidates))
for candidate in map(load_checkpoint, asked.candidates):
    match = compare_agents(
        DQNAgent.load(champion),
        DQNAgent.load(candidate),
        rule=rule,
        max_pairs=asked.max_pairs,
        names=(str(champion.path), str(candidate.path)),
        weights_sha256=(champion.manifest.weights_sha256, candidate.manifest.weights_sha256),
    )
    print(
        f"{candidate.path}: {match.verdict} after {match.pairs} pairs "
        f"({match.wins} won, {match.ties} tied, {match.losses} lost, e-value {match.e_value:.3g})"
    )
    if match.verdict == "promote":
        champion = candidate
print(f"champion: {champion.path}")
