"""`promote register`, `versions`, `show`, `verify`, `archive`: the versions of a registry."""

from typing import Annotated

import tyro

from rlarcade.console import EXIT_ERROR, EXIT_OK, say, say_error, say_lines
from rlarcade.errors import ConfigError
from rlarcade.promote.subcommand import Command, VersionName, Writes
from rlarcade.promote.submissions import submission_document, tell_submission
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.registry import Registry
from rlarcade.reports import registry_lines as table


class Register(Writes):
    """Registers a checkpoint as an immutable version. Equal weights are registered only once."""

    def _run(self, registry: Registry) -> int:
        version = registry.register(self.checkpoint)
        say(f"version {version.number} of {version.game}: {version.digest[:12]}")
        self.tell(version)
        return EXIT_OK


class Versions(Command):
    """Lists the versions."""

    game: str | None = None
    """Only versions of this game."""
    archived: bool = False
    """Also list archived versions."""

    def _run(self, registry: Registry) -> int:
        found = registry.versions(self.game, archived=self.archived)
        say_lines(table.version_lines(found))
        self.tell({"versions": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class Show(Command):
    """Shows all facts about a version, and the results of its submissions."""

    version: VersionName

    def _run(self, registry: Registry) -> int:
        version = registry.version(self.version)
        say_lines(table.version_details(version))
        found = submissions_of(registry, version=version.number)
        for current in found:
            tell_submission(registry, current)
        submitted = [submission_document(registry, current) for current in found]
        self.tell({"version": version.model_dump(mode="json"), "submissions": submitted})
        return EXIT_OK


class Verify(Command):
    """Checks every byte of the versions, and the tables against the audit log."""

    version: Annotated[str | None, tyro.conf.Positional] = None
    """Check only this version."""
    all: bool = False
    """Check all versions; this is the default."""

    def _run(self, registry: Registry) -> int:
        if self.all and self.version is not None:
            raise ConfigError("name a version or --all, not both.")
        problems = registry.verify(self.version)
        for problem in problems:
            say_error(f"{problem.where}: {problem.what}")
        if not problems:
            say("everything is as it was registered")
        self.tell({"problems": [one.model_dump(mode="json") for one in problems]})
        return EXIT_ERROR if problems else EXIT_OK


class Archive(Command):
    """Hides a version that no alias or open submission uses. Nothing is ever deleted."""

    version: VersionName

    def _run(self, registry: Registry) -> int:
        version = registry.archive(self.version)
        say(f"version {version.number} is archived")
        self.tell(version)
        return EXIT_OK
