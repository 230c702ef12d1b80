"""Plays policies in the emulator: scores, matches, suites and round robins."""

from rlarcade.evaluation.documents import Comparison, Evaluation, PairResult
from rlarcade.evaluation.evaluate import evaluate_agent
from rlarcade.evaluation.match import compare_agents
from rlarcade.evaluation.round_robin import RoundRobin, compare_all
from rlarcade.evaluation.sequential import Rule
from rlarcade.evaluation.suite import SuiteComparison, compare_suite

__all__ = [
    "Comparison",
    "Evaluation",
    "PairResult",
    "RoundRobin",
    "Rule",
    "SuiteComparison",
    "compare_agents",
    "compare_all",
    "compare_suite",
    "evaluate_agent",
]
