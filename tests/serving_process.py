"""A server in a process of its own, and commands that talk with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

from warm_python import programs

TOKEN = "operators-token"


class Server:
    """A server process on a free port."""

    def __init__(self, folder, *flags, python=sys.executable):
        self.log = folder / "server.log"
        environment = os.environ | {"RLARCADE_TOKEN": TOKEN}
        words = [python, "-m", "rlarcade.serve", "--port", "0", *flags]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self.url = self._until("listening on ").split()[0]
        except BaseException:
            self.process.kill()  # or it would slow down every later test
            raise

    def _until(self, text, seconds=300):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            said = self.log.read_text()
            if text in said:
                return said.partition(text)[2]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def run(self, *words, code=0):
        environment = os.environ | {"RLARCADE_TOKEN": TOKEN}
        done = subprocess.run(
            [programs() / "python", "-m", "rlarcade", *words, "--server", self.url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def until(self, true, seconds=300):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (self.rollout(), self.log.read_text())
            time.sleep(0.1)

    def deployments(self):
        with urllib.request.urlopen(f"{self.url}/v1/deployments") as answer:
            return json.load(answer)

    def rollout(self):
        with urllib.request.urlopen(f"{self.url}/v1/rollouts") as answer:
            return json.load(answer)["rollouts"][-1]

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(120)


@contextlib.contextmanager
def serving(folder, *flags, **settings):
    server = Server(folder, *flags, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
