"""Playing checkpoints online, step by step, and what they scored."""

from rlarcade.evaluation.documents import EpisodeResult, Evaluation
from rlarcade.evaluation.play import evaluate_agent

__all__ = ["EpisodeResult", "Evaluation", "evaluate_agent"]
