"""Results are documents: frozen, and the same after a round trip through JSON."""

from statistics import fmean, median

from pydantic import BaseModel, ConfigDict, computed_field

from rlarcade.games.episodes import Ending
from rlarcade.games.protocols import Protocol
from rlarcade.games.scores import human_normalised_score


class EpisodeResult(BaseModel):
    """One whole game."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    """Of the emulator and, with the game, protocol and actions, the whole episode."""
    score: float
    """Raw, undiscounted, unclipped sum of game rewards."""
    steps: int
    """Agent steps; emulator frames are four times as many."""
    ended: Ending
    """terminated: game over. truncated: cut by the frame cap."""


class Evaluation(BaseModel):
    """What one policy scored in one game."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    checkpoint: str
    """Where it was loaded from, or what it is called."""
    weights_sha256: str | None
    """Digest of its weights, if it has any."""
    game: str
    protocol: Protocol
    epsilon: float
    """Share of random actions."""
    seed: int
    """The seed that the episodes' seeds follow from."""
    episodes: tuple[EpisodeResult, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean(self) -> float:
        """Mean score."""
        return fmean(episode.score for episode in self.episodes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def median(self) -> float:
        """Median score."""
        return median(episode.score for episode in self.episodes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def human_normalized(self) -> float | None:
        """(mean − random) / (human − random); None where no human score is published."""
        return human_normalised_score(self.game, self.mean)
