"""A service with its controller, without HTTP: rollouts whose games are told instead of played."""

import asyncio
import itertools
import time
from contextlib import contextmanager

import pytest
from made_up_games import short_game
from serving_helpers import V5, Favourite
from starlette.testclient import TestClient

from rlarcade.serving import rollout_store as store
from rlarcade.serving.app import make_app
from rlarcade.serving.assignment import Plan, Variant, assign
from rlarcade.serving.controller import Controller
from rlarcade.serving.engine import LocalEngine
from rlarcade.serving.requests import Online
from rlarcade.serving.service import Deployment, Service
from rlarcade.serving.settings import RolloutSpec
from rlarcade.serving.stock import Stocked

CANARY = RolloutSpec(strategy="canary", steps=(25, 50, 100), min_sessions=3)


async def pong_online(agent=None):
    """A service that plays Pong, without a registry."""
    service = Service(LocalEngine())
    agent = agent or Favourite(2)
    await service.engine.load(1, agent, at_once=True)
    plan = Plan(variants=(Variant(role="champion", version=1, share=1.0),), salt="x")
    stocked = Stocked(1, "0" * 64, "pong", V5, 6, agent, 0)
    service.deployments["pong"] = Deployment("pong", plan, 0, {1: stocked})
    return service


keys = itertools.count()


@pytest.fixture
def short(monkeypatch):
    """The referee's games, and those of `House.played`, are cut off after 100 steps."""
    monkeypatch.setattr("rlarcade.serving.emulators.GameEnv", short_game)


def until(true, seconds=300):
    """Waits until something is true, and returns it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return found


def command_server(client):
    """Stands in for `ServerClient`: sends a command's orders to this client's server."""

    class Over:
        def __init__(self, *ignored):
            pass

        def get(self, path):
            return self._told(client.get(path))

        def post(self, path, document):
            return self._told(client.post(path, json=document))

        def _told(self, answer):
            assert answer.is_success, answer.text
            return answer.json()

    return Over


class House:
    """A service with its controller, whose agents are made by the content of their checkpoints."""

    def __init__(self, registry, agents=None):
        self.registry = registry
        self.made = agents or {}
        self.service = Service(LocalEngine())
        self.controller = Controller(self.service, registry, self._load)
        self.controller._loading.patience = 120.0  # one look is enough, however busy the machine is

    @contextmanager
    def online(self):
        """The same over HTTP, for a client that is an operator; the controller looks by itself."""
        online = Online(self.service, self.controller, "secret", str(self.registry.folder))
        app = make_app(online, ("testserver",))
        with TestClient(app, headers={"Authorization": "Bearer secret"}) as client:
            until(lambda: client.get("/v2/health/ready").status_code == 200)
            yield client

    def _load(self, checkpoint):
        number = int(checkpoint.tensors["w"][0])
        return self.made.setdefault(number, Favourite(number % 6, name=f"agent {number}"))

    @property
    def pong(self):
        return self.service.deployments["pong"]

    async def look(self, times=1):
        for _ in range(times):
            await self.controller.look()

    def state(self, number=1):
        return store.rollout(self.registry, number)

    async def start(self, version, spec=CANARY):
        await self.look()
        started = await self.controller.start(version, spec, "anna")
        await self.look()
        return started

    def assigned(self, role):
        """Assigns a new game to a role, as sessions do."""
        live = self.pong.live
        while True:
            key = f"user {next(keys)}"
            variant = assign(live.plan, key)
            if variant.role == role:
                return live.assign(variant, key, None).number

    def play(self, role, score, **more):
        number = self.assigned(role)
        result = {"ended": "terminated", "score": score, "steps": 10} | more
        self.pong.live.end(number, None, **result)

    async def pairs(self, count, candidate, champion):
        """Plays games of both sides with fixed scores, and lets the controller look."""
        for _ in range(count):
            if self.pong.live is None:
                return
            if self.pong.live.plan.variant("control") is not None:
                self.play("control", champion)
            self.play("candidate", candidate)
            await self.look()

    async def opened(self, kind="act", **asked):
        """Opens a session of Pong, while the controller looks."""
        opening = asyncio.ensure_future(self.service.open_session("pong", kind, **asked))
        await asyncio.sleep(0)
        await self.look()
        return await opening

    async def played(self, steps=None, **asked):
        """A client plays a game, or leaves it after some steps; returns session and actions."""
        session = await self.opened(**asked)
        env = short_game("pong", protocol=session.protocol, render_mode=None)
        observation, _ = env.reset(seed=session.seed)
        over = False
        while not over and session.steps != steps:
            decision = await self.service.decide(session, observation[-1])
            observation, _, terminated, truncated, _ = env.step(decision.action)
            over = terminated or truncated
        self.service.finish(session, "ended" if over else "abandoned")
        return session, bytes(session.actions)

    async def settled(self):
        """Waits until the referee has played all games, except those of open sessions."""
        await asyncio.sleep(0)
        while self.service.rulings.busy:
            await asyncio.sleep(0.005)
        await self.look()
