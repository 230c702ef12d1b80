"""Games whose emulator is in the server: people watch an agent, or play themselves.

A game is stepped by whoever watches it, so it stands still while nobody does. A game that an agent
plays counts in a rollout as any other whose seed the server gave. A person's game never counts. At
its end it is a recording that `rlarcade watch --verify` confirms.
"""

import asyncio
import hmac
import io
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rlarcade.evaluation.documents import Evaluation
from rlarcade.foreign import own_words
from rlarcade.games.episodes import Ending
from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv
from rlarcade.playing.episodes import EpisodeResult, Trace
from rlarcade.serving.emulators import Emulators
from rlarcade.serving.looking_ahead import LookingAhead
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.service import Decision, Service
from rlarcade.serving.sessions import LONGEST_KEY, Session, new_token

_log = logging.getLogger(__name__)

Mode = Literal["agent", "human"]

MOST_GAMES = 64
"""Most games that are played at once; each has two emulators and takes 8 % of a core."""
MOST_ENDED = 256
"""Most ended games that are kept, for their recordings."""
_MOST_PREPARED = 8  # games with an emulator that waits for the first spectator
_PERIOD = 1.0  # seconds between two looks at games that nobody watches
_PNG_LEVEL = 1  # 0.9 ms and 2 KB a picture


class Moment(NamedTuple):
    """What spectators see after a step, or before the first one."""

    step: int
    """Steps played so far."""
    action: int | None
    """Action of the newest step; None before the first one."""
    explored: bool
    """Whether this action was random, because of the protocol's ε."""
    q_values: tuple[float, ...] | None
    """The agent's values of the actions when it chose; None if no agent chose."""
    version: int | None
    """The version that chose; another one may take a game over. None: a person plays."""
    reward: float
    """Points of the newest step."""
    score: float
    lives: int
    ended: Ending | None
    picture: bytes
    """PNG of the screen after the step, 160 pixels wide and 210 high."""


@dataclass
class WatchedGame:
    """One game in the server.

    Attributes:
        session: its session. Only `token` is told to clients, so that none can reach the session
            by the routes of games whose emulator the client has.
        mode: who plays.
        action_names: name of each action.
        newest: what was seen last.
        search: how the version looks ahead; None: it does not.
        recording: a person's game after its end.
        viewer: the connection that watches; a newer one takes the game over.
    """

    session: Session
    mode: Mode
    env: GameEnv | None
    observation: NDArray[np.uint8]
    action_names: tuple[str, ...]
    newest: Moment
    search: LookingAhead | None = None
    token: str = field(default_factory=new_token)
    recording: Evaluation | None = None
    viewer: object = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during a step."""
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether the game goes on."""
        return self.session.state == "open"

    @property
    def version(self) -> int | None:
        """The version that plays now; None: a person plays."""
        return self.session.version if self.mode == "agent" else None

    def play(self, action: int, chosen: Decision | None, version: int | None) -> Moment:
        """Plays one step. It is slow (2 ms), so it runs in a thread."""
        assert self.env is not None
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        if self.search is not None:
            self.search.follow(action)
        self.actions.append(action)
        self.rewards.append(reward)
        self.newest = Moment(
            step=self.newest.step + 1,
            action=action,
            explored=chosen is not None and chosen.explored,
            q_values=None if chosen is None else tuple(chosen.values.tolist()),
            version=version,
            reward=reward,
            score=self.newest.score + reward,
            lives=info["lives"],
            ended="terminated" if terminated else "truncated" if truncated else None,
            picture=_png(self.env),
        )
        return self.newest


