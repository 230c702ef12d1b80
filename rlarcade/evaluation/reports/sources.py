"""What a report shows beside its document: learning curves, and moments of games."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rlarcade.checkpoint import Checkpoint
from rlarcade.evaluation.documents import Comparison, Evaluation
from rlarcade.evaluation.pictures import picture_of, values_of_its_player
from rlarcade.evaluation.recordings import Recording, median_game, recordings_of
from rlarcade.evaluation.reports.beside import Clip, LearningCurve, learning_curve
from rlarcade.games.names import display_name
from rlarcade.learning.playable import load_playable

_MOST_CLIPS = 4  # some tens of kilobytes each


def sources_of(
    documents: Sequence[Evaluation | Comparison],
    load: Callable[[str], Checkpoint] = load_playable,
) -> dict[str, Any]:
    """Returns `learning_curves` and `clips` for a report on these documents.

    Curves are there for checkpoints that lie in their run's folder. Clips show each player's game
    with the median score, with its values if its checkpoint is still there; `load` reads it by the
    name that the documents call it.

    Raises:
        RlarcadeError: figures of a run cannot be read.
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
            _clip(median_game(games), load) for games in list(players.values())[:_MOST_CLIPS]
        ],
    }


def _curves(names: Iterable[str]) -> list[LearningCurve]:
    """One of each run: two checkpoints of a run have the same."""
    curves = {}
    for name in names:
        if _is_there(name) and (curve := learning_curve(Path(name))):
            curves[curve.name] = curve
    return list(curves.values())


def _is_there(name: str) -> bool:
    """Whether a player's name is a path. A document from elsewhere may call it anything."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a path, or with letters that none has
        return False


def _clip(recording: Recording, load: Callable[[str], Checkpoint]) -> Clip:
    episode = recording.episode
    caption = (
        f"{recording.player}: {display_name(recording.game)}, {episode.score:g} points in "
        f"{episode.steps:,} steps, its median game (seed {episode.seed})"
    )
    return Clip(caption, "image/png", picture_of(recording, values_of_its_player(recording, load)))
