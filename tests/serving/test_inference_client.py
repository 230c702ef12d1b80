"""tritonclient itself, unmodified, over HTTP. A server of the standard library passes on bytes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

import rlarcade
from rlarcade.serving import inference_metadata
from rlarcade.serving.inference import decode, encode
from rlarcade.serving.refusals import Refusal


class Answers(BaseHTTPRequestHandler):
    """One model: its action is the first pixel of a stack modulo 6."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        documents = {
            "/v2": inference_metadata.server_metadata(),
            "/v2/models/pong": inference_metadata.model_metadata("pong", 6, ["7", "8"]),
            "/v2/models/pong/config": inference_metadata.model_config("pong", 6),
        }
        self.answer(200, json.dumps(documents[self.path]).encode(), {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            request = decode(
                body,
                header_length=self.headers.get("Inference-Header-Content-Length"),
                content_encoding=self.headers.get("Content-Encoding"),
            )
        except Refusal as refused:
            self.answer(refused.status, json.dumps({"error": refused.message}).encode(), {})
            return
        first = request.observation.reshape(-1, request.observation[0].size)[:, 0]
        action = first.astype(np.int64) % 6
        answer = encode(
            request,
            model="pong",
            version="8",
            action=action,
            q_values=np.eye(6, dtype=np.float32)[action],
            accept_encoding=self.headers.get("Accept-Encoding"),
        )
        self.answer(200, *answer)

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def client():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    client = InferenceServerClient(f"127.0.0.1:{server.server_port}")
    yield client
    client.close()
    server.shutdown()
    server.server_close()
    thread.join()


def tensor(observation, *, binary=True):
    given = InferInput("observation", list(observation.shape), "UINT8")
    return given.set_data_from_numpy(observation, binary_data=binary)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_a_client_gets_the_actions_of_its_stacks(client, binary, compression):
    stacks = np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), dtype=np.uint8)

    result = client.infer(
        "pong",
        [tensor(stacks, binary=binary)],
        request_id="r",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )

    expected = stacks[:, 0, 0, 0] % 6
    np.testing.assert_array_equal(result.as_numpy("action"), expected)
    np.testing.assert_array_equal(result.as_numpy("q_values").argmax(axis=1), expected)
    assert result.get_response()["model_version"] == "8"
    assert result.get_response()["id"] == "r"


def test_a_client_reads_why_it_was_refused(client):
    frame = np.zeros((84, 84), dtype=np.uint8)

    with pytest.raises(
        InferenceServerException, match="a frame needs parameters.sequence_id"
    ) as no:
        client.infer("pong", [tensor(frame)])

    assert no.value.status() == "400"


def test_the_server_says_what_it_is(client):
    assert client.get_server_metadata() == {
        "name": "rlarcade",
        "version": rlarcade.__version__,
        "extensions": ["binary_tensor_data", "model_configuration", "parameters", "sequence"],
    }


def test_a_models_metadata_name_what_may_be_sent_and_what_comes_back(client):
    model = client.get_model_metadata("pong")

    (given,) = model["inputs"]
    assert (model["name"], model["versions"]) == ("pong", ["7", "8"])
    assert (given["name"], given["datatype"]) == ("observation", "UINT8")
    assert given["shape"] == [-1, 4, 84, 84]
    assert model["outputs"] == [
        {"name": "action", "datatype": "INT64", "shape": [-1]},
        {"name": "q_values", "datatype": "FP32", "shape": [-1, 6]},
    ]


@pytest.mark.parametrize("game", ["pong", "adventure"])
def test_every_shape_of_the_metadata_is_accepted(game):
    (given,) = inference_metadata.model_metadata(game, 6, [])["inputs"]
    own = given["parameters"]
    screens = [[210, 160, 3], [1, 210, 160, 3]]

    assert [shape in own["shapes_in_a_sequence"] for shape in screens] == [game == "pong"] * 2
    largest = [own["largest_batch"], *given["shape"][1:]]
    for shape, sequence in [(largest, 0), *((s, 7) for s in own["shapes_in_a_sequence"])]:
        body, length = InferenceServerClient.generate_request_body(
            [tensor(np.zeros(shape, dtype=np.uint8))], sequence_id=sequence
        )
        assert decode(body, header_length=str(length)).observation.size == np.prod(shape)


def test_a_models_configuration_is_that_of_its_metadata(client):
    config, model = client.get_model_config("pong"), client.get_model_metadata("pong")

    assert (config["name"], config["max_batch_size"]) == ("pong", 0)
    assert "sequence_batching" in config
    for configured, described in [("input", "inputs"), ("output", "outputs")]:
        assert [
            (part["name"], part["data_type"].removeprefix("TYPE_"), part["dims"])
            for part in config[configured]
        ] == [(part["name"], part["datatype"], part["shape"]) for part in model[described]]
