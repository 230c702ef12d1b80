"""Whatever a stranger sends is refused with a reason: no crash, no traceback."""

import logging

import pytest
from serving_house import House, until
from starlette.testclient import TestClient

from rlarcade.serving.app import make_app
from rlarcade.serving.requests import Online

HUGE = ["99999999999", str(2**63), str(10**30), "9" * 200]
HALF_A_PAIR = b'"\\ud800"'
"""JSON of a character that UTF-8 does not have."""


@pytest.fixture
def client(registry, add, caplog):
    """An operator's client; a mistake of the server, such as a traceback, fails the test."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    house = House(registry)
    online = Online(house.service, house.controller, "secret", str(registry.folder))
    app = make_app(online, ("testserver",))
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        yield client
    told = [*caplog.get_records("call"), *caplog.records]
    assert [one for one in told if one.levelno >= logging.ERROR] == []


def refused(answer):
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"].isprintable()
    return answer


@pytest.mark.parametrize("number", [*HUGE, "0", "-1"])
def test_a_rollout_or_a_version_with_an_impossible_number_is_not_there(client, number):
    for what in ("pause", "resume", "abort", "undo"):
        refused(client.post(f"/v1/rollouts/{number}/{what}", json={}))
    refused(client.post(f"/v1/rollouts/{number}/decide", json={"winner": "champion"}))
    answer = {"decision": "deny", "by": "anna", "note": "no"}
    refused(client.post(f"/v1/approvals/{number}", json=answer))
    refused(client.post("/v1/rollouts", json={"version": number, "spec": {"strategy": "big-bang"}}))


@pytest.mark.parametrize("version", ["champion@ponk", "@", "@@", "champion@", "0x1", "abcdef", " "])
def test_a_version_that_nobody_has_is_told_in_one_line(client, version):
    asked = {"version": version, "spec": {"strategy": "big-bang"}}
    refused(client.post("/v1/rollouts", json=asked))


@pytest.mark.parametrize("text", [HALF_A_PAIR, b'"\\u0000"', b'"' + 100 * b"\\n" + b'"'])
def test_text_that_no_name_has_is_refused_or_taken_as_text(client, text):
    bodies = [
        ("/v1/sessions", b'{"game": %s}'),
        ("/v1/sessions", b'{"game": "Pong", "key": %s}'),
        ("/v1/sessions", b'{"game": "Pong", "group": %s}'),
        ("/v1/sessions", b'{"game": "Pong", "version": %s}'),
        ("/v1/watch", b'{"game": "Pong", "version": "9", "key": %s}'),
        ("/v1/outcomes", b'{"session": %s, "value": 1}'),
        ("/v1/rollouts", b'{"version": %s, "spec": {"strategy": "big-bang"}}'),
        ("/v1/rollouts", b'{"version": "9", "actor": %s, "spec": {"strategy": "big-bang"}}'),
        ("/v1/rollouts", b'{"version": "9", "spec": {"strategy": "phased", "phases": [%s]}}'),
        ("/v1/rollouts/1/abort", b'{"actor": %s}'),
        ("/v1/approvals/1", b'{"decision": "deny", "by": %s, "note": "x"}'),
        ("/v2/models/pong/infer", b'{"id": %s}'),
    ]
    for path, body in bodies:
        answer = client.post(path, content=body % text)
        assert answer.status_code < 500, (path, body, answer.text)


@pytest.mark.parametrize(
    "body", [{"key": "a\0b"}, {"group": "\0"}], ids=lambda body: next(iter(body))
)
@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/watch"])
def test_text_that_no_database_keeps_is_refused_before_a_game_begins(client, path, body):
    """PostgreSQL keeps no NUL: a game with one could never be written, nor any after it."""
    answer = client.post(path, json={"game": "Pong"} | body)
    if not (path == "/v1/watch" and "group" in body):  # it has no groups
        assert "no registry can keep" in refused(answer).json()["error"]
    refused(answer)


@pytest.mark.parametrize("parameters", [{"sequence_id": "\0"}, {"session_key": "a\0"}])
def test_a_sequence_with_such_text_is_refused(client, parameters):
    first = {"sequence_id": "a", "sequence_start": True} | parameters
    screen = {"name": "observation", "shape": [1, 84, 84], "datatype": "UINT8"}
    body = {"inputs": [screen | {"data": [0] * 84 * 84}], "parameters": first}
    answer = client.post("/v2/models/pong/infer", json=body)
    assert "no registry can keep" in refused(answer).json()["error"]


def test_an_actor_of_any_text_can_start_and_end_a_rollout(client):
    """The registry and its audit log hold whatever name came."""
    for actor in (b'"\\u0000"', b'"a\\nb\\u2028"', '"ß 🎮"'.encode()):
        body = b'{"version": "2", "actor": %s, "spec": {"strategy": "ab"}}' % actor
        started = client.post("/v1/rollouts", content=body)
        assert started.status_code == 201, started.text
        path = f"/v1/rollouts/{started.json()['id']}/abort"
        assert client.post(path, content=b'{"actor": %s}' % actor).status_code == 200


def test_a_token_that_no_text_can_be_is_a_wrong_one(client):
    session = client.post("/v1/sessions", json={"game": "Pong"}).json()
    game = client.post("/v1/watch", json={"game": "Pong"}).json()
    for path in (f"/v1/sessions/{session['id']}", f"/v1/watch/{game['id']}"):
        with client.websocket_connect(f"{path}/ws") as socket:
            socket.send_text('{"token": "\\ud800"}')
            assert socket.receive_json()["status"] == 400
    strange = {"X-Session-Token": b"\xff\xe9"}
    assert client.get(f"/v1/sessions/{session['id']}", headers=strange).status_code == 403
    strange = {"Authorization": b"Bearer \xff\xe9"}
    assert client.post("/v1/rollouts/1/abort", json={}, headers=strange).status_code == 403
