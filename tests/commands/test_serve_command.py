"""`rlarcade serve`, `rollout` and `play`: what they refuse, and a whole rollout from end to end."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from serving_process import serving

from rlarcade.registry.registry import Registry
from rlarcade.zoo import zoo_games

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("RLARCADE_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("short", "at least 8 printable ASCII characters"),
        ("with a space in it", "no spaces"),
        ("schlüsselwort", "ASCII"),
        ("bell\a-operator", "printable"),
        ("", "at least 8"),
    ],
)
def test_a_token_that_is_none_is_refused(command, tmp_path, token, told):
    file = tmp_path / "token"
    file.write_text(token)
    for verb, *words in (("serve", "--port", "0"), ("rollout", "status")):
        code, _, err = command(verb, *words, "--token-file", str(file))
        assert code == 2
        assert told in err
        assert "secrets.token_urlsafe" in err
        assert not token or token not in err


def test_a_token_file_that_cannot_be_read_is_refused(command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        code, _, err = command("serve", "--port", "0", "--token-file", str(tmp_path / name))
        assert code == 2
        assert "--token-file" in err


def test_nothing_listens_beyond_this_machine_without_a_token(command):
    code, _, err = command("serve", "--host", "0.0.0.0", "--port", "0")
    assert code == 2
    assert "--host 0.0.0.0 lets other machines in" in err
    assert "RLARCADE_TOKEN or --token-file" in err


def test_replicas_without_worker_processes_are_refused(command):
    code, _, err = command("serve", "--port", "0", "--replicas", "3")
    assert code == 2
    assert "Add --engine processes, or leave --replicas out" in err


def test_a_port_that_is_taken_is_told_with_a_remedy(command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = command("serve", "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "Choose another port; 0 takes any free one" in err


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("127.0.0.1:8000", "is no server's address"),
        ("ftp://127.0.0.1", "is no server's address"),
        ("http://127.0.0.1:99999", "is no server's address"),
        ("http://127.0.0.1/page", "is no server's address"),
        ("http://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_a_server_that_is_none_is_told(command, url, told):
    for words in (("play", "--game", "Pong"), ("rollout", "status"), ("rollout", "undo", "1")):
        code, _, err = command(*words, "--server", url)
        assert code == (1 if told == "cannot be reached" else 2)
        assert told in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("start", "2"), "--strategy"),
        (("start", "2", "--strategy", "hope"), "big-bang"),
        (("start", "2", "--strategy", "canary", "--steps", "a,b"), "--steps are percentages"),
        (("decide", "1"), "--winner"),
        (("pause",), "number"),
    ],
)
def test_orders_that_say_too_little_are_refused(command, words, told):
    code, _, err = command("rollout", *words)
    assert code == 2
    assert told.lower() in err.lower()


# From end to end, with real agents over HTTP


@pytest.mark.slow
def test_without_a_registry_the_agents_that_come_with_rlarcade_are_served(tmp_path):
    number = 1 + zoo_games().index("space_invaders")
    with serving(tmp_path) as server:
        assert "serving the agents that come with rlarcade" in server.log.read_text()
        words = ["--game", "SpaceInvaders", "--games", "2", "--json", tmp_path / "games.json"]
        out = server.run("play", *map(str, words))
        assert f"SpaceInvaders, version {number}: 2 games, mean score" in out
        games = json.loads((tmp_path / "games.json").read_text())["games"]
        assert all(game["score"] >= 0 and game["ended"] == "terminated" for game in games)
        server.run("rollout", "start", "2", "--strategy", "big-bang", code=1)  # no registry
        page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
        (example,) = re.findall(r"```python\n(.+?)```", page, flags=re.DOTALL)
        code = example.replace("127.0.0.1:8000", server.url.removeprefix("http://"))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == str(number)  # the version that answered
        assert server.end() == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_canary_over_http_promotes_a_better_candidate_and_undo_takes_it_back(tmp_path):
    with Registry.open(tmp_path / "registry") as registry:
        for name in ("early", "late"):
            registry.register(DATA / f"space-invaders-{name}")
        registry.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
        with serving(tmp_path, "--registry", "registry") as server:
            server.run("rollout", "start", "2", "--strategy", "canary", "--steps", "50,100")
            for _ in range(12):
                server.run("play", "--games", "8")
                after = server.rollout()
                if after["state"] not in ("preparing", "progressing", "paused"):
                    break
            assert after["state"] == "succeeded", after
            assert registry.alias("space_invaders").version == 2
            assert after["wins"] >= 8
            server.run("rollout", "undo", "1")
            assert registry.alias("space_invaders").version == 1
            assert server.end() == 0
        assert registry.verify() == []
        assert registry.verify_audit() is None


@pytest.mark.slow
def test_a_server_that_is_killed_goes_on_with_its_rollout(tmp_path):
    with Registry.open(tmp_path / "registry") as registry:
        for name in ("early", "late"):
            registry.register(DATA / f"space-invaders-{name}")
        registry.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
        with serving(tmp_path, "--registry", "registry") as server:
            server.run("rollout", "start", "2", "--strategy", "canary", "--steps", "50,100")
            player = subprocess.Popen(
                [sys.executable, "-m", "rlarcade.play", "--games", "8", "--server", server.url],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                end = time.monotonic() + 60
                while not server.rollout()["touched"] and time.monotonic() < end:
                    time.sleep(0.2)
                server.end(signal.SIGKILL)
            finally:
                player.kill()
                player.wait()
        with serving(tmp_path, "--registry", "registry") as server:
            end = time.monotonic() + 120
            while time.monotonic() < end:
                after = server.rollout()
                games = sum(one["games"] for one in after["variants"])
                if games == sum(one["sessions"] for one in after["variants"]):
                    break
                time.sleep(0.5)
            assert games >= 1, after  # the server played them to their end
            assert after["state"] == "progressing"
            assert server.end(signal.SIGINT) == 0
        assert registry.verify() == []


# Worker processes


class Samples(threading.Thread):
    """Asks every 50 ms how many workers are healthy."""

    def __init__(self, server):
        super().__init__()
        self.server, self.healthy, self.versions, self.over = server, [], set(), False
        self.start()

    def run(self):
        while not self.over:
            replicas = self.server.deployments()["replicas"]
            self.healthy.append(sum(one["healthy"] for one in replicas))
            self.versions.add(tuple(tuple(one["versions"]) for one in replicas))
            time.sleep(0.05)


def workers_of(server):
    """The processes of the server's workers."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie's, too
            if "rlarcade.serving.worker" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_sixteen_clients_play_on_while_three_workers_are_replaced(tmp_path, kill):
    with Registry.open(tmp_path / "registry") as registry:
        for name in ("early", "late"):
            registry.register(DATA / f"space-invaders-{name}")
        registry.move_alias("space_invaders", "champion", 1, expected_generation=0, kind="promote")
        flags = ("--registry", "registry", "--engine", "processes", "--replicas", "3")
        with serving(tmp_path, *flags) as server:
            old = workers_of(server)
            samples, clients = Samples(server), Clients(server.url, 16)
            try:
                words = ("--strategy", "rolling", "--slow-seconds", "60")
                server.run("rollout", "start", "2", *words)
                if kill:
                    server.until(lambda: server.rollout()["state"] == "progressing")
                    workers_of(server)[0].kill()
                server.until(lambda: server.rollout()["state"] == "succeeded")
                server.until(
                    lambda: all(one["versions"] == [2] for one in server.deployments()["replicas"])
                )
            finally:
                versions, samples.over = clients.stop(), True
                samples.join()
            after = server.rollout()
            new = workers_of(server)
            assert len(new) == 3
            assert server.end() == 0
        assert clients.failed == []
        assert versions == {1, 2}
        assert min(samples.healthy) >= 2
        assert any(len(set(shown)) > 1 for shown in samples.versions), "versions were mixed"
        assert after["note"].startswith("3 of 3 workers serve version 2")
        assert registry.alias("space_invaders").version == 2
        assert registry.verify() == []
    _, alive = psutil.wait_procs([*old, *new], timeout=30)
    assert alive == []


