"""The protocol of infer requests: tritonclient itself makes and reads what is sent here."""

import gzip
import json
import random
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from rlarcade.serving.inference import InferRequest, SequenceStep, decode, encode
from rlarcade.serving.refusals import Refusal

KINDS = {
    (1, 4, 84, 84): ("stack", (1, 4, 84, 84)),
    (3, 4, 84, 84): ("stack", (3, 4, 84, 84)),
    (84, 84): ("frame", (84, 84)),
    (1, 84, 84): ("frame", (84, 84)),
    (210, 160, 3): ("screen", (210, 160, 3)),
    (1, 210, 160, 3): ("screen", (210, 160, 3)),
}


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def sent(observation: np.ndarray, *, binary: bool = True, **more) -> tuple[bytes, str | None]:
    """What tritonclient sends: the body, and how many bytes of it are JSON."""
    tensor = InferInput("observation", list(observation.shape), "UINT8")
    tensor.set_data_from_numpy(observation, binary_data=binary)
    body, length = InferenceServerClient.generate_request_body([tensor], **more)
    return body, None if length is None else str(length)


def received(observation: np.ndarray, **more) -> InferRequest:
    body, length = sent(observation, **more)
    return decode(body, header_length=length)


def wanted(**outputs: bool) -> list[InferRequestedOutput]:
    return [InferRequestedOutput(name, binary_data=binary) for name, binary in outputs.items()]


def read(answer: tuple[bytes, dict[str, str]]):
    """What tritonclient makes of a response."""
    body, headers = answer
    length = headers.get("Inference-Header-Content-Length")
    return InferenceServerClient.parse_response_body(
        body,
        header_length=None if length is None else int(length),
        content_encoding=headers.get("Content-Encoding"),
    )


def answered(request: InferRequest, **more):
    values = {"action": np.array([2, 0]), "q_values": np.float32([[0.1, -2, 3], [7, 1e-9, 2]])}
    return encode(request, model="pong", version="v7", **(values | more))


# What tritonclient sends


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("shape", KINDS, ids=str)
def test_an_observation_arrives_pixel_by_pixel(shape, binary):
    observation = pixels(*shape)
    sequence = {} if shape[0] == 3 else {"sequence_id": 5}

    request = received(observation, binary=binary, **sequence)

    kind, own_shape = KINDS[shape]
    assert (request.kind, request.observation.dtype) == (kind, np.uint8)
    np.testing.assert_array_equal(request.observation, observation.reshape(own_shape))
    assert not request.observation.flags.writeable


def test_a_binary_observation_is_not_copied():
    body, length = sent(pixels(2, 4, 84, 84))
    inside = np.frombuffer(body, dtype=np.uint8)

    assert np.shares_memory(decode(body, header_length=length).observation, inside)


def test_the_largest_batch_arrives():
    observation = pixels(256, 4, 84, 84)

    np.testing.assert_array_equal(received(observation).observation, observation)


def test_without_outputs_tritonclient_gets_all_of_them_as_binary_data():
    assert received(pixels(1, 4, 84, 84)).outputs == {"action": True, "q_values": True}


@pytest.mark.parametrize(
    "outputs",
    [
        {"action": False},
        {"q_values": True},
        {"q_values": False, "action": True},
        {"action": True, "q_values": True},
    ],
    ids=str,
)
def test_each_output_is_as_it_was_asked_for(outputs):
    request = received(pixels(2, 4, 84, 84), outputs=wanted(**outputs))

    assert list(request.outputs.items()) == list(outputs.items())
    answer = read(answered(request))
    assert [output["name"] for output in answer.get_response()["outputs"]] == list(outputs)
    for output in answer.get_response()["outputs"]:
        assert ("data" not in output) == outputs[output["name"]]


def test_what_asks_for_no_outputs_gets_all_of_them_as_json():
    request = decode(body_of())

    assert request.outputs == {"action": False, "q_values": False}
    assert decode(body_of(outputs=[])).outputs == request.outputs
    assert json.loads(answered(request)[0])["outputs"] == [
        {"name": "action", "datatype": "INT64", "shape": [2], "data": [2, 0]},
        {
            "name": "q_values",
            "datatype": "FP32",
            "shape": [2, 3],
            "data": np.float32([0.1, -2, 3, 7, 1e-9, 2]).tolist(),
        },
    ]


