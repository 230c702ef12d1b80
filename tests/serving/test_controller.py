"""The controller: it follows the registry, and a kill between any two steps changes no outcome."""

import asyncio
import itertools
import threading

import numpy as np
import pytest
from registry_helpers import blob_file, flip_a_byte, whole
from serving_helpers import Crashing, NotANumber, Sleepy, run
from serving_house import CANARY, House, short

from rlarcade.errors import UnusableRegistryError
from rlarcade.registry.rollouts import ServedGame
from rlarcade.serving import records, rulings
from rlarcade.serving import rollout_store as store
from rlarcade.serving.driving import by_operator
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.settings import RolloutSpec

__all__ = ["short"]

BIG_BANG = RolloutSpec(strategy="big-bang")


def shares(house):
    return {one.role: (one.version, one.share) for one in house.pong.plan.variants}


def test_the_champions_of_the_registry_are_served_and_followed(house, add, registry):
    async def check():
        await house.look()
        assert shares(house) == {"champion": (1, 1.0)}
        add(3, "breakout")
        registry.move_alias("breakout", "champion", 3, expected_generation=0, kind="promote")
        registry.move_alias("pong", "champion", 2, expected_generation=1, kind="promote")
        await house.look()
        assert shares(house) == {"champion": (2, 1.0)}
        assert set(house.pong.stock) == {2}
        assert set(house.service.deployments) == {"breakout", "pong"}
        registry.move_alias("breakout", "champion", None, expected_generation=1, kind="set")
        await house.look()
        assert set(house.service.deployments) == {"pong"}

    run(check())


def loaded(house):
    return house.service.engine.replicas()[0].versions


def test_a_game_that_is_offline_is_unloaded_when_its_last_session_has_ended(house, registry):
    async def check():
        await house.look()
        session = await house.service.open_session("pong", "act")
        registry.move_alias("pong", "champion", None, expected_generation=1, kind="set")
        await house.look(2)
        assert (set(house.service.deployments), loaded(house)) == (set(), (1,))
        await house.service.decide(session, np.zeros((84, 84), dtype=np.uint8))
        house.service.finish(session, "ended")
        await house.look()
        assert loaded(house) == ()
        assert house.controller._aside == {}
        await house.service.close()

    run(check())


def test_a_game_that_comes_back_while_a_session_still_plays_is_loaded_once(house, registry):
    async def check():
        await house.look()
        session = await house.service.open_session("pong", "act")
        registry.move_alias("pong", "champion", None, expected_generation=1, kind="set")
        await house.look()
        registry.move_alias("pong", "champion", 1, expected_generation=2, kind="set")
        await house.look(2)
        house.service.finish(session, "ended")
        await house.look(2)
        assert (shares(house), loaded(house)) == ({"champion": (1, 1.0)}, (1,))
        await house.service.close()

    run(check())


class Waiting(House):
    """Making the agent of version 3 takes until it is told to end."""

    def __init__(self, *more):
        self.end = threading.Event()
        super().__init__(*more)

    def _load(self, checkpoint):
        if int(checkpoint.tensors["w"][0]) == 3:
            assert self.end.wait(30)
        return super()._load(checkpoint)


def test_a_first_champion_that_is_loaded_slowly_keeps_no_other_game_waiting(house, add, registry):
    """A new game of a rollout waits for the controller, which must not wait for the other game."""

    async def check():
        waiting = Waiting(registry, house.made)
        await waiting.start(2)
        waiting.controller._loading.patience = 0.05
        add(3, "breakout")
        registry.move_alias("breakout", "champion", 3, expected_generation=0, kind="promote")
        try:
            for _ in range(3):
                assert (await asyncio.wait_for(waiting.opened(), 10)).game == "pong"
            assert set(waiting.service.deployments) == {"pong"}
        finally:
            waiting.end.set()
        while "breakout" not in waiting.service.deployments:
            await waiting.look()
        await waiting.service.close()

    run(check(), 60)


