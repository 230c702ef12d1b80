"""`python -m rlarcade.evaluate CHECKPOINT…`: plays whole games and reports raw scores."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict

from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import (
    EXIT_OK,
    run_command,
    say,
    say_lines,
    write_json,
)
from rlarcade.errors import ConfigError
from rlarcade.evaluation import Evaluation, evaluate_agent
from rlarcade.evaluation.documents import recordings_of, short_version
from rlarcade.games.names import resolve_game
from rlarcade.learning.hardware import resolve_device
from rlarcade.outputs import check_outputs
from rlarcade.play_commands import (
    AddressFlag,
    DeviceFlag,
    EngineFlag,
    GameFlag,
    ProtocolFlag,
    RegistryFlag,
    ReportFlag,
    SeedFlag,
    WorkersFlag,
    can_keep,
    check_seed,
    playing_on,
    resumable,
    tell_report,
    tell_taken,
)
from rlarcade.playing import EpisodeResult
from rlarcade.playing.named import HUMAN, named_players
from rlarcade.playing.players import Player
from rlarcade.playing.recordings import median_game
from rlarcade.playing.schedule import check_count
from rlarcade.progress import ProgressLine
from rlarcade.reports import evaluation_report, sources_of
from rlarcade.reports.lines import human_line, score_lines
from rlarcade.reports.pictures import values_of_its_player, write_video


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Each is a policy checkpoint; a run folder (its newest checkpoint); a version of a registry
    (7, champion@pong); an agent that comes with rlarcade (zoo:SpaceInvaders); `search:` and one of
    these, which looks ahead (search,simulations=24:7); `random`; `human` (the published score); or
    `module:factory=TEXT`, a policy of your own from `factory(game, TEXT)`; without =TEXT from
    `factory(game)`. Its games are kept if it has a `version`, a text such as a digest of its
    weights."""
    episodes: int = 100
    """Number of whole games for each."""
    game: GameFlag = None
    protocol: ProtocolFlag = None
    seed: SeedFlag = 0
    device: DeviceFlag = "cpu"
    registry: RegistryFlag = None
    engine: EngineFlag = "local"
    address: AddressFlag = None
    workers: WorkersFlag = None
    json_file: JsonFlag = None
    """Write the evaluations to this file, with every action of every game. `rlarcade watch` can
    replay it. Finished games are kept in a file next to it, so that an interrupted evaluation can
    resume."""
    report: ReportFlag = None
    video: Path | None = None
    """Write the median-score game of the first player to this file (.mp4)."""


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_evaluate_command, argv)


def _evaluate_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade evaluate", description=__doc__)
    _check(flags)
    players = named_players(
        [name for name in flags.checkpoints if name != HUMAN],
        game=flags.game,
        protocol=flags.protocol,
        device=resolve_device(flags.device),
        registry=flags.registry,
    )
    records = [_record(flags, player) for player in players]
    evaluations: list[Evaluation] = []
    with playing_on(flags.engine, flags.address, flags.workers):
        for player, record in zip(players, records, strict=True):
            evaluations.append(_evaluated(flags, player, record))
            say_lines(score_lines(evaluations[-1:]))
    if HUMAN in flags.checkpoints:
        if not players and flags.game is None:
            raise ConfigError(f"which game's {HUMAN} score? Name the game with --game.")
        games = [player.game for player in players] or [resolve_game(str(flags.game))]
        for game in dict.fromkeys(games):
            say(human_line(game))
    write_json(flags.json_file, {"evaluations": [e.model_dump(mode="json") for e in evaluations]})
    if flags.report is not None and evaluations:
        page = evaluation_report(evaluations, **sources_of(evaluations, flags.registry))
        tell_report(flags.report, page)
    if flags.video is not None and evaluations:
        recording = median_game(recordings_of(evaluations[0]))
        write_video(flags.video, recording, values_of_its_player(recording, flags.registry))
        say(f"video: {flags.video}")
    for record in filter(None, records):  # delete all at the end, so that no stop loses games
        record.unlink(missing_ok=True)
    return EXIT_OK


def _check(flags: _Flags) -> None:
    """Finds invalid flags before any game is played."""
    if not flags.checkpoints:
        raise ConfigError("no checkpoint was named. Name at least one, or the folder of a run.")
    check_seed(flags.seed)
    check_count("episodes", flags.episodes)
    check_outputs({"--json": flags.json_file, "--report": flags.report, "--video": flags.video})
    if set(flags.checkpoints) == {HUMAN} and (flags.report or flags.video):
        raise ConfigError(
            f"{HUMAN} is a published score, so there is no game for a report or a video. Name a "
            "checkpoint, too, or leave --report and --video out."
        )


def _record(flags: _Flags, player: Player) -> Path | None:
    """Returns the file for finished games, or None without --json or without a version."""
    if flags.json_file is None or not can_keep([player]):
        return None
    name = f"{player.game}-{player.protocol.name}-{short_version(str(player.version))}"
    return flags.json_file.with_name(f"{flags.json_file.name}.{name}-seed{flags.seed}.part")


def _evaluated(flags: _Flags, player: Player, record: Path | None) -> Evaluation:
    with (
        resumable("games", kept=record is not None),
        ProgressLine(flags.episodes, f"playing {player.name}", unit="games") as line,
    ):
        return evaluate_agent(
            player,
            episodes=flags.episodes,
            seed=flags.seed,
            record=record,
            on_episode=partial(_show, line),
            on_record=partial(tell_taken, thing="game"),
        )


def _show(line: ProgressLine, result: EpisodeResult, done: int, total: int) -> None:
    del result
    line.update(done, total=total)


if __name__ == "__main__":
    sys.exit(main())
