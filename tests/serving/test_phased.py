"""Phased rollouts: group by group; and open games that are cut and handed over."""

import asyncio

import numpy as np
import pytest
from registry_helpers import tiny, whole
from serving_helpers import Crashing, Favourite, observations, run
from serving_house import House, command_server, short, until

from rlarcade import rollout
from rlarcade.errors import RegistryError
from rlarcade.games import get_protocol
from rlarcade.serving import rollout_store as store
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.settings import RolloutSpec

__all__ = ["short"]

pytestmark = pytest.mark.usefixtures("short")

PHASED = RolloutSpec(strategy="phased", phases=("staff", "beta"), min_sessions=3)
GROUPS = ("staff", "beta", "others", None)


async def versions_of(house):
    """The version that plays a new game of each group."""
    return {
        group: {(await house.opened(group=group)).version for _ in range(5)} for group in GROUPS
    }


async def finish_all(house):
    for session in house.service.sessions:
        house.service.finish(session, "ended")
    await house.settled()


def test_each_group_stays_with_the_champion_until_its_phase(house, registry):
    async def check():
        await house.start(2, PHASED)
        assert await versions_of(house) == {"staff": {2}, "beta": {1}, "others": {1}, None: {1}}
        await finish_all(house)
        assert (house.state().state, house.state().step) == ("progressing", 1)
        assert await versions_of(house) == {"staff": {2}, "beta": {2}, "others": {1}, None: {1}}
        await finish_all(house)
        assert house.state().state == "succeeded"
        assert await versions_of(house) == {group: {2} for group in GROUPS}
        await house.service.close()

    run(check())
    assert registry.alias("pong").version == 2
    assert whole(registry)


def test_a_phase_waits_for_games_of_its_own_group(house):
    async def check():
        await house.start(2, PHASED)
        for group in ("beta", "others", None):
            for _ in range(4):
                await house.played(steps=1, group=group)
        await house.settled()
        assert house.state().step == 0
        for _ in range(2):
            await house.played(steps=1, group="staff")
        await house.settled()
        assert house.state().step == 0
        for _ in range(5):  # one user's games count once
            await house.played(steps=1, group="staff", key="anna")
        await house.settled()
        assert house.state().step == 1
        await house.service.close()

    run(check())


def test_a_phase_that_fails_stops_all_others(house, registry):
    house.made[2] = Crashing(after=6)

    async def check():
        await house.start(2, PHASED)
        for _ in range(20):
            for group in GROUPS:
                session = await house.opened(group=group)
                try:
                    await house.service.decide(session, observations(1)[0])
                except Refusal:
                    assert (session.version, group) == (2, "staff")
            await house.look()
            if house.state().state == "rolled_back":
                break
        assert await versions_of(house) == {group: {1} for group in GROUPS}
        await house.service.close()

    run(check())
    after = house.state()
    assert (after.state, after.step) == ("rolled_back", 0)
    touched = [game for game in store.games_of(registry, 1) if game.version == 2]
    assert {game.group for game in touched} == {"staff"}
    assert f"the candidate touched {len(touched)} games" in after.note
    assert registry.alias("pong").version == 1


def test_after_a_kill_each_group_has_the_version_that_it_had(house, registry):
    async def first():
        await house.start(2, PHASED)
        for _ in range(3):
            await house.played(steps=1, group="staff")
        await house.settled()
        await house.service.close()

    async def second():
        again = House(registry, house.made)
        await again.look()
        assert again.state().step == 1
        assert await versions_of(again) == {"staff": {2}, "beta": {2}, "others": {1}, None: {1}}
        await again.service.close()

    run(first())
    run(second())


# Game by game


WHOLE = RolloutSpec(strategy="phased", min_sessions=2)


@pytest.fixture
def two_games(house, registry, add):
    """Also champion 3 and candidate 4 of Breakout."""
    add(3, "breakout", num_actions=4)
    registry.move_alias("breakout", "champion", 3, expected_generation=0, kind="promote")
    add(4, "breakout", num_actions=4)
    house.made |= {number: Favourite(number % 4, num_actions=4) for number in (3, 4)}
    return house


