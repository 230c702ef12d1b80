"""The Open Inference Protocol, version 2, of `POST /v2/models/GAME/infer`: bytes in, bytes out.

This module knows no web framework, no session and no agent. It has the extensions for binary
tensors and for sequences of NVIDIA's Triton, so that `tritonclient[http]` can be the client:
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html

Requests may come from strangers. What is wrong in them is a `Refusal`, never another error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from rlarcade.serving.inference_bodies import compressed, uncompressed
from rlarcade.serving.inference_json import (
    in_words,
    object_at,
    parameters_of,
    read_json,
    refuse_unknown,
    switch_of,
)
from rlarcade.serving.inference_observation import HEADER_LENGTH, Kind, read_observation
from rlarcade.serving.refusals import Refusal
from rlarcade.text import quoted

OUTPUTS = ("action", "q_values")
LONGEST_TEXT = 200
"""Characters of an id, and of the name or value of a parameter."""
Parameter = str | int | float | bool

_MOST_PARAMETERS = 100
_LARGEST_WORD = 2**64 - 1
_OWN_PARAMETERS = ("binary_data_output", "sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """A request's place in a sequence, which is one game of one client.

    Attributes:
        id: the client's id of the sequence. 7 and "7" are different ids.
        start: the request begins the sequence.
        end: the request ends it.
    """

    id: int | str
    start: bool
    end: bool


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """One request for actions.

    Attributes:
        id: the client's id of the request, which the response repeats; None: it has none.
        kind: what the observation is.
        observation: uint8, read-only; stacks are (N, 4, 84, 84), one frame is (84, 84), one screen
            is (210, 160, 3), red first.
        sequence: None: the request belongs to no sequence, and the observation is stacks.
        outputs: the outputs that were asked for, in this order; True: as binary data, else as JSON.
        parameters: the request's other parameters, such as a session key.
    """

    id: str | None
    kind: Kind
    observation: NDArray[np.uint8]
    sequence: SequenceStep | None
    outputs: Mapping[str, bool]
    parameters: Mapping[str, Parameter]


def decode(
    body: bytes, *, header_length: str | None = None, content_encoding: str | None = None
) -> InferRequest:
    """Reads the body of an infer request.

    The observation of a binary request is a view of the body: nothing is copied.

    Args:
        body: as it came.
        header_length: the request's `Inference-Header-Content-Length`; None: all of the body is
            JSON. It counts uncompressed bytes.
        content_encoding: the request's `Content-Encoding`.

    Raises:
        Refusal: 400, 413 or 415. The request is malformed, too large, or asks for what this server
            does not have.
    """
    body = uncompressed(body, content_encoding)
    json_bytes = _json_bytes(body, header_length)
    request = read_json(body if json_bytes == len(body) else body[:json_bytes])
    refuse_unknown(request, ("id", "parameters", "inputs", "outputs"), "the request")
    parameters = _parameters(request.get("parameters"))
    kind, observation = read_observation(request.get("inputs"), body, json_bytes)
    sequence = _sequence(parameters)
    if sequence is None and kind != "stack":
        raise Refusal(
            400,
            f"one {kind} alone says too little: a {kind} needs parameters.sequence_id, so that the "
            "server keeps the stack. Outside a sequence, send [N, 4, 84, 84].",
        )
    if sequence is not None and kind == "stack" and len(observation) > 1:
        raise Refusal(
            400,
            f"a request of a sequence is one step of one game, and this one has {len(observation)} "
            "stacks. Send [1, 4, 84, 84], or leave out sequence_id.",
        )
    return InferRequest(
        id=_request_id(request.get("id")),
        kind=kind,
        observation=observation,
        sequence=sequence,
        outputs=_outputs(request.get("outputs"), parameters),
        parameters={k: v for k, v in parameters.items() if k not in _OWN_PARAMETERS},
    )


def encode(
    request: InferRequest,
    *,
    model: str,
    version: str,
    action: NDArray[np.int64],
    q_values: NDArray[np.float32],
    accept_encoding: str | None = None,
) -> tuple[bytes, dict[str, str]]:
    """Makes the body of a response.

    Args:
        request: what is answered.
        model: the game's id.
        version: who answers.
        action: int64 (N,).
        q_values: float32 (N, A).
        accept_encoding: the request's `Accept-Encoding`.

    Returns:
        The body, and its HTTP headers.

    Raises:
        Refusal: 500: a Q-value is not finite. JSON has no such number, and no action follows.
    """
    if not np.isfinite(q_values).all():
        raise Refusal(500, f"version {quoted(version)} gave Q-values that are no finite numbers.")
    tensors = {
        "action": ("INT64", action.astype("<i8", copy=False)),
        "q_values": ("FP32", q_values.astype("<f4", copy=False)),
    }
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, as_binary in request.outputs.items():
        datatype, values = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": values.shape}
        if as_binary:
            binary.append(values.tobytes())
            output["parameters"] = {"binary_data_size": values.nbytes}
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    body = to_json(answer)
    headers = {"Content-Type": "application/json"}
    if binary:
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(body))}
        body = b"".join((body, *binary))
    body, encoding = compressed(body, accept_encoding)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    return body, headers


def _json_bytes(body: bytes, header_length: str | None) -> int:
    """How many bytes of the body are JSON."""
    if header_length is None:
        return len(body)
    number = header_length.strip()
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        raise Refusal(
            400, f"{HEADER_LENGTH} is {quoted(header_length)}, not a whole number of bytes."
        )
    if int(number) > len(body):
        raise Refusal(
            400, f"{HEADER_LENGTH} is {int(number):,}, but the body has only {len(body):,} bytes."
        )
    return int(number)


def _parameters(given: object) -> dict[str, Parameter]:
    """The request's parameters, all of them short."""
    parameters = object_at({} if given is None else given, "parameters")
    if len(parameters) > _MOST_PARAMETERS:
        raise Refusal(400, f"parameters has {len(parameters):,} entries, above {_MOST_PARAMETERS}.")
    for name, value in parameters.items():
        if len(name) > LONGEST_TEXT or (isinstance(value, str) and len(value) > LONGEST_TEXT):
            raise Refusal(
                400,
                f"parameter {quoted(name)} has a name or value of more than {LONGEST_TEXT} "
                "characters.",
            )
        short = (
            isinstance(value, str | bool)
            or (isinstance(value, int) and abs(value) <= _LARGEST_WORD)
            or (isinstance(value, float) and math.isfinite(value))
        )
        if not short:
            raise Refusal(
                400,
                f"parameter {quoted(name)} is {in_words(value)}. Give text, true, false, or a "
                "finite number of at most 64 bits.",
            )
    return parameters


