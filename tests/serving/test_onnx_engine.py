"""The engine onnx: versions play by onnxruntime, and nobody else in the server knows of it."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_up_games import ALE, emulator
from onnx import numpy_helper
from registry_helpers import tiny, whole
from serving_helpers import run
from serving_house import House, short, until
from starlette.testclient import TestClient

from rlarcade import DQNAgent, OnnxValues, make_env
from rlarcade.checkpoint import load_checkpoint
from rlarcade.errors import CheckpointError, ExportError
from rlarcade.learning.onnx_file import onnx_model
from rlarcade.playing.play import Scheduled, play_games
from rlarcade.playing.players import AgentPlayer
from rlarcade.serving import onnx_loader, server
from rlarcade.serving import rollout_store as store
from rlarcade.serving.app import make_app
from rlarcade.serving.controller import Controller
from rlarcade.serving.engine import MOST_ROWS, LocalEngine
from rlarcade.serving.onnx_loader import load_onnx
from rlarcade.serving.requests import Online
from rlarcade.serving.service import Service
from rlarcade.serving.settings import RolloutSpec

__all__ = ["short"]

LATE = Path(__file__).parents[1] / "data" / "space-invaders-late"


class Counting(OnnxValues):
    """Counts the observations of each call."""

    def __init__(self, model):
        self.calls = []
        super().__init__(model)

    def q_values(self, observation):
        self.calls.append(len(observation))
        return super().q_values(observation)


@pytest.fixture(scope="module")
def late():
    """The network of a real agent of SpaceInvaders."""
    return onnx_model(DQNAgent.load(LATE))


@pytest.fixture(scope="module")
def model(late):
    """The same as an agent of Pong, which has as many actions."""
    edited = onnx.load_from_string(late)
    described = json.loads(edited.metadata_props[0].value) | {"game": "pong"}
    edited.metadata_props[0].value = json.dumps(described)
    return edited.SerializeToString()


def always(model, action):
    """The network with a last bias for which it always chooses this action."""
    edited = onnx.load_from_string(model)
    (tensor,) = [one for one in edited.graph.initializer if one.name.endswith("values.bias")]
    bias = np.eye(6, dtype=np.float32)[action] * 1e4
    tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    return edited.SerializeToString()


# Loading


def program(folder, text):
    """A program that stands in for Python, and is told what to convert."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def frames():
    """Observations of a real game, uint8 (40, 4, 84, 84)."""
    with emulator(ALE):
        env = make_env("SpaceInvaders")
        seen = [env.reset(seed=1)[0]]
        for step in range(39 * 3):
            seen.append(env.step(step % 6)[0].copy())
    return np.stack(seen[::3])


def check_values(found, frames):
    """Compares values, float32 (40, 6), with torch's."""
    wanted = DQNAgent.load(LATE).q_values(frames)
    assert np.abs(found - wanted).max() <= 1e-4
    best, second = np.sort(wanted, axis=1)[:, :-3:-1].T
    clear = best - second > 2e-4  # else rounding may choose
    assert clear.mean() > 0.9
    assert np.array_equal(found.argmax(axis=1)[clear], wanted.argmax(axis=1)[clear])


def test_a_champion_answers_with_torchs_values_up_to_rounding(
    registry, tmp_path, monkeypatch, late, frames
):
    """The registry's version number is told, although the network was converted."""
    (tmp_path / "late.onnx").write_bytes(late)
    converter = program(tmp_path, f"cp '{tmp_path}/late.onnx' \"$6\"")
    monkeypatch.setattr(sys, "executable", converter)
    other = registry.register(tiny(tmp_path / "tiny", 1, "pong")).number
    number = registry.register(LATE).number
    registry.move_alias("space_invaders", "champion", number, expected_generation=0, kind="promote")
    service = Service(LocalEngine())
    online = Online(service, Controller(service, registry, load_onnx), None, None)
    with TestClient(make_app(online, ("testserver",))) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        stocked = service.deployments["space_invaders"].champion
        assert isinstance(stocked.agent, OnnxValues)
        tensor = {"name": "observation", "shape": frames.shape, "datatype": "UINT8"}
        asked = {"inputs": [tensor | {"data": frames.ravel().tolist()}]}
        told = client.post("/v2/models/space_invaders/infer", json=asked).json()
        session = client.post("/v1/sessions", json={"game": "SpaceInvaders"}).json()
        (deployed,) = client.get("/v1/deployments").json()["deployments"]
    assert stocked.digest == load_checkpoint(LATE).manifest.weights_sha256
    assert number == other + 1
    assert told["model_version"] == str(number)
    assert session["version"] == number
    assert [one["version"] for one in deployed["variants"]] == [number]
    outputs = {one["name"]: np.array(one["data"]) for one in told["outputs"]}
    values = outputs["q_values"].reshape(len(frames), 6)
    assert np.array_equal(outputs["action"], values.argmax(axis=1))
    check_values(values, frames)


