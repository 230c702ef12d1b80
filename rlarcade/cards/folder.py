"""Writes the folder of a card. It appears under its name only when it is complete."""

import json
from pathlib import Path

from rlarcade.cards.clip import clip_of
from rlarcade.cards.model_card import CLIP, EVALUATION, README, card_name, model_card
from rlarcade.checkpoint import MANIFEST, WEIGHTS, Checkpoint, Manifest, canonical_bytes
from rlarcade.errors import CheckpointError, ConfigError, RlarcadeError
from rlarcade.evaluation.documents import Evaluation, recordings_of
from rlarcade.files import LARGEST_TEXT, read_bounded, write_folder
from rlarcade.learning.policy import DQNAgent
from rlarcade.outputs import check_output
from rlarcade.playing.recordings import median_game
from rlarcade.text import shown_path


def check_card_folder(path: Path) -> None:
    """Checks, before any work, that a new card can be written to a path.

    Raises:
        ConfigError: there is something at the path, or its parent folder cannot be written.
    """
    where = shown_path(path)
    if not path.name:
        raise ConfigError(f"--card {where} has no name of its own. Name a new folder.")
    check_output(path / README, "--card")
    if path.is_symlink() or (path.exists() and any(path.iterdir())):
        raise ConfigError(
            f"--card {where} exists already, and nothing in it is replaced. Name a new folder."
        )


def write_card(
    path: Path,
    checkpoint: Checkpoint,
    agent: DQNAgent,
    evaluation: Evaluation,
    *,
    with_clip: bool = True,
) -> dict[str, int]:
    """Writes a card.

    Args:
        path: the folder. One that exists is replaced, when the new one is complete.
        checkpoint: the agent's checkpoint. Its files are copied unchanged.
        agent: the agent.
        evaluation: its games. In the card they are those of `card_name`, so that no path of this
            machine is in it.
        with_clip: whether a clip of a game is in it.

    Returns:
        The size of each file in bytes.

    Raises:
        RecordingError: a game does not reproduce.
        RlarcadeError: the folder cannot be written.
    """
    name = card_name(checkpoint.manifest)
    told = evaluation.model_copy(update={"checkpoint": name})
    clip, caption = _clip(agent, told) if with_clip else (None, None)
    text = model_card(checkpoint.manifest, told, caption)
    document = {"evaluations": [told.model_dump(mode="json")]}
    files = {
        WEIGHTS: canonical_bytes(checkpoint.tensors),
        MANIFEST: _manifest_bytes(checkpoint),
        EVALUATION: (json.dumps(document, indent=2) + "\n").encode(),
        **({} if clip is None else {CLIP: clip}),
        README: text.encode(),
    }
    try:
        write_folder(path, files)
    except OSError as error:
        raise RlarcadeError(
            f"--card {shown_path(path)} cannot be written: {error.strerror}. Choose another folder."
        ) from error
    return {name: len(data) for name, data in files.items()}


def _clip(agent: DQNAgent, evaluation: Evaluation) -> tuple[bytes, str]:
    """A part of the game with the median score, as a GIF, and its caption."""
    shown = median_game(recordings_of(evaluation))
    clip = clip_of(agent, shown)
    caption = (
        f"Steps {clip.first:,} to {clip.last:,} of the game with the median score "
        f"({shown.episode.score:,.0f} points), with the agent's values of the actions."
    )
    return clip.gif, caption


def _manifest_bytes(checkpoint: Checkpoint) -> bytes:
    """Returns the bytes of the manifest's file; a registry's version has no file of that name."""
    path = checkpoint.path / MANIFEST
    if not path.is_file():
        return (checkpoint.manifest.model_dump_json(indent=2) + "\n").encode()
    try:
        data = read_bounded(path, LARGEST_TEXT)
        same = Manifest.model_validate_json(data) == checkpoint.manifest
    except (OSError, ValueError):
        same = False
    if not same:
        raise CheckpointError(f"{shown_path(path)} was changed just now. Run the command again.")
    return data
