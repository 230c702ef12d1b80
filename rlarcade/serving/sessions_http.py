"""The routes of sessions: whole games, step by step, over HTTP and WebSocket."""

import asyncio
import json
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import Field
from pydantic_core import from_json

from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import (
    REFUSALS,
    Asked,
    DocumentRoute,
    GameAsked,
    GameTold,
    SessionToken,
    Told,
    body_of,
    online_of,
)
from rlarcade.serving.service import Decision, Service
from rlarcade.serving.sessions import LONGEST_KEY, Session, State
from rlarcade.text import quoted

router = APIRouter(
    prefix="/v1/sessions", tags=["sessions"], responses=REFUSALS, route_class=DocumentRoute
)

_LARGEST_PICTURE = 210 * 160 * 3
_SHAPES = {
    SCREEN * SCREEN: (SCREEN, SCREEN),
    STACK * SCREEN * SCREEN: (STACK, SCREEN, SCREEN),
    _LARGEST_PICTURE: (210, 160, 3),
}
_HELLO_SECONDS = 10.0
"""Time for the first message of a WebSocket, with the session's token."""
_LEAVING_SECONDS = 1.0
"""Time for the last answer of a session that has ended."""


class NewSession(GameAsked):
    """What a client asks for."""

    mode: Literal["act"] = "act"
    """act: the client owns the emulator and asks for actions."""


class SessionDocument(GameTold):
    """A session, as its client sees it."""

    mode: str
    version: int
    """Number of the version that plays."""
    mixed: bool
    """Whether another version took the game over in the middle; then it counts for neither."""


class DecisionDocument(Told):
    """One action."""

    step: int
    """Index of the step in the game, from 0."""
    action: int
    explored: bool
    """Whether the action was random, because of the protocol's ε."""
    q_values: list[float]
    """Action values, one for each action."""


class Report(Asked):
    """How a game ended, as its client says. A game that counts is replayed by the server."""

    ended: Literal["terminated", "truncated", "left"] = "terminated"
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None


class OutcomeDocument(Told):
    """The end of a session."""

    id: str
    state: State
    steps: int
    claimed: float | None
    mixed: bool
    """Whether two versions played the game, so that it counts for neither."""


@router.post("", status_code=201)
async def begin(request: Request, asked: NewSession) -> SessionDocument:
    """Begins a game."""
    service = online_of(request).service
    session = await service.open_session(
        asked.game,
        "act",
        key=asked.key,
        group=asked.group,
        seed=asked.seed,
        version=asked.version,
    )
    return _document(session, session.token)


@router.get("/{number}")
async def show(request: Request, number: str, token: SessionToken) -> SessionDocument:
    """Shows a session."""
    return _document(online_of(request).service.sessions.get(number, token))


_PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "description": "uint8: 84×84 bytes, 4×84×84 bytes, or 210×160×3 bytes.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/{number}/act", openapi_extra=_PICTURE_BODY)
async def act(request: Request, number: str, token: SessionToken) -> DecisionDocument:
    """Gives the next action for an observation."""
    service = online_of(request).service
    session = service.sessions.get(number, token)
    picture = _picture(await body_of(request, _LARGEST_PICTURE))
    decision = await service.decide(session, picture)
    return DecisionDocument(**_told(decision))


@router.post("/{number}/outcome")
async def outcome(
    request: Request, number: str, token: SessionToken, said: Report
) -> OutcomeDocument:
    """Ends a game with the client's report about it."""
    service = online_of(request).service
    session = service.sessions.get(number, token)
    return _ended(service, session, said)


@router.delete("/{number}", status_code=204)
async def leave(request: Request, number: str, token: SessionToken) -> Response:
    """Leaves a game that has not ended."""
    service = online_of(request).service
    service.finish(service.sessions.get(number, token), "abandoned")
    return Response(status_code=204)