async def a_game(house, game):
    """Plays a game and leaves it; returns its version."""
    opening = asyncio.ensure_future(house.service.open_session(game, "act"))
    await asyncio.sleep(0)
    await house.look()
    session = await opening
    house.service.finish(session, "abandoned")
    await house.settled()
    return session.version


def test_the_next_game_begins_when_the_game_before_has_succeeded(two_games, registry):
    house = two_games

    async def check():
        await house.start(2, WHOLE)
        await house.start(4, WHOLE.model_copy(update={"after": 1}))
        assert (house.state(1).state, house.state(2).state) == ("progressing", "preparing")
        assert [await a_game(house, game) for game in ("breakout", "pong")] == [3, 2]
        assert house.state(2).state == "preparing"
        assert await a_game(house, "pong") == 2
        await house.look(2)
        assert (house.state(1).state, house.state(2).state) == ("succeeded", "progressing")
        assert [await a_game(house, "breakout") for _ in range(2)] == [4, 4]
        assert house.state(2).state == "succeeded"
        await house.service.close()

    run(check())
    assert whole(registry)


@pytest.mark.parametrize("end", ["rolled_back", "aborted"])
def test_a_game_that_fails_stops_the_games_after_it(two_games, registry, end):
    house = two_games

    async def check():
        await house.start(2, WHOLE)
        await house.start(4, WHOLE.model_copy(update={"after": 1}))
        if end == "aborted":
            await house.controller.order(1, lambda now: store.move(registry, now, end, "anna"))
        else:
            while house.pong.live is not None:
                number = house.assigned("candidate")
                house.pong.live.end(number, None, ended="failed", errors=True)
                await house.look()
        await house.look()
        assert house.state(1).state == end
        assert house.state(2).state == "aborted"
        failed = end.replace("_", " ")
        assert house.state(2).note == f"rollout 1, which had to succeed first, was {failed}"
        assert await a_game(house, "breakout") == 3
        await house.service.close()

    run(check())
    assert store.games_of(registry, 2) == []
    version = registry.version(4)
    for first, told in ((1, "rollout 1 was .*, so nothing can begin after"), (9, "no rollout 9")):
        spec = WHOLE.model_copy(update={"after": first})
        with pytest.raises(RegistryError, match=told):
            store.open_rollout(registry, version, spec, actor="anna")


def test_after_a_kill_a_game_still_waits_for_the_one_before(two_games, registry):
    async def first():
        await two_games.start(2, WHOLE)
        await two_games.start(4, WHOLE.model_copy(update={"after": 1}))
        await two_games.service.close()

    async def second():
        again = House(registry, two_games.made)
        await again.look(3)
        assert again.state(2).state == "preparing"
        assert await a_game(again, "breakout") == 3
        await again.service.close()

    run(first())
    run(second())


def test_several_versions_on_the_command_line_are_the_phases(two_games, monkeypatch, capsys):
    with two_games.online() as client:
        monkeypatch.setattr("rlarcade.serving.client.ServerClient", command_server(client))
        words = ["start", "2", "4", "--strategy", "phased", "--phases"]
        assert rollout.main([*words, "pong,breakout,boxing"]) != 0
        assert "--phases has 3 games for 2 versions" in capsys.readouterr().err
        assert client.get("/v1/rollouts").json()["rollouts"] == []
        assert rollout.main([*words, "pong,breakout"]) == 0
        out = capsys.readouterr().out
        assert "rollout 1 of Pong: version 2 for 1, phased" in out
        assert "rollout 2 of Breakout: version 4 for 3, phased" in out
        assert out.rstrip().endswith("it waits for the success of rollout 1")
        shown = client.get("/v1/rollouts").json()["rollouts"]
        assert [(one["game"], one["steps"], one["after"]) for one in shown] == [
            ("pong", 1, None),
            ("breakout", 1, 1),
        ]