class Clients:
    """Clients that play a hundred steps of a game, one game after the other, over HTTP."""

    def __init__(self, url, count):
        self.host, self.failed, self.versions = url.removeprefix("http://"), [], set()
        self.over = False
        self.threads = [threading.Thread(target=self._play) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join()
        return self.versions

    def _play(self):
        frame = bytes(84 * 84)
        connection = http.client.HTTPConnection(self.host, timeout=30)

        def asked(path, body, **headers):
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            if answer.status >= 300:
                self.failed.append(told)
            return told

        try:
            while not self.over and not self.failed:
                session = asked(
                    "/v1/sessions", b'{"game": "SpaceInvaders"}', **{"Content-Type": JSON}
                )
                self.versions.add(session["version"])
                token = {"X-Session-Token": session["token"], "Content-Type": BYTES}
                for _ in range(100):
                    asked(f"/v1/sessions/{session['id']}/act", frame, **token)
                token["Content-Type"] = JSON
                asked(f"/v1/sessions/{session['id']}/outcome", b'{"ended": "left"}', **token)
        except Exception as error:  # any failed request fails the test
            self.failed.append(error)
        finally:
            connection.close()


JSON, BYTES = "application/json", "application/octet-stream"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ((), ["local"]),
        (("--engine", "onnx"), ["onnx"]),
        (("--engine", "processes", "--replicas", "3"), ["worker-1", "worker-2", "worker-3"]),
    ],
)
def test_deployments_tell_what_computes(tmp_path, flags, names):
    Registry.open(tmp_path / "registry").close()  # without versions, so the server starts at once
    with serving(tmp_path, "--registry", "registry", *flags) as server:
        assert [one["name"] for one in server.deployments()["replicas"]] == names
        assert server.end() == 0
