"""`python -m rlarcade.promote SUBCOMMAND …`: register, check, promote and roll back versions."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict

from rlarcade.checkpoint import find_checkpoint
from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import (
    EXIT_AWAITING,
    EXIT_ERROR,
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_REJECTED,
    run_command,
    say,
    say_error,
    say_lines,
    write_json,
)
from rlarcade.errors import ConfigError, StaleError
from rlarcade.evaluation import Comparison
from rlarcade.files import read_bounded_text
from rlarcade.games.names import resolve_game
from rlarcade.outputs import check_outputs
from rlarcade.play_commands import resumable
from rlarcade.progress import ProgressLine
from rlarcade.promotion.gate import Gate, load_gate
from rlarcade.promotion.pipeline import approve, deny, reigning, run_pipeline, verdict_of
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.audit import read_receipt
from rlarcade.registry.database import DATABASE
from rlarcade.registry.documents import Alias, Receipt, Version
from rlarcade.registry.registration import check as check_checkpoint
from rlarcade.registry.registry import CHAMPION, DEFAULT_REGISTRY, Registry
from rlarcade.registry.states import Mode, Submission
from rlarcade.registry.store import is_registry
from rlarcade.reports import registry_lines as table
from rlarcade.reports.lines import standing

_EXITS = {
    "passed": EXIT_OK,
    "promoted": EXIT_OK,
    "rejected": EXIT_REJECTED,
    "denied": EXIT_REJECTED,
    "inconclusive": EXIT_INCONCLUSIVE,
    "awaiting_approval": EXIT_AWAITING,
    "expired": EXIT_ERROR,
    "stale": EXIT_ERROR,
}
"""Exit code for the state that a submission has reached."""

_LARGEST_RECEIPT = 10_000  # bytes of its file

_VersionName = Annotated[str, tyro.conf.Positional]


class _Subcommand(BaseModel, ABC):
    model_config = ConfigDict(use_attribute_docstrings=True)

    registry: Path = DEFAULT_REGISTRY
    """Folder of the registry."""
    json_file: JsonFlag = None
    """Write the result to this file."""

    @abstractmethod
    def execute(self) -> int:
        """Runs the subcommand; returns the exit code."""

    def outputs(self) -> dict[str, Path | None]:
        """Returns the files that the subcommand writes outside the registry, by their flags."""
        return {"--json": self.json_file}

    def tell(self, outcome: BaseModel | dict[str, Any]) -> None:
        """Writes `--json FILE`."""
        write_json(self.json_file, outcome)


class _Command(_Subcommand):
    """A subcommand that needs an existing registry."""

    def execute(self) -> int:
        with Registry.open(self.registry, create=False) as registry:
            return self.run(registry)

    @abstractmethod
    def run(self, registry: Registry) -> int:
        """Runs the subcommand in the open registry; returns the exit code."""


class _Writes(_Command):
    """A subcommand that may create the registry."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A policy checkpoint, or a run folder for its newest checkpoint."""

    def execute(self) -> int:
        self.check()
        with Registry.open(self.registry) as registry:
            return self.run(registry)

    def check(self) -> None:
        """Checks the checkpoint first, so that an error leaves no empty registry behind."""
        find_checkpoint(self.checkpoint)
        if not is_registry(self.registry):
            check_checkpoint(self.checkpoint)


class _Register(_Writes):
    """Registers a checkpoint as an immutable version. Equal weights are registered only once."""

    def run(self, registry: Registry) -> int:
        version = registry.register(self.checkpoint)
        say(f"version {version.number} of {version.game}: {version.digest[:12]}")
        self.tell(version)
        return EXIT_OK


