"""A service with its controller, without HTTP: rollouts whose games are told instead of played."""

import itertools

from serving_helpers import Favourite

from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import assign
from rlarcade.serving.controller import Controller
from rlarcade.serving.engine import LocalEngine
from rlarcade.serving.service import Service
from rlarcade.serving.settings import RolloutSpec

CANARY = RolloutSpec(strategy="canary", steps=(25, 50, 100), min_sessions=3)
keys = itertools.count()


class House:
    """A service with its controller, whose agents are made by the content of their checkpoints."""

    def __init__(self, registry, agents=None):
        self.registry = registry
        self.made = agents or {}
        self.service = Service(LocalEngine())
        self.controller = Controller(self.service, registry, self._load)

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
