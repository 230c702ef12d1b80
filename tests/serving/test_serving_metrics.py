"""What the server counts: how long decisions take, by version."""

import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from serving_helpers import Crashing, observations, run
from serving_house import command_server, pong_online, until
from serving_runs import Clock, Follower

from rlarcade.errors import PolicyError
from rlarcade.serving import metrics as metrics_module
from rlarcade.serving.metrics import KEPT_SECONDS, MOST_LATENCIES, MOST_VERSIONS, Metrics
from rlarcade.serving.settings import RolloutSpec


def seen(seconds, version=1, result="ok"):
    metrics = Metrics()
    for one in seconds:
        metrics.decided(version, "champion", result, one)
    return metrics


def rank(values, percent):
    """The nearest rank, from its definition: so many percent of the values are no larger."""
    values = sorted(values)
    return values[math.ceil(percent / 100 * len(values)) - 1]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_the_latency_of_a_version_is_the_median_and_the_99th_percentile(seconds):
    told = seen(seconds).latency(1)
    assert told == (len(seconds), rank(seconds, 50), rank(seconds, 99))


def test_one_slow_decision_in_a_hundred_is_no_more_than_the_maximum():
    assert seen([0.001] * 99 + [9]).latency(1) == (100, 0.001, 0.001)
    assert seen([0.001] * 98 + [9] * 2).latency(1) == (100, 0.001, 9)


def test_only_the_newest_decisions_count():
    told = seen([9.0] * 500 + [0.5] * MOST_LATENCIES).latency(1)
    assert told == (MOST_LATENCIES, 0.5, 0.5)


def test_a_version_that_has_decided_nothing_has_no_latency():
    assert seen([0.1]).latency(2) is None


@pytest.mark.parametrize("result", ["failed", "refused"])
def test_the_time_of_a_decision_that_was_not_made_does_not_count(result):
    assert seen([0.1], result=result).latency(1) is None


def test_latencies_of_many_versions_take_bounded_memory():
    """The memory of Prometheus's own labels is not the point here."""
    metrics = Metrics()
    metrics._decisions = metrics._seconds = Nothing()

    def decide(versions):
        for version in versions:
            for _ in range(20):
                metrics.decided(version, "champion", "ok", 0.1)

    tracemalloc.start()
    decide(range(MOST_VERSIONS))
    before, _ = tracemalloc.get_traced_memory()
    decide(range(MOST_VERSIONS, 5 * MOST_VERSIONS))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after < 1.2 * before
    assert metrics.latency(0) is None
    assert metrics.latency(5 * MOST_VERSIONS - 1) == (20, 0.1, 0.1)


class Nothing:
    """A counter that counts nothing."""

    def labels(self, *ignored):
        return self

    def inc(self):
        pass

    def observe(self, value):
        pass


def test_every_forward_pass_that_clients_ask_for_is_timed():
    async def check():
        service = await pong_online(Crashing(after=9))  # the third decision after warming up
        for rows in (1, 3, 8):
            await service.values(1, observations(rows), "champion")
        with pytest.raises(PolicyError):
            await service.values(1, observations(1), "champion")
        await service.close()
        return service.metrics

    metrics = run(check())
    told = metrics.latency(1)
    assert told.decisions == 3
    assert 0 < told.median <= told.p99 < 30
    text = metrics.text().decode()
    assert 'rlarcade_decision_seconds_count{role="champion",version="1"} 4.0' in text


def latencies(variants):
    return {one["role"]: one["latency"] for one in variants}


def test_deployments_and_open_rollouts_tell_the_latency_of_each_version(house):
    with house.online() as client:
        [deployment] = client.get("/v1/deployments").json()["deployments"]
        assert latencies(deployment["variants"]) == {"champion": None}
        for seconds in (0.001, 0.002, 0.004):
            house.service.metrics.decided(1, "champion", "ok", seconds)
        known = {"decisions": 3, "median_seconds": 0.002, "p99_seconds": 0.004}
        [deployment] = client.get("/v1/deployments").json()["deployments"]
        assert latencies(deployment["variants"]) == {"champion": known}
        document = {"version": "2", "spec": {"strategy": "canary"}}
        assert client.post("/v1/rollouts", json=document).status_code == 201
        until(lambda: rollout(client)["state"] == "progressing")
        house.service.metrics.decided(2, "candidate", "ok", 0.5)
        slow = {"decisions": 1, "median_seconds": 0.5, "p99_seconds": 0.5}
        both = {"champion": known, "control": known, "candidate": slow}
        assert latencies(rollout(client)["variants"]) == both
        [deployment] = client.get("/v1/deployments").json()["deployments"]
        assert latencies(deployment["variants"]) == both
        assert client.post("/v1/rollouts/1/abort", json={}).is_success
        none = dict.fromkeys(both)
        assert latencies(rollout(client)["variants"]) == none  # the versions go on elsewhere