def test_an_output_overrides_the_default_for_all_of_them():
    outputs = [{"name": "action", "parameters": {"binary_data": False}}, {"name": "q_values"}]
    body = body_of(outputs=outputs, parameters={"binary_data_output": True})

    assert decode(body).outputs == {"action": False, "q_values": True}


@pytest.mark.parametrize("name", ["game 7", 7, 2**64 - 1, "ü", "0"], ids=str)
def test_a_sequence_and_its_flags_arrive(name):
    for start, end in [(True, False), (False, False), (False, True), (True, True)]:
        flags = {"sequence_start": start, "sequence_end": end}
        request = received(pixels(84, 84), sequence_id=name, **flags)
        assert request.sequence == SequenceStep(name, start, end)


@pytest.mark.parametrize("none", [{}, {"sequence_id": 0}, {"sequence_id": ""}], ids=str)
def test_zero_and_nothing_are_no_sequence(none):
    assert received(pixels(1, 4, 84, 84), **none).sequence is None
    assert decode(body_of(parameters=none)).sequence is None


def test_other_parameters_are_kept():
    own = {"session_key": "user:7", "share": 0.5, "trial": True, "number": -3}
    request = received(
        pixels(1, 4, 84, 84), sequence_id=4, priority=2, timeout=9, parameters=dict(own)
    )

    assert request.parameters == own | {"priority": 2, "timeout": 9}


@pytest.mark.parametrize("name", [None, "", "request 7"], ids=str)
def test_the_id_of_the_request_is_repeated(name):
    request = decode(body_of() if name is None else body_of(id=name))

    assert request.id == name
    answer = json.loads(answered(request)[0])
    assert answer.get("id") == name
    assert ("id" in answer) == (name is not None)
    assert (answer["model_name"], answer["model_version"]) == ("pong", "v7")


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        (" GZIP ", gzip.compress),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_a_compressed_request_is_that_request(encoding, compress):
    observation = pixels(2, 4, 84, 84)
    body, length = sent(observation)

    request = decode(compress(body), header_length=length, content_encoding=encoding)

    np.testing.assert_array_equal(request.observation, observation)


@pytest.mark.parametrize("outputs", [{"action": True}, {"q_values": False}, {}], ids=str)
@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, deflate;q=0.5, gzip;q=0.1", "gzip"),
        ("GZIP", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.000", None),
        ("br", None),
        ("", None),
        (None, None),
    ],
)
def test_a_response_is_compressed_if_the_client_accepts_it(accepted, encoding, outputs):
    request = received(pixels(2, 4, 84, 84), outputs=wanted(**outputs))

    answer = answered(request, accept_encoding=accepted)

    assert answer[1].get("Content-Encoding") == encoding
    for name in outputs or ["action", "q_values"]:
        np.testing.assert_array_equal(
            read(answer).as_numpy(name), read(answered(request)).as_numpy(name)
        )


def test_the_content_type_is_that_of_the_content():
    text, data = (
        received(pixels(1, 4, 84, 84), outputs=wanted(action=binary)) for binary in (False, True)
    )

    assert answered(text)[1] == {"Content-Type": "application/json"}
    body, headers = answered(data)
    assert headers["Content-Type"] == "application/octet-stream"
    length = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(body[length:], dtype="<i8").tolist() == [2, 0]


# Round trips


