"""`python -m rlarcade.compare CHAMPION CANDIDATE`: plays a match and says promote or reject."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rlarcade.checked import AsWritten, validated
from rlarcade.command_line import parse_flags
from rlarcade.config import read_toml
from rlarcade.console import (
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_REJECTED,
    check_seed,
    run_command,
    say,
    say_error,
    say_lines,
    say_warning,
    write_json,
)
from rlarcade.errors import ConfigError
from rlarcade.evaluation import Comparison, Rule, compare_agents
from rlarcade.evaluation.round_robin import compare_all
from rlarcade.evaluation.suite import SUITE_RULE, Guard, compare_suite
from rlarcade.learning.hardware import resolve_device
from rlarcade.outputs import check_outputs
from rlarcade.playing.named import named_players, told_unkept
from rlarcade.playing.players import AnyPlayer
from rlarcade.playing.schedule import check_count
from rlarcade.progress import ProgressLine
from rlarcade.reports import (
    match_report,
    round_robin_report,
    sources_of,
    suite_report,
    write_report,
)
from rlarcade.reports.lines import (
    match_lines,
    round_robin_lines,
    standing,
    suite_lines,
    suite_standing,
)
from rlarcade.text import counted

_EXITS = {"promote": EXIT_OK, "reject": EXIT_REJECTED, "inconclusive": EXIT_INCONCLUSIVE}


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    contestants: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The version in use, then the version that may replace it. Each is a policy checkpoint; a run
    folder (its newest checkpoint); a version of a registry (7, champion@pong); `random`; or
    `module:factory`, your own policy. Games of your policy are kept if it has a `version`, a text
    such as a digest of its weights. More than two play a round robin."""
    suite: Path | None = None
    """Play one match over several games. The TOML file has `[[games]]`, each with champion and
    candidate, and may have `guard` (prove, alarm, none) and `margin`."""
    game: str | None = None
    """Game to play, if no checkpoint determines it."""
    protocol: str | None = None
    """Protocol: v5, machado or nature. Unset: as the checkpoint was trained."""
    max_pairs: int = 400
    """Give up after this many pairs (rounds, for a suite): the verdict is then inconclusive."""
    alpha: float = 0.05
    """Bound on the probability of promoting a candidate that is no better."""
    beta: float = 0.10
    """Bound on the probability of rejecting a candidate that wins 60 of 100 pairs."""
    non_inferiority: float | None = None
    """Promote a candidate that is not worse by this margin. With 0.1 the bar is 40 of 100 pairs."""
    seed: int = 0
    """Seed of the match. The same seed gives the same games."""
    folder: Annotated[Path, tyro.conf.arg(name="dir")] = Path("checkpoints/matches")
    """Folder that keeps the pairs, so that an interrupted match can resume."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the networks."""
    registry: Path | None = None
    """Folder of the registry with the versions. Unset: checkpoints/registry."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Write the match to this file, with every action of every game."""
    report: Path | None = None
    """Write a report of the match, suite or round robin to this file (.html)."""


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
    players = named_players(
        flags.contestants,
        game=flags.game,
        protocol=flags.protocol,
        device=resolve_device(flags.device),
        registry=flags.registry,
    )
    return _match(flags, *players) if len(players) == 2 else _round_robin(flags, players)


def _match(flags: _Flags, champion: AnyPlayer, candidate: AnyPlayer) -> int:
    rule = _rule(flags)
    with _watched(flags.max_pairs, "match") as watch:
        match = compare_agents(
            champion,
            candidate,
            rule=rule,
            max_pairs=flags.max_pairs,
            seed=flags.seed,
            record=_record(flags.folder, [champion, candidate]),
            on_pair=lambda newest: watch.update(newest.pairs, lambda: standing(newest)),
            on_record=_tell_record,
        )
    _tell(flags, match, match_lines(match), match_report, [match])
    assert match.verdict is not None, "a match is played to its end"
    return _EXITS[match.verdict]


def _round_robin(flags: _Flags, players: list[AnyPlayer]) -> int:
    if flags.non_inferiority is not None:
        raise ConfigError("a round robin only tests who is better; leave --non-inferiority out.")
    if flags.beta != _Flags.model_fields["beta"].default:
        raise ConfigError("a round robin only tests who is better; leave --beta out.")
    rule = _rule(flags)
    pairings = len(players) * (len(players) - 1) // 2

    def show(place: int, newest: Comparison) -> None:
        watch.update(place * flags.max_pairs + newest.pairs, lambda: standing(newest))

    with _watched(flags.max_pairs * pairings, "round robin") as watch:
        table = compare_all(
            players,
            alpha=rule.alpha,
            max_pairs=flags.max_pairs,
            seed=flags.seed,
            record=_record(flags.folder / "round-robin", players),
            on_pair=show,
            on_record=_tell_record,
        )
    _tell(flags, table, round_robin_lines(table), round_robin_report, table.matches)
    return EXIT_OK


def _suite(flags: _Flags, path: Path) -> int:
    if flags.non_inferiority is not None:
        raise ConfigError("a suite takes its margin from its file; leave --non-inferiority out.")
    rule = SUITE_RULE.model_copy(update=_rule(flags).model_dump(include={"alpha", "beta"}))
    file = _read_suite(path)
    device = resolve_device(flags.device)
    games = [
        named_players(
            [one.champion, one.candidate],
            game=one.game,
            protocol=flags.protocol,
            device=device,
            registry=flags.registry,
        )
        for one in file.games
    ]
    with _watched(flags.max_pairs, "suite", unit="rounds") as watch:
        suite = compare_suite(
            [(champion, candidate) for champion, candidate in games],
            rule=rule,
            guard=file.guard,
            margin=file.margin,
            max_rounds=flags.max_pairs,
            seed=flags.seed,
            record=_record(flags.folder / "suites", [side for pair in games for side in pair]),
            on_round=lambda newest: watch.update(newest.rounds, lambda: suite_standing(newest)),
            on_record=_tell_record,
        )
    _tell(flags, suite, suite_lines(suite), suite_report, suite.matches)
    assert suite.verdict is not None, "a suite is played to its end"
    return _EXITS[suite.verdict]


def _record(folder: Path, players: Sequence[AnyPlayer]) -> Path | None:
    """Returns the folder for pairs. If a policy has no version, warns and returns None."""
    unkept = told_unkept(players)
    if unkept is not None:
        say_warning(unkept)
    return folder if unkept is None else None


def _tell_record(path: Path, pairs: int) -> None:
    say(f"{counted(pairs, 'pair')} taken from {path}, played again from the recorded actions")


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
        write_report(
            flags.report,
            report(document, **sources_of(matches, flags.registry)),
        )
        say(f"report: {flags.report}")


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


def _read_suite(path: Path) -> _SuiteFile:
    document = read_toml(path, "suite")
    try:
        return validated(_SuiteFile, document)
    except ConfigError as error:
        raise ConfigError(f"suite {path}: {error}") from error


@contextmanager
def _watched(total: int, what: str, *, unit: str = "pairs") -> Iterator[ProgressLine]:
    """Shows a progress line for work that may end early. On Ctrl-C it tells how to resume."""
    try:
        with ProgressLine(total, what, unit=unit, at_most=True) as line:
            yield line
    except KeyboardInterrupt:
        say_error("finished pairs are kept; the same command resumes from there.")
        raise


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
