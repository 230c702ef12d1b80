"""Reads result documents from files, and checks that their claims are consistent."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from rlarcade.checked import reason
from rlarcade.errors import RecordingError
from rlarcade.evaluation.documents import (
    Comparison,
    Evaluation,
    PairResult,
    Side,
    recordings_of,
)
from rlarcade.evaluation.round_robin import RoundRobin
from rlarcade.evaluation.sequential import Counts
from rlarcade.evaluation.suite import SuiteComparison
from rlarcade.files import read_bounded_text
from rlarcade.games.protocols import Protocol
from rlarcade.json_text import parse_json
from rlarcade.playing.recordings import Recording
from rlarcade.playing.schedule import evaluation_seeds, match_seeds
from rlarcade.seeding import SeedUse
from rlarcade.text import printable, shown_path

_LARGEST_DOCUMENT = 200_000_000  # bytes; a game has about a thousand


class Recorded(NamedTuple):
    """Contents of a document."""

    recordings: list[Recording]
    """Games with their actions, in order."""
    problems: list[str]
    """Contradictions in the document, found without replaying a game."""


def load_recordings(path: Path) -> list[Recording]:
    """Reads the games of a document. Args and errors are those of `load_recorded`."""
    return load_recorded(path).recordings


def load_recorded(path: Path) -> Recorded:
    """Reads the games of a document, and checks the document as a whole.

    The games must be those of the schedule, from the first one on, with none left out. A match
    must end where its rule decides. All written figures must follow from the games.

    Args:
        path: a file that `evaluate --json` or `compare --json` wrote, a run's `result.json`, or the
            record of a match under `checkpoints/matches`.

    Raises:
        RecordingError: there is no such document at the path, or it keeps no games.
    """
    documents, problems = _read(path)
    found = [
        recording
        for document in documents
        if isinstance(document, Evaluation | Comparison)
        for recording in recordings_of(document)
    ]
    kept = [recording for recording in found if recording.episode.trace is not None]
    if not kept:
        raise RecordingError(f"{path} holds no recorded games.")
    return Recorded(kept, problems)


def load_evaluations(path: Path) -> tuple[list[Evaluation], list[str]]:
    """Reads the evaluations of a document; returns them, and contradictions in the document.

    Args:
        path: as for `load_recorded`.

    Raises:
        RecordingError: there is no such document at the path, or it holds no evaluation.
    """
    documents, problems = _read(path)
    found = [document for document in documents if isinstance(document, Evaluation)]
    if not found:
        raise RecordingError(
            f"{path} holds no evaluation. Name a file that evaluate --json wrote, or a run's "
            "result.json."
        )
    return found, problems


def _read(path: Path) -> tuple[list[BaseModel], list[str]]:
    """Returns the documents in a file, and their contradictions."""
    try:
        text = read_bounded_text(path, _LARGEST_DOCUMENT)
    except OSError as error:
        raise RecordingError(f"cannot read {shown_path(path)}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path} is no result document: it is not text.") from error
    try:
        found = list(_record_of_a_match(text) if path.suffix == ".jsonl" else _documents(text))
        problems = [problem for one in found for problem in _problems(one)]
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        what = reason(error).rstrip(".")
        raise RecordingError(
            f"{path} is no result document, or it is damaged: {printable(what, 200)}. Name a file "
            "that evaluate --json or compare --json wrote, or the record of a match."
        ) from error
    return [one.document for one in found], problems


class _Found(NamedTuple):
    """A document that was read."""

    document: BaseModel
    written: dict[str, Any]
    """The JSON that it was read from."""
    of_a_suite: bool = False
    """Whether it is the match of one game of a suite. The suite says when it ends."""


def _documents(text: str) -> Iterator[_Found]:
    document = parse_json(text)
    if not isinstance(document, dict):
        raise ValueError("it contains no JSON object")
    if "matches" in document:  # suites and round robins have many
        suite = "guard" in document
        kind = SuiteComparison if suite else RoundRobin
        yield _Found(kind.model_validate(document), document)
        for match in document["matches"]:
            yield _Found(Comparison.model_validate(match), match, of_a_suite=suite)
    elif "results" in document:
        yield _Found(Comparison.model_validate(document), document)
    else:
        evaluations = document.get("evaluations") or [document.get("evaluation", document)]
        for evaluation in evaluations:
            yield _Found(Evaluation.model_validate(evaluation), evaluation)


def _record_of_a_match(text: str) -> Iterator[_Found]:
    first, *lines = text.splitlines() or ["{}"]
    header: dict[str, Any] = parse_json(first)
    sides = {
        side: Side(
            checkpoint=str(header[side]),
            version=header[side],
            league=header.get("leagues", {}).get(side, "screen"),
        )
        for side in ("champion", "candidate")
    }
    pairs = tuple(map(PairResult.model_validate_json, lines))
    yield _Found(
        Comparison(
            game=header["game"],
            protocol=Protocol.model_validate(header["protocol"]),
            rule=header["rule"],
            seed=header["seed"],
            same_dice=header["same_dice"],
            max_pairs=max(1, len(pairs)),
            results=pairs,
            champion=sides["champion"],
            candidate=sides["candidate"],
        ),
        {},
        of_a_suite="suite" in header,
    )


def _problems(found: _Found) -> Iterator[str]:
    """Yields the contradictions in a document, without replaying its games."""
    document, written, of_a_suite = found
    if isinstance(document, Comparison):
        versions = (document.champion.version, document.candidate.version)
        seeds = [pair.seed for pair in document.results]
        wanted = list(islice(match_seeds(document.seed, versions), len(seeds)))
        if (place := _first_difference(seeds, wanted)) is not None:
            yield f"pair {place} has seed {seeds[place]}, but the match plays {wanted[place]} there"
        if not of_a_suite:
            yield from _after_its_end(document)
    if isinstance(document, SuiteComparison):
        last = document.last_round
        if last is not None and last < document.rounds:
            yield f"the suite was decided after {last} rounds, but has {document.rounds}"
    if isinstance(document, Evaluation):
        seeds = [episode.seed for episode in document.episodes]
        ways = [list(islice(evaluation_seeds(document.seed, use), len(seeds))) for use in SeedUse]
        alone = seeds == [document.seed]  # a person's game, whose seed is the emulator's
        if seeds not in ways and not alone:
            wanted = max(ways, key=lambda way: _first_difference(seeds, way) or 0)
            place = _first_difference(seeds, wanted) or 0
            yield (
                f"game {place} has seed {seeds[place]}, but the evaluation plays {wanted[place]} "
                "there"
            )
    for name in type(document).model_computed_fields:
        if name in written and not _same(written[name], getattr(document, name)):
            shown = printable(repr(written[name]), 60)
            follows = printable(repr(getattr(document, name)), 60)
            yield f"{name} {shown} is claimed, but {follows} follows from the games"


def _after_its_end(match: Comparison) -> Iterator[str]:
    """Finds pairs after the decision. A match that plays on could choose where to stop."""
    counts = Counts()
    for place, pair in enumerate(match.results):
        if match.rule.verdict(counts) is not None:
            yield f"the match was decided after {place} pairs, but has {len(match.results)}"
            return
        counts = counts.after(pair.outcome)


def _first_difference(found: Sequence[int], wanted: Sequence[int]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b), None)


def _same(written: Any, value: Any) -> bool:
    """Whether a written figure equals the computed one, up to rounding on another machine."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        keys = isinstance(written, dict) and written.keys() == value.keys()
        return keys and all(_same(written[key], one) for key, one in value.items())
    if isinstance(value, tuple | list):
        length = isinstance(written, list) and len(written) == len(value)
        return length and all(map(_same, written, value))
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (written, value))
    return math.isclose(written, value, rel_tol=1e-6, abs_tol=1e-9) if numbers else written == value
