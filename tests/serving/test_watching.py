"""Games whose emulator is in the server: people watch an agent, or play themselves."""

import asyncio
import io
import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from serving_helpers import V5, Crashing, Favourite, run
from serving_house import until
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from rlarcade.evaluation.document_files import load_recorded
from rlarcade.games import make_env
from rlarcade.playing import Player, SearchPlayer, play_steps, recordings
from rlarcade.playing.play import Scheduled, play_games
from rlarcade.serving import watch_http, watching
from rlarcade.serving.app import make_app
from rlarcade.serving.assignment import Plan, Variant
from rlarcade.serving.controller import Controller
from rlarcade.serving.engine import LocalEngine
from rlarcade.serving.requests import Online
from rlarcade.serving.service import Deployment, Service
from rlarcade.serving.stock import Stocked

TOKEN = "operators-token"
FAST = {"speed": 0}


def agent_of(checkpoint):
    number = int(checkpoint.tensors["w"][0])
    return Crashing(after=9) if number == 7 else Favourite(number % 6, name=f"agent {number}")


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def start(registry, monkeypatch):
    """Starts a server in this process; `house.watching` are its watched games.

    By `house.clock` it knows which sessions are idle.
    """
    monkeypatch.setattr(watching, "_PERIOD", 0.05)
    clients = []

    def started():
        clock = Clock()
        service = Service(LocalEngine(), idle_seconds=60, clock=clock)
        controller = Controller(service, registry, agent_of)
        online = Online(service, controller, TOKEN, str(registry.folder))
        client = TestClient(make_app(online), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        client.service, client.clock = service, clock
        client.watching = client.app.state.watching
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        return client

    yield started
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def house(start, registry, add):
    """A server: Pong's champion is version 1, which always plays action 1."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    return start()


def begin(house, **asked):
    answer = house.post("/v1/watch", json={"game": "Pong"} | asked)
    assert answer.status_code == 201, answer.text
    return answer.json()


def shown(house, game):
    return house.get(path(game), headers={"X-Session-Token": game["token"]}).json()


def stands_still(house, game):
    before = shown(house, game)["steps"]
    time.sleep(0.2)
    return shown(house, game)["steps"] == before


def path(game):
    return f"/v1/watch/{game['id']}"


class Spectator:
    """A connection to a game."""

    def __init__(self, house, game, **orders):
        self._socket = house.websocket_connect(f"{path(game)}/ws")
        self._hello = {"token": game["token"]} | orders

    def __enter__(self):
        self.socket = self._socket.__enter__()
        self.say(**self._hello)
        return self

    def __exit__(self, *error):
        self._socket.__exit__(*error)

    def say(self, **orders):
        self.socket.send_text(json.dumps(orders))

    def look(self):
        """The next moment, with its picture as pixels."""
        told = self.socket.receive_json()
        if "error" not in told:
            told["picture"] = np.asarray(Image.open(io.BytesIO(self.socket.receive_bytes())))
        return told

    def to_the_end(self):
        moments = [self.look()]
        while moments[-1]["ended"] is None:
            moments.append(self.look())
        return moments


# Watching an agent


def test_a_game_is_begun_by_the_champion_with_a_seed_and_the_names_of_its_actions(house):
    game = begin(house)
    assert (game["game"], game["mode"], game["state"]) == ("pong", "agent", "open")
    assert (game["version"], game["role"], game["steps"]) == (1, "champion", 0)
    assert game["action_names"][:2] == ["NOOP", "FIRE"]
    assert 0 <= game["seed"] < 2**31
    assert len(game["token"]) > 20


def test_a_watched_game_is_the_game_that_evaluate_plays_step_by_step(house):
    """The oracle is an emulator of our own with the same seed, and the actions that were told."""
    game = begin(house, seed=3)
    with Spectator(house, game, **FAST) as spectator:
        before, *moments = spectator.to_the_end()
    env = make_env("Pong", render_mode="rgb_array")
    env.reset(seed=3)
    assert (before["step"], before["action"], before["q_values"]) == (0, None, None)
    assert np.array_equal(before["picture"], env.render())
    score = 0
    for number, moment in enumerate(moments, start=1):
        _, reward, *_, info = env.step(moment["action"])
        score += reward
        assert (moment["step"], moment["reward"], moment["score"]) == (number, reward, score)
        assert (moment["lives"], moment["version"]) == (info["lives"], 1)
        assert np.array_equal(moment["picture"], env.render())
        assert moment["action"] == 1 or moment["explored"]
        assert len(moment["q_values"]) == 6
    alone = Player(lambda observation: 1, game="Pong")
    [(_, played)] = play_games([Scheduled(alone, 3)])
    assert (score, len(moments), moments[-1]["ended"]) == (
        played.score,
        played.steps,
        played.ended,
    )
    assert shown(house, game) | {"token": None} == game | {
        "token": None,
        "steps": played.steps,
        "score": played.score,
        "lives": moments[-1]["lives"],
        "state": "ended",
        "ended": played.ended,
    }


def test_a_version_that_looks_ahead_plays_the_game_of_a_search_player(house):
    agent = SimpleNamespace(game="pong", protocol=V5, q_values=Favourite(1).q_values)
    steps = [*play_steps(SearchPlayer(agent, simulations=2))]
    game = begin(house, seed=steps[0].seed, simulations=2)
    assert (game["simulations"], game["version"], game["role"]) == (2, 1, None)
    with Spectator(house, game, **FAST) as spectator:
        _, *moments = spectator.to_the_end()
    assert [moment["action"] for moment in moments] == [step.action for step in steps]
    assert [moment["q_values"] for moment in moments] == [step.q_values.tolist() for step in steps]
    assert moments[-1]["score"] == steps[-1].episode.score


def test_a_picture_is_a_png_of_160_by_210_points_in_colour(house):
    with Spectator(house, begin(house), pause=True) as spectator:
        spectator.socket.receive_json()
        png = spectator.socket.receive_bytes()
    picture = Image.open(io.BytesIO(png))
    assert (picture.format, picture.size, picture.mode) == ("PNG", (160, 210), "RGB")


def test_a_spectator_pauses_and_steps(house):
    game = begin(house)
    with Spectator(house, game, pause=True, speed=60) as spectator:
        assert spectator.look()["step"] == 0
        for number in (1, 2):
            spectator.say(step=True)
            assert spectator.look()["step"] == number
        time.sleep(0.1)
        assert shown(house, game)["steps"] == 2
        spectator.say(pause=False, speed=0)
        assert [spectator.look()["step"] for _ in range(3)] == [3, 4, 5]


def test_a_step_pauses_a_running_game(house):
    game = begin(house)
    with Spectator(house, game, speed=60) as spectator:
        [spectator.look() for _ in range(3)]
        spectator.say(step=True)
        viewer = house.watching._games[game["id"]].viewer
        until(lambda: viewer.paused and not viewer.single_steps)
        until(lambda: stands_still(house, game))


@pytest.mark.parametrize("speed", [None, 60])
def test_a_game_goes_at_the_speed_that_its_spectator_wants(house, speed):
    """15 steps a second by default, never more, and no less once the machine is free."""

    def seconds():
        began = time.monotonic()
        for _ in range(4):
            spectator.look()
        return time.monotonic() - began

    wanted = 4 / (speed or 15)
    game, began = begin(house), time.monotonic()
    with Spectator(house, game, **({} if speed is None else {"speed": speed})) as spectator:
        while (step := spectator.look()["step"]) < 6:
            pass
        # from the beginning: pictures that have waited come all at once
        assert time.monotonic() - began > 0.75 * step / (speed or 15)
        until(lambda: seconds() < 3 * wanted)


def test_a_game_that_nobody_watches_stands_still_and_goes_on_for_who_has_its_token(house):
    game = begin(house, seed=5)
    with Spectator(house, game, **FAST) as spectator:
        first = [spectator.look() for _ in range(5)]
    until(lambda: stands_still(house, game))
    steps = shown(house, game)["steps"]
    assert steps >= first[-1]["step"]
    with Spectator(house, game, **FAST) as spectator:
        rest = spectator.to_the_end()
    assert rest[0]["step"] == steps
    alone = Player(lambda observation: 1, game="Pong")
    [(_, played)] = play_games([Scheduled(alone, 5)])
    assert (rest[-1]["score"], rest[-1]["step"]) == (played.score, played.steps)


def test_a_game_that_has_ended_shows_its_last_moment_again(house):
    game = begin(house)
    with Spectator(house, game, **FAST) as spectator:
        last = spectator.to_the_end()[-1]
        with pytest.raises(WebSocketDisconnect) as closed:
            spectator.look()
    assert closed.value.code == 1000
    with Spectator(house, game) as spectator:
        again = spectator.look()
    assert np.array_equal(again.pop("picture"), last.pop("picture"))
    assert again == last


def test_the_newest_connection_takes_a_game_over_at_once(house, monkeypatch):
    monkeypatch.setattr(watch_http, "_LOOK_SECONDS", 60)
    game = begin(house)
    with Spectator(house, game, pause=True) as old:
        old.look()
        with Spectator(house, game, pause=True) as new:
            new.look()
            assert old.look()["error"] == "the game is watched by another connection now."
            new.say(step=True)
            assert new.look()["step"] == 1


def test_no_step_is_played_before_the_last_one_was_taken():
    """Otherwise the pictures of a slow spectator would pile up in the server's memory."""

    class Slow:
        """A connection that takes a message only when it is told to."""

        def __init__(self):
            self.taking = asyncio.Semaphore(0)

        async def send_json(self, told):
            await self.taking.acquire()

        async def send_bytes(self, picture):
            await self.taking.acquire()

    class Counting:
        """A game that counts its steps."""

        open, newest, steps = True, watching.Moment(0, None, False, None, 1, 0, 0, 3, None, b""), 0

        def touch(self, game):
            pass

        async def step(self, game, pressed):
            self.steps += 1
            return self.newest

    async def play():
        socket, game = Slow(), Counting()
        spectator = watch_http._Spectator(0)
        playing = asyncio.create_task(watch_http._play(socket, game, game, spectator))
        for taken in range(8):
            for _ in range(20):
                await asyncio.sleep(0)
            assert game.steps == taken // 2
            socket.taking.release()
        playing.cancel()

    run(play())


def test_a_paused_game_that_is_watched_is_not_abandoned_and_one_that_nobody_watches_is(
    house, monkeypatch
):
    monkeypatch.setattr(watch_http, "_LOOK_SECONDS", 0.05)
    game = begin(house)
    session = house.watching._games[game["id"]].session
    with Spectator(house, game, pause=True) as spectator:
        spectator.look()
        for _ in range(3):
            house.clock.now += 50
            until(lambda: session.used == house.clock.now)
        spectator.say(step=True)
        assert spectator.look()["step"] == 1

    def abandoned():
        house.clock.now += 61
        return len(house.service.sessions) == 0

    until(abandoned)
    until(lambda: not house.watching._games)
    assert shown(house, game)["state"] == "abandoned"
    with Spectator(house, game) as spectator:
        spectator.look()
        told = spectator.look()
    assert told == {"error": "the game is over: abandoned. Begin a new one.", "status": 409}


def test_without_a_registry_games_that_nobody_watches_end_as_well(monkeypatch):
    monkeypatch.setattr(watching, "_PERIOD", 0.05)
    service, agent = Service(LocalEngine()), Favourite(2)
    plan = Plan(variants=(Variant(role="champion", version=1, share=1.0),), salt="x")
    stocked = Stocked(1, "0" * 64, "pong", V5, 6, agent, 0)
    service.deployments["pong"] = Deployment("pong", plan, 0, {1: stocked})
    with TestClient(make_app(Online(service, None, None, None))) as client:
        begin(client)
        service.idle_seconds = -1
        until(lambda: len(service.sessions) == 0)


def test_a_game_can_be_left(house):
    game = begin(house)
    token = {"X-Session-Token": game["token"]}
    assert house.delete(path(game), headers=token).status_code == 204
    assert shown(house, game)["state"] == "abandoned"
    assert len(house.service.sessions) == 0


def test_emulators_are_used_again(house):
    until(lambda: any(env.render_mode for env in house.service.emulators._idle))
    made = []
    for _ in range(3):
        game = begin(house)
        made.append(house.watching._games[game["id"]].env)
        house.delete(path(game), headers={"X-Session-Token": game["token"]})
    assert len(set(map(id, made))) == 1


def test_an_emulator_waits_for_the_first_spectator(house):
    until(lambda: any(env.render_mode for env in house.service.emulators._idle))


# Rollouts


def rollout(house, add, number=2):
    add(number)
    document = {
        "version": str(number),
        "spec": {"strategy": "canary", "steps": [50, 100], "min_sessions": 1},
    }
    answer = house.post("/v1/rollouts", json=document, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 201, answer.text
    until(lambda: house.get("/v1/rollouts").json()["rollouts"][-1]["state"] == "progressing")


def test_a_watched_game_whose_seed_the_server_gave_counts_and_the_referee_finds_its_score(
    house, add, registry
):
    rollout(house, add)
    game = begin(house)
    assert game["role"] in ("control", "candidate")
    with Spectator(house, game, **FAST) as spectator:
        last = spectator.to_the_end()[-1]
    live = house.service.deployments["pong"].live
    until(lambda: live.games[0].ended is not None)
    found = live.games[0]
    assert (found.score, found.steps, found.ended) == (last["score"], last["step"], last["ended"])
    assert (found.claimed, found.errors, found.abandoned) == (last["score"], 0, False)
    assert found.seed == game["seed"]


@pytest.mark.parametrize(
    "asked",
    [{"version": "1"}, {"mode": "human"}, {"mode": "human", "seed": 3}, {"simulations": 4}],
)
def test_games_of_a_chosen_version_and_those_of_people_do_not_count(house, add, asked):
    rollout(house, add)
    begin(house, **asked)
    assert house.service.deployments["pong"].live.games == {}


def test_the_score_of_a_game_with_a_chosen_seed_does_not_count(house, add):
    rollout(house, add)
    with Spectator(house, begin(house, seed=3), **FAST) as spectator:
        spectator.to_the_end()
    [found] = house.service.deployments["pong"].live.games.values()
    assert (found.seed, found.score) == (None, None)


def test_candidate_and_champion_can_play_the_same_seed_side_by_side(house, add):
    rollout(house, add)
    one, other = begin(house, seed=9, version="1"), begin(house, seed=9, version="2")
    with Spectator(house, one, **FAST) as left, Spectator(house, other, **FAST) as right:
        first = left.look()["picture"], right.look()["picture"]
        assert np.array_equal(*first)
        assert {left.look()["action"], right.look()["action"]} == {1, 2}


def test_a_spectator_is_told_which_version_chose_when_another_one_takes_the_game_over(house, add):
    rollout(house, add)
    game = begin(house, version="1")
    with Spectator(house, game, pause=True) as spectator:
        assert spectator.look()["version"] == 1
        for version in (1, 2):
            house.watching._games[game["id"]].session.version = version
            spectator.say(step=True)
            told = spectator.look()
            assert told["version"] == version
            assert told["action"] == version or told["explored"]


@pytest.mark.parametrize("asked", [{}, {"simulations": 4}])
def test_a_version_that_fails_ends_its_game_with_the_reason(start, registry, add, asked):
    add(7)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    house = start()
    game = begin(house, **asked)
    with Spectator(house, game, **FAST) as spectator:
        told = spectator.look()
        while "error" not in told:
            told = spectator.look()
    assert told["status"] == 500
    assert "version 1 failed: " in told["error"]
    assert "the candidate fell over" in told["error"]
    assert shown(house, game)["state"] == "failed"
    until(lambda: not house.watching._games)


def test_the_time_of_a_search_is_not_taken_for_that_of_the_version(house):
    game = begin(house, simulations=2)
    before = decisions(house)
    with Spectator(house, game, pause=True) as spectator:
        spectator.look()
        spectator.say(step=True)
        spectator.look()
    assert decisions(house) == before


def decisions(house):
    text = house.get("/metrics").text
    return [line for line in text.splitlines() if "decision_seconds_count" in line]


def test_a_rollout_tells_the_history_of_its_e_values_and_their_bounds(house, add):
    rollout(house, add)
    live = house.service.deployments["pong"].live
    for _ in range(3):
        for role, score in (("control", 10), ("candidate", 0)):
            variant = live.plan.variant(role)
            game = live.assign(variant, f"{role} {len(live.games)}", None)
            live.end(game.number, None, ended="terminated", score=score, steps=1)
    told = house.get("/v1/rollouts").json()["rollouts"][-1]
    assert (told["bound"], told["bound_worse"]) == (20, 100)
    for name in ("", "_worse"):
        assert told[f"history{name}"][0] == 1
        assert told[f"history{name}"][-1] == told[f"e_value{name}"]
        assert len(told[f"history{name}"]) == told["losses"] + 1 == 4
    assert told["history"] == sorted(told["history"], reverse=True)
    assert told["history_worse"] == sorted(told["history_worse"])


# Playing oneself


def play(house, game, keys=(1, 2, 0)):
    with Spectator(house, game, pause=False) as spectator:
        moments = [spectator.look()]
        while moments[-1]["ended"] is None:
            spectator.say(action=keys[moments[-1]["step"] % len(keys)])
            moments.append(spectator.look())
    return moments


@pytest.fixture
def fast_people(monkeypatch):
    """People's games have a thousand steps a second here; a game would take half a minute."""
    monkeypatch.setattr(watch_http, "SPEED", 1000.0)


def test_a_persons_game_is_a_recording_that_watch_verifies(house, fast_people, tmp_path, command):
    game = begin(house, mode="human", seed=11)
    assert (game["version"], game["role"], game["mode"]) == (None, None, "human")
    moments = play(house, game)
    assert all(moment["q_values"] is None and not moment["explored"] for moment in moments)
    assert {moment["version"] for moment in moments} == {None}
    told = shown(house, game)["recording"]
    assert (told["checkpoint"], told["version"], told["epsilon"]) == ("human", None, 0)
    assert told["mean"] == moments[-1]["score"]
    answer = house.get(f"{path(game)}/recording", headers={"X-Session-Token": game["token"]})
    assert answer.headers["content-disposition"] == 'attachment; filename="pong-11.json"'
    file = tmp_path / "pong-11.json"
    file.write_bytes(answer.content)
    code, out, err = command("watch", str(file), "--verify")
    assert (code, err) == (0, "")
    assert "1 of 1 games reproduced to the point" in out
    [recording] = load_recorded(file).recordings
    assert recording.player == "human"
    assert recording.episode.steps == len(moments) - 1
    altered = json.loads(file.read_text())
    altered["evaluations"][0]["episodes"][0]["score"] += 10
    file.write_text(json.dumps(altered))
    assert command("watch", str(file), "--verify")[0] == 1


def test_the_newest_key_counts_at_the_time_of_a_step(house):
    """Fifteen decisions a second: of two keys between two steps, the second one is played."""
    game = begin(house, mode="human")
    with Spectator(house, game) as spectator:
        assert spectator.look()["action"] is None
        assert spectator.look()["action"] == 0  # nothing was pressed yet
        began = time.monotonic()
        spectator.say(action=3)
        spectator.say(action=2)
        assert [spectator.look()["action"] for _ in range(4)][1:] == [2, 2, 2]
        assert time.monotonic() - began > 3 / 15 * 0.75


def test_the_agent_is_not_asked_in_a_persons_game(house):
    before = len(house.service.deployments["pong"].champion.agent.calls)
    with Spectator(house, begin(house, mode="human")) as spectator:
        [spectator.look() for _ in range(4)]
    assert len(house.service.deployments["pong"].champion.agent.calls) == before


def test_there_is_no_recording_of_a_game_that_goes_on_or_that_an_agent_plays(house):
    for mode in ("human", "agent"):
        game = begin(house, mode=mode)
        answer = house.get(f"{path(game)}/recording", headers={"X-Session-Token": game["token"]})
        assert answer.status_code == 409
        assert "only a person's game has a recording" in answer.json()["error"]


def test_a_single_game_may_have_the_seed_of_its_document_and_several_may_not(house, tmp_path):
    """Every seed is as good as another for one game; several must follow from one seed."""
    alone = Player(lambda observation: 1, game="Pong")
    [(_, episode)] = play_games([Scheduled(alone, 11)])
    document = {
        "checkpoint": "human",
        "version": None,
        "game": "pong",
        "protocol": recordings.GameEnv("pong").protocol.model_dump(),
        "epsilon": 0,
        "seed": 11,
    }
    file = tmp_path / "file.json"
    for count, problems in ((1, 0), (2, 1)):
        episodes = [episode.model_dump(mode="json")] * count
        file.write_text(json.dumps(document | {"episodes": episodes}))
        assert len(load_recorded(file).problems) == problems
    file.write_text(json.dumps(document | {"seed": 12, "episodes": episodes[:1]}))
    assert len(load_recorded(file).problems) == 1


# What is refused


def test_a_watched_game_needs_its_token(house):
    game = begin(house)
    for headers, status in [({}, 400), ({"X-Session-Token": "guessed"}, 403)]:
        for way in ("", "/recording"):
            answer = house.get(f"{path(game)}{way}", headers=headers)
            assert answer.status_code == status
        assert house.delete(path(game), headers=headers).status_code == status
    with Spectator(house, game | {"token": "guessed"}) as spectator:
        assert spectator.look() == {"error": "the game's token is wrong.", "status": 403}
    with Spectator(house, {"id": "none", "token": "x"}) as spectator:
        assert spectator.look()["status"] == 404


def test_a_watched_game_cannot_be_reached_by_the_routes_of_other_sessions(house):
    """Otherwise its token would let a client put actions of its own into the game."""
    game = begin(house)
    answer = house.post(
        f"/v1/sessions/{game['id']}/act",
        content=bytes(84 * 84),
        headers={"X-Session-Token": game["token"]},
    )
    assert answer.status_code == 403


def test_a_first_message_without_a_token_is_refused(house):
    game = begin(house)
    for first in ("", "7", "{}", '{"token": 7}', '{"token": "x", "wish": 1}', "[" * 5000):
        with house.websocket_connect(f"{path(game)}/ws") as socket:
            socket.send_text(first)
            told = socket.receive_json()
        assert told == {"error": 'the first message must be {"token": TOKEN}.', "status": 400}


def test_a_client_that_says_nothing_is_refused(house, monkeypatch):
    monkeypatch.setattr(watch_http, "_HELLO_SECONDS", 0.05)
    with house.websocket_connect(f"{path(begin(house))}/ws") as socket:
        assert socket.receive_json()["status"] == 400


SENSELESS = [
    "",
    "7",
    "{",
    '{"pause": "yes"}',
    '{"speed": 61}',
    '{"speed": 0.5}',
    '{"speed": -1}',
    '{"speed": NaN}',
    '{"speed": 1e999}',
    '{"step": false}',
    '{"action": 1}',
    '{"token": "again"}',
    '{"wish": 1}',
]


def test_orders_that_make_no_sense_end_the_connection_and_not_the_game(house):
    game = begin(house)
    for order in SENSELESS:
        with Spectator(house, game, pause=True) as spectator:
            spectator.look()
            spectator.socket.send_text(order)
            assert spectator.look()["status"] == 400, order
    assert shown(house, game)["state"] == "open"


def test_binary_messages_are_no_orders(house):
    with Spectator(house, begin(house), pause=True) as spectator:
        spectator.look()
        spectator.socket.send_bytes(b"\0" * 1000)
        assert spectator.look()["status"] == 400


def test_a_person_can_press_only_what_the_game_has_and_cannot_slow_it_down(house):
    game = begin(house, mode="human")
    for order, told in [
        ({"action": 6}, "from 0 to 5"),
        ({"action": -1}, "a message must be"),
        ({"action": True}, "a message must be"),
        ({"speed": 60}, "15 steps a second"),
        ({"step": True}, "15 steps a second"),
    ]:
        with Spectator(house, game, pause=True) as spectator:
            spectator.look()
            spectator.say(**order)
            assert told in spectator.look()["error"]


def test_games_that_cannot_be_watched_are_refused_with_the_reason(house):
    for asked, status, told in [
        ({"game": "Breakout"}, 404, "not served"),
        ({"game": "<script>"}, 404, "<script>"),
        ({"version": "9"}, 404, "version 9"),
        ({"mode": "human", "version": "1"}, 409, "leave `version` out"),
        ({"mode": "human", "simulations": 4}, 409, "leave `simulations` out"),
        ({"version": "9", "simulations": 4}, 404, "version 9"),
        ({"simulations": 65}, 400, "simulations"),
        ({"simulations": -1}, 400, "simulations"),
        ({"simulations": True}, 400, "simulations"),
        ({"mode": "robot"}, 400, "mode"),
        ({"seed": 2**31}, 400, "seed"),
        ({"seed": -1}, 400, "seed"),
        ({"key": ""}, 400, "key"),
        ({"wish": 1}, 400, "wish"),
    ]:
        answer = house.post("/v1/watch", json={"game": "Pong"} | asked)
        assert (answer.status_code, told in answer.json()["error"]) == (status, True), answer.text
    assert len(house.service.sessions) == 0


def test_too_many_games_are_refused_and_ended_ones_make_room(house, monkeypatch):
    monkeypatch.setattr(watching, "MOST_GAMES", 2)
    games = [begin(house), begin(house)]
    full = house.post("/v1/watch", json={"game": "Pong"})
    assert (full.status_code, full.headers["retry-after"]) == (503, "10")
    house.delete(path(games[0]), headers={"X-Session-Token": games[0]["token"]})
    begin(house)


def test_only_the_newest_ended_games_are_kept(house, monkeypatch):
    monkeypatch.setattr(watching, "MOST_ENDED", 2)
    games = [begin(house) for _ in range(3)]
    for game in games:
        house.delete(path(game), headers={"X-Session-Token": game["token"]})
    states = [shown(house, game).get("state") for game in games]
    assert states == [None, "abandoned", "abandoned"]


def test_an_emulator_that_does_not_start_leaves_no_session_behind(house, monkeypatch):
    def broken(*ignored, **more):
        raise OSError("no emulator")

    monkeypatch.setattr(house.service.emulators, "take", broken)
    assert house.post("/v1/watch", json={"game": "Pong"}).status_code == 500
    assert len(house.service.sessions) == 0
    assert house.watching._opening == 0


# The page


FILES = {
    "": "text/html",
    "page.js": "text/javascript",
    "common.js": "text/javascript",
    "game.js": "text/javascript",
    "play.js": "text/javascript",
    "rollouts.js": "text/javascript",
    "run.js": "text/javascript",
    "approvals.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which nobody loads


def test_the_page_is_served_with_a_policy_that_lets_nothing_else_in(house):
    for name, kind in FILES.items():
        answer = house.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "://" not in answer.text.replace(NAMESPACE, "").replace("}://${", "")


def test_all_files_of_the_page_are_served_and_no_other_file_can_be_had(house):
    folder = {path.name for path in watch_http._PAGE.iterdir()}
    assert folder == {name or "index.html" for name in FILES}
    for path in ("/index.html", "/page", "/page/page.js", "/..%2fapp.py", "/x.js"):
        assert house.get(path).status_code == 404


def ratio(one, other):
    """The contrast of two colours, 1 to 21, as WCAG 2.2 defines it."""

    def light(color):
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_texts_and_drawings_have_enough_contrast_in_light_and_dark():
    assert ratio("#000000", "#ffffff") == 21
    style = (watch_http._PAGE / "page.css").read_text("utf-8")
    themes = re.findall(r":root \{(.+?)\}", style, flags=re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        color = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", theme))
        for text in ("ink", "soft", "link", "random"):
            for back in ("card", "page"):
                assert ratio(color[text], color[back]) >= 4.5, (text, back)
        for state in ("good", "bad", "open"):
            assert ratio(color[state], color[f"{state}-back"]) >= 4.5, state
        assert ratio(color["bar"], color["page"]) >= 3


def test_scripts_of_the_page_make_no_html_of_texts():
    page = watch_http._PAGE
    scripts = sorted(page.glob("*.js"))
    assert len(scripts) == sum(name.endswith(".js") for name in FILES)
    for script in scripts:
        text = script.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, f"{script.name} has {word}"
