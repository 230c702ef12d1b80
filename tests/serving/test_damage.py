"""Something is damaged: a rollout rolls back, the other games go on, and only a registry that
cannot be used is stale."""

import asyncio
import threading
import time

import pytest
from registry_helpers import blob_file, flip_a_byte, sql, whole
from serving_helpers import Favourite, run
from serving_house import CANARY, House, short, until
from starlette.requests import Request

from rlarcade.errors import DamagedPartError, RegistryError, UnusableRegistryError
from rlarcade.registry import versions
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import ServedGame
from rlarcade.serving import rollout_store as store
from rlarcade.serving import strategies
from rlarcade.serving.driver import Driver
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import Online
from rlarcade.serving.settings import RolloutSpec

__all__ = ["short"]

BIG_BANG = RolloutSpec(strategy="big-bang")
QUICK = RolloutSpec(strategy="canary", steps=(50, 100), min_sessions=3)


@pytest.fixture
def house(registry, add):
    """Champion 1 and candidate 2 of Pong, champion 3 and candidate 4 of Breakout."""
    for number, game in ((1, "pong"), (3, "breakout")):
        add(number, game)
        registry.move_alias(game, "champion", number, expected_generation=0, kind="promote")
        add(number + 1, game)
    sql_numbers = [version.number for version in registry.versions()]
    assert sql_numbers == [1, 2, 3, 4]
    return House(registry)


def shares(house, game="pong"):
    plan = house.service.deployments[game].plan
    return {one.role: (one.version, one.share) for one in plan.variants}


def blob(registry, folder, number):
    return blob_file(folder, registry.version(number).digest)


def flip(registry, folder, number):
    flip_a_byte(blob(registry, folder, number))


def remove(registry, folder, number):
    blob(registry, folder, number).unlink()


def spoil_the_manifest(registry, folder, number):
    query = "SELECT manifest_digest FROM versions WHERE number = ?"
    flip_a_byte(blob_file(folder, sql(folder, query, number)[0][0]))


def mark(registry, folder, number):
    """Somebody else has found the damage before."""
    flip(registry, folder, number)
    assert registry.verify(number)


DAMAGES = [flip, remove, spoil_the_manifest, mark]


def unreachable(*ignored, **more):
    raise UnusableRegistryError("the disk cannot be read")


def leave_a_rollout(house):
    """A server begins a canary of version 2 and ends: the next one has to take it up."""

    async def first():
        await house.start(2, QUICK)
        await house.service.close()

    run(first())


async def goes_on(house):
    """Waits until the rollout of Breakout has been driven from its beginning to its end."""
    await house.controller.start(4, BIG_BANG, "anna")
    while house.registry.alias("breakout").version != 4:
        await house.look()


# The candidate


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_candidate_that_is_damaged_at_the_very_last_step_is_rolled_back(
    house, registry, folder, damage
):
    async def check():
        await house.start(2, BIG_BANG)
        assert house.state().state == "progressing"
        damage(registry, folder, 2)
        await house.look()
        after = house.state()
        assert after.state == "rolled_back"
        assert after.note.startswith("it cannot become the champion: version 2 is broken")
        assert house.controller.stale is None
        assert shares(house) == {"champion": (1, 1.0)}
        assert registry.alias("pong").version == 1
        assert registry.version(2).state == "broken"
        await goes_on(house)
        await house.look()
        assert house.pong.live is None
        assert house.controller.stale is None
        await house.service.close()

    run(check())
    assert registry.verify_audit() is None


@pytest.mark.parametrize(
    "broken",
    [(versions, "damage"), (Registry, "change")],
    ids=["its blobs cannot be read", "its database cannot be written"],
)
def test_a_registry_that_cannot_be_used_at_the_last_step_is_stale_and_nothing_moves(
    house, registry, monkeypatch, broken
):
    async def check():
        await house.start(2, BIG_BANG)
        with monkeypatch.context() as away:
            away.setattr(*broken, unreachable)
            await house.look(3)
            assert house.controller.stale == "the disk cannot be read"
            assert house.state().state == "progressing"
            assert shares(house)["candidate"] == (2, 1.0)
        await house.look()
        assert house.controller.stale is None
        assert house.state().state == "succeeded"
        await house.service.close()

    run(check())


