"""The clip of a model card: a part of a game as a GIF, which every viewer of Markdown shows."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.recordings import Recording
from rlarcade.reports.pictures import pictures, values_of

_STEPS = 150  # agent steps in a clip: 10 seconds of play
_MILLISECONDS = 70  # a step is four of 60 frames a second; GIFs count in hundredths of a second
_WIDEST = 520  # pixels
_COLOURS = 64


class Clip(NamedTuple):
    """A part of a game."""

    gif: bytes
    first: int
    """Agent step with which it begins."""
    last: int
    """Agent step with which it ends."""


def clip_of(agent: DQNAgent, recording: Recording) -> Clip:
    """Draws the 10 seconds of a game in which it gains most points, with the agent's values.

    There is one picture for each agent step. If several parts gain as much, the first one is drawn.

    Args:
        agent: the agent that played.
        recording: the game, of at least one step.

    Raises:
        RecordingError: the game does not reproduce.
    """
    trace = recording.episode.trace
    first = _best_part([reward for _, reward in trace.steps] if trace is not None else [])
    last = min(first + _STEPS, recording.episode.steps) - 1
    shown: dict[int, Image.Image] = {}
    newest: tuple[int, np.ndarray] | None = None
    for step, picture in pictures(recording, values_of(agent, recording)):
        if newest is not None and newest[0] != step and first <= newest[0] <= last:
            shown[newest[0]] = _small(newest[1])
        newest = step, picture
    if newest is not None and first <= newest[0] <= last:
        shown[newest[0]] = _small(newest[1])
    file = io.BytesIO()
    one, *others = shown.values()
    one.save(
        file,
        "GIF",
        save_all=True,
        append_images=others,
        duration=_MILLISECONDS,
        loop=0,
        optimize=True,
    )
    return Clip(file.getvalue(), first, last)


def _best_part(rewards: list[int]) -> int:
    """Returns the first step of the part with most points."""
    sums = np.concatenate([[0], np.cumsum(rewards)])
    starts = max(len(rewards) - _STEPS, 0) + 1
    ends = np.minimum(np.arange(starts) + _STEPS, len(rewards))
    return int((sums[ends] - sums[:starts]).argmax())


def _small(picture: np.ndarray) -> Image.Image:
    """Returns a picture with few colours, at most 520 pixels wide."""
    image = Image.fromarray(picture)
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, image.height * _WIDEST // image.width))
    return image.quantize(_COLOURS, dither=Image.Dither.NONE)
