"""A lock on an open file: the system gives it back when the process ends, however it ends."""

import sys

if sys.platform != "win32":
    import fcntl


def try_lock(descriptor: int) -> bool:
    """Takes the lock of an open file for this process alone, without waiting.

    A system without such locks gives every process its lock; rlarcade is tested on Linux.

    Returns:
        Whether it was taken; another process holds it otherwise.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