def test_a_registry_that_cannot_be_used_while_the_candidate_is_read_is_stale_and_nothing_moves(
    house, registry, monkeypatch
):
    async def check():
        await house.look()
        with monkeypatch.context() as away:
            away.setattr(Registry, "load", unreachable)
            await house.controller.start(2, CANARY, "anna")
            await house.look(2)
            assert house.controller.stale == "the disk cannot be read"
            assert house.state().state == "preparing"
        await house.look()
        assert house.controller.stale is None
        assert house.state().state == "progressing"
        await house.service.close()

    run(check())


def test_a_registry_that_cannot_be_used_at_the_take_up_is_stale_and_the_rollout_goes_on_later(
    house, registry, monkeypatch
):
    leave_a_rollout(house)

    async def check():
        again, load = House(registry), Registry.load

        def only_champions(self, number):
            return load(self, number) if number in (1, 3) else unreachable()

        with monkeypatch.context() as away:
            away.setattr(Registry, "load", only_champions)
            await again.look(2)
            assert again.controller.stale == "the disk cannot be read"
            assert again.state().state == "progressing"
            assert (await again.opened()).version == 1
        await again.look()
        assert again.controller.stale is None
        assert shares(again)["candidate"] == (2, 0.5)
        assert set(again.pong.stock) == {1, 2}
        await again.service.close()

    run(check())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_candidate_that_is_damaged_before_its_rollout_is_taken_up_is_rolled_back(
    house, registry, folder, damage
):
    leave_a_rollout(house)
    damage(registry, folder, 2)

    async def check():
        again = House(registry)
        await again.look()
        assert again.state().state == "rolled_back"
        assert again.state().note.startswith("it cannot be loaded: version 2 is broken")
        assert again.controller.stale is None
        assert shares(again) == {"champion": (1, 1.0)}
        await goes_on(again)
        await again.service.close()

    run(check())


def test_a_candidate_whose_agent_cannot_be_made_is_rolled_back(house):
    """As when its network needs more memory than there is."""

    class Odd(House):
        def _load(self, checkpoint):
            if int(checkpoint.tensors["w"][0]) == 2:
                raise MemoryError("no room for the network")
            return super()._load(checkpoint)

    async def check():
        odd = Odd(house.registry)
        await odd.start(2)
        assert odd.state().state == "rolled_back"
        assert "it cannot be loaded: MemoryError: no room for the network" in odd.state().note
        await goes_on(odd)
        await odd.service.close()

    run(check())


@pytest.mark.parametrize("damage", [flip, mark])
def test_who_decides_for_a_damaged_candidate_is_told_so_and_the_server_is_not_stale(
    house, registry, folder, damage
):
    async def check():
        await house.start(2, RolloutSpec(strategy="ab"))
        damage(registry, folder, 2)
        with pytest.raises(DamagedPartError, match="version 2 is broken"):
            await house.controller.order(1, lambda now: store.succeed(registry, now, "anna"))
        assert registry.version(2).state == "broken"
        assert registry.alias("pong").version == 1
        await house.look()
        assert house.controller.stale is None
        assert house.state().state == "progressing"
        await house.controller.order(1, lambda now: store.move(registry, now, "aborted", "anna"))
        assert shares(house) == {"champion": (1, 1.0)}
        await house.service.close()

    run(check())


# The champion


