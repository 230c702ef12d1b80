"""What a section of a sweep's file does while runs train: it asks for more, and stops some."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from rlarcade.sweeps.file import SweepRun


class Plan(Protocol):
    """Chooses runs by the results of others."""

    name: str
    """Of the section, and of its part of the results file."""

    def opened(self) -> AbstractContextManager[None]:
        """Holds what the plan writes in the sweep's folder.

        Raises:
            RunFolderError: the folder holds another plan, or cannot be used.
        """
        ...

    def begin(self) -> list[SweepRun]:
        """Returns the runs that are known at the start, finished ones too; at least one."""
        ...

    def more(self, running: int) -> list[SweepRun]:
        """Returns runs that can begin now. It is asked whenever no run waits and there is room.

        Args:
            running: runs that train now.
        """
        ...

    def is_done(self, run: SweepRun) -> bool:
        """Whether nothing is left to train of a run."""
        ...

    def stops(self, run: SweepRun) -> bool:
        """Whether a run that trains must be stopped now. It is true once for a run."""
        ...

    def stopped_at(self, run: SweepRun) -> int | None:
        """Returns the agent step at which the plan has stopped a run that has ended, or None."""
        ...

    def given_up_at(self, run: SweepRun) -> int | None:
        """Returns the agent step at which a run diverged if the plan goes on without it, or None.

        It is asked of runs that have ended.
        """
        ...

    def is_finished(self) -> bool:
        """Whether no further run will be asked for."""
        ...

    def document(self) -> dict[str, Any]:
        """Returns the plan's part of the results file."""
        ...

    def lines(self, document: dict[str, Any]) -> list[str]:
        """Returns what a document says, in words."""
        ...
