"""What every subcommand has: the registry, `--json FILE`, and how it runs."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rlarcade.checkpoint import find_checkpoint
from rlarcade.command_line import JsonFlag
from rlarcade.console import write_json
from rlarcade.errors import ConfigError
from rlarcade.games.names import resolve_game
from rlarcade.play_commands import AddressFlag, EngineFlag, WorkersFlag, playing_on
from rlarcade.registry.registration import check as check_checkpoint
from rlarcade.registry.registry import CHAMPION, DEFAULT_REGISTRY, Registry
from rlarcade.registry.store import is_registry

VersionName = Annotated[
    str,
    tyro.conf.Positional,
    Field(description="Its number, the beginning of its digest, or ALIAS@GAME."),
]
GateFile = Annotated[
    Path | None,
    Field(description="Gate file; unset: configs/gate.toml, which explains every key."),
]
Reason = Annotated[str | None, Field(description="Why, for the record.")]


class Subcommand(BaseModel, ABC):
    """The flags of one subcommand, and what it does."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    registry: str = str(DEFAULT_REGISTRY)
    """Folder of the registry, or a database: postgresql://USER@HOST/DATABASE."""
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


class Command(Subcommand):
    """A subcommand that needs an existing registry."""

    def execute(self) -> int:
        """Opens the registry and runs the subcommand; returns the exit code."""
        with Registry.open(self.registry, create=False) as registry:
            return self._run(registry)

    @abstractmethod
    def _run(self, registry: Registry) -> int:
        """Runs the subcommand in the open registry; returns the exit code."""


class PlaysGames(BaseModel):
    """The flags of a subcommand that plays matches: where it does."""

    engine: EngineFlag = "local"
    address: AddressFlag = None
    workers: WorkersFlag = None

    def playing(self) -> AbstractContextManager[None]:
        """Plays all matches in the block where the flags say; see `playing_on`."""
        return playing_on(self.engine, self.address, self.workers)


class Writes(Command):
    """A subcommand that may create the registry."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A policy checkpoint, or a run folder for its newest checkpoint."""

    def execute(self) -> int:
        """Checks the checkpoint, opens the registry and runs the subcommand."""
        self._check()
        with Registry.open(self.registry) as registry:
            return self._run(registry)

    def _check(self) -> None:
        """Checks the checkpoint first, so that an error leaves no empty registry behind."""
        find_checkpoint(self.checkpoint)
        if not is_registry(self.registry):
            check_checkpoint(self.checkpoint)


def game_of(registry: Registry, named: str | None) -> str:
    """Returns the named game, or the only one that has a champion."""
    if named is not None:
        return resolve_game(named)
    games = [alias.game for alias in registry.aliases() if alias.name == CHAMPION]
    if len(games) == 1:
        return games[0]
    found = f"{', '.join(games)} have champions" if games else "no game has a champion yet"
    raise ConfigError(f"which game? {found}. Name it with --game.")
