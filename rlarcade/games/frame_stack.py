"""The frame stack for single frames. It is zero-padded like that of the vector environment."""

import numpy as np
from numpy.typing import NDArray

from rlarcade.games.protocols import SCREEN, STACK


class FrameStack:
    """The last four frames, oldest first, for callers that receive one frame at a time."""

    def __init__(self) -> None:
        self._frames: NDArray[np.uint8] = np.zeros((STACK, SCREEN, SCREEN), dtype=np.uint8)

    def reset(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Starts an episode: zeros, then `frame`. Returns a uint8 (4, 84, 84) copy."""
        self._frames[:] = 0
        return self.push(frame)

    def replace(self, stack: NDArray[np.uint8]) -> None:
        """Goes on from a whole stack, uint8 (4, 84, 84), newest frame last.

        Raises:
            ValueError: the stack has another shape or dtype.
        """
        if stack.shape != self._frames.shape or stack.dtype != np.uint8:
            raise ValueError(
                f"a stack is uint8 {self._frames.shape}, got {stack.dtype} {stack.shape}"
            )
        self._frames[:] = stack

    def push(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Adds the newest frame, uint8 (84, 84). Returns a uint8 (4, 84, 84) copy.

        Raises:
            ValueError: the frame has another shape or dtype.
        """
        if not isinstance(frame, np.ndarray):
            raise ValueError(f"a frame is uint8 ({SCREEN}, {SCREEN}), got a {type(frame).__name__}")
        if frame.shape != (SCREEN, SCREEN) or frame.dtype != np.uint8:
            raise ValueError(
                f"a frame is uint8 ({SCREEN}, {SCREEN}), got {frame.dtype} {frame.shape}"
            )
        self._frames[:-1] = self._frames[1:]
        self._frames[-1] = frame
        return self._frames.copy()