def test_a_version_stays_loaded_as_long_as_a_session_plays_with_it(house, registry):
    async def check():
        await house.look()
        session = await house.service.open_session("pong", "act")
        registry.move_alias("pong", "champion", 2, expected_generation=1, kind="promote")
        await house.look()
        assert set(house.pong.stock) == {1, 2}
        assert session.version == 1
        house.service.finish(session, "ended")
        await house.look()
        assert set(house.pong.stock) == {2}

    run(check())


def test_a_candidate_that_wins_its_pairs_becomes_the_champion(house, registry):
    async def check():
        await house.start(2)
        assert house.state().state == "progressing"
        assert shares(house)["candidate"] == (2, 0.25)
        seen = []
        for _ in range(20):
            await house.pairs(1, candidate=20, champion=10)
            seen.append((house.state().state, house.state().step))
        assert [step for step, _ in itertools.groupby(seen)] == [
            ("progressing", 0),
            ("progressing", 1),
            ("progressing", 2),
            ("succeeded", 2),
        ]
        assert registry.alias("pong").version == 2
        assert shares(house) == {"champion": (2, 1.0)}
        assert house.pong.live is None
        await house.look()
        assert set(house.pong.stock) == {2}
        assert whole(registry)

    run(check())


def test_a_candidate_that_loses_eleven_pairs_is_rolled_back(house, registry):
    async def check():
        await house.start(2)
        await house.pairs(10, candidate=10, champion=20)
        assert house.state().state in ("progressing", "paused")
        await house.pairs(1, candidate=10, champion=20)
        after = house.state()
        assert after.state == "rolled_back"
        assert "won 0, tied 0 and lost 11 of 11 pairs" in after.note
        assert "the candidate touched 11 games" in after.note
        assert shares(house) == {"champion": (1, 1.0)}
        assert registry.alias("pong").version == 1
        assert whole(registry)

    run(check())


@pytest.mark.parametrize("agent", [Crashing(after=2), NotANumber(after=2)])
def test_a_candidate_that_cannot_be_warmed_up_never_gets_a_game(house, agent):
    async def check():
        house.made[2] = agent
        await house.start(2)
        after = house.state()
        assert after.state == "rolled_back"
        assert "it cannot be loaded: version 2 cannot be served" in after.note
        assert shares(house) == {"champion": (1, 1.0)}
        assert store.games_of(house.registry, 1) == []

    run(check())


def test_a_candidate_whose_bytes_are_damaged_never_gets_a_game(house, folder, registry):
    async def check():
        await house.look()
        flip_a_byte(blob_file(folder, registry.version(2).digest))
        await house.controller.start(2, CANARY, "anna")
        await house.look()
        assert house.state().state == "rolled_back"
        assert registry.version(2).state == "broken"
        assert shares(house) == {"champion": (1, 1.0)}

    run(check())


def test_a_candidate_that_fails_in_play_is_rolled_back_and_the_games_it_touched_are_told(house):
    async def check():
        house.made[2] = Crashing(after=6)  # right after warming up
        await house.start(2, RolloutSpec(strategy="canary", steps=(50, 100)))
        picture = np.zeros((84, 84), dtype=np.uint8)
        for _ in range(200):
            looking = asyncio.ensure_future(house.service.open_session("pong", "act"))
            await asyncio.sleep(0)
            await house.look()
            session = await looking
            if session.role == "candidate":
                with pytest.raises(Refusal, match="version 2 failed: ZeroDivisionError"):
                    await house.service.decide(session, picture)
                assert session.state == "failed"
            else:
                await house.service.decide(session, picture)
            await house.look()
            if house.state().state == "rolled_back":
                break
        after = house.state()
        assert after.state == "rolled_back"
        assert "had errors" in after.note
        games = [game for game in store.games_of(house.registry, 1) if game.role == "candidate"]
        assert f"the candidate touched {len(games)} games" in after.note
        assert all(game.ended == "failed" and game.errors for game in games)
        assert len(games) <= 5
        await house.service.close()

    run(check())