@pytest.mark.slow  # torch's exporter in a process of its own
def test_a_version_is_converted_in_another_process_with_torchs_values(frames, capfd):
    values = load_onnx(load_checkpoint(LATE))
    assert values.version == load_checkpoint(LATE).manifest.weights_sha256 + "+onnx"
    check_values(values.q_values(frames), frames)
    assert capfd.readouterr() == ("", "")


def test_every_size_of_batch_is_computed_once_before_a_version_is_ready(model):
    agent = Counting(model)
    run(LocalEngine().load(1, agent, at_once=True))
    assert {1, 4, 8, 12, 16, MOST_ROWS} <= set(agent.calls)


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        (
            "echo 'rlarcade: warning: slow' >&2; echo 'rlarcade: error: torch 2.11 cannot.' >&2; "
            "exit 1",
            ExportError,
            r"^torch 2.11 cannot\.$",
        ),
        ("kill -9 $$", ExportError, "^export ended: -9"),
        ("exec sleep 60", ExportError, r"^converting version-1a93b0ca1a48 took longer than 0\.5 s"),
        ("echo hello > network.onnx", CheckpointError, "network.onnx is no ONNX file of rlarcade"),
        ("exit 0", CheckpointError, "network.onnx: No such file"),
        (None, ExportError, "^version-1a93b0ca1a48 cannot be converted to ONNX: No such file"),
    ],
)
def test_a_version_that_cannot_be_converted_is_told_in_one_line(
    tmp_path, monkeypatch, text, error, told
):
    monkeypatch.setattr(onnx_loader, "_SECONDS", 0.5 if "sleep" in str(text) else 60.0)
    python = str(tmp_path / "none") if text is None else program(tmp_path, text)
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(error, match=told) as raised:
        load_onnx(load_checkpoint(LATE))
    assert str(raised.value).isprintable()


# Rollouts


@pytest.fixture
def house(registry, add, model):
    """Champion 1 of Pong, which looks at the frames, and candidate 2, which never moves."""
    add(1)
    registry.move_alias("pong", "champion", 1, expected_generation=0, kind="promote")
    add(2)
    return House(registry, {1: Counting(model), 2: Counting(always(model, 1))})


def game_of(agent, seed):
    """A game that `rlarcade.playing` plays with an agent."""
    [(_, game)] = play_games([Scheduled(AgentPlayer(agent), seed)])
    return game


@pytest.mark.usefixtures("short", "short_games")
def test_a_canary_counts_the_scores_of_games_that_onnxruntime_plays(house, registry):
    """The referee of a whole game replays it, and asks nobody for values."""

    async def check():
        await house.start(2, RolloutSpec(strategy="canary", steps=(50, 100), min_sessions=3))
        sessions = []
        while {session.role for session in sessions} < {"control", "candidate"}:
            sessions.append((await house.played())[0])
            asked = [len(agent.calls) for agent in house.made.values()]
            await house.settled()
            assert asked == [len(agent.calls) for agent in house.made.values()]
        left, _ = await house.played(steps=5)  # its rest is played by the referee
        await house.settled()
        await house.service.close()
        return [*sessions, left]

    sessions = run(check())
    games = {game.session: game for game in store.games_of(registry, 1)}
    assert whole(registry)
    for session in sessions:
        game, own = games[session.id], game_of(house.made[session.version], session.seed)
        assert (game.ended, game.score, game.steps) == (own.ended, own.score, own.steps)
        assert game.version == session.version == (2 if session.role == "candidate" else 1)
    assert games[sessions[-1].id].abandoned


@pytest.mark.usefixtures("short", "short_games")
def test_twins_play_with_the_engine_of_the_sessions(house, registry):
    async def check():
        await house.start(2, RolloutSpec(strategy="parallel", mode="twin"))
        await house.played(steps=3)
        await house.settled()
        await house.service.close()

    run(check())
    own, twin = store.games_of(registry, 1)
    assert own.seed == twin.seed
    assert own.score == game_of(house.made[1], own.seed).score
    assert twin.score == game_of(house.made[2], own.seed).score


