"""The server without HTTP: who plays each game, its sessions, and their results.

Everything here runs in one event loop. Slow work is done in threads: the registry's in one thread,
the referee's in others (see `rulings`), forward passes in the engine's.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import PolicyError, RlarcadeError
from rlarcade.foreign import own_words
from rlarcade.games.names import resolve_game
from rlarcade.games.vector import LARGEST_SEED
from rlarcade.learning.acting import not_finite
from rlarcade.registry.audit import now, storable
from rlarcade.registry.rollouts import ShadowCounts
from rlarcade.serving.assignment import Variant, assign
from rlarcade.serving.deployment import Deployment as Deployment
from rlarcade.serving.emulators import Emulators
from rlarcade.serving.engine import Engine, Values
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.metrics import Metrics
from rlarcade.serving.referee import Dice, Served, greedy
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.rulings import DECISION_SECONDS, SLOW_SHARE, Rulings
from rlarcade.serving.sessions import LONGEST_KEY, Kind, Session, Sessions, State, new_token
from rlarcade.serving.shadow import Shadow
from rlarcade.text import quoted

_Result = TypeVar("_Result")


class Decision(NamedTuple):
    """One action that a session was given."""

    step: int
    action: int
    explored: bool
    """Whether the action was random, because of the protocol's ε."""
    values: NDArray[np.float32]
    """float32 (A,)."""


class Outcome(NamedTuple):
    """How a session ended, as its client reported it."""

    state: State
    steps: int
    claimed: float | None
    mixed: bool
    """Whether two versions played it, so that it counts for neither."""