TEXT = st.text(st.characters(codec="utf-8"), max_size=200)
NUMBERS = st.integers(-(2**64) + 1, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SEQUENCES = st.integers(1, 2**64 - 1) | TEXT.filter(bool)
OWN = ("sequence_id", "sequence_start", "sequence_end", "binary_data_output")


@settings(max_examples=60)
@given(data=st.data())
def test_every_request_arrives_as_it_was_made(data):
    draw = data.draw
    sequence = draw(st.none() | st.builds(SequenceStep, SEQUENCES, st.booleans(), st.booleans()))
    shapes = [(1, 4, 84, 84)] + ([*KINDS][2:] if sequence else [(2, 4, 84, 84)])
    observation = pixels(*draw(st.sampled_from(shapes)), seed=draw(st.integers(0, 99)))
    name = draw(st.none() | TEXT)
    outputs = draw(st.dictionaries(st.sampled_from(["action", "q_values"]), st.booleans()))
    parameters = draw(
        st.dictionaries(
            TEXT.filter(lambda key: key not in OWN), TEXT | NUMBERS | st.booleans(), max_size=5
        )
    )
    document = {"inputs": [{"name": "observation", "datatype": "UINT8"}]}
    document["inputs"][0]["shape"] = list(observation.shape)
    document["outputs"] = [
        {"name": output, "parameters": {"binary_data": binary}}
        for output, binary in outputs.items()
    ]
    own = (
        {}
        if sequence is None
        else dict(zip(OWN, (sequence.id, sequence.start, sequence.end), strict=False))
    )
    document["parameters"] = parameters | own
    if name is not None:
        document["id"] = name
    way = draw(st.sampled_from(["binary", "flat", "nested", "floats"]))
    if way == "binary":
        document["inputs"][0]["parameters"] = {"binary_data_size": observation.size}
    else:
        values = observation.astype(float) if way == "floats" else observation
        document["inputs"][0]["data"] = (values if way == "nested" else values.ravel()).tolist()
    text = json.dumps(document, ensure_ascii=draw(st.booleans())).encode()
    body = text + (observation.tobytes() if way == "binary" else b"")
    encoding, compress = draw(
        st.sampled_from([(None, bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)])
    )

    request = decode(compress(body), header_length=str(len(text)), content_encoding=encoding)

    np.testing.assert_array_equal(
        request.observation, observation.reshape(request.observation.shape)
    )
    assert not request.observation.flags.writeable
    assert request.sequence == sequence
    assert request.id == name
    assert request.outputs == (outputs or {"action": False, "q_values": False})
    assert request.parameters == parameters


@settings(max_examples=60)
@given(data=st.data())
def test_tritonclient_reads_every_response_bit_by_bit(data):
    draw = data.draw
    count, actions = draw(st.integers(1, 5)), draw(st.integers(3, 18))
    seed = draw(st.integers(0, 99))
    q_values = np.random.default_rng(seed).integers(0, 2**32, (count, actions), dtype=np.uint32)
    q_values = np.nan_to_num(q_values.view(np.float32), nan=-0.0, posinf=1e-45, neginf=3.4e38)
    action = np.random.default_rng(seed).integers(0, actions, count)
    outputs = draw(st.dictionaries(st.sampled_from(["action", "q_values"]), st.booleans()))
    request = received(pixels(1, 4, 84, 84), outputs=wanted(**outputs), request_id=draw(TEXT))

    answer = read(
        encode(
            request,
            model="ünïcode",
            version="7",
            action=action,
            q_values=q_values,
            accept_encoding=draw(st.sampled_from([None, "gzip", "deflate"])),
        )
    )

    for name, values in {"action": action, "q_values": q_values}.items():
        if outputs and name not in outputs:
            assert answer.as_numpy(name) is None
        else:
            found = answer.as_numpy(name)
            assert (found.dtype, found.shape) == (values.dtype, values.shape)
            assert found.tobytes() == values.tobytes()
    assert answer.get_response()["model_name"] == "ünïcode"
    assert answer.get_response().get("id") == request.id


@pytest.mark.parametrize("outputs", [{"q_values": False}, {"q_values": True}, {"action": True}])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_finite_numbers_are_never_sent(bad, outputs):
    request = received(pixels(1, 4, 84, 84), outputs=wanted(**outputs))

    with pytest.raises(
        Refusal, match="version 'v7' gave Q-values that are no finite numbers"
    ) as no:
        answered(request, q_values=np.float32([[0, bad, 1]]))

    assert no.value.status == 500


# What is refused


def document_of(**changes) -> dict:
    """A valid request for one stack, with changes; `...` leaves a key out."""
    tensor = {"name": "observation", "datatype": "UINT8", "shape": [1, 4, 84, 84]}
    tensor["data"] = [0] * 28_224
    for key in ("name", "datatype", "shape", "data", "tensor_parameters"):
        if key in changes:
            tensor[key.removeprefix("tensor_")] = changes.pop(key)
    document = {"inputs": [tensor]} | changes
    return {key: value for key, value in document.items() if value is not ...}


def body_of(**changes) -> bytes:
    return json.dumps(document_of(**changes)).encode()


def refusal(body: bytes, **headers: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        decode(body, **headers)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) <= 500
    assert refused.value.message.endswith(".")
    return refused.value


DATA = [0] * 28_223
ONE_FRAME = {"shape": [84, 84], "data": [0] * 7056}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # numbers
        ({"data": [*DATA, 256]}, "data holds 256; a value is a whole number from 0 to 255"),
        ({"data": [*DATA, -1]}, "data holds -1"),
        ({"data": [*DATA, 10**400]}, "data holds 1000"),
        ({"data": [*DATA, 0.5]}, r"data holds 0\.5"),
        ({"data": [*DATA, 256.0]}, r"data holds 256\.0"),
        ({"data": [*DATA, -1.0]}, r"data holds -1\.0"),
        ({"data": [*DATA[1:], 7.0, 10**400]}, "data holds 1000"),
        ({"data": [True, *DATA]}, "data holds true"),
        ({"data": [*DATA[1:], 7.0, True]}, "data holds true"),
        ({"data": [*DATA, "7"]}, "data holds '7'"),
        ({"data": [*DATA, None]}, "data holds null or missing"),
        ({"data": [*DATA, [7]]}, "data holds a list of 1"),
        ({"data": [*DATA, {}]}, "data holds an object"),
        ({"data": DATA}, r"data has 28,223 values; its shape needs 28,224"),
        ({"data": []}, "data has 0 values"),
        ({"data": "AAAA"}, "data is 'AAAA'. Give a list"),
        ({"data": None}, "data is null or missing. Give a list"),
        # nesting
        ({"data": [[0] * 28_224]}, r"not nested as its shape \[1, 4, 84, 84\] says"),
        ({"data": [[[[0] * 84] * 84] * 4] * 2}, "not nested as its shape"),
        ({"data": [[[[0] * 84] * 84] * 3 + [[[0] * 84] * 83]]}, "not nested as its shape"),
        ({"data": [[[[0] * 84] * 84] * 3 + [[[0] * 84] * 83 + [7]]]}, "not nested as its shape"),
        ({"data": [[[[[]] * 84] * 84] * 4]}, "data holds a list of 0"),
        # shape and type
        (
            {"shape": [0, 4, 84, 84], "data": []},
            r"shape is \[0, 4, 84, 84\]. Give \[N, 4, 84, 84\]",
        ),
        ({"shape": [257, 4, 84, 84]}, "N = 1 to 256"),
        ({"shape": [-1, 4, 84, 84]}, r"shape is \[-1"),
        ({"shape": [2**62, 4, 84, 84]}, r"shape is \[4611686018427387904"),
        ({"shape": [10**4000, 4, 84, 84]}, r"shape is \[1000"),
        ({"shape": [1, 84, 84, 4]}, r"shape is \[1, 84, 84, 4\]"),
        ({"shape": [28_224]}, r"shape is \[28224\]"),
        ({"shape": [True, 4, 84, 84]}, "shape is a list of 4"),
        ({"shape": [1.0, 4, 84, 84]}, "shape is a list of 4"),
        ({"shape": ["1", 4, 84, 84]}, "shape is a list of 4"),
        ({"shape": [1] * 50_000}, "shape is a list of 50,000"),
        ({"shape": None}, "shape is null or missing"),
        ({"shape": {}}, "shape is an object"),
        ({"datatype": "uint8"}, "datatype is 'uint8'; it must be 'UINT8'"),
        ({"datatype": "FP32"}, "datatype is 'FP32'"),
        ({"datatype": None}, "datatype is null or missing"),
        ({"name": "frame"}, "name is 'frame'; it must be 'observation'"),
        ({"name": 7}, "name is 7"),
        # a tensor's other keys
        ({"tensor_parameters": []}, r"inputs\[0\]\.parameters is a list of 0, not a JSON object"),
        (
            {"tensor_parameters": {"shared_memory_region": "x"}},
            "unknown key 'shared_memory_region'",
        ),
        ({"tensor_parameters": {"binary_data_size": 28_224}}, "both data and binary_data_size"),
        ({"data": None, "tensor_parameters": {"binary_data_size": 1}}, "its shape needs 28224"),
        ({"data": None, "tensor_parameters": {"binary_data_size": True}}, "size is true"),
        ({"data": None, "tensor_parameters": {"binary_data_size": -28_224}}, "size is -28224"),
        ({"data": None, "tensor_parameters": {"binary_data_size": 28_224.0}}, r"is 28224\.0"),
        (
            {"data": None, "tensor_parameters": {"binary_data_size": 28_224}},
            "0 bytes follow the JSON",
        ),
        # the tensors
        (
            {"inputs": ...},
            "inputs is null or missing. Give a list of one tensor, named 'observation'",
        ),
        ({"inputs": []}, "inputs is a list of 0"),
        ({"inputs": document_of()["inputs"] * 2}, "inputs is a list of 2"),
        ({"inputs": {}}, "inputs is an object"),
        ({"inputs": [7]}, r"inputs\[0\] is 7, not a JSON object"),
        ({"inputs": [{"nom": 1}]}, r"inputs\[0\] has an unknown key 'nom'. Known: name, "),
        ({"input": []}, "the request has an unknown key 'input'. Known: id, parameters, inputs"),
        # outputs
        ({"outputs": {}}, "outputs is an object, not a list"),
        ({"outputs": ["action"]}, r"outputs\[0\] is 'action', not a JSON object"),
        ({"outputs": [{"name": "value"}]}, "'value' is unknown. There are action and q_values"),
        ({"outputs": [{"name": ["action"]}]}, r"outputs\[0\]\.name a list of 1 is unknown"),
        ({"outputs": [{}]}, r"outputs\[0\]\.name null or missing is unknown"),
        ({"outputs": [{"name": "action"}] * 2}, r"outputs\[1\]\.name 'action' stands twice"),
        ({"outputs": [{"name": "action", "data": []}]}, r"outputs\[0\] has an unknown key 'data'"),
        (
            {"outputs": [{"name": "action", "parameters": {"classification": 3}}]},
            r"outputs\[0\]\.parameters has an unknown key 'classification'. Known: binary_data",
        ),
        (
            {"outputs": [{"name": "action", "parameters": {"binary_data": 1}}]},
            r"outputs\[0\]\.parameters\.binary_data is 1. Give true or false",
        ),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output is 'yes'"),
        # sequences
        ({"parameters": {"sequence_id": True}}, "sequence_id is true. Give text or a positive"),
        ({"parameters": {"sequence_id": False}}, "sequence_id is false"),
        ({"parameters": {"sequence_id": 1.5}}, r"sequence_id is 1\.5"),
        ({"parameters": {"sequence_id": -1}}, "sequence_id is -1"),
        ({"parameters": {"sequence_id": 2**64}}, "at most 64 bits"),
        ({"parameters": {"sequence_id": "x" * 201}}, "more than 200 characters"),
        ({"parameters": {"sequence_id": ["x"]}}, "is a list of 1"),
        ({"parameters": {"sequence_id": None}}, "is null or missing"),
        ({"parameters": {"sequence_start": True}}, "need parameters.sequence_id"),
        ({"parameters": {"sequence_end": True, "sequence_id": 0}}, "need parameters.sequence_id"),
        ({"parameters": {"sequence_id": 7, "sequence_start": 1}}, "sequence_start is 1"),
        (
            {"parameters": {"sequence_id": 7, "sequence_end": None}},
            "'sequence_end' is null or missing",
        ),
        (ONE_FRAME, "one frame alone says too little: a frame needs parameters.sequence_id"),
        ({"shape": [210, 160, 3], "data": [0] * 100_800}, "a screen needs parameters.sequence_id"),
        (
            {"shape": [2, 4, 84, 84], "data": [0] * 56_448, "parameters": {"sequence_id": 1}},
            "one step of one game, and this one has 2 stacks",
        ),
        # parameters and id
        ({"parameters": []}, "parameters is a list of 0, not a JSON object"),
        ({"parameters": {"x" * 201: 1}}, "more than 200 characters"),
        ({"parameters": {"session_key": "x" * 201}}, "'session_key' has a name or value"),
        ({"parameters": {"deep": {"er": 1}}}, "'deep' is an object. Give text, true, false"),
        ({"parameters": {"number": 2**64}}, "'number' is 18446744073709551616"),
        ({"parameters": {"number": -(10**3000)}}, "'number' is -1000"),
        ({"parameters": {f"p{n}": 1 for n in range(101)}}, "parameters has 101 entries, above 100"),
        ({"id": 7}, "id is 7. Give text of at most 200 characters"),
        ({"id": "x" * 201}, "id is 'xxx"),
        ({"id": ["x"]}, "id is a list of 1"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_wrong_where(changes, said):
    refused = refusal(body_of(**changes))

    assert refused.status == 400
    with pytest.raises(Refusal, match=said):
        raise refused


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"null", "no JSON object"),
        (b"[]", "no JSON object"),
        (b'{"id": NaN}', "the body is not JSON"),
        (b'{"parameters": {"x": 1e400}}', "'x' is inf"),
        (body_of().replace(b"[0,", b"[1e400,", 1), "data holds inf"),
        (body_of().replace(b"[0,", b"[-Infinity,", 1), "the body is not JSON"),
        (b'{"id": "\xff"}', "the body is not JSON"),
        (rb'{"id": "\ud800"}', "the body is not JSON"),
        (b'\xef\xbb\xbf{"id": ""}', "the body is not JSON"),
        ('{"id": ""}'.encode("utf-16"), "the body is not JSON"),
        (b'{"id": 1' + b"0" * 5000 + b"}", "the body is not JSON"),
        (body_of() + b"x", "the body is not JSON"),
        (b"[" * 50_000, "the body is not JSON"),
        (b'{"id":' * 50_000, "the body is not JSON"),
        (b'{"inputs": ' + b"[" * 150 + b"]" * 150 + b"}", r"inputs\[0\] is a list of 1"),
        (b'{"inputs": ' + b'{"a":' * 150 + b"7" + b"}" * 151, "inputs is an object"),
    ],
)
def test_what_is_no_json_of_a_request_is_refused(body, said):
    refused = refusal(body)

    assert refused.status == 400
    with pytest.raises(Refusal, match=said):
        raise refused


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a", "id": "b"}',
        r'{"id": "a", "\u0069d": "b"}',
        '{"parameters": {"session_key": "a", "session_key": "b"}}',
        '{"parameters": {"x": {"y": 1, "y": 2}}}',
        '{"inputs": [{"shape": [1], "shape": [2]}]}',
        '{"inputs": [{"parameters": {"binary_data_size": 1, "binary_data_size": 2}}]}',
        '{"inputs": [[{"x": 1, "x": 2}]]}',
        '{"outputs": [{"name": "action", "name": "q_values"}]}',
        r'{"id": "\u003a\u003a", "inputs": 1, "inputs": 2}',
    ],
)
def test_a_key_that_stands_twice_is_refused(text):
    refused = refusal(text.encode())

    assert refused.status == 400
    assert "stands twice in a JSON object" in refused.message


