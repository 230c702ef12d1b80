"""What is recorded of an operator's orders."""

import pytest
from serving_house import House, until


@pytest.fixture
def client(registry, add):
    """A server with a canary of Pong in progress."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    with House(registry).online() as client:
        document = {"version": "2", "spec": {"strategy": "canary"}}
        assert client.post("/v1/rollouts", json=document).status_code == 201
        until(lambda: rollout(client)["state"] == "progressing")
        yield client


def rollout(client):
    return client.get("/v1/rollouts").json()["rollouts"][-1]


NAMED = [({"actor": "anna"}, "anna", "operator anna"), ({}, "operator", "operator")]


@pytest.mark.parametrize(("named", "actor", "who"), NAMED, ids=["named", "unnamed"])
def test_an_order_is_recorded_with_the_name_of_its_operator_if_it_was_given(
    client, registry, named, actor, who
):
    for what in ("pause", "resume", "abort"):
        assert client.post(f"/v1/rollouts/1/{what}", json=named).is_success
        assert rollout(client)["note"] == f"{who}: {what}"
    orders = [event for event in registry.events() if event.kind.startswith("rollout.")][-3:]
    assert [event.actor for event in orders] == [actor] * 3


@pytest.mark.parametrize(("named", "actor", "who"), NAMED, ids=["named", "unnamed"])
def test_a_pause_of_an_operator_holds(client, named, actor, who):
    assert client.post("/v1/rollouts/1/pause", json=named).is_success
    for _ in range(3):  # a game begins when the controller has looked
        assert client.post("/v1/sessions", json={"game": "Pong"}).status_code == 201
    told = rollout(client)
    assert (told["state"], told["note"]) == ("paused", f"{who}: pause")
