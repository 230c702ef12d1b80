"""Loads checkpoints after a check of their size: the manifest's network says how large they may be.

Checkpoints with a user's own torso are not among them: only its module knows its size. Torch, which
takes seconds to import, is imported only where a network is built.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlarcade.checked import reason
from rlarcade.checkpoint import Checkpoint, Manifest, load_checkpoint
from rlarcade.errors import CheckpointError
from rlarcade.files import LARGEST_TEXT
from rlarcade.zoo import is_zoo_name, zoo_name

if TYPE_CHECKING:
    from rlarcade.learning.policy import DQNAgent


def load_playable(path: str | Path) -> Checkpoint:
    """Reads a checkpoint. Refuses a large file of weights that exceeds its manifest's network.

    Arguments and errors are those of `load_checkpoint`. An agent of the zoo keeps its name as the
    checkpoint's path.
    """
    checkpoint = load_checkpoint(path, largest=_largest_weights)
    if is_zoo_name(path):
        return replace(checkpoint, path=Path(zoo_name(checkpoint.manifest.game)))
    return checkpoint


def load_agent(checkpoint: str | Path | Checkpoint, *, device: str = "cpu") -> "DQNAgent":
    """Loads an agent as `DQNAgent.load` does, for commands that mostly only ask or wait."""
    from rlarcade.learning.policy import DQNAgent

    return DQNAgent.load(checkpoint, device=device)


def _largest_weights(manifest: Manifest) -> int:
    from rlarcade.learning.networks import weights_bytes  # for large files only

    try:
        return weights_bytes(manifest.network, manifest.num_actions) + LARGEST_TEXT
    except ValueError as error:
        raise CheckpointError(
            f"its manifest describes a network that cannot be built ({reason(error).rstrip('.')}). "
            "It was written by another rlarcade, or altered."
        ) from error