def test_keys_are_looked_for_beside_the_longest_number_that_json_may_have():
    longest = b"1" * 4_300

    refused = refusal(b'{"id": "::", "parameters": {"n": ' + longest + b"}}")

    assert "'n' is 1111" in refused.message


def test_colons_in_text_are_no_keys():
    parameters = {"a:b": "c:::d", "\n": 'say "e": {"f": 1, "f": 2}'}

    assert decode(body_of(id=":", parameters=parameters)).parameters == parameters


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: "many", "is 'many', not a whole number of bytes"),
        (lambda n: "", "is '', not a whole number"),
        (lambda n: "-1", "is '-1', not a whole number"),
        (lambda n: "+5", r"is '\+5', not a whole number"),
        (lambda n: "1e3", "is '1e3', not a whole number"),
        (lambda n: "٣", "is '٣', not a whole number"),
        (lambda n: "²", "is '²', not a whole number"),
        (lambda n: "9" * 5000, "not a whole number of bytes"),
        (lambda n: str(n + 28_225), "but the body has only"),
        (lambda n: "0", "the body is not JSON"),
        (lambda n: str(n - 1), "the body is not JSON"),
        (lambda n: str(n + 1), "the body is not JSON"),
        (lambda n: None, "the body is not JSON"),
    ],
)
def test_a_wrong_header_length_is_refused(change, said):
    body, length = sent(pixels(1, 4, 84, 84) | 128)

    refused = refusal(body, header_length=change(int(length)))

    assert refused.status == 400
    with pytest.raises(Refusal, match=said):
        raise refused


