"""Reads a card, and finds where its claims differ from its weights and its games."""

import os
from pathlib import Path
from typing import NamedTuple

from rlarcade.cards.model_card import EVALUATION, README, claims_problems
from rlarcade.checkpoint import MANIFEST, Checkpoint
from rlarcade.errors import RecordingError
from rlarcade.evaluation.document_files import load_evaluations
from rlarcade.evaluation.documents import Evaluation, recordings_of, short_version
from rlarcade.files import LARGEST_TEXT, read_bounded_text
from rlarcade.games.names import resolve_game
from rlarcade.learning.playable import load_playable
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.recordings import Recording
from rlarcade.text import quoted, shown_path


class OpenedCard(NamedTuple):
    """A card and what its files say."""

    agent: DQNAgent
    recordings: list[Recording]
    """Its games, in order. Nothing is known yet of whether they reproduce."""
    problems: list[str]
    """What its files claim that does not follow from its games or its weights."""


def is_card(path: Path) -> bool:
    """Whether a folder holds a checkpoint together with its games."""
    # os.path returns False for a name that is too long; pathlib would raise an error.
    return all(os.path.isfile(path / name) for name in (MANIFEST, EVALUATION))  # noqa: PTH113


def open_card(path: Path) -> OpenedCard:
    """Reads a card and compares its claims; no game is played.

    Args:
        path: the card's folder.

    Raises:
        CheckpointError: the weights or the manifest are damaged or altered.
        RecordingError: the games cannot be read, or are of another agent.
    """
    checkpoint = load_playable(path)
    agent = DQNAgent.load(checkpoint)
    evaluation, problems = evaluation_of(checkpoint, path / EVALUATION)
    try:
        text = read_bounded_text(path / README, LARGEST_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        problems.append(f"{README} cannot be read: {why}")
    else:
        problems += claims_problems(text, checkpoint.manifest, evaluation)
    return OpenedCard(agent, list(recordings_of(evaluation)), problems)


def evaluation_of(checkpoint: Checkpoint, path: Path) -> tuple[Evaluation, list[str]]:
    """Returns the one evaluation of a checkpoint in a document, and the document's contradictions.

    Args:
        checkpoint: the checkpoint that must have played.
        path: the document, as `evaluate --json` writes it, or a run's `result.json`.

    Raises:
        RecordingError: the document cannot be read, has no or several evaluations of the
            checkpoint, or keeps no actions.
    """
    manifest = checkpoint.manifest
    evaluations, problems = load_evaluations(path)
    mine = [one for one in evaluations if one.version == manifest.weights_sha256]
    version = short_version(manifest.weights_sha256)
    if not mine:
        held = " and ".join(f"version {quoted(short_version(one.version))}" for one in evaluations)
        raise RecordingError(
            f"{shown_path(path)} has the games of {held}, but this checkpoint is version "
            f"{version}. The games or the weights were altered, or are of another checkpoint."
        )
    if len(mine) > 1:
        raise RecordingError(
            f"{shown_path(path)} has {len(mine)} evaluations of version {version}, and a card "
            "shows one. Name a document with one of them."
        )
    (evaluation,) = mine
    if (wrong := _misfit(checkpoint, evaluation)) is not None:
        raise RecordingError(f"{shown_path(path)} cannot be of this checkpoint: {wrong}.")
    return evaluation, problems


def _misfit(checkpoint: Checkpoint, evaluation: Evaluation) -> str | None:
    """Returns why an evaluation cannot be of a checkpoint, or None."""
    manifest, protocol = checkpoint.manifest, evaluation.protocol
    if evaluation.game != resolve_game(manifest.game):
        return f"it has games of {quoted(evaluation.game)}, but the agent plays {manifest.game}"
    if protocol.full_action_space != manifest.protocol.full_action_space:
        return f"its protocol {protocol.name} has other actions than {manifest.protocol.name}"
    if evaluation.epsilon != protocol.evaluation_epsilon:
        return (
            f"epsilon {evaluation.epsilon:g} is claimed, but protocol {protocol.name} plays with "
            f"{protocol.evaluation_epsilon:g}"
        )
    for episode in evaluation.episodes:
        if episode.ended == "failed":
            return f"its game with seed {episode.seed} failed, and an agent's games do not"
        if episode.trace is None:
            return f"the actions of its game with seed {episode.seed} were not kept"
    return None
