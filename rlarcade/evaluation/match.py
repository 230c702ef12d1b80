"""A match: two versions play the same games, pair after pair, until the evidence is enough.

Pairs count in schedule order, never in the order in which they end. Otherwise short games would
count first, and a candidate that loses slowly would be promoted. Example: 40 games in flight, and
losses that last three times as long as wins. An equal candidate would be promoted in 63 % of
matches instead of 5 %.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from rlarcade.checked import path_of
from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.evaluation.documents import Comparison, PairResult, Side, short_version
from rlarcade.evaluation.evaluate import RecordFound
from rlarcade.evaluation.record import Record
from rlarcade.evaluation.sequential import Rule
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import Scheduled, play_games
from rlarcade.playing.players import LEAGUES, Agent, Player, as_player
from rlarcade.playing.recordings import Recording, first_problem
from rlarcade.playing.schedule import check_count, match_seeds
from rlarcade.seeding import LARGEST_WORD, checked_seed

PairDone = Callable[[Comparison], None]
"""Called with the match after each new pair."""

_LANES = 16  # with more lanes, an early decision throws more unfinished games away
_FEW_DISTINCT = 0.05  # below this share of different games, a note warns of repeated games


def compare_agents(
    champion: Agent | Player,
    candidate: Agent | Player,
    *,
    rule: Rule | None = None,
    max_pairs: int = 400,
    seed: int = 0,
    record: str | Path | None = None,
    same_dice: bool = True,
    mix_leagues: bool = False,
    num_lanes: int = _LANES,
    on_pair: PairDone | None = None,
    on_record: RecordFound | None = None,
) -> Comparison:
    """Plays same-seed pairs of whole games until the rule decides or `max_pairs` are played.

    A player that crashes, takes too long or returns an invalid action loses that pair.

    Args:
        champion: the version in use: a `DQNAgent`, or a `Player` around any other policy.
        candidate: the version that may replace it.
        rule: decides the match; by default α = 0.05, β = 0.10.
        max_pairs: the verdict is inconclusive if this many pairs do not decide.
        seed: seed of the match. The seeds of the games follow from it and from both versions.
            Two matches share no games, and a match shares none with training or evaluation. Any
            two games are equal by chance once in two billion (see `SeedUse`). Equal versions are
            not played, because they could only tie.
        record: folder that keeps the match. With it, an interrupted or killed match resumes, and a
            decided match is not played again. Recorded games count after the emulator has
            replayed every action.
        same_dice: draw both sides' random actions from the same random numbers. With False, a
            version can play against itself.
        mix_leagues: allow a match between a player that sees only the screen and one that has
            access to the emulator (`SearchPlayer`). The verdict says so.
        num_lanes: number of games in parallel. It changes the run time, never the outcome.
        on_pair: called after each pair that is played.
        on_record: called once if pairs are taken from a record.

    Returns:
        A `Comparison` with every pair.

    Raises:
        ConfigError: the two cannot be compared, or every game would be the same.
        RunFolderError: the record is in use, damaged, altered, or from a match with another rule.
    """
    check_count("max_pairs", max_pairs)
    check_count("num_lanes", num_lanes)
    folder = None if record is None else path_of(record, "record")
    sides = as_player(champion), as_player(candidate)
    rule = Rule() if rule is None else rule
    match = new_match(
        sides,
        rule=rule,
        max_pairs=max_pairs,
        seed=seed,
        same_dice=same_dice,
        mix_leagues=mix_leagues,
    )
    if match.same_version:
        same = "both are the same version: every pair would be a tie, so none was played"
        return match.model_copy(update={"notes": (same,)})
    with pairs_of_match(match, sides, folder, num_lanes, on_record) as (earlier, pairs):
        match = match.model_copy(update={"results": earlier})
        while match.verdict is None:
            match = match.model_copy(update={"results": (*match.results, next(pairs))})
            if on_pair is not None:
                on_pair(match)
    return match.model_copy(update={"notes": match_notes(match.results)})


Sides = tuple[Player, Player]
"""Champion and candidate."""


def new_match(
    sides: Sides,
    *,
    rule: Rule,
    max_pairs: int,
    seed: int,
    same_dice: bool = True,
    mix_leagues: bool = False,
) -> Comparison:
    """Returns a match without pairs.

    Raises:
        ConfigError: the two cannot be compared, or every game would be the same.
    """
    champion, candidate = sides
    _check_comparable(champion, candidate, mix_leagues)
    return Comparison(
        champion=_side(champion),
        candidate=_side(candidate),
        game=champion.game,
        protocol=champion.protocol,
        rule=rule,
        seed=checked_seed(seed, LARGEST_WORD),
        same_dice=same_dice,
        max_pairs=max_pairs,
        results=(),
    )


def _side(player: Player) -> Side:
    return Side(checkpoint=player.name, version=player.version, league=player.league)


@contextmanager
def pairs_of_match(
    match: Comparison,
    sides: Sides,
    record: Path | None,
    num_lanes: int,
    on_record: RecordFound | None = None,
    *,
    suite: dict[str, Any] | None = None,
) -> Iterator[tuple[tuple[PairResult, ...], Iterator[PairResult]]]:
    """Gives (pairs from the record, iterator that plays the remaining pairs) of a match.

    With a record, each new pair is on the disk before it is yielded. `suite` describes the suite
    that contains the match.

    Raises:
        ConfigError: a player has no version, so its record could not be identified.
        RunFolderError: the record is in use, damaged, altered, or from a match with another rule.
    """
    versions = (sides[0].version, sides[1].version)
    if record is not None and None in versions:
        raise ConfigError(
            "a match can only be kept between players with a version, because the versions "
            "identify its record. Leave record out, or give each Player a version."
        )
    seeds = islice(match_seeds(match.seed, versions), match.max_pairs)
    with nullcontext() if record is None else closing(_record(record, match, suite)) as kept:
        earlier: tuple[PairResult, ...] = ()
        if kept is not None and kept.earlier:
            earlier = kept.earlier[: match.max_pairs]
            if on_record is not None:
                on_record(kept.path, len(earlier))
            _check_earlier(kept.path, match, sides, earlier, list(islice(seeds, len(earlier))))
        pairs = play_pairs(*sides, seeds, candidates_dice=_dice(match), num_lanes=num_lanes)
        with closing(pairs):
            yield earlier, pairs if kept is None else _written(pairs, kept)


def _record(folder: Path, match: Comparison, suite: dict[str, Any] | None) -> Record[PairResult]:
    """Opens `GAME-CHAMPION-CANDIDATE-seedN.jsonl`, with short forms of both versions."""
    sides = (match.champion.version, match.candidate.version)
    name = "-".join([match.game, *map(short_version, sides), f"seed{match.seed}"])
    # max_pairs is left out: the e-value is valid for any length, so it may change.
    identity = match.model_dump(
        mode="json", include={"game", "protocol", "rule", "seed", "same_dice"}
    )
    identity |= {"champion": sides[0], "candidate": sides[1]}
    leagues = {"champion": match.champion.league, "candidate": match.candidate.league}
    if "emulator" in leagues.values():  # left out otherwise: so earlier records still fit
        identity["leagues"] = leagues
    if suite is not None:
        identity["suite"] = suite
    path = folder / f"{name}.jsonl"
    return Record(path, PairResult, identity, what="match", elsewhere="--dir")


def _written(pairs: Iterable[PairResult], kept: Record[PairResult]) -> Iterator[PairResult]:
    for pair in pairs:
        kept.append(pair)
        yield pair


def _dice(match: Comparison) -> int:
    return 0 if match.same_dice else 1


def _check_earlier(
    path: Path,
    match: Comparison,
    sides: Sides,
    earlier: Sequence[PairResult],
    seeds: Sequence[int],
) -> None:
    """Replays recorded pairs, because a record alone proves nothing.

    Every game is simulated again from its actions. A replay cannot confirm that a player failed.
    So a pair with a failure is played again with both players, and must end the same way.

    Raises:
        RunFolderError: the pairs belong to another match, or do not reproduce.
    """
    if [pair.seed for pair in earlier] != list(seeds):
        raise RunFolderError(
            f"the record of the match, {path}, has other games than this match. Another version of "
            "rlarcade wrote it, or it was altered. Move it away to play the match from its "
            "beginning."
        )
    recordings = [
        Recording(match.game, match.protocol, side.checkpoint, side.version, episode)
        for pair in earlier
        for side, episode in ((match.champion, pair.champion), (match.candidate, pair.candidate))
    ]
    problem = first_problem(recordings)
    wrong = None if problem is None else str(problem)
    failed = [pair for pair in earlier if "failed" in (pair.champion.ended, pair.candidate.ended)]
    if wrong is None and failed:
        again = play_pairs(*sides, [pair.seed for pair in failed], candidates_dice=_dice(match))
        for pair, played in zip(failed, again, strict=True):
            if _how(pair) != _how(played):
                wrong = (
                    f"the games with seed {pair.seed} ended differently when they were played again"
                )
    if wrong is not None:
        raise RunFolderError(
            f"the record of the match, {path}, cannot be trusted: {wrong.rstrip('.')}. Move it "
            "away to play the match from its beginning."
        )


def _how(pair: PairResult) -> list[tuple[float, int, str]]:
    return [(game.score, game.steps, game.ended) for game in (pair.champion, pair.candidate)]


def play_pairs(
    champion: Player,
    candidate: Player,
    seeds: Iterable[int],
    *,
    candidates_dice: int = 0,
    num_lanes: int = _LANES,
) -> Generator[PairResult]:
    """Plays pairs in parallel and yields them in the order of `seeds`."""
    schedule = (
        game
        for seed in seeds
        for game in (Scheduled(champion, seed), Scheduled(candidate, seed, candidates_dice))
    )
    ended: dict[int, EpisodeResult] = {}
    place = 0
    for index, episode in play_games(schedule, num_lanes, failures_count=True):
        ended[index] = episode
        while place in ended and place + 1 in ended:
            yield PairResult(champion=ended.pop(place), candidate=ended.pop(place + 1))
            place += 2


def _check_comparable(champion: Player, candidate: Player, mix_leagues: bool) -> None:
    if champion.game != candidate.game:
        raise ConfigError(
            f"the champion plays {champion.game}, the candidate {candidate.game}: their scores "
            "cannot be compared. Choose two versions of one game."
        )
    ours, theirs = champion.protocol.model_dump(), candidate.protocol.model_dump()
    different = [
        f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name]
    ]
    if different:
        raise ConfigError(
            f"the two play by different protocols: {', '.join(different)}. Their scores cannot be "
            "compared. Train the candidate with the champion's --protocol."
        )
    if champion.league != candidate.league and not mix_leagues:
        raise ConfigError(
            f"{champion.name} {LEAGUES[champion.league]}, and {candidate.name} "
            f"{LEAGUES[candidate.league]}: they are of different leagues. To compare them all the "
            "same, say so with --mix-leagues (mix_leagues=True)."
        )
    protocol = champion.protocol
    if protocol.sticky == 0 and protocol.evaluation_epsilon == 0 and protocol.max_noops == 0:
        raise ConfigError(
            "nothing in this protocol is random (sticky 0, epsilon 0, no random starts): every "
            "pair would repeat the same two games and add no evidence. Choose a protocol with "
            "sticky actions, epsilon or random starts."
        )


def match_notes(results: Sequence[PairResult]) -> tuple[str, ...]:
    """Returns warnings about the games, for the reader of the verdict."""
    notes = []
    for side in ("champion", "candidate"):
        failed: list[EpisodeResult] = [
            game for pair in results if (game := getattr(pair, side)).ended == "failed"
        ]
        if failed:
            notes.append(
                f"the {side} failed in {len(failed)} of {len(results)} games and lost them; first "
                f"at step {failed[0].steps} of seed {failed[0].seed}: {failed[0].failure}"
            )
    for side in ("champion", "candidate"):
        cut = sum(getattr(pair, side).ended == "truncated" for pair in results)
        if cut:
            notes.append(f"{cut} of the {side}'s {len(results)} games were cut by the frame cap")
    games = [
        (game.score, game.steps) for pair in results for game in (pair.champion, pair.candidate)
    ]
    distinct = len(set(games))
    if distinct < _FEW_DISTINCT * len(games):
        notes.append(
            f"only {distinct} of {len(games)} games differ in score or length: games may repeat, "
            "and repeated games overstate the evidence"
        )
    return tuple(notes)
