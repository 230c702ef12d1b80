"""Python commands that begin at once: torch and other large libraries are loaded already.

To load them takes three to six seconds of a core, and the commands of the documentation are two
hundred. So one process loads them, and each command is a fork of it: with the words, the folder,
the environment, the files and the signals of the `python` that was called.
"""

import ast
import atexit
import contextlib
import fcntl
import importlib
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest
from made_up_games import MadeUpEmulator, put_in_place

from rlarcade.__main__ import VERBS

_READY = b"ready\n"
_MOST_FILES = 64  # that a caller may have open
# Starts in 0.03 s: without the site's packages, and with few modules.
_CALLED = """\
#!{real} -IS
import os, signal, socket, sys
words = {words}sys.argv[1:]
def is_inherited(number):
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
if not " ".join(words).startswith(("-m rlarcade", "scripts/")):
    os.execv({real!r}, [{real!r}, *words])
files = [number for number in map(int, os.listdir("/proc/self/fd")) if is_inherited(number)]
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
told = repr((words, os.getcwd(), dict(os.environ), files)).encode()
socket.send_fds(line, [len(told).to_bytes(8, "big")], files)
line.sendall(told)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: line.send(bytes([number])))
code = int.from_bytes(line.recv(2) or b"\\0\\xff", "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@cache
def programs(*, made_up_games: bool = False) -> Path:
    """A folder with a `python` and a `rlarcade` that begin at once, to stand first on PATH.

    It is there until this process ends. Whatever is neither rlarcade nor one of its scripts is run
    by Python itself.

    Args:
        made_up_games: whether commands play `made_up_games` in place of Atari's.
    """
    folder = Path(tempfile.mkdtemp())  # its path is short: a socket's may have 107 bytes
    atexit.register(shutil.rmtree, folder)
    address = str(folder / "socket")
    real = sys.executable
    for name, words in (("python", ""), ("rlarcade", '["-m", "rlarcade"] + ')):
        path = folder / name
        path.write_text(_CALLED.format(real=real, address=address, words=words))
        path.chmod(0o755)
    words = [real, __file__, address, *(["--made-up-games"] if made_up_games else [])]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(process.communicate)  # it ends when its standard input is closed
    assert process.stdout is not None
    assert process.stdout.readline() == _READY
    return folder


def _load(made_up_games: bool) -> None:
    """Loads what commands need and what takes long."""
    libraries = ("gymnasium", "scipy.stats", "torch._dynamo")  # the last for every optimiser
    for name in (*libraries, *(f"rlarcade.{verb}" for verb in VERBS)):
        importlib.import_module(name)
    if made_up_games:
        put_in_place(MadeUpEmulator, pytest.MonkeyPatch())


def _called(
    connection: socket.socket,
) -> tuple[list[str], str, dict[str, str], list[int], list[int]]:
    """The caller's words, folder, environment, numbers of its open files, and these files here."""
    head, files, _, _ = socket.recv_fds(connection, 8, _MOST_FILES)
    told = b""
    while len(told) < int.from_bytes(head, "big"):
        told += connection.recv(1 << 16)
    words, folder, environment, numbers = ast.literal_eval(told.decode())
    assert len(files) == len(numbers)
    return words, folder, environment, numbers, files


def _watch(connection: socket.socket, child: int) -> None:
    """Hands the caller's signals to the command, and the command's end to the caller."""
    ended = os.pidfd_open(child)
    while ended not in select.select([ended, connection], [], [])[0]:
        if number := connection.recv(1):
            os.kill(child, number[0])
        else:  # the caller was killed
            os.kill(child, signal.SIGKILL)
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.send(code.to_bytes(2, "big", signed=True))


def _open(numbers: list[int], files: list[int]) -> None:
    """Gives files the numbers that they had at the caller: a flag or a variable may name one."""
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 500) for file in files]
    for file in files:
        os.close(file)
    for number, file in zip(numbers, aside, strict=True):
        os.dup2(file, number)
        os.close(file)


def _run(
    python: str,
    words: list[str],
    folder: str,
    environment: dict[str, str],
    numbers: list[int],
    files: list[int],
) -> None:
    """Runs `-m MODULE …` or `SCRIPT …` as Python does."""
    _open(numbers, files)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = python  # for the commands that this one starts
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], folder
        module = words[1] if "." in words[1] else f"{words[1]}.__main__"
        sys.modules.pop(module, None)  # it is loaded once more, as the main module
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def _end(code: str | int | None) -> NoReturn:
    """Ends a fork as Python ends, but for objects: it would take five seconds to free them all."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _serve(address: str, made_up_games: bool) -> NoReturn:
    """Waits for callers, and runs the command of each in a fork."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        _load(made_up_games)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those that watch have ended
        os.write(1, _READY)
        while True:
            ready, _, _ = select.select([listening, 0], [], [])
            if 0 in ready:  # whoever has started this process has closed the file, or has ended
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    called = _called(connection)
    if child := os.fork():
        for file in called[-1]:
            os.close(file)
        _watch(connection, child)
        os._exit(0)
    connection.close()
    try:
        _run(str(Path(address).with_name("python")), *called)
        code = None
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code)


if __name__ == "__main__":
    _serve(sys.argv[1], "--made-up-games" in sys.argv)
