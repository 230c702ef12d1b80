"""The HTTP application, as clients see it."""

import asyncio
import hmac
import itertools
import json

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_helpers import Crashing, Favourite, NotANumber, observations
from serving_house import until
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from rlarcade.evaluation import evaluate_agent
from rlarcade.games import FrameStack, make_env
from rlarcade.playing import EpisodeResult, Player
from rlarcade.playing.play import Scheduled, play_games
from rlarcade.serving import rollout_store as store
from rlarcade.serving.app import make_app
from rlarcade.serving.controller import Controller
from rlarcade.serving.engine import LocalEngine
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import Online
from rlarcade.serving.service import Service

TOKEN = "operators-token"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}


def agent_of(checkpoint):
    """By the content of the checkpoint: a favourite action, a crash, or NaN."""
    number = int(checkpoint.tensors["w"][0])
    kind = {7: Crashing, 8: NotANumber}.get(number, Favourite)
    return kind(action=number % 6, name=f"agent {number}")


@pytest.fixture
def house(two_versions):
    """A server in this process: Pong's champion is version 1, version 2 is another."""
    service = Service(LocalEngine(), idle_seconds=60)
    controller = Controller(service, two_versions, agent_of)
    online = Online(service, controller, TOKEN, str(two_versions.folder))
    with TestClient(make_app(online, ("testserver",)), raise_server_exceptions=False) as client:
        client.service = service
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        yield client


def begin(house, **asked):
    answer = house.post("/v1/sessions", json={"game": "Pong"} | asked)
    assert answer.status_code == 201, answer.text
    return answer.json()


def token_of(session):
    return {"X-Session-Token": session["token"]}


def infer(house, document, path="/v2/models/pong/infer", **more):
    return house.post(path, content=json.dumps(document), **more)


def tensor(array):
    return {
        "name": "observation",
        "shape": list(array.shape),
        "datatype": "UINT8",
        "data": array.ravel().tolist(),
    }


# The Open Inference Protocol


def test_a_stack_is_answered_by_the_champion_with_action_values_and_version(house):
    asked = {"id": "mine", "inputs": [tensor(observations(2))]}
    told = infer(house, asked).json()
    assert (told["model_name"], told["model_version"], told["id"]) == ("pong", "1", "mine")
    outputs = {one["name"]: one for one in told["outputs"]}
    assert outputs["action"]["data"] == [1, 1]
    assert outputs["q_values"]["shape"] == [2, 6]


def test_a_version_can_be_addressed_past_the_plan(house):
    asked = {"inputs": [tensor(observations(1))]}
    told = infer(house, asked, "/v2/models/pong/versions/1/infer").json()
    assert told["model_version"] == "1"
    refused = infer(house, asked, "/v2/models/pong/versions/2/infer")
    assert refused.status_code == 404
    assert refused.json() == {"error": "version 2 of pong is not served. Versions online: 1."}


@pytest.mark.parametrize("game", ["Pong", "pong", "ALE/Pong-v5"])
def test_a_model_is_named_as_games_are_named_everywhere(house, game):
    if "/" not in game:
        assert house.get(f"/v2/models/{game}/ready").json() == {"name": "pong", "ready": True}


def test_games_that_do_not_exist_or_are_not_served_are_404_with_the_name(house):
    for name, told in [
        ("ponk", "pong"),
        ("breakout", "breakout is not served. Games online: pong"),
    ]:
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/ready", f"/v2/models/{name}/config"):
            answer = house.get(path)
            assert answer.status_code == 404
            assert told.lower() in answer.json()["error"].lower()


def test_a_sequence_keeps_the_stack_and_ends_when_it_says_so(house):
    frames = np.random.default_rng(0).integers(0, 256, (3, 84, 84), dtype=np.uint8)
    actions = []
    for number, frame in enumerate(frames):
        flags = {"sequence_id": 5, "sequence_start": number == 0, "sequence_end": number == 2}
        asked = {"inputs": [tensor(frame)], "parameters": flags}
        answer = infer(house, asked)
        assert answer.status_code == 200, answer.text
        actions.append(answer.json()["outputs"][0]["data"])
    assert len(house.service.sessions) == 0
    ended = infer(house, {"inputs": [tensor(frames[0])], "parameters": {"sequence_id": 5}})
    assert ended.status_code == 409
    assert "no session pong/number/5 is open" in ended.json()["error"]


