"""What acting shares in games and in training: checked observations and ε-greedy choice."""

import numpy as np
from numpy.typing import NDArray

from rlarcade.games.protocols import SCREEN, STACK


def toss(
    count: int, num_actions: int, epsilon: float, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Draws the random numbers of ε-greedy actions. Their number does not depend on epsilon.

    Returns:
        Which games explore, bool (B,), and a random action for each game, int64 (B,).
    """
    explore = rng.random(count) < epsilon
    return explore, rng.integers(0, num_actions, count)


def not_finite(q_values: NDArray[np.float32], name: str) -> str | None:
    """Returns a sentence about the first Q-values that are not finite, or None.

    argmax takes NaN for the largest value, so whoever chooses actions must look.

    Args:
        q_values: float32 (B, A).
        name: name of the agent.
    """
    finite = np.isfinite(q_values)
    if finite.all():
        return None
    bad = np.flatnonzero(~finite.all(axis=1))
    return (
        f"the Q-values of {name} are not finite numbers: "
        f"{q_values[bad[0]].tolist()} for observation {bad[0]} of {len(q_values)}"
    )


def require_observations(given: NDArray[np.uint8]) -> None:
    """Refuses everything but observations uint8 (B, 4, 84, 84).

    Raises:
        ValueError: `given` is something else; the message says what.
    """
    if not are_observations(given) or given.ndim != 4:
        raise ValueError(
            f"observations are uint8 (B, {STACK}, {SCREEN}, {SCREEN}), newest frame last; got "
            f"{kind_of(given)}"
        )


def are_observations(given: object) -> bool:
    """Whether `given` is uint8 (4, 84, 84) or (B, 4, 84, 84)."""
    return (
        isinstance(given, np.ndarray)
        and given.dtype == np.uint8
        and given.ndim in (3, 4)
        and given.shape[-3:] == (STACK, SCREEN, SCREEN)
    )


def kind_of(given: object) -> str:
    """Describes in a few words what a caller gave instead of observations."""
    if given is None:
        return "None"
    kind = type(given).__name__
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", None)
    if isinstance(given, np.ndarray):
        return f"{dtype} {shape}"
    if shape is not None:  # a tensor
        return f"a {kind}, {dtype} {tuple(shape)}, which is not a NumPy array"
    size = f" of {len(given)}" if isinstance(given, list | tuple | dict) else ""
    return f"a {kind}{size}"