def _sequence(parameters: Mapping[str, Parameter]) -> SequenceStep | None:
    start, end = (switch_of(parameters, name, "parameters") for name in _OWN_PARAMETERS[2:])
    given = parameters.get("sequence_id", 0)
    if isinstance(given, bool | float) or (isinstance(given, int) and given < 0):
        raise Refusal(
            400,
            f"parameters.sequence_id is {in_words(given)}. Give text or a positive whole number.",
        )
    if given:
        return SequenceStep(given, start, end)
    if start or end:
        raise Refusal(
            400,
            "sequence_start and sequence_end need parameters.sequence_id, text or a whole number; "
            '0 and "" mean none.',
        )
    return None


def _outputs(given: object, parameters: Mapping[str, Parameter]) -> dict[str, bool]:
    """The outputs that are asked for; True: as binary data."""
    binary = switch_of(parameters, "binary_data_output", "parameters")
    if given is None or given == []:
        return dict.fromkeys(OUTPUTS, binary)
    if not isinstance(given, list):
        raise Refusal(400, f"outputs is {in_words(given)}, not a list.")
    asked: dict[str, bool] = {}
    for number, part in enumerate(given):
        where = f"outputs[{number}]"
        output = object_at(part, where)
        refuse_unknown(output, ("name", "parameters"), where)
        name = output.get("name")
        if name not in OUTPUTS or name in asked:
            fault = "stands twice" if name in OUTPUTS else "is unknown"
            raise Refusal(
                400, f"{where}.name {in_words(name)} {fault}. There are {' and '.join(OUTPUTS)}."
            )
        own = parameters_of(output, ("binary_data",), where)
        asked[name] = switch_of(own, "binary_data", f"{where}.parameters", binary)
    return asked


def _request_id(given: object) -> str | None:
    if given is None or (isinstance(given, str) and len(given) <= LONGEST_TEXT):
        return given
    raise Refusal(400, f"id is {in_words(given)}. Give text of at most {LONGEST_TEXT} characters.")
