"""What trains a run on a node of a cluster: a child process, as on one machine. It knows no Ray.

If the node sees the sweep's folder, the child trains in the run's folder there. The folder's lock
keeps a second process out. Otherwise the child trains in a folder of the node's own, and the files
travel.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import rlarcade
from rlarcade.cluster.nodes import Facts, check_node
from rlarcade.console import PARENT_PIPE
from rlarcade.files import open_own, read_own
from rlarcade.locks import try_lock
from rlarcade.runs.folder import process_in
from rlarcade.sweeps import mirror

_PREFIX = "rlarcade-sweep-"
_NEW = "rlarcade-new-sweep-"
_LONGEST_TOKEN = 100  # bytes


class Token(NamedTuple):
    """A file that the driver has written into the sweep's folder and holds a lock on."""

    path: str
    """Absolute."""
    content: str


class HeldToken:
    """The driver's side of a token. Nodes that see the file and its lock share the storage."""

    def __init__(self, folder: Path) -> None:
        """Writes the file.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".shared-*"):  # of a driver that was killed
            with suppress(OSError):
                _remove_unless_locked(left)
        content = secrets.token_hex(16)
        self._path = folder.absolute() / f".shared-{content[:8]}"
        self.token = Token(str(self._path), content)
        self._descriptor = open_own(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.write(self._descriptor, content.encode())
        os.fsync(self._descriptor)
        try_lock(self._descriptor)

    def close(self) -> None:
        """Removes the file."""
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


def _remove_unless_locked(path: Path) -> None:
    descriptor = open_own(path, os.O_RDWR)
    try:
        if try_lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def is_shared(token: Token) -> bool:
    """Whether this machine sees a token and its lock.

    Some network file systems show files to all machines and locks to one. Two processes could then
    write into one run's folder, so such a folder counts as not shared.
    """
    path = Path(token.path)
    try:
        if read_own(path, _LONGEST_TOKEN).decode("ascii", "replace") != token.content:
            return False
        descriptor = open_own(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


class Place(NamedTuple):
    """Where a run trains."""

    node: str
    shared: bool
    """Whether the node works in the sweep's own folder."""
    folder: str
    """The run's folder there."""


class Order(NamedTuple):
    """What to train."""

    label: str
    flags: list[str]
    """Flags of `rlarcade train`, without --preset and --run-dir."""
    preset: str
    """Name of a shipped preset, or of the file `preset_text`, without its ending."""
    preset_text: str | None
    """None: the preset is a shipped one."""
    run_folder: str
    """Absolute path of the run's folder at the driver."""
    directory: str
    """Working directory of the driver."""
    threads: int
    gpu: bool


class NodeTrainer:
    """Trains one run. It is an actor: Ray makes one call at a time, and no call takes long."""

    def __init__(self, driver: Facts) -> None:
        """Trains nothing yet."""
        self._driver = driver
        self._process: subprocess.Popen[bytes] | None = None
        # `_held` closes when this process ends, and the training notices that.
        self._pipe, self._held = os.pipe()
        self._own: Path | None = None
        self._folder = self._log = Path()

    def ready(self, token: Token, order: Order, *, fetched: bool) -> Place:
        """Prepares the training.

        Args:
            token: shows whether the node sees the sweep's folder.
            order: what will be trained.
            fetched: use a folder of the node's own even if it sees the sweep's.

        Raises:
            ConfigError: the node has other versions than the driver.
            OSError: the node's disk cannot be written.
        """
        node = check_node(self._driver)
        _remove_left_over()
        self._order = order
        self._own, self._mark = _locked_folder()
        shared = not fetched and is_shared(token)
        self._folder = Path(order.run_folder) if shared else self._own / order.label
        self._log = self._folder.with_name(f"{order.label}.log")
        return Place(node, shared, str(self._folder))

    def receive(self, path: str, data: bytes, *, first: bool) -> None:
        """Takes a part of a file of the run's folder, which is the node's own."""
        mirror.received(self._folder, path, data, first=first)

    def start(self) -> mirror.Listing:
        """Starts the training; returns the files that the run's folder had before."""
        assert self._own is not None
        order, preset = self._order, self._order.preset
        before = mirror.listing(self._folder)
        if order.preset_text is not None:
            path = self._own / f"{order.preset}.toml"
            path.write_text(order.preset_text, "utf-8")
            preset = str(path)
        here = Path(order.directory)
        log = open_own(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        words = ["--preset", preset, *order.flags, "--run-dir", str(self._folder)]
        # Ray blocks SIGINT in its workers, and a child would inherit that.
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlarcade.train", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                cwd=here if here.is_dir() else self._own,
                pass_fds=(self._pipe,),
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(log)
        return before

    def _environment(self) -> dict[str, str]:
        """Returns the child's environment: it imports the same rlarcade, and sees its own GPU."""
        source = str(Path(rlarcade.__file__).parent.parent)
        others = os.environ.get("PYTHONPATH")
        changes = {
            "OMP_NUM_THREADS": str(self._order.threads),
            "PYTHONPATH": source if not others else f"{source}{os.pathsep}{others}",
            PARENT_PIPE: str(self._pipe),
        }
        if not self._order.gpu:
            changes["CUDA_VISIBLE_DEVICES"] = ""
        return os.environ | changes

    def poll(self) -> int | None:
        """Returns the exit code of the training; None while it goes on."""
        assert self._process is not None
        return self._process.poll()

    def log(self, position: int) -> bytes:
        """Returns the next part of the log of a folder of the node's own."""
        return mirror.part_of(self._log.parent, self._log.name, position, mirror.PART)

    def listing(self) -> mirror.Listing:
        """Lists the files of the run's folder."""
        return mirror.listing(self._folder)

    def fetch(self, path: str, position: int, length: int) -> bytes:
        """Reads a part of a file of the run's folder.

        Raises:
            OSError: the run has removed it.
        """
        return mirror.part_of(self._folder, path, position, length)

    def stop(self) -> None:
        """Asks the training to save and to end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def clean(self) -> None:
        """Removes the folder of the node's own. The training has ended."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


def _locked_folder() -> tuple[Path, int]:
    """Makes a temporary folder with a mark; returns it and the descriptor that holds the lock.

    Another trainer that starts removes folders without a lock. So the folder has another name until
    its mark is locked.
    """
    new = Path(tempfile.mkdtemp(prefix=_NEW))
    mark = open_own(new / "mark", os.O_RDWR | os.O_CREAT)
    try_lock(mark)
    return new.rename(new.with_name(_PREFIX + new.name.removeprefix(_NEW))), mark


def _remove_left_over() -> None:
    """Removes folders of this user whose trainer was killed and whose training has ended, too."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
            descriptor = open_own(folder / "mark", os.O_RDWR)
            try:
                is_held = not try_lock(descriptor)
            finally:
                os.close(descriptor)
            if not is_held and not any(process_in(run) for run in folder.iterdir()):
                shutil.rmtree(folder)
