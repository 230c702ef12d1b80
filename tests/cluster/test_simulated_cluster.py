"""The simulation of large clusters, and its costs, agree with what is calculated by hand."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlarcade.cluster.games import LANES

ENGINE = f"ray, {LANES} lanes"
SCRIPTS = Path(__file__).parents[2] / "scripts"
SCRIPT = SCRIPTS / "simulate_cluster.py"


@pytest.fixture(scope="module")
def simulation():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def costs(simulation):
    """A step takes a hundredth of a second of a core, and nothing else takes any time."""

    def make(**changed):
        free = {
            "step": {1: 0.01, 64: 0.01},
            "reset": 0.0,
            "round": 0.0,
            "round_per_worker": 0.0,
            "exchange": 0.0,
            "game": 0.0,
            "create": 0.0,
            "worker_start": 0.0,
            "player_megabytes": 0.0,
            "latency": 0.0,
            "noticed": 0.0,
        }
        return simulation["Costs"](**(free | changed))

    return make


def test_one_worker_takes_the_sum_of_all_steps_whatever_their_order(simulation, costs):
    lengths = [100, 900, 20, 400, 777, 3, 650, 250, 81, 1_200, 5]
    done = simulation["evaluation"](costs(), 1, lengths)
    assert done["games"] == 11
    assert done["seconds"] == pytest.approx(0.01 * sum(lengths))
    assert done["efficiency"] == pytest.approx(1)


def test_equal_games_that_fill_all_lanes_take_as_long_as_one_workers_share(simulation, costs):
    done = simulation["evaluation"](costs(reset=0.5), 100, [200] * (LANES * 100 * 3))
    assert done["seconds"] == pytest.approx(LANES * 3 * (0.01 * 200 + 0.5))


def test_fewer_lanes_play_at_the_speed_that_was_measured_for_them(simulation, costs):
    alone = costs(step={1: 0.03, 2: 0.02, 64: 0.01})
    assert simulation["evaluation"](alone, 1, [100])["seconds"] == pytest.approx(3)
    # Two games at 0.02 s a step until the short one ends; then the other is alone.
    done = simulation["evaluation"](alone, 1, [100, 150])
    assert done["seconds"] == pytest.approx(200 * 0.02 + 50 * 0.03)


def test_a_driver_that_takes_longer_than_all_workers_sets_the_pace(simulation, costs):
    done = simulation["evaluation"](costs(game=0.05), 64, [10] * 2_000)
    assert done["seconds"] == pytest.approx(2_000 * 0.05, rel=0.05)
    assert done["driver_busy"] > 0.95
    lengths = [50 + 37 * place % 101 for place in range(200)]  # hardly any two end together
    slow_calls = simulation["evaluation"](costs(exchange=0.05), 1, lengths)
    fast_calls = simulation["evaluation"](costs(), 1, lengths)
    assert slow_calls["driver_busy"] == pytest.approx(200 * 0.05 / (0.01 * sum(lengths)), rel=0.2)
    assert fast_calls["driver_busy"] == 0


def test_the_start_of_workers_counts_and_later_machines_get_an_agent_later(simulation, costs):
    slow = costs(worker_start=7.0, player_megabytes=50.0, bandwidth=100.0, cores=2)
    done = simulation["evaluation"](slow, 4, [100] * 4)
    assert done["seconds"] == pytest.approx(7 + 0.5 + 1)  # the second machine's
    assert simulation["evaluation"](slow, 2, [100] * 2)["seconds"] == pytest.approx(7 + 1)


def test_every_game_is_played_although_workers_die_all_the_time(simulation, costs):
    lengths = [int(one) for one in np.random.default_rng(3).integers(50, 2_000, 500)]
    quick = {1: 0.002, 64: 0.002}
    alive = simulation["evaluation"](costs(step=quick), 16, lengths)
    deadly = costs(step=quick, deaths_an_hour=20.0, noticed=5.0)
    done = simulation["evaluation"](deadly, 16, lengths)
    assert done["games"] == 500
    assert done["played_again"] > 20
    assert done["seconds"] > alive["seconds"]


def test_a_match_with_enough_workers_takes_as_long_as_its_longest_game(simulation, costs):
    pairs = [(100, 200), (500, 100), (50, 50), *[(10, 10)] * 397]
    done = simulation["match"](costs(), 1_000, pairs, needed=3)
    assert done["seconds"] == pytest.approx(5)
    assert done["games_thrown_away"] == 800 - 6  # all games began at once
    few = simulation["match"](costs(), 1, [(100, 100)] * 400, needed=LANES // 2)
    assert few["games_thrown_away"] <= LANES + 1
    assert few["seconds"] == pytest.approx(LANES * 100 * 0.01)


def test_a_suite_ends_with_its_last_round(simulation, costs):
    games = [[100] * 16, [300] * 16]
    done = simulation["suite"](costs(), 4, games)
    assert done["games"] == 32
    assert done["seconds"] >= 0.01 * 16 * 400 / 4
    assert done["efficiency"] <= 1


@pytest.mark.slow  # a second of play on up to 40 workers
def test_the_script_writes_what_it_prints_and_checks_itself(tmp_path):
    figures = {
        "machine": {"cores": 2},
        "start": {"create_seconds": 0.001, "workers_seconds": 3.0, "player_megabytes": 6.75},
        "speed": {"step": {"1": 0.002, "2": 0.0015, "4": 0.0012, "8": 0.001}, "reset": 0.1},
        "driver": {
            "round_seconds": 0.0004,
            "round_seconds_per_worker": 1e-6,
            "exchange_seconds": 0.0005,
        },
        "consumer": {"game_kept_seconds": 0.0005},
        "overhead": {"rounds": [{ENGINE: {"seconds": 20.0, "lengths": [500] * 40}}]},
    }
    (tmp_path / "costs.json").write_text(json.dumps(figures))
    command = [sys.executable, str(SCRIPT), "--workers", "1,40", "--games", "10"]
    command += ["--costs", str(tmp_path / "costs.json"), "--json", str(tmp_path / "told.json")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["check"]["simulated_seconds"] == pytest.approx(3 + 40 * (0.5 + 0.1) / 2, rel=0.05)
    assert [row["workers"] for row in told["tables"]["100 games"]] == [1, 40]
    assert told["limits"]["driver_games_a_second"] == pytest.approx(1_000)
    for name in told["tables"]:
        assert name in printed


def test_costs_of_rounds_workers_and_exchanges_are_told_apart(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    fitted = runpy.run_path(str(SCRIPTS / "bench_cluster.py"))["fitted"]
    rows = [
        {
            "rounds": rounds,
            "workers": workers,
            "exchanges": exchanges,
            "thread_seconds": rounds * (2e-4 + 3e-6 * workers) + exchanges * 5e-4,
        }
        for workers in (8, 64, 1_000)
        for rounds, exchanges in ((500, 510), (1_800, 2_000), (440, 7_000))
    ]
    found = fitted(rows, "thread_seconds")
    assert found["round_seconds"] == pytest.approx(2e-4)
    assert found["round_seconds_per_worker"] == pytest.approx(3e-6)
    assert found["exchange_seconds"] == pytest.approx(5e-4)
    assert found["largest_relative_error"] < 1e-6


def test_an_unknown_part_of_the_measurement_is_refused():
    command = [sys.executable, str(SCRIPTS / "bench_cluster.py"), "--parts", "start,stop"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "unknown part stop: choose from start, speed, driver" in refused.stderr


@pytest.mark.slow  # a hundred made-up games, and five registrations
def test_what_needs_no_cluster_is_measured_and_added_to_the_file(tmp_path):
    told = tmp_path / "costs.json"
    told.write_text(json.dumps({"start": {"kept": 1}}))
    command = [sys.executable, str(SCRIPTS / "bench_cluster.py"), "--quick", "--json", str(told)]
    subprocess.run([*command, "--parts", "consumer,registry"], check=True, capture_output=True)
    found = json.loads(told.read_text())
    assert found["start"] == {"kept": 1}
    assert 0 < found["consumer"]["game_seconds"] < found["consumer"]["game_kept_seconds"]
    assert 0 < found["registry"]["folder"]["promote"] < found["registry"]["folder"]["register"]
