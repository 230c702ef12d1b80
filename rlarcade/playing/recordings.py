"""Recorded games: replays them and verifies every point."""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ActionError, RecordingError
from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv
from rlarcade.playing.episodes import EpisodeResult


class Recording(NamedTuple):
    """One game with its player."""

    game: str
    protocol: Protocol
    player: str
    version: str | None
    episode: EpisodeResult


Check = Callable[[Recording, GameEnv], None]
"""Raises a RecordingError for a game that is wrong; it may play it in the environment."""


def median_game(recordings: Iterable[Recording]) -> Recording:
    """Returns the game with the median score (the lower one of an even number)."""
    ordered = sorted(recordings, key=lambda recording: recording.episode.score)
    return ordered[(len(ordered) - 1) // 2]


def verify(recording: Recording, env: GameEnv | None = None) -> None:
    """Replays a recorded game. Args and errors are those of `replayed`."""
    for _ in replayed(recording, env):
        pass


def replayed(
    recording: Recording, env: GameEnv | None = None
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Replays a recorded game in the emulator and checks every reward, the ending and the score.

    Args:
        recording: the game.
        env: environment of the same game and protocol to use. Unset: a new one.

    Yields:
        Each observation, uint8 (4, 84, 84), with the action that was taken there.

    Raises:
        RecordingError: the game does not reproduce. The message names the step.
    """
    episode = recording.episode
    if episode.trace is None:
        raise _departs(recording, 0, "no actions were kept")
    trace = episode.trace
    env = env or GameEnv(recording.game, protocol=recording.protocol)
    observation, _ = env.reset(seed=episode.seed)
    score, ended, step = 0.0, "", 0
    for step, (action, reward) in enumerate(trace.steps):
        yield observation, action
        try:
            observation, paid, terminated, truncated, _ = env.step(action)
        except ActionError as error:
            raise _departs(recording, step, f"action {action}: {error}") from error
        score += paid
        ended = "terminated" if terminated else "truncated" if truncated else ""
        if paid != reward:
            raise _departs(recording, step, f"{reward:g} points were recorded, {paid:g} are paid")
        if ended and step + 1 < len(trace.actions):
            raise _departs(recording, step, f"the game is {ended} before its recorded end")
    if episode.ended == "failed" and ended:
        raise _departs(
            recording, step, f"the game is {ended} by itself, but the record says its player failed"
        )
    if episode.ended != "failed" and ended != episode.ended:
        raise _departs(recording, step, f"{episode.ended} was recorded, but the game goes on")
    if (score, len(trace.actions)) != (episode.score, episode.steps):
        raise _departs(
            recording,
            step,
            f"{episode.score:g} points in {episode.steps} steps are claimed, but the replay has "
            f"{score:g} in {len(trace.actions)}",
        )


def _departs(recording: Recording, step: int, how: str) -> RecordingError:
    return RecordingError(
        f"{recording.player}'s game with seed {recording.episode.seed} does not reproduce: at step "
        f"{step}, {how}. It was altered, or recorded with another ale-py."
    )


def verified(
    recordings: Sequence[Recording], check: Check | None = None
) -> Generator[RecordingError | None]:
    """Replays recorded games on all cores. Yields the error of each, or None, in their order.

    Args:
        recordings: the games.
        check: raises a RecordingError for a game that is wrong. Unset: `verify`.
    """
    emulators = _Emulators(check or verify)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from pool.map(emulators.problem, recordings)
    finally:
        pool.shutdown(cancel_futures=True)


def first_problem(recordings: Sequence[Recording]) -> RecordingError | None:
    """Replays recorded games until one does not reproduce. Returns its error, or None."""
    with closing(verified(recordings)) as problems:
        return next((problem for problem in problems if problem is not None), None)


class _Emulators(threading.local):
    """Keeps one emulator per thread, game and protocol, because starting one is slow."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._envs: dict[tuple[str, str], GameEnv] = {}

    def problem(self, recording: Recording) -> RecordingError | None:
        kind = (recording.game, recording.protocol.model_dump_json())
        if kind not in self._envs:
            self._envs[kind] = GameEnv(recording.game, protocol=recording.protocol)
        try:
            self._check(recording, self._envs[kind])
        except RecordingError as error:
            return error
        return None
