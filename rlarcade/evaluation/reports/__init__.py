"""Results as one HTML file to look at, to send and to keep; it loads nothing from anywhere.

An evaluation's report shows what checkpoints scored; a match's, which of two versions is better and
how that came out; a suite's the same over several games; a round robin's, who of several is better
than whom. The same documents give the same bytes.
"""

from rlarcade.evaluation.reports.beside import Clip, LearningCurve, learning_curve
from rlarcade.evaluation.reports.evaluation import evaluation_report
from rlarcade.evaluation.reports.file import check_writable, write_report
from rlarcade.evaluation.reports.match import match_report
from rlarcade.evaluation.reports.round_robin import round_robin_report
from rlarcade.evaluation.reports.sources import sources_of
from rlarcade.evaluation.reports.suite import suite_report

__all__ = [
    "Clip",
    "LearningCurve",
    "check_writable",
    "evaluation_report",
    "learning_curve",
    "match_report",
    "round_robin_report",
    "sources_of",
    "suite_report",
    "write_report",
]
