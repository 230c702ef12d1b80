"""What the server says about itself and its models: documents of the Open Inference Protocol."""

from collections.abc import Iterable
from typing import Any

import rlarcade
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.games.screens import SCREEN_SHAPE, TALL_GAMES
from rlarcade.serving.inference_observation import INPUT, MOST_STACKS

PLATFORM = "rlarcade"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "sequence")
"""Names of the protocol's extensions, as Triton writes them."""

_ANY = -1  # a size that differs between requests
_STACKS = [_ANY, STACK, SCREEN, SCREEN]


def server_metadata() -> dict[str, Any]:
    """Returns the document of `GET /v2`."""
    return {"name": PLATFORM, "version": rlarcade.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(game: str, num_actions: int, versions: Iterable[str]) -> dict[str, Any]:
    """Returns the document of `GET /v2/models/GAME`.

    The protocol has room for one shape of an input: that of stacks. The parameters of the input add
    what a request of a sequence may have instead.

    Args:
        game: the game's id, which is the model's name.
        num_actions: number of its actions.
        versions: versions that may answer.
    """
    single = [[SCREEN, SCREEN]] if game in TALL_GAMES else [[SCREEN, SCREEN], list(SCREEN_SHAPE)]
    return {
        "name": game,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [
            {
                "name": INPUT,
                "datatype": "UINT8",
                "shape": _STACKS,
                "parameters": {
                    "largest_batch": MOST_STACKS,
                    "shapes_in_a_sequence": [[1, *_STACKS[1:]]]
                    + [shape for one in single for shape in (one, [1, *one])],
                },
            }
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shape}
            for name, datatype, shape in _outputs(num_actions)
        ],
    }


def model_config(game: str, num_actions: int) -> dict[str, Any]:
    """Returns the document of `GET /v2/models/GAME/config`, in the words of Triton.

    The shapes contain the number of stacks. In Triton's words, the largest batch is then 0.

    Args:
        game: the game's id, which is the model's name.
        num_actions: number of its actions.
    """
    return {
        "name": game,
        "platform": "",
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": _STACKS}],
        "output": [
            {"name": name, "data_type": f"TYPE_{datatype}", "dims": shape}
            for name, datatype, shape in _outputs(num_actions)
        ],
        "sequence_batching": {},
    }


def _outputs(num_actions: int) -> list[tuple[str, str, list[int]]]:
    return [("action", "INT64", [_ANY]), ("q_values", "FP32", [_ANY, num_actions])]
