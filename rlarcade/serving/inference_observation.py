"""The observation of an infer request: one tensor, as binary data or as JSON lists."""

import math
from contextlib import suppress
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.games.screens import SCREEN_SHAPE
from rlarcade.serving.inference_json import in_words, object_at, parameters_of, refuse_unknown
from rlarcade.serving.refusals import Refusal
from rlarcade.text import quoted

INPUT = "observation"
MOST_STACKS = 256
"""Stacks of one request."""
HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says how many bytes of the body are JSON; binary tensors follow them."""

Kind = Literal["stack", "frame", "screen"]

_STACK_SHAPE = (STACK, SCREEN, SCREEN)
_FRAME_SHAPE = (SCREEN, SCREEN)
_SINGLE: dict[tuple[int, ...], Kind] = {
    _FRAME_SHAPE: "frame",
    (1, *_FRAME_SHAPE): "frame",
    SCREEN_SHAPE: "screen",
    (1, *SCREEN_SHAPE): "screen",
}
_SHAPES_IN_WORDS = (
    f"[N, 4, 84, 84] for N = 1 to {MOST_STACKS} stacks of four frames, or in a sequence one frame, "
    "[84, 84] or [1, 84, 84], or one screen, [210, 160, 3] or [1, 210, 160, 3]"
)


def read_observation(given: object, body: bytes, begin: int) -> tuple[Kind, NDArray[np.uint8]]:
    """Reads a request's only input.

    Args:
        given: the value of `inputs`.
        body: the whole body, uncompressed.
        begin: where the binary data begin in the body.

    Returns:
        What it is, and uint8 (N, 4, 84, 84), (84, 84) or (210, 160, 3), read-only.

    Raises:
        Refusal: 400: it is no observation.
    """
    if not isinstance(given, list) or len(given) != 1:
        raise Refusal(
            400, f"inputs is {in_words(given)}. Give a list of one tensor, named {INPUT!r}."
        )
    tensor = object_at(given[0], "inputs[0]")
    refuse_unknown(tensor, ("name", "datatype", "shape", "parameters", "data"), "inputs[0]")
    for key, right in (("name", INPUT), ("datatype", "UINT8")):
        if tensor.get(key) != right:
            raise Refusal(
                400, f"inputs[0].{key} is {in_words(tensor.get(key))}; it must be {right!r}."
            )
    shape = _shape(tensor.get("shape"))
    kind = _SINGLE.get(shape, "stack")
    own_shape = {"stack": shape, "frame": _FRAME_SHAPE, "screen": SCREEN_SHAPE}[kind]
    size = math.prod(shape)
    own = parameters_of(tensor, ("binary_data_size",), "inputs[0]")
    if "binary_data_size" not in own:
        if begin < len(body):
            raise Refusal(
                400,
                f"{len(body) - begin:,} bytes follow the JSON, but inputs[0].parameters has no "
                "binary_data_size.",
            )
        return kind, _from_lists(tensor.get("data"), shape).reshape(own_shape)
    if tensor.get("data") is not None:
        raise Refusal(400, "inputs[0] has both data and binary_data_size. Give one of them.")
    stated = own["binary_data_size"]
    if type(stated) is not int or stated != size:
        raise Refusal(
            400,
            f"inputs[0].parameters.binary_data_size is {in_words(stated)}; its shape needs {size}.",
        )
    if len(body) - begin != size:
        raise Refusal(
            400,
            f"{len(body) - begin:,} bytes follow the JSON, but the tensor has {size:,}. The header "
            f"{HEADER_LENGTH} says where the JSON ends.",
        )
    return kind, np.frombuffer(body, np.uint8, size, begin).reshape(own_shape)


def _shape(given: object) -> tuple[int, ...]:
    if isinstance(given, list) and len(given) <= 4 and all(type(size) is int for size in given):
        shape = tuple(given)
        if shape in _SINGLE or (shape[1:] == _STACK_SHAPE and 1 <= shape[0] <= MOST_STACKS):
            return shape
        stated = quoted(given)
    else:
        stated = in_words(given)
    raise Refusal(400, f"inputs[0].shape is {stated}. Give {_SHAPES_IN_WORDS}.")


def _from_lists(data: object, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Makes uint8 (size,) of JSON lists, flat or nested as the shape says."""
    if not isinstance(data, list):
        raise Refusal(
            400, f"inputs[0].data is {in_words(data)}. Give a list, or binary_data_size and bytes."
        )
    if data and isinstance(data[0], list):
        data = _flat(data, shape)
    size = math.prod(shape)
    if len(data) != size:
        raise Refusal(400, f"inputs[0].data has {len(data):,} values; its shape needs {size:,}.")
    kinds = set(map(type, data))
    with suppress(ValueError, OverflowError):  # a number outside 0 to 255, or of hundreds of digits
        if kinds == {int}:  # without true and false, which bytes() would take
            return np.frombuffer(bytes(data), np.uint8)
        if kinds <= {int, float}:  # 7.0 is a level, too
            numbers = np.array(data, np.float64)
            levels = numbers.clip(0, 255).astype(np.uint8)
            if np.array_equal(levels, numbers):
                levels.flags.writeable = False
                return levels
    wrong = next(value for value in data if not _is_level(value))
    raise Refusal(
        400, f"inputs[0].data holds {in_words(wrong)}; a value is a whole number from 0 to 255."
    )


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """Flattens lists that are nested as the shape says."""
    if len(data) == shape[0]:
        for size in shape[1:]:
            if set(map(type, data)) != {list} or set(map(len, data)) != {size}:
                break
            data = list(chain.from_iterable(data))
        else:
            return data
    raise Refusal(
        400,
        f"inputs[0].data is not nested as its shape {list(shape)} says. Nest it so, or not at all.",
    )


def _is_level(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 255 and value == int(value)
