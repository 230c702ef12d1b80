"""Result documents. They are frozen, and a round trip through JSON does not change them.

They keep the actions of every game, so that every score can be verified by replay.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from statistics import fmean, median
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    computed_field,
    model_validator,
)

from rlarcade.config.values import MOST_GAMES
from rlarcade.evaluation.sequential import (
    Counts,
    Rule,
    anytime_p,
    confidence_interval,
    outcome_of,
)
from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval
from rlarcade.games.protocols import Protocol
from rlarcade.games.scores import human_normalized_score
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.players import League
from rlarcade.playing.recordings import Recording
from rlarcade.seeding import LARGEST_WORD, checked_seed
from rlarcade.shown import Rows, ShortlyShown, Shown


def short_version(version: str | None) -> str:
    """Returns a short form of a version for file names. Different versions have different names.

    A digest becomes its first 12 characters. Any other version becomes a short ASCII name.
    """
    if version is None:
        return "none"
    if re.fullmatch(r"[0-9a-f]{64}", version):
        return version[:12]
    plain = re.sub(r"[^A-Za-z0-9.@_-]+", "_", version)
    if plain == version and len(version) <= _LONGEST_NAME:
        return version
    return f"{plain[:_LONGEST_NAME]}-{hashlib.sha256(version.encode()).hexdigest()[:12]}"


_LONGEST_NAME = 40  # characters of a version in a file name
_Seed = Annotated[int, BeforeValidator(partial(checked_seed, largest=LARGEST_WORD))]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Evaluation(ShortlyShown):
    """Scores of one policy in one game."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    checkpoint: str
    """Path of the checkpoint, or name of the policy."""
    version: str | None
    """sha256 of the weights, or another unique text; None if the policy has no version."""
    league: League = "screen"
    """What the policy sees. Scores of different leagues do not belong in one table."""
    game: str
    protocol: Protocol
    epsilon: _Share
    """Share of random actions."""
    seed: _Seed
    """All episode seeds follow from this seed."""
    episodes: Annotated[tuple[EpisodeResult, ...], Field(min_length=1, max_length=MOST_GAMES)]

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
    def iqm_interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of `iqm`, over games; None for a single game."""
        return iqm_interval([episode.score for episode in self.episodes])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def human_normalized(self) -> float | None:
        """(mean − random) / (human − random); None if no human score is published."""
        return human_normalized_score(self.game, self.mean)

    def shown(self) -> Shown:
        """What was played, and the mean score."""
        yield "game", self.game
        yield "checkpoint", self.checkpoint
        yield "games", len(self.episodes)
        if self.episodes:
            yield "mean", round(self.mean, 2)

    def shown_rows(self) -> Rows:
        """The scores, as on a terminal."""
        from rlarcade.evaluation.summaries import score_rows

        return score_rows(self)


class Side(ShortlyShown):
    """One side of a match."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    """Path of the checkpoint, or name of the policy."""
    version: str | None
    """sha256 of the weights, or another unique text; None if the policy has no version."""
    league: League = "screen"
    """What the policy sees."""

    def shown(self) -> Shown:
        """Its name and the beginning of its version."""
        yield "checkpoint", self.checkpoint
        yield "version", None if self.version is None else self.version[:12]


class PairResult(ShortlyShown):
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
        """Seed of both games."""
        return self.champion.seed

    def shown(self) -> Shown:
        """Both scores."""
        yield "seed", self.seed
        for side, game in (("champion", self.champion), ("candidate", self.candidate)):
            yield side, "failed" if game.ended == "failed" else game.score

    @property
    def outcome(self) -> float:
        """1 if the candidate scored more, ½ for a tie, 0 if it scored less.

        A side that failed loses to any score. Two sides that failed tie.
        """
        return outcome_of(
            *(
                -math.inf if game.ended == "failed" else game.score
                for game in (self.champion, self.candidate)
            )
        )


class Comparison(ShortlyShown):
    """A match between two versions, decided or unfinished."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    champion: Side
    candidate: Side
    game: str
    protocol: Protocol
    rule: Rule
    seed: _Seed
    """All seeds of the pairs follow from this seed and from both versions."""
    same_dice: bool = True
    """Whether both sides draw their random actions from the same random numbers."""
    max_pairs: Annotated[int, Field(ge=1)]
    """The match is inconclusive if it is undecided after this many pairs."""
    notes: tuple[str, ...] = ()
    """Warnings for the reader of the verdict."""
    results: Annotated[tuple[PairResult, ...], Field(max_length=MOST_GAMES)]
    """The pairs that count, in schedule order."""

    @model_validator(mode="after")
    def _no_pair_twice(self) -> Self:
        seeds = Counter(pair.seed for pair in self.results)
        twice = [seed for seed, count in seeds.items() if count > 1]
        if twice:
            raise ValueError(
                f"the pair with seed {twice[0]} is there {seeds[twice[0]]} times; each pair counts "
                "only once"
            )
        return self

    @property
    def counts(self) -> Counts:
        """The candidate's wins, ties and losses."""
        outcomes = [pair.outcome for pair in self.results]
        return Counts(outcomes.count(1.0), outcomes.count(0.5), outcomes.count(0.0))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Literal["promote", "reject", "inconclusive"] | None:
        """Verdict of the rule; None while the match is unfinished."""
        decided = self.rule.verdict(self.counts)
        over = len(self.results) >= self.max_pairs or self.same_version
        return decided or ("inconclusive" if over else None)

    @property
    def same_version(self) -> bool:
        """Whether both sides are the same version, so that no game has to be played."""
        version = self.champion.version
        return self.same_dice and version is not None and version == self.candidate.version

    @property
    def mixes_leagues(self) -> bool:
        """Whether one side sees only the screen, and the other one has emulator access."""
        return self.champion.league != self.candidate.league

    @computed_field  # type: ignore[prop-decorator]
    @property
    def pairs(self) -> int:
        """Number of pairs that count."""
        return len(self.results)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def wins(self) -> int:
        """Pairs that the candidate won."""
        return self.counts.wins

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ties(self) -> int:
        """Pairs with equal scores."""
        return self.counts.ties

    @computed_field  # type: ignore[prop-decorator]
    @property
    def losses(self) -> int:
        """Pairs that the candidate lost."""
        return self.counts.losses

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value(self) -> float:
        """Evidence that the candidate is better, after the last pair."""
        return self.rule.evidence(self.counts).e_value

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value_futility(self) -> float:
        """Evidence that the candidate is not usefully better."""
        return self.rule.evidence(self.counts).e_value_futility

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p_value(self) -> float:
        """p-value of "the candidate is no better": 1 / the largest e-value; valid at every look."""
        return anytime_p([pair.outcome for pair in self.results], self.rule.null)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def improvement_probability(self) -> float | None:
        """Share of pairs won, ties counting half; None without pairs."""
        return self.counts.improvement_probability

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the true probability of improvement; holds at all looks with 1 − α."""
        return confidence_interval([pair.outcome for pair in self.results], self.rule.alpha)

    def shown(self) -> Shown:
        """The verdict and the counts."""
        yield "game", self.game
        yield "champion", self.champion.checkpoint
        yield "candidate", self.candidate.checkpoint
        yield "verdict", self.verdict
        yield from self.counts._asdict().items()

    def shown_rows(self) -> Rows:
        """The verdict, as on a terminal."""
        from rlarcade.evaluation.summaries import match_rows

        return match_rows(self)


def recordings_of(document: Evaluation | Comparison) -> Iterator[Recording]:
    """Yields the games of a document. A match alternates champion and candidate."""
    if isinstance(document, Comparison):
        sides = [(one.checkpoint, one.version) for one in (document.champion, document.candidate)]
        yield from _of_pairs(document.game, document.protocol, sides, document.results)
        return
    for episode in document.episodes:
        yield Recording(
            document.game, document.protocol, document.checkpoint, document.version, episode
        )


def _of_pairs(
    game: str,
    protocol: Protocol,
    sides: list[tuple[str, str | None]],
    pairs: Iterable[PairResult],
) -> Iterator[Recording]:
    for pair in pairs:
        for (name, version), episode in zip(sides, (pair.champion, pair.candidate), strict=True):
            yield Recording(game, protocol, name, version, episode)
