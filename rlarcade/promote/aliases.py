"""`promote alias list`, `history`, `set`: names in use and the versions that they point to."""

from typing import Annotated

import tyro

from rlarcade.console import EXIT_OK, say_lines
from rlarcade.errors import ConfigError
from rlarcade.promote.subcommand import Command, Reason, VersionName, game_of
from rlarcade.registry.registry import CHAMPION, Registry
from rlarcade.reports import registry_lines as table


class AliasList(Command):
    """Lists the aliases and the versions that they point to."""

    game: str | None = None
    """Only aliases of this game."""

    def _run(self, registry: Registry) -> int:
        found = registry.aliases(self.game)
        say_lines(table.alias_lines(found))
        self.tell({"aliases": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class AliasHistory(Command):
    """Lists every move of an alias: actor, time, reason and evidence."""

    name: Annotated[str, tyro.conf.Positional] = CHAMPION
    """The alias."""
    game: str | None = None
    """The alias's game; required if several games have a champion."""

    def _run(self, registry: Registry) -> int:
        moves = registry.history(game_of(registry, self.game), self.name)
        say_lines(table.history_lines(moves))
        self.tell({"moves": [one.model_dump(mode="json") for one in moves]})
        return EXIT_OK


class AliasSet(Command):
    """Points an alias to a version, unless somebody else has moved the alias."""

    name: Annotated[str, tyro.conf.Positional]
    """The alias: challenger, or a name of your choice. The champion is promoted, not set."""
    version: VersionName
    generation: int | None = None
    """The generation that the alias must have now; unset: any."""
    reason: Reason = None

    def _run(self, registry: Registry) -> int:
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
