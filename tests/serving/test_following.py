"""A run that trains is followed: its newest checkpoint plays, and its figures are told."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from registry_helpers import EARLY, LATE, flip_a_byte
from serving_helpers import NotANumber, run
from serving_house import until
from serving_runs import Follower
from starlette.testclient import TestClient

from rlarcade.checkpoint import checkpoint_path
from rlarcade.locks import try_lock
from rlarcade.runs.metrics import MetricWriter
from rlarcade.serving import following
from rlarcade.serving.app import make_app
from rlarcade.serving.engine import LocalEngine
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import Online
from rlarcade.serving.service import Service

WRITTEN = Path(__file__).parents[1] / "data" / "written-by-0.1.0"


@pytest.fixture
def follower(tmp_path):
    return Follower(tmp_path / "run")


# Which checkpoint plays


def test_the_newest_checkpoint_plays(follower):
    async def check():
        follower.save(1_000, 1)
        follower.save(2_000, 2)
        await follower.run.look()
        assert follower.served() == 2_000
        assert follower.service.engine.replicas()[0].versions == (2_000,), "its number is its step"
        assert follower.loads == 1, "older ones are not even read"

    run(check())


def test_a_new_checkpoint_takes_over_and_a_game_stays_with_the_one_that_began_it(follower):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        before = await follower.opened()
        follower.save(2_000, 2)
        await follower.run.look()
        after = await follower.opened()
        assert (before.version, after.version) == (1_000, 2_000)
        assert follower.service.deployments["pong"].generation == 2
        assert follower.service.engine.replicas()[0].versions == (1_000, 2_000)
        follower.service.finish(before, "ended")
        await follower.run.look()
        assert follower.service.engine.replicas()[0].versions == (2_000,), "nobody plays it"
        assert list(follower.service.deployments["pong"].stock) == [2_000]

    run(check())


def test_nothing_is_listed_or_loaded_while_nothing_changes(follower, monkeypatch):
    listed = []
    real = following.list_checkpoints
    monkeypatch.setattr(following, "list_checkpoints", lambda f: listed.append(f) or real(f))

    async def check():
        follower.save(1_000, 1)
        for _ in range(5):
            await follower.run.look()
        assert (len(listed), follower.loads) == (1, 1)

    run(check())


def test_a_checkpoint_that_is_saved_again_is_as_new_as_its_file_and_is_not_loaded_again(follower):
    async def check():
        path = follower.save(1_000, 1)
        age(follower.folder, 300)
        await follower.run.look()
        assert follower.run.age(follower.run.playing) == pytest.approx(300, abs=5)
        shutil.rmtree(path)
        follower.save(1_000, 1)
        await follower.run.look()
        assert follower.run.age(follower.run.playing) == pytest.approx(0, abs=5)
        assert follower.loads == 1

    run(check())


def test_a_run_that_has_not_begun_is_waited_for(follower):
    async def check():
        await follower.run.look()
        assert follower.service.deployments == {}
        assert (await follower.run.progress()).state == "waiting"
        follower.folder.mkdir()
        await follower.run.look()
        follower.save(500, 1)
        await follower.run.look()
        assert follower.served() == 500
        assert (await follower.run.progress()).state == "training"

    run(check())


def test_a_checkpoint_that_is_being_written_is_not_read(follower):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        whole = follower.save(2_000, 2)
        half = whole.with_name(f".{whole.name}.writing")
        whole.rename(half)
        (half / "weights.safetensors").write_bytes(b"half")
        await follower.run.look()
        assert follower.served() == 1_000
        assert follower.run.trouble is None

    run(check())


def test_a_damaged_checkpoint_leaves_the_earlier_one_and_is_tried_again(follower):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        path = follower.save(2_000, 2)
        good = (path / "weights.safetensors").read_bytes()
        flip_a_byte(path / "weights.safetensors")
        await follower.run.look()
        assert follower.served() == 1_000
        assert "is damaged: its sha256 is" in (await follower.run.progress()).trouble
        (path / "weights.safetensors").write_bytes(good)  # the folder's time stamp stays
        await follower.run.look()
        assert follower.served() == 1_000, "it is not read again every two seconds"
        follower.clock.now += 31
        await follower.run.look()
        assert (follower.served(), follower.run.trouble) == (2_000, None)

    run(check())


def test_an_agent_whose_values_are_no_numbers_does_not_take_over(follower):
    follower.made[2] = NotANumber(after=0)

    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        follower.save(2_000, 2)
        await follower.run.look()
        assert follower.served() == 1_000
        assert "not finite" in follower.run.trouble

    run(check())


def test_an_error_of_the_loader_is_told_and_the_earlier_one_plays(follower, monkeypatch):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()

        def crash(path):
            raise ZeroDivisionError("a mistake")

        monkeypatch.setattr(following, "load_playable", crash)
        follower.save(2_000, 2)
        await follower.run.look()
        assert follower.served() == 1_000
        assert "a mistake" in follower.run.trouble

    run(check())


def test_the_loop_survives_a_mistake(follower, monkeypatch, caplog):
    monkeypatch.setattr(following, "PERIOD", 0.01)
    looks = []

    async def failing():
        looks.append(1)
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(follower.run, "look", failing)

    async def check():
        task = asyncio.create_task(follower.run.run())
        while len(looks) < 3:
            await asyncio.sleep(0.01)
        task.cancel()

    run(check())
    assert "following the run failed; it is tried again" in caplog.text


def test_a_resumed_run_that_writes_the_same_step_again_is_served_again(follower):
    """After a kill a run resumes from an earlier step, and may reach the same step otherwise."""

    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        before = await follower.opened()
        shutil.rmtree(checkpoint_path(follower.folder, 1_000))
        follower.save(1_000, 7)
        await follower.run.look()
        after = await follower.opened()
        assert follower.served() == 1_000
        assert (before.version, after.version) == (1_000, 1_001), "both are loaded"
        values = await follower.service.values(1_001, _blank(), None)
        assert values[0].argmax() == 1, "the agent of the new weights"

    run(check())


def test_a_resumed_run_whose_newest_checkpoint_is_older_plays_that_one(follower):
    async def check():
        follower.save(1_000, 1)
        follower.save(2_000, 2)
        await follower.run.look()
        shutil.rmtree(checkpoint_path(follower.folder, 2_000))
        await follower.run.look()
        assert follower.served() == 1_000

    run(check())


def test_another_run_in_the_folder_takes_over_with_its_game(follower):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        shutil.rmtree(follower.folder)
        follower.save(300, 3, game="qbert")
        await follower.run.look()
        assert list(follower.service.deployments) == ["qbert"]
        assert follower.served("qbert") == 300

    run(check())


def test_the_game_of_an_earlier_run_is_played_to_its_end_and_no_new_one_begins(follower):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        before = await follower.opened()
        shutil.rmtree(follower.folder)
        follower.save(1_000, 3, game="qbert")
        await follower.run.look()
        assert list(follower.service.deployments) == ["qbert"]
        with pytest.raises(Refusal, match="pong is not served"):
            await follower.opened()
        after = await follower.opened("qbert")
        assert (before.version, after.version) == (1_000, 1_001)
        for session in (before, after):
            await follower.service.decide(session, _blank()[0])
        await follower.run.look()
        assert follower.service.engine.replicas()[0].versions == (1_000, 1_001)
        follower.service.finish(before, "ended")
        await follower.run.look()
        assert follower.service.engine.replicas()[0].versions == (1_001,)

    run(check())


def test_what_was_wrong_with_a_checkpoint_is_forgotten_with_it(follower):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        path = follower.save(2_000, 2)
        flip_a_byte(path / "weights.safetensors")
        await follower.run.look()
        assert follower.run.trouble is not None
        shutil.rmtree(follower.folder)
        await follower.run.look()
        told = await follower.run.progress()
        assert (told.trouble, told.state) == (None, "waiting")
        assert follower.served() == 1_000, "the last one plays on"

    run(check())


def _blank():
    return np.zeros((1, 4, 84, 84), dtype=np.uint8)


# How it goes


def test_the_curve_and_the_newest_figures_are_told(follower):
    follower.score(1_000, 10.0)
    follower.figures({"step": 1_500, "charts/episodic_return": 99.0, "charts/episodic_length": 5})
    follower.figures({"step": 2_000, "eval/mean_reward": 30.0, "eval/mean_ep_length": 9})
    follower.score(3_000, 20.0)
    told = run(follower.run.progress()).figures
    assert told.step == 3_000
    assert told.curve == ((1_000, 10.0), (3_000, 20.0))
    assert told.evaluations == ((2_000, 30.0),)
    assert told.newest == {"time/fps": 250.0}


def test_a_long_curve_is_thinned_and_keeps_both_ends(follower):
    follower.figures(*({"step": i, "rollout/ep_rew_mean": i / 7} for i in range(5_000)))
    curve = run(follower.run.progress()).figures.curve
    assert len(curve) == 400
    assert (curve[0][0], curve[-1][0]) == (0, 4_999)
    steps = [step for step, _ in curve]
    assert max(b - a for a, b in pairwise(steps)) <= 13


@pytest.mark.parametrize("value", ["NaN", "Infinity", "true", '"12"', "null", "[1]", "1e300"])
def test_a_figure_that_is_no_number_is_left_out(follower, value):
    follower.score(1_000, 10.0)
    with (follower.folder / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 2000, "rollout/ep_rew_mean": {value}}}\n{{"step": 30')
    told = run(follower.run.progress()).figures
    assert told.curve == ((1_000, 10.0),)


def test_figures_are_read_every_five_seconds_at_most(follower, monkeypatch):
    monkeypatch.setattr(following, "_FIGURES_SHARE", float("inf"))  # the machine may be slow
    read = []
    real = following._figures_in
    monkeypatch.setattr(following, "_figures_in", lambda folder: read.append(1) or real(folder))

    async def check():
        follower.score(1_000, 1.0)
        await follower.run.progress()
        follower.score(2_000, 2.0)
        assert (await follower.run.progress()).figures.step == 1_000
        follower.clock.now += 6
        assert (await follower.run.progress()).figures.step == 2_000
        follower.clock.now += 6
        await follower.run.progress()
        assert len(read) == 2

    run(check())


def test_figures_that_take_long_to_read_are_read_seldom(follower, monkeypatch):
    """A training must not be slowed down by its own curve: two hundredths of the time at most."""
    real = following._figures_in

    def slow(folder):
        time.sleep(0.2)
        return real(folder)

    monkeypatch.setattr(following, "_figures_in", slow)

    async def check():
        follower.score(1_000, 1.0)
        await follower.run.progress()
        follower.score(2_000, 2.0)
        follower.clock.now += 9
        assert (await follower.run.progress()).figures.step == 1_000
        follower.clock.now += 600
        assert (await follower.run.progress()).figures.step == 2_000

    run(check())


def test_a_run_that_was_resumed_has_the_curve_that_its_record_has(follower, monkeypatch):
    """A resume drops the figures of lost work, and writes the file anew."""
    monkeypatch.setattr(following, "_FIGURES_SHARE", float("inf"))

    async def check():
        for step in (1_000, 2_000, 3_000):
            follower.score(step, step / 100)
        assert len((await follower.run.progress()).figures.curve) == 3
        writer = MetricWriter(follower.folder, resumed_at=1_000)
        writer.write(1_500, {"rollout/ep_rew_mean": 12.0})
        writer.flush()
        follower.clock.now += 6
        told = (await follower.run.progress()).figures
        assert told.curve == ((1_000, 10.0), (1_500, 12.0))
        writer.close()

    run(check())


def test_figures_that_cannot_be_read_cost_only_the_curve(follower, tmp_path):
    follower.folder.mkdir()
    (tmp_path / "elsewhere").write_text('{"step": 1, "rollout/ep_rew_mean": 1}\n')
    (follower.folder / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    told = run(follower.run.progress())
    assert (told.figures.curve, told.state) == ((), "training")


def age(folder, seconds):
    """Makes everything in a run look older."""
    for path in [folder, *folder.rglob("*")]:
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_a_run_is_training_while_a_process_holds_its_lock(follower):
    """A large network may be silent for minutes: only the lock tells."""

    async def check():
        follower.score(1_000, 1.0)
        (follower.folder / "lock").touch()
        age(follower.folder, 300)
        descriptor = os.open(follower.folder / "lock", os.O_RDWR)
        assert try_lock(descriptor)
        told = await follower.run.progress()
        assert told.state == "training"
        assert told.quiet_seconds == pytest.approx(300, abs=5)
        os.close(descriptor)
        assert (await follower.run.progress()).state == "training", "the lock is seldom looked at"
        follower.clock.now += 11
        assert (await follower.run.progress()).state == "stopped"
        follower.score(2_000, 2.0)
        assert (await follower.run.progress()).state == "training", "it was resumed"

    run(check())


def test_a_clock_that_is_set_back_stops_nothing(follower):
    async def check():
        follower.save(1_000, 1)
        follower.score(1_000, 1.0)
        path = follower.save(2_000, 2)
        good = (path / "weights.safetensors").read_bytes()
        flip_a_byte(path / "weights.safetensors")
        await follower.run.look()
        assert (await follower.run.progress()).state == "training"
        follower.clock.set_back = 86_400
        (path / "weights.safetensors").write_bytes(good)
        follower.score(2_000, 2.0)
        follower.clock.now += 31
        await follower.run.look()
        told = await follower.run.progress()
        assert (follower.served(), told.trouble) == (2_000, None)
        assert told.figures.step == 2_000
        assert told.state == "stopped", "its files come from the future, so only its lock tells"
        assert told.quiet_seconds == 0

    run(check())


def test_the_lock_of_a_run_that_writes_is_left_alone(follower, monkeypatch):
    """Whoever looks at a lock holds it for a moment, and a resume at that moment would fail."""
    monkeypatch.setattr(following, "process_in", lambda folder: pytest.fail("it was looked at"))
    follower.score(1_000, 1.0)
    assert run(follower.run.progress()).state == "training"


def test_a_run_with_an_outcome_has_ended(follower):
    follower.save(1_000, 1)
    (follower.folder / "result.json").write_text("{}")
    age(follower.folder, 300)
    assert run(follower.run.progress()).state == "ended"
    (follower.folder / "result.json").unlink()  # as a longer run does when it goes on
    os.utime(follower.folder / "checkpoints")
    assert run(follower.run.progress()).state == "training"


def test_the_length_is_that_of_the_runs_record(follower):
    follower.folder.mkdir()
    assert run(follower.run.progress()).length is None
    record = WRITTEN / "interrupted" / "run.json"
    shutil.copy(record, follower.folder)
    wanted = json.loads(record.read_text())["train"]["total_timesteps"]
    assert run(follower.run.progress()).length == wanted
    (follower.folder / "run.json").write_text("{}")
    assert run(follower.run.progress()).length is None, "an altered record costs only the length"


def test_a_run_of_an_older_rlarcade_is_told(follower):
    """With a real record: the finished one of version 0.1.0, whose outcome has its mean score."""
    shutil.copytree(WRITTEN / "run", follower.folder)
    told = run(follower.run.progress())
    lines = (WRITTEN / "run" / "metrics.jsonl").read_text().splitlines()
    figures = [json.loads(line) for line in lines]
    scores = [(f["step"], f["rollout/ep_rew_mean"]) for f in figures if "rollout/ep_rew_mean" in f]
    assert told.state == "ended"
    assert list(told.figures.curve) == scores
    assert told.figures.step == max(f["step"] for f in figures)


def test_how_old_a_checkpoint_is_follows_from_when_it_was_saved(follower):
    async def check():
        follower.save(1_000, 1)
        await follower.run.look()
        follower.clock.now += 75
        told = await follower.run.progress()
        assert follower.run.age(told.playing) == pytest.approx(75, abs=5)

    run(check())


# Over HTTP


def test_the_route_tells_of_the_run(follower):
    online = Online(follower.service, None, None, None, follower.run)
    with TestClient(make_app(online)) as client:
        told = client.get("/v1/run").json()
        assert (told["state"], told["game"], told["playing"]) == ("waiting", None, None)
        follower.save(1_000, 1)
        follower.score(1_000, 10.0)
        until(lambda: client.get("/v1/run").json()["playing"])
        follower.clock.now += 6
        told = client.get("/v1/run").json()
        assert told["folder"] == str(follower.folder)
        assert (told["state"], told["game"], told["step"]) == ("training", "pong", 1_000)
        assert (told["playing"]["version"], told["playing"]["steps"]) == (1_000, 1_000)
        assert told["curve"] == [[1_000, 10.0]]
        assert (told["steps_a_second"], told["loss"], told["trouble"]) == (250.0, None, None)
        deployments = client.get("/v1/deployments").json()
        assert (deployments["run"], deployments["registry"]) == (str(follower.folder), None)
        begun = client.post("/v1/sessions", json={"game": "Pong"}).json()
        assert begun["role"] == "champion"


def test_a_server_without_a_run_says_how_to_follow_one():
    with TestClient(make_app(Online(Service(LocalEngine()), None, None, None))) as client:
        answer = client.get("/v1/run")
        assert answer.status_code == 404
        assert "Start it with `serve --run FOLDER`" in answer.json()["error"]
        assert client.get("/v1/deployments").json()["run"] is None


# The command


def test_a_file_or_a_registry_beside_is_refused(command, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = command("serve", "--port", 0, "--run", tmp_path / "file")
    assert code == 2
    assert f"--run {tmp_path / 'file'} is not a folder. Name the folder of a run" in err
    code, _, err = command("serve", "--port", 0, "--run", tmp_path, "--registry", tmp_path / "r")
    assert code == 2
    assert "--run serves the checkpoints of a run, and --registry the champions" in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other priorities")
def test_a_server_that_follows_a_run_gives_way_with_all_its_threads():
    """In a process of its own, since a lowered priority cannot be raised again."""
    done = subprocess.run(
        [sys.executable, "-c", GIVES_WAY], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == [[os.SCHED_IDLE, 19]] * 3


GIVES_WAY = """
import json, os, threading
from rlarcade.serving.following import give_way
go, found = threading.Event(), []
def priority():
    go.wait()
    me = threading.get_native_id()
    found.append([os.sched_getscheduler(me), os.getpriority(os.PRIO_PROCESS, me)])
before = threading.Thread(target=priority)
before.start()
give_way()
after = threading.Thread(target=priority)
after.start()
go.set()
before.join(), after.join(), priority()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_server_process_follows_a_run_from_before_its_beginning(tmp_path):
    import urllib.request

    from serving_process import serving

    folder = tmp_path / "run"

    def told(server):
        with urllib.request.urlopen(f"{server.url}/v1/run") as answer:
            return json.load(answer)

    with serving(tmp_path, "--run", str(folder)) as server:
        assert "the run has no checkpoint yet" in server.log.read_text()
        assert told(server)["state"] == "waiting"
        for steps, agent in ((2_000, EARLY), (40_000, LATE)):
            path = checkpoint_path(folder, steps)
            shutil.copytree(agent, path.with_name(".copying"))
            path.with_name(".copying").rename(path)
            until(lambda steps=steps: (told(server)["playing"] or {}).get("steps") == steps, 600)
        assert os.getpriority(os.PRIO_PROCESS, server.process.pid) == 19
        assert server.end() == 0
