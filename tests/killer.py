"""Runs a verb and kills this process, as `kill -9` would, at its nth write to the disk.

python tests/killer.py N train --game …
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

_writes = iter(range(1, 1_000_000))


def _counted(real):
    def call(*arguments, **settings):
        if next(_writes) == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **settings)

    return call


os.fsync = _counted(os.fsync)
Path.rename = _counted(Path.rename)
Path.replace = _counted(Path.replace)
Path.unlink = _counted(Path.unlink)
sys.exit(import_module(f"rlarcade.{sys.argv[2]}").main(sys.argv[3:]))
