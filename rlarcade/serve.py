"""`python -m rlarcade.serve`: serves each game's champion over HTTP and WebSocket."""

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlarcade.command_line import parse_flags
from rlarcade.console import EXIT_OK, run_command, say
from rlarcade.errors import ConfigError
from rlarcade.foreign import from_extra
from rlarcade.games.names import display_name
from rlarcade.play_commands import AddressFlag
from rlarcade.registry.address import address_of
from rlarcade.registry.registry import DEFAULT_REGISTRY
from rlarcade.registry.store import is_registry

if TYPE_CHECKING:
    from rlarcade.serving.stock import Loader

_REPLICAS = 2


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    registry: str = str(DEFAULT_REGISTRY)
    """Folder of the registry with the champions, or a database: postgresql://USER@HOST/DATABASE. If
    there is none, the agents that come with rlarcade are served."""
    run: Path | None = None
    """Folder of a run that trains. Its newest checkpoint is served instead of a registry's
    champions, and the page shows its learning curve. The run may begin, stop and resume meanwhile.
    The server runs at the lowest priority, so that the training is not slowed down."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than this machine's own needs an operator's token."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """Port to listen on; 0 takes any free one."""
    token_file: Path | None = None
    """File with the operator's token. Unset: the environment variable RLARCADE_TOKEN. Without a
    token, nobody can start a rollout."""
    engine: Literal["local", "processes", "ray", "onnx"] = "local"
    """Where forward passes run. local: in this process; processes: in several worker processes,
    which a rolling rollout can replace one after the other; ray: in workers on a Ray cluster (extra
    `ray`); onnx: in this process, by onnxruntime instead of torch (extra `onnx`). With onnx, values
    differ from torch's in the last bits, so the promise of equal bits does not hold: a game may
    differ from that of `evaluate`."""
    replicas: Annotated[int, Field(ge=1, le=256)] | None = None
    """Number of workers of `--engine processes` or `ray`. Unset: 2. Ray needs one CPU for each, and
    one more."""
    address: AddressFlag = None


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_serve_command, argv)


def _serve_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade serve", description=__doc__)
    with from_extra("serve", "serving needs"):
        from rlarcade.serving.server import serve
    from rlarcade.serving.tokens import operator_token

    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    token = operator_token(flags.token_file)
    if flags.run is not None and flags.registry != str(DEFAULT_REGISTRY):
        raise ConfigError(
            "--run serves the checkpoints of a run, and --registry the champions of a registry. "
            "Leave one of them out."
        )
    has_workers = flags.engine in ("processes", "ray")
    if not has_workers and flags.replicas is not None:
        raise ConfigError(
            f"--replicas is the number of workers, and the engine {flags.engine} has none. Add "
            "--engine processes, or leave --replicas out."
        )
    if flags.engine != "ray" and flags.address is not None:
        raise ConfigError(
            "--address is that of a Ray cluster. Add --engine ray, or leave --address out."
        )
    serve(
        flags.registry,
        host=flags.host,
        port=flags.port,
        token=token,
        replicas=(flags.replicas or _REPLICAS) if has_workers else None,
        loader=_loader(flags.engine),
        engine=flags.engine,
        address=flags.address,
        run=flags.run,
        on_ready=partial(_tell, flags, token is not None),
    )
    return EXIT_OK


def _loader(engine: str) -> "Loader":
    if engine == "onnx":
        from rlarcade.learning.onnx_values import require_exporter
        from rlarcade.serving.onnx_loader import load_onnx

        require_exporter()
        return load_onnx
    from rlarcade.learning.policy import DQNAgent

    return DQNAgent.load


def _tell(flags: _Flags, has_token: bool, url: str, games: list[str]) -> None:
    if flags.run is not None:
        say(f"following the run in {flags.run}: its newest checkpoint plays")
    elif not is_registry(flags.registry):
        where = address_of(flags.registry)
        say(f"there is no registry at {where}: serving the agents that come with rlarcade")
    if flags.engine == "onnx":
        say("engine onnx: values differ from torch's in the last bits, so games may differ, too")
    online = ", ".join(map(display_name, games))
    nothing = "no game has a champion yet; see `promote promote`"
    if flags.run is not None:
        nothing = "the run has no checkpoint yet: the first one is served when it is saved"
    say(f"online: {online}" if online else nothing)
    if not has_token and flags.run is None:
        say("no operator's token: rollouts cannot be started (RLARCADE_TOKEN or --token-file)")
    say(f"listening on {url}  (Ctrl-C ends)")


if __name__ == "__main__":
    sys.exit(main())