class Watching:
    """All games whose emulator is in the server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._games: dict[str, WatchedGame] = {}
        self._ended: dict[str, WatchedGame] = {}
        self._opening = 0
        # One thread: starting an emulator blocks Python, and games that go on must not stand still.
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="opener")
        # One thread, so that all searches together take at most a core.
        self._searcher = ThreadPoolExecutor(1, thread_name_prefix="searcher")
        self._prepared: set[tuple[str, Protocol]] = set()

    async def begin(
        self,
        game: str,
        mode: Mode,
        *,
        key: str | None = None,
        group: str | None = None,
        seed: int | None = None,
        version: str | None = None,
        simulations: int = 0,
    ) -> WatchedGame:
        """Begins a game. For `key`, `group`, `seed` and `version` see `Service.open_session`.

        With `simulations`, the version looks ahead before each step, which is the champion if none
        is named. Such a game counts for no rollout.

        Raises:
            Refusal: 409: a person plays no version, or nobody can look ahead in this game; 503: too
                many games are being played; or an error of `Service.open_session`.
        """
        if len(self._games) + self._opening >= MOST_GAMES:
            raise Refusal(503, f"{MOST_GAMES} games are watched. Try again later.", retry_after=10)
        if mode == "human":
            if version is not None:
                raise Refusal(409, "a person plays this game, so leave `version` out.")
            if simulations:
                raise Refusal(409, "a person plays this game, so leave `simulations` out.")
        search = None
        if mode == "human" or (simulations and version is None):
            # With a version of its own choice a session counts for no rollout.
            version = str(self._service.deployment(game).champion.number)
        if simulations:
            deployment = self._service.deployment(game)
            number = self._service.version(deployment, str(version)).version
            search = LookingAhead(deployment.stock[number], simulations)
        self._opening += 1
        try:
            session = await self._service.open_session(
                game, "watch", key=key, group=group, seed=seed, version=version
            )
            return await self._begun(session, mode, search)
        finally:
            self._opening -= 1

    async def _begun(
        self, session: Session, mode: Mode, search: LookingAhead | None
    ) -> WatchedGame:
        """Gives a session its emulator."""
        emulators = self._service.emulators
        loop = asyncio.get_running_loop()
        try:
            begun = await loop.run_in_executor(
                self._opener, _opened, emulators, session, mode, search
            )
        except BaseException:
            self._service.finish(session, "abandoned")  # the version did nothing wrong
            raise
        self._games[session.id] = begun
        return begun

    def get(self, number: str, token: str) -> WatchedGame:
        """Returns a game that is being played, or has ended.

        Raises:
            Refusal: 404: there is no such game; 403: the token is wrong.
        """
        game = self._games.get(number) or self._ended.get(number)
        if game is None:
            raise Refusal(
                404,
                f"no watched game {number[:LONGEST_KEY]} is known: it never began, or ended "
                "long ago. Begin a new one.",
            )
        if not hmac.compare_digest(token.encode(), game.token.encode()):
            raise Refusal(403, "the game's token is wrong.")
        self.touch(game)
        return game

    def touch(self, game: WatchedGame) -> None:
        """Notes that somebody watches a game."""
        if game.open:
            self._service.sessions.get(game.session.id, game.session.token)

    async def step(self, game: WatchedGame, pressed: int = 0) -> Moment:
        """Plays one step.

        Args:
            game: a game that is being played.
            pressed: the action of a person's game; an agent chooses itself.

        Raises:
            Refusal: 409: the game has ended; 500: the version failed, and the game is over.
        """
        try:
            async with game.lock:
                if not game.open:
                    raise Refusal(409, f"the game is over: {game.session.state}. Begin a new one.")
                if game.mode == "human":
                    moment = await asyncio.to_thread(game.play, pressed, None, None)
                else:
                    version = game.version
                    chosen = await self._chosen(game)
                    moment = await asyncio.to_thread(game.play, chosen.action, chosen, version)
                if moment.ended is not None:
                    if game.mode == "human":
                        game.recording = _recording(game, moment.ended)
                    self._service.finish(game.session, "ended", moment.score)
        finally:
            self._put_away(game)
        return moment

    async def _chosen(self, game: WatchedGame) -> Decision:
        """Lets the version choose an action. The time of a search is not measured."""
        session, search = game.session, game.search
        if search is None:
            return await self._service.decide(session, game.observation)
        loop = asyncio.get_running_loop()
        try:
            choice = await loop.run_in_executor(self._searcher, search.choose, game.observation)
        except Exception as error:  # any error counts as the version's failure
            self._service.finish(session, "failed")
            why = own_words(error)
            raise Refusal(500, f"version {session.version} failed: {why}") from error
        assert choice.values is not None and session.dice is not None  # noqa: PT018
        rolled = session.dice.roll()
        action = choice.action if rolled is None else rolled
        session.gave(action)
        return Decision(session.steps - 1, action, rolled is not None, choice.values)

    def leave(self, game: WatchedGame) -> None:
        """Ends a game before its end."""
        self._service.finish(game.session, "abandoned")
        self._put_away(game)

    def _put_away(self, game: WatchedGame) -> None:
        """Keeps a game that has ended for a while, without its emulator."""
        if game.open or game.lock.locked() or self._games.pop(game.session.id, None) is None:
            return
        if game.env is not None:
            self._service.emulators.give(game.env)
            game.env = None
        game.actions, game.rewards = [], []
        self._ended[game.session.id] = game
        while len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    # Beside the games

    async def run(self) -> None:
        """Ends games that nobody watches, and prepares emulators, until cancelled."""
        while True:
            try:
                self.look()
                await self._prepare()
            except Exception:  # a mistake of ours must not end the loop: games go on
                _log.exception("looking after watched games failed; it is tried again")
            await asyncio.sleep(_PERIOD)

    def look(self) -> None:
        """Ends games that nobody watches."""
        self._service.end_idle()
        for game in list(self._games.values()):
            self._put_away(game)

    async def _prepare(self) -> None:
        """Starts an emulator for each game online, so that a first picture comes in a second."""
        for deployment in list(self._service.deployments.values()):
            kind = (deployment.game, deployment.protocol)
            if kind not in self._prepared and len(self._prepared) < _MOST_PREPARED:
                self._prepared.add(kind)
                await asyncio.to_thread(self._service.emulators.prepare, *kind, 1)

    def close(self) -> None:
        """Lets all emulators go."""
        for game in self._games.values():
            game.env = None
        self._games.clear()
        for pool in (self._opener, self._searcher):
            pool.shutdown(wait=False, cancel_futures=True)


def _opened(
    emulators: Emulators, session: Session, mode: Mode, search: LookingAhead | None
) -> WatchedGame:
    """Resets an emulator with the session's seed. It is slow (0.4 s), so it runs in a thread."""
    env = emulators.take(session.game, session.protocol, pictures=True)
    observation, info = env.reset(seed=session.seed)
    if search is not None:
        assert session.seed is not None  # only sequences have none
        search.begin(session.seed, info)
    version = session.version if mode == "agent" else None
    before = Moment(0, None, False, None, version, 0.0, 0.0, info["lives"], None, _png(env))
    return WatchedGame(session, mode, env, observation, env.action_names, before, search)


def _png(env: GameEnv) -> bytes:
    screen = env.render()
    assert screen is not None
    file = io.BytesIO()
    Image.fromarray(screen).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


def _recording(game: WatchedGame, ended: Ending) -> Evaluation:
    """Returns a person's game as an evaluation of one game."""
    session = game.session
    assert session.seed is not None  # only sequences have none
    episode = EpisodeResult(
        seed=session.seed,
        score=game.newest.score,
        steps=game.newest.step,
        ended=ended,
        trace=Trace.of(game.actions, game.rewards),
    )
    return Evaluation(
        checkpoint="human",
        version=None,
        game=session.game,
        protocol=session.protocol,
        epsilon=0.0,
        seed=session.seed,
        episodes=(episode,),
    )
