"""How the driver watches its actors, with actors that are objects of this process."""

import json
import os
import pickle
import tempfile
import threading
import time
from types import SimpleNamespace

import pytest

from rlarcade.console import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from rlarcade.errors import ConfigError
from rlarcade.runs.folder import RunFolder
from rlarcade.sweeps import on_ray
from rlarcade.sweeps.file import read_sweep
from rlarcade.sweeps.on_ray import RayEngine

TINY = """
threads = 1
[settings]
game = "SpaceInvaders"
preset = "quick"
device = "cpu"
num_envs = 2
total_timesteps = {steps}
save_interval = 200
learning_starts = 300
buffer_size = 600
batch_size = 16
conv_channels = [4, 4, 4]
hidden_units = 16
eval_episodes = 1
"""


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class ActorDiedError(RayError):
    pass


class Ray:
    """As much of Ray as is used; what travels is pickled, as between processes."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self):
        self.ray = self
        self.actors = []
        self.asked = []
        self.has_room = threading.Event()
        self.has_room.set()

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def start_actor(self, cls, *words, cpus, gpus):
        actor = _Actor(self, cls(*pickle.loads(pickle.dumps(words))))
        self.actors.append(actor)
        return actor

    def wait(self, calls, timeout):
        if not self.has_room.wait(min(timeout, 0.02)):
            return [], calls
        return calls, []

    def get(self, call):
        actor, name, words, more = call
        self.asked.append(name)
        if actor.dead:
            raise ActorDiedError("it was killed")
        try:
            words, more = pickle.loads(pickle.dumps((words, more)))
            return pickle.loads(pickle.dumps(getattr(actor.trainer, name)(*words, **more)))
        except Exception as error:
            raise RayTaskError(error) from error

    def end_actor(self, actor):
        actor.die()


class _Actor:
    def __init__(self, ray, trainer):
        self.ray, self.trainer, self.dead = ray, trainer, False

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *words, **more: (self, name, words, more))

    def die(self):
        """Ends the process: the system closes its descriptors, so the training notices."""
        if not self.dead:
            self.dead = True
            os.close(self.trainer._held)
            if hasattr(self.trainer, "_mark"):
                os.close(self.trainer._mark)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(on_ray, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(on_ray, "_FETCH_SECONDS", 0.1)
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))


@pytest.fixture
def swept(tmp_path):
    """An engine with one run."""
    engines = []

    def make(steps=600, *, fetched=False):
        (tmp_path / "tiny.toml").write_text(TINY.format(steps=steps))
        _, (run,) = read_sweep(tmp_path / "tiny.toml", tmp_path / "runs", jobs=None)
        engine = RayEngine(Ray(), [run], threads=1, jobs=None, fetched=fetched)
        engines.append(engine)
        return engine, run

    yield make
    for engine in engines:
        engine.close()


def ended(job, seconds=100):
    end = time.monotonic() + seconds
    while (code := job.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return code


def wait_until(found, seconds=100):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def states(run):
    return sorted(path.name for path in run.folder.glob("state/step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("fetched", [False, True])
def test_a_run_ends_in_its_folder_wherever_it_trains(swept, tmp_path, fetched):
    engine, run = swept(fetched=fetched)
    job = engine.start(run)
    assert ended(job) == EXIT_OK
    assert job.where
    assert run.result()["steps"] == 600
    assert run.result()["checkpoint"] == str(run.folder / "checkpoints" / "step-000000000600")
    assert "600 steps = 2,400 frames" in run.beside(".log").read_text()
    assert ("fetch" in engine.ray.asked) is fetched
    assert list((tmp_path / "disk").iterdir()) == []
    assert engine.ray.actors[0].dead
    RunFolder(run.folder).close()  # its lock is free


@pytest.mark.slow
@pytest.mark.parametrize("fetched", [False, True])
def test_a_lost_actor_is_told_and_the_run_goes_on_from_its_last_save(swept, fetched):
    engine, run = swept(steps=20_000, fetched=fetched)
    job = engine.start(run)
    wait_until(lambda: len(states(run)) > 1)
    engine.ray.actors[0].die()
    assert ended(job) == EXIT_ERROR
    assert job.lost == "ActorDiedError"
    child = engine.ray.actors[0].trainer._process
    assert child.wait(timeout=60) == 130, "the training that is left over saves and ends"
    saved = states(run)
    second = engine.start(run)
    wait_until(lambda: states(run)[-1] > saved[-1])
    second.stop()
    assert ended(second) == EXIT_INTERRUPTED
    assert second.lost is None
    log = run.beside(".log").read_text()
    assert f"resumed at step {int(saved[-1][5:])}" in log
    assert "the same command resumes from there" in log


@pytest.mark.slow
def test_while_a_run_is_fetched_nobody_else_can_work_on_it(swept):
    engine, run = swept(steps=20_000, fetched=True)
    first = engine.start(run)
    wait_until(lambda: states(run))
    second = engine.start(run)
    assert ended(second) == EXIT_USAGE
    assert f"is in use by process {os.getpid()}" in run.beside(".log").read_text()
    first.stop()
    assert ended(first) == EXIT_INTERRUPTED


@pytest.mark.slow
def test_a_second_process_on_shared_storage_is_kept_out_by_the_lock(swept):
    engine, run = swept(steps=20_000)
    first = engine.start(run)
    wait_until(lambda: states(run))
    second = engine.start(run)
    assert ended(second) == EXIT_USAGE
    first.stop()
    assert ended(first) == EXIT_INTERRUPTED


def test_a_stop_while_no_worker_is_free_begins_nothing(swept):
    engine, run = swept()
    engine.ray.has_room.clear()
    job = engine.start(run)
    time.sleep(0.1)
    assert job.poll() is None
    job.stop()
    assert ended(job, 5) == EXIT_INTERRUPTED
    assert "start" not in engine.ray.asked
    assert not run.folder.exists()


def test_a_node_with_other_versions_is_told(swept, monkeypatch):
    here = dict(on_ray.facts_of_this_process()) | {"torch": "1.0"}
    monkeypatch.setattr(on_ray, "facts_of_this_process", lambda: here)
    engine, run = swept()
    with pytest.raises(ConfigError, match=r"has torch \S+ instead of 1\.0"):
        ended(engine.start(run))


def test_a_node_that_cannot_write_is_told(swept, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    engine, run = swept()
    with pytest.raises(
        ConfigError, match=r"cannot be trained on a node .*No such file.*disk space"
    ):
        ended(engine.start(run))


@pytest.mark.slow
def test_a_full_disk_of_the_driver_is_its_own_error(swept, monkeypatch):
    engine, run = swept(steps=20_000, fetched=True)

    def full(*_):
        raise OSError(28, "No space left on device", "runs")

    monkeypatch.setattr(on_ray.mirror.Mirror, "update", full)
    job = engine.start(run)
    with pytest.raises(OSError, match="No space left"):
        ended(job)
    child = engine.ray.actors[0].trainer._process
    assert child.wait(timeout=60) == 130


@pytest.mark.slow
def test_a_preset_file_travels_with_what_it_is_based_on(swept, tmp_path):
    (tmp_path / "base.toml").write_text('preset = "quick"\ngamma = 0.5\n')
    (tmp_path / "mine.toml").write_text('preset = "base.toml"\nhidden_units = 8\n')
    engine, run = swept()
    text = (tmp_path / "tiny.toml").read_text().replace("hidden_units = 16\n", "")
    mine = text.replace('preset = "quick"', f'preset = "{tmp_path}/mine.toml"')
    (tmp_path / "tiny.toml").write_text(mine)
    _, (run,) = read_sweep(tmp_path / "tiny.toml", tmp_path / "runs", jobs=None)
    assert ended(engine.start(run)) == EXIT_OK
    record = json.loads((run.folder / "run.json").read_text())
    assert record["preset"] == "mine"
    assert record["train"]["hidden_units"] == 8
    assert record["train"]["gamma"] == 0.5
