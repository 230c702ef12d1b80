"""Playing checkpoints online, step by step, and what they scored."""

from rlarcade.evaluation.documents import Comparison, EpisodeResult, Evaluation, PairResult
from rlarcade.evaluation.match import compare_agents
from rlarcade.evaluation.play import Step, evaluate_agent, play_steps
from rlarcade.evaluation.players import Player, Policy, RandomPlayer
from rlarcade.evaluation.sequential import Rule

__all__ = [
    "Comparison",
    "EpisodeResult",
    "Evaluation",
    "PairResult",
    "Player",
    "Policy",
    "RandomPlayer",
    "Rule",
    "Step",
    "compare_agents",
    "evaluate_agent",
    "play_steps",
]
