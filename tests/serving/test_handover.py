"""The pipeline hands an approved version over to a rollout, and both end together."""

from pathlib import Path

import pytest
from promoting import play_by_strength, saved_agent
from registry_helpers import blob_file, flip_a_byte, whole
from serving_helpers import Favourite, run
from serving_house import House

from rlarcade.learning.policy import DQNAgent
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.registry import Registry
from rlarcade.serving import rollout_store as store
from rlarcade.serving.handover import by_rollout
from rlarcade.serving.settings import RolloutSpec

GATE = """
[smoke]
enabled = false
[latency]
max_milliseconds = 10_000
[random]
enabled = false
"""
BIG_BANG = RolloutSpec(strategy="big-bang")
CANARY = ("--rollout", "canary", "--steps", "50,100")


class AnyHouse(House):
    def _load(self, checkpoint):
        return Favourite(0, name=checkpoint.manifest.weights_sha256)


@pytest.fixture
def here(tmp_path, monkeypatch, command):
    """Version 1, the weaker one, is the champion; `b` is a checkpoint that is stronger."""
    monkeypatch.chdir(tmp_path)
    paths = [saved_agent(tmp_path / name, seed) for seed, name in enumerate(("a", "b"))]
    strength = {DQNAgent.load(path).version: place for place, path in enumerate(paths)}
    play_by_strength(monkeypatch, strength)
    Path("gate.toml").write_text(GATE)
    assert command("promote", "register", "a")[0] == 0
    assert command("promote", "promote", "1", "--gate", "gate.toml")[0] == 0
    return tmp_path


def deploy(command, *more, mode="deployment"):
    return command("promote", "pipeline", "run", "b", "--mode", mode, "--gate", "gate.toml", *more)


@pytest.mark.parametrize(
    ("candidate", "champion", "end", "reigns", "state"),
    [(20, 10, "succeeded", 2, "promoted"), (10, 20, "rolled_back", 1, "stale")],
)
def test_a_deployment_by_rollout_is_promoted_with_it_or_stale_with_it(
    here, command, candidate, champion, end, reigns, state
):
    code, out, err = deploy(command, *CANARY)
    assert code == 0, err
    assert "APPROVED" in out
    with Registry.open("checkpoints/registry") as registry:
        assert registry.alias("pong").version == 1
        (rollout,) = store.rollouts_of(registry)
        (submission,) = submissions_of(registry, version=2)
        assert (rollout.submission, submission.state) == (submission.id, "approved")
        assert rollout.opened_by.startswith("policy:")
        assert deploy(command, *CANARY)[0] == 0  # once more: it is on its way already
        assert len(store.rollouts_of(registry)) == 1

        async def check():
            house = AnyHouse(registry)
            await house.look(3)
            for _ in range(40):
                await house.pairs(1, candidate=candidate, champion=champion)

        run(check())
        assert store.rollout(registry, 1).state == end
        assert registry.alias("pong").version == reigns
        assert submissions_of(registry, version=2)[0].state == state
        assert whole(registry)
    code, _, err = deploy(command, *CANARY)
    assert code == (0 if state == "promoted" else 1)  # no second chance


def test_an_approval_may_release_by_a_rollout_too(here, command):
    assert deploy(command, mode="delivery")[0] == 5
    words = ("promote", "approve", "2", "--by", "anna", "--note", "yes")
    assert command(*words, "--rollout", "big-bang")[0] == 0
    with Registry.open("checkpoints/registry") as registry:
        (rollout,) = store.rollouts_of(registry)
        assert (rollout.strategy, rollout.opened_by) == ("big-bang", "anna")


@pytest.mark.parametrize("again", ["pipeline", "approve"])
def test_a_repeated_command_does_not_pass_by_an_open_rollout(here, command, again):
    """CI repeats its delivery, or a second person approves, while a few users play version 2."""
    assert deploy(command, mode="delivery")[0] == 5
    words = ("promote", "approve", "2", "--by", "anna", "--note", "yes")
    assert command(*words, *CANARY)[0] == 0
    with Registry.open("checkpoints/registry") as registry:
        before = len([*registry.events()])
        words = ("promote", "approve", "2", "--by", "bob", "--note", "yes")
        code, out, err = (
            deploy(command, mode="delivery") if again == "pipeline" else command(*words)
        )
        assert (code, "APPROVED" in out) == (0, True), err
        assert registry.alias("pong").version == 1
        assert store.rollout(registry, 1).is_open
        assert len([*registry.events()]) == before

        async def check():
            house = AnyHouse(registry)
            await house.look(3)
            for _ in range(40):
                await house.pairs(1, candidate=20, champion=10)

        run(check())
        assert registry.alias("pong").version == 2
        assert submissions_of(registry, version=2)[0].state == "promoted"
        assert whole(registry)


