"""Many sessions at once, and very many one after the other."""

import asyncio
import gc
import json
import os
import resource
import signal
import socket

import numpy as np
import psutil
import pytest
import uvicorn
from serving_helpers import Sleepy, run
from serving_house import pong_online
from websockets.asyncio.client import connect

from rlarcade.serving.app import make_app
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import Online
from rlarcade.serving.server import serve

FRAME = np.zeros((84, 84), dtype=np.uint8)


def test_what_a_server_has_loaded_is_never_collected_while_games_are_played(tmp_path):
    """Such a collection stopped all games for 0.2 s."""
    found = []

    def ready(url, games):
        found.append((gc.get_freeze_count(), len(gc.get_objects())))
        os.kill(os.getpid(), signal.SIGINT)

    try:
        serve(tmp_path / "none", port=0, on_ready=ready)
    finally:
        gc.unfreeze()
    [(frozen, left)] = found
    assert frozen > 20 * left


@pytest.mark.slow
def test_a_thousand_games_are_played_side_by_side_and_given_back():
    number, steps = 1000, 5
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * number if hard == resource.RLIM_INFINITY else min(hard, 3 * number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    async def check():
        service = await pong_online()
        bound = socket.create_server(("127.0.0.1", 0), backlog=2048)
        config = uvicorn.Config(
            make_app(Online(service, None, None, None)),
            log_level="critical",
            ws_per_message_deflate=False,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([bound]))
        while not server.started:
            await asyncio.sleep(0.01)
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        all_there, go_on = asyncio.Barrier(number + 1), asyncio.Event()

        async def play():
            session = await service.open_session("pong", "act")
            url = f"ws://{address}/v1/sessions/{session.id}/ws"
            async with connect(url, compression=None, proxy=None, open_timeout=60) as line:
                await line.send(json.dumps({"token": session.token}))
                await line.recv()
                await all_there.wait()
                await go_on.wait()
                for step in range(steps):
                    await line.send(FRAME.tobytes())
                    assert json.loads(await line.recv())["step"] == step
                await line.send('{"ended": "terminated"}')
                assert json.loads(await line.recv())["state"] == "ended"

        players = [asyncio.create_task(play()) for _ in range(number)]
        await all_there.wait()
        assert len(service.sessions) == number
        go_on.set()
        await asyncio.gather(*players)
        assert len(service.sessions) == 0
        text = service.metrics.text().decode()
        assert 'rlarcade_sessions_active{game="pong",kind="act"} 0.0' in text
        server.should_exit = True
        await serving

    run(check(), seconds=200)


@pytest.mark.slow
def test_the_memory_does_not_grow_with_the_sessions_that_were():
    async def check():
        service = await pong_online()
        used = []
        for part in range(4):
            for number in range(25_000):
                kind = "sequence" if number % 2 else "act"
                name = f"pong/number/{part}-{number}" if number % 2 else None
                session = await service.open_session("pong", kind, number=name)
                await service.decide(session, FRAME)
                service.finish(session, "ended" if number % 3 else "abandoned")
            gc.collect()
            used.append(psutil.Process().memory_full_info().uss / 1e6)
        assert len(service.sessions) == 0
        assert used[3] - used[1] < 5, used  # megabytes, in the second half

    run(check(), seconds=250)


def test_a_client_that_waits_for_its_action_has_not_gone():
    async def check():
        agent = Sleepy(0.2, after=0)
        service = await pong_online(agent)
        await service.engine.load(1, agent, at_once=False)
        service.idle_seconds = -1
        session = await service.open_session("pong", "act")
        deciding = asyncio.ensure_future(service.decide(session, FRAME))
        await asyncio.sleep(0.05)
        service.end_idle()
        assert session.state == "open"
        await deciding
        service.end_idle()
        assert session.state == "abandoned"

    run(check())


def test_a_session_decides_one_step_at_a_time():
    async def check():
        agent = Sleepy(0.1, after=0)
        service = await pong_online(agent)
        await service.engine.load(1, agent, at_once=False)
        session = await service.open_session("pong", "act")
        first = asyncio.ensure_future(service.decide(session, FRAME))
        await asyncio.sleep(0.02)
        with pytest.raises(Refusal, match="last request is not answered yet") as refused:
            await service.decide(session, FRAME)
        assert refused.value.status == 409
        assert (await first).step == 0
        assert (await service.decide(session, FRAME)).step == 1

    run(check())


def test_a_game_has_an_end_however_long_a_client_plays(monkeypatch):
    monkeypatch.setattr("rlarcade.serving.sessions._LONGEST_GAME", 3)

    async def check():
        service = await pong_online()
        session = await service.open_session("pong", "act")
        for _ in range(3):
            await service.decide(session, FRAME)
        with pytest.raises(Refusal, match="a game has at most 3 steps. End the session"):
            await service.decide(session, FRAME)
        assert session.steps == 3

    run(check())


def test_there_is_an_end_to_the_number_of_open_sessions(monkeypatch):
    monkeypatch.setattr("rlarcade.serving.sessions._MOST_SESSIONS", 3)

    async def check():
        service = await pong_online()
        opened = [await service.open_session("pong", "act") for _ in range(3)]
        with pytest.raises(Refusal, match="3 sessions are open. Try again later") as refused:
            await service.open_session("pong", "act")
        assert (refused.value.status, refused.value.retry_after) == (503, 10)
        service.finish(opened[0], "ended")
        await service.open_session("pong", "act")

    run(check())