class Service:
    """Plays games for clients.

    Attributes:
        engine: where forward passes run.
        deployments: the games online, by ROM id.
        sessions: the open sessions.
        metrics: counters for Prometheus.
        emulators: emulators for watched games and for the referee.
        rulings: the games that the referee plays.
        changed: set whenever a game was assigned or ended; the controller waits for it.
        waiters: the controller sets them when it has tried to write new games.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        idle_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.deployments: dict[str, Deployment] = {}
        self.sessions = Sessions(clock)
        self.metrics = Metrics()
        self.emulators = Emulators()
        self.changed = asyncio.Event()
        self.idle_seconds = idle_seconds
        self.waiters: list[asyncio.Future[None]] = []
        self.rulings = Rulings(self.metrics, self.emulators, self.changed)
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="clerk")

    async def at_registry(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """Runs work that uses the registry in the one thread for it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._clerk, work, *arguments)

    def deployment(self, game: str) -> Deployment:
        """Returns a game that is online.

        Raises:
            Refusal: 404: there is no such game, or it is not served.
        """
        found = self.deployments.get(game)
        if found is not None:  # the usual spelling; looking up all others takes 0.1 ms
            return found
        try:
            found = self.deployments.get(resolve_game(game[:LONGEST_KEY]))
        except RlarcadeError as error:
            raise Refusal(404, str(error)) from error
        if found is None:
            online = ", ".join(sorted(self.deployments)) or "none"
            raise Refusal(404, f"{game[:LONGEST_KEY]} is not served. Games online: {online}.")
        return found

    def version(self, deployment: Deployment, number: str) -> Variant:
        """Returns a loaded version that a client addresses itself.

        Raises:
            Refusal: 404: it is not loaded.
        """
        for variant in deployment.plan.variants:
            if str(variant.version) == number:
                return variant
        loaded = sorted({variant.version for variant in deployment.plan.variants})
        raise Refusal(
            404,
            f"version {number[:LONGEST_KEY]} of {deployment.game} is not served. Versions online: "
            f"{', '.join(map(str, loaded))}.",
        )

    # Sessions

    async def open_session(
        self,
        game: str,
        kind: Kind,
        *,
        key: str | None = None,
        group: str | None = None,
        seed: int | None = None,
        version: str | None = None,
        number: str | None = None,
    ) -> Session:
        """Begins a game.

        Args:
            game: any spelling of the game's name.
            kind: see `sessions`.
            key: names the user; games of one user are played by one version. None: a new user.
            group: group of the user, for phased rollouts.
            seed: seed of the emulator. None: the server gives one, and the game counts.
            version: number of the version that shall play. None: the plan decides.
            number: the session's id, as a sequence's client chose it; None: a new one.

        Raises:
            Refusal: the game or the version is not served, there are too many sessions, or the
                registry cannot keep the key, the group or the id.
        """
        deployment = self.deployment(game)
        for what, text in (("key", key), ("group", group), ("id", number)):
            if text is not None and storable(text) != text:
                raise Refusal(
                    400,
                    f"the {what} {quoted(text)} has a character that no registry can keep. Send it "
                    "without NUL and halves of surrogate pairs.",
                )
        key = new_token() if key is None else key
        if version is None:
            variant = assign(deployment.plan, key, group)
        else:
            variant = self.version(deployment, version)
        session = Session(
            id=new_token() if number is None else number,
            token=new_token(),
            kind=kind,
            game=deployment.game,
            protocol=deployment.stock[variant.version].protocol,
            version=variant.version,
            role=variant.role if version is None else None,
            key=key,
            group=group,
            seed=seed,
            dice=None,
        )
        self.sessions.add(session)
        self.metrics.began(session)
        try:
            await self._seed(deployment, session, variant if version is None else None)
        except BaseException:  # the client has gone; if the game was assigned, it counts
            self.finish(session, "abandoned")
            raise
        return session

    async def _seed(
        self, deployment: Deployment, session: Session, variant: Variant | None
    ) -> None:
        """Gives a session its number in a rollout, and its seed if it needs one.

        Args:
            deployment: the session's game.
            session: the session.
            variant: the variant; None: the client addressed a version, so the game does not count.
        """
        needs_one = session.kind != "sequence" and session.seed is None
        live = deployment.live
        if live is not None and live.counts_games and variant is not None:
            game = live.assign(variant, session.key, session.group, seeded=needs_one)
            session.counted, session.rollout = game.number, live.rollout.id
            session.seed = game.seed if needs_one else session.seed
            live.amend(session=session.id, begun=now())
            if live.spec.mode == "twin" and needs_one and not self.rulings.behind:
                self.referee(live, live.twin().number, None, {})
            await self._saved()
        elif needs_one:
            session.seed = secrets.randbelow(LARGEST_SEED + 1)
        if session.seed is None:  # a sequence: its client owns the game and its randomness
            return
        stock = deployment.stock[session.version]
        session.dice = Dice(session.seed, stock.num_actions, stock.protocol.evaluation_epsilon)

    async def _saved(self) -> None:
        """Waits until the controller has tried to write new games of rollouts."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        self.changed.set()
        await waiter

    async def decide(self, session: Session, picture: NDArray[np.uint8]) -> Decision:
        """Gives a session its next action.

        Args:
            session: an open session.
            picture: see `Session.observed`.

        Raises:
            Refusal: 409: the session has ended or is being decided already; 400: the picture is no
                observation; 500: the version failed, and the session is over.
        """
        if session.state != "open":
            raise Refusal(409, f"session {session.id} has ended. Begin a new one.")
        if session.busy:
            raise Refusal(409, "the session's last request is not answered yet. Wait for it.")
        session.busy = True
        began = time.perf_counter()
        version = session.version  # another one may take the game over while this one thinks
        try:
            observation = session.observed(picture)
            try:
                values = await self.values(version, observation[None], session.role)
            except Refusal:
                session.forget()
                raise
            chosen = greedy(values[0], f"version {version}")
            rolled = None if session.dice is None else session.dice.roll()
        except PolicyError as error:
            session.errors += 1
            self.finish(session, "failed")
            raise Refusal(500, f"version {version} failed: {error}") from error
        finally:
            session.busy = False
        self._judge_time(session, time.perf_counter() - began)
        if version == session.version:
            self._show_shadow(session, observation, values[0])
        action = chosen if rolled is None else rolled
        session.gave(action)
        return Decision(session.steps - 1, action, rolled is not None, values[0])

    async def values(
        self, version: int, observations: NDArray[np.uint8], role: str | None
    ) -> Values:
        """Returns float32 (N, A) values of uint8 (N, 4, 84, 84) observations.

        Raises:
            PolicyError: the version crashed, took too long, or gave values that are not finite.
            Refusal: it is not loaded, or too many requests wait.
        """
        began = time.perf_counter()
        code = "ok"
        try:
            async with asyncio.timeout(DECISION_SECONDS):
                values = await self.engine.values(version, observations)
            problem = not_finite(values, f"version {version}")
            if problem is not None:
                raise PolicyError(f"{problem}.")
        except TimeoutError as error:
            code = "failed"
            raise PolicyError(f"it took longer than {DECISION_SECONDS:g} seconds.") from error
        except Refusal:
            code = "refused"
            raise
        except Exception as error:
            code = "failed"
            if isinstance(error, PolicyError):
                raise
            raise PolicyError(f"{own_words(error)}.") from error
        finally:
            self.metrics.decided(version, role, code, time.perf_counter() - began)
        return values

    def _rollout(self, session: Session) -> LiveRollout | None:
        """Returns the open rollout of a session's game; None also if the game is offline by now."""
        deployment = self.deployments.get(session.game)
        return None if deployment is None else deployment.live

    def _judge_time(self, session: Session, seconds: float) -> None:
        live = self._rollout(session)
        limit = None if live is None else live.spec.slow_seconds
        if limit is not None and seconds > limit:
            session.slow += 1

    def _show_shadow(
        self, session: Session, observation: NDArray[np.uint8], values: NDArray[np.float32]
    ) -> None:
        """Shows a candidate that runs as a shadow what the champion has decided."""
        live = self._rollout(session)
        if live is None or live.shadow is None or live.rollout.state != "progressing":
            return
        if session.version == live.rollout.champion:
            live.shadow.see(observation, values)

    def begin_shadow(self, live: LiveRollout) -> None:
        """Lets a candidate that is loaded see the champion's frames from now on, if it shall."""
        if live.spec.mode != "shadow" or live.shadow is not None:
            return
        current = live.rollout
        live.shadow = Shadow(
            live.shadow_counts or ShadowCounts.of(current.id),
            lambda observations: self.values(current.version, observations, "shadow"),
            slow_seconds=live.spec.slow_seconds,
            on_count=lambda result, count: self.metrics.shadowed(current.game, result, count),
        )

    def finish(self, session: Session, state: State, claimed: float | None = None) -> Outcome:
        """Ends a session. A game that counts goes to the referee.

        Args:
            session: an open session; one that has ended stays as it is.
            state: how it ended.
            claimed: score that the client reports.
        """
        if session.state == "open":
            session.state = state
            session.over.set()
            self.sessions.remove(session)
            self.metrics.ended(session)
            if session.counted is not None:
                self._send_to_referee(session, session.counted, claimed)
            self.changed.set()
        return Outcome(session.state, session.steps, claimed, session.mixed)

    def end_idle(self) -> None:
        """Ends sessions whose clients have gone."""
        for session in self.sessions.idle(self.idle_seconds):
            self.finish(session, "abandoned")

    def forget_unloaded(self) -> None:
        """Forgets the counters of versions that nobody plays any more; see `Metrics`."""
        versions = (replica.versions for replica in self.engine.replicas())
        self.metrics.forget_unloaded({number for loaded in versions for number in loaded})

    # The referee

    def _send_to_referee(self, session: Session, number: int, claimed: float | None) -> None:
        live = self._rollout(session)
        if live is None or live.rollout.id != session.rollout:
            return  # the rollout has ended
        told = {
            "errors": session.errors > 0,
            "slow": session.slow > SLOW_SHARE * max(session.steps, 1),
            "abandoned": session.state == "abandoned",
            "claimed": claimed,
        }
        if session.state == "failed":
            live.end(number, None, ended="failed", steps=session.steps, **told)
            return
        if live.games[number].seed is None:  # nobody can replay it
            live.end(number, None, ended="terminated", steps=session.steps, **told)
            return
        served = Served(bytes(session.actions), tuple(session.sums))
        self.referee(live, number, served, told)

    def referee(
        self, live: LiveRollout, number: int, served: Served | None, told: dict[str, Any]
    ) -> None:
        """Lets the referee play a game of a rollout to its end; the result counts when it is there.

        Args:
            live: the rollout.
            number: number of the game.
            served: what the client was given; None: nothing is known, since the server was killed.
            told: further fields of the game's result.
        """
        game = live.games[number]
        stock = self.deployments[live.rollout.game].stock.get(game.version)
        if stock is not None:  # else the rollout has ended, and nobody needs the result
            self.rulings.begin(live, number, stock, served, told)

    # The end

    async def close(self) -> None:
        """Ends all work. Open games of a rollout are played to their end by the next server."""
        self.rulings.close()
        for deployment in self.deployments.values():
            if deployment.live is not None and deployment.live.shadow is not None:
                deployment.live.shadow.close()
        await self.engine.close()
        self.emulators.close()
        self._clerk.shutdown(wait=True)
