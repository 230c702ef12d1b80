"""Rolling: workers are replaced one after the other, and no client notices."""

import asyncio
import contextlib
import itertools
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from registry_helpers import whole
from serving_helpers import run
from serving_house import House
from test_worker_engine import until
from tiers import RECORDED, quick
from worker_agents import CRASHING, DEADLY_TO_LOAD, NEVER_LOADED
from worker_places import PLACES, Place, soon, worker_engine, workers

from rlarcade.errors import UnusableRegistryError
from rlarcade.serving import controller, rolling
from rlarcade.serving import rollout_store as store
from rlarcade.serving.driving import by_operator
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.settings import RolloutSpec
from rlarcade.serving.worker_process import WorkerProcess

ROLLING = RolloutSpec(strategy="rolling", slow_seconds=60)
PICTURE = np.zeros((84, 84), dtype=np.uint8)


class Workshop(House):
    """A house whose versions are computed by worker processes, and which counts who is healthy."""

    def __init__(self, registry, replicas=2):
        super().__init__(registry)
        self.service.engine = worker_engine(replicas)
        self.healthy, self.shown = [], []

    @contextlib.asynccontextmanager
    async def online(self):
        """Follows the registry, and notes every 50 ms how many workers are healthy."""
        tasks = []
        try:
            await self.look()
            tasks = [asyncio.ensure_future(one) for one in (self.controller.run(), self._watch())]
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.service.close()

    async def _watch(self):
        while True:
            replicas = self.service.engine.replicas()
            self.healthy.append(sum(replica.healthy for replica in replicas))
            self.shown.append(tuple(replica.versions for replica in replicas))
            await asyncio.sleep(0.05)

    async def start(self, version, spec=ROLLING):
        return await self.controller.start(version, spec, "anna")

    async def ends(self, state, number=1):
        await until(lambda: self.state(number).state == state)

    async def changes(self, number=1):
        """Waits for the next transition of the rollout."""
        before = (self.state(number).state, self.state(number).step)
        await until(lambda: (self.state(number).state, self.state(number).step) != before)


class Clients:
    """Clients that play short games, one after the other, and count them."""

    def __init__(self, service, count=16):
        self.service, self.games, self.stopped = service, [], False
        self.tasks = [asyncio.ensure_future(self._play(f"client {n}")) for n in range(count)]

    async def _play(self, key):
        while not self.stopped:
            session = await self.service.open_session("pong", "act", key=key)
            given = set()
            for _ in range(10):
                decision = await self.service.decide(session, PICTURE)
                given.add(int(decision.values.argmax()))
                await asyncio.sleep(0.005)
            self.service.finish(session, "ended")
            self.games.append((session.version, given))

    async def stop(self):
        self.stopped = True
        await asyncio.gather(*self.tasks)  # raises if a request has failed


@pytest.fixture(autouse=True)
def _place(request):
    """Workers are processes, but for a few tests; test_worker_engine.py tries all that Ray's do."""
    Place.choose(request)


@pytest.fixture
def content():
    """What the candidate's checkpoint holds; see `worker_agents`."""
    return 2


