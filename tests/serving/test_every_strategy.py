"""What holds for every strategy: it survives kills, and real agents get what they deserve."""

import contextlib
import itertools
from pathlib import Path

import pytest
from registry_helpers import whole
from serving_helpers import run
from serving_house import House
from serving_process import serving
from tiers import quick
from warm_python import programs

from rlarcade.errors import UnusableRegistryError
from rlarcade.registry.registry import Registry
from rlarcade.serving import rollout_store as store
from rlarcade.serving.settings import RolloutSpec

DATA = Path(__file__).parents[1] / "data"

SPECS = {
    "big-bang": RolloutSpec(strategy="big-bang"),
    "big-bang now": RolloutSpec(strategy="big-bang", cut="now"),
    "phased": RolloutSpec(strategy="phased", phases=("staff", "beta"), min_sessions=2),
    "twin": RolloutSpec(strategy="parallel", mode="twin", min_sessions=2),
    "canary": RolloutSpec(strategy="canary", steps=(25, 100), min_sessions=2),
    "ab": RolloutSpec(strategy="ab"),
    "shadow": RolloutSpec(strategy="parallel", mode="shadow"),
}
DECIDED = ("ab", "shadow")
"""Strategies that end by a decision only."""


def play(house, spec, candidate, champion):
    """Tells the result of the next games, as if they had been played."""
    live = house.pong.live
    key = f"player {len(live.games)}"
    told = {"ended": "terminated", "steps": 10}
    if spec.strategy == "phased":
        group = spec.phases[live.rollout.step]
        game = live.assign(live.plan.variant("candidate"), key, group)
        bad = candidate < champion
        live.end(game.number, None, score=candidate, errors=bad, **told)
    elif spec.mode == "twin":
        own = live.assign(live.plan.variant("champion"), key, None)
        twin = live.twin()
        live.end(own.number, None, score=champion, **told)
        live.end(twin.number, None, score=candidate, **told)
    else:
        for role, score in (("control", champion), ("candidate", candidate)):
            variant = live.plan.variant(role)
            if variant is not None:
                game = live.assign(variant, f"{key} {role}", None)
                live.end(game.number, None, score=score, **told)


@contextlib.contextmanager
def killed_at(registry, monkeypatch, write, after):
    """The process is killed before or after its write-th write of the registry."""
    count = itertools.count(1)
    change = type(registry).change

    @contextlib.contextmanager
    def failing(self, *arguments, **more):
        last = next(count) == write
        if last and not after:
            raise UnusableRegistryError("killed")
        with change(self, *arguments, **more) as opened:
            yield opened
        if last:
            raise UnusableRegistryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(type(registry), "change", failing)
        yield count


async def to_the_end(registry, name, candidate, champion):
    """Runs a rollout; after every look the server is gone and another one goes on."""
    spec = SPECS[name]
    house = House(registry)
    await house.look()
    with contextlib.suppress(UnusableRegistryError):
        await house.controller.start(2, spec, "anna")
    if not store.rollouts_of(registry):
        await house.controller.start(2, spec, "anna")
    for number in range(60):
        house = House(registry)
        await house.look()
        if house.state().state in ("succeeded", "rolled_back", "aborted"):
            return house
        if house.pong.live is not None and house.pong.live.counts_games:
            play(house, spec, candidate, champion)
            await house.look()
        if name in DECIDED and number > 5:
            with contextlib.suppress(UnusableRegistryError):
                await house.controller.order(1, lambda now: decided(registry, now, candidate > 10))
    raise AssertionError(house.state())


def decided(registry, now, better):
    if better:
        return store.succeed(registry, now, "anna")
    return store.move(registry, now, "aborted", "anna")


def writes(*few):
    """The writes at which the process is killed: these by default, all of them in the slow tier."""
    return [n if n in few else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 16)]


# A kill before a write leaves what a kill after the write before leaves, so few are tried.
@pytest.mark.parametrize(
    ("write", "after"),
    [(n, after) for n in (2, 5, 9) for after in (False, True)]
    + [pytest.param(n, True, marks=pytest.mark.slow) for n in range(1, 16) if n not in (2, 5, 9)],
)
@pytest.mark.parametrize("name", SPECS)
def test_a_kill_at_any_write_changes_no_outcome(registry, add, monkeypatch, name, after, write):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    with killed_at(registry, monkeypatch, write, after):
        run(to_the_end(registry, name, 20, 10))
    assert store.rollout(registry, 1).state == "succeeded"
    assert registry.alias("pong").version == 2
    assert len(store.rollouts_of(registry)) == 1
    assert whole(registry)


@pytest.mark.parametrize("write", writes(4))
@pytest.mark.parametrize("name", ["phased", "twin", "canary", "ab"])
def test_a_kill_saves_no_bad_candidate(registry, add, monkeypatch, name, write):
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    with killed_at(registry, monkeypatch, write, True):
        run(to_the_end(registry, name, 5, 10))
    assert store.rollout(registry, 1).state == ("aborted" if name == "ab" else "rolled_back")
    assert registry.alias("pong").version == 1
    assert whole(registry)