@router.websocket("/{number}/ws")
async def play(socket: WebSocket, number: str) -> None:
    """Plays a game over a WebSocket.

    The first message is {"token": TOKEN}; the answer tells the steps so far and the last action, so
    that a client whose connection broke can go on. Then each binary message is an observation, and
    its answer is an action. {"ended": …, "score": …} ends the game.
    """
    service = online_of(socket).service
    await socket.accept()
    try:
        session = await _greeted(socket, service, number)
        leaving = asyncio.create_task(_leave_when_over(socket, session))
        try:
            await _play(socket, service, session)
        finally:
            leaving.cancel()
    except Refusal as refusal:
        await _refused(socket, refusal)
    except (WebSocketDisconnect, RuntimeError):  # the client is gone
        return


async def _play(socket: WebSocket, service: Service, session: Session) -> None:
    """Answers observations until the session has ended or the client is gone."""
    while session.state == "open":
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return  # the client may come back until the session is idle for too long
        if message.get("bytes") is not None:
            service.sessions.get(session.id, session.token)
            decision = await service.decide(session, _picture(message["bytes"]))
            await socket.send_text(_json(_told(decision)))
        else:
            said = _report(message.get("text") or "")
            ended = _ended(service, session, said)
            await socket.send_text(ended.model_dump_json())
    await socket.close(1000)


async def _leave_when_over(socket: WebSocket, session: Session) -> None:
    """Closes the connection of a client that says nothing although its session has ended."""
    await session.over.wait()
    await asyncio.sleep(_LEAVING_SECONDS)
    await _refused(socket, Refusal(404, f"the session is over: {session.state}. Begin a new one."))


async def _greeted(socket: WebSocket, service: Service, number: str) -> Session:
    """Waits for the token, and answers how far the game is."""
    try:
        async with asyncio.timeout(_HELLO_SECONDS):
            first = await socket.receive_text()
    except (TimeoutError, KeyError) as error:
        raise Refusal(408, 'the first message must be {"token": TOKEN}.') from error
    told = _object(first)
    session = service.sessions.get(number, str(told.get("token", ""))[:LONGEST_KEY])
    last = session.actions[-1] if session.actions else None
    await socket.send_text(_json({"steps": session.steps, "action": last}))
    return session


async def _refused(socket: WebSocket, refusal: Refusal) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # the client is gone
        await socket.send_text(_json({"error": refusal.message, "status": refusal.status}))
        await socket.close(1008, refusal.message[:100])


def _report(text: str) -> Report:
    try:
        return Report.model_validate(_object(text))
    except ValueError as error:
        raise Refusal(
            400,
            'a text message must be {"ended": "terminated" | "truncated" | "left", "score": N}.',
        ) from error


def _object(text: str) -> dict[str, Any]:
    try:
        found = from_json(text, allow_inf_nan=False)  # unlike `json`, it takes no half a character
    except ValueError as error:
        raise Refusal(400, f"a text message must be a JSON object, not {quoted(text)}.") from error
    if not isinstance(found, dict):
        raise Refusal(400, f"a text message must be a JSON object, not {quoted(text)}.")
    return found


def _ended(service: Service, session: Session, said: Report) -> OutcomeDocument:
    state: Literal["ended", "abandoned"] = "abandoned" if said.ended == "left" else "ended"
    done = service.finish(session, state, said.score)
    return OutcomeDocument(id=session.id, **done._asdict())


def _picture(body: bytes) -> NDArray[np.uint8]:
    """Returns the observation in a body: a view, nothing is copied."""
    shape = _SHAPES.get(len(body))
    if shape is None:
        sizes = ", ".join(f"{size:,}" for size in _SHAPES)
        raise Refusal(
            400,
            f"an observation has {sizes} bytes (a frame, a stack or a screen), not {len(body):,}.",
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _told(decision: Decision) -> dict[str, Any]:
    return {
        "step": decision.step,
        "action": decision.action,
        "explored": decision.explored,
        "q_values": decision.values.tolist(),
    }


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _document(session: Session, token: str | None = None) -> SessionDocument:
    return SessionDocument(
        id=session.id,
        token=token,
        game=session.game,
        mode=session.kind,
        protocol=session.protocol,
        version=session.version,
        role=session.role,
        key=session.key,
        seed=session.seed,
        steps=session.steps,
        state=session.state,
        mixed=session.mixed,
    )
