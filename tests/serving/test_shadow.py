"""A shadow: it sees the champion's frames, and nobody notices."""

import asyncio
import zlib

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from registry_helpers import sql, whole
from serving_helpers import Crashing, Favourite, Held, NotANumber, Sleepy, observations, run
from serving_house import House, short

from rlarcade.errors import UnusableRegistryError
from rlarcade.registry.rollouts import ShadowCounts
from rlarcade.serving import rollout_store as store
from rlarcade.serving.driving import by_operator
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.settings import RolloutSpec
from rlarcade.serving.shadow import Shadow, record_shadow, shadow_of

__all__ = ["short"]

pytestmark = pytest.mark.usefixtures("short")

SHADOW = RolloutSpec(strategy="parallel", mode="shadow")


class Wanderer(Favourite):
    """Chooses by the frame, so that other frames give other actions."""

    def q_values(self, observation):
        self.calls.append(len(observation))
        sums = [zlib.crc32(one[-1].tobytes()) % self.num_actions for one in observation]
        return np.eye(self.num_actions, dtype=np.float32)[sums]


@pytest.fixture
def house(two_versions):
    """Champion 1 of Pong, which wanders, and candidate 2."""
    return House(two_versions, {1: Wanderer()})


async def seen_all(house):
    """Waits until the shadow has done what it can."""
    shadow = house.pong.live.shadow
    while shadow._task is not None and not shadow._task.done():
        await asyncio.sleep(0.005)
    return shadow.counts


@pytest.mark.parametrize(
    "candidate",
    [None, Favourite(3), Crashing(after=20), NotANumber(after=20), Sleepy(0.02)],
    ids=["off", "on", "crashing", "not a number", "sleeping"],
)
def test_the_actions_of_a_game_are_the_same_with_any_shadow_and_without(house, candidate):
    async def check(with_shadow):
        if with_shadow:
            house.made[2] = candidate
            await house.start(2, SHADOW)
        else:
            await house.look()
        session, actions = await house.played(seed=5)
        assert (session.state, session.errors, session.version) == ("ended", 0, 1)
        if with_shadow:
            counts = await seen_all(house)
            assert counts.compared + counts.failed == 100
        await house.service.close()
        return actions

    plain = run(_alone())
    assert len(plain) == 100
    assert len(set(plain)) > 3
    assert run(check(candidate is not None)) == plain


async def _alone():
    """The actions of the champion's game, chosen here."""
    from made_up_games import short_game

    from rlarcade.games import get_protocol
    from rlarcade.serving.referee import Dice

    protocol = get_protocol("v5")
    env, agent = short_game("pong", protocol=protocol, render_mode=None), Wanderer()
    dice = Dice(5, 6, protocol.evaluation_epsilon)
    (observation, _), actions, over = env.reset(seed=5), [], False
    while not over:
        rolled = dice.roll()
        chosen = int(agent.q_values(observation[None])[0].argmax())
        actions.append(chosen if rolled is None else rolled)
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        over = terminated or truncated
    return bytes(actions)


def test_a_shadow_that_hangs_delays_nobody_and_what_it_misses_is_counted(house):
    async def check():
        held = house.made[2] = Held()
        await house.start(2, SHADOW)
        house.pong.live.shadow._most_waiting = 10
        session = await house.opened()
        for observation in observations(60):
            await house.service.decide(session, observation)
        counts = house.pong.live.shadow.counts
        assert counts.compared == 0
        assert 40 <= counts.dropped <= 50  # of 60: some are held, ten wait
        assert len(house.pong.live.shadow._waiting) <= 10
        held.go.set()
        await house.service.close()

    run(check())


class Fixed(Favourite):
    """Returns the values that it was given for the k-th observation, by its corner."""

    def __init__(self, table):
        super().__init__()
        self.table = np.array(table, dtype=np.float32)
        self.num_actions = self.table.shape[1]

    def q_values(self, observation):
        return self.table[observation[:, -1, 0, 0] % len(self.table)]


