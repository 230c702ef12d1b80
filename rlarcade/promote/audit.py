"""`promote audit log`, `head`, `verify`: the log of all changes."""

import os
from pathlib import Path

from rlarcade.console import EXIT_ERROR, EXIT_OK, say, say_error, say_lines
from rlarcade.errors import ConfigError
from rlarcade.files import read_bounded_text
from rlarcade.promote.subcommand import Command
from rlarcade.registry.audit import read_receipt
from rlarcade.registry.documents import Receipt
from rlarcade.registry.registry import Registry
from rlarcade.reports import registry_lines as table

_LARGEST_RECEIPT = 10_000  # bytes of its file


class AuditLog(Command):
    """Shows the audit log, oldest entry first."""

    since: int = 0
    """Only entries after this sequence number."""

    def _run(self, registry: Registry) -> int:
        found = list(registry.events(self.since))
        say_lines([table.event_line(one) for one in found])
        self.tell({"events": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class AuditHead(Command):
    """Prints a receipt of the current audit log. Keep it elsewhere, for `audit verify`."""

    def _run(self, registry: Registry) -> int:
        receipt = registry.audit_head()
        say(str(receipt))
        self.tell(receipt)
        return EXIT_OK


class AuditVerify(Command):
    """Checks that no entry of the audit log was altered, removed or moved."""

    receipt: str | None = None
    """Output of `audit head`, or a file that holds it. Only a receipt reveals that the newest
    entries and their count were removed."""

    def _run(self, registry: Registry) -> int:
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