def test_sequences_count_for_errors_but_never_for_quality(house):
    """Their clients' seeds are unknown, so nobody can replay their games."""

    async def check():
        house.made[2] = Crashing(after=6)
        await house.start(2, RolloutSpec(strategy="canary", steps=(50, 100)))
        for number in range(200):
            name = f"pong/number/{number}"
            opening = asyncio.ensure_future(
                house.service.open_session("pong", "sequence", number=name, key=name)
            )
            await asyncio.sleep(0)
            await house.look()
            session = await opening
            assert session.seed is None
            try:
                await house.service.decide(session, np.zeros((84, 84), dtype=np.uint8))
                house.service.finish(session, "ended")
            except Refusal:
                assert session.version == 2
            await house.look()
            if house.state().state == "rolled_back":
                break
        assert "had errors" in house.state().note
        games = store.games_of(house.registry, 1)
        assert all(game.seed is None and game.score is None for game in games)
        assert {game.role for game in games} <= {"candidate", "control"}
        await house.service.close()

    run(check())


def test_games_that_begin_before_the_candidate_is_loaded_do_not_count_and_do_not_wait(house):
    async def check():
        house.made[2] = Sleepy(0.1, after=0)
        await house.look()
        await house.controller.start(2, CANARY, "anna")
        loading = asyncio.ensure_future(house.look())
        while house.pong.live is None:
            await asyncio.sleep(0.01)
        session = await house.service.open_session("pong", "act")
        assert (session.counted, session.version) == (None, 1)
        assert not loading.done()
        await loading

    run(check())


def test_candidate_and_control_meet_with_the_same_seeds_and_no_seed_comes_twice(house):
    """Luck then weighs less in their pairs."""

    async def check():
        await house.start(2)
        live = house.pong.live
        for role in ("candidate", "control", "champion"):
            for _ in range(20):
                house.assigned(role)
        seeds = {
            role: [game.seed for game in live.games.values() if game.role == role]
            for role in ("candidate", "control", "champion")
        }
        assert seeds["candidate"] == seeds["control"]
        assert len({*seeds["candidate"], *seeds["champion"]}) == 40
        before = set(seeds["candidate"])
        live.rollout = live.rollout.model_copy(update={"step": 1})
        again = [live.games[house.assigned("candidate")].seed for _ in range(20)]
        assert not before & set(again)

    run(check())


def test_a_game_that_is_taken_offline_is_played_to_its_end(house, registry):
    async def check():
        await house.look()
        session = await house.opened()
        registry.move_alias("pong", "champion", None, expected_generation=1, kind="set")
        await house.look()
        assert house.service.deployments == {}
        decided = await house.service.decide(session, np.zeros((84, 84), dtype=np.uint8))
        assert decided.step == 0
        assert house.service.finish(session, "ended").steps == 1
        await house.service.close()

    run(check())


def test_a_game_that_outlives_its_rollout_is_no_game_of_the_next_one(house, registry):
    async def check():
        await house.start(2)
        old = await house.opened()
        await house.controller.order(1, lambda now: store.move(registry, now, "aborted", "anna"))
        await house.controller.start(2, CANARY, "anna")
        await house.look()
        await house.opened()
        assert old.counted == 0
        house.service.finish(old, "failed")
        assert house.pong.live.games[0].ended is None
        await house.service.close()

    run(check())


def test_big_bang_switches_all_new_games_at_once_and_open_games_end_where_they_began(house):
    async def check():
        await house.look()
        before = await house.service.open_session("pong", "act")
        await house.start(2, BIG_BANG)
        await house.look(2)
        assert house.state().state == "succeeded"
        after = [await house.service.open_session("pong", "act") for _ in range(20)]
        assert {session.version for session in after} == {2}
        assert before.version == 1
        assert set(house.pong.stock) == {1, 2}

    run(check())


def test_no_traffic_pauses_and_never_promotes(house):
    async def check():
        await house.start(2, RolloutSpec(strategy="canary", steps=(50, 100), quiet_seconds=0.01))
        await asyncio.sleep(0.02)
        await house.look()
        assert house.state().state == "paused"
        assert "No game has come" in house.state().note
        await house.look(3)
        assert house.state().state == "paused"

    run(check())