def test_spaces_around_the_header_length_are_no_mistake():
    body, length = sent(pixels(1, 4, 84, 84))

    assert decode(body, header_length=f" {length} ").kind == "stack"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body + b"x", "28,225 bytes follow the JSON, but the tensor has 28,224"),
        (lambda body: body[:-1], "28,223 bytes follow the JSON, but the tensor has 28,224"),
    ],
)
def test_missing_and_left_over_bytes_are_refused(change, said):
    body, length = sent(pixels(1, 4, 84, 84))

    assert said in refusal(change(body), header_length=length).message


def test_bytes_that_no_tensor_asks_for_are_refused():
    text = body_of()

    refused = refusal(text + b"four", header_length=str(len(text)))

    assert (
        "4 bytes follow the JSON, but inputs[0].parameters has no binary_data_size"
        in refused.message
    )


@pytest.mark.parametrize(
    ("body", "encoding", "status", "said"),
    [
        (b"", "br", 415, "Content-Encoding 'br' is not known. Use gzip, deflate, or none"),
        (b"", "gzip, gzip", 415, "'gzip, gzip' is not known"),
        (b"{}", "gzip", 400, "the body is not gzip data"),
        (b"{}", "deflate", 400, "the body is not deflate data"),
        (zlib.compress(b"{}"), "gzip", 400, "the body is not gzip data"),
        (
            gzip.compress(b"{}", mtime=0)[:-3],
            "gzip",
            400,
            "the body ends before the end of its gzip data",
        ),
        (b"", "gzip", 400, "the body ends before the end of its gzip data"),
        (
            gzip.compress(b"{}", mtime=0) + b"x",
            "gzip",
            400,
            "the body goes on after the end of its gzip",
        ),
        (
            gzip.compress(b"{}", mtime=0) * 2,
            "gzip",
            400,
            "the body goes on after the end of its gzip",
        ),
        (b"x" * (8 * 2**20 + 1), None, 413, "more than 8,388,608 bytes, the most that is read"),
        (gzip.compress(b"x" * (8 * 2**20 + 1), mtime=0), "gzip", 413, "more than 8,388,608 bytes"),
        (b" " * (4 * 2**20 + 1), None, 413, "the JSON has 4,194,305 bytes, and at most 4,194,304"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(body, encoding, status, said):
    refused = refusal(body, content_encoding=encoding)

    assert refused.status == status
    assert said in refused.message


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs": [' + b"[]," * 100_000 + b"1]}",
        b'{"inputs": [' + b"{}," * 100_000 + b"1]}",
        b'{"inputs": {' + b'"a":0,' * 100_000 + b'"a":0}}',
    ],
    ids=["lists", "objects", "entries"],
)
def test_many_small_parts_are_refused_before_they_take_memory(text):
    refused = refusal(text)

    assert refused.status == 413
    assert "lists, objects and entries; at most 100,000 are read" in refused.message