@pytest.mark.parametrize("damage", DAMAGES)
def test_undo_to_a_damaged_champion_is_refused_and_the_candidate_stays(
    house, registry, folder, damage
):
    async def check():
        await house.start(2, BIG_BANG)
        await house.look()
        assert house.state().state == "succeeded"
        damage(registry, folder, 1)
        with pytest.raises(RegistryError, match=r"version 1|roll back to"):
            await house.controller.order(1, lambda now: store.undo(registry, now, "anna"))
        assert registry.version(1).state == "broken"
        await house.look()
        assert house.state().state == "succeeded"
        assert shares(house) == {"champion": (2, 1.0)}
        assert house.controller.stale is None
        await house.service.close()

    run(check())


@pytest.mark.parametrize("damage", [flip, remove, spoil_the_manifest])
def test_a_new_champion_that_is_damaged_is_not_served_but_ends_the_rollout_against_the_old_one(
    house, registry, add, folder, damage, caplog
):
    async def check():
        await house.start(2)
        number = add(5).number
        alias = {"expected_generation": 1, "kind": "force", "reason": "x"}
        registry.move_alias("pong", "champion", number, **alias)
        damage(registry, folder, number)
        await house.look(3)
        assert house.state().state == "aborted"
        assert "the champion was changed" in house.state().note
        assert shares(house) == {"champion": (1, 1.0)}
        assert (await house.opened()).version == 1
        assert house.controller.stale is None
        await goes_on(house)
        await house.service.close()

    run(check())
    told = [one for one in caplog.messages if "cannot be served" in one]
    assert len(told) == 1
    assert told[0].startswith("version 5 of pong cannot be served: version 5 is broken")


class Broken(House):
    """A house in which making an agent of version 1 takes a while and fails, until it is mended."""

    tries, mended = 0, False

    def _load(self, checkpoint):
        if int(checkpoint.tensors["w"][0]) == 1 and not self.mended:
            self.tries += 1
            time.sleep(0.1)
            raise MemoryError("too large")
        return super()._load(checkpoint)


def test_a_champion_that_cannot_be_loaded_is_tried_again_but_takes_no_core(house, registry):
    async def check():
        broken = Broken(registry, house.made)
        began = time.monotonic()
        while time.monotonic() < began + 0.5:
            await broken.look()
            await asyncio.sleep(0.01)
        assert broken.tries == 1
        assert set(broken.service.deployments) == {"breakout"}
        broken.mended = True
        while "pong" not in broken.service.deployments:
            await broken.look()
            await asyncio.sleep(0.01)
        await broken.service.close()

    run(check())


def test_a_registry_that_cannot_be_used_while_a_champion_is_read_is_stale(
    house, registry, monkeypatch
):
    async def check():
        monkeypatch.setattr(Registry, "load", unreachable)
        await house.look()
        assert house.controller.stale == "the disk cannot be read"
        assert house.service.deployments == {}
        monkeypatch.undo()
        await house.look()
        assert house.controller.stale is None
        assert set(house.service.deployments) == {"breakout", "pong"}

    run(check())


def test_a_champion_that_is_damaged_at_the_start_leaves_the_other_games_online(
    house, registry, folder
):
    async def check():
        flip(registry, folder, 1)
        await house.look()
        assert set(house.service.deployments) == {"breakout"}
        await goes_on(house)
        await house.service.close()

    run(check())


# The rollout itself


def spoil_the_settings(registry, folder):
    flip_a_byte(blob_file(folder, store.rollout(registry, 1).spec))


def spoil_a_game(registry, folder):
    sql(folder, "UPDATE served_games SET role = 'king'")


@pytest.mark.parametrize("damage", [spoil_the_settings, spoil_a_game])
def test_a_rollout_that_cannot_be_read_any_more_is_rolled_back(house, registry, folder, damage):
    async def first():
        await house.start(2)
        house.play("candidate", 20)
        await house.look()
        await house.service.close()

    async def second():
        again = House(registry)
        await again.look(2)
        assert again.state().state == "rolled_back"
        assert "it cannot be read" in again.state().note
        assert shares(again) == {"champion": (1, 1.0)}
        assert again.controller.stale is None
        await goes_on(again)
        await again.service.close()

    run(first())
    damage(registry, folder)
    run(second())


