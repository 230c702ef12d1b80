"""Versions that wait for approval are listed and answered over HTTP, as on the command line."""

import pytest
from promoting import play_by_strength, quick_gate, saved_agent
from registry_helpers import blob_file, flip_a_byte
from serving_helpers import Favourite
from serving_house import House, until

from rlarcade.learning.policy import DQNAgent
from rlarcade.promotion.pipeline import run_pipeline
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.registry import Registry
from rlarcade.serving import rollout_store as store

NOBODY = {"Authorization": "Bearer guessed"}
BIG_BANG = {"strategy": "big-bang"}


class AnyHouse(House):
    def _load(self, checkpoint):
        return Favourite(0, name=checkpoint.manifest.weights_sha256)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Version 1 is the champion of Pong; 2 and 3 are stronger and wait for approval."""
    paths = [saved_agent(tmp_path / name, seed) for seed, name in enumerate("abc")]
    strength = {DQNAgent.load(path).version: place for place, path in enumerate(paths)}
    play_by_strength(monkeypatch, strength)
    with Registry.open(tmp_path / "registry") as registry:
        first, *others = map(registry.register, paths)
        run_pipeline(registry, first, "promote", quick_gate())
        for version in others:
            run_pipeline(registry, version, "delivery", quick_gate())
        yield registry


@pytest.fixture
def client(registry):
    with AnyHouse(registry).online() as client:
        yield client


def waiting(client):
    answer = client.get("/v1/approvals")
    assert answer.status_code == 200
    return {one["version"]: one for one in answer.json()["waiting"]}


def answered(client, version, decision="approve", headers=None, **more):
    said = {"decision": decision, "by": "anna", "note": "won every pair"} | more
    return client.post(f"/v1/approvals/{version}", json=said, headers=headers)


def test_what_waits_is_listed_with_what_the_gate_found(client, registry):
    assert list(waiting(client)) == [2, 3]
    told = waiting(client)[2]
    assert (told["game"], told["champion"], told["required"]) == ("pong", 1, 1)
    assert (told["approved_by"], told["trouble"]) == ([], None)
    (match,) = [check for check in told["checks"] if check["name"] == "match"]
    assert match["outcome"] == "pass"
    assert "0 lost" in match["evidence"]


def test_an_approved_version_is_the_champion_at_once_and_makes_other_verdicts_stale(
    client, registry
):
    told = answered(client, 2).json()
    assert (told["state"], told["version"]) == ("promoted", 2)
    assert registry.alias("pong").version == 2
    until(lambda: client.get("/v2/models/pong").json()["versions"] == ["2"])
    assert list(waiting(client)) == [3]
    assert "The champion has changed" in waiting(client)[3]["trouble"]
    refused = answered(client, 3)
    assert refused.status_code == 409
    assert "earlier champion" in refused.json()["error"]
    assert waiting(client) == {}  # it is stale now


def test_an_approved_version_may_take_over_by_a_rollout(client, registry):
    assert answered(client, 2, rollout=BIG_BANG).json()["state"] == "approved"
    until(lambda: store.rollout(registry, 1).state == "succeeded")
    until(lambda: submissions_of(registry, version=2)[0].state == "promoted")
    assert store.rollout(registry, 1).opened_by == "anna"
    assert registry.alias("pong").version == 2


def test_a_denied_version_waits_no_longer(client, registry):
    told = answered(client, 2, "deny", note="too slow").json()
    assert (told["state"], told["note"]) == ("denied", "too slow")
    assert list(waiting(client)) == [3]
    assert registry.alias("pong").version == 1
    assert answered(client, 2).status_code == 409


def test_as_many_people_approve_as_the_gate_requires(registry, tmp_path):
    path = saved_agent(tmp_path / "d", 3)
    gate = quick_gate(approvals={"required": 2}, match={"enabled": False}, guard={"enabled": False})
    run_pipeline(registry, registry.register(path), "delivery", gate)
    with AnyHouse(registry).online() as client:
        assert answered(client, 4, by="anna").json()["state"] == "awaiting_approval"
        assert answered(client, 4, by="ANNA ").json()["state"] == "awaiting_approval"
        told = waiting(client)[4]
        assert (told["approved_by"], told["required"]) == (["anna"], 2)
        assert answered(client, 4, by="bert").json()["state"] == "promoted"


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"headers": NOBODY}, 403),
        ({"headers": {"Authorization": ""}}, 401),
        ({"by": ""}, 400),
        ({"by": "policy:anna"}, 400),
        ({"by": "an\u200bna"}, 400),
        ({"note": ""}, 400),
        ({"decision": "perhaps"}, 400),
        ({"rollout": {"strategy": "hope"}}, 400),
        ({"wish": 1}, 400),
    ],
)
def test_an_answer_that_is_not_allowed_or_makes_no_sense_changes_nothing(
    client, registry, more, status
):
    refused = answered(client, 2, **more)
    assert refused.status_code == status, refused.text
    assert refused.json()["error"]
    assert list(waiting(client)) == [2, 3]
    assert registry.alias("pong").version == 1


def test_a_version_that_does_not_wait_cannot_be_approved_or_denied(client, registry):
    assert answered(client, 1).json()["state"] == "promoted"  # it is the champion already
    assert answered(client, 9).status_code == 409
    for version in (1, 9):
        assert answered(client, version, "deny").status_code == 409
    assert list(waiting(client)) == [2, 3]
    assert registry.alias("pong").version == 1


def test_a_damaged_verdict_hides_no_other_version(client, registry):
    flip_a_byte(blob_file(registry.folder, submissions_of(registry, version=2)[0].verdict))
    told = waiting(client)
    assert list(told) == [2, 3]
    assert "cannot be read" in told[2]["trouble"]
    assert told[3]["trouble"] is None
    assert answered(client, 2).status_code == 409
    assert registry.alias("pong").version == 1
