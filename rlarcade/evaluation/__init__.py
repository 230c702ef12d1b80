"""Plays policies in the emulator: scores, matches, suites and round robins."""

from rlarcade.evaluation.documents import Comparison, EpisodeResult, Evaluation, PairResult
from rlarcade.evaluation.match import compare_agents
from rlarcade.evaluation.play import Step, evaluate_agent, play_steps
from rlarcade.evaluation.players import Player, Policy, RandomPlayer
from rlarcade.evaluation.round_robin import RoundRobin, compare_all
from rlarcade.evaluation.sequential import Rule
from rlarcade.evaluation.suite import SuiteComparison, compare_suite

__all__ = [
    "Comparison",
    "EpisodeResult",
    "Evaluation",
    "PairResult",
    "Player",
    "Policy",
    "RandomPlayer",
    "RoundRobin",
    "Rule",
    "Step",
    "SuiteComparison",
    "compare_agents",
    "compare_all",
    "compare_suite",
    "evaluate_agent",
    "play_steps",
]