def test_a_rollout_whose_games_are_missing_from_the_registry_is_rolled_back(
    house, registry, folder
):
    async def check():
        await house.start(2)
        number = house.assigned("candidate")
        await house.look()
        sql(folder, "DELETE FROM served_games")
        house.pong.live.end(number, None, ended="terminated", score=1.0, steps=3)
        await house.look()
        assert house.state().state == "rolled_back"
        assert "game 0 of rollout 1 is missing" in house.state().note
        assert shares(house) == {"champion": (1, 1.0)}
        assert house.pong.live is None
        assert house.controller.stale is None
        await house.service.close()

    run(check())


def test_a_rollout_that_another_server_drives_is_left_alone_and_the_other_games_go_on(
    house, registry
):
    """Only one server at a time can drive a rollout, and this one says that it does not."""

    async def check():
        await house.start(2)
        other = House(registry)
        await other.look()
        other.play("candidate", 20)
        await other.look()
        house.play("candidate", 10)
        await house.look()
        assert "was assigned by another server" in house.controller.stale
        assert house.state().state == "progressing"
        await goes_on(house)
        assert "was assigned by another server" in house.controller.stale
        await other.controller.order(1, lambda now: store.succeed(registry, now, "anna"))
        await house.look(2)
        assert shares(house) == {"champion": (2, 1.0)}
        assert house.controller.stale is None
        await house.service.close()
        await other.service.close()

    run(check())


@pytest.mark.usefixtures("short")
def test_a_game_that_two_servers_end_is_ended_once_in_the_audit_log(house, registry):
    async def check():
        await house.start(2)
        session = await house.opened()
        other = House(registry)
        await other.look()  # it takes the game for one whose server was killed
        await other.settled()
        house.service.finish(session, "abandoned")
        await house.settled()
        assert "was ended by another server" in house.controller.stale
        await house.service.close()
        await other.service.close()

    run(check())
    assert whole(registry)


class Drivers:
    """Tells a controller who else drives, as `Driver` does."""

    def __init__(self):
        self.first = None

    def of(self, name):
        def other():
            self.first = self.first or name
            return None if self.first == name else f"process {self.first}"

        return other


def test_a_second_server_serves_champions_and_takes_over_when_the_first_one_ends(house, registry):
    drivers = Drivers()

    async def check():
        house.controller._other_driver = drivers.of(1)
        await house.start(2, QUICK)
        other = House(registry)
        other.controller._other_driver = drivers.of(2)
        session = await house.opened()
        await other.look(2)
        assert shares(other) == {"champion": (1, 1.0)}
        assert other.pong.live is None
        assert "process 1 drives them" in other.controller.stale
        assert store.games_of(registry, 1)[session.counted].ended is None
        online = Online(other.service, other.controller, "secret", None)
        with pytest.raises(Refusal, match="orders are taken by process 1, another server") as no:
            online.require_operator(order("secret"))
        assert no.value.status == 409
        drivers.first = None
        await other.look()
        assert shares(other)["candidate"] == (2, 0.5)
        assert other.controller.stale is None
        assert online.require_operator(order("secret")) is other.controller
        await other.service.close()
        await house.service.close()

    run(check())


def order(token):
    """A request with the operator's token."""
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return Request({"type": "http", "headers": headers})


def test_the_lock_of_the_driver_is_one_servers_until_it_ends(registry):
    first, second = Driver(registry), Driver(registry)
    assert first.other() is None
    assert second.other() == "another process"  # it is this one, which holds both
    assert first.other() is None
    with registry.change("anna") as change:  # the lock is no writer's
        change.record("note", {})
    first.close()
    assert second.other() is None
    second.close()


def test_a_driver_that_has_lost_its_lock_to_another_one_says_so(registry, monkeypatch):
    driver = Driver(registry)
    assert driver.other() is None
    monkeypatch.setattr(driver._lock, "holder", lambda: "process 7")
    with pytest.raises(UnusableRegistryError, match="was lost, and process 7 drives .* Restart"):
        driver.other()
    monkeypatch.undo()
    driver.close()


