"""Starts the server: what it serves, where it listens, and how it ends."""

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from rlarcade.errors import ConfigError, ResourceError
from rlarcade.learning.policy import DQNAgent
from rlarcade.registry.registry import Registry
from rlarcade.registry.store import is_registry
from rlarcade.serving.app import make_app
from rlarcade.serving.assignment import Plan, Variant
from rlarcade.serving.controller import Controller
from rlarcade.serving.driver import Driver
from rlarcade.serving.engine import Engine, LocalEngine
from rlarcade.serving.following import FollowedRun, give_way
from rlarcade.serving.http_protocol import PatientProtocol
from rlarcade.serving.requests import Online
from rlarcade.serving.rulings import DECISION_SECONDS
from rlarcade.serving.service import Deployment, Service
from rlarcade.serving.stock import Loader, packaged
from rlarcade.serving.tokens import TOKEN
from rlarcade.serving.worker_engine import WorkerEngine
from rlarcade.serving.worker_process import WorkerProcess
from rlarcade.serving.workers import StartWorker
from rlarcade.text import shown_path

OnReady = Callable[[str, list[str]], None]
"""Called with the server's address and the games online."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DESCRIPTORS = 65_536
_GRACE_SECONDS = 5
_BUSY_SECONDS = 2.0  # to wait for another writer; new games of a rollout wait meanwhile
_BACKLOG = 2048  # connections that wait to be accepted
_SEND_BUFFER = 65_536  # bytes that wait for a slow client; the system's own would take a whole game
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LARGEST_MESSAGE = 1_000_000  # bytes of a WebSocket message; a screen has 100,800


def serve(
    registry: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    replicas: int | None = None,
    loader: Loader = DQNAgent.load,
    engine: str = "local",
    address: str | None = None,
    run: Path | None = None,
    on_ready: OnReady | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        registry: the registry's folder or address; if there is none, the agents that come with
            rlarcade are served.
        host: address to listen on.
        port: port to listen on; 0: any free one.
        token: the operator's token; None: operators are refused.
        replicas: workers for forward passes; None: they run in this process.
        loader: makes agents of checkpoints, in this process.
        engine: `ray`: the workers are actors of a Ray cluster; otherwise processes of this machine.
            `/v1/deployments` calls this process so, if forward passes run in it.
        address: address of the Ray cluster; None: one is started on this machine.
        run: folder of a run that trains: its newest checkpoint is served instead of a registry, at
            the lowest priority. It need not exist yet.
        on_ready: called with the server's address and the games online.

    Raises:
        ConfigError: the server would listen beyond this machine without a token, `run` is not a
            folder, or the Ray cluster cannot be used.
        RegistryError: the registry cannot be used.
        ResourceError: the address or the port cannot be used.
    """
    if host not in LOOPBACK and token is None:
        raise ConfigError(
            f"--host {host} lets other machines in, and anybody there could give orders. Set a "
            f"token first: {TOKEN} or --token-file."
        )
    if run is not None:
        _check_run(run)
    _raise_limits()
    with ExitStack() as stack:
        bound = stack.enter_context(_bound(host, port))
        driver = None
        if run is None and is_registry(registry):
            opened = stack.enter_context(
                Registry.open(registry, create=False, busy_seconds=_BUSY_SECONDS)
            )
            driver = stack.enter_context(closing(Driver(opened)))
        chosen = _engine(stack, engine, replicas, address)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_served(driver, run, bound, host, token, chosen, loader, on_ready))


async def _served(
    driver: Driver | None,
    run: Path | None,
    bound: socket.socket,
    host: str,
    token: str | None,
    engine: Engine,
    loader: Loader,
    on_ready: OnReady | None,
) -> None:
    service = Service(engine)
    controller = followed = None
    if run is not None:
        followed = FollowedRun(service, run, loader)
        await followed.look()
    elif driver is None:
        await _serve_packaged(service, loader)
    else:
        controller = Controller(service, driver.registry, loader, driver.other)
        await controller.look()
    name = None if driver is None else driver.registry.name
    online = Online(service, controller, token, name, followed)
    config = uvicorn.Config(
        make_app(online, LOOPBACK if host in LOOPBACK else None),
        http=PatientProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=_LARGEST_MESSAGE,
        ws_per_message_deflate=False,  # costs a third of the steps a second
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )

    # A collection of everything that torch and rlarcade have loaded would stop all games for 0.2 s.
    gc.collect()
    gc.freeze()

    def listening() -> None:
        if followed is not None:
            give_way()  # not before: beside trainings on all cores the start would take minutes
        if on_ready is not None:
            shown = f"[{host}]" if ":" in host else host
            url = f"http://{shown}:{bound.getsockname()[1]}"
            on_ready(url, sorted(service.deployments))

    await _Server(config, listening).serve([bound])


def _engine(stack: ExitStack, name: str, replicas: int | None, address: str | None) -> Engine:
    if replicas is None:
        return LocalEngine(name)
    start: StartWorker = WorkerProcess.start
    if name == "ray":
        from rlarcade.cluster.connection import RayCluster
        from rlarcade.serving.ray_worker import RayWorker

        # A rolling rollout starts a worker before it ends the one that it replaces.
        needed = replicas + 1
        cluster = stack.enter_context(RayCluster(address, num_cpus=needed))
        if cluster.cpus() < needed:
            raise ConfigError(
                f"{replicas} replicas need {needed} CPUs, one of them for a rollout, and the "
                f"cluster has {cluster.cpus()}. Lower --replicas, or add nodes."
            )
        start = partial(RayWorker.start, cluster)
    return WorkerEngine(replicas, start, hang_seconds=DECISION_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it listens, and ends by a signal without an error."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        self._listening()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Makes SIGINT and SIGTERM end the server. uvicorn's own would raise them once more."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound before anything is loaded, so that errors come early."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"--host {host} --port {port} cannot be used: {error}. Choose another port; 0 takes "
            "any free one."
        ) from error
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # connections inherit it
    return made


async def _serve_packaged(service: Service, loader: Loader) -> None:
    for stocked in await asyncio.to_thread(packaged, loader):
        variant = Variant(role="champion", version=stocked.number, share=1.0)
        await service.engine.load(
            stocked.number, stocked.agent, at_once=True, checkpoint=stocked.checkpoint
        )
        service.deployments[stocked.game] = Deployment(
            stocked.game, Plan(variants=(variant,), salt="champion"), 0, {stocked.number: stocked}
        )


def _check_run(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise ConfigError(
            f"--run {shown_path(run)} is not a folder. Name the folder of a run (train --run-dir)."
        )


def _raise_limits() -> None:
    """Lets the process have as many sockets as the system allows; each session needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