@pytest.fixture
def house(registry, add, content):
    """Champion 1 and candidate 2 of Pong."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(content)
    return Workshop(registry)


def shares(house):
    return {one.role: (one.version, one.share) for one in house.pong.plan.variants}


@pytest.mark.parametrize(
    ("replicas", "kill", "_place"),
    [
        (2, False, "processes"),
        pytest.param(3, False, "processes", marks=pytest.mark.slow),
        pytest.param(3, True, "processes", marks=pytest.mark.slow),
        pytest.param(3, True, "ray", marks=RECORDED),
    ],
    indirect=["_place"],
)
def test_sixteen_clients_notice_nothing_while_all_workers_are_replaced(
    registry, add, replicas, kill
):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)

    async def check():
        async with Workshop(registry, replicas).online() as house:
            before = {worker.pid for worker in workers()}
            clients = Clients(house.service)
            await house.start(2)
            if kill:
                await until(lambda: house.state().state == "progressing")
                workers()[0].kill()
            await house.ends("succeeded")
            await asyncio.sleep(0.3)
            await clients.stop()
            await until(lambda: house.service.engine.replicas()[-1].versions == (2,))
            served = house.service.engine.replicas()
            assert [replica.versions for replica in served] == [(2,)] * replicas
            assert soon(lambda: before.isdisjoint(worker.pid for worker in workers()))
            assert soon(lambda: len(workers()) == replicas)
        assert min(house.healthy) >= replicas - kill
        return clients.games, house

    games, house = run(check(), seconds=600)
    assert {version for version, _ in games} == {1, 2}
    for version, given in games:
        assert given == {version}, "a game stays with the version that began it"
    assert games[-1][0] == 2
    assert any(shown[0] != shown[-1] for shown in house.shown), "versions were mixed for a while"
    after = house.state()
    assert after.note == f"{replicas} of {replicas} workers serve version 2."
    assert registry.alias("pong").version == 2
    assert shares(house) == {"champion": (2, 1.0)}
    assert whole(registry)
    assert soon(lambda: workers() == [])


@pytest.mark.slow
def test_the_candidates_share_of_new_games_is_its_share_of_the_workers(registry, add):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)

    async def check():
        async with Workshop(registry, 3).online() as house:
            open_game = await house.service.open_session("pong", "act")
            seen = set()
            await house.start(2)
            while house.state().state != "succeeded":
                shown = tuple(one.versions for one in house.service.engine.replicas())
                candidate = shares(house).get("candidate")
                seen.add((shown, candidate))
                if candidate == (2, 1.0) and len(seen) > 3:
                    house.service.finish(open_game, "ended")
                await asyncio.sleep(0.01)
        return seen

    seen = run(check())
    serving = {1 / 3: 1, 2 / 3: 2, 1.0: 2}
    for share, count in serving.items():
        there = [shown for shown, candidate in seen if candidate == (2, share)]
        assert there, share
        assert all(sum(one == (2,) for one in shown) >= count for shown in there)


@pytest.mark.parametrize("handed_over", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_last_worker_waits_for_the_champions_games_but_not_forever(
    house, handed_over, monkeypatch
):
    spec = RolloutSpec(strategy="rolling", drain_seconds=600)
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 600)

    async def check():
        async with house.online():
            game = await house.service.open_session("pong", "act")
            chosen = await house.service.open_session("pong", "act", version="1")
            await house.start(2, spec)
            await until(lambda: shares(house).get("candidate") == (2, 1.0))
            assert (await house.service.open_session("pong", "act")).version == 2
            assert (await house.service.decide(game, PICTURE)).values.argmax() == 1
            await asyncio.sleep(0.2)
            assert house.state().state == "progressing"
            if handed_over:
                monkeypatch.setattr(rolling, "time", later)
            else:
                house.service.finish(game, "ended")
            await house.ends("succeeded")
            assert house.service.engine.replicas()[-1].versions == (1, 2)
            assert (await house.service.decide(chosen, PICTURE)).values.argmax() == 1
            if handed_over:
                assert (await house.service.decide(game, PICTURE)).values.argmax() == 2
                assert (game.version, game.mixed) == (2, True)
            house.service.finish(chosen, "ended")
            await until(lambda: house.service.engine.replicas()[-1].versions == (2,))
        return house.state().note

    note = run(check())
    assert note.startswith("2 of 2 workers serve version 2")
    assert ("1 game still open after 600 seconds went over to it" in note) == handed_over


@pytest.mark.parametrize(
    ("content", "_place"),
    [
        (NEVER_LOADED, "processes"),
        pytest.param(DEADLY_TO_LOAD, "processes", marks=pytest.mark.slow),
        pytest.param(NEVER_LOADED, "ray", marks=pytest.mark.slow),
    ],
    indirect=["_place"],
)
def test_a_candidate_that_cannot_be_loaded_replaces_no_worker(house):
    async def check():
        async with house.online():
            before = {worker.pid for worker in workers()}
            await house.start(2)
            await house.ends("rolled_back")
            assert soon(lambda: {worker.pid for worker in workers()} == before)
            assert set(house.shown) == {((1,), (1,))}
        assert "it cannot be loaded: version 2 cannot be served" in house.state().note
        assert shares(house) == {"champion": (1, 1.0)}

    run(check())


@pytest.mark.parametrize("content", [CRASHING])
def test_an_alarm_gives_all_workers_back_to_the_champion(house):
    async def check():
        async with house.online():
            await house.service.open_session("pong", "act")  # so that the last worker waits
            await house.start(2)
            await until(lambda: shares(house).get("candidate") == (2, 1.0))
            picture = PICTURE.copy()
            picture[0, 0] = 255
            for _ in range(10):
                session = await house.service.open_session("pong", "act")
                if session.version == 2:
                    with pytest.raises(Refusal, match="version 2 failed: ZeroDivisionError"):
                        await house.service.decide(session, picture)
            await house.ends("rolled_back")
            assert "had errors" in house.state().note
            assert shares(house) == {"champion": (1, 1.0)}
            engine = house.service.engine
            await until(lambda: {one.versions for one in engine.replicas()} == {(1,)})
        assert min(house.healthy) == 2

    run(check())


def test_an_operator_can_pause_and_abort_between_two_workers(house, registry):
    async def order(state):
        def moved(current):
            return store.move(registry, current, state, "anna", note=by_operator("anna", state))

        await house.controller.order(1, moved)

    async def check():
        async with house.online():
            held = await house.service.open_session("pong", "act")
            await house.start(2)
            await until(lambda: house.state().state == "progressing")
            await order("paused")
            house.service.finish(held, "ended")
            await asyncio.sleep(0.5)
            assert house.state().state == "paused"
            assert house.service.engine.replicas()[-1].versions == (1,)
            await order("aborted")
            assert shares(house) == {"champion": (1, 1.0)}
            engine = house.service.engine
            await until(lambda: {one.versions for one in engine.replicas()} == {(1,)})

    run(check())


@pytest.mark.slow
def test_an_abort_stops_the_replacement_of_a_worker(house, registry):
    async def check():
        async with house.online():
            await house.start(2)
            await until(lambda: len(workers()) == 3)  # the new one is being started

            def aborted(current):
                return store.move(registry, current, "aborted", "anna", note="operator anna: no")

            await house.controller.order(1, aborted)
            await until(lambda: len(workers()) == 2)
            await asyncio.sleep(0.3)
            assert {one.versions for one in house.service.engine.replicas()} == {(1,)}
            again = await house.start(2)
            await house.ends("succeeded", again.id)

    run(check())


@pytest.mark.parametrize("lost", quick(range(1, 5), (), (2, 3)))
def test_a_transition_that_fails_is_made_the_next_time(house, registry, monkeypatch, lost):
    """The lost-th write of the registry fails, as when the process is killed before it."""
    writes = itertools.count(1)
    change = type(registry).change

    def failing(self, *arguments, **more):
        if next(writes) == lost:
            raise UnusableRegistryError("killed")
        return change(self, *arguments, **more)

    async def check():
        async with house.online():
            await house.start(2)
            monkeypatch.setattr(type(registry), "change", failing)
            await house.ends("succeeded")
            await until(lambda: house.service.engine.replicas()[-1].versions == (2,))
        assert min(house.healthy) == 2

    run(check())
    assert next(writes) > lost or lost > 3  # prepared, advanced and succeeded: three writes
    assert registry.alias("pong").version == 2
    assert whole(registry)


@pytest.mark.slow
def test_a_server_may_be_killed_after_every_transition(registry, add):
    """Each server sees one change of the rollout; then another one starts from the registry."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)

    async def check():
        async with Workshop(registry, 3).online() as house:
            await house.start(2)
        seen = []
        while not seen or seen[-1][0] != "succeeded":
            async with Workshop(registry, 3).online() as house:
                await house.changes()
                seen.append((house.state().state, house.state().step))
        return seen

    assert run(check(), seconds=600)[-1] == ("succeeded", 2)
    assert registry.alias("pong").version == 2
    assert whole(registry)


