"""The routes of watched games, and of the page.

Over the WebSocket of a game, the server sends two messages a step: a JSON object with the fields of
`Moment` without the picture, then the picture, a PNG. It sends the next ones when these have been
taken, so a slow spectator sees fewer steps a second. The game stands still without a spectator.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, Response
from pydantic import Field, ValidationError

from rlarcade.games.episodes import Ending
from rlarcade.serving.looking_ahead import MOST_SIMULATIONS
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import (
    REFUSALS,
    Asked,
    DocumentRoute,
    GameAsked,
    GameTold,
    SessionToken,
)
from rlarcade.serving.sessions import LONGEST_KEY
from rlarcade.serving.watching import Mode, Moment, WatchedGame, Watching

router = APIRouter(
    prefix="/v1/watch", tags=["watched games"], responses=REFUSALS, route_class=DocumentRoute
)
page = APIRouter(include_in_schema=False)

SPEED = 15.0
"""Steps a second, unless the spectator says otherwise: a step is four of 60 frames."""
_HELLO_SECONDS = 10.0  # for the first message, with the game's token
_LOOK_SECONDS = 1.0  # between two looks at whether a paused game still goes on


class NewGame(GameAsked):
    """What a spectator asks for."""

    mode: Mode = "agent"
    """agent: a version plays. human: the client plays, under the protocol of the champion."""
    simulations: Annotated[int, Field(ge=0, le=MOST_SIMULATIONS)] = 0
    """The version looks ahead: it plays so many simulations before each step. Such a game counts
    for no rollout, because its player has access to the emulator. 0: it sees only the screen."""


class WatchDocument(GameTold):
    """A game whose emulator is in the server."""

    mode: Mode
    version: int | None
    """Number of the version that plays; null: a person plays."""
    simulations: int
    """Simulations before each step; 0: the player sees only the screen."""
    action_names: tuple[str, ...]
    score: float
    lives: int
    ended: Ending | None
    """How the game ended by itself."""
    recording: dict[str, Any] | None = None
    """A person's game after its end, as `rlarcade evaluate --json` writes an evaluation."""


class Orders(Asked):
    """What a spectator may say at any time. Everything else ends the connection, not the game."""

    pause: bool | None = None
    step: Literal[True] | None = None
    """Pauses the game and plays one step."""
    speed: Literal[0] | Annotated[float, Field(ge=1, le=60)] | None = None
    """Steps a second; 0: as fast as it can. A person's game always has 15."""
    action: Annotated[int, Field(ge=0)] | None = None
    """A person's action, from the next step on."""


class Hello(Orders):
    """The first message of a WebSocket."""

    token: str


@router.post("", status_code=201)
async def begin(request: Request, asked: NewGame) -> WatchDocument:
    """Begins a game."""
    game = await _watching(request).begin(**asked.model_dump())
    return _document(game, game.token)


@router.get("/{number}")
async def show(request: Request, number: str, token: SessionToken) -> WatchDocument:
    """Shows a game. A person's one holds its recording after its end."""
    return _document(_watching(request).get(number, token))


@router.delete("/{number}", status_code=204)
async def leave(request: Request, number: str, token: SessionToken) -> Response:
    """Leaves a game before its end."""
    watching = _watching(request)
    watching.leave(watching.get(number, token))
    return Response(status_code=204)


