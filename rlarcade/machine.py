"""What the machine has: cores, memory, disk."""

import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from rlarcade.errors import ResourceError


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # not Linux: all cores of the machine


def free_memory() -> int:
    """Returns the free bytes of memory, within the control group's limit if there is one."""
    return min(int(psutil.virtual_memory().available), _control_group_free())


def _control_group_free() -> int:
    """Returns the bytes left under a container's memory limit; 2**62 if there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        return 2**62 if limit == "max" else int(limit) - used
    except (OSError, ValueError):
        return 2**62


def require_memory(needed: int, what: str, remedy: str, available: int | None = None) -> None:
    """Refuses work that does not fit into memory.

    Raises:
        ResourceError: `needed` exceeds the free memory; the message names both and the remedy.
    """
    available = free_memory() if available is None else available
    if needed > available:
        raise ResourceError(
            f"{what} needs {gigabytes(needed)} of memory, {gigabytes(available)} are free. {remedy}"
        )


def require_disk(needed: int, folder: Path, what: str, remedy: str) -> None:
    """Refuses work that does not fit on the disk.

    Raises:
        ResourceError: `needed` exceeds the free space; the message names both and the remedy.
    """
    while not folder.exists():
        folder = folder.parent
    free = psutil.disk_usage(str(folder)).free
    if needed > free:
        raise ResourceError(
            f"{what} may need {gigabytes(needed)} on the disk of {folder}, {gigabytes(free)} are "
            f"free. {remedy}"
        )


def gigabytes(count: int) -> str:
    """Formats bytes: 7065000000 -> '7.07 GB'."""
    return f"{count / 1e9:.2f} GB"