@pytest.mark.parametrize("first", ["pong", "breakout"])
def test_a_mistake_in_one_game_stops_no_other(house, monkeypatch, first, caplog):
    judged = strategies.judge

    async def check():
        await house.start(2, QUICK)
        await house.start(4, QUICK)
        live = {game: one.live for game, one in house.service.deployments.items()}

        def odd(spec, evidence, *more, **named):
            if evidence is live[first].evidence():
                raise ZeroDivisionError("a mistake of ours")
            return judged(spec, evidence, *more, **named)

        monkeypatch.setattr("rlarcade.serving.driving.judge", odd)
        for deployment in house.service.deployments.values():
            for _ in range(20):
                for role, score in (("candidate", 20), ("control", 10)):
                    game = deployment.live.assign(
                        deployment.live.plan.variant(role), f"{role} {score} {_}", None
                    )
                    result = {"ended": "terminated", "score": score, "steps": 3}
                    deployment.live.end(game.number, None, **result)
        await house.look(3)
        steps = {one.game: one.step for one in store.rollouts_of(house.registry)}
        assert steps == {"pong": int(first != "pong"), "breakout": int(first != "breakout")}
        await house.service.close()

    run(check())
    assert "a mistake of ours" in caplog.text


class Waiting(Favourite):
    """Computes nothing before it is told to."""

    def __init__(self, awake, **more):
        super().__init__(**more)
        self.awake, self.begun = awake, 0

    def q_values(self, observation):
        self.begun += not self.awake.is_set()
        assert self.awake.wait(20)
        return super().q_values(observation)


class Impatient(House):
    """A house whose controller soon lets the other games go on."""

    def __init__(self, *more):
        super().__init__(*more)
        self.controller._loading.patience = 0.01


@pytest.fixture
def awake():
    """Until this is set, versions that wait cannot be loaded."""
    event = threading.Event()
    yield event
    event.set()


def test_a_candidate_that_takes_long_to_load_stops_no_other_game(house, registry, awake):
    async def check():
        here = Impatient(registry, {2: Waiting(awake)})
        await here.start(2, BIG_BANG)
        assert here.state().state == "preparing"
        assert (await here.opened()).version == 1
        await goes_on(here)
        assert here.state().state == "preparing"
        awake.set()
        while here.state().state != "succeeded":
            await here.look()
        await here.service.close()

    run(check())


def test_a_candidate_that_takes_long_to_load_again_is_taken_up_later(house, registry, awake):
    leave_a_rollout(house)

    async def check():
        again = Impatient(registry, {2: Waiting(awake)})
        await again.look(2)
        assert again.pong.live is None
        assert shares(again) == {"champion": (1, 1.0)}
        await goes_on(again)
        assert again.state().state == "progressing"
        awake.set()
        while again.pong.live is None:
            await again.look()
        assert shares(again)["candidate"] == (2, 0.5)
        await again.service.close()

    run(check())


def test_a_new_champion_that_takes_long_to_load_stops_no_game(house, registry, awake):
    async def check():
        here = Impatient(registry, {2: Waiting(awake)})
        await here.look()
        registry.move_alias("pong", "champion", 2, expected_generation=1, kind="promote")
        await here.look()
        assert shares(here) == {"champion": (1, 1.0)}
        assert (await here.opened()).version == 1
        await goes_on(here)
        awake.set()
        while shares(here) != {"champion": (2, 1.0)}:
            await here.look()
        await here.service.close()

    run(check())


