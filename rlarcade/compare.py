"""`python -m rlarcade.compare CHAMPION CANDIDATE`: plays a match and says promote or reject."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rlarcade.checked import AsWritten, validated
from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import (
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_REJECTED,
    run_command,
    say_lines,
    write_json,
)
from rlarcade.errors import ConfigError
from rlarcade.evaluation import Comparison, Rule, compare_agents
from rlarcade.evaluation.round_robin import compare_all
from rlarcade.evaluation.suite import SUITE_RULE, Guard, compare_suite
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
from rlarcade.playing.named import named_players
from rlarcade.playing.players import Player
from rlarcade.playing.schedule import check_count
from rlarcade.progress import ProgressLine
from rlarcade.reports import (
    match_report,
    round_robin_report,
    sources_of,
    suite_report,
)
from rlarcade.reports.lines import (
    match_lines,
    round_robin_lines,
    standing,
    suite_lines,
    suite_standing,
)
from rlarcade.toml_files import read_toml_as

_EXITS = {"promote": EXIT_OK, "reject": EXIT_REJECTED, "inconclusive": EXIT_INCONCLUSIVE}


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    contestants: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The version in use, then the version that may replace it. Each is a policy checkpoint; a run
    folder (its newest checkpoint); a version of a registry (7, champion@pong); an agent that comes
    with rlarcade (zoo:SpaceInvaders); `search:` and one of these, which looks ahead
    (search,simulations=24:7); `random`; or `module:factory=TEXT`, a policy of your own from
    `factory(game, TEXT)`; without =TEXT from `factory(game)`. Its games are kept if it has a
    `version`, a text such as a digest of its weights. More than two play a round robin."""
    suite: Path | None = None
    """Play one match over several games. The TOML file has `[[games]]`, each with champion and
    candidate, and may have `guard` (prove, alarm, none) and `margin`."""
    game: GameFlag = None
    protocol: ProtocolFlag = None
    max_pairs: int = 400
    """Give up after this many pairs (rounds, for a suite): the verdict is then inconclusive."""
    alpha: float = 0.05
    """Bound on the probability of promoting a candidate that is no better."""
    beta: float = 0.10
    """Bound on the probability of rejecting a candidate that wins 60 of 100 pairs (58 in a
    suite)."""
    non_inferiority: float | None = None
    """Promote a candidate that is not worse by this margin. With 0.1 the bar is 40 of 100 pairs."""
    mix_leagues: bool = False
    """Allow a match of players that see only the screen against players that look ahead with access
    to the emulator (`search:`). The verdict says so."""
    seed: SeedFlag = 0
    folder: Annotated[Path, tyro.conf.arg(name="dir")] = Path("checkpoints/matches")
    """Folder that keeps the pairs, so that an interrupted match can resume."""
    device: DeviceFlag = "cpu"
    registry: RegistryFlag = None
    engine: EngineFlag = "local"
    address: AddressFlag = None
    workers: WorkersFlag = None
    json_file: JsonFlag = None
    """Write the match to this file, with every action of every game."""
    report: ReportFlag = None


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_compare_command, argv)


def _compare_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade compare", description=__doc__)
    check_seed(flags.seed)
    check_count("max_pairs", flags.max_pairs)
    check_outputs(
        {"--json": flags.json_file, "--report": flags.report},
        {"--suite": flags.suite} if flags.suite is not None else {},
    )
    if flags.suite is not None:
        if flags.contestants:
            raise ConfigError("name two checkpoints or a --suite, not both.")
        return _suite(flags, flags.suite)
    if len(flags.contestants) < 2:
        raise ConfigError(
            "name a champion and a candidate; more than two play a round robin, and --suite FILE "
            "plays a match over several games."
        )
    players = _players(flags, flags.contestants, flags.game)
    return _match(flags, *players) if len(players) == 2 else _round_robin(flags, players)


def _playing(flags: _Flags) -> AbstractContextManager[None]:
    return playing_on(flags.engine, flags.address, flags.workers)


def _players(flags: _Flags, names: Sequence[str], game: str | None) -> list[Player]:
    return named_players(
        names,
        game=game,
        protocol=flags.protocol,
        device=resolve_device(flags.device),
        registry=flags.registry,
    )


def _match(flags: _Flags, champion: Player, candidate: Player) -> int:
    rule = _rule(flags)
    record = _record(flags.folder, [champion, candidate])
    with _playing(flags), _watched(flags.max_pairs, "match", record) as watch:
        match = compare_agents(
            champion,
            candidate,
            rule=rule,
            max_pairs=flags.max_pairs,
            seed=flags.seed,
            record=record,
            mix_leagues=flags.mix_leagues,
            on_pair=lambda newest: watch.update(newest.pairs, lambda: standing(newest)),
            on_record=partial(tell_taken, thing="pair"),
        )
    _tell(flags, match, match_lines(match), match_report, [match])
    assert match.verdict is not None, "a match is played to its end"
    return _EXITS[match.verdict]


