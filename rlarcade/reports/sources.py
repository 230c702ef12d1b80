"""Finds the learning curves and the pictures of games for a report."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlarcade.evaluation.documents import Comparison, Evaluation, recordings_of
from rlarcade.games.names import display_name
from rlarcade.playing.recordings import Recording, median_game
from rlarcade.reports.beside import Clip, LearningCurve, learning_curve
from rlarcade.reports.formats import short_name
from rlarcade.reports.pictures import clip_of, picture_of, values_of_its_player

_MOST_CLIPS = 4  # some hundreds of kilobytes each


def sources_of(
    documents: Sequence[Evaluation | Comparison], registry: str | Path | None = None
) -> dict[str, Any]:
    """Returns `learning_curves` and `clips` for a report on these documents.

    A checkpoint has a curve if it is in the folder of its run. A clip shows the median-score game
    of a player. It shows action values if the player's checkpoint still exists.

    Args:
        documents: documents of the report.
        registry: folder or address of the registry whose versions played; None:
            `checkpoints/registry`.

    Raises:
        RlarcadeError: the metrics of a run cannot be read.
        RecordingError: a game does not reproduce.
    """
    players: dict[tuple[str, str], list[Recording]] = {}
    for document in documents:
        for recording in recordings_of(document):
            if recording.episode.trace is not None and recording.episode.steps:
                players.setdefault((recording.game, recording.player), []).append(recording)
    return {
        "learning_curves": _curves(player for _, player in players),
        "clips": [
            _clip(median_game(games), registry) for games in list(players.values())[:_MOST_CLIPS]
        ],
    }


def _curves(names: Iterable[str]) -> list[LearningCurve]:
    """Returns one curve per run, because the checkpoints of a run share it."""
    curves = {}
    for name in names:
        if _is_there(name) and (curve := learning_curve(Path(name))):
            curves[curve.name] = replace(curve, player=name)
    return list(curves.values())


def _is_there(name: str) -> bool:
    """Whether a player's name is an existing path. Documents may contain any name."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a path, or with characters that paths cannot have
        return False


def _clip(recording: Recording, registry: str | Path | None) -> Clip:
    episode = recording.episode
    caption = (
        f"{short_name(recording.player)}: {display_name(recording.game)}, {episode.score:g} points "
        f"in {episode.steps:,} steps, its median game (seed {episode.seed})"
    )
    values = values_of_its_player(recording, registry)
    video = clip_of(recording, values)
    if video is None:  # ffmpeg is not there: moments of the game instead
        return Clip(caption, "image/png", picture_of(recording, values))
    return Clip(f"{caption}: its eight best seconds", "video/mp4", video)
