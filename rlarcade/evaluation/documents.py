"""Results are documents: frozen, and the same after a round trip through JSON."""

from statistics import fmean, median
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, computed_field, model_validator

from rlarcade.evaluation.sequential import Counts, Rule, confidence_interval, outcome_of
from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval
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
    def iqm(self) -> float:
        """Interquartile mean of the scores."""
        return interquartile_mean([episode.score for episode in self.episodes])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def iqm_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of it, over games."""
        return iqm_interval([episode.score for episode in self.episodes])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def human_normalized(self) -> float | None:
        """(mean − random) / (human − random); None where no human score is published."""
        return human_normalised_score(self.game, self.mean)


class Contestant(BaseModel):
    """One side of a match."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    """Where it was loaded from, or what it is called."""
    weights_sha256: str | None
    """Digest of its weights, if it has any."""


class PairResult(BaseModel):
    """Two games with the same seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    champion: EpisodeResult
    candidate: EpisodeResult

    @model_validator(mode="after")
    def _one_seed(self) -> Self:
        if self.champion.seed != self.candidate.seed:
            raise ValueError(
                f"a pair has one seed, not {self.champion.seed} and {self.candidate.seed}"
            )
        return self

    @property
    def seed(self) -> int:
        """Of both games."""
        return self.champion.seed

    @property
    def outcome(self) -> float:
        """1 if the candidate scored more, ½ for a tie, 0 if it scored less."""
        return outcome_of(self.champion.score, self.candidate.score)


class Comparison(BaseModel):
    """A match between two versions, decided or as far as it was played."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    champion: Contestant
    candidate: Contestant
    game: str
    protocol: Protocol
    rule: Rule
    seed: int
    """The seed that the pairs' seeds follow from."""
    same_dice: bool = True
    """Whether both sides' random actions come from the same numbers."""
    max_pairs: int
    """After so many undecided pairs the match is inconclusive."""
    notes: tuple[str, ...] = ()
    """What a reader of the verdict should know."""
    results: tuple[PairResult, ...]
    """The pairs that count, in their order."""

    @property
    def counts(self) -> Counts:
        """The outcomes, the candidate's."""
        outcomes = [pair.outcome for pair in self.results]
        return Counts(outcomes.count(1.0), outcomes.count(0.5), outcomes.count(0.0))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Literal["promote", "reject", "inconclusive"] | None:
        """What the rule says; None while the match is on."""
        decided = self.rule.verdict(self.counts)
        over = len(self.results) >= self.max_pairs or self.same_weights
        return decided or ("inconclusive" if over else None)

    @property
    def same_weights(self) -> bool:
        """Whether both sides are the same player, so that nothing needs playing."""
        digest = self.champion.weights_sha256
        return self.same_dice and digest is not None and digest == self.candidate.weights_sha256

    @computed_field  # type: ignore[prop-decorator]
    @property
    def pairs(self) -> int:
        """Pairs that count."""
        return len(self.results)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def wins(self) -> int:
        """The candidate's."""
        return self.counts.wins

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ties(self) -> int:
        """Pairs with equal scores."""
        return self.counts.ties

    @computed_field  # type: ignore[prop-decorator]
    @property
    def losses(self) -> int:
        """The candidate's."""
        return self.counts.losses

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value(self) -> float:
        """Evidence that the candidate is better, after the last pair."""
        return self.rule.evidence(self.counts).e_value

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value_futility(self) -> float:
        """Evidence that it is not usefully better."""
        return self.rule.evidence(self.counts).e_value_futility

    @computed_field  # type: ignore[prop-decorator]
    @property
    def improvement_probability(self) -> float | None:
        """Share of pairs won, ties counting half; None without pairs."""
        return self.counts.improvement_probability

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float]:
        """Where the true probability of improvement lies, at every look with 1 − α."""
        return confidence_interval([pair.outcome for pair in self.results], self.rule.alpha)
