"""Loads checkpoints after a check of their size: the manifest's network says how large they may be.

Checkpoints with a user's own torso are not among them: only its module knows its size.
"""

from dataclasses import replace
from pathlib import Path

from rlarcade.checked import reason
from rlarcade.checkpoint import Checkpoint, Manifest, load_checkpoint
from rlarcade.errors import CheckpointError
from rlarcade.files import LARGEST_TEXT
from rlarcade.zoo import is_zoo_name, zoo_name


def load_playable(path: str | Path) -> Checkpoint:
    """Reads a checkpoint. Refuses a large file of weights that exceeds its manifest's network.

    Arguments and errors are those of `load_checkpoint`. An agent of the zoo keeps its name as the
    checkpoint's path.
    """
    checkpoint = load_checkpoint(path, largest=_largest_weights)
    if is_zoo_name(path):
        return replace(checkpoint, path=Path(zoo_name(checkpoint.manifest.game)))
    return checkpoint


def _largest_weights(manifest: Manifest) -> int:
    from rlarcade.learning.networks import weights_bytes  # imports torch; for large files only

    try:
        return weights_bytes(manifest.network, manifest.num_actions) + LARGEST_TEXT
    except ValueError as error:
        raise CheckpointError(
            f"its manifest describes a network that cannot be built ({reason(error).rstrip('.')}). "
            "It was written by another rlarcade, or altered."
        ) from error