def test_games_of_another_rollout_are_no_traffic_of_this_one(house, registry, add):
    add(3, "breakout")
    registry.move_alias("breakout", "champion", 3, expected_generation=0, kind="promote")
    add(4, "breakout")

    async def check():
        for version in (2, 4):
            await house.start(version)
        house.pong.live.last_assigned -= CANARY.quiet_seconds
        opening = asyncio.ensure_future(house.service.open_session("breakout", "act"))
        await asyncio.sleep(0)
        await house.look()
        await opening
        assert (house.state(1).state, house.state(2).state) == ("paused", "progressing")
        house.assigned("candidate")
        await house.look()
        assert house.state(1).state == "progressing"
        await house.service.close()

    run(check())


def test_an_operators_pause_holds_whatever_the_games_say_except_an_alarm(house, registry):
    async def check():
        await house.start(2)
        note = by_operator("anna", "pause")

        def paused(current):
            return store.move(registry, current, "paused", "anna", note=note)

        await house.controller.order(1, paused)
        await house.pairs(12, candidate=20, champion=10)
        assert (house.state().state, house.state().step) == ("paused", 0)
        await house.pairs(80, candidate=10, champion=20)
        assert house.state().state == "rolled_back"

    run(check())


def test_an_aborted_rollout_sends_new_games_to_the_champion_at_once(house, registry):
    async def check():
        await house.start(2)

        def aborted(current):
            return store.move(registry, current, "aborted", "anna", note=by_operator("anna", "x"))

        await house.controller.order(1, aborted)
        assert shares(house) == {"champion": (1, 1.0)}
        assert house.pong.live is None
        await house.look()
        assert set(house.pong.stock) == {1}

    run(check())


def test_a_rollout_is_void_when_somebody_else_changes_the_champion(house, registry, add):
    async def check():
        await house.start(2)
        add(3)
        registry.move_alias("pong", "champion", 3, expected_generation=1, kind="force", reason="x")
        await house.look()
        assert house.state().state == "aborted"
        assert "the champion was changed" in house.state().note
        assert shares(house) == {"champion": (3, 1.0)}
        again = House(registry)
        await again.look(2)
        assert shares(again) == {"champion": (3, 1.0)}

    run(check())


def test_a_rollout_is_void_when_the_name_champion_is_taken_away(house, registry):
    async def check():
        await house.start(2)
        registry.move_alias("pong", "champion", None, expected_generation=1, kind="set")
        await house.look()
        assert house.service.deployments == {}
        assert house.state().state == "aborted"

    run(check())


def test_a_client_that_leaves_while_its_game_is_assigned_holds_no_later_pair_up(house, registry):
    async def check():
        await house.start(2, RolloutSpec(strategy="canary", steps=(50, 100)))
        opening = asyncio.ensure_future(house.service.open_session("pong", "act"))
        await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert len(house.service.sessions) == 0
        for _ in range(200):
            await house.look()
            games = store.games_of(registry, 1)
            if games and games[0].ended is not None:
                break
            await asyncio.sleep(0.02)
        assert (games[0].abandoned, games[0].ended) == (True, "terminated")
        await house.service.close()

    run(check())


