"""What all commands share: exit codes, output, errors as one line, and stopping cleanly."""

from rlarcade.console.exits import (
    EXIT_AWAITING,
    EXIT_ERROR,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REJECTED,
    EXIT_USAGE,
)
from rlarcade.console.running import run_command
from rlarcade.console.saying import (
    deliver,
    is_terminal,
    say,
    say_error,
    say_lines,
    say_warning,
    write_json,
)
from rlarcade.console.stopping import PARENT_PIPE, StopSignal, stop_with_the_sweep

__all__ = [
    "EXIT_AWAITING",
    "EXIT_ERROR",
    "EXIT_INCONCLUSIVE",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "EXIT_REJECTED",
    "EXIT_USAGE",
    "PARENT_PIPE",
    "StopSignal",
    "deliver",
    "is_terminal",
    "run_command",
    "say",
    "say_error",
    "say_lines",
    "say_warning",
    "stop_with_the_sweep",
    "write_json",
]
