"""One whole game: its result, and the actions that prove it."""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    ConfigDict,
    Field,
    model_validator,
)

from rlarcade.games.episodes import Ending
from rlarcade.playing.packed import LONGEST_GAME, PackedBytes
from rlarcade.shown import ShortlyShown, Shown

_MOST_POINTS = 1e14  # above 2**31 points in each of 27,000 steps; sums of scores stay finite

_Score = Annotated[float, Field(ge=-_MOST_POINTS, le=_MOST_POINTS, allow_inf_nan=False)]
_GameSeed = Annotated[int, Field(ge=0, lt=2**31)]


class Trace(ShortlyShown):
    """Actions and rewards of a game: enough to replay it step by step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actions: PackedBytes
    """uint8 (T,), as bytes."""
    rewards: PackedBytes
    """int32 (T,), little-endian, as bytes: raw points. They show at which step a replay departs."""

    @classmethod
    def of(cls, actions: list[int], rewards: list[float]) -> Self:
        """Makes a trace of T actions and T rewards. Rewards are whole numbers of points."""
        return cls(
            actions=PackedBytes(np.array(actions, dtype=np.uint8).tobytes()),
            rewards=PackedBytes(np.array(rewards, dtype="<i4").tobytes()),
        )

    @property
    def steps(self) -> list[tuple[int, int]]:
        """(action, reward) of each step. Computed at each access, so store it before a loop."""
        rewards: NDArray[np.int32] = np.frombuffer(bytes(self.rewards), dtype="<i4")
        return list(zip(self.actions, rewards.tolist(), strict=True))

    @model_validator(mode="after")
    def _one_reward_an_action(self) -> Self:
        if len(self.rewards) != 4 * len(self.actions):
            raise ValueError(
                f"{len(self.actions)} actions need {4 * len(self.actions)} bytes of rewards, "
                f"not {len(self.rewards)}"
            )
        return self

    def shown(self) -> Shown:
        """Its length."""
        yield "steps", len(self.actions)


class EpisodeResult(ShortlyShown):
    """One whole game."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: _GameSeed
    """Seed of the emulator. Game, protocol, seed and actions determine the whole episode."""
    score: _Score
    """Raw, undiscounted, unclipped sum of game rewards."""
    steps: Annotated[int, Field(ge=0, le=LONGEST_GAME)]
    """Agent steps. Each step is four emulator frames."""
    ended: Literal[Ending, "failed"]
    """terminated: game over. truncated: cut by the frame cap. failed: the policy failed in a match;
    the score is what it had reached, and the pair is lost."""
    failure: str | None = None
    """Why the policy failed."""
    trace: Trace | None = None
    """Actions and rewards, if they were kept."""

    def shown(self) -> Shown:
        """Seed, score and length, without the trace."""
        yield from {"seed": self.seed, "score": self.score, "steps": self.steps}.items()
        yield "ended", self.ended
        if self.failure is not None:
            yield "failure", self.failure
