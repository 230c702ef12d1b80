"""Engines: batches grow with the load, and one version's trouble is not another's."""

import asyncio
import threading

import numpy as np
import pytest
from serving_helpers import Crashing, Favourite, Held, NotANumber, Sleepy, observations, run

from rlarcade.config import TrainConfig
from rlarcade.errors import PolicyError
from rlarcade.learning.policy import DQNAgent
from rlarcade.serving.engine import MOST_ROWS, LocalEngine
from rlarcade.serving.refusals import Refusal


async def engine_of(*agents, at_once=False):
    engine = LocalEngine()
    for number, agent in enumerate(agents, start=1):
        await engine.load(number, agent, at_once=at_once)
        agent.calls.clear()
        agent.threads.clear()
        agent.after = 0  # from now on it crashes or sleeps, if it does
    return engine


def test_each_request_gets_the_values_of_its_own_observations():
    async def check():
        engine = await engine_of(Favourite(2))
        asked = [observations(count, start=10 * count) for count in (1, 3, 1, 64, 200, 2)]
        answers = await asyncio.gather(*(engine.values(1, each) for each in asked))
        for each, values in zip(asked, answers, strict=True):
            assert values.tolist() == Favourite(2).q_values(each).tolist()

    run(check())


def test_requests_that_wait_together_are_computed_together():
    async def check():
        agent = Favourite()
        engine = await engine_of(agent)
        await asyncio.gather(*(engine.values(1, observations(1)) for _ in range(100)))
        assert sum(agent.calls) == 100
        assert max(agent.calls) == MOST_ROWS
        assert len(agent.calls) == -(-100 // MOST_ROWS), agent.calls

    run(check())


def test_a_lone_request_is_computed_at_once_if_the_version_is_trusted():
    async def check():
        agent = Favourite()
        engine = await engine_of(agent, at_once=True)
        await engine.values(1, observations(1))
        assert agent.threads == {threading.get_ident()}
        agent.threads.clear()
        await engine.load(1, agent, at_once=False)
        await engine.values(1, observations(1))
        assert threading.get_ident() not in agent.threads

    run(check())


def test_a_slow_version_delays_no_other_version():
    async def check():
        held = Held()
        engine = await engine_of(Favourite(), held)
        slow = asyncio.ensure_future(engine.values(2, observations(1)))
        await asyncio.sleep(0.05)
        for _ in range(20):
            await engine.values(1, observations(1))
        assert not slow.done()
        held.go.set()
        await slow

    run(check())


def test_a_version_that_crashes_fails_its_own_requests_and_no_others():
    async def check():
        engine = await engine_of(Favourite(3), Crashing())
        with pytest.raises(ZeroDivisionError, match="fell over"):
            await engine.values(2, observations(1))
        assert (await engine.values(1, observations(1))).argmax() == 3

    run(check())


def test_values_of_a_wrong_shape_are_a_failure_of_the_version():
    async def check():
        engine = await engine_of(Favourite())
        engine._lanes[1].agent.num_actions = 5
        engine._lanes[1].agent.q_values = lambda observation: np.zeros((1, 6), dtype=np.float32)
        with pytest.raises(PolicyError, match=r"shape \(1, 6\) for 2 observations and 5 actions"):
            await engine.values(1, observations(2))

    run(check())


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        (Crashing(after=3), "version 1 cannot be served: ZeroDivisionError: the candidate fell"),
        (NotANumber(after=3), "version 1 cannot be served: the Q-values of favourite are not"),
    ],
)
def test_a_version_that_fails_while_it_is_warmed_up_is_never_ready(agent, told):
    async def check():
        engine = LocalEngine()
        with pytest.raises(PolicyError, match=told):
            await engine.load(1, agent, at_once=False)
        with pytest.raises(Refusal, match="not loaded"):
            await engine.values(1, observations(1))

    run(check())


def test_every_size_of_batch_is_warmed_before_a_version_is_ready():
    async def check():
        agent = Favourite()
        await LocalEngine().load(1, agent, at_once=False)
        assert {1, 4, 8, 12, 16, MOST_ROWS} <= set(agent.calls)

    run(check())


def test_whoever_waits_when_a_version_is_unloaded_still_gets_an_answer():
    async def check():
        engine = await engine_of(Sleepy(0.1))
        waiting = [asyncio.ensure_future(engine.values(1, observations(40))) for _ in range(4)]
        await asyncio.sleep(0)
        await engine.unload(1)
        answers = await asyncio.gather(*waiting)
        assert [len(values) for values in answers] == [40] * 4
        assert engine.replicas()[0].versions == ()

    run(check())


def test_a_request_whose_client_is_gone_is_not_computed():
    async def check():
        agent = Sleepy(0.1)
        engine = await engine_of(agent)
        first = asyncio.ensure_future(engine.values(1, observations(1)))
        await asyncio.sleep(0.02)
        gone = [asyncio.ensure_future(engine.values(1, observations(1))) for _ in range(10)]
        await asyncio.sleep(0)
        for request in gone:
            request.cancel()
        last = asyncio.ensure_future(engine.values(1, observations(2)))
        await asyncio.gather(first, last)
        assert agent.calls == [1, 2]

    run(check())


def test_too_many_waiting_requests_are_refused_and_told_to_come_again():
    async def check():
        engine = await engine_of(Favourite())
        asked = (engine.values(1, observations(256)) for _ in range(17))
        *answered, refused = await asyncio.gather(*asked, return_exceptions=True)
        assert all(len(values) == 256 for values in answered)
        assert isinstance(refused, Refusal)
        assert (refused.status, refused.retry_after) == (503, 1)
        assert refused.message == "4,096 observations wait for version 1. Try again."

    run(check())


def test_served_values_have_the_bits_of_the_agents_own():
    config = TrainConfig(game="pong", conv_channels=(4, 4, 4), hidden_units=8)
    agent = DQNAgent(config, num_actions=6, seed=3)
    asked = np.random.default_rng(0).integers(0, 256, (30, 4, 84, 84), dtype=np.uint8)
    alone = np.concatenate([agent.q_values(one[None]) for one in asked])

    async def check():
        engine = LocalEngine()
        await engine.load(1, agent, at_once=True)
        parts = await asyncio.gather(*(engine.values(1, one[None]) for one in asked))
        assert np.concatenate(parts).tobytes() == alone.tobytes()
        assert (await engine.values(1, asked)).tobytes() == alone.tobytes()
        await engine.close()

    run(check())
