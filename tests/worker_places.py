"""Where the workers of an engine are: processes of this machine, or actors of a Ray cluster."""

import contextlib
import time
from functools import partial

import psutil
import pytest
from worker_agents import LOADER

from rlarcade.serving.worker_engine import WorkerEngine
from rlarcade.serving.worker_process import WorkerProcess

PLACES = ["processes", pytest.param("ray", marks=pytest.mark.slow)]


class Place:
    """Where the workers of the current test are."""

    name = "processes"
    nodes = cluster = None

    @classmethod
    def choose(cls, request):
        cls.name = getattr(request, "param", "processes")
        if cls.name == "ray":
            cls.nodes = request.getfixturevalue("ray_nodes")
            cls.cluster = request.getfixturevalue("ray_cluster")


def workers():
    """The processes of all workers."""
    if Place.name == "ray":
        return Place.nodes.workers("ServingWorker")
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie's, too
            if "rlarcade.serving.worker" in child.cmdline():
                found.append(child)
    return found


def soon(true, seconds=30):
    """Returns whether something that is asked about `workers` is so.

    On Ray it may take a moment: whoever waits for the end of an actor hears of it before its
    process has gone.
    """
    end = time.monotonic() + (seconds if Place.name == "ray" else 0)
    while not true():
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True


def worker_engine(replicas=2, loader=LOADER, **settings):
    """An engine with workers at the place of the current test."""
    start = WorkerProcess.start
    if Place.name == "ray":
        from rlarcade.serving.ray_worker import RayWorker

        start = partial(RayWorker.start, Place.cluster)
    return WorkerEngine(replicas, partial(start, loader), **settings)