@pytest.mark.parametrize(
    ("bomb", "encoding"),
    [
        (zlib.compress(bytes(300 * 2**20), 1), "deflate"),
        (gzip.compress(b'{"inputs": [' + b"[]," * 2_500_000, 1, mtime=0), "gzip"),
        (gzip.compress(b'{"inputs": [' + b"0.5," * 1_000_000 + b"1]}", 1, mtime=0), "gzip"),
        (gzip.compress(b'{"inputs": [' + b'"ab",' * 800_000 + b"1]}", 1, mtime=0), "gzip"),
    ],
    ids=["zeros", "lists", "numbers", "words"],
)
def test_a_bomb_takes_little_memory_and_time(bomb, encoding):
    began = time.process_time()
    tracemalloc.start()
    try:
        refusal(bomb, content_encoding=encoding)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 60 * 2**20
    assert time.process_time() - began < 5


# Anything at all


def outcome(body: bytes, **headers: str | None) -> str:
    """Decodes; the request must be sound, or refused in one line."""
    try:
        request = decode(body, **headers)
    except Refusal as error:
        refused = error
    else:
        return checked(request)
    assert refused.status in (400, 413, 415)
    assert refused.message.isprintable()
    return "refused"


def checked(request: InferRequest) -> str:
    assert request.observation.dtype == np.uint8
    shape = request.observation.shape
    assert shape == {"frame": (84, 84), "screen": (210, 160, 3)}.get(request.kind, shape)
    if request.kind == "stack":
        assert shape[1:] == (4, 84, 84)
    else:
        assert request.sequence is not None
    assert set(request.outputs) <= {"action", "q_values"}
    read(answered(request))
    return "read"