def test_status_tells_the_latency_within_a_terminals_width(house, monkeypatch, command):
    with house.online() as client:
        monkeypatch.setattr("rlarcade.serving.client.ServerClient", command_server(client))
        document = {"version": "2", "spec": {"strategy": "canary"}}
        assert client.post("/v1/rollouts", json=document).status_code == 201
        until(lambda: rollout(client)["state"] == "progressing")
        for seconds in [0.0012] * 1_000 + [0.95] * 11:
            house.service.metrics.decided(1, "champion", "ok", seconds)
        house.service.metrics.decided(2, "candidate", "ok", 0.5)
        code, out, err = command("rollout", "status")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if " took " in line]
    champion = "            its 1,000 newest decisions took 1.2 ms (median), 950.0 ms (p99)"
    candidate = "            its 1 newest decision took 500.0 ms (median), 500.0 ms (p99)"
    assert lines == [champion, champion, candidate]  # the champion is its own control
    assert max(map(len, lines)) < 80


# Versions that nobody plays any more


def versions_in(metrics):
    """The versions of which the text for Prometheus tells."""
    return {
        int(sample.labels["version"])
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if "version" in sample.labels
    }


def test_counters_of_an_unloaded_version_are_told_for_a_while_and_then_forgotten():
    clock = Clock()
    metrics = Metrics(clock)
    for version in (1, 2):
        metrics.decided(version, "champion", "ok", 0.1)
        metrics.decided(version, None, "failed", 0.1)
    before = metrics.text()
    metrics.forget_unloaded({2})
    clock.now += KEPT_SECONDS - 1
    metrics.forget_unloaded({2})
    assert metrics.text() == before
    clock.now += 1
    metrics.forget_unloaded({2})
    assert versions_in(metrics) == {2}
    assert (metrics.latency(1), metrics.latency(2)) == (None, (1, 0.1, 0.1))
    assert 'result="failed",role="addressed",version="2"} 1.0' in metrics.text().decode()


def test_a_version_that_is_loaded_again_in_time_keeps_its_counters():
    clock = Clock()
    metrics = Metrics(clock)
    metrics.decided(1, "champion", "ok", 0.1)
    for loaded in ({}, {1}, {}):
        metrics.forget_unloaded(loaded)
        clock.now += KEPT_SECONDS - 1
        metrics.forget_unloaded(loaded)
    assert versions_in(metrics) == {1}


def test_an_earlier_champion_is_told_of_until_its_last_game_has_ended(house, monkeypatch):
    monkeypatch.setattr(metrics_module, "KEPT_SECONDS", 0.0)

    async def check():
        await house.look()
        old = await house.opened()
        await house.start(2, RolloutSpec(strategy="big-bang"))
        while house.state().state != "succeeded":
            await house.look()
        new = await house.opened()
        for session in (old, new):
            await house.service.decide(session, observations(1)[0])
        await house.look()
        assert versions_in(house.service.metrics) == {1, 2}
        house.service.finish(old, "ended")
        assert 'ended="ended",game="pong",role="champion",version="1"} 1.0' in told(house)
        await house.look()
        assert versions_in(house.service.metrics) == {2}
        await house.service.close()

    run(check())


def told(house):
    return house.service.metrics.text().decode()


def test_a_run_with_many_checkpoints_leaves_the_series_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_module, "KEPT_SECONDS", 0.0)
    follower = Follower(tmp_path / "run")

    async def check():
        for number in range(1, 30):
            follower.save(1_000 * number, number)
            await follower.run.look()
            session = await follower.opened()
            await follower.service.decide(session, observations(1)[0])
            follower.service.finish(session, "ended")
        await follower.run.look()
        assert versions_in(follower.service.metrics) == {29_000}
        await follower.service.close()

    run(check(), 60)


def rollout(client):
    return client.get("/v1/rollouts").json()["rollouts"][-1]