@router.get("/{number}/recording", response_class=JSONResponse)
async def recording(request: Request, number: str, token: SessionToken) -> Response:
    """Returns a person's game as a file for `rlarcade watch FILE --verify`."""
    game = _watching(request).get(number, token)
    if game.recording is None:
        raise Refusal(409, "only a person's game has a recording, and only after its end.")
    name = f"{game.session.game}-{game.session.seed}.json"
    return JSONResponse(
        {"evaluations": [game.recording.model_dump(mode="json")]},
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.websocket("/{number}/ws")
async def watch(socket: WebSocket, number: str) -> None:
    """Plays a game while it is watched.

    The first message is {"token": TOKEN}, and may hold orders as well (see `Orders`). The answer is
    the newest moment; so a client whose connection broke goes on where the game is.
    """
    watching = _watching(socket)
    await socket.accept()
    try:
        game, spectator = await _greeted(socket, watching, number)
        listening = asyncio.create_task(_listen(socket, game, spectator))
        try:
            await _play(socket, watching, game, spectator)
        finally:
            listening.cancel()
        await socket.close(1000)
    except Refusal as refusal:
        await _refused(socket, refusal)
    except (WebSocketDisconnect, RuntimeError):  # the spectator is gone
        return


@dataclass
class _Spectator:
    """One connection, and what it ordered."""

    speed: float
    paused: bool = False
    single_steps: int = 0
    pressed: int = 0
    gone: bool = False
    wrong: Refusal | None = None
    """Why the connection must end."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def obey(self, said: Orders, game: WatchedGame) -> None:
        """Takes orders.

        Raises:
            Refusal: 400: they do not fit the game.
        """
        human = game.mode == "human"
        if human and (said.speed is not None or said.step):
            raise Refusal(400, f"a person's game has {SPEED:g} steps a second.")
        if said.action is not None and not (human and said.action < len(game.action_names)):
            most = len(game.action_names) - 1
            raise Refusal(400, f"only a person's game takes actions, from 0 to {most}.")
        self.speed = self.speed if said.speed is None else float(said.speed)
        self.paused = self.paused if said.pause is None else said.pause
        self.pressed = self.pressed if said.action is None else said.action
        if said.step:
            self.paused = True
            self.single_steps += 1
        self.changed.set()

    async def wait(self, seconds: float) -> None:
        """Waits for new orders, at most for some seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        except TimeoutError:
            pass


async def _greeted(
    socket: WebSocket, watching: Watching, number: str
) -> tuple[WatchedGame, _Spectator]:
    """Waits for the token. The newest connection takes the game over."""
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            hello = Hello.model_validate_json(await socket.receive_text())
    except (TimeoutError, KeyError, ValidationError) as error:
        raise Refusal(400, 'the first message must be {"token": TOKEN}.') from error
    game = watching.get(number, hello.token[:LONGEST_KEY])
    spectator = _Spectator(SPEED)
    spectator.obey(hello, game)
    if isinstance(game.viewer, _Spectator):
        game.viewer.wrong = Refusal(409, "the game is watched by another connection now.")
        game.viewer.changed.set()
    game.viewer = spectator
    return game, spectator


async def _listen(socket: WebSocket, game: WatchedGame, spectator: _Spectator) -> None:
    """Takes a spectator's orders until it is gone."""
    while not spectator.gone and spectator.wrong is None:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            spectator.gone = True
        else:
            try:
                spectator.obey(Orders.model_validate_json(message.get("text") or ""), game)
            except ValidationError:
                told = (
                    'a message must be {"pause": …}, {"speed": …}, {"step": true} or {"action": …}.'
                )
                spectator.wrong = Refusal(400, told)
            except Refusal as refusal:
                spectator.wrong = refusal
    spectator.changed.set()


async def _play(
    socket: WebSocket, watching: Watching, game: WatchedGame, spectator: _Spectator
) -> None:
    """Steps a game at the spectator's speed, until the game ends or the spectator leaves."""
    clock = asyncio.get_running_loop().time
    await _send(socket, game.newest)
    due = clock()
    while game.open and not spectator.gone:
        if spectator.wrong is not None:
            raise spectator.wrong
        watching.touch(game)
        spectator.changed.clear()
        if spectator.single_steps:
            spectator.single_steps -= 1
        elif spectator.paused:
            await spectator.wait(_LOOK_SECONDS)
            due = clock()
            continue
        elif spectator.speed and clock() < due:
            await spectator.wait(due - clock())
            continue
        due = max(clock(), due + (1 / spectator.speed if spectator.speed else 0))
        await _send(socket, await watching.step(game, spectator.pressed))
    if game.newest.ended is None and not spectator.gone:
        raise Refusal(409, f"the game is over: {game.session.state}. Begin a new one.")


async def _send(socket: WebSocket, moment: Moment) -> None:
    """Sends a moment; returns when the connection has room for the next one."""
    told = moment._asdict()
    picture = told.pop("picture")
    await socket.send_json(told)
    await socket.send_bytes(picture)


async def _refused(socket: WebSocket, refusal: Refusal) -> None:
    try:
        await socket.send_json({"error": refusal.message, "status": refusal.status})
        await socket.close(1008, refusal.message[:100])
    except (WebSocketDisconnect, RuntimeError):  # the spectator is gone
        return


def _watching(request: Any) -> Watching:
    found: Watching = request.app.state.watching
    return found


def _document(game: WatchedGame, token: str | None = None) -> WatchDocument:
    session, newest = game.session, game.newest
    return WatchDocument(
        id=session.id,
        token=token,
        game=session.game,
        mode=game.mode,
        protocol=session.protocol,
        version=game.version,
        simulations=0 if game.search is None else game.search.simulations,
        role=session.role,
        key=session.key,
        seed=session.seed,
        action_names=game.action_names,
        steps=newest.step,
        score=newest.score,
        lives=newest.lives,
        state=session.state,
        ended=newest.ended,
        recording=None if game.recording is None else game.recording.model_dump(mode="json"),
    )


# The page

_PAGE = Path(__file__).parent / "page"
_KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def _serve(path: str, name: str) -> None:
    body = _PAGE / name
    kind = f"{_KINDS[body.suffix]}; charset=utf-8"

    @page.get(path, response_class=Response)
    async def file() -> Response:
        return Response(body.read_bytes(), headers=_HEADERS, media_type=kind)


_serve("/", "index.html")
for _name in (
    "page.js",
    "approvals.js",
    "common.js",
    "game.js",
    "play.js",
    "rollouts.js",
    "run.js",
    "page.css",
    "icon.svg",
):
    _serve(f"/{_name}", _name)
