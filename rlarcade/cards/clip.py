"""The clip of a model card: a part of a game as a GIF, which every viewer of Markdown shows."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.recordings import Recording
from rlarcade.reports.pictures import step_pictures, values_of

_SECONDS = 10
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

    If several parts gain as much, the first one is drawn.

    Args:
        agent: the agent that played.
        recording: the game, of at least one step.

    Raises:
        RecordingError: the game does not reproduce.
    """
    drawn = step_pictures(recording, values_of(agent, recording), _SECONDS)
    steps, shown = zip(*((step, _small(picture)) for step, picture in drawn), strict=True)
    file = io.BytesIO()
    shown[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=shown[1:],
        duration=_MILLISECONDS,
        loop=0,
        optimize=True,
    )
    return Clip(file.getvalue(), steps[0], steps[-1])


def _small(picture: np.ndarray) -> Image.Image:
    """Returns a picture with few colours, at most 520 pixels wide."""
    image = Image.fromarray(picture)
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, image.height * _WIDEST // image.width))
    return image.quantize(_COLOURS, dither=Image.Dither.NONE)