@pytest.mark.parametrize("_place", PLACES, indirect=True)
def test_a_server_that_is_started_again_goes_on_where_it_was(house, registry):
    """Nothing is told to the workers of the first server: it is as if it had been killed."""

    async def check():
        async with house.online():
            await house.service.open_session("pong", "act")
            await house.start(2)
            await until(lambda: house.state().step == 1)
        assert house.state().state == "progressing"
        async with Workshop(registry).online() as again:
            assert again.service.engine.replicas()[0].versions == (2,)
            assert (await again.service.open_session("pong", "act")).version == 2
            await again.ends("succeeded")
            await until(lambda: again.healthy[-1] == 2)

    run(check())


def test_a_server_that_is_started_again_waits_for_its_workers_however_slowly_they_start(
    house, registry, monkeypatch
):
    """The other games go on meanwhile, and nobody takes the candidate for a version that left."""
    if Place.name == "ray":
        pytest.skip("Ray's workers start slowly by themselves")
    start = WorkerProcess.start

    async def slowly(loader):
        await asyncio.sleep(0.5)
        return await start(loader)

    async def check():
        async with house.online():
            await house.service.open_session("pong", "act")
            await house.start(2)
            await until(lambda: house.state().step == 1)
        monkeypatch.setattr(controller, "PERIOD", 0.02)
        monkeypatch.setattr(WorkerProcess, "start", slowly)
        again = Workshop(registry)
        again.controller._loading.patience = 0.01
        async with again.online():
            await again.ends("succeeded")

    run(check(), seconds=600)


