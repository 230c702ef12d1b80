"""The strategy rolling: workers are replaced one after the other.

A new worker with the candidate is started and warmed, takes the place of an old one, and the old
one ends when it has finished its batch. So all workers are healthy all the time, unless one dies.
Its price is one more process while a worker is replaced.

Meanwhile the versions are mixed: of R workers, k serve the candidate, the others the champion. The
candidate plays k/R of the new games. A game stays with the version that began it, and its batches
go to the workers with that version.

Settings may have another number of steps than there are workers, such as those of a pipeline, which
does not know the server: then as many workers are replaced as the share of a step needs.

The last worker of the champion waits for the champion's open games. From then on all new games are
the candidate's. Games that are still open after `drain_seconds` are handed over to the candidate:
they are mixed and count for neither. The note of the rollout says how many. When no session needs
the champion any more, it is unloaded.

If the candidate cannot be loaded, nothing was replaced. If the rollout is rolled back or aborted,
the champion is loaded into all workers again. An engine without workers that can be replaced
refuses the strategy.

The registry has the step only. A server that is started again replaces as many workers as the step
says, and goes on.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from rlarcade.registry.rollouts import OPEN_STATES
from rlarcade.serving.deployment import Deployment, hand_over
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.service import Service
from rlarcade.serving.stock import Stocked
from rlarcade.serving.strategies import Decision, RolloutSpec
from rlarcade.text import counted

_log = logging.getLogger(__name__)


class Rolling:
    """Replaces workers in the background, one of each game at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._working: dict[str, tuple[int, asyncio.Task[None]]] = {}
        """By game: the version that workers are given, and the work."""
        self._draining: dict[int, float] = {}
        """By rollout: when it began to wait for the champion's games."""
        self._handed_over: dict[int, int] = {}
        """By rollout: games that were handed over."""

    def fitted(self, spec: RolloutSpec) -> RolloutSpec:
        """Returns settings with a step for each worker, unless they say how many steps.

        Raises:
            Refusal: 409: the engine has no workers that can be replaced.
        """
        if spec.strategy != "rolling":
            return spec
        there = len(self._service.engine.replicas())
        if there < 2:
            raise Refusal(
                409,
                "a rolling rollout replaces one worker after the other, and this server has only "
                "one place where it computes. Start `serve` with --engine processes --replicas 3, "
                "or choose the strategy big-bang.",
            )
        if "replicas" in spec.model_fields_set:
            return spec
        return spec.model_copy(update={"replicas": there})

    async def catch_up(self, deployment: Deployment, running: LiveRollout) -> None:
        """Replaces as many workers as the rollout's step says, after the server was started again.

        Raises:
            PolicyError: the candidate cannot be served.
            Refusal: see `fitted`.
            ResourceError: no worker can be started.
        """
        self.fitted(running.spec)
        current = running.rollout
        wanted = self._workers_for(running.spec, current.step)
        while self._replaced(current.version) < wanted:
            await self._replace(running, deployment.stock[current.version])

    def begun(self, deployment: Deployment, running: LiveRollout) -> bool:
        """Whether enough workers serve the candidate for its first games. If not, replaces one.

        Raises:
            PolicyError: the candidate cannot be served.
            Refusal: see `fitted`.
            ResourceError: no worker can be started.
        """
        self.fitted(running.spec)
        return self._reached(deployment, running, self._workers_for(running.spec, 0))

    def decision(self, deployment: Deployment, running: LiveRollout, judged: Decision) -> Decision:
        """Returns what to do next: a step is taken when its workers have been replaced.

        Args:
            deployment: the game.
            running: the rollout.
            judged: what the strategy's rules say.

        Raises:
            PolicyError: the candidate cannot be served.
            ResourceError: no worker can be started.
        """
        if judged.kind not in ("advance", "succeed"):
            return judged
        spec, current = running.spec, running.rollout
        there = len(self._service.engine.replicas())
        if judged.kind == "advance":
            wanted = self._workers_for(spec, current.step + 1)
        else:
            wanted = there
            if self._replaced(current.version) == there - 1:
                waiting = self._waiting_for(deployment, running)
                if waiting is not None:
                    return Decision(kind="stay", why=waiting)
        if not self._reached(deployment, running, wanted):
            return Decision(kind="stay", why="A worker is being replaced.")
        why = (
            f"{self._replaced(current.version)} of {counted(there, 'worker')} serve "
            f"version {current.version}"
        )
        handed = self._handed_over.get(current.id)
        if handed and judged.kind == "succeed":
            why += (
                f"; {counted(handed, 'game')} still open after {spec.drain_seconds:,g} seconds "
                "went over to it"
            )
        return Decision(kind=judged.kind, why=f"{why}.")

    def settle(self, deployment: Deployment) -> None:
        """Gives the champion back to all workers when no rolling rollout is open."""
        live = deployment.live
        if live is not None and live.rollout.state in OPEN_STATES and _is_rolling(live):
            return
        champion = deployment.champion
        version, task = self._working.get(deployment.game, (None, None))
        if task is not None and version != champion.number:
            task.cancel()
            del self._working[deployment.game]
        elif task is not None and task.done():
            del self._working[deployment.game]
            if task.exception() is not None:
                _log.warning("version %d is not in all workers: %s", version, task.exception())
        elif task is None and not self._is_everywhere(champion.number):
            self._begin(deployment.game, champion.number, self._restored(champion))

    async def stop(self) -> None:
        """Stops replacing workers."""
        tasks = [task for _, task in self._working.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Replacing workers

    def _replaced(self, version: int) -> int:
        """Counts the workers that serve a version."""
        return sum(version in replica.versions for replica in self._service.engine.replicas())

    def _workers_for(self, spec: RolloutSpec, step: int) -> int:
        """How many workers must serve the candidate at a step: its share, but for the last one."""
        there = len(self._service.engine.replicas())
        return min(-(-(step + 1) * there // spec.replicas), there - 1)

    def _is_everywhere(self, version: int) -> bool:
        return self._replaced(version) == len(self._service.engine.replicas())

    def _reached(self, deployment: Deployment, running: LiveRollout, wanted: int) -> bool:
        """Whether so many workers serve the candidate. If not, another one is being replaced."""
        number = running.rollout.version
        version, task = self._working.get(deployment.game, (None, None))
        if task is not None:
            if not task.done() and version == number:
                return False
            del self._working[deployment.game]
            if task.done():
                task.result()  # raises what went wrong
            else:
                task.cancel()
        if self._replaced(number) >= wanted:
            return True
        work = self._replace(running, deployment.stock[number])
        self._begin(deployment.game, number, work)
        return False

    async def _replace(self, running: LiveRollout, stocked: Stocked) -> None:
        await self._service.engine.replace(
            running.rollout.champion, stocked.number, stocked.agent, stocked.checkpoint
        )

    async def _restored(self, champion: Stocked) -> None:
        await self._service.engine.load(
            champion.number, champion.agent, at_once=True, checkpoint=champion.checkpoint
        )

    def _begin(self, game: str, version: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _: self._service.changed.set())
        self._working[game] = version, task

    # The champion's open games

    def _waiting_for(self, deployment: Deployment, running: LiveRollout) -> str | None:
        """What the champion's last worker waits for, or None. Hands games over when it is time."""
        current = running.rollout
        if current.id in self._handed_over:
            return None
        playing = self._playing(deployment, current.champion)
        if playing:
            now = time.monotonic()
            if now - self._draining.setdefault(current.id, now) < running.spec.drain_seconds:
                return f"Version {current.champion} still plays {counted(playing, 'game')}."
            hand_over(self._service.sessions, deployment, running)
        left = self._playing(deployment, current.champion)
        self._handed_over[current.id] = playing - left
        return None

    def _playing(self, deployment: Deployment, version: int) -> int:
        """Counts the open games of a version, without those whose client chose the version."""
        return sum(
            session.game == deployment.game
            and session.version == version
            and session.role is not None
            for session in self._service.sessions
        )


def _is_rolling(live: LiveRollout) -> bool:
    return live.spec.strategy == "rolling"