class _Versions(_Command):
    """Lists the versions."""

    game: str | None = None
    """Only versions of this game."""
    archived: bool = False
    """Also list archived versions."""

    def run(self, registry: Registry) -> int:
        found = registry.versions(self.game, archived=self.archived)
        say_lines(table.version_lines(found))
        self.tell({"versions": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class _Show(_Command):
    """Shows all facts about a version, and the results of its submissions."""

    version: _VersionName
    """Its number, the beginning of its digest, or ALIAS@GAME."""

    def run(self, registry: Registry) -> int:
        version = registry.version(self.version)
        say_lines(table.version_details(version))
        found = submissions_of(registry, version=version.number)
        for current in found:
            _tell_submission(registry, current)
        submitted = [_submission_document(registry, current) for current in found]
        self.tell({"version": version.model_dump(mode="json"), "submissions": submitted})
        return EXIT_OK


class _Verify(_Command):
    """Checks every byte of the versions, and the tables against the audit log."""

    version: Annotated[str | None, tyro.conf.Positional] = None
    """Check only this version."""
    all: bool = False
    """Check all versions; this is the default."""

    def run(self, registry: Registry) -> int:
        if self.all and self.version is not None:
            raise ConfigError("name a version or --all, not both.")
        problems = registry.verify(self.version)
        for problem in problems:
            say_error(f"{problem.where}: {problem.what}")
        if not problems:
            say("everything is as it was registered")
        self.tell({"problems": [one.model_dump(mode="json") for one in problems]})
        return EXIT_ERROR if problems else EXIT_OK


class _Archive(_Command):
    """Hides a version that no alias or open submission uses. Nothing is ever deleted."""

    version: _VersionName
    """Its number, or the beginning of its digest."""

    def run(self, registry: Registry) -> int:
        version = registry.archive(self.version)
        say(f"version {version.number} is archived")
        self.tell(version)
        return EXIT_OK


class _Promote(_Command):
    """Sends a version through the gate; if it passes, makes it the champion of its game."""

    version: _VersionName
    """Its number, or the beginning of its digest."""
    gate: Path | None = None
    """Gate file; unset: configs/gate.toml, which explains every key."""
    force: bool = False
    """Promote without the gate, which is recorded as forced. Requires a reason."""
    reason: str | None = None
    """Why, for the record."""

    def run(self, registry: Registry) -> int:
        version = registry.version(self.version)
        if self.force:
            return self._forced(registry, version)
        if self.reason is not None:
            raise ConfigError("--reason needs --force; otherwise the gate's verdict is the reason.")
        outcome = _piped(registry, version, "promote", load_gate(self.gate))
        self.tell(outcome)
        return _exit(outcome)

    def _forced(self, registry: Registry, version: Version) -> int:
        if not (self.reason or "").strip():
            raise ConfigError("--force skips the gate, so it needs a --reason for the record.")
        if (already := _reigning(registry, version)) is not None:
            self.tell(already)
            return EXIT_OK
        alias = registry.move_alias(
            version.game,
            CHAMPION,
            version.number,
            expected_generation=registry.generation(version.game),
            kind="force",
            reason=self.reason,
        )
        assert alias is not None, "it points to the version"
        say(f"version {version.number} is the champion of {version.game}: FORCED, {self.reason}")
        self.tell({"alias": alias.model_dump(mode="json"), "forced": True})
        return EXIT_OK


class _Rollback(_Command):
    """Makes an earlier champion the champion again, in one step."""

    to: str | None = None
    """The earlier champion. Unset: the previous one; repeated, the one before that."""
    game: str | None = None
    """The champion's game; required if several games have a champion."""
    reason: str | None = None
    """Why, for the record."""

    def run(self, registry: Registry) -> int:
        game = _game(registry, self.game)
        if (
            self.to is not None
            and (already := _reigning(registry, registry.version(self.to))) is not None
        ):
            self.tell(already)
            return EXIT_OK
        alias = registry.rollback(game, to=self.to, reason=self.reason)
        say(f"version {alias.version} ({alias.digest[:12]}) is the champion of {game} again")
        self.tell(alias)
        return EXIT_OK


class _Decides(_Command):
    version: _VersionName
    """Its number, or the beginning of its digest."""
    by: str
    """Your name."""
    note: str
    """Your reason."""

    def tell_decided(self, registry: Registry, outcome: Submission) -> None:
        """Prints the submission's state after the decision."""
        say(table.submission_line(outcome))
        self.tell(_submission_document(registry, outcome))


class _Approve(_Decides):
    """Approves a version that awaits approval; the last required approval promotes it."""

    def run(self, registry: Registry) -> int:
        version = registry.version(self.version)
        outcome = approve(registry, version, by=self.by, note=self.note)
        self.tell_decided(registry, outcome)
        return _EXITS[outcome.state]


class _Deny(_Decides):
    """Denies a version that awaits approval."""

    def run(self, registry: Registry) -> int:
        version = registry.version(self.version)
        self.tell_decided(registry, deny(registry, version, by=self.by, note=self.note))
        return EXIT_OK


class _AliasList(_Command):
    """Lists the aliases and the versions that they point to."""

    game: str | None = None
    """Only aliases of this game."""

    def run(self, registry: Registry) -> int:
        found = registry.aliases(self.game)
        say_lines(table.alias_lines(found))
        self.tell({"aliases": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class _AliasHistory(_Command):
    """Lists every move of an alias: actor, time, reason and evidence."""

    name: Annotated[str, tyro.conf.Positional] = CHAMPION
    """The alias."""
    game: str | None = None
    """The alias's game; required if several games have a champion."""

    def run(self, registry: Registry) -> int:
        moves = registry.history(_game(registry, self.game), self.name)
        say_lines(table.history_lines(moves))
        self.tell({"moves": [one.model_dump(mode="json") for one in moves]})
        return EXIT_OK


class _AliasSet(_Command):
    """Points an alias to a version, unless somebody else has moved the alias."""

    name: Annotated[str, tyro.conf.Positional]
    """The alias: challenger, or a name of your choice. The champion is promoted, not set."""
    version: _VersionName
    """Its number, or the beginning of its digest."""
    generation: int | None = None
    """The generation that the alias must have now; unset: any."""
    reason: str | None = None
    """Why, for the record."""

    def run(self, registry: Registry) -> int:
        if self.name == CHAMPION:
            raise ConfigError(
                "the champion is not set by hand. Use promote VERSION, which asks the gate (or "
                "--force --reason TEXT), or rollback."
            )
        version = registry.version(self.version)
        known = registry.generation(version.game, self.name)
        alias = registry.move_alias(
            version.game,
            self.name,
            version.number,
            expected_generation=known if self.generation is None else self.generation,
            kind="set",
            reason=self.reason,
        )
        assert alias is not None, "it points to the version"
        say_lines(table.alias_lines([alias]))
        self.tell(alias)
        return EXIT_OK


class _PipelineRun(_Writes):
    """Registers a checkpoint and sends it through the gate, as far as the mode allows."""

    mode: Literal["ci", "delivery", "deployment"]
    """ci: checks only. delivery: then waits for approval. deployment: promotes without approval."""
    gate: Path | None = None
    """Gate file; unset: configs/gate.toml, which explains every key."""

    def check(self) -> None:
        super().check()
        load_gate(self.gate)

    def run(self, registry: Registry) -> int:
        gate = load_gate(self.gate)
        outcome = _piped(registry, registry.register(self.checkpoint), self.mode, gate)
        self.tell(outcome)
        return _exit(outcome)


class _PipelineList(_Command):
    """Lists submissions and their states, newest first."""

    game: str | None = None
    """Only submissions of this game."""

    def run(self, registry: Registry) -> int:
        game = None if self.game is None else resolve_game(self.game)
        found = submissions_of(registry, game=game)
        say_lines([table.submission_line(one) for one in found] or ["no submissions yet"])
        self.tell({"submissions": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class _AuditLog(_Command):
    """Shows the audit log, oldest entry first."""

    since: int = 0
    """Only entries after this sequence number."""

    def run(self, registry: Registry) -> int:
        found = list(registry.events(self.since))
        say_lines([table.event_line(one) for one in found])
        self.tell({"events": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class _AuditHead(_Command):
    """Prints a receipt of the current audit log. Keep it elsewhere, for `audit verify`."""

    def run(self, registry: Registry) -> int:
        receipt = registry.audit_head()
        say(str(receipt))
        self.tell(receipt)
        return EXIT_OK


class _AuditVerify(_Command):
    """Checks that no entry of the audit log was altered, removed or moved."""

    receipt: str | None = None
    """Output of `audit head`, or a file that holds it. Only a receipt reveals that the newest
    entries and their count were removed."""

    def run(self, registry: Registry) -> int:
        receipt = None if self.receipt is None else _receipt(self.receipt)
        problem = registry.verify_audit(receipt)
        if problem is None:
            since = "" if receipt is None else f", and begins with the receipt's {receipt.count:,}"
            say(f"the audit log is unaltered{since}")
        else:
            say_error(f"{problem.where}: {problem.what}")
        self.tell({"problem": problem.model_dump(mode="json") if problem else None})
        return EXIT_OK if problem is None else EXIT_ERROR


def _receipt(given: str) -> Receipt:
    """Reads a receipt from its text, or from a file that holds it."""
    path = Path(given)
    if not os.path.lexists(path):
        return read_receipt(given)
    try:
        return read_receipt(read_bounded_text(path, _LARGEST_RECEIPT))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"--receipt {path} cannot be read: {reason}.") from error


class _Export(_Command):
    """Writes the whole registry to one file."""

    file: Annotated[Path, tyro.conf.Positional]
    """The file (.tar)."""

    def outputs(self) -> dict[str, Path | None]:
        return super().outputs() | {"export": self.file}

    def run(self, registry: Registry) -> int:
        registry.export(self.file)
        say(f"exported to {self.file}")
        self.tell({"file": str(self.file)})
        return EXIT_OK


class _Import(_Subcommand):
    """Creates a registry from an exported file, in a new folder; no code in the file is run."""

    file: Annotated[Path, tyro.conf.Positional]
    """The file (.tar)."""

    def execute(self) -> int:
        Registry.import_(self.file, self.registry).close()
        say(f"imported into {self.registry}")
        self.tell({"registry": str(self.registry)})
        return EXIT_OK


def _named(name: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False)


class _AliasGroup(BaseModel):
    """Aliases and their history."""

    command: (
        Annotated[_AliasList, _named("list")]
        | Annotated[_AliasHistory, _named("history")]
        | Annotated[_AliasSet, _named("set")]
    )


class _PipelineGroup(BaseModel):
    """Pipelines: continuous integration, delivery and deployment."""

    command: Annotated[_PipelineRun, _named("run")] | Annotated[_PipelineList, _named("list")]


class _AuditGroup(BaseModel):
    """The audit log of all changes."""

    command: (
        Annotated[_AuditLog, _named("log")]
        | Annotated[_AuditHead, _named("head")]
        | Annotated[_AuditVerify, _named("verify")]
    )


_Any = (
    Annotated[_Register, _named("register")]
    | Annotated[_Versions, _named("versions")]
    | Annotated[_Show, _named("show")]
    | Annotated[_Promote, _named("promote")]
    | Annotated[_Rollback, _named("rollback")]
    | Annotated[_PipelineGroup, _named("pipeline")]
    | Annotated[_Approve, _named("approve")]
    | Annotated[_Deny, _named("deny")]
    | Annotated[_AliasGroup, _named("alias")]
    | Annotated[_Verify, _named("verify")]
    | Annotated[_AuditGroup, _named("audit")]
    | Annotated[_Archive, _named("archive")]
    | Annotated[_Export, _named("export")]
    | Annotated[_Import, _named("import")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_promote_command, argv)


def _promote_command(argv: Sequence[str]) -> int:
    asked: Any = parse_flags(
        _Any,
        argv,
        prog="rlarcade promote",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    command: _Subcommand = getattr(asked, "command", asked)
    check_outputs(command.outputs(), {"the registry's database": command.registry / DATABASE})
    try:
        return command.execute()
    except StaleError as error:
        say_error(f"STALE: {str(error).removeprefix('STALE: ')}")
    except OSError as error:  # a disk that fills up or goes away
        say_error(f"{error.strerror or error}: {error.filename or command.registry}")
    return EXIT_ERROR


def _game(registry: Registry, named: str | None) -> str:
    """Returns the named game, or the only one that has a champion."""
    if named is not None:
        return resolve_game(named)
    games = [alias.game for alias in registry.aliases() if alias.name == CHAMPION]
    if len(games) == 1:
        return games[0]
    found = f"{', '.join(games)} have champions" if games else "no game has a champion yet"
    raise ConfigError(f"which game? {found}. Name it with --game.")


class _Progress(ExitStack):
    """Shows which check is running, and the score of a match."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._pairs = {"random": gate.random.max_pairs, "match": gate.match.max_pairs}
        self._line: ProgressLine | None = None

    def begins(self, check: str) -> None:
        """Called before a check runs."""
        self.close()
        say(f"checking {check} …")
        if check in self._pairs:
            line = ProgressLine(self._pairs[check], check, unit="pairs", at_most=True)
            self._line = self.enter_context(line)

    def pair(self, match: Comparison) -> None:
        """Called after each pair of games."""
        assert self._line is not None, "only matches have pairs"
        self._line.update(match.pairs, lambda: standing(match))


def _reigning(registry: Registry, version: Version) -> Alias | None:
    """Returns the champion's alias if the version is the champion already, and prints that."""
    alias = reigning(registry, version)
    if alias is not None:
        say(f"version {version.number} is the champion of {version.game} already")
    return alias


def _piped(registry: Registry, version: Version, mode: Mode, gate: Gate) -> dict[str, Any]:
    """Runs the pipeline and prints its result."""
    if (already := _reigning(registry, version)) is not None:
        return {"submission": None, "verdict": None, "alias": already.model_dump(mode="json")}
    with resumable("games"), _Progress(gate) as progress:
        current = run_pipeline(
            registry, version, mode, gate, on_check=progress.begins, on_pair=progress.pair
        )
    _tell_submission(registry, current)
    if current.state == "awaiting_approval":
        say(
            f"next: python -m rlarcade.promote approve {version.number} --by NAME --note TEXT "
            "(or deny)"
        )
    return _submission_document(registry, current)


def _tell_submission(registry: Registry, current: Submission) -> None:
    verdict = verdict_of(registry, current)
    say(table.submission_line(current))
    say_lines(table.verdict_lines(verdict) if verdict else [])


def _submission_document(registry: Registry, current: Submission) -> dict[str, Any]:
    verdict = verdict_of(registry, current)
    alias: Alias | None = registry.alias(current.game)
    return {
        "submission": current.model_dump(mode="json"),
        "verdict": verdict.model_dump(mode="json") if verdict else None,
        "alias": alias.model_dump(mode="json") if alias else None,
    }


def _exit(outcome: dict[str, Any]) -> int:
    submitted = outcome["submission"]
    return EXIT_OK if submitted is None else _EXITS[submitted["state"]]


if __name__ == "__main__":
    sys.exit(main())