@pytest.mark.slow
def test_a_server_with_another_number_of_workers_rolls_back(house, registry):
    async def check():
        async with house.online():
            await house.service.open_session("pong", "act")
            await house.start(2)
            await until(lambda: house.state().state == "progressing")
        async with Workshop(registry, 1).online() as again:
            await again.ends("rolled_back")
            assert "only one place where it computes" in again.state().note
            assert shares(again) == {"champion": (1, 1.0)}

    run(check())


@pytest.mark.parametrize(
    ("steps", "shares_seen"),
    [(1, {1.0}), pytest.param(4, {0.25, 0.5, 0.75, 1.0}, marks=pytest.mark.slow)],
)
def test_steps_that_were_chosen_without_knowing_the_workers_are_taken(
    house, registry, steps, shares_seen
):
    """As by a pipeline. With two workers, one serves the candidate until the last step is over."""
    spec = RolloutSpec(strategy="rolling", replicas=steps)

    async def check():
        seen = set()
        async with house.online():
            store.open_rollout(registry, registry.version(2), spec, actor="pipeline")
            while house.state().state != "succeeded":
                shown = house.service.engine.replicas()[0].versions
                if "candidate" in shares(house):
                    seen.add(shares(house)["candidate"][1])
                    assert shown == (2,)
                await asyncio.sleep(0.001)
        return seen

    seen = run(check())
    assert seen <= shares_seen
    assert 1.0 in seen
    assert house.state().note == "2 of 2 workers serve version 2."


def test_rolling_needs_workers(house):
    async def check():
        local = House(house.registry)
        await local.look()
        with pytest.raises(Refusal, match="--engine processes --replicas 3, or choose the str"):
            await local.controller.start(2, ROLLING, "anna")
        with pytest.raises(Refusal, match="--engine processes --replicas 3, or choose the str"):
            await local.controller.start(2, RolloutSpec(strategy="rolling", replicas=2), "anna")
        assert store.rollouts_of(house.registry) == []
        await local.service.close()

    run(check())


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    _, alive = psutil.wait_procs(workers(), timeout=30)
    assert alive == []
