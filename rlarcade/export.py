"""`python -m rlarcade.export CHECKPOINT --onnx FILE`: a checkpoint's network for other programs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict

from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import EXIT_OK, run_command, say, write_json
from rlarcade.errors import RlarcadeError
from rlarcade.evaluation.documents import short_version
from rlarcade.games.names import display_name
from rlarcade.learning.onnx_file import export_onnx
from rlarcade.learning.policy import DQNAgent
from rlarcade.outputs import check_outputs
from rlarcade.play_commands import RegistryFlag
from rlarcade.playing.references import load_named


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, a run folder (its newest checkpoint), or a version of a registry (7,
    champion@pong)."""
    onnx: Path
    """Write the network to this file (.onnx), if it computes what torch computes on frames of a
    game. It needs the extra `onnx`."""
    registry: RegistryFlag = None
    json_file: JsonFlag = None
    """Write the comparison with torch to this file."""


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_export_command, argv)


def _export_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade export", description=__doc__)
    check_outputs({"--onnx": flags.onnx, "--json": flags.json_file})
    agent = DQNAgent.load(load_named(flags.checkpoint, flags.registry))
    try:
        check = export_onnx(agent, flags.onnx)
    except OSError as error:
        raise RlarcadeError(
            f"--onnx {flags.onnx} cannot be written: {error.strerror}. Choose another file."
        ) from error
    say(f"{display_name(agent.game)}, protocol {agent.protocol.name}")
    say(f"  {agent.name}, version {short_version(agent.version)}")
    say(f"  compared with torch on {check.observations} observations of a game:")
    say(
        f"  Q-values differ by at most {check.largest_difference:.2g} "
        f"({check.allowed_difference:.2g} allowed), {check.equal_actions:.1%} of actions are equal"
    )
    say(f"onnx: {flags.onnx} ({check.file_bytes / 1e6:.2f} MB)")
    say("note: the last bits differ, so its games are not always those of the checkpoint")
    about = {"checkpoint": agent.name, "version": agent.version, "game": agent.game}
    write_json(flags.json_file, about | {"onnx": str(flags.onnx)} | check.model_dump(mode="json"))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