def test_a_registry_that_cannot_be_used_leaves_the_last_plan_in_force(house, registry, monkeypatch):
    async def check():
        await house.start(2)
        plan = house.pong.plan

        def gone(*ignored, **more):
            raise UnusableRegistryError("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(store, "record_games", gone)
            house.play("candidate", 5)
            await house.look()
            assert house.controller.stale == "the disk is full"
            assert house.pong.plan == plan
            looking = asyncio.ensure_future(house.service.open_session("pong", "act"))
            await asyncio.sleep(0)
            await house.look()
            await looking  # games go on
        assert store.games_of(registry, 1) == []
        await house.look()
        assert house.controller.stale is None
        assert [game.number for game in store.games_of(registry, 1)] == [0, 1]

    run(check())


def test_games_that_waited_are_written_in_parts(house, registry, monkeypatch):
    """A database takes 32,766 values at once, and the registry may be away for an hour."""
    assert records._MOST_GAMES * len(ServedGame.model_fields) < 32_766
    monkeypatch.setattr(records, "_MOST_GAMES", 2)
    sizes, real = [], store.record_games

    def counted(*words, assigned, ended):
        sizes.append((len(assigned), len(ended)))
        real(*words, assigned=assigned, ended=ended)

    async def check():
        await house.start(2)
        monkeypatch.setattr(store, "record_games", counted)
        for score in range(4):
            house.play("candidate", score)
        await house.look()
        assert house.controller.stale is None
        games = store.games_of(registry, 1)
        assert [game.number for game in games] == [*range(len(games))]
        assert [game.score for game in games if game.role == "candidate"] == [0, 1, 2, 3]
        assert max(max(size) for size in sizes) == 2
        assert sum(new for new, _ in sizes) == len(games)
        assert whole(registry)

    run(check())


@pytest.mark.parametrize(
    ("candidate", "champion", "end", "reigns"),
    [(20, 10, "succeeded", 2), (10, 20, "rolled_back", 1)],
)
def test_a_kill_between_any_two_looks_changes_no_outcome(
    registry, add, candidate, champion, end, reigns
):
    """After each look, the server is gone and another one starts from the registry alone."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)

    async def check():
        house = House(registry)
        await house.start(2)
        for _ in range(25):
            house = House(registry)
            await house.look(2)
            if house.state().state == end:
                break
            await house.pairs(1, candidate=candidate, champion=champion)
        assert house.state().state == end
        assert registry.alias("pong").version == reigns
        assert shares(house)["champion"] == (reigns, 1.0)
        assert whole(registry)

    run(check())


@pytest.mark.parametrize("lost", range(1, 9))
def test_a_transition_that_fails_is_made_the_next_time(registry, add, monkeypatch, lost):
    """The lost-th write of the registry fails, as when the process is killed before it."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    writes = itertools.count(1)
    change = type(registry).change

    def failing(self, *arguments, **more):
        if next(writes) == lost:
            raise UnusableRegistryError("killed")
        return change(self, *arguments, **more)

    async def check():
        house = House(registry)
        await house.look()
        await house.controller.start(2, CANARY, "anna")
        monkeypatch.setattr(type(registry), "change", failing)
        await house.look(3)
        for _ in range(25):
            await house.pairs(1, candidate=20, champion=10)
        await house.look()
        assert house.state().state == "succeeded"
        assert registry.alias("pong").version == 2
        assert whole(registry)

    run(check())


def test_games_whose_clients_lost_the_server_are_played_to_their_end_by_the_next_one(
    house, registry
):
    async def check():
        await house.start(2, RolloutSpec(strategy="canary", steps=(50, 100)))
        number = house.assigned("candidate")
        await house.look()
        again = House(registry)
        await again.look()
        for _ in range(200):
            await asyncio.sleep(0.05)
            await again.look()
            if store.games_of(registry, 1)[number].ended:
                break
        game: ServedGame = store.games_of(registry, 1)[number]
        assert (game.ended, game.abandoned, game.errors) == ("terminated", True, False)
        assert game.record is not None
        await again.service.close()

    run(check(), seconds=60)


@pytest.mark.usefixtures("short")
def test_a_game_that_the_referee_could_not_play_is_tried_again(
    house, registry, monkeypatch, caplog
):
    """Otherwise it would never end, and all later pairs would wait for it."""
    played, tries = rulings.rule, []

    def rule(*given):
        tries.append(given)
        if len(tries) < 3:
            raise MemoryError("no emulator can be started")
        return played(*given)

    monkeypatch.setattr(rulings, "rule", rule)
    monkeypatch.setattr(rulings, "_RETRY_SECONDS", 0.01)

    async def check():
        await house.start(2)
        session = await house.opened()
        house.service.finish(session, "abandoned")
        await house.settled()
        [game] = store.games_of(registry, 1)
        assert (game.ended, game.abandoned, game.errors) == ("truncated", True, False)
        await house.service.close()

    run(check())
    assert len(tries) == 3
    assert caplog.messages.count("game 0 of rollout 1 is tried again") == 2