def test_a_sequence_that_never_began_is_409_and_gets_no_silent_fresh_stack(house):
    frame = np.zeros((84, 84), dtype=np.uint8)
    for number in (9, "nine"):
        asked = {"inputs": [tensor(frame)], "parameters": {"sequence_id": number}}
        assert infer(house, asked).status_code == 409
    twice = {"sequence_id": 9, "sequence_start": True}
    assert infer(house, {"inputs": [tensor(frame)], "parameters": twice}).status_code == 200
    again = infer(house, {"inputs": [tensor(frame)], "parameters": twice})
    assert again.status_code == 409
    assert "open already" in again.json()["error"]


def test_what_else_triton_clients_ask_for_is_answered(house):
    assert house.get("/v2").json()["name"] == "rlarcade"
    assert house.get("/v2/health/live").status_code == 200
    index = house.post("/v2/repository/index").json()
    assert [(one["name"], one["version"], one["state"]) for one in index] == [
        ("pong", "1", "READY")
    ]
    assert house.post("/v2/repository/models/pong/load").status_code == 403
    assert house.get("/v2/models/pong/stats").json() == {
        "error": "there is no /v2/models/pong/stats."
    }


# Sessions


def test_a_game_over_http_is_the_game_that_evaluate_plays(house):
    """The same seed, the same ε: the client's emulator sees the very same game."""
    session = begin(house)
    env = make_env("Pong")
    observation, _ = env.reset(seed=session["seed"])
    score, ended = 0.0, False
    with house.websocket_connect(f"/v1/sessions/{session['id']}/ws") as socket:
        socket.send_json({"token": session["token"]})
        assert socket.receive_json() == {"steps": 0, "action": None}
        while not ended:
            socket.send_bytes(observation[-1].tobytes())
            told = socket.receive_json()
            observation, reward, terminated, truncated, _ = env.step(told["action"])
            score += reward
            ended = terminated or truncated
        socket.send_json({"ended": "terminated", "score": score})
        assert socket.receive_json()["state"] == "ended"
    alone = Player(lambda observation: 1, game="Pong")
    [(_, game)] = play_games([Scheduled(alone, session["seed"])])
    assert (game.score, game.steps) == (score, told["step"] + 1)
    assert evaluate_agent(alone, episodes=1).protocol.name == session["protocol"]["name"]


def test_http_and_websocket_play_the_same_game_and_a_lost_answer_is_told_again(house):
    session = begin(house, seed=3)
    frame = observations(1)[0]
    path = f"/v1/sessions/{session['id']}"
    first = house.post(f"{path}/act", content=frame.tobytes(), headers=token_of(session)).json()
    assert first["step"] == 0
    assert len(first["q_values"]) == 6
    with house.websocket_connect(f"{path}/ws") as socket:
        socket.send_json({"token": session["token"]})
        assert socket.receive_json() == {"steps": 1, "action": first["action"]}
        socket.send_bytes(frame[-1].tobytes())
        second = socket.receive_json()
        assert second["step"] == 1
    shown = house.get(path, headers=token_of(session)).json()
    assert (shown["steps"], shown["state"], shown["token"]) == (2, "open", None)
    assert house.delete(path, headers=token_of(session)).status_code == 204
    gone = house.get(path, headers=token_of(session))
    assert gone.status_code == 404


def test_an_observation_that_was_refused_for_the_load_can_be_sent_again(house, monkeypatch):
    """It is in the stack once, so the game goes on as if nothing had been refused."""
    frames = np.random.default_rng(1).integers(0, 256, (6, 84, 84), dtype=np.uint8)
    seen = []
    engine = house.service.engine
    whole = engine.values
    tries = itertools.count()

    async def busy_at_first(version, observations):
        if next(tries) in (0, 4):
            raise Refusal(503, "busy", retry_after=1)
        seen.append(observations[0].copy())
        return await whole(version, observations)

    monkeypatch.setattr(engine, "values", busy_at_first)
    session = begin(house, seed=1)
    path = f"/v1/sessions/{session['id']}/act"
    codes = []
    for frame in frames:
        while True:
            answer = house.post(path, content=frame.tobytes(), headers=token_of(session))
            codes.append(answer.status_code)
            if answer.status_code == 200:
                break
            assert answer.headers["retry-after"] == "1"
    assert codes.count(503) == 2
    stack = FrameStack()
    for shown, frame in zip(seen, frames, strict=True):
        assert np.array_equal(shown, stack.push(frame))
    (open_session,) = house.service.sessions
    assert len(open_session.sums) == open_session.steps == 6


