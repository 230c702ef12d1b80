"""Reads the figures of a run from metrics.jsonl, without torch: watchers of runs stay small."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlarcade.files import open_own
from rlarcade.json_text import parse_json

METRICS_FILE = "metrics.jsonl"
DIVERGED = "train/diverged"
"""Figure of the step at which the loss or a Q-value was no finite number, if it came to that."""
_LARGEST_FILE = 250_000_000  # bytes; a run of 50 million steps writes 30 million
_LONGEST_LINE = 10_000


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """Returns all figures of a run at once.

    Raises:
        OSError: the file cannot be read, is a link, is not a regular file, or is larger than
            250 MB.
    """
    return list(each_metric(run_folder))


def each_metric(run_folder: Path, *, any_size: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the figures of a run, oldest first, each as {"step": agent step, name: value, …}.

    A line that a kill cut short is left out. A run without figures yields nothing. The file is read
    line by line, because parsed figures take six times the memory of the file.

    Args:
        run_folder: the run's folder.
        any_size: read a file of any size. Only for callers that do not keep what they read: a very
            long run must be resumed, too.

    Raises:
        OSError: the file cannot be read, is a link, is not a regular file, or is larger than 250 MB
            without `any_size`.
    """
    limit = None if any_size else _LARGEST_FILE
    try:
        descriptor = open_own(run_folder / METRICS_FILE, os.O_RDONLY, limit)
    except (FileNotFoundError, NotADirectoryError):
        return
    with os.fdopen(descriptor, "rb") as file:
        left = os.fstat(descriptor).st_size  # a run that trains may still be writing
        whole = True
        while left > 0 and (line := file.readline(min(left, _LONGEST_LINE + 1))):
            left -= len(line)
            begins, whole = whole, line.endswith(b"\n")
            if begins and (figures := _figures_of(line.rstrip(b"\r\n"))) is not None:
                yield figures


def newest_metrics(run_folder: Path, length: int = 65_536) -> dict[str, Any]:
    """Returns the newest figure under each name, from the end of the file; {} if there is none.

    Args:
        run_folder: the run's folder.
        length: bytes at the end of the file that are read.

    Raises:
        OSError: the file cannot be read, is a link, or is not a regular file.
    """
    try:
        with os.fdopen(open_own(run_folder / METRICS_FILE, os.O_RDONLY), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - length))
            lines = file.read(length).splitlines()
    except FileNotFoundError:
        return {}
    newest: dict[str, Any] = {}
    for line in lines:
        newest |= _figures_of(line) or {}
    return newest


def diverged_at(run_folder: Path) -> int | None:
    """Returns the agent step at which a run diverged; None: it has not, or was resumed since.

    Raises:
        OSError: the file cannot be read, is a link, or is not a regular file.
    """
    newest = newest_metrics(run_folder)
    return int(newest["step"]) if DIVERGED in newest else None


def _figures_of(line: bytes) -> dict[str, Any] | None:
    if len(line) > _LONGEST_LINE:
        return None
    try:
        figures = parse_json(line.decode("utf-8", errors="replace"))
    except ValueError:
        return None
    whole = isinstance(figures, dict) and isinstance(figures.get("step"), int)
    return figures if whole else None
