"""The learner's frame from a screen in colour, for clients that send screens.

All of rlarcade's own games get their frames from the native vector environment. A server's client
may run an emulator that gives screens in colour. For the 91 games whose screen has 210 lines, the
frames made here equal the native ones in every pixel.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rlarcade.games.protocols import SCREEN

SCREEN_SHAPE = (210, 160, 3)
"""Lines, points a line, and red, green and blue of a screen."""

TALL_GAMES = frozenset(
    {
        "adventure",
        "air_raid",
        "carnival",
        "journey_escape",
        "keystone_kapers",
        "king_kong",
        "klax",
        "laser_gates",
        "mr_do",
        "pacman",
        "pooyan",
        "sir_lancelot",
        "space_war",
    }
)
"""Games whose screens have 214 to 250 lines. If they are scaled to 210 lines, `grey_frame` differs
from the native frame in 3 to 16 percent of the pixels, by up to 20 of 255 levels, and for Air Raid,
whose colours are PAL's, by 65 levels on average. Clients of these games must send frames."""

_RED, _GREEN, _BLUE, _WHOLE = map(np.float32, (2_989, 5_870, 1_140, 10_000))
"""ALE's grey palette is 0.2989 R + 0.5870 G + 0.1140 B, rounded."""

_Taps = list[tuple[NDArray[np.intp], NDArray[np.float32]]]


def grey_frame(
    screen: NDArray[np.uint8], before: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Returns the frame that the native vector environment makes of a screen.

    In play, the newest frame of an observation merges the last two of a step's four screens: each
    pixel is the lighter one. Give both screens to get this frame. Without `before` the agent sees
    slightly other frames than in training: some games draw an object on every second screen only.
    An episode's first frame is made of one screen.

    Args:
        screen: uint8 (210, 160, 3), the newest screen in ALE's colours, red first.
        before: the screen before it, the third of a step of four; None: nothing is merged.

    Returns:
        uint8 (84, 84).

    Raises:
        ValueError: a screen has another shape or dtype.
    """
    grey = _grey(screen)
    if before is not None:
        np.maximum(grey, _grey(before), out=grey)
    return shrunk(grey)


def shrunk(grey: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns the frame, uint8 (84, 84), of grey levels, whole numbers (lines, points)."""
    lines, points = grey.shape
    # The order of the sums is that of OpenCV's area interpolation, which ALE uses. Another order
    # rounds some pixels the other way.
    narrow = _weighted(grey.astype(np.float32, copy=False), _area_taps(points, SCREEN), axis=1)
    frame = _weighted(narrow, _area_taps(lines, SCREEN), axis=0)
    return np.rint(frame).astype(np.uint8)


def _grey(screen: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The grey levels of a screen, whole numbers in float32 (210, 160)."""
    if not isinstance(screen, np.ndarray):
        raise ValueError(f"a screen is uint8 {SCREEN_SHAPE}, got a {type(screen).__name__}")
    if screen.shape != SCREEN_SHAPE or screen.dtype != np.uint8:
        raise ValueError(f"a screen is uint8 {SCREEN_SHAPE}, got {screen.dtype} {screen.shape}")
    red, green, blue = (screen[..., color].astype(np.float32) for color in range(3))
    light = red * _RED + green * _GREEN + blue * _BLUE  # whole numbers below 2²⁴: exact
    level: NDArray[np.float32] = np.floor((light + _WHOLE / 2) / _WHOLE)
    return level


def _weighted(picture: NDArray[np.float32], taps: _Taps, axis: int) -> NDArray[np.float32]:
    """Adds up the weighted source lines (axis 0) or columns (axis 1) of each target one."""
    along = (1, -1) if axis else (-1, 1)
    total = np.zeros((1, 1), dtype=np.float32)
    for index, weight in taps:
        total = total + picture.take(index, axis) * weight.reshape(along)
    return total


@cache
def _area_taps(source: int, target: int) -> _Taps:
    """Which source pixels lie under each target pixel, and what share of it each one covers.

    Returns:
        First, second and third source pixel of every target pixel: indices and weights, (target,).
        The weight is 0 where a target pixel covers fewer source pixels.
    """
    scale = source / target
    begin = np.arange(target) * scale
    taps = []
    for nth in range(math.ceil(scale) + 1):
        index = np.floor(begin + 1e-9).astype(np.intp) + nth
        covered = np.minimum(index + 1, begin + scale) - np.maximum(index, begin)
        weight = np.where(covered > 1e-3, covered / scale, 0).astype(np.float32)
        taps.append((np.minimum(index, source - 1), weight))
    return [(index, weight) for index, weight in taps if weight.any()]