def test_a_phase_that_names_another_game_is_refused(two_games):
    with two_games.online() as client:
        asked = {"version": "2", "spec": {"strategy": "phased"}, "game": "breakout"}
        answer = client.post("/v1/rollouts", json=asked)
        assert answer.status_code == 409
        assert answer.json() == {"error": "version 2 is of pong, not breakout."}
        assert client.post("/v1/rollouts", json=asked | {"game": "boxing"}).status_code == 404
        assert client.get("/v1/rollouts").json()["rollouts"] == []


# Open games when the version changes


def actions_of(house, session, count=40):
    """The actions of some steps; each agent likes its own."""

    async def given():
        return [
            (await house.service.decide(session, observation)).action
            for observation in observations(count)
        ]

    return given()


def most(actions):
    return max(set(actions), key=actions.count)


@pytest.mark.parametrize("cut", ["drain", "now"])
@pytest.mark.parametrize("strategy", ["big-bang", "phased"])
def test_open_games_end_where_they_began_or_go_over_at_their_next_step(house, strategy, cut):
    phases = ("staff",) if strategy == "phased" else ()
    spec = RolloutSpec(strategy=strategy, phases=phases, cut=cut)

    async def check():
        await house.look()
        opened = {group: await house.opened(group=group) for group in ("staff", "others")}
        chosen = await house.opened(group="staff", version="1")
        before = {group: await actions_of(house, one) for group, one in opened.items()}
        assert {most(actions) for actions in before.values()} == {1}
        await house.start(2, spec)
        await house.look(2)
        for group, session in opened.items():
            over = cut == "now" and (group == "staff" or strategy == "big-bang")
            assert most(await actions_of(house, session)) == (2 if over else 1)
            ended = house.service.finish(session, "ended")
            assert (ended.mixed, session.version) == (over, 2 if over else 1)
        assert (chosen.version, chosen.mixed) == (1, False)
        await house.service.close()

    run(check())


def test_a_game_that_goes_over_is_marked_in_the_registry_and_counts_for_neither(house, registry):
    spec = PHASED.model_copy(update={"cut": "now", "min_sessions": 1})

    async def check():
        await house.start(2, spec)
        mixed = await house.opened(group="beta")
        stays = await house.opened(group="others")
        await actions_of(house, mixed, 7)
        await house.played(steps=1, group="staff")
        await house.settled()
        assert house.state().step == 1
        assert (mixed.version, mixed.role, mixed.mixed) == (2, "candidate", True)
        assert (stays.version, stays.mixed) == (1, False)
        await house.look()
        row = store.games_of(registry, 1)[mixed_number]
        assert (row.role, row.mixed, row.steps, row.score) == ("champion", True, 7, None)
        evidence = house.pong.live.evidence()
        assert (evidence.role("champion").sessions, evidence.mixed) == (1, 1)
        assert (evidence.role("candidate").sessions, evidence.touched) == (1, 2)
        house.service.finish(mixed, "ended", claimed=1e6)
        await house.look()
        assert store.games_of(registry, 1)[mixed_number] == row
        await house.service.close()

    mixed_number = 0
    run(check())
    assert whole(registry)


def test_open_games_go_back_to_the_champion_with_the_roll_back(house, registry):
    house.made[2] = Crashing(after=30)
    spec = PHASED.model_copy(update={"cut": "now"})

    async def check():
        await house.start(2, spec)
        survivor = await house.opened(group="staff")
        assert survivor.version == 2
        picture = observations(1)[0]
        while house.state().state != "rolled_back":
            session = await house.opened(group="staff")
            for _ in range(20):
                try:
                    await house.service.decide(session, picture)
                except Refusal:
                    break
            await house.look()
        assert (survivor.version, survivor.mixed) == (1, True)
        assert (await house.service.decide(survivor, picture)).values[1] == 1
        await house.look()
        await house.service.close()

    run(check())
    assert store.games_of(registry, 1)[0].mixed
    assert whole(registry)