def test_a_session_needs_its_token(house):
    session = begin(house)
    path = f"/v1/sessions/{session['id']}"
    assert house.get(path).status_code == 400
    wrong = house.get(path, headers={"X-Session-Token": "guessed"})
    assert (wrong.status_code, wrong.json()) == (403, {"error": "the session's token is wrong."})
    with house.websocket_connect(f"{path}/ws") as socket:
        socket.send_json({"token": "guessed"})
        assert socket.receive_json() == {"error": "the session's token is wrong.", "status": 403}
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


@pytest.mark.parametrize(
    "text", ["", "7", "[]", "{", '{"token": 7}', '{"ended": "won"}', "[" * 5000, '{"score": NaN}']
)
def test_messages_that_make_no_sense_end_the_connection_and_not_the_game(house, text):
    session = begin(house)
    with house.websocket_connect(f"/v1/sessions/{session['id']}/ws") as socket:
        socket.send_json({"token": session["token"]})
        socket.receive_json()
        socket.send_text(text)
        assert socket.receive_json()["status"] == 400
    assert (
        house.get(f"/v1/sessions/{session['id']}", headers=token_of(session)).json()["state"]
        == "open"
    )


@pytest.mark.parametrize("size", [0, 1, 7055, 84 * 84 * 3, 100_801])
def test_an_observation_of_a_wrong_size_is_refused(house, size):
    session = begin(house)
    answer = house.post(
        f"/v1/sessions/{session['id']}/act", content=bytes(size), headers=token_of(session)
    )
    assert answer.status_code == (413 if size > 100_800 else 400)
    assert "bytes" in answer.json()["error"]


def test_a_game_whose_client_stays_away_is_abandoned(house):
    session = begin(house)
    house.service.idle_seconds = -1
    path = f"/v1/sessions/{session['id']}"
    until(lambda: house.get(path, headers=token_of(session)).status_code == 404)


@pytest.mark.parametrize("leave", ["idle", "deleted"])
def test_the_connection_of_a_game_that_is_over_does_not_stay(house, leave):
    """A client that says nothing would keep its socket for ever."""
    session = begin(house)
    path = f"/v1/sessions/{session['id']}"
    with house.websocket_connect(f"{path}/ws") as socket:
        socket.send_json({"token": session["token"]})
        socket.receive_json()
        if leave == "idle":
            house.service.idle_seconds = -1
        else:
            assert house.delete(path, headers=token_of(session)).status_code == 204
        told = socket.receive_json()
        assert told == {"error": "the session is over: abandoned. Begin a new one.", "status": 404}
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
        assert closed.value.code == 1008


def test_games_of_one_user_are_played_by_one_version(house):
    sessions = [begin(house, key="anna") for _ in range(5)]
    assert len({session["version"] for session in sessions}) == 1
    assert {session["key"] for session in sessions} == {"anna"}


# Deployments and rollouts


def rollouts(house):
    return house.get("/v1/rollouts").json()["rollouts"]


def start(house, version="2", **spec):
    document = {"version": version, "spec": {"strategy": "canary", "steps": [50, 100]} | spec}
    return house.post("/v1/rollouts", json=document, headers=OPERATOR)


def test_a_rollout_is_started_paused_resumed_and_aborted_by_operators(house):
    assert start(house).json()["state"] == "preparing"
    until(lambda: rollouts(house)[-1]["state"] == "progressing")
    shown = rollouts(house)[-1]
    assert {one["role"]: one["share"] for one in shown["variants"]} == {
        "champion": 0.0,
        "control": 0.5,
        "candidate": 0.5,
    }
    told = house.get("/v1/deployments").json()
    assert (told["deployments"][0]["game"], told["deployments"][0]["rollout"]) == ("pong", 1)
    assert told["replicas"] == [{"name": "local", "healthy": True, "versions": [1, 2]}]
    for what, state in [("pause", "paused"), ("resume", "progressing"), ("abort", "aborted")]:
        answer = house.post(f"/v1/rollouts/1/{what}", json={"actor": "bob"}, headers=OPERATOR)
        assert (answer.status_code, answer.json()["state"]) == (200, state), answer.text
    assert rollouts(house)[-1]["note"] == "operator bob: abort"
    again = house.post("/v1/rollouts/1/abort", json={}, headers=OPERATOR)
    assert again.status_code == 409
    assert "rollout 1 is aborted; abort needs one that is" in again.json()["error"]


