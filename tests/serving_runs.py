"""A service that follows a run whose files the tests write, and a clock that only they move on."""

import json
import time

from registry_helpers import tiny
from serving_helpers import Favourite

from rlarcade.checkpoint import Counters, checkpoint_path
from rlarcade.serving.engine import LocalEngine
from rlarcade.serving.following import FollowedRun
from rlarcade.serving.service import Service


class Clock:
    """The time, which only the tests move on."""

    def __init__(self):
        self.now = time.time()
        self.set_back = 0.0
        """Seconds by which somebody has set the time of day back."""

    def __call__(self):
        return self.now

    def of_day(self):
        return self.now - self.set_back


class Follower:
    """A service that follows a run. An agent is made by the content of its checkpoint."""

    def __init__(self, folder, agent=Favourite):
        self.folder, self._agent = folder, agent
        self.clock = Clock()
        self.service = Service(LocalEngine())
        self.run = FollowedRun(self.service, folder, self._load, self.clock.of_day, self.clock)
        self.made = {}
        self.loads = 0

    def _load(self, checkpoint):
        self.loads += 1
        number = int(checkpoint.tensors["w"][0])
        return self.made.get(number) or self._agent(number % 6, name=f"agent {number}")

    def save(self, steps, content, game="pong"):
        path = checkpoint_path(self.folder, steps)
        return tiny(
            path, content, game, counters=Counters(steps=steps, frames=4 * steps, updates=1)
        )

    def figures(self, *lines):
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def score(self, steps, score):
        self.figures({"step": steps, "rollout/ep_rew_mean": score, "time/fps": 250.0})

    def served(self, game="pong"):
        """Agent steps of the checkpoint that plays new games."""
        return self.service.deployments[game].champion.steps

    async def opened(self, game="pong"):
        return await self.service.open_session(game, "act", seed=1)