def test_when_all_phases_have_passed_the_open_games_of_all_others_go_over(house, registry):
    spec = RolloutSpec(strategy="phased", phases=("staff",), min_sessions=1, cut="now")

    async def check():
        await house.start(2, spec)
        other = await house.opened(group="others")
        await house.played(steps=1, group="staff")
        await house.settled()
        assert house.state().state == "succeeded"
        assert (other.version, other.mixed) == (2, True)
        await house.service.close()

    run(check())
    assert [game.mixed for game in store.games_of(registry, 1)] == [True, False]
    assert whole(registry)


def test_in_the_second_phase_games_of_the_first_group_do_not_count(house):
    async def check():
        await house.start(2, PHASED)
        for _ in range(3):
            await house.played(steps=1, group="staff")
        await house.settled()
        assert house.state().step == 1
        for _ in range(5):
            await house.played(steps=1, group="staff")
        await house.settled()
        assert (house.state().state, house.state().step) == ("progressing", 1)
        await house.service.close()

    run(check())


@pytest.mark.parametrize("order", ["aborted", "succeeded"])
def test_an_order_cuts_open_games_as_well(house, registry, order):
    spec = PHASED.model_copy(update={"cut": "now"})

    async def check():
        await house.start(2, spec)
        mine, other = await house.opened(group="staff"), await house.opened(group="others")

        def carried_out(current):
            if order == "succeeded":
                return store.succeed(registry, current, "anna")
            return store.move(registry, current, "aborted", "anna")

        await house.controller.order(1, carried_out)
        winner = 2 if order == "succeeded" else 1
        assert (mine.version, other.version) == (winner, winner)
        assert (mine.mixed, other.mixed) == (winner == 1, winner == 2)
        await house.look()
        assert [game.mixed for game in store.games_of(registry, 1)] == [mine.mixed, other.mixed]
        await house.service.close()

    run(check())
    assert whole(registry)


def test_games_of_another_protocol_or_of_a_chosen_version_are_never_handed_over(
    registry, add, tmp_path
):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    registry.register(tiny(tmp_path / "other", 2, protocol=get_protocol("machado"), num_actions=18))
    agents = {1: Favourite(1), 2: Favourite(2, num_actions=18)}

    async def check():
        house = House(registry, agents)
        await house.look()
        session, chosen = await house.opened(), await house.opened(version="1")
        await house.start(2, RolloutSpec(strategy="big-bang", cut="now"))
        await house.look(2)
        assert registry.alias("pong").version == 2
        for one in (session, chosen):
            assert (one.version, one.mixed) == (1, False)
            assert np.isfinite((await house.service.decide(one, observations(1)[0])).values).all()
        await house.service.close()

    run(check())


def test_over_http_a_group_chooses_its_phase_and_a_cut_game_says_that_it_is_mixed(house):
    spec = {"strategy": "phased", "phases": ["staff"], "cut": "now"}
    with house.online() as client:
        before = client.post("/v1/sessions", json={"game": "Pong", "group": "staff"}).json()
        assert (before["version"], before["mixed"]) == (1, False)
        client.post("/v1/rollouts", json={"version": "2", "spec": spec}).raise_for_status()

        def version(group):
            asked = {"game": "Pong"} | ({} if group is None else {"group": group})
            return client.post("/v1/sessions", json=asked).json()["version"]

        until(lambda: version("staff") == 2)
        assert [version(group) for group in ("staff", "beta", None)] == [2, 1, 1]
        path, token = f"/v1/sessions/{before['id']}", {"X-Session-Token": before["token"]}
        shown = client.get(path, headers=token).json()
        assert (shown["version"], shown["role"], shown["mixed"]) == (2, "candidate", True)
        told = client.post(f"{path}/outcome", json={"score": 3}, headers=token).json()
        assert told["mixed"] is True
        assert client.get("/v1/rollouts").json()["rollouts"][0]["mixed"] == 0  # it began before
