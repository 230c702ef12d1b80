"""Results are documents: frozen, and the same after a round trip through JSON.

They keep what was done in every game, so that each claimed score can be played again.
"""

import base64
import binascii
import hashlib
import math
import re
import zlib
from collections import Counter
from statistics import fmean, median
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    computed_field,
    model_validator,
)

from rlarcade.evaluation.sequential import (
    Counts,
    Rule,
    anytime_p,
    confidence_interval,
    outcome_of,
)
from rlarcade.evaluation.statistics import interquartile_mean, iqm_interval
from rlarcade.games.episodes import Ending
from rlarcade.games.protocols import Protocol
from rlarcade.games.scores import human_normalised_score


def short_version(version: str | None) -> str:
    """Returns the beginning of a digest, or another version in few plain letters, for file names.

    Different versions have different names.
    """
    if version is None:
        return "none"
    if re.fullmatch(r"[0-9a-f]{64}", version):
        return version[:12]
    plain = re.sub(r"[^A-Za-z0-9.@_-]+", "_", version)
    if plain == version and len(version) <= _LONGEST_NAME:
        return version
    return f"{plain[:_LONGEST_NAME]}-{hashlib.sha256(version.encode()).hexdigest()[:12]}"


_LONGEST_NAME = 40  # letters of a version in a file's name
_LONGEST_GAME = 1_000_000  # steps; the frame cap of every protocol is far below


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpack(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(value, validate=True), 4 * _LONGEST_GAME)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not packed bytes ({error})") from error
    if not unzip.eof:
        raise ValueError("the packed bytes are cut off, or too many for a game")
    return data


_Packed = Annotated[
    bytes, BeforeValidator(_unpack), PlainSerializer(_pack, return_type=str, when_used="json")
]
"""Bytes that JSON keeps as base64 of their zlib stream: a whole game in a few hundred letters."""


class Trace(BaseModel):
    """What was done in a game and what it paid: enough to play it again, step by step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actions: _Packed
    """uint8 (T,), as bytes."""
    rewards: _Packed
    """int32 (T,), little-endian, as bytes: raw points, to say where another emulator departs."""

    @classmethod
    def of(cls, actions: list[int], rewards: list[float]) -> Self:
        """Makes a trace of T actions and T rewards, whole points each."""
        return cls(
            actions=np.array(actions, dtype=np.uint8).tobytes(),
            rewards=np.array(rewards, dtype="<i4").tobytes(),
        )

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Each step's action and reward."""
        rewards: NDArray[np.int32] = np.frombuffer(self.rewards, dtype="<i4")
        return list(zip(self.actions, rewards.tolist(), strict=True))

    @model_validator(mode="after")
    def _one_reward_an_action(self) -> Self:
        if len(self.rewards) != 4 * len(self.actions):
            raise ValueError(
                f"{len(self.actions)} actions need {4 * len(self.actions)} bytes of rewards, "
                f"not {len(self.rewards)}"
            )
        return self


class EpisodeResult(BaseModel):
    """One whole game."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    """Of the emulator and, with the game, protocol and actions, the whole episode."""
    score: float
    """Raw, undiscounted, unclipped sum of game rewards."""
    steps: int
    """Agent steps; emulator frames are four times as many."""
    ended: Literal[Ending, "failed"]
    """terminated: game over. truncated: cut by the frame cap. failed: the policy did, in a match;
    the score is what it had by then, and its pair is lost."""
    failure: str | None = None
    """What the policy did wrong."""
    trace: Trace | None = None
    """The game itself, if it was kept."""


class Evaluation(BaseModel):
    """What one policy scored in one game."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    checkpoint: str
    """Where it was loaded from, or what it is called."""
    version: str | None
    """sha256 of its weights, or what else tells it from every other; None: nothing does."""
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
    version: str | None
    """sha256 of its weights, or what else tells it from every other; None: nothing does."""


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
        """1 if the candidate scored more, ½ for a tie, 0 if it scored less.

        A side whose policy failed has lost to any score, and ties with another that failed.
        """
        return outcome_of(
            *(
                -math.inf if game.ended == "failed" else game.score
                for game in (self.champion, self.candidate)
            )
        )


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

    @model_validator(mode="after")
    def _no_pair_twice(self) -> Self:
        seeds = Counter(pair.seed for pair in self.results)
        twice = [seed for seed, count in seeds.items() if count > 1]
        if twice:
            raise ValueError(
                f"the pair with seed {twice[0]} is there {seeds[twice[0]]} times, but is one piece "
                "of evidence"
            )
        return self

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
        over = len(self.results) >= self.max_pairs or self.same_version
        return decided or ("inconclusive" if over else None)

    @property
    def same_version(self) -> bool:
        """Whether both sides are the same player, so that nothing needs playing."""
        version = self.champion.version
        return self.same_dice and version is not None and version == self.candidate.version

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
    def p_value(self) -> float:
        """That of the candidate being no better; valid at every look: 1 / the largest e-value."""
        return anytime_p([pair.outcome for pair in self.results], self.rule.null)

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