def test_an_experiment_ends_by_a_decision_and_can_be_undone(house, registry):
    start(house, strategy="ab", steps=[1, 5, 25, 50, 100])
    until(lambda: rollouts(house)[-1]["state"] == "progressing")
    decided = house.post("/v1/rollouts/1/decide", json={"winner": "candidate"}, headers=OPERATOR)
    assert decided.json()["state"] == "succeeded", decided.text
    until(lambda: begin(house)["version"] == 2)
    assert registry.alias("pong").version == 2
    undone = house.post("/v1/rollouts/1/undo", json={}, headers=OPERATOR)
    assert undone.json()["state"] == "rolled_back"
    until(lambda: begin(house)["version"] == 1)


@pytest.mark.parametrize(
    "lie",
    [
        {"ended": "terminated", "score": 1e9},
        {"ended": "truncated", "score": -5},
        {"ended": "left"},
        None,  # another game's frames
    ],
)
def test_a_client_that_lies_changes_no_score_that_counts(house, registry, lie):
    """The server plays the game of its seed and its version to the end, by itself."""
    start(house)
    until(lambda: rollouts(house)[-1]["state"] == "progressing")
    session = begin(house)
    frame = np.full((84, 84), 200, dtype=np.uint8)
    path = f"/v1/sessions/{session['id']}"
    for _ in range(3):
        house.post(f"{path}/act", content=frame.tobytes(), headers=token_of(session))
    house.post(f"{path}/outcome", json=lie or {"score": 7.0}, headers=token_of(session))
    until(lambda: store.games_of(registry, 1)[0].ended is not None)
    game = store.games_of(registry, 1)[0]
    action = {1: 1, 2: 2}[session["version"]]
    alone = Player(lambda observation: action, game="Pong")
    [(_, true)] = play_games([Scheduled(alone, session["seed"])])
    assert (game.score, game.steps, game.ended) == (true.score, true.steps, true.ended)
    assert game.claimed == (lie or {"score": 7.0}).get("score")
    assert game.abandoned == (lie == {"ended": "left"})
    record = registry.get_document(game.record, EpisodeResult)
    assert record.trace == true.trace


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer guessed-token"}, 403),
        ({"Authorization": f"Bearer {TOKEN}x"}, 403),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 403),
    ],
)
def test_orders_need_the_operators_token(house, headers, status):
    document = {"version": "2", "spec": {"strategy": "big-bang"}}
    assert house.post("/v1/rollouts", json=document, headers=headers).status_code == status
    for what in ("pause", "resume", "abort", "undo", "decide"):
        body = {"winner": "candidate"} if what == "decide" else {}
        answer = house.post(f"/v1/rollouts/1/{what}", json=body, headers=headers)
        assert answer.status_code == status
    assert rollouts(house) == []


def test_a_server_without_a_token_takes_no_orders(house):
    house.app.state.online.token = None
    answer = start(house)
    assert answer.status_code == 403
    assert "Set RLARCADE_TOKEN or --token-file" in answer.json()["error"]


def test_a_server_without_a_registry_takes_no_orders(house):
    house.app.state.online.controller = None
    answer = start(house)
    assert answer.status_code == 409
    assert "nothing can be rolled out: the server has no registry" in answer.json()["error"]


