"""A suite: one match over several games. Is a version better overall, and worse in no game?

A round is one pair in each game. Its outcome is the mean of the pairs' outcomes, in [0, 1]. The
test of a single game is applied to these means. The mean alone would promote a version that is
better in four games and has collapsed in the fifth. So each game has a guard:

- `prove`: each game's own pairs must show that the candidate is not worse there by `margin`.
  P(promote | worse by `margin` in some game) ≤ α. All games must pass, so no correction is needed
  (Berger 1982, https://doi.org/10.1080/00401706.1982.10487790).
- `alarm`: the match is rejected when one game's pairs show that the candidate is worse there. The
  games share α. No alarm is no proof that all games are well.
- `none`: only the mean counts.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from math import exp, inf, log
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, computed_field, model_validator

from rlarcade.checked import path_of, require
from rlarcade.errors import ConfigError
from rlarcade.evaluation.documents import Comparison, PairResult
from rlarcade.evaluation.evaluate import RecordFound
from rlarcade.evaluation.match import Sides, match_notes, new_match, pairs_of_match
from rlarcade.evaluation.sequential import (
    LARGEST_LOG,
    Evidence,
    Rule,
    anytime_p,
    confidence_interval,
    log_e_values,
)
from rlarcade.evaluation.statistics import Overall, overall
from rlarcade.games.scores import human_normalized_score, published_scores
from rlarcade.playing.players import Agent, Player, as_player
from rlarcade.playing.schedule import check_count
from rlarcade.shown import Rows, ShortlyShown, Shown
from rlarcade.text import quoted

Guard = Literal["prove", "alarm", "none"]

_LANES = 4  # per game
_MOST_GAMES = 200  # games in one document; the Arcade Learning Environment has fewer

SUITE_RULE = Rule(useful=0.58)
"""Default rule of a suite. A mean over games varies less than one game, so the test can find a
smaller improvement."""


class Reached(NamedTuple):
    """The rounds after which each e-value first reached its bound; None if it has not.

    A bound that was reached once counts, even if the e-value falls again later.
    """

    better: int | None
    """Evidence that the candidate is better overall."""
    futile: int | None
    """Evidence that the candidate is not usefully better."""
    guards: tuple[int | None, ...]
    """Guard of each game; empty without guards."""


class SuiteComparison(ShortlyShown):
    """A match over several games, decided or unfinished."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rule: Rule
    """Rule for the means of the rounds."""
    guard: Guard
    margin: Annotated[float, Field(gt=0, lt=0.5)]
    """The candidate may be worse by less than this in each game (guard `prove`)."""
    max_rounds: Annotated[int, Field(ge=1)]
    """The match is inconclusive if it is undecided after this many rounds."""
    matches: Annotated[tuple[Comparison, ...], Field(max_length=_MOST_GAMES)]
    """One match per game, with one pair per round. Their own verdicts decide nothing."""

    @model_validator(mode="after")
    def _a_pair_of_every_round(self) -> Self:
        rounds = sorted({len(match.results) for match in self.matches})
        if len(rounds) > 1:
            raise ValueError(
                f"every game has a pair of every round, but games have {rounds[0]} and {rounds[-1]}"
            )
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def rounds(self) -> int:
        """Number of rounds that count."""
        return len(self.matches[0].results) if self.matches else 0

    @property
    def means(self) -> list[float]:
        """Each round's mean outcome."""
        outcomes = [[pair.outcome for pair in match.results] for match in self.matches]
        return [fmean(row) for row in zip(*outcomes, strict=True)]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value(self) -> float:
        """Evidence that the candidate is better overall, after the last round."""
        return _last(log_e_values(self.means, self.rule.null))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def e_value_futility(self) -> float:
        """Evidence that the candidate is not usefully better."""
        return _last(self._futility())

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p_value(self) -> float:
        """p-value of "the candidate is no better overall"; valid at every look."""
        return anytime_p(self.means, self.rule.null)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def human_normalized(self) -> dict[str, Overall]:
        """Aggregated scores of both sides in the games with a published human score.

        Empty if there are no such games or no rounds.
        """
        games = [match for match in self.matches if match.results and published_scores(match.game)]
        return {
            side: overall([_normalised(match, side) for match in games])
            for side in (("champion", "candidate") if games else ())
        }

    @computed_field  # type: ignore[prop-decorator]
    @property
    def guards(self) -> tuple[float, ...]:
        """Evidence per game that the candidate is not worse (prove), or is worse (alarm)."""
        return tuple(_last(path) for path in self._guards())

    @computed_field  # type: ignore[prop-decorator]
    @property
    def improvement_probability(self) -> float | None:
        """Mean over games of the share of pairs won, ties counting half; None without rounds."""
        return fmean(self.means) if self.rounds else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the true probability of improvement; holds at all looks with 1 − α."""
        return confidence_interval(self.means, self.rule.alpha)

    @property
    def history(self) -> list[Evidence]:
        """Both e-values before the first round and after each."""
        paths = (log_e_values(self.means, self.rule.null), self._futility())
        return [Evidence(1.0, 1.0), *map(Evidence, *map(_values, paths))]

    @property
    def guard_histories(self) -> list[list[float]]:
        """Each game's guard before the first round and after each."""
        return [[1.0, *_values(path)] for path in self._guards()]

    @property
    def guard_bound(self) -> float:
        """Bound of a game's guard. From it on, the candidate passes (prove) or is worse (alarm)."""
        games = len(self.matches) if self.guard == "alarm" else 1
        return games / self.rule.alpha

    @property
    def reached(self) -> Reached:
        """The rounds after which each e-value first reached its bound."""
        guard_bound = log(self.guard_bound)
        return Reached(
            _first(log_e_values(self.means, self.rule.null), log(1 / self.rule.alpha)),
            _first(self._futility(), log(1 / self.rule.beta)),
            tuple(_first(path, guard_bound) for path in self._guards()),
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Literal["promote", "reject", "inconclusive"] | None:
        """Verdict of the rule and the guards; None while the match is unfinished."""
        promoted, rejected = self._promoted_and_rejected()
        if min(promoted, rejected) < inf:
            return "promote" if promoted < rejected else "reject"
        over = self.rounds >= self.max_rounds or self.same_versions
        return "inconclusive" if over else None

    @property
    def last_round(self) -> int | None:
        """The number of rounds after which nothing more is played; None while unfinished."""
        promoted, rejected = self._promoted_and_rejected()
        last = min(promoted, rejected, 0 if self.same_versions else self.max_rounds)
        return int(last) if last <= self.rounds else None

    def shown(self) -> Shown:
        """The verdict and the number of games and rounds."""
        yield "games", len(self.matches)
        yield "rounds", self.rounds
        yield "verdict", self.verdict
        if self.rounds:
            yield "improvement_probability", round(fmean(self.means), 3)

    def shown_rows(self) -> Rows:
        """The verdict and each game, as on a terminal."""
        from rlarcade.evaluation.summaries import suite_rows

        return suite_rows(self)

    @property
    def same_versions(self) -> bool:
        """Whether both sides are the same version in every game, so that nothing is played."""
        return all(match.same_version for match in self.matches)

    def _promoted_and_rejected(self) -> tuple[float, float]:
        """The rounds after which all that promotes, and anything that rejects, was shown."""
        reached = self.reached
        better = [reached.better, *(reached.guards if self.guard == "prove" else ())]
        worse = [reached.futile, *(reached.guards if self.guard == "alarm" else ())]
        promoted = max(inf if after is None else after for after in better)
        rejected = min(inf if after is None else after for after in worse)
        return promoted, rejected

    def _futility(self) -> NDArray[np.float64]:
        return log_e_values([1 - mean for mean in self.means], 1 - self.rule.useful)

    def _guards(self) -> list[NDArray[np.float64]]:
        """Logarithm of every game's e-value after each round."""
        if self.guard == "none":
            return []
        outcomes = [[pair.outcome for pair in match.results] for match in self.matches]
        if self.guard == "prove":
            return [log_e_values(row, 0.5 - self.margin) for row in outcomes]
        return [log_e_values([1 - outcome for outcome in row]) for row in outcomes]


def _normalised(match: Comparison, side: str) -> list[float]:
    scores = (getattr(pair, side).score for pair in match.results)
    normalised = (human_normalized_score(match.game, score) for score in scores)
    return [score for score in normalised if score is not None]


def _first(path: NDArray[np.float64], bound: float) -> int | None:
    """The number of rounds after which a path first reaches a bound, or None."""
    reached = np.flatnonzero(path >= bound)
    return int(reached[0]) + 1 if reached.size else None


def _values(path: NDArray[np.float64]) -> list[float]:
    values: list[float] = np.exp(np.minimum(path, LARGEST_LOG)).tolist()
    return values


def _last(path: NDArray[np.float64]) -> float:
    return exp(min(float(path[-1]), LARGEST_LOG)) if path.size else 1.0


def _after(suite: SuiteComparison, pairs: Sequence[PairResult]) -> SuiteComparison:
    """The suite with one more round."""
    matches = [
        match.model_copy(update={"results": (*match.results, pair)})
        for match, pair in zip(suite.matches, pairs, strict=True)
    ]
    return suite.model_copy(update={"matches": tuple(matches)})


def _same(match: Comparison) -> tuple[str, ...]:
    return ("both are the same version: they can only tie",) if match.same_version else ()


def _identity(suite: SuiteComparison) -> dict[str, Any]:
    """Settings that may not change on resume. A change could be chosen after seeing results."""
    return {
        "rule": suite.rule.model_dump(mode="json"),
        "guard": suite.guard,
        "games": [
            [match.game, match.champion.version, match.candidate.version]
            for match in sorted(suite.matches, key=lambda match: match.game)
        ],
    }


def _sides_of(pair: tuple[Agent | Player, Agent | Player]) -> Sides:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise ConfigError(
            f"a game of a suite is a pair, (champion, candidate), not {quoted(pair)}."
        )
    return as_player(pair[0]), as_player(pair[1])


RoundDone = Callable[[SuiteComparison], None]
"""Called with the suite after each new round."""


def compare_suite(
    games: Sequence[tuple[Agent | Player, Agent | Player]],
    *,
    rule: Rule = SUITE_RULE,
    guard: Guard = "prove",
    margin: float = 0.10,
    max_rounds: int = 400,
    seed: int = 0,
    record: str | Path | None = None,
    mix_leagues: bool = False,
    num_lanes: int = _LANES,
    on_round: RoundDone | None = None,
    on_record: RecordFound | None = None,
) -> SuiteComparison:
    """Plays rounds of same-seed pairs, one pair in each game, until rule and guards decide.

    Args:
        games: (champion, candidate) of each game.
        rule: decides on the mean over the games.
        guard: stops a candidate that is worse in one game: `prove`, `alarm` or `none`.
        margin: the candidate may be worse by less than this in each game (guard `prove`).
        max_rounds: the verdict is inconclusive if this many rounds do not decide.
        seed: seed of the match, as in `compare_agents`.
        record: folder that keeps the pairs of each game. With it, an interrupted suite resumes.
        mix_leagues: as for `compare_agents`.
        num_lanes: number of games in parallel, for each game of the suite. It only changes the
            run time.
        on_round: called after each round that is played.
        on_record: called for each game that takes pairs from a record.

    Returns:
        A `SuiteComparison` with every pair.

    Raises:
        ConfigError: no games, a game that is there twice, or two players that cannot be compared.
        RunFolderError: a record is in use, damaged, altered, or from a suite with another rule,
            another guard or other games.
    """
    require(games, Iterable, "games", "[(champion, candidate)]")
    require(rule, Rule, "rule", "Rule(alpha=0.05)")
    folder = None if record is None else path_of(record, "record")
    sides = [_sides_of(pair) for pair in games]
    names = [champion.game for champion, _ in sides]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"a suite has each game once, and at least one; got {names}.")
    check_count("max_rounds", max_rounds)
    check_count("num_lanes", num_lanes)
    matches = [
        new_match(
            pair,
            rule=Rule.non_inferiority(margin, alpha=rule.alpha, beta=rule.beta),
            max_pairs=max_rounds,
            seed=seed,
            mix_leagues=mix_leagues,
        )
        for pair in sides
    ]
    suite = SuiteComparison(
        rule=rule, guard=guard, margin=margin, max_rounds=max_rounds, matches=tuple(matches)
    )
    with ExitStack() as stack:
        played = [
            stack.enter_context(
                pairs_of_match(match, pair, folder, num_lanes, on_record, suite=_identity(suite))
            )
            for match, pair in zip(matches, sides, strict=True)
        ]
        while suite.verdict is None:
            done = suite.rounds
            suite = _after(
                suite,
                [earlier[done] if done < len(earlier) else next(new) for earlier, new in played],
            )
            if on_round is not None and any(done >= len(earlier) for earlier, _ in played):
                on_round(suite)
    return suite.model_copy(
        update={
            "matches": tuple(
                match.model_copy(update={"notes": (*_same(match), *match_notes(match.results))})
                for match in suite.matches
            )
        }
    )
