"""`promote promote` and `promote rollback`: which version is the champion."""

from rlarcade.console import EXIT_OK, say
from rlarcade.errors import ConfigError
from rlarcade.promote.subcommand import Command, GateFile, PlaysGames, Reason, VersionName, game_of
from rlarcade.promote.submissions import exit_code, piped, tell_reigning
from rlarcade.promotion.gate import load_gate
from rlarcade.registry.documents import Version
from rlarcade.registry.registry import CHAMPION, Registry


class Promote(Command, PlaysGames):
    """Sends a version through the gate; if it passes, makes it the champion of its game."""

    version: VersionName
    gate: GateFile = None
    force: bool = False
    """Promote without the gate, which is recorded as forced. Requires a reason."""
    reason: Reason = None

    def _run(self, registry: Registry) -> int:
        version = registry.version(self.version)
        if self.force:
            return self._forced(registry, version)
        if self.reason is not None:
            raise ConfigError("--reason needs --force; otherwise the gate's verdict is the reason.")
        outcome = piped(registry, version, "promote", load_gate(self.gate), playing=self.playing())
        self.tell(outcome)
        return exit_code(outcome)

    def _forced(self, registry: Registry, version: Version) -> int:
        if not (self.reason or "").strip():
            raise ConfigError("--force skips the gate, so it needs a --reason for the record.")
        if (already := tell_reigning(registry, version)) is not None:
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


class Rollback(Command):
    """Makes an earlier champion the champion again, in one step."""

    to: str | None = None
    """The earlier champion. Unset: the previous one; repeated, the one before that."""
    game: str | None = None
    """The champion's game; required if several games have a champion."""
    reason: Reason = None

    def _run(self, registry: Registry) -> int:
        game = game_of(registry, self.game)
        if self.to is not None and (named := registry.version(self.to)).game == game:
            already = tell_reigning(registry, named)
            if already is not None:
                self.tell(already)
                return EXIT_OK
        alias = registry.rollback(game, to=self.to, reason=self.reason)
        say(f"version {alias.version} ({alias.digest[:12]}) is the champion of {game} again")
        self.tell(alias)
        return EXIT_OK