def test_agreement_and_differences_are_counted_as_defined(house, registry):
    """Numbers worked out by hand: the versions disagree at the second of three decisions."""
    house.made[1] = Fixed([[5, 1, 0, 0, 0, 0], [2, 3, 0, 0, 0, 0], [0, 0, 7, 0, 0, 0]])
    house.made[2] = Fixed([[4, 1, 0, 0, 0, 0], [9, 3, 0, 0, 0, 0], [0, 0, 8, 0, 0, 0]])

    async def check():
        await house.start(2, SHADOW)
        session = await house.opened()
        for observation in observations(3):
            await house.service.decide(session, observation)
        counts = await seen_all(house)
        text = house.service.metrics.text().decode()
        await house.service.close()
        return counts, text

    counts, text = run(check())
    assert (counts.compared, counts.agreed, counts.failed, counts.dropped) == (3, 2, 0, 0)
    assert counts.gap == 1 + 6 + 1
    assert counts.regret == 3 - 2
    assert counts.seconds > 0
    found = {
        sample.labels["result"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "rlarcade_shadow_decisions_total"
    }
    assert found == {"agreed": 2, "differed": 1}
    assert 'rlarcade_decision_seconds_count{role="shadow",version="2"}' in text


@pytest.mark.parametrize(
    ("candidate", "counted"),
    [
        (Crashing(after=6), {"failed": 4}),
        (NotANumber(after=6), {"failed": 4}),
        (Sleepy(0.01), {"compared": 4, "slow": 4}),
    ],
)
def test_crashes_and_slowness_are_counted_and_the_rollout_goes_on(house, candidate, counted):
    async def check():
        house.made[2] = candidate
        await house.start(2, SHADOW.model_copy(update={"slow_seconds": 0.005}))
        session = await house.opened()
        for observation in observations(4):
            await house.service.decide(session, observation)
            await seen_all(house)
        await house.look()
        counts = house.pong.live.shadow.counts.model_dump()
        assert {name: counts[name] for name in counted} == counted
        assert house.state().state == "progressing"
        await house.service.close()

    run(check())


def test_a_candidate_with_other_actions_fails_every_comparison():
    async def check():
        async def values(observation):
            return np.zeros((len(observation), 4), dtype=np.float32)

        shadow = Shadow(ShadowCounts.of(1), values)
        shadow.see(observations(1)[0], np.zeros(6, dtype=np.float32))
        await shadow._task
        assert shadow.counts == ShadowCounts.of(1, failed=1)

    run(check())


def test_what_the_engine_has_no_room_for_is_dropped():
    async def check():
        async def values(observation):
            raise Refusal(503, "full")

        shadow = Shadow(ShadowCounts.of(1, dropped=3, compared=2), values)
        shadow.see(observations(1)[0], np.zeros(6, dtype=np.float32))
        await shadow._task
        assert shadow.counts == ShadowCounts.of(1, dropped=4, compared=2)
        assert shadow.unwritten == 1

    run(check())


def test_a_shadow_that_is_paused_sees_nothing(house, registry):
    async def check():
        await house.start(2, SHADOW)
        note = by_operator("anna", "pause")
        await house.controller.order(
            1, lambda now: store.move(registry, now, "paused", "anna", note=note)
        )
        session = await house.opened()
        await house.service.decide(session, observations(1)[0])
        await seen_all(house)
        assert house.pong.live.shadow.unwritten == 0
        await house.service.close()

    run(check())


def test_games_that_the_candidate_plays_itself_are_not_compared(house):
    async def check():
        await house.start(2, SHADOW)
        for version, compared in (("2", 0), ("1", 1), (None, 2)):
            session = await house.opened(version=version)
            await house.service.decide(session, observations(1)[0])
            assert (await seen_all(house)).compared == compared
        await house.service.close()

    run(check())


@pytest.mark.parametrize("end", ["decide", "abort"])
def test_a_shadow_ends_by_an_order_and_its_counts_stay_in_the_registry(house, registry, end):
    async def check():
        await house.start(2, SHADOW)
        session = await house.opened()
        for observation in observations(5):
            await house.service.decide(session, observation)
        counts = await seen_all(house)
        for _ in range(3):
            await house.look()
        assert house.state().state == "progressing"

        def ordered(current):
            if end == "decide":
                return store.succeed(registry, current, "anna", "decided")
            return store.move(registry, current, "aborted", "anna", note="abort")

        await house.controller.order(1, ordered)
        await house.look()
        await house.service.close()
        return counts

    counts = run(check())
    assert counts.compared == 5
    assert shadow_of(registry, 1) == counts
    assert registry.alias("pong").version == (2 if end == "decide" else 1)
    assert whole(registry)


def test_after_a_kill_the_shadow_goes_on_counting_from_the_registry(house, registry, monkeypatch):
    monkeypatch.setattr("rlarcade.serving.controller._SHADOW_PERIOD", 4)

    async def play(here, decisions):
        session = await here.opened()
        for observation in observations(decisions):
            await here.service.decide(session, observation)
        await seen_all(here)
        await here.look()
        await here.service.close()

    async def first():
        await house.start(2, SHADOW)
        await play(house, 5)

    run(first())
    assert shadow_of(registry, 1).compared == 5

    async def second():
        again = House(registry, house.made)
        await again.look()
        await play(again, 3)
        assert again.pong.live.seen.compared == 8

    run(second())
    assert shadow_of(registry, 1).compared == 5  # less than four more were lost
    assert whole(registry)


def test_counts_that_were_altered_by_hand_are_found(house, registry, folder):
    async def check():
        await house.start(2, SHADOW)
        await house.service.close()

    run(check())
    record_shadow(registry, ShadowCounts.of(1, compared=3, agreed=1), "anna")
    record_shadow(registry, ShadowCounts.of(1, compared=4, agreed=2), "anna")
    assert whole(registry)
    sql(folder, "UPDATE shadows SET agreed = 4")
    assert "its shadow: its row was altered: agreed is 4" in registry.verify()[0].what
    sql(folder, "UPDATE shadows SET agreed = 'many'")
    with pytest.raises(UnusableRegistryError, match="the shadow of rollout 1 cannot be read"):
        shadow_of(registry, 1)


def test_counts_are_written_when_the_server_ends(house, registry):
    """The counts of a server that is killed may be lost, less than a thousand decisions of them."""

    async def check():
        await house.start(2, SHADOW)
        following = asyncio.ensure_future(house.controller.run())
        session = await house.service.open_session("pong", "act")
        for observation in observations(5):
            await house.service.decide(session, observation)
        counts = await seen_all(house)
        assert shadow_of(registry, 1) is None
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await house.service.close()
        return counts

    counts = run(check())
    assert counts.compared == 5
    assert shadow_of(registry, 1) == counts
    assert whole(registry)


def test_a_server_ends_even_if_its_counts_cannot_be_written(house, registry, monkeypatch):
    def full(*ignored):
        raise UnusableRegistryError("the disk is full")

    async def check():
        await house.start(2, SHADOW)
        following = asyncio.ensure_future(house.controller.run())
        session = await house.service.open_session("pong", "act")
        await house.service.decide(session, observations(1)[0])
        await seen_all(house)
        monkeypatch.setattr("rlarcade.serving.records.record_shadow", full)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        await house.service.close()

    run(check())
