"""Sweeps on a Ray cluster: the runs end with the same weights, whatever is killed meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from warm_python import programs

from rlarcade.errors import ConfigError
from rlarcade.runs.metrics_file import read_metrics
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
save_interval = {interval}
learning_starts = 300
buffer_size = 600
batch_size = 16
conv_channels = [4, 4, 4]
hidden_units = 16
eval_episodes = 1
[grid]
seed = {seeds}
"""


def written(folder, seeds=(0, 1), steps=600, interval=200):
    path = folder / "tiny.toml"
    path.write_text(TINY.format(steps=steps, interval=interval, seeds=list(seeds)))
    return path


def interrupted(folder):
    """A sweep that lasts long enough to be seen, and stopped, between two saves of both runs."""
    return written(folder, steps=8_000, interval=500)


def words(path, folder, *more):
    return [sys.executable, "-m", "rlarcade.sweep", path, "--dir", folder, *more]


def on(nodes, *more):
    return ["--engine", "ray", "--address", nodes.address, *more]


def begun(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def swept(command):
    command = [programs() / "python", *command[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def digests(folder):
    """The weights at the end of every run."""
    found = {}
    for result in folder.glob("*/result.json"):
        run = result.parent
        (last,) = sorted(run.glob("checkpoints/step-*/manifest.json"))[-1:]
        found[run.name] = json.loads(last.read_text())["weights_sha256"]
    return found


def figures(folder):
    """The scores of every run's last evaluation, and its figures that depend on no clock."""
    found = {}
    for result in folder.glob("*/result.json"):
        outcome = json.loads(result.read_text())
        lines = read_metrics(result.parent)
        found[result.parent.name] = (
            [game["score"] for game in outcome["evaluation"]["episodes"]],
            [line for line in lines if "charts/episodic_return" in line],
        )
    return found


def wait_until(found, seconds=120, process=None):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)


def states(run):
    return sorted(int(path.name[5:]) for path in run.glob("state/step-*"))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same sweep on this machine: two seeds."""
    folder = tmp_path_factory.mktemp("local")
    path = interrupted(folder)
    done = swept(words(path, folder / "runs", "--jobs", "2"))
    assert done.returncode == 0, done.stdout + done.stderr
    return digests(folder / "runs"), figures(folder / "runs")


# What can be told before anything trains


@pytest.mark.parametrize("flag", [["--address", "127.0.0.1:6379"], ["--fetch"]])
def test_flags_of_a_cluster_need_its_engine(command, tmp_path, flag):
    code, _, told = command("sweep", written(tmp_path), *flag)
    assert code == 2
    assert f"{flag[0]} is for runs on a Ray cluster. Add --engine ray" in told


def test_without_ray_the_extra_is_named(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    flags = ("--engine", "ray", "--dir", tmp_path / "runs")
    code, _, told = command("sweep", written(tmp_path), *flags)
    assert code == 2
    assert "--engine ray needs the extra `ray`" in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told_in_one_line(run_verb, tmp_path):
    flags = ("--engine", "ray", "--address", "127.0.0.1:1", "--dir", tmp_path / "runs")
    done = run_verb("sweep", written(tmp_path), *flags)
    assert done.returncode == 2
    assert "no Ray cluster can be used at 127.0.0.1:1" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


class Cluster:
    """Stands in for a cluster with such nodes."""

    def __init__(self, *nodes):
        self.ray = self
        self.of_nodes = nodes

    def nodes(self):
        return [{"Alive": alive, "Resources": resources} for alive, resources in self.of_nodes]


def engine_on(tmp_path, *nodes, device="cpu", threads=2, jobs=None):
    path = written(tmp_path)
    path.write_text(path.read_text().replace('device = "cpu"', f'device = "{device}"'))
    _, runs = read_sweep(path, tmp_path / "runs", jobs=None)
    return RayEngine(Cluster(*nodes), runs, threads=threads, jobs=jobs, fetched=False), runs


@pytest.mark.parametrize(
    ("device", "nodes", "slots"),
    [
        ("cpu", [(True, {"CPU": 4.0}), (True, {"CPU": 5.0}), (True, {"CPU": 1.0})], 4),
        ("cpu", [(True, {"CPU": 4.0}), (False, {"CPU": 4.0}), (True, {})], 2),
        ("auto", [(True, {"CPU": 8.0}), (True, {"CPU": 8.0, "GPU": 1.0})], 1),
        ("auto", [(True, {"CPU": 8.0})], 4),
        ("cuda", [(True, {"CPU": 8.0, "GPU": 8.0}), (True, {"CPU": 8.0, "GPU": 1.0})], 5),
    ],
)
def test_a_slot_is_the_threads_of_a_run_on_one_node_and_a_gpu(tmp_path, device, nodes, slots):
    engine, runs = engine_on(tmp_path, *nodes, device=device)
    assert engine.has_room(slots - 1)
    assert not engine.has_room(slots)
    has_gpu = device == "cuda" or (device == "auto" and slots == 1)
    assert engine.gpus(runs[0]) == int(has_gpu)
    engine.close()
    fewer, _ = engine_on(tmp_path, *nodes, device=device, jobs=1)
    assert "1 at a time on a Ray cluster" in fewer.described()
    assert not fewer.has_room(1)
    fewer.close()


@pytest.mark.parametrize(
    ("device", "nodes", "told"),
    [
        ("cpu", [(True, {"CPU": 3.0}), (True, {"CPU": 2.0})], "needs 4 CPUs .* at most 3 CPUs"),
        ("cuda", [(True, {"CPU": 9.0})], "needs 4 CPUs and 1 GPU .* at most 9 CPUs and 0 GPUs"),
        ("cpu", [], "needs 4 CPUs .* at most 0 CPUs"),
    ],
)
def test_a_cluster_without_a_slot_is_told(tmp_path, device, nodes, told):
    with pytest.raises(ConfigError, match=f"{told}. Lower threads"):
        engine_on(tmp_path, *nodes, device=device, threads=4)


def test_a_cluster_that_has_lost_its_slots_is_waited_for_and_told_once(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(on_ray, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(on_ray, "_PATIENCE", 0)
    engine, _ = engine_on(tmp_path, (True, {"CPU": 4.0}))
    cluster = engine.ray
    cluster.of_nodes = ()
    time.sleep(0.01)
    assert not engine.has_room(0)
    time.sleep(0.01)
    assert not engine.has_room(0)
    assert capfd.readouterr().err.count("Waiting for one.") == 1
    cluster.of_nodes = ((True, {"CPU": 2.0}),)
    time.sleep(0.01)
    assert engine.has_room(0)
    engine.close()


# Results


@pytest.mark.first
@pytest.mark.slow
def test_weights_and_scores_are_those_of_one_machine(tmp_path, ray_nodes, local):
    path, folder = interrupted(tmp_path), tmp_path / "runs"
    files = ["--json", tmp_path / "out.json", "--report", tmp_path / "out.html"]
    done = swept(words(path, folder, *on(ray_nodes, "--fetch", *files)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 at a time on a Ray cluster" in done.stdout
    assert (digests(folder), figures(folder)) == local
    names = {f"space_invaders-seed{seed}{end}" for seed in (0, 1) for end in ("", ".log")}
    names |= {f"space_invaders-seed{seed}.settings.json" for seed in (0, 1)}
    assert {path.name for path in folder.iterdir()} == names
    for run in json.loads((tmp_path / "out.json").read_text())["runs"]:
        assert run["exit"] == 0
        assert run["result"]["checkpoint"].startswith(str(folder / run["label"]))
        assert os.path.exists(run["result"]["checkpoint"])  # noqa: PTH110
        assert run["curve"][-1][0] == 8_000
        assert "8,000 steps" in (folder / f"{run['label']}.log").read_text()
    assert "2 of 2 runs finished" in (tmp_path / "out.html").read_text()
    again = swept(words(path, folder, *on(ray_nodes)))
    assert "2/2 done" in again.stdout
    assert "started" not in again.stdout


@pytest.mark.slow
@pytest.mark.recorded
def test_a_preset_of_the_users_own_travels(tmp_path, ray_nodes):
    (tmp_path / "mine.toml").write_text('preset = "quick"\nhidden_units = 8\n')
    path = written(tmp_path, seeds=(0,))
    text = path.read_text().replace('preset = "quick"', f'preset = "{tmp_path}/mine.toml"')
    path.write_text(text.replace("hidden_units = 16\n", ""))
    done = swept(words(path, tmp_path / "runs", *on(ray_nodes, "--fetch")))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "runs" / "space_invaders-seed0" / "run.json").read_text())
    assert record["preset"] == "mine"
    assert record["train"]["hidden_units"] == 8


@pytest.mark.slow
def test_a_run_that_fails_there_is_told_with_its_log(tmp_path, ray_nodes):
    path = written(tmp_path, seeds=(0,))
    huge = path.read_text().replace("buffer_size = 600", "buffer_size = 90_000_000_000")
    path.write_text(huge.replace("total_timesteps = 600", "total_timesteps = 90_000_000_000"))
    done = swept(words(path, tmp_path / "runs", *on(ray_nodes, "--fetch")))
    assert done.returncode == 1
    assert "space_invaders-seed0 ended with exit code 2" in done.stdout
    assert "lower --buffer-size" in done.stdout


@pytest.mark.slow
def test_a_node_with_other_versions_ends_the_sweep(
    tmp_path, ray_nodes, ray_cluster, monkeypatch, command
):
    here = dict(on_ray.facts_of_this_process()) | {"torch": "1.0"}
    monkeypatch.setattr(on_ray, "facts_of_this_process", lambda: here)
    code, _, told = command("sweep", written(tmp_path), "--dir", tmp_path / "runs", *on(ray_nodes))
    assert code == 2
    assert re.search(r"node \S+ has torch [\d.+a-z]+ instead of 1\.0", told)
    assert told.count("\n") == 1


# Stops and kills


@pytest.mark.slow
@pytest.mark.recorded
def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_weights(tmp_path, ray_nodes, local):
    path, folder = interrupted(tmp_path), tmp_path / "runs"
    command = words(path, folder, *on(ray_nodes), "--json", tmp_path / "out.json")
    run = folder / "space_invaders-seed1"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        wait_until(lambda: states(run), process=one)
        one.send_signal(signal.SIGINT)
        out, _ = one.communicate(timeout=120)
    assert one.returncode == 130
    assert "the same command resumes from there" in out
    wait_until(lambda: not ray_nodes.workers("NodeTrainer"))
    exits = {run["exit"] for run in json.loads((tmp_path / "out.json").read_text())["runs"]}
    assert exits <= {130, 0}
    stopped = re.findall(r"stopped at step (\d+);", run.with_name(f"{run.name}.log").read_text())
    assert states(run)[-1] == int(stopped[-1]), "it saved where it was"
    done = swept(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed at step" in run.with_name(f"{run.name}.log").read_text()
    assert (digests(folder), figures(folder)) == local


@pytest.mark.slow
@pytest.mark.recorded
def test_a_worker_that_is_killed_loses_no_save_and_its_run_goes_on(tmp_path, ray_nodes, local):
    path, folder = interrupted(tmp_path), tmp_path / "runs"
    command = words(path, folder, *on(ray_nodes, "--fetch"))
    both = [folder / f"space_invaders-seed{seed}" for seed in (0, 1)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        wait_until(lambda: all(map(states, both)), process=one)
        ray_nodes.workers("NodeTrainer")[0].kill()
        out, err = one.communicate(timeout=600)
    assert one.returncode == 0, err
    assert "lost its worker on " in out
    assert "it goes on later" in out
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert "resumed at step" in logs
    assert (digests(folder), figures(folder)) == local


@pytest.mark.slow
@pytest.mark.recorded
def test_a_node_that_dies_loses_no_save_and_its_runs_go_on_elsewhere(tmp_path, ray_nodes, local):
    path, folder = interrupted(tmp_path), tmp_path / "runs"
    command = words(path, folder, *on(ray_nodes, "--fetch"))
    run = folder / "space_invaders-seed0"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        wait_until(lambda: states(run), process=one)
        busy = next(
            node
            for node in ray_nodes.nodes
            if any("ray::NodeTrainer" in " ".join(p.cmdline()) for p in ray_nodes.processes(node))
        )
        ray_nodes.kill(busy)
        out, err = one.communicate(timeout=600)
    ray_nodes.add()
    assert one.returncode == 0, out + err
    assert "lost its worker" in out
    assert (digests(folder), figures(folder)) == local


@pytest.mark.slow
@pytest.mark.recorded
def test_a_driver_that_is_killed_ends_its_runs_and_the_same_command_goes_on(
    tmp_path, ray_nodes, local
):
    path, folder = interrupted(tmp_path), tmp_path / "runs"
    command = words(path, folder, *on(ray_nodes, "--fetch"))
    run = folder / "space_invaders-seed0"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        wait_until(lambda: states(run), process=one)
        trained = [
            child for worker in ray_nodes.workers("NodeTrainer") for child in worker.children()
        ]
        assert trained
        one.kill()
    assert psutil.wait_procs(trained, timeout=60)[1] == []
    wait_until(lambda: not ray_nodes.workers("NodeTrainer"))
    assert not (run / "result.json").exists()
    done = swept(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(folder.glob(".shared-*"))
    assert (digests(folder), figures(folder)) == local