def mutated(body: bytes, rng: random.Random) -> bytes:
    """Changes the body at one to three places, half of them in or near its JSON."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = rng.choice([rng.randrange(400), rng.randrange(len(body))])
        length = rng.choice([0, 1, 1, 2, 8])
        new = rng.choice([b"", bytes([rng.randrange(256)]), *TOKENS, body[place : place + 20]])
        body = body[:place] + new + body[place + length :]
    return body


TOKENS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"1e9", b"null", b"true", b"\\"]
TOKENS += [b"\\u0000", b"\xff", b'"id":', b'"data":[', b'"binary_data_size":', b"9" * 30]


def test_altered_requests_are_read_or_refused():
    rng = random.Random(7)
    outputs = wanted(action=True, q_values=False)
    whole = [
        sent(pixels(1, 4, 84, 84), outputs=outputs, request_id="r"),
        sent(pixels(84, 84), binary=False, sequence_id="s", sequence_start=True),
        sent(pixels(210, 160, 3), sequence_id=5, parameters={"session_key": "k"}),
    ]
    found = {"read": 0, "refused": 0}
    began = time.process_time()
    for turn in range(1_500):
        body, length = whole[turn % 3]
        if rng.random() < 0.2:
            length = rng.choice([None, "0", str(rng.randrange(60_000)), "x", "-1", length])
        if rng.random() < 0.1:
            packed = bytearray(gzip.compress(body, 1, mtime=0))
            packed[rng.randrange(len(packed))] = rng.randrange(256)
            found[outcome(bytes(packed), header_length=length, content_encoding="gzip")] += 1
        else:
            altered = mutated(body, rng)
            if length is not None and length.isdigit() and rng.random() < 0.7:
                length = str(max(int(length) + len(altered) - len(body), 0))
            found[outcome(altered, header_length=length)] += 1

    assert found["refused"] > 500
    assert found["read"] > 50
    assert time.process_time() - began < 30


ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.integers() | st.text(max_size=8),
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "data", "parameters", "id", "binary_data", "x"]),
            parts,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused(data):
    document = document_of(
        shape=[84, 84],
        data=[0] * 7056,  # a new list, because it is altered
        id="r",
        parameters={"sequence_id": "s", "sequence_start": True, "key": 1},
        outputs=[{"name": "action", "parameters": {"binary_data": True}}],
    )
    place = document
    while True:
        keys = [*range(len(place))] if isinstance(place, list) else [*place]
        key = data.draw(st.sampled_from(keys[:10]))
        inside = place[key]
        if not (isinstance(inside, dict | list) and inside and data.draw(st.booleans())):
            break
        place = inside
    place[key] = data.draw(ANYTHING)

    outcome(json.dumps(document).encode())


@settings(max_examples=100)
@given(body=st.binary(max_size=200), length=st.none() | st.text(max_size=5), packed=st.booleans())
def test_any_bytes_are_read_or_refused(body, length, packed):
    outcome(body, header_length=length, content_encoding="gzip" if packed else None)


def test_an_accept_encoding_of_any_text_is_no_error():
    request = decode(body_of())
    for accepted in ["*", ";;,,", "gzip;q=", "gzip;q=x", ",", "q=0", "\x00", "g" * 10_000]:
        read(answered(request, accept_encoding=accepted))