@pytest.mark.parametrize("who", ["candidate", "champion"])
def test_a_version_that_never_answers_while_it_is_loaded_is_given_up(
    house, registry, awake, monkeypatch, caplog, who
):
    async def check():
        here = Impatient(registry, {2: Waiting(awake)})
        await here.look()
        monkeypatch.setattr("rlarcade.serving.loading.LOADING_SECONDS", 0.05)
        if who == "champion":
            registry.move_alias("pong", "champion", 2, expected_generation=1, kind="promote")
            while "cannot be served" not in caplog.text:
                await here.look()
            await here.look(3)
            assert here.made[2].begun == 1  # beginning it again would hang again
            assert shares(here) == {"champion": (1, 1.0)}
        else:
            await here.start(2, BIG_BANG)
            while here.state().state == "preparing":
                await here.look()
            assert here.state().state == "rolled_back"
            assert "it cannot be loaded: it was not ready within 0.05" in here.state().note
        awake.set()
        await here.service.close()

    run(check())


def test_a_registry_that_fails_while_a_rollout_becomes_void_is_followed_later(
    house, registry, add, monkeypatch
):
    async def check():
        await house.start(2)
        number = add(5).number
        alias = {"expected_generation": 1, "kind": "force", "reason": "x"}
        registry.move_alias("pong", "champion", number, **alias)
        with monkeypatch.context() as away:
            away.setattr(store, "move", unreachable)
            await house.look(2)
            assert house.controller.stale == "the disk cannot be read"
            assert house.state().state == "progressing"
        await house.look()
        assert house.state().state == "aborted"
        assert shares(house) == {"champion": (5, 1.0)}
        await house.service.close()

    run(check())


def test_an_undo_that_was_killed_in_the_middle_is_finished_and_keeps_its_note(
    house, registry, monkeypatch
):
    async def first():
        await house.start(2, BIG_BANG)
        await house.look()
        with monkeypatch.context() as killed:
            killed.setattr(store, "move", unreachable)
            with pytest.raises(UnusableRegistryError):
                await house.controller.order(1, lambda now: store.undo(registry, now, "anna"))
        assert house.state().state == "rolling_back"
        await house.service.close()

    async def second():
        again = House(registry)
        await again.look()
        assert (again.state().state, again.state().note) == ("rolled_back", "undone by anna")
        assert shares(again) == {"champion": (1, 1.0)}
        await again.service.close()

    run(first())
    run(second())


@pytest.mark.parametrize("damage", [spoil_the_settings, spoil_a_game])
def test_one_rollout_that_cannot_be_read_hides_no_other(house, registry, folder, damage):
    opened = store.open_rollout(registry, registry.version(2), CANARY, actor="anna")
    store.move(registry, opened, "progressing", "anna", step=2)
    game = {"role": "candidate", "step": 0, "key": "anna", "seed": 1, "version": 2}
    store.record_games(registry, 1, "anna", assigned=[ServedGame(rollout=1, number=0, **game)])
    store.open_rollout(registry, registry.version(4), CANARY, actor="anna")
    damage(registry, folder)
    with house.online() as client:
        until(lambda: house.state().state == "rolled_back")
        bad, good = client.get("/v1/rollouts").json()["rollouts"]
        assert (bad["id"], bad["strategy"], bad["state"]) == (1, "canary", "rolled_back")
        assert "it cannot be read" in bad["note"]
        assert (good["id"], good["version"]) == (2, 4)


def test_an_order_that_a_damaged_version_refuses_is_a_conflict_and_no_outage(
    house, registry, folder, monkeypatch
):
    store.open_rollout(registry, registry.version(2), RolloutSpec(strategy="ab"), actor="anna")
    with house.online() as client:
        until(lambda: house.state().state == "progressing")
        flip(registry, folder, 2)
        answer = client.post("/v1/rollouts/1/decide", json={"winner": "candidate"})
        assert answer.status_code == 409
        assert "version 2 is broken" in answer.json()["error"]
        monkeypatch.setattr(Registry, "change", unreachable)
        answer = client.post("/v1/rollouts/1/decide", json={"winner": "candidate"})
        assert (answer.status_code, answer.json()) == (503, {"error": "the disk cannot be read"})
