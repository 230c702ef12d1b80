"""`promote export`, `import` and `copy`: a whole registry as one file, or in another place."""

from pathlib import Path
from typing import Annotated

import tyro

from rlarcade.console import EXIT_OK, say
from rlarcade.promote.subcommand import Command, Subcommand
from rlarcade.registry.address import address_of
from rlarcade.registry.registry import Registry


class Export(Command):
    """Writes the whole registry to one file."""

    file: Annotated[Path, tyro.conf.Positional]
    """The file (.tar)."""

    def outputs(self) -> dict[str, Path | None]:
        """Returns the exported file, too."""
        return super().outputs() | {"export": self.file}

    def _run(self, registry: Registry) -> int:
        registry.export(self.file)
        say(f"exported to {self.file}")
        self.tell({"file": str(self.file)})
        return EXIT_OK


class Import(Subcommand):
    """Creates a registry from an exported file, in a new folder; no code in the file is run."""

    file: Annotated[Path, tyro.conf.Positional]
    """The file (.tar)."""

    def execute(self) -> int:
        """Creates the registry; returns the exit code."""
        Registry.import_(self.file, self.registry).close()
        say(f"imported into {self.registry}")
        self.tell({"registry": str(self.registry)})
        return EXIT_OK


class Copy(Command):
    """Copies the whole registry with its history to another folder or database."""

    to: Annotated[str, tyro.conf.Positional]
    """A folder that does not exist yet, or an empty database:
    postgresql://USER@HOST/DATABASE?blobs=PLACE."""

    def _run(self, registry: Registry) -> int:
        where = str(address_of(self.to))
        registry.copy(self.to)
        say(f"copied to {where}")
        self.tell({"registry": where})
        return EXIT_OK