def test_a_server_that_ends_ends_its_engine_and_its_threads(registry, add):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    service = Service(LocalEngine())
    online = Online(service, Controller(service, registry, agent_of), TOKEN, None)
    with TestClient(make_app(online)) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert service.engine.replicas()[0].versions == (1,)
    assert service.engine.replicas()[0].versions == ()
    with pytest.raises(RuntimeError, match="after shutdown"):
        asyncio.run(service.at_registry(registry.aliases))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": "9"}, "9"),
        ({"version": "champion@pong"}, "version 1 is the champion of Pong already"),
        ({"steps": [100, 50]}, "rising percentages"),
        ({"strategy": "hope"}, "strategy"),
        ({"wish": 1}, "wish"),
        ({"min_sessions": True}, "min_sessions"),
        ({"steps": [True, 100]}, "steps.0"),
        ({"gate_on_claims": 1}, "gate_on_claims"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused_with_the_reason(house, change, told):
    answer = start(house, **change)
    assert answer.status_code in (400, 409)
    assert told in answer.json()["error"]
    assert rollouts(house) == []


@pytest.mark.parametrize("score", [True, "7", [7], {}])
def test_a_score_is_a_number(house, score):
    began = house.post("/v1/sessions", json={"game": "Pong"}).json()
    headers = {"X-Session-Token": began["token"]}
    ending = f"/v1/sessions/{began['id']}/outcome"
    refused = house.post(ending, json={"score": score}, headers=headers)
    assert refused.status_code == 400
    assert "score" in refused.json()["error"]
    assert house.post(ending, json={"score": 7}, headers=headers).json()["claimed"] == 7


@pytest.mark.parametrize("seed", [True, "7", 7.5])
@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/watch"])
def test_a_seed_is_a_whole_number(house, path, seed):
    answer = house.post(path, json={"game": "Pong", "seed": seed})
    assert answer.status_code == 400
    assert "seed" in answer.json()["error"]


# What every request passes


def test_errors_are_one_line_of_json_everywhere(house):
    for answer in (
        house.get("/nowhere"),
        house.put("/v2"),
        house.post("/v1/sessions", content="{"),
        house.post("/v1/sessions", json={"game": "<script>alert(1)</script>"}),
        house.post("/v1/sessions", json={"game": "Pong", "seed": -1}),
        house.post("/v1/sessions", json={"game": "Pong", "wish": 1}),
    ):
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == "application/json"
        error = answer.json()["error"]
        assert error
        assert "\n" not in error


def test_a_mistake_of_the_server_is_told_as_json_and_not_as_a_traceback(house, monkeypatch):
    def broken(*ignored, **more):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(house.service.metrics, "text", broken)
    answer = house.get("/metrics")
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server made a mistake; its log says which."}


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://testserver.evil.example",
        "http://testserver:81",
        "http://[::1",
    ],
)
def test_pages_from_elsewhere_can_neither_ask_nor_connect(house, origin):
    headers = {"Origin": origin}
    assert house.get("/v1/deployments", headers=headers).status_code == 403
    session = begin(house)
    with (
        pytest.raises(WebSocketDisconnect),
        house.websocket_connect(f"/v1/sessions/{session['id']}/ws", headers=headers),
    ):
        pass
    own = house.get("/v1/deployments", headers={"Origin": "http://testserver"})
    assert own.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "testserver@evil.example", "evil@testserver", "[::1", ""]
)
def test_a_name_that_somebody_lets_point_here_reaches_nothing(house, host):
    assert house.get("/v1/deployments", headers={"Host": host}).status_code == 421


def test_metrics_are_prometheus_text_and_count(house):
    begin(house)
    infer(house, {"inputs": [tensor(observations(1))]})
    infer(house, {"inputs": []})
    text = house.get("/metrics").text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["rlarcade_sessions_active", "act", "pong"] == 1
    assert found["rlarcade_requests_total", "/v2/models/{model}/infer", "200"] == 1
    assert found["rlarcade_requests_total", "/v2/models/{model}/infer", "400"] == 1
    assert found["rlarcade_decisions_total", "1", "champion", "ok"] == 1
    assert found["rlarcade_registry_stale",] == 0
    assert found["rlarcade_replicas", "1"] == 1


def test_the_description_of_the_api_is_served_and_loads_nothing_from_the_web(house):
    document = house.get("/openapi.json").json()
    assert "/v2/models/{model}/infer" in document["paths"]
    assert house.get("/docs").status_code == 404


def test_tokens_are_compared_in_constant_time(house, monkeypatch):
    """How long a comparison takes must not tell how much of a guess is right."""
    compared, compare = [], hmac.compare_digest

    def noted(one, other):
        compared.append((one, other))
        return compare(one, other)

    session = begin(house)
    watched = house.post("/v1/watch", json={"game": "Pong"}).json()
    monkeypatch.setattr(hmac, "compare_digest", noted)
    wrong = {"X-Session-Token": "guess"}
    assert house.get(f"/v1/sessions/{session['id']}", headers=wrong).status_code == 403
    assert house.get(f"/v1/watch/{watched['id']}", headers=wrong).status_code == 403
    order = house.post("/v1/rollouts/1/abort", json={}, headers={"Authorization": "Bearer guess"})
    assert order.status_code == 403
    tokens = (session["token"], watched["token"], TOKEN)
    assert compared == [(b"guess", token.encode()) for token in tokens]
