"""Starts a Ray cluster on this machine, or joins one that is there.

Ray listens on all interfaces, sends usage statistics, and may choose another Python, unless it is
told otherwise. All of that is told here, before Ray is imported. A cluster on this machine listens
on 127.0.0.1 only, and whoever has no token cannot use it.
"""

import atexit
import os
import secrets
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlarcade.errors import ConfigError, RlarcadeError
from rlarcade.foreign import from_extra, own_words
from rlarcade.machine import cores
from rlarcade.text import printable, quoted

_STORE = 256 * 1024**2  # bytes of shared memory; what is sent are checkpoints and whole games
_KNOCK_SECONDS = 10.0
_LONGEST_REASON = 200  # characters; Ray's own errors hold whole traces
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, workers could get another Python
    "RAY_worker_niceness": "0",  # not 15, at which any other process of the machine goes first
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns at every start
}


class RayCluster:
    """A connection to a Ray cluster, until it is closed.

        with RayCluster() as cluster:
            cluster.cpus()

    If this process is connected to a cluster already, that one is used, and it stays connected.

    Attributes:
        address: address of the cluster that was joined; None: it is this machine's own.
    """

    def __init__(self, address: str | None = None, *, num_cpus: int | None = None) -> None:
        """Starts or joins a cluster.

        Args:
            address: HOST:PORT of the cluster's head node, or auto for the cluster of this machine.
                None: starts a cluster on this machine, which ends with this process. Only local
                processes can reach it.
            num_cpus: CPUs that a cluster of this machine may use; None: all.

        Raises:
            ConfigError: Ray is not installed; or no cluster can be reached at the address; or it
                has another version of Ray or Python.
        """
        self.address = None if address is None else _checked(address)
        if self.address is None:
            protect()
        self.ray = import_ray()
        self._kinds: dict[type, Any] = {}
        self._own = not self.ray.is_initialized()
        if not self._own:
            return
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        try:
            if self.address not in (None, "auto"):
                _knock(str(self.address), self.ray.util.get_node_ip_address())
            if self.address is None:
                self.ray.init(
                    address="local",
                    num_cpus=cores() if num_cpus is None else num_cpus,
                    object_store_memory=_STORE,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
            else:
                self.ray.init(address=self.address, **quiet)
        except Exception as error:  # Ray raises errors of many kinds
            self.ray.shutdown()
            raise _not_connected(self.address, error) from error

    def cpus(self) -> int:
        """Returns how many CPUs the cluster has now, whoever uses them."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    def start_actor(
        self, kind: type, *arguments: Any, cpus: int = 1, gpus: int = 0, **options: Any
    ) -> Any:
        """Asks for an actor, and does not wait for it.

        Ray starts no second one if it is lost, and repeats no call: only who asked knows what is
        still to be done.

        Args:
            kind: its class.
            arguments: of its constructor.
            cpus: CPUs of its node that it occupies.
            gpus: GPUs of its node.
            options: further ones of Ray, the same for all actors of the class.
        """
        if kind not in self._kinds:  # else Ray would send the class again, 10 ms each time
            made = self.ray.remote(max_restarts=0, max_task_retries=0, **options)
            self._kinds[kind] = made(kind)
        placed = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        return self._kinds[kind].options(**placed).remote(*arguments)

    def end_actor(self, actor: Any) -> None:
        """Ends an actor at once, if it has not ended."""
        with suppress(Exception):
            self.ray.kill(actor)

    def close(self) -> None:
        """Leaves the cluster. One of this machine's own ends."""
        if self._own and self.ray.is_initialized():
            self.ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def raised_there(error: Any, told: str) -> Exception:
    """Returns what to raise for an error that an actor's code raised.

    Args:
        error: Ray's RayTaskError.
        told: what has failed, if the error is none of rlarcade's own.
    """
    cause: Exception = error.cause
    if isinstance(cause, RlarcadeError):
        return cause
    why = printable(own_words(cause), _LONGEST_REASON).rstrip(".")
    return ConfigError(
        f"{told}: {why}. Is rlarcade installed on every node, and is there disk space?"
    )


def import_ray() -> Any:
    """Imports Ray with the settings of this module.

    Raises:
        ConfigError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with from_extra("ray", "--engine ray needs"):
        import ray
    return ray


def _checked(address: str) -> str:
    host, colon, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 2**16
    if address != "auto" and not (host and colon and is_port and "/" not in host):
        raise ConfigError(
            f"--address is HOST:PORT of the cluster's head node, such as 10.0.0.1:6379, or auto "
            f"for the cluster of this machine, not {quoted(address)}."
        )
    return address


def _knock(address: str, own: str) -> None:
    """Requires that somebody listens at an address. Ray itself would try for minutes.

    Args:
        address: HOST:PORT.
        own: address of this machine for others. Ray takes it in the place of 127.0.0.1, where a
            cluster that `protect` protects does not listen.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    _reach(host, int(port))
    if host in _LOOPBACK:
        try:
            _reach(own, int(port))
        except OSError:
            _stay_on_this_machine()


def _reach(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=_KNOCK_SECONDS):
        pass


def _not_connected(address: str | None, error: Exception) -> ConfigError:
    why = printable(own_words(error), _LONGEST_REASON).rstrip(".")
    if address is None:
        return ConfigError(f"no Ray cluster can be started on this machine: {why}.")
    return ConfigError(
        f"no Ray cluster can be used at {address}: {why}. Start one there with `ray start --head`, "
        "name another --address, or leave it out for a cluster on this machine."
    )


def protect() -> None:
    """Keeps others away from clusters that this process starts: they listen on 127.0.0.1 only.

    Whoever uses such a cluster needs a token: a new one, unless the user has one. Ray would keep it
    in ~/.ray for all clusters. Ray reads the mode when it is imported. If somebody else has
    imported it, Ray turns tokens on by itself.
    """
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    _stay_on_this_machine()
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token_file())


def _stay_on_this_machine() -> None:
    """Lets Ray use 127.0.0.1.

    It would take the address by which other machines reach this one, also if it is told 127.0.0.1,
    unless it believes that a cluster cannot have several machines.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    constants: Any = sys.modules.get("ray._private.ray_constants")
    if constants is not None:  # it has read the variable already
        constants.ENABLE_RAY_CLUSTER = False


@cache
def _token_file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rlarcade-ray-"))  # only this user can enter it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "token"
    path.write_text(secrets.token_hex(32))
    return path
