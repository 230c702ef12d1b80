"""The engine of several workers: the death of one costs no request, and none is left behind."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from registry_helpers import EARLY, LATE
from serving_helpers import Favourite, observations
from tiers import RECORDED
from worker_agents import (
    CRASHING,
    DEADLY,
    DEADLY_TO_LOAD,
    NEVER_LOADED,
    NOT_A_NUMBER,
    SLEEPY,
    checkpoint_of,
)
from worker_places import PLACES, Place, soon, worker_engine, workers

from rlarcade.checkpoint import load_checkpoint, packed_checkpoint
from rlarcade.errors import PolicyError, ResourceError
from rlarcade.learning.policy import DQNAgent
from rlarcade.serving.engine import LocalEngine
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.worker_engine import WorkerEngine

BAD = 255
"""First point of an observation that makes failing agents fail."""


class Shared:
    """Two workers that most tests share, since starting them takes time, and their event loop."""

    runner: asyncio.Runner
    engine: WorkerEngine


HERE_AND_SLOW = (pytest.mark.processes, pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True, params=PLACES)
def _shared(request):
    Place.choose(request)
    with asyncio.Runner() as Shared.runner:
        Shared.engine = worker_engine(2)
        yield
        Shared.runner.run(Shared.engine.close())
    assert soon(lambda: workers() == [])


@pytest.fixture(autouse=True)
def _only_here(request, _shared):
    if Place.name == "ray" and request.node.get_closest_marker("processes"):
        pytest.skip("takes minutes on Ray, whose workers start for ten seconds each")


def run(coroutine, seconds=120):
    """Runs a coroutine to its end, or fails after some seconds."""

    async def bounded():
        async with asyncio.timeout(seconds):
            return await coroutine

    return Shared.runner.run(bounded())


@contextlib.asynccontextmanager
async def engine_of(folder, *contents, trusted=True, fresh=None):
    """An engine with a version for each content, numbered from 1; `fresh`: one of its own."""
    engine = Shared.engine if fresh is None else worker_engine(**fresh)
    try:
        for number, content in enumerate(contents, start=1):
            await load(engine, folder, number, content, trusted=trusted or number == 1)
        yield engine
    finally:
        if fresh is not None:
            await engine.close()
        else:
            await until(lambda: all_healthy(engine))
            for number in {1, 2}:
                await engine.unload(number)


async def load(engine, folder, number, content, *, trusted=False):
    checkpoint = checkpoint_of(folder, content)
    await engine.load(number, Favourite(), at_once=trusted, checkpoint=checkpoint)


async def until(true, seconds=300):
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def all_healthy(engine):
    return all(replica.healthy for replica in engine.replicas())


def bad(count=1):
    return observations(count, start=BAD)


# Values


def test_each_request_gets_the_values_of_its_own_observations(tmp_path):
    async def check():
        async with engine_of(tmp_path, 2, 3) as engine:
            asked = [observations(count, start=10 * count) for count in (1, 3, 1, 64, 200, 2)]
            for version, action in ((1, 2), (2, 3)):
                answers = await asyncio.gather(*(engine.values(version, each) for each in asked))
                for each, values in zip(asked, answers, strict=True):
                    assert values.dtype == np.float32
                    assert values.tolist() == Favourite(action).q_values(each).tolist()

    run(check())


def test_many_clients_use_all_workers(tmp_path):
    async def check():
        async with engine_of(tmp_path, 2) as engine:
            before = [replica.batches for replica in engine._pool.replicas]
            for _ in range(10):
                await asyncio.gather(*(engine.values(1, observations(1)) for _ in range(16)))
            after = [replica.batches for replica in engine._pool.replicas]
            assert np.subtract(after, before).tolist() == [10, 10]

    run(check())


def test_values_have_the_bits_of_those_that_are_computed_in_process():
    checkpoint = load_checkpoint(LATE)
    agent = DQNAgent.load(checkpoint)
    asked = np.random.default_rng(0).integers(0, 256, (70, 4, 84, 84), dtype=np.uint8)

    async def check():
        engine = worker_engine(1, loader=None)
        try:
            await engine.load(1, agent, at_once=True, checkpoint=checkpoint)
            parts = [asked[at : at + size] for at, size in ((0, 1), (1, 3), (4, 66))]
            alone = [await engine.values(1, part) for part in parts]
            together = await asyncio.gather(*(engine.values(1, one[None]) for one in asked))
        finally:
            await engine.close()
        own = agent.q_values(asked).tobytes()
        assert np.concatenate(alone).tobytes() == own
        assert np.concatenate(together).tobytes() == own

    run(check())


# Versions


def test_the_workers_and_their_versions_are_told(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1, 2) as engine:
            assert [tuple(one) for one in engine.replicas()] == [
                ("worker-1", True, (1, 2)),
                ("worker-2", True, (1, 2)),
            ]
            await engine.unload(1)
            await engine.unload(7)  # it was never loaded
            assert [one.versions for one in engine.replicas()] == [(2,), (2,)]
            with pytest.raises(Refusal, match="version 1 is not loaded"):
                await engine.values(1, observations(1))
            await load(engine, tmp_path, 1, 5)
            assert (await engine.values(1, observations(1))).argmax() == 5

    run(check())


def test_whoever_waits_when_a_version_is_unloaded_still_gets_an_answer(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1, 2) as engine:
            asked = (engine.values(1, observations(40)) for _ in range(8))
            waiting = [asyncio.ensure_future(one) for one in asked]
            await asyncio.sleep(0)
            await engine.unload(1)
            assert [len(values) for values in await asyncio.gather(*waiting)] == [40] * 8
            await until(lambda: [one.versions for one in engine.replicas()] == [(2,), (2,)])

    run(check())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (NEVER_LOADED, "version 2 cannot be served: ZeroDivisionError: the network cannot be"),
        pytest.param(
            DEADLY_TO_LOAD,
            "version 2 cannot be served: loading it ended 3 workers",
            marks=HERE_AND_SLOW,
        ),
    ],
)
def test_a_version_that_cannot_be_loaded_leaves_the_others_as_they_are(tmp_path, content, told):
    async def check():
        async with engine_of(tmp_path, 1) as engine:
            with pytest.raises(PolicyError, match=told):
                await load(engine, tmp_path, 2, content)
            with pytest.raises(Refusal, match="version 2 is not loaded"):
                await engine.values(2, observations(1))
            await until(lambda: all_healthy(engine))
            assert [one.versions for one in engine.replicas()] == [(1,), (1,)]
            assert (await engine.values(1, observations(1))).argmax() == 1

    run(check())


def test_an_engine_of_processes_needs_the_checkpoint():
    async def check():
        engine = worker_engine(1)
        with pytest.raises(ValueError, match="needs the checkpoint of version 3"):
            await engine.load(3, Favourite(), at_once=True)
        await engine.close()

    run(check())


def test_workers_that_cannot_be_started_are_told(tmp_path, capfd):
    async def check():
        engine = worker_engine(2, loader="no_such_module:made")
        with pytest.raises(ResourceError, match="a worker cannot be started: ") as error:
            await load(engine, tmp_path, 1, 1)
        assert not any(one.healthy for one in engine.replicas())
        await engine.close()
        return str(error.value)

    before = set(workers())
    told = run(check())
    assert "no_such_module" in told + capfd.readouterr().err
    assert soon(lambda: set(workers()) == before)


# Failures of a version


def test_a_version_that_crashes_fails_its_own_requests_and_no_others(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1, CRASHING, trusted=False) as engine:
            with pytest.raises(PolicyError, match=r"^ZeroDivisionError: the candidate fell over"):
                await engine.values(2, bad())
            assert (await engine.values(1, bad())).argmax() == 1
            assert len(await engine.values(2, observations(1))) == 1
            assert all_healthy(engine)

    run(check())


def test_values_that_are_not_finite_come_as_they_are(tmp_path):
    """The service judges them, as it does in process."""

    async def check():
        async with engine_of(tmp_path, 1, NOT_A_NUMBER) as engine:
            assert np.isnan(await engine.values(2, bad())).all()

    run(check())


def test_a_worker_that_hangs_is_killed_and_others_answer_meanwhile(tmp_path):
    async def check():
        others = set(workers())
        async with engine_of(
            tmp_path, 1, SLEEPY, trusted=False, fresh={"replicas": 2, "hang_seconds": 5}
        ) as engine:
            hanging = [asyncio.ensure_future(engine.values(2, bad())) for _ in range(6)]
            await asyncio.sleep(0.05)
            for _ in range(20):
                await engine.values(1, observations(1))
            assert not any(one.done() for one in hanging)
            for one in hanging:
                with pytest.raises(PolicyError, match=r"it took longer than 5 seconds"):
                    await one
            await until(lambda: all_healthy(engine))
            assert soon(lambda: len(set(workers()) - others) == 2)

    run(check())


@pytest.mark.processes
def test_a_batch_that_ends_every_worker_fails_and_other_versions_are_answered(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1, DEADLY, trusted=False) as engine:
            deadly = asyncio.ensure_future(engine.values(2, bad()))
            while not deadly.done():
                assert (await engine.values(1, observations(1))).argmax() == 1
                assert any(one.healthy for one in engine.replicas())
                await asyncio.sleep(0.01)
            with pytest.raises(PolicyError, match="it ended 3 workers"):
                await deadly
            await until(lambda: all_healthy(engine))
            assert (await engine.values(2, observations(1))).argmax() == DEADLY % 6

    run(check())


@pytest.mark.processes
@pytest.mark.slow
def test_a_version_that_workers_no_longer_come_up_with_is_left_out(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1, 2, trusted=False) as engine:
            broken = checkpoint_of(tmp_path, DEADLY_TO_LOAD)
            engine._pool.versions[2].package = packed_checkpoint(broken)
            for worker in workers():
                worker.kill()
            await until(lambda: not any(one.healthy for one in engine.replicas()))
            await until(lambda: all_healthy(engine))
            assert [one.versions for one in engine.replicas()] == [(1,), (1,)]
            with pytest.raises(PolicyError, match="no worker can load it any more"):
                await engine.values(2, observations(1))
            assert (await engine.values(1, observations(1))).argmax() == 1

    run(check())


# Deaths


async def playing(engine, version, answers, stop):
    """A client: it asks until it is told to stop."""
    at = 0
    while not stop.is_set():
        values = await engine.values(version, observations(1, at))
        answers.append(values.argmax())
        at += 1
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=(pytest.mark.processes, *RECORDED))])
def test_workers_killed_at_random_cost_no_request(tmp_path, kills):
    async def check():
        random.seed(0)
        async with engine_of(tmp_path, 1, 3) as engine:
            stop, answers = asyncio.Event(), ([], [])
            clients = [
                asyncio.ensure_future(playing(engine, 1 + n % 2, answers[n % 2], stop))
                for n in range(8)
            ]
            for _ in range(kills):
                await asyncio.sleep(random.uniform(0, 0.2))
                await until(lambda: bool(workers()))
                random.choice(workers()).kill()
            await until(lambda: all_healthy(engine))
            stop.set()
            await asyncio.gather(*clients)
            assert set(answers[0]) == {1}
            assert set(answers[1]) == {3}
            assert min(map(len, answers)) > 20
            assert soon(lambda: len(workers()) == 2)

    run(check())


def test_a_dead_worker_is_healthy_again_only_when_it_has_its_versions(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1, 2) as engine:
            first = workers()[0]
            before = {one.pid for one in workers()}
            first.kill()
            await until(lambda: not all_healthy(engine))
            await until(lambda: all_healthy(engine))
            (new,) = {one.pid for one in workers()} - before
            os.kill(min(before - {first.pid}), signal.SIGKILL)  # only the new one is left
            answers = await asyncio.gather(*(engine.values(v, observations(1)) for v in (1, 2)))
            assert [int(values.argmax()) for values in answers] == [1, 2]
            assert new in {one.pid for one in workers()}

    run(check())


def test_closing_ends_all_processes_and_refuses_who_waits(tmp_path):
    async def check():
        before = set(workers())
        async with engine_of(tmp_path, SLEEPY, 1, fresh={"replicas": 2}) as engine:
            hanging = asyncio.ensure_future(engine.values(1, bad()))
            await asyncio.sleep(0.1)
            waiting = []
            for _ in range(3):  # the first one hangs, too
                waiting.append(asyncio.ensure_future(engine.values(1, bad(20))))
                await asyncio.sleep(0.05)
        for one in (hanging, *waiting):
            with pytest.raises(Refusal, match="the server ends"):
                await one
        assert [one.healthy for one in engine.replicas()] == [False, False]
        assert soon(lambda: set(workers()) == before)
        with pytest.raises(Refusal, match="not loaded"):
            await engine.values(2, observations(1))

    run(check())


SERVER = """
import asyncio, sys
from pathlib import Path
from serving_helpers import Favourite, observations
from worker_agents import SLEEPY, checkpoint_of
from worker_places import worker_engine