@pytest.mark.usefixtures("short")
def test_a_shadow_that_is_the_champions_copy_agrees_in_every_value(house, model):
    house.made[2] = Counting(model)

    async def check():
        await house.start(2, RolloutSpec(strategy="parallel", mode="shadow"))
        # In some games the network plays one action only: this test needs a game of several.
        _, actions = await house.played(seed=0)
        shadow = house.pong.live.shadow
        while shadow.counts.compared + shadow.counts.dropped < len(actions):
            await shadow._task
        await house.service.close()
        return shadow.counts, actions

    counts, actions = run(check())
    assert len(set(actions)) > 1
    assert (counts.agreed, counts.failed, counts.dropped) == (len(actions), 0, 0)
    assert counts.gap / len(actions) < 1e-4


class Refusing(House):
    """A house whose version 2 cannot be converted."""

    def _load(self, checkpoint):
        if int(checkpoint.tensors["w"][0]) == 2:
            raise ExportError("torch cannot convert version-2's network to ONNX.")
        return super()._load(checkpoint)


def test_a_candidate_that_cannot_be_converted_never_gets_a_game(house, registry):
    async def check():
        refusing = Refusing(registry, house.made)
        await refusing.start(2)
        while refusing.state().state == "preparing":
            await refusing.look()
        await refusing.service.close()

    run(check())
    after = house.state()
    assert after.state == "rolled_back"
    assert "cannot convert version-2's network to ONNX" in after.note
    assert store.games_of(registry, 1) == []


class Waiting(House):
    """A house in which making the agent of version 2 takes until it is told to end."""

    def __init__(self, *more):
        self.end = threading.Event()
        super().__init__(*more)

    def _load(self, checkpoint):
        if int(checkpoint.tensors["w"][0]) == 2:
            assert self.end.wait(30)
        return super()._load(checkpoint)


def test_while_a_candidate_is_converted_games_of_others_are_written(house, registry):
    async def check():
        waiting = Waiting(registry, house.made)
        waiting.controller._loading.patience = 0.05
        try:
            await waiting.start(2)
            written = waiting.service.at_registry(store.rollouts_of, registry)
            (still,) = await asyncio.wait_for(written, 20)
        finally:
            waiting.end.set()
        while waiting.state().state == "preparing":
            await waiting.look()
        await waiting.service.close()
        return still.state, waiting.state().state

    assert run(check()) == ("preparing", "progressing")


# The command


def test_the_command_loads_with_onnx_and_says_what_that_means(command, monkeypatch, tmp_path):
    given = {}

    def serve(registry, **more):
        given.update(more)
        more["on_ready"]("http://127.0.0.1:1", ["pong"])

    monkeypatch.setattr(server, "serve", serve)
    for engine in ("onnx", "local"):
        code, out, _ = command("serve", "--engine", engine, "--registry", tmp_path)
        assert code == 0
        assert given["loader"] == (load_onnx if engine == "onnx" else DQNAgent.load)
        assert (given["replicas"], given["engine"]) == (None, engine)
        said = "engine onnx: values differ from torch's in the last bits, so games may differ, too"
        assert (said in out.splitlines()) == (engine == "onnx")
    code, out, _ = command("serve", "--help")
    assert "promise of equal bits does not hold" in " ".join(out.replace("│", " ").split())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_the_command_ends_before_it_serves(command, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    code, out, err = command("serve", "--engine", "onnx", "--port", "0")
    assert (code, out) == (2, "")
    assert err == (
        f"rlarcade: error: ONNX needs the extra `onnx` ({missing} is missing): "
        "pip install -c constraints.txt '.[onnx]'.\n"
    )


def test_what_is_only_looked_for_is_not_imported():
    code = (
        "import sys, rlarcade; from rlarcade.learning.onnx_values import require_exporter\n"
        "rlarcade.OnnxValues; require_exporter()\n"
        "print([name for name in ('onnx', 'onnxscript', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_engine_onnx_has_no_worker_processes(command):
    code, _, err = command("serve", "--engine", "onnx", "--replicas", "2", "--port", "0")
    assert code == 2
    assert "and the engine onnx has none. Add --engine processes" in err
