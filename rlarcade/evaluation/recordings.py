"""Recorded games: found in result documents, played again, and confirmed to the point."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from rlarcade.errors import ActionError, RecordingError
from rlarcade.evaluation.documents import Comparison, EpisodeResult, Evaluation, PairResult, Trace
from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv

_LARGEST_DOCUMENT = 1_000_000_000  # bytes


class Recording(NamedTuple):
    """One game with who played it."""

    game: str
    protocol: Protocol
    player: str
    version: str | None
    episode: EpisodeResult


def load_recordings(path: Path) -> list[Recording]:
    """Reads the games of a document.

    Args:
        path: what `evaluate --json` or `compare --json` wrote, a run's `result.json`, or the record
            of a match under `checkpoints/matches`.

    Raises:
        RecordingError: there is no such document at the path, or it keeps no games.
    """
    try:
        if path.stat().st_size > _LARGEST_DOCUMENT:
            raise RecordingError(f"{path} is no result document: it is too large.")
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path} is no result document: it is not text.") from error
    try:
        found = list(_record_of_a_match(lines) if path.suffix == ".jsonl" else _document(lines))
    except (ValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RecordingError(
            f"{path} is no result document, or it is damaged: {what}. Name what evaluate --json or "
            "compare --json wrote, or the record of a match."
        ) from error
    kept = [recording for recording in found if recording.episode.trace is not None]
    if not kept:
        raise RecordingError(f"{path} holds no recorded games.")
    return kept


def _document(lines: list[str]) -> Iterator[Recording]:
    document = json.loads("\n".join(lines))
    if not isinstance(document, dict):
        raise ValueError("it holds no object")
    if "results" in document or "matches" in document:  # suites and round robins have many
        for match in map(Comparison.model_validate, document.get("matches", [document])):
            yield from recordings_of(match)
        return
    evaluations = document.get("evaluations") or [document.get("evaluation", document)]
    for evaluation in map(Evaluation.model_validate, evaluations):
        yield from recordings_of(evaluation)


def recordings_of(document: Evaluation | Comparison) -> Iterator[Recording]:
    """Yields the games of a document; a match's champion and candidate by turns."""
    if isinstance(document, Comparison):
        sides = [(one.checkpoint, one.version) for one in (document.champion, document.candidate)]
        yield from _of_pairs(document.game, document.protocol, sides, document.results)
        return
    for episode in document.episodes:
        yield Recording(
            document.game, document.protocol, document.checkpoint, document.version, episode
        )


def median_game(recordings: Iterable[Recording]) -> Recording:
    """Returns the game in the middle, by score."""
    ordered = sorted(recordings, key=lambda recording: recording.episode.score)
    return ordered[(len(ordered) - 1) // 2]


def _record_of_a_match(lines: list[str]) -> Iterator[Recording]:
    header: dict[str, Any] = json.loads(lines[0]) if lines else {}
    yield from _of_pairs(
        header["game"],
        Protocol.model_validate(header["protocol"]),
        [(side, header[side]) for side in ("champion", "candidate")],
        map(PairResult.model_validate_json, lines[1:]),
    )


def _of_pairs(
    game: str,
    protocol: Protocol,
    sides: list[tuple[str, str | None]],
    pairs: Iterable[PairResult],
) -> Iterator[Recording]:
    for pair in pairs:
        for (name, version), episode in zip(sides, (pair.champion, pair.candidate), strict=True):
            yield Recording(game, protocol, name, version, episode)


def verify(recording: Recording, env: GameEnv | None = None) -> None:
    """Plays a recorded game again in the emulator and confirms every reward, its end and its score.

    Args:
        recording: the game.
        env: plays it, if one of that game and protocol is at hand.

    Raises:
        RecordingError: it goes another way; says at which step.
    """
    episode = recording.episode
    trace = episode.trace or Trace.of([], [])
    env = env or GameEnv(recording.game, protocol=recording.protocol)
    env.reset(seed=episode.seed)
    score, ended, step = 0.0, "", 0
    for step, (action, reward) in enumerate(trace.steps):
        try:
            _, paid, terminated, truncated, _ = env.step(action)
        except ActionError as error:
            raise _departs(recording, step, f"action {action}: {error}") from error
        score += paid
        ended = "terminated" if terminated else "truncated" if truncated else ""
        if paid != reward:
            raise _departs(recording, step, f"{reward:g} points were recorded, {paid:g} are paid")
        if ended and step + 1 < len(trace.actions):
            raise _departs(recording, step, f"the game is {ended} before its recorded end")
    if episode.ended != "failed" and ended != episode.ended:
        raise _departs(recording, step, f"{episode.ended} was recorded, but the game goes on")
    if (score, len(trace.actions)) != (episode.score, episode.steps):
        raise _departs(
            recording,
            step,
            f"{episode.score:g} points in {episode.steps} steps are claimed; it is {score:g} in "
            f"{len(trace.actions)}",
        )


def _departs(recording: Recording, step: int, how: str) -> RecordingError:
    return RecordingError(
        f"{recording.player}'s game with seed {recording.episode.seed} does not reproduce: at step "
        f"{step}, {how}. It was altered, or recorded with another ale-py."
    )
