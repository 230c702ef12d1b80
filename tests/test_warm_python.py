"""The `python` of the tests that begins at once is like the real one."""

import os
import signal
import subprocess
import sys

import pytest
from warm_python import programs

pytestmark = pytest.mark.slow


def said_by_both(*words, **settings):
    """Exit code, stdout and stderr of both for the same words."""
    for python in (programs() / "python", sys.executable):
        done = subprocess.run(
            [python, *words], capture_output=True, text=True, check=False, **settings
        )
        yield done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "rlarcade", "--version"),
        ("-m", "rlarcade.train", "--game", "Nothing"),
        ("-m", "rlarcade.watch", "nowhere"),
        ("-c", "import sys; sys.exit('it is told')"),
    ],
)
def test_a_command_ends_and_tells_what_it_does_with_the_real_one(tmp_path, words):
    ours, real = said_by_both(*words, cwd=tmp_path)
    assert ours == real


def test_folder_environment_and_words_are_those_of_the_caller(tmp_path):
    (tmp_path / "scripts").mkdir()
    script = "import os, sys; print(os.getcwd(), os.environ['SAID'], sys.argv, sys.path[0])"
    (tmp_path / "scripts" / "tell.py").write_text(script)
    environment = os.environ | {"SAID": "so"}
    ours, real = said_by_both("scripts/tell.py", "two words", cwd=tmp_path, env=environment)
    assert ours == real
    assert ours[0] == 0


def test_files_that_the_caller_hands_over_have_their_numbers(tmp_path):
    """A sweep hands each of its runs a pipe, and tells it the number in a variable."""
    (tmp_path / "scripts").mkdir()
    script = "import os, sys; [print(os.read(int(word), 9)) for word in sys.argv[1:]]"
    (tmp_path / "scripts" / "read.py").write_text(script)
    pipes = [os.pipe() for _ in range(3)]
    ends = [end for end, _ in pipes]
    words = [programs() / "python", "scripts/read.py", *(str(end) for end in ends)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, pass_fds=ends) as process:
        for number, (_, entry) in enumerate(pipes):
            os.write(entry, b"pipe %d" % number)
        assert process.stdout.read() == b"b'pipe 0'\nb'pipe 1'\nb'pipe 2'\n"
    for end, entry in pipes:
        os.close(end)
        os.close(entry)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_caller_ends_the_command(tmp_path, number):
    words = [programs() / "python", "-m", "rlarcade.serve", "--port", "0"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert any("listening on" in line for line in process.stdout)
        process.send_signal(number)
        assert process.stdout.read() == ""  # the command holds this file until it ends
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
