"""What commands share: an exit code is the outcome's and nothing else's; text is only shown."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from tiers import quick

from rlarcade import console, interrupts
from rlarcade.errors import ConfigError, DivergenceError

LATE = Path(__file__).parent / "data" / "space-invaders-late"
EQUALS = [sys.executable, "-m", "rlarcade.compare", str(LATE), str(LATE)]  # inconclusive: exit 4


def code_of(raised):
    def command(argv):
        raise raised

    return console.run_command(command, [])


def told(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rlarcade: error: ")


@pytest.mark.parametrize("outcome", [0, 1, 2, 3, 4, 5])
def test_an_outcome_is_the_exit_code(outcome):
    assert console.run_command(lambda argv: outcome, []) == outcome


@pytest.mark.parametrize("asked", [None, 0, 3, 4, 5, "text"])
def test_a_process_that_is_asked_to_exit_has_no_outcome(capsys, asked):
    assert code_of(SystemExit(asked)) == 1
    assert f"something ended the process (exit {asked})" in told(capsys)


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ConfigError("no such game."), 2, "no such game."),
        (DivergenceError("the loss is nan."), 1, "the loss is nan."),
        (KeyboardInterrupt(), 130, "interrupted."),
        (OSError(28, "No space left on device", "/x/y"), 1, "No space left on device: /x/y."),
        (BrokenPipeError(32, "Broken pipe"), 1, "Broken pipe."),
        (MemoryError(), 1, "out of memory."),
        (RecursionError("maximum recursion depth"), 1, "RecursionError: maximum recursion depth."),
        (ValueError("a\nb\x1b[31m"), 1, "ValueError: a b\\x1b[31m."),
        (KeyError("x" * 1000), 1, "KeyError: '" + "x" * 299 + " …."),
    ],
)
def test_what_keeps_a_command_from_its_outcome_is_one_line_and_1_2_or_130(
    capsys, raised, code, line
):
    assert code_of(raised) == code
    assert told(capsys).startswith(line)


def test_the_traceback_of_an_unforeseen_error_can_be_asked_for(capsys, monkeypatch):
    code_of(ValueError("odd"))
    assert "RLARCADE_TRACEBACK=1 shows where" in told(capsys)
    monkeypatch.setenv("RLARCADE_TRACEBACK", "1")
    code_of(ValueError("odd"))
    assert "Traceback" in capsys.readouterr().err


# Ways in which output is lost. Each costs a process that loads PyTorch.
LOST = ["| true", "> /dev/full", "2>&- >&-", ">&-", "2> /dev/full"]


@pytest.mark.parametrize("end", quick(LOST, LOST[:1]))
def test_output_that_cannot_be_delivered_changes_no_outcome(end):
    shell = f'"$@" {end}; exit "${{PIPESTATUS[0]}}"'
    ran = subprocess.run(
        ["bash", "-c", shell, "bash", *EQUALS], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 4
    assert ran.stderr == ""


@pytest.mark.parametrize("end", quick(["> /dev/full", "| true", ">&-"], []))
def test_help_that_cannot_be_delivered_is_help_all_the_same(end):
    ran = subprocess.run(
        ["bash", "-c", f'"$@" {end}; exit "${{PIPESTATUS[0]}}"', "bash", *EQUALS, "--help"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_a_terminal_of_ascii_gets_its_letters_and_the_outcome_stays():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ran = subprocess.run(EQUALS, check=False, capture_output=True, env=environment)
    assert ran.returncode == 4
    assert b"verdict: INCONCLUSIVE - " in ran.stdout


def test_a_ctrl_c_while_the_libraries_load_is_one_line_and_130():
    code = (
        "import os, runpy, signal, sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "sys.argv[0] = '-m'\n"
        "runpy.run_module('rlarcade.train', run_name='__main__', alter_sys=True)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (130, "rlarcade: error: interrupted.\n")


_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ({}, ["2000", None]),
        ({"GOMP_SPINCOUNT": "7"}, ["7", None]),
        ({"OMP_WAIT_POLICY": "active"}, [None, "active"]),
    ],
)
@pytest.mark.parametrize("module", ["rlarcade", "rlarcade.train"])
def test_threads_that_wait_soon_sleep_unless_the_user_wants_otherwise(module, given, then):
    """PyTorch reads it when it is loaded: asked there, before it does."""
    code = (
        "import json, os, runpy, sys\n"
        "class Asked:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch':\n"
        f"            print(json.dumps(list(map(os.environ.get, {_WAITING}))), flush=True)\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Asked())\n"
        "sys.argv = ['-m', 'train', '--help']\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in _WAITING}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environment | given,
    )
    assert json.loads(ran.stdout) == then


def test_importing_rlarcade_changes_no_environment():
    code = (
        "import os; before = dict(os.environ); import rlarcade.train; assert before == os.environ"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_command_leaves_python_nothing_to_look_through_at_its_end():
    code = """if True:
        import atexit, gc
        atexit.register(lambda: print(len(gc.get_objects()), gc.get_freeze_count()))
        from rlarcade.console import run_command
        run_command(lambda arguments: 0, [])
    """
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    looked_through, left_alone = map(int, said.stdout.splitlines()[-1].split())
    assert looked_through < 0.01 * left_alone


def test_a_line_is_one_line_whatever_a_name_holds(capsys):
    console.say("checkpoint x\x1b[31m\nverdict: PROMOTE")
    console.say_warning("a\x07b")
    captured = capsys.readouterr()
    assert captured.out == "checkpoint x\\x1b[31m\\nverdict: PROMOTE\n"
    assert captured.err == "rlarcade: warning: a\\x07b\n"


def test_a_stream_that_was_closed_is_no_error(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    console.say("lost")
    monkeypatch.setattr(sys, "stdout", None)
    console.say("lost")


def test_a_librarys_warning_is_shown_without_the_place_in_its_source(capsys):
    def command(argv):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old\nthings", UserWarning, stacklevel=1)
        return 0

    before = warnings.showwarning
    console.run_command(command, [])
    assert capsys.readouterr().err == "rlarcade: warning: old things\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("where", "error", "shown"),
    [
        ("tensorboard.summary", OSError, False),
        ("tensorboard.summary", ValueError, True),
        ("my_module", OSError, True),
    ],
)
def test_only_tensorboards_full_disk_is_left_to_who_waits_for_it(monkeypatch, where, error, shown):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda what: seen.append(what.exc_type))

    def command(argv):
        scope = {"__name__": where, "error": error}
        exec("def work():\n    raise error('no more')", scope)
        thread = threading.Thread(target=scope["work"])
        thread.start()
        thread.join()
        return 7

    before = threading.excepthook
    assert console.run_command(command, []) == 7
    assert seen == ([error] if shown else [])
    assert threading.excepthook is before


@pytest.fixture
def own_process(monkeypatch):
    """Has all set up as in a command's own process, for this test alone; tells how that ends."""
    endings = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(interrupts.os, "_exit", endings.append)
    yield endings
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_libraries_load_ends_the_process_with_130(own_process, capfd, number):
    interrupts.until_ready()
    signal.raise_signal(number)
    assert own_process == [130]
    assert capfd.readouterr().err == "rlarcade: error: interrupted.\n"


