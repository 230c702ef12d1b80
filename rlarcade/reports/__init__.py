"""Reports: each renders result documents as one self-contained HTML file.

There are five kinds: the scores of checkpoints (evaluation), which of two versions is better
(match), the same over several games (suite), which of several versions are better than which (round
robin), and what training runs reach over games and seeds (sweep). The same documents give the same
bytes.
"""

from rlarcade.reports.beside import Clip, LearningCurve, learning_curve
from rlarcade.reports.evaluation import evaluation_report
from rlarcade.reports.file import check_writable, write_report
from rlarcade.reports.match import match_report
from rlarcade.reports.round_robin import round_robin_report
from rlarcade.reports.sources import sources_of
from rlarcade.reports.suite import suite_report
from rlarcade.reports.sweep import sweep_report
from rlarcade.reports.swept import FinalScores, SweptRun

__all__ = [
    "Clip",
    "FinalScores",
    "LearningCurve",
    "SweptRun",
    "check_writable",
    "evaluation_report",
    "learning_curve",
    "match_report",
    "round_robin_report",
    "sources_of",
    "suite_report",
    "sweep_report",
    "write_report",
]
