"""Results as one HTML file to look at, to send and to keep; it loads nothing from anywhere.

An evaluation's report shows what checkpoints scored; a match's, which of two versions is better and
how that came out. The same documents give the same bytes.
"""

from pathlib import Path

from rlarcade.checkpoint import write_file
from rlarcade.errors import RlarcadeError
from rlarcade.evaluation.reports.evaluation import evaluation_report
from rlarcade.evaluation.reports.match import match_report
from rlarcade.evaluation.reports.parts import Clip, LearningCurve, learning_curve
from rlarcade.evaluation.reports.sources import sources_of

__all__ = [
    "Clip",
    "LearningCurve",
    "evaluation_report",
    "learning_curve",
    "match_report",
    "sources_of",
    "write_report",
]


def write_report(path: Path, html: str) -> None:
    """Writes a report; what stood at `path` is replaced only by a whole one.

    Raises:
        RlarcadeError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, html.encode("utf-8"))
    except OSError as error:
        raise RlarcadeError(
            f"report {path} cannot be written: {error.strerror}. Choose another file."
        ) from error
