"""Rollouts that have ended are told for ever, and read from the registry once."""

import pytest
from serving_house import House, until

from rlarcade.serving import rollout_store as store
from rlarcade.serving import v1
from rlarcade.serving.live import readable
from rlarcade.serving.v1_documents import rollout_document


@pytest.fixture
def house(registry, add):
    """Champion 1 and candidate 2 of Pong."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    return House(registry)


@pytest.fixture
def read(monkeypatch):
    """The rollouts whose games were read, one entry a time."""
    numbers, games_of = [], store.games_of

    def noted(registry, number):
        numbers.append(number)
        return games_of(registry, number)

    monkeypatch.setattr(store, "games_of", noted)
    return numbers


def rollouts(client, query=""):
    answer = client.get(f"/v1/rollouts{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def experiment(client):
    """An experiment with one game of anna's that has been aborted; returns its number."""
    started = client.post("/v1/rollouts", json={"version": "2", "spec": {"strategy": "ab"}})
    number = started.json()["id"]
    until(lambda: rollouts(client)["rollouts"][-1]["state"] == "progressing")
    client.post("/v1/sessions", json={"game": "Pong", "key": "anna"})
    client.post(f"/v1/rollouts/{number}/abort", json={}).raise_for_status()
    until(lambda: client.get("/v1/deployments").json()["deployments"][0]["rollout"] is None)
    return number


def of_the_registry(house, number):
    """The document as the registry tells it now."""
    made = readable(house.registry, store.rollout(house.registry, number))
    return rollout_document(made, house.service.metrics).model_dump(mode="json")


def test_the_games_of_an_ended_rollout_are_read_once(house, read):
    with house.online() as client:
        numbers = [experiment(client) for _ in range(2)]
        told = rollouts(client)
        read.clear()
        assert [rollouts(client) for _ in range(3)] == 3 * [told]
        assert read == []
        assert told["rollouts"] == [of_the_registry(house, number) for number in numbers]


def test_what_is_reported_of_an_ended_rollout_later_is_told(house):
    with house.online() as client:
        number = experiment(client)
        before = rollouts(client)["rollouts"]
        client.post("/v1/outcomes", json={"session": "anna", "value": 7}).raise_for_status()
        after = rollouts(client)["rollouts"]
        assert before != after == [of_the_registry(house, number)]
        outcomes = [variant["outcomes"] for variant in after[0]["variants"]]
        assert [one["mean"] for one in outcomes if one["n"]] == [7]


def test_a_rollout_that_is_undone_is_told_anew(house):
    with house.online() as client:
        client.post("/v1/rollouts", json={"version": "2", "spec": {"strategy": "big-bang"}})
        until(lambda: rollouts(client)["rollouts"][0]["state"] == "succeeded")
        until(lambda: client.get("/v1/deployments").json()["deployments"][0]["rollout"] is None)
        assert rollouts(client)["rollouts"][0]["state"] == "succeeded"
        client.post("/v1/rollouts/1/undo", json={}).raise_for_status()
        assert rollouts(client)["rollouts"][0]["state"] == "rolled_back"


def test_the_newest_rollouts_can_be_asked_for_alone(house):
    with house.online() as client:
        for _ in range(3):
            experiment(client)
        everything = rollouts(client)
        assert (len(everything["rollouts"]), everything["earlier"]) == (3, 0)
        for newest in (1, 2, 3, 9):
            told = rollouts(client, f"?newest={newest}")
            assert told["rollouts"] == everything["rollouts"][-newest:]
            assert told["earlier"] == max(3 - newest, 0)
        for wrong in ("0", "-1", "many", str(2**40)):
            assert client.get(f"/v1/rollouts?newest={wrong}").status_code == 400


def test_documents_of_few_ended_rollouts_are_kept(house, read, monkeypatch):
    monkeypatch.setattr(v1, "_MOST_ENDED", 2)
    with house.online() as client:
        for _ in range(3):
            experiment(client)
        newest = "?newest=2"
        rollouts(client, newest)
        read.clear()
        rollouts(client, newest)
        assert read == []
        assert len(rollouts(client)["rollouts"]) == 3
        assert len(client.app.state.ended_rollouts._known) == 2