def test_a_release_is_void_when_the_champion_changes(here, command):
    assert deploy(command, *CANARY)[0] == 0
    saved_agent(here / "c", 7)
    command("promote", "register", "c")
    command("promote", "promote", "3", "--force", "--reason", "x")
    with Registry.open("checkpoints/registry") as registry:

        async def check():
            await AnyHouse(registry).look(2)

        run(check())
        assert store.rollout(registry, 1).state == "aborted"
        assert submissions_of(registry, version=2)[0].state == "stale"
        assert registry.alias("pong").version == 3
        assert whole(registry)


def test_a_rollout_needs_a_mode_that_releases(here, command):
    for mode in ("ci", "delivery"):
        code, _, err = deploy(command, *CANARY, mode=mode)
        assert code == 2
        assert "--rollout is for --mode deployment" in err
    code, _, err = deploy(command, "--steps", "1,100")
    assert code == 2
    assert "add --rollout canary" in err
    code, _, err = deploy(command, "--rollout", "canary", "--steps", "x")
    assert code == 2
    assert "--steps are percentages" in err


def test_a_release_whose_verdict_is_damaged_is_rolled_back_and_stale(here, command):
    assert deploy(command, *CANARY)[0] == 0
    folder = Path("checkpoints/registry")
    with Registry.open(folder) as registry:
        flip_a_byte(blob_file(folder, submissions_of(registry, version=2)[0].verdict))

        async def check():
            house = AnyHouse(registry)
            await house.look(3)
            for _ in range(40):
                await house.pairs(1, candidate=20, champion=10)
            assert house.controller.stale is None

        run(check())
        after = store.rollout(registry, 1)
        assert after.state == "rolled_back"
        assert after.note.startswith("it cannot become the champion: ")
        assert "was altered" in after.note
        assert submissions_of(registry, version=2)[0].state == "stale"
        assert registry.alias("pong").version == 1


def test_a_release_that_wins_names_its_verdict_and_stays_promoted_when_it_is_undone(here, command):
    assert deploy(command, "--rollout", "big-bang")[0] == 0
    with Registry.open("checkpoints/registry") as registry:

        async def check():
            house = AnyHouse(registry)
            await house.look(3)
            assert registry.alias("pong").version == 2
            released = submissions_of(registry, version=2)[0]
            assert released.state == "promoted"
            assert registry.history("pong")[-1].verdict == released.verdict is not None
            await house.controller.order(1, lambda now: store.undo(registry, now, "anna"))

        run(check())
        assert registry.alias("pong").version == 1
        assert store.rollout(registry, 1).state == "rolled_back"
        assert submissions_of(registry, version=2)[0].state == "promoted"
        assert whole(registry)


def test_a_release_waits_for_no_rollout_of_another_version(here, command):
    saved_agent(here / "c", 7)
    command("promote", "register", "c")
    with Registry.open("checkpoints/registry") as registry:
        store.open_rollout(registry, registry.version(2), BIG_BANG, actor="anna")
        code, _, err = deploy(command, *CANARY)
        assert code != 0
        assert "rollout 1 of Pong is preparing. Only one can be open" in err
        assert len(store.rollouts_of(registry)) == 1


def test_a_release_that_meets_another_champion_is_stale(here, command):
    assert deploy(command, *CANARY)[0] == 0
    saved_agent(here / "c", 7)
    command("promote", "register", "c")
    command("promote", "promote", "3", "--force", "--reason", "x")
    with Registry.open("checkpoints/registry") as registry:
        (approved,) = submissions_of(registry, version=2)
        assert approved.state == "approved"
        after = by_rollout(BIG_BANG)(registry, approved, "anna")
        assert after.state == "stale"
        assert "the champion has changed" in after.note
        assert len(store.rollouts_of(registry)) == 1