def test_libraries_that_cannot_be_loaded_are_one_line(own_process, capfd, monkeypatch):
    interrupts.until_ready()
    error = ImportError("libtorch_cpu.so: failed to map\x1b[31m\nsegment")
    sys.excepthook(type(error), error, None)
    line = capfd.readouterr().err
    assert line.startswith("rlarcade: error: the libraries cannot be loaded: ImportError: libtorch")
    assert line.count("\n") == 1
    assert "\x1b" not in line
    monkeypatch.setenv("RLARCADE_TRACEBACK", "1")
    sys.excepthook(type(error), error, None)
    assert "\nImportError: libtorch" in "\n" + capfd.readouterr().err
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert own_process == [130]


def test_a_working_directory_that_is_gone_is_told_before_the_libraries_load(
    own_process, capfd, monkeypatch
):
    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(interrupts.os, "getcwd", gone)
    interrupts.until_ready()
    assert own_process == [2]
    assert "the working directory was removed" in capfd.readouterr().err


def test_a_ctrl_c_after_the_outcome_does_not_change_its_exit_code(own_process):
    interrupts.until_ready()
    assert console.run_command(lambda _: 4, []) == 4
    signal.raise_signal(signal.SIGINT)
    assert own_process == [4]


def test_who_calls_a_command_in_python_keeps_ctrl_c(own_process):
    assert console.run_command(lambda _: 4, []) == 4
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert own_process == []


def test_a_ctrl_c_while_a_generator_is_tidied_up_is_not_lost(capsys):
    def left_halfway():
        try:
            yield
        finally:
            signal.raise_signal(signal.SIGINT)

    def command(argv):
        next(left_halfway())  # nobody holds the generator, so it ends here
        time.sleep(5)
        return 0

    assert console.run_command(command, []) == 130
    assert capsys.readouterr().err == "rlarcade: error: interrupted.\n"


def test_what_else_goes_wrong_while_python_tidies_up_is_told_as_ever(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: seen.append(what.exc_type))

    class Odd:
        def __del__(self):
            raise ValueError

    def command(argv):
        Odd()
        return 0

    assert console.run_command(command, []) == 0
    assert seen == [ValueError]


def test_a_run_stops_when_the_sweep_that_began_it_has_ended(monkeypatch):
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    ours, sweeps = os.pipe()
    try:
        monkeypatch.setenv(console.PARENT_PIPE, str(ours))
        console.stop_with_the_sweep()
        assert console.PARENT_PIPE not in os.environ  # what this process starts is no run of it
        assert not asked.wait(0.1)
        os.close(sweeps)
        assert asked.wait(20)
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(ours)


@pytest.mark.parametrize("left", ["closed", "file", "²", "-1", "9" * 30])
def test_a_number_that_is_left_of_an_ended_sweep_is_no_pipe(monkeypatch, tmp_path, left):
    """Another file may have the number by then. To read from it would take a byte from it."""
    (tmp_path / "file").write_text("ab")
    with (tmp_path / "file").open("rb", buffering=0) as file:
        closed = os.dup(file.fileno())
        os.close(closed)
        number = {"closed": str(closed), "file": str(file.fileno())}.get(left, left)
        monkeypatch.setenv(console.PARENT_PIPE, number)
        threads = threading.enumerate()
        console.stop_with_the_sweep()
        assert threading.enumerate() == threads
        assert file.read() == b"ab"
