"""What a result file says about where it is from."""

import shlex
import sys
from datetime import UTC, datetime

from rlarcade.runs.folder import code_commit


def provenance() -> dict[str, str | None]:
    """Returns the command of this process, the date (UTC) and the commit of the code."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": code_commit(),
    }
