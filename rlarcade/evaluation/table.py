"""Evaluations as a table on a terminal."""

from collections.abc import Sequence

from rlarcade.evaluation.documents import Evaluation
from rlarcade.games.names import display_name
from rlarcade.games.scores import published_scores


def score_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Returns lines that show raw scores beside the random and human ones."""
    lines = []
    for evaluation in evaluations:
        scores = [episode.score for episode in evaluation.episodes]
        published = published_scores(evaluation.game)
        normalised = evaluation.human_normalized
        truncated = sum(episode.ended == "truncated" for episode in evaluation.episodes)
        lines += [
            f"{display_name(evaluation.game)}, protocol {evaluation.protocol.name}, "
            f"epsilon {evaluation.epsilon:g}, {len(scores)} whole games, raw scores",
            f"  {evaluation.checkpoint}",
            f"  mean {evaluation.mean:.1f}   median {evaluation.median:.1f}   "
            f"min {min(scores):.1f}   max {max(scores):.1f}"
            + (f"   ({truncated} cut by the frame cap)" if truncated else ""),
            f"  random {_shown(published.random if published else None)}   "
            f"human {_shown(published.human if published else None)}   "
            f"human-normalised {'–' if normalised is None else f'{normalised:.1%}'}",
        ]
    return lines


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:g}"
