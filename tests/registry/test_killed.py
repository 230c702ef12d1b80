"""Processes that are killed at any moment, and processes that race each other."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from registry_helpers import sql, tiny
from tiers import quick

from rlarcade.registry.registry import Registry

HERE = Path(__file__).parents[1]  # where registry_helpers lies

pytestmark = pytest.mark.slow

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from registry_helpers import tiny
from rlarcade.registry.registry import Registry
address, begin, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
with Registry.open(address) as registry:
    print("ready", flush=True)
    for content in range(begin, begin + 1000):
        version = registry.register(tiny(work / "c", content))
        print("registered", content, version.number, flush=True)
        generation = registry.generation("pong")
        alias = registry.move_alias(
            "pong", "champion", version.number, expected_generation=generation, kind="promote")
        print("promoted", version.number, alias.generation, flush=True)
        if content % 3 == 0 and registry.previous_champions("pong"):
            alias = registry.rollback("pong")
            print("promoted", alias.version, alias.generation, flush=True)
"""

RACER = """
import json, sys, time
from pathlib import Path
from rlarcade.errors import StaleError
from rlarcade.registry.registry import Registry
address, mine, until = sys.argv[1], sys.argv[2], float(sys.argv[3])
won, lost = [], 0
with Registry.open(address) as registry:
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + until
    turn = 0
    while time.monotonic() < end:
        turn += 1
        generation = registry.generation("pong")
        try:
            alias = registry.move_alias(
                "pong", "champion", 1 + turn % 4, expected_generation=generation,
                kind="promote", actor=mine)
            assert alias.generation == generation + 1
            won.append([alias.generation, 1 + turn % 4])
        except StaleError:
            lost += 1
print(json.dumps([won, lost]), flush=True)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_repeatedly(address, work, times, longest):
    """Kills a process that registers, promotes and rolls back; checks what it leaves each time."""
    dice = random.Random(1)
    told = []
    for attempt in range(times):
        child = start(CHILD.format(here=str(HERE)), address, attempt * 1000, work)
        assert child.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0, longest))
        child.kill()
        lines = child.stdout.read()
        child.wait()
        child.stdin.close()
        child.stdout.close()
        told += [line.split() for line in lines.splitlines(keepends=True) if line.endswith("\n")]
        check_survivors(address, work, told)


def check_survivors(address, work, told):
    with Registry.open(address, create=False) as registry:
        assert registry.verify() == []
        numbers = [v.number for v in registry.versions()]
        assert numbers == list(range(1, len(numbers) + 1))
        registered = [int(number) for word, *_, number in told if word == "registered"]
        assert set(registered) <= set(numbers)
        moves = {m.generation: m.version for m in registry.history("pong")}
        assert sorted(moves) == list(range(1, len(moves) + 1))
        for word, *numbers_ in told:
            if word == "promoted":
                version, generation = map(int, numbers_)
                assert moves[generation] == version
        alias = registry.alias("pong")
        if alias is not None:
            assert (alias.generation, alias.version) == (len(moves), moves[len(moves)])
        # What was interrupted can be done again, to the same end.
        again = registry.register(tiny(work / "again", 10**6))
        assert registry.register(tiny(work / "again", 10**6)) == again


def test_a_process_that_is_killed_loses_nothing_that_it_had_reported(address, tmp_path):
    kill_repeatedly(address, tmp_path, 3, 0.5)


@pytest.mark.parametrize("kills", quick([6, 30], (), [30]))
def test_processes_that_are_killed_again_and_again_lose_nothing(address, tmp_path, kills):
    kill_repeatedly(address, tmp_path, kills, 1.0)


def race(address, tmp_path, processes, seconds):
    with Registry.open(address) as registry:
        for content in range(4):
            registry.register(tiny(tmp_path / "c", content))
    racers = [start(RACER, address, f"racer {n}", seconds) for n in range(processes)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [json.loads(racer.communicate(timeout=240)[0]) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    won = sorted(move for moves, _ in results for move in moves)
    with Registry.open(address) as registry:
        moves = registry.history("pong")
        assert registry.verify() == []
        assert registry.generation("pong") == len(won)
    # Every move that somebody was told of is there, once, as told; and there are no others.
    assert won == [[m.generation, m.version] for m in moves]
    assert [m.generation for m in moves] == list(range(1, len(won) + 1))
    assert [m.previous for m in moves] == [None, *(m.version for m in moves[:-1])]
    for number, (mine, _) in enumerate(results):
        told = [[m.generation, m.version] for m in moves if m.actor == f"racer {number}"]
        assert told == mine
    return len(won), sum(lost for _, lost in results)


def test_two_processes_that_race_lose_no_move(address, tmp_path):
    won, _ = race(address, tmp_path, 2, 0.5)
    assert won > 0


@pytest.mark.slow
def test_eight_processes_that_race_lose_no_move_and_every_loser_is_told(
    address,
    tmp_path,
):
    won, lost = race(address, tmp_path, 8, 5)
    assert won > 8
    assert lost > 0


@pytest.mark.slow
def test_processes_that_make_one_registry_at_once_make_one(address, folder):
    code = (
        "import sys; from rlarcade.registry.registry import Registry; "
        "print('ready', flush=True); sys.stdin.readline(); "
        "registry = Registry.open(sys.argv[1]); "
        "context = registry.change(); context.__enter__().record('hello', {}); "
        "context.__exit__(None, None, None)"
    )
    makers = [start(code, address) for _ in range(8)]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        maker.stdin.write("go\n")
        maker.stdin.flush()
    for maker in makers:
        maker.communicate(timeout=120)
        assert maker.returncode == 0
    with Registry.open(address) as registry:
        assert [e.kind for e in registry.events()] == ["hello"] * 8
        assert registry.verify_audit() is None
    assert sql(folder, "SELECT count(*) FROM meta WHERE key = 'format'") == [(1,)]
