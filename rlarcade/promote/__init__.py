"""`python -m rlarcade.promote SUBCOMMAND …`: register, check, promote and roll back versions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel

from rlarcade.command_line import parse_flags
from rlarcade.console import EXIT_ERROR, run_command, say_error
from rlarcade.errors import StaleError
from rlarcade.outputs import check_outputs
from rlarcade.promote.aliases import AliasHistory, AliasList, AliasSet
from rlarcade.promote.audit import AuditHead, AuditLog, AuditVerify
from rlarcade.promote.champion import Promote, Rollback
from rlarcade.promote.subcommand import Subcommand
from rlarcade.promote.submissions import Approve, Deny, PipelineList, PipelineRun
from rlarcade.promote.transfer import Copy, Export, Import
from rlarcade.promote.versions import Archive, Register, Show, Verify, Versions
from rlarcade.registry.address import ServerAddress, address_of
from rlarcade.registry.sqlite import DATABASE


def _named(name: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False)


class _AliasGroup(BaseModel):
    """Aliases and their history."""

    command: (
        Annotated[AliasList, _named("list")]
        | Annotated[AliasHistory, _named("history")]
        | Annotated[AliasSet, _named("set")]
    )


class _PipelineGroup(BaseModel):
    """Pipelines: continuous integration, delivery and deployment."""

    command: Annotated[PipelineRun, _named("run")] | Annotated[PipelineList, _named("list")]


class _AuditGroup(BaseModel):
    """The audit log of all changes."""

    command: (
        Annotated[AuditLog, _named("log")]
        | Annotated[AuditHead, _named("head")]
        | Annotated[AuditVerify, _named("verify")]
    )


FLAGS = (
    Annotated[Register, _named("register")]
    | Annotated[Versions, _named("versions")]
    | Annotated[Show, _named("show")]
    | Annotated[Promote, _named("promote")]
    | Annotated[Rollback, _named("rollback")]
    | Annotated[_PipelineGroup, _named("pipeline")]
    | Annotated[Approve, _named("approve")]
    | Annotated[Deny, _named("deny")]
    | Annotated[_AliasGroup, _named("alias")]
    | Annotated[Verify, _named("verify")]
    | Annotated[_AuditGroup, _named("audit")]
    | Annotated[Archive, _named("archive")]
    | Annotated[Export, _named("export")]
    | Annotated[Import, _named("import")]
    | Annotated[Copy, _named("copy")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_promote_command, argv)


def _promote_command(argv: Sequence[str]) -> int:
    asked: Any = parse_flags(
        FLAGS,
        argv,
        prog="rlarcade promote",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    command: Subcommand = getattr(asked, "command", asked)
    check_outputs(command.outputs(), _inputs(address_of(command.registry)))
    try:
        return command.execute()
    except StaleError as error:
        say_error(f"STALE: {str(error).removeprefix('STALE: ')}")
    except OSError as error:  # a disk that fills up or goes away
        say_error(f"{error.strerror or error}: {error.filename or address_of(command.registry)}")
    return EXIT_ERROR


def _inputs(registry: Path | ServerAddress) -> dict[str, Path]:
    """Returns the files that no output may replace."""
    return {"the registry's database": registry / DATABASE} if isinstance(registry, Path) else {}
