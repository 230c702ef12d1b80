"""A cluster of this machine is this user's alone, and whatever is wrong with one is told."""

import os
import subprocess
import sys

import psutil
import pytest
import torch
from registry_helpers import EARLY

from rlarcade.checkpoint import load_checkpoint, packed_checkpoint, unpacked_checkpoint
from rlarcade.cluster.nodes import check_node, facts_of_this_process
from rlarcade.cluster.packing import PickledPlayer, packed_player
from rlarcade.config import TrainConfig
from rlarcade.errors import CheckpointError, ConfigError
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing.players import AgentPlayer
from rlarcade.playing.search import SearchPlayer

VERBS = {
    "evaluate": (EARLY, "--episodes", "1"),
    "compare": (EARLY, "random"),
    "promote": ("promote", "1"),
    "serve": (),
}


# Flags


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
@pytest.mark.parametrize("flag", ["--address 127.0.0.1:6379", "--workers 2"])
def test_flags_of_a_cluster_need_its_engine(command, verb, flag):
    code, _, told = command(verb, *VERBS[verb], *flag.split())
    assert code == 2
    assert f"{flag.split()[0]} is for games on a cluster. Add --engine ray" in told


def test_serve_takes_an_address_with_ray_only(command):
    code, _, told = command("serve", "--address", "127.0.0.1:6379")
    assert code == 2
    assert "--address is that of a Ray cluster. Add --engine ray" in told


@pytest.mark.parametrize(
    "address", ["", "head", "head:", ":6379", "head:0", "head:65536", "ray://head:10001"]
)
def test_an_address_of_another_form_is_told(command, address):
    code, _, told = command("evaluate", *VERBS["evaluate"], "--engine", "ray", "--address", address)
    assert code == 2
    assert "--address is HOST:PORT" in told


@pytest.mark.parametrize("workers", ["0", "-1", "100001"])
def test_a_number_of_workers_out_of_range_is_told(command, workers):
    words = (*VERBS["evaluate"], "--engine", "ray", "--workers", workers)
    code, _, told = command("evaluate", *words)
    assert code == 2
    assert "workers" in told


@pytest.mark.parametrize("verb", ["evaluate", "compare", "serve"])
def test_without_ray_the_extra_is_named(command, verb, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    port = ("--port", "0") if verb == "serve" else ()
    code, _, told = command(verb, *VERBS[verb], "--engine", "ray", *port)
    assert code == 2
    assert "the extra `ray`" in told


# What is sent


@pytest.mark.parametrize("part", ["manifest", "weights"])
def test_a_checkpoint_that_arrives_damaged_is_refused(part):
    package = packed_checkpoint(load_checkpoint(EARLY))
    data = bytearray(getattr(package, part))
    data[len(data) // 2] ^= 1
    with pytest.raises(CheckpointError, match="arrived damaged|says"):
        unpacked_checkpoint(package._replace(**{part: bytes(data[:-1])}), EARLY)


def test_a_player_arrives_with_its_name_version_and_values():
    player = AgentPlayer(DQNAgent.load(EARLY), name="version 7")
    there = packed_player(player).unpacked()
    assert (there.name, there.version, there.game) == ("version 7", player.version, player.game)
    assert there.protocol == player.protocol


def test_an_agent_on_a_gpu_is_not_sent():
    agent = DQNAgent.load(EARLY)
    agent.device = torch.device("cuda:0")
    with pytest.raises(ConfigError, match="is on cuda:0, and games on a cluster are played on CPU"):
        packed_player(AgentPlayer(agent))
    with pytest.raises(ConfigError, match="is on cuda:0, and games on a cluster are played on CPU"):
        packed_player(SearchPlayer(agent))


def test_an_agent_with_a_torso_of_its_own_is_told_how_to_play_there():
    torso = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 84 * 84, 8))

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torso

        def forward(self, observations):
            return self.inner(observations.float() / 255)

    agent = DQNAgent(TrainConfig(game="Pong"), num_actions=6, torso=Scaled())
    packed = packed_player(AgentPlayer(agent, name="own"))
    with pytest.raises(ConfigError, match="own cannot be sent to a cluster: .*as module:factory"):
        packed.unpacked()


def test_a_policy_that_cannot_be_made_there_is_told():
    packed = PickledPlayer(b"no pickle", "mine")
    with pytest.raises(ConfigError, match="mine cannot be made on a node of the cluster"):
        packed.unpacked()


def test_nodes_with_the_same_versions_are_taken_and_others_are_told():
    here = facts_of_this_process()
    assert check_node(here)
    assert {"Python", "rlarcade", "torch", "numpy", "ale-py", "source"} <= here.keys()
    with pytest.raises(ConfigError, match=r"has Python 3\.\d+\.\d+ instead of 2\.7"):
        check_node(dict(here) | {"Python": "2.7"})


# A real cluster

LISTENING = """
import os, psutil
from rlarcade.cluster.connection import RayCluster
import rlarcade.cluster.connection
with RayCluster(num_cpus=1) as cluster:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {
        one.laddr.ip.removeprefix("::ffff:")
        for process in family for one in process.net_connections()
        if one.status == psutil.CONN_LISTEN
    }
    print(sorted(listening))
    print(cluster.cpus(), len(family) > 3)
    print(cluster.ray.get_runtime_context().gcs_address)
    where = os.environ["RAY_AUTH_TOKEN_PATH"]
    print(oct(os.stat(os.path.dirname(where)).st_mode & 0o777), os.environ["RAY_AUTH_MODE"])
    names = ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    print([os.environ[name] for name in names])
    input()
print(os.path.exists(where))
"""

STRANGER = """
import sys
from rlarcade.cluster.connection import RayCluster
RayCluster(sys.argv[1])
"""


@pytest.mark.slow
def test_a_cluster_of_this_machine_is_this_users_alone(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", LISTENING],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        lines = [owner.stdout.readline().strip() for _ in range(5)]
        assert lines[0] == "['127.0.0.1']"
        assert lines[1] == "1 True"
        assert lines[3] == "0o700 token"
        assert lines[4] == "['0', '0']"
        (tmp_path / "token").write_text("another" * 8)
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, lines[2]],
            env=environment
            | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert stranger.returncode != 0
        assert "no Ray cluster can be used at" in stranger.stderr
        left = psutil.Process(owner.pid).children(recursive=True)
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == "True\n"
    assert psutil.wait_procs(left, timeout=30)[1] == []
    assert not (tmp_path / ".ray").exists()


def refused(command, address):
    code, _, told = command("evaluate", *VERBS["evaluate"], "--engine", "ray", "--address", address)
    assert code == 2
    assert f"no Ray cluster can be used at {address}: " in told
    assert len(told.splitlines()) == 1
    assert len(told) < 500
    return told


@pytest.fixture
def unconnected(monkeypatch):
    """Ray, as if this process had no connection yet."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return ray


@pytest.mark.slow
@pytest.mark.usefixtures("unconnected")
def test_an_address_where_nobody_listens_is_told_in_one_line(command):
    assert "Connection refused" in refused(command, "127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Could not find any running Ray instance."),
        RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.0\n" + "a " * 99),
    ],
)
def test_what_ray_says_of_a_cluster_is_told_in_one_line(command, monkeypatch, unconnected, error):
    def init(**_):
        raise error

    monkeypatch.setattr(unconnected, "init", init)
    assert str(error)[:30] in refused(command, "auto")