async def main():
    engine = worker_engine(2)
    checkpoint = checkpoint_of(Path(sys.argv[1]), SLEEPY)
    await engine.load(1, Favourite(), at_once=True, checkpoint=checkpoint)
    hanging = asyncio.ensure_future(engine.values(1, observations(1, 255)))
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    await hanging

asyncio.run(main())
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT)),
    ],
)
def test_no_worker_outlives_its_server_however_it_ends(tmp_path, number):
    """One worker hangs, one is idle. Of Ray, tests/cluster kills the process that plays games."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": paths},
    )
    with server:
        assert server.stdout.readline() == b"ready\n"
        left = psutil.Process(server.pid).children(recursive=True)
        assert len(left) == 2
        server.send_signal(number)
        server.wait()
        _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []


# Replacing workers


def test_a_worker_is_replaced_without_a_moment_of_less_capacity(tmp_path):
    async def check():
        others = set(workers())
        async with engine_of(tmp_path, 1, fresh={"replicas": 3}) as engine:
            before = set(workers()) - others
            stop, answers = asyncio.Event(), []
            client = asyncio.ensure_future(playing(engine, 1, answers, stop))
            replacing = asyncio.ensure_future(replace(engine, tmp_path, 1, 2, 2))
            while not replacing.done():
                assert all_healthy(engine)
                await asyncio.sleep(0.005)
            await replacing
            assert [one.versions for one in engine.replicas()] == [(2,), (1,), (1,)]
            await until(lambda: len(before & set(workers())) == 2)
            assert (await engine.values(2, observations(1))).argmax() == 2
            await replace(engine, tmp_path, 1, 2, 2)
            await replace(engine, tmp_path, 1, 2, 2)
            assert [one.versions for one in engine.replicas()] == [(2,), (2,), (1, 2)]
            await replace(engine, tmp_path, 1, 2, 2)  # nothing is left to be replaced
            assert [one.versions for one in engine.replicas()] == [(2,), (2,), (1, 2)]
            stop.set()
            await client
            assert set(answers) == {1}
            await engine.unload(1)
            assert [one.versions for one in engine.replicas()] == [(2,), (2,), (2,)]
            await until(lambda: before.isdisjoint(workers()))

    run(check())


async def replace(engine, folder, old, new, content):
    await engine.replace(old, new, Favourite(), checkpoint_of(folder, content))


@pytest.mark.parametrize(
    "content", [NEVER_LOADED, pytest.param(DEADLY_TO_LOAD, marks=HERE_AND_SLOW)]
)
def test_a_version_that_cannot_be_loaded_replaces_nothing(tmp_path, content):
    async def check():
        async with engine_of(tmp_path, 1) as engine:
            before = {one.pid for one in workers()}
            with pytest.raises(PolicyError, match="version 2 cannot be served"):
                await replace(engine, tmp_path, 1, 2, content)
            assert soon(lambda: {one.pid for one in workers()} == before)
            assert [one.versions for one in engine.replicas()] == [(1,), (1,)]

    run(check())


def test_loading_the_old_version_again_undoes_a_replacement(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1) as engine:
            await replace(engine, tmp_path, 1, 2, 2)
            await load(engine, tmp_path, 1, 1, trusted=True)
            await engine.unload(2)
            assert [one.versions for one in engine.replicas()] == [(1,), (1,)]
            assert (await engine.values(1, observations(1))).argmax() == 1

    run(check())


def test_a_worker_killed_while_it_is_replaced_costs_no_request(tmp_path):
    async def check():
        async with engine_of(tmp_path, 1) as engine:
            stop, answers = asyncio.Event(), []
            client = asyncio.ensure_future(playing(engine, 1, answers, stop))
            replacing = asyncio.ensure_future(replace(engine, tmp_path, 1, 2, 2))
            for worker in workers():
                await asyncio.sleep(0.05)
                worker.kill()
            await replacing
            await until(lambda: all_healthy(engine))
            assert [one.versions for one in engine.replicas()] == [(2,), (1,)]
            stop.set()
            await client
            assert set(answers) == {1}
            assert soon(lambda: len(workers()) == 2)

    run(check())


def test_the_server_itself_cannot_be_replaced():
    async def check():
        with pytest.raises(Refusal, match=r"--engine processes, or choose the strategy big-bang"):
            await LocalEngine().replace(1, 2, Favourite(), None)

    run(check())


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.recorded
def test_real_agents_survive_twenty_kills_with_their_bits():
    checkpoints = [load_checkpoint(folder) for folder in (EARLY, LATE)]
    agents = [DQNAgent.load(checkpoint) for checkpoint in checkpoints]
    asked = np.random.default_rng(0).integers(0, 256, (32, 4, 84, 84), dtype=np.uint8)
    own = [agent.q_values(asked) for agent in agents]

    async def client(engine, number, stop):
        count = 0
        while not stop.is_set():
            at = count % 32
            values = await engine.values(number, asked[at : at + 1])
            assert values.tobytes() == own[number - 1][at : at + 1].tobytes()
            count += 1
        return count

    async def check():
        random.seed(0)
        engine = worker_engine(2, loader=None)
        try:
            for number, agent in enumerate(agents, start=1):
                checkpoint = checkpoints[number - 1]
                await engine.load(number, agent, at_once=True, checkpoint=checkpoint)
            stop = asyncio.Event()
            clients = [asyncio.ensure_future(client(engine, 1 + n % 2, stop)) for n in range(8)]
            for _ in range(20):
                await asyncio.sleep(random.uniform(0, 2))
                await until(lambda: bool(workers()))
                random.choice(workers()).kill()
            await until(lambda: all_healthy(engine))
            stop.set()
            assert min(await asyncio.gather(*clients)) > 10
        finally:
            await engine.close()

    run(check(), seconds=280)
