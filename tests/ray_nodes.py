"""A Ray cluster of several nodes on this machine, one for each process of the tests."""

import contextlib
import os
import sys

import psutil
import pytest

CPUS = 4  # of each of two nodes, for actors that take turns on the cores that there are


class Nodes:
    """A head without CPUs, which the tests are connected to, and nodes that may be killed."""

    def __init__(self):
        # Here, because most tests of a folder need no cluster.
        from rlarcade.cluster.connection import import_ray, protect

        protect()
        import_ray()
        from ray.cluster_utils import Cluster

        self._settings = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, **self._settings}
        )
        self.nodes = []
        for _ in range(2):
            self.add()

    @property
    def address(self):
        return self._cluster.address

    def add(self):
        with pytest.MonkeyPatch.context() as patched:
            # so that workers find what tests import
            patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            # For every process that connects, Ray would start as many workers as there are CPUs:
            # half a minute of two cores.
            for setting in ("prestart_worker_first_driver", "enable_worker_prestart"):
                patched.setenv(f"RAY_{setting}", "0")
            node = self._cluster.add_node(wait=False, num_cpus=CPUS, **self._settings)
        self._cluster._wait_for_node(node, timeout=180)  # Ray itself would wait for 30 s
        self.nodes.append(node)

    def processes(self, node):
        """All processes of a node: the raylet, its agents and its workers."""
        found = []
        for infos in node.all_processes.values():
            for info in infos:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(info.process.pid)
                    found += [process, *process.children(recursive=True)]
        return found

    def kill(self, node):
        """Kills a node, as when its power fails."""
        for process in self.processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes.remove(node)

    def workers(self, name):
        """The processes of actors of a class, over all nodes."""
        found = []
        for node in self.nodes:
            for process in self.processes(node):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if f"ray::{name}" in " ".join(process.cmdline()):
                        found.append(process)
        return sorted(set(found), key=lambda process: process.pid)

    def close(self):
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def ray_nodes():
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture(scope="session")
def ray_cluster(ray_nodes):
    """A connection of this process."""
    from rlarcade.cluster.connection import RayCluster

    with RayCluster(ray_nodes.address) as cluster:
        yield cluster
