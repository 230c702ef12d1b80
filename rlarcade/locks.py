"""A lock on an open file. The system releases it when the process ends, even after a kill."""

import sys

if sys.platform != "win32":
    import fcntl


def try_lock(descriptor: int) -> bool:
    """Tries to take the exclusive lock of an open file, without waiting.

    Windows has no such locks: every process gets the lock. rlarcade is tested on Linux.

    Returns:
        True if it was taken; False if another process holds it.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