def _round_robin(flags: _Flags, players: list[Player]) -> int:
    if flags.non_inferiority is not None:
        raise ConfigError("a round robin only tests who is better; leave --non-inferiority out.")
    if flags.beta != _Flags.model_fields["beta"].default:
        raise ConfigError("a round robin only tests who is better; leave --beta out.")
    rule = _rule(flags)
    pairings = len(players) * (len(players) - 1) // 2

    def show(place: int, newest: Comparison) -> None:
        watch.update(place * flags.max_pairs + newest.pairs, lambda: standing(newest))

    record = _record(flags.folder / "round-robin", players)
    with _playing(flags), _watched(flags.max_pairs * pairings, "round robin", record) as watch:
        table = compare_all(
            players,
            alpha=rule.alpha,
            max_pairs=flags.max_pairs,
            seed=flags.seed,
            record=record,
            mix_leagues=flags.mix_leagues,
            on_pair=show,
            on_record=partial(tell_taken, thing="pair"),
        )
    _tell(flags, table, round_robin_lines(table), round_robin_report, table.matches)
    return EXIT_OK


def _suite(flags: _Flags, path: Path) -> int:
    if flags.non_inferiority is not None:
        raise ConfigError("a suite takes its margin from its file; leave --non-inferiority out.")
    if flags.game is not None:
        raise ConfigError(
            "a suite takes its games from its file; leave --game out. An entry of [[games]] may "
            "have `game`."
        )
    rule = SUITE_RULE.model_copy(update=_rule(flags).model_dump(include={"alpha", "beta"}))
    file = read_toml_as(_SuiteFile, path, "suite")
    games = [_players(flags, [one.champion, one.candidate], one.game) for one in file.games]
    record = _record(flags.folder / "suites", [side for pair in games for side in pair])
    with _playing(flags), _watched(flags.max_pairs, "suite", record, unit="rounds") as watch:
        suite = compare_suite(
            [(champion, candidate) for champion, candidate in games],
            rule=rule,
            guard=file.guard,
            margin=file.margin,
            max_rounds=flags.max_pairs,
            seed=flags.seed,
            record=record,
            mix_leagues=flags.mix_leagues,
            on_round=lambda newest: watch.update(newest.rounds, lambda: suite_standing(newest)),
            on_record=partial(tell_taken, thing="pair"),
        )
    _tell(flags, suite, suite_lines(suite), suite_report, suite.matches)
    assert suite.verdict is not None, "a suite is played to its end"
    return _EXITS[suite.verdict]


def _record(folder: Path, players: Sequence[Player]) -> Path | None:
    return folder if can_keep(players) else None


def _tell(
    flags: _Flags,
    document: BaseModel,
    lines: Sequence[str],
    report: Callable[..., str],
    matches: Sequence[Comparison],
) -> None:
    """Prints and writes a result. The report comes last, because it replays games."""
    say_lines(lines)
    write_json(flags.json_file, document)
    if flags.report is not None:
        tell_report(flags.report, report(document, **sources_of(matches, flags.registry)))


class _SuiteGame(AsWritten):
    model_config = ConfigDict(extra="forbid")

    champion: str
    candidate: str
    game: str | None = None


class _SuiteFile(AsWritten):
    model_config = ConfigDict(extra="forbid")

    guard: Guard = "prove"
    margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.10
    games: Annotated[list[_SuiteGame], Field(min_length=1)]


@contextmanager
def _watched(
    total: int, what: str, record: Path | None, *, unit: str = "pairs"
) -> Iterator[ProgressLine]:
    """Shows a progress line for work that may end early. On Ctrl-C it tells how to resume."""
    with (
        resumable("pairs", kept=record is not None),
        ProgressLine(total, what, unit=unit, at_most=True) as line,
    ):
        yield line


def _rule(flags: _Flags) -> Rule:
    rule = validated(Rule, {"alpha": flags.alpha, "beta": flags.beta})
    margin = flags.non_inferiority
    if margin is None:
        return rule
    if not 0 < margin < 0.5:
        raise ConfigError(f"non_inferiority must be between 0 and 0.5, got {margin:g}.")
    return Rule.non_inferiority(margin, alpha=rule.alpha, beta=rule.beta)


if __name__ == "__main__":
    sys.exit(main())
