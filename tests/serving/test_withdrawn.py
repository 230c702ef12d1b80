"""Open games of a version that is withdrawn: they go back to the champion, or end where they are.

However it is withdrawn, the setting `cut` decides.
"""

import itertools

import pytest
from registry_helpers import blob_file, flip_a_byte, whole
from serving_helpers import observations, run
from serving_house import short

from rlarcade.errors import UnusableRegistryError
from rlarcade.serving import rollout_store as store
from rlarcade.serving.settings import RolloutSpec

__all__ = ["short"]

pytestmark = pytest.mark.usefixtures("short")

CUTS = ("drain", "now")
PICTURE = observations(1)[0]


def big_bang(cut):
    return RolloutSpec(strategy="big-bang", cut=cut)


def phased(cut):
    return RolloutSpec(strategy="phased", phases=("staff",), cut=cut)


async def undo(house):
    await house.controller.order(1, lambda now: store.undo(house.registry, now, "anna"))


async def abort(house):
    await house.controller.order(1, lambda now: store.move(house.registry, now, "aborted", "anna"))


async def roll_back(house):
    """As an alarm does."""
    live = house.pong.live
    live.rollout = store.move(house.registry, live.rollout, "rolling_back", "x", note="an alarm")
    await house.look()


async def replace(house):
    """Somebody makes another version the champion, so the rollout is void."""
    alias = {"expected_generation": 1, "kind": "force", "reason": "x"}
    house.registry.move_alias("pong", "champion", 3, **alias)
    await house.look()


async def chosen(house, session):
    """The action that the version of a session likes."""
    return int((await house.service.decide(session, PICTURE)).values.argmax())


@pytest.mark.parametrize("cut", CUTS)
def test_undo_hands_the_open_games_of_the_version_back_as_its_rollout_says(house, registry, cut):
    async def check():
        await house.start(2, big_bang(cut))
        during = await house.opened()  # it counts in the rollout
        await house.look()
        assert house.state().state == "succeeded"
        after = await house.opened()
        asked_for = await house.opened(version="2")
        for session in (during, after, asked_for):
            assert await chosen(house, session) == 2
        await undo(house)
        back = cut == "now"
        for session in (during, after):
            assert (session.version, session.mixed) == ((1, True) if back else (2, False))
            assert session.role == ("champion" if back or session is after else "candidate")
            assert await chosen(house, session) == session.version
        assert (asked_for.version, asked_for.mixed) == (2, False)
        assert await chosen(house, asked_for) == 2
        assert (await house.opened()).version == 1
        row = store.games_of(registry, 1)[0]
        assert (row.mixed, row.ended, row.steps) == (
            (True, "truncated", 1) if back else (False, None, None)
        )
        for session in (during, after, asked_for):
            house.service.finish(session, "ended")
        await house.look()
        assert set(house.pong.stock) == {1}
        await house.service.close()

    run(check())
    assert whole(registry)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("end", [abort, roll_back, replace])
def test_every_other_end_without_success_hands_them_back_as_well(house, registry, add, end, cut):
    async def check():
        number = add(3).number
        await house.start(2, phased(cut))
        mine, other = await house.opened(group="staff"), await house.opened(group="others")
        assert (mine.version, other.version) == (2, 1)
        for session in (mine, other):
            await chosen(house, session)
        await end(house)
        back = cut == "now"
        reigns = number if end is replace else 1
        assert (mine.version, mine.mixed) == ((reigns, True) if back else (2, False))
        assert await chosen(house, mine) == mine.version
        assert (other.version, other.mixed) == (1, False)  # its version was not withdrawn
        assert (await house.opened(group="staff")).version == reigns
        await house.look()
        assert [game.mixed for game in store.games_of(registry, 1)] == [back, False]
        assert house.state().state in ("aborted", "rolled_back")
        await house.service.close()

    run(check())
    assert whole(registry)


def test_an_undo_while_the_registry_fails_hands_the_games_back_later(house, registry, monkeypatch):
    calls = itertools.count()

    def failing(*ignored, **more):
        next(calls)
        raise UnusableRegistryError("the disk is full")

    async def check():
        await house.start(2, big_bang("now"))
        session = await house.opened()
        await house.look()
        with monkeypatch.context() as full:
            full.setattr(store, "record_games", failing)
            await undo(house)
            assert (session.version, session.mixed) == (1, True)
            assert not store.games_of(registry, 1)[0].mixed
        assert next(calls) > 0
        await house.look()
        assert store.games_of(registry, 1)[0].mixed
        await house.service.close()

    run(check())
    assert whole(registry)


def test_an_undo_also_ends_the_rollout_that_came_after_and_hands_both_versions_games_back(
    house, registry, add
):
    async def check():
        add(3)
        await house.start(2, big_bang("now"))
        await house.look()
        second = await house.opened()
        await house.controller.start(3, phased("now"), "anna")
        await house.look()
        third = await house.opened(group="staff")
        assert (second.version, third.version) == (2, 3)
        await undo(house)
        assert [house.state(number).state for number in (1, 2)] == ["rolled_back", "aborted"]
        assert [(one.version, one.mixed) for one in (second, third)] == [(1, True), (1, True)]
        await house.service.close()

    run(check())
    assert whole(registry)


def test_games_go_back_to_the_old_champion_when_the_new_one_cannot_be_served(
    house, registry, add, folder
):
    async def check():
        add(3)
        await house.start(2, phased("now"))
        mine = await house.opened(group="staff")
        alias = {"expected_generation": 1, "kind": "force", "reason": "x"}
        registry.move_alias("pong", "champion", 3, **alias)
        flip_a_byte(blob_file(folder, registry.version(3).digest))
        await house.look()
        assert (mine.version, mine.mixed) == (1, True)
        await house.service.close()

    run(check())