# From end to end, with real agents over HTTP


@pytest.fixture
def engine(request):
    """The flags of a server's engine: the local one, unless a test asks for Ray's."""
    if getattr(request, "param", "local") == "local":
        return ()
    address = request.getfixturevalue("ray_nodes").address
    return ("--engine", "ray", "--replicas", "2", "--address", address)


on_both = pytest.mark.parametrize("engine", quick(["local", "ray"], (), ["ray"]), indirect=True)


@contextlib.contextmanager
def space_invaders(folder, champion, candidate, engine):
    """A server whose champion is version 1; version 2 is registered."""
    with Registry.open(folder / "registry") as registry:
        for name in (champion, candidate):
            registry.register(DATA / f"space-invaders-{name}")
        registry.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
        python = programs() / "python"
        with serving(folder, "--registry", "registry", *engine, python=python) as server:
            yield server, registry
            assert server.end() == 0
        assert registry.verify() == []
        assert registry.verify_audit() is None


def played_until_it_ends(server, *words, rounds=12):
    for _ in range(rounds):
        server.run("play", "--games", "4", *words)
        after = server.rollout()
        if after["state"] not in ("preparing", "progressing", "paused"):
            return after
    raise AssertionError(after)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.recorded
def test_twins_over_http_save_the_champion_from_a_worse_candidate(tmp_path, engine):
    with space_invaders(tmp_path, "late", "early", engine) as (server, registry):
        server.run("rollout", "start", "2", "--strategy", "parallel", "--mode", "twin")
        after = played_until_it_ends(server)
        assert after["state"] == "rolled_back", after
        assert registry.alias("space_invaders").version == 1
        assert after["losses"] >= 5
        games = store.games_of(registry, 1)
        twins = {game.pair: game for game in games if game.is_twin}
        assert all(twins[game.pair].seed == game.seed for game in games if game.pair is not None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.recorded
def test_a_phased_rollout_over_http_reaches_one_group_after_the_other(tmp_path, engine):
    with space_invaders(tmp_path, "early", "late", engine) as (server, registry):
        words = ("--strategy", "phased", "--phases", "staff,beta", "--min-sessions", "2")
        server.run("rollout", "start", "2", *words)
        for reached, group in enumerate(("staff", "beta"), start=1):
            for _ in range(2):  # sessions that end at each step
                server.run("play", "--games", "1", "--group", group)
                server.run("play", "--games", "1")

            def next_step(reached=reached):
                after = server.rollout()
                return after["step"] >= reached or after["state"] == "succeeded"

            server.until(next_step)
        assert server.rollout()["state"] == "succeeded", server.rollout()
        games = store.games_of(registry, 1)
        assert {game.version for game in games if game.group is None} == {1}
        assert {game.version for game in games if game.group == "staff"} == {2}


@on_both
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_shadow_over_http_changes_nothing_and_tells_how_often_it_agrees(tmp_path, engine):
    with space_invaders(tmp_path, "late", "early", engine) as (server, registry):
        server.run("rollout", "start", "2", "--strategy", "parallel", "--mode", "shadow")
        server.run("play", "--games", "2")
        seen = server.rollout()["shadow"]
        assert seen["compared"] > 100
        assert seen["agreed"] < 0.1 * seen["compared"]  # the early agent always moves to the left
        assert seen["mean_regret"] > 0
        assert seen["failed"] == 0
        server.run("rollout", "decide", "1", "--winner", "champion")
        assert server.rollout()["state"] == "aborted"
        assert server.rollout()["shadow"]["compared"] >= seen["compared"]
        assert registry.alias("space_invaders").version == 1
        assert all(game.version == 1 for game in store.games_of(registry, 1))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_experiment_over_http_ends_by_a_decision_and_takes_outcomes(tmp_path, engine):
    with space_invaders(tmp_path, "early", "late", engine) as (server, registry):
        server.run("rollout", "start", "2", "--strategy", "ab", "--share", "0.5")
        server.run("play", "--games", "6")
        key = store.games_of(registry, 1)[0].key
        assert "rollout 1: 3 for version" in server.run("rollout", "outcome", key, "3")
        outcomes = [one["outcomes"] for one in server.rollout()["variants"]]
        assert sorted(one["n"] for one in outcomes) == [0, 0, 1]
        server.run("rollout", "decide", "1", "--winner", "candidate")
        assert registry.alias("space_invaders").version == 2


@on_both
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_big_bang_over_http_gives_all_new_games_to_the_candidate_and_undo_takes_them_back(
    tmp_path, engine
):
    with space_invaders(tmp_path, "late", "early", engine) as (server, registry):
        server.run("rollout", "start", "2", "--strategy", "big-bang")
        server.until(lambda: server.rollout()["state"] == "succeeded")
        assert registry.alias("space_invaders").version == 2
        assert "version 2" in server.run("play", "--games", "1")
        server.run("rollout", "undo", "1")
        server.until(lambda: server.rollout()["state"] == "rolled_back")
        assert registry.alias("space_invaders").version == 1
        assert "version 1" in server.run("play", "--games", "1")
