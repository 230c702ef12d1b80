"""The client that plays: connections break, servers are busy, versions fail, and games go on."""

import asyncio
import contextlib
import socket
import threading

import pytest
import uvicorn
from serving_house import pong_online

from rlarcade.errors import ConfigError, ServerError
from rlarcade.playing import Player
from rlarcade.playing.play import Scheduled, play_games
from rlarcade.serving import client
from rlarcade.serving.app import make_app
from rlarcade.serving.client import ServerClient
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import Online


@pytest.fixture
def server(monkeypatch):
    """A server with Pong in a thread; yields its address and its service."""
    monkeypatch.setattr(client, "_PAUSE", 0.01)
    bound = socket.create_server(("127.0.0.1", 0))
    there = {}

    async def serve():
        there["service"] = service = await pong_online()
        app = make_app(Online(service, None, None, None))
        there["server"] = server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        await server._serve([bound])

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    while "server" not in there or not there["server"].started:
        thread.join(0.01)
    service = there["service"]
    service.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    yield service
    there["server"].should_exit = True
    thread.join(10)


def alone(seed):
    """The same game without a server."""
    player = Player(lambda observation: 2, game="Pong")
    [(_, game)] = play_games([Scheduled(player, seed)])
    return game.score, game.steps, game.ended


def test_a_game_against_a_server_is_the_game_that_evaluate_plays(server):
    played, env = ServerClient(server.url).play("Pong")
    assert (played.score, played.steps, played.ended) == alone(played.seed)
    assert (played.version, played.role, played.failure) == (1, "champion", None)
    assert len(played.seconds) == played.steps
    again, same = ServerClient(server.url).play("pong", env=env)
    assert same is env
    assert (again.score, again.steps, again.ended) == alone(again.seed)


def test_a_connection_that_breaks_again_and_again_changes_no_game(server, monkeypatch):
    """Before some steps the request is lost, after others only its answer."""
    send, receive = client.ClientConnection.send, client.ClientConnection.recv
    sent = {"frames": 0}

    def breaking_send(self, message):
        if isinstance(message, bytes):
            sent["frames"] += 1
            if sent["frames"] % 7 == 0:
                self.close()
        return send(self, message)

    def breaking_receive(self, *arguments):
        answer = receive(self, *arguments)
        if sent["frames"] % 11 == 0 and '"q_values"' in answer:
            sent["frames"] += 1
            self.close()
            raise ConnectionResetError("the answer was lost")
        return answer

    monkeypatch.setattr(client.ClientConnection, "send", breaking_send)
    monkeypatch.setattr(client.ClientConnection, "recv", breaking_receive)
    played, _ = ServerClient(server.url).play("Pong")
    assert (played.score, played.steps, played.ended) == alone(played.seed)


def test_a_server_that_is_busy_is_asked_again(server, monkeypatch):
    values, tries = server.engine.values, []

    async def busy(version, observations):
        tries.append(1)
        if len(tries) % 5 == 0:
            raise Refusal(503, "busy", retry_after=1)
        return await values(version, observations)

    monkeypatch.setattr(server.engine, "values", busy)
    played, _ = ServerClient(server.url).play("Pong")
    assert (played.score, played.steps, played.ended) == alone(played.seed)


def test_a_version_that_fails_ends_its_game_and_no_other(server, monkeypatch):
    values, tries = server.engine.values, []

    async def failing(version, observations):
        tries.append(1)
        if len(tries) == 5:
            raise ZeroDivisionError("fell over")
        return await values(version, observations)

    monkeypatch.setattr(server.engine, "values", failing)
    played, env = ServerClient(server.url).play("Pong")
    assert (played.ended, played.steps) == ("failed", 4)
    assert "version 1 failed: ZeroDivisionError: fell over" in played.failure
    again, _ = ServerClient(server.url).play("Pong", env=env)
    assert (again.score, again.steps, again.ended) == alone(again.seed)


def test_a_server_that_stays_away_is_told(server, monkeypatch):
    monkeypatch.setattr(client, "_ATTEMPTS", 3)

    async def gone(version, observations):
        raise Refusal(503, "busy")

    monkeypatch.setattr(server.engine, "values", gone)
    with pytest.raises(ServerError, match="was lost in the middle of a game: busy"):
        ServerClient(server.url).play("Pong")


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "."])
def test_an_address_that_no_host_has_is_refused_before_anything_is_sent(host):
    with pytest.raises(ConfigError, match="is no server's address. Give one such as"):
        ServerClient(f"http://{host}:8000")


def test_refusals_are_told_in_the_servers_words(server):
    with pytest.raises(ServerError, match=r"Breakout is not served. Games online: pong"):
        ServerClient(server.url).play("Breakout")
    with pytest.raises(ServerError, match="takes no operators' orders"):
        ServerClient(server.url, "a-token-of-mine").post("/v1/rollouts/1/abort", {})


def test_what_answers_in_other_words_is_no_server_of_ours():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ServerError, match="is not a rlarcade server's answer"):
            ServerClient(url).get("/v1/deployments")
    with pytest.raises(ServerError, match="cannot be reached"):
        ServerClient(url).get("/v1/deployments")
    for address in ("", "localhost:8000", "http://", "http://[", "http://a/b", "http://a?b"):
        with pytest.raises(ConfigError, match="is no server's address"):
            ServerClient(address)
