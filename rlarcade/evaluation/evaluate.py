"""Plays an agent's games and reports its scores. An interrupted evaluation resumes."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path

from pydantic import BaseModel

from rlarcade.checked import path_of
from rlarcade.errors import ConfigError, RecordingError, RunFolderError
from rlarcade.evaluation.documents import Evaluation
from rlarcade.evaluation.record import Record
from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import DEFAULT_LANES, Scheduled, evaluation_schedule, play_games
from rlarcade.playing.players import Agent, Player, as_player
from rlarcade.playing.recordings import Recording, first_problem
from rlarcade.playing.schedule import check_count
from rlarcade.seeding import SeedUse, derived_seed

EpisodeDone = Callable[[EpisodeResult, int, int], None]
"""Called with (episode that ended, number of ended episodes, total number of episodes)."""
RecordFound = Callable[[Path, int], None]
"""Called with (file of a record, number of games or pairs that are taken from it)."""


def evaluate_agent(
    agent: Agent | Player,
    *,
    episodes: int = 100,
    seed: int = 0,
    use: SeedUse = SeedUse.EVALUATION,
    record: str | Path | None = None,
    num_lanes: int = DEFAULT_LANES,
    on_episode: EpisodeDone | None = None,
    on_record: RecordFound | None = None,
) -> Evaluation:
    """Plays whole games and reports raw scores.

    Args:
        agent: a `DQNAgent`, or a `Player` around any other policy. It plays with the evaluation ε
            of its protocol.
        episodes: number of games.
        seed: all episode seeds follow from it. The same seed gives the same games.
        use: purpose of the evaluation. Each use has its own seeds.
        record: file that keeps each game as it ends. With it, an interrupted or killed evaluation
            resumes. Recorded games count after the emulator has replayed every action. The file
            is not deleted.
        num_lanes: number of games in parallel. It changes the run time, never a score.
        on_episode: called after each game that is played.
        on_record: called once if games are taken from a record.

    Returns:
        An `Evaluation` with its episodes in schedule order.

    Raises:
        ConfigError: fewer than one episode or lane, or a record for an agent without a version.
        PolicyError: the agent crashed, took too long or returned an invalid action.
        RunFolderError: the record is in use, damaged, altered, or belongs to another evaluation.
    """
    check_count("num_lanes", num_lanes)
    player = as_player(agent)
    schedule = evaluation_schedule(player, episodes, seed, use)
    path = None if record is None else path_of(record, "record")
    with nullcontext() if path is None else closing(_opened(path, player, seed, use)) as kept:
        results: dict[int, EpisodeResult] = {}
        if kept is not None and kept.earlier:
            results = {
                game.index: game.episode for game in kept.earlier if 0 <= game.index < episodes
            }
            if on_record is not None:
                on_record(kept.path, len(results))
            _check_earlier(kept.path, player, results, seed, use)
        begun: list[int] = []
        for place, result in play_games(_left(schedule, set(results), begun), num_lanes):
            results[begun[place]] = result
            if kept is not None:
                kept.append(_Game(index=begun[place], episode=result))
            if on_episode is not None:
                on_episode(result, len(results), episodes)
    return Evaluation(
        checkpoint=player.name,
        version=player.version,
        league=player.league,
        game=player.game,
        protocol=player.protocol,
        epsilon=player.protocol.evaluation_epsilon,
        seed=seed,
        episodes=tuple(results[index] for index in range(episodes)),
    )


class _Game(BaseModel):
    """One game of an evaluation."""

    index: int
    episode: EpisodeResult


def _left(
    schedule: "Iterable[Scheduled]", done: Container[int], begun: list[int]
) -> "Iterator[Scheduled]":
    """Yields the unfinished games and appends the index of each to `begun` when it starts."""
    for index, game in enumerate(schedule):
        if index not in done:
            begun.append(index)
            yield game


def _check_earlier(
    path: Path, player: Player, games: Mapping[int, EpisodeResult], seed: int, use: SeedUse
) -> None:
    """Replays recorded games, because a record alone proves nothing.

    Raises:
        RunFolderError: the games belong to another evaluation, or do not reproduce.
    """
    recordings = [
        Recording(player.game, player.protocol, player.name, player.version, episode)
        for episode in games.values()
    ]
    if any(episode.seed != derived_seed(seed, use, index) for index, episode in games.items()):
        wrong: RecordingError | str | None = "it has other games than this evaluation"
    else:
        wrong = first_problem(recordings)
    if wrong is not None:
        why = str(wrong).rstrip(".")
        raise RunFolderError(
            f"the record of the evaluation, {path}, cannot be trusted: {why}. Another version of "
            "rlarcade wrote it, or it was altered. Move it away to play all games."
        )


def _opened(path: Path, player: Player, seed: int, use: SeedUse) -> Record[_Game]:
    if player.version is None:
        raise ConfigError(
            f"games of {player.name} cannot be kept: it has no version to identify them by. "
            "Leave record out, or give the Player a version."
        )
    identity = {
        "game": player.game,
        "protocol": player.protocol.model_dump(mode="json"),
        "version": player.version,
        "seed": seed,
        "use": use.name,
    }
    return Record(path, _Game, identity, what="evaluation", elsewhere="file for it")
