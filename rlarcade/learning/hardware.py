"""What torch can use of the machine: device, precision, threads. Chosen once, then stored."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rlarcade.config import Compilation, DevicePreference, MachineSettings, Precision
from rlarcade.errors import ConfigError
from rlarcade.learning.networks import QNetwork
from rlarcade.machine import cores
from rlarcade.text import counted, quoted

_SELF_TEST_SECONDS = 0.5


def resolve_device(preference: DevicePreference) -> Literal["cpu", "cuda"]:
    """Turns `auto` into a device that exists here.

    Raises:
        ConfigError: CUDA was asked for, but there is no CUDA device.
    """
    if preference == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if preference == "cuda":
        raise ConfigError(
            f"device cuda was asked for, but torch {torch.__version__} sees no CUDA device here. "
            "Use --device cpu (or auto), or install a CUDA build of torch."
        )
    return "cpu"


def torch_device(device: object) -> torch.device:
    """Returns the torch device of an agent.

    Raises:
        ConfigError: `device` is not a CPU or CUDA device, or does not exist here.
    """
    found = device if isinstance(device, torch.device) else None
    if isinstance(device, str):
        with suppress(RuntimeError):
            found = torch.device(device)
    if found is None or found.type not in ("cpu", "cuda"):
        raise ConfigError(f"an agent's device is 'cpu' or 'cuda', got {quoted(device)}.")
    there = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= there:
        seen = counted(there, "CUDA device") if there else "no CUDA device"
        raise ConfigError(
            f"device {found} was asked for, but torch {torch.__version__} sees {seen} here. Use "
            "device cpu, or install a CUDA build of torch."
        )
    return found


def default_preset(preference: str) -> str:
    """Returns the preset of a command that names none: the one that learns most here in an hour.

    An unknown preference counts as `cpu` here; the settings refuse it later.
    """
    gpu = preference in ("auto", "cuda") and torch.cuda.is_available()
    return "fast" if gpu else "laptop"


def resolve_threads(asked: int, device: str) -> int:
    """Returns the learner's CPU threads: as asked, or all the cores that this process may use.

    OMP_NUM_THREADS lowers the default, as it does for other programs that share a machine. If a GPU
    learns, the default is one: further threads would finish their share of a small copy and then
    keep busy, waiting for the next one, on cores that the emulators need.
    """
    if device == "cuda":
        return asked or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return asked or (min(cores(), int(allowed)) if allowed.isdigit() and int(allowed) else cores())


_one_thread_lock = threading.Lock()
_one_thread_users: list[int] = []  # per user: the number of torch threads before the first user


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits torch to one CPU thread for a while.

    A forward pass for acting is small: a second thread makes it little faster, and competes with
    the emulators for cores. With one thread, an agent's actions do not depend on the number of
    threads.

    The limit holds for the whole process. If several uses overlap, the last one to end lifts it.
    """
    with _one_thread_lock:
        before = _one_thread_users[0] if _one_thread_users else torch.get_num_threads()
        _one_thread_users.append(before)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _one_thread_lock:
            _one_thread_users.pop()
            if not _one_thread_users:
                torch.set_num_threads(before)


_determinism_is_ours = False


def set_up_torch(machine: MachineSettings) -> None:
    """Sets torch's switches for a run. They hold for the whole process, until the next run's.

    This is the only place that sets them.

    Args:
        machine: resolved settings.
    """
    torch.set_num_threads(machine.torch_threads)
    use_determinism(machine.deterministic)
    # A GPU has many kernels for a convolution. cuDNN then times them once for each shape.
    torch.backends.cudnn.benchmark = machine.device == "cuda" and not machine.deterministic


def use_determinism(wanted: bool) -> None:
    """Turns torch's deterministic kernels on, or off again.

    If other code turned them on, they stay on.
    """
    global _determinism_is_ours  # noqa: PLW0603 - torch's own switch is global, too
    if wanted and not torch.are_deterministic_algorithms_enabled():
        # cuBLAS is deterministic only with a workspace of a fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
        _determinism_is_ours = True
    elif not wanted and _determinism_is_ours:
        torch.use_deterministic_algorithms(mode=False)
        _determinism_is_ours = False


def sent_to(device: torch.device, tensor: Tensor) -> Tensor:
    """Returns a copy of a CPU tensor on a device; for a CPU, the tensor itself.

    A copy from ordinary memory to a GPU begins only when all earlier work is done, and the CPU
    waits for it. A copy from pinned memory is queued like a kernel.
    """
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def resolve_precision(preference: Precision, device: str) -> Literal["fp32", "bf16"]:
    """Turns `auto` into a precision.

    On CUDA `auto` is bf16, if the GPU supports it. On a CPU it is fp32: with two threads, `laptop`
    does not train faster in bf16 even where the CPU has the instructions, and no paired test has
    shown that agents learn as well (docs/results/precision.md). So it must be asked for.
    """
    if preference != "auto":
        return preference
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def resolve_compile(preference: Compilation, device: str) -> Literal["on", "off"]:
    """Turns `auto` into on or off: on for a GPU if torch.compile has what it needs.

    Raises:
        ConfigError: `on` was asked for, but something that torch.compile needs is missing.
    """
    if preference == "off" or (preference == "auto" and device == "cpu"):
        return "off"
    missing = _missing_for_compiling(device)
    if missing and preference == "on":
        raise ConfigError(
            f"compile on was asked for, but torch.compile needs {missing} for device {device}, "
            "which is not here. Install it, or use --compile off (or auto)."
        )
    return "off" if missing else "on"


def _missing_for_compiling(device: str) -> str | None:
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    if device == "cuda":
        if find_spec("triton") is None:
            return "Triton"
        compilers = (os.environ.get("CC"), "gcc", "clang")  # builds Triton's launchers
    found = any(shutil.which(compiler) for compiler in compilers if compiler)
    return None if found else f"a compiler ({compilers[1]} or {compilers[2]})"


def has_bf16_instructions() -> bool:
    """Whether this CPU has bf16 instructions; without them torch emulates bf16 slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def bf16_is_faster() -> bool:
    """Measures for about a second whether bf16 updates are faster than fp32 ones here."""
    return _seconds_per_update(torch.bfloat16) < _seconds_per_update(torch.float32)


def _seconds_per_update(dtype: torch.dtype) -> float:
    network = QNetwork(num_actions=6)
    network.dtype = dtype
    frames = torch.zeros((32, 4, 84, 84), dtype=torch.uint8)
    network(frames).sum().backward()
    started, updates = time.perf_counter(), 0
    while time.perf_counter() - started < _SELF_TEST_SECONDS:
        network(frames).sum().backward()
        updates += 1
    return (time.perf_counter() - started) / updates
