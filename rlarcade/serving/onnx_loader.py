"""Agents for the engine onnx: a version's network in onnxruntime instead of torch.

A version is converted when it is loaded, by the command `export` in a process of its own. So it is
served only if it computes what torch computes on frames of a game. torch's exporter in this process
would hold up all games for 0.3 s.

Its values differ from torch's in the last bits: the promise of equal bits does not hold for it.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rlarcade.checkpoint import Checkpoint
from rlarcade.errors import ExportError
from rlarcade.learning.onnx_values import OnnxValues
from rlarcade.learning.policy import DQNAgent
from rlarcade.serving.worker_process import child_environment
from rlarcade.text import printable

_SECONDS = 300.0  # for one version; it takes 5 s of CPU
_FILE = "network.onnx"


def load_onnx(checkpoint: Checkpoint) -> OnnxValues:
    """Converts a checkpoint's network.

    Raises:
        CheckpointError: it describes a network that cannot be built.
        ConfigError: onnxruntime is not installed.
        ExportError: the network cannot be converted, or computes something else than torch.
    """
    name = f"version-{checkpoint.manifest.weights_sha256[:12]}"
    try:
        with TemporaryDirectory(prefix="rlarcade-onnx-") as folder:
            DQNAgent.load(checkpoint).save(Path(folder) / name)
            _convert(name, folder)
            return OnnxValues.load(Path(folder) / _FILE)
    except OSError as error:
        raise ExportError(f"{name} cannot be converted to ONNX: {error.strerror}.") from error


def _convert(name: str, folder: str) -> None:
    """Writes the network of a checkpoint as a file, both in `folder`, as `rlarcade export` does."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "rlarcade.export", name, "--onnx", _FILE],
            check=False,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=child_environment(),
            timeout=_SECONDS,
            start_new_session=True,  # Ctrl-C is for the server
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"converting {name} took longer than {_SECONDS:g} seconds.") from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        why = printable(last.partition("error: ")[2], 500) or f"export ended: {done.returncode}."
        raise ExportError(why)
