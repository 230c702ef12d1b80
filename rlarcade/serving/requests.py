"""What every route needs of a request: the service, the operator's token, and the body."""

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message

from rlarcade.checked import AsWritten
from rlarcade.games.protocols import Protocol
from rlarcade.serving.assignment import Role
from rlarcade.serving.controller import ANOTHER, Controller
from rlarcade.serving.following import FollowedRun
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.service import Service
from rlarcade.serving.sessions import LONGEST_KEY, State

Key = Annotated[str, Field(min_length=1, max_length=LONGEST_KEY)]
"""Names a user, or a group of users."""
SessionToken = Annotated[str, Header(alias="X-Session-Token", max_length=LONGEST_KEY)]


class Asked(AsWritten):
    """A body of a request."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Told(BaseModel):
    """A body of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class GameAsked(Asked):
    """The game that a client wants to begin, whoever has the emulator."""

    game: Annotated[str, Field(max_length=LONGEST_KEY)]
    """Any spelling of the game's name."""
    key: Key | None = None
    """Names the user, so that one version plays all of the user's games. Unset: a new user."""
    group: Key | None = None
    """Group of the user, for phased rollouts."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the emulator. Unset: the server gives one. Only then the game counts in a rollout."""
    version: Annotated[str, Field(max_length=20)] | None = None
    """Number of the version that shall play. Unset: the plan decides."""


class GameTold(Told):
    """A game, as its client sees it, whoever has the emulator."""

    id: str
    token: str | None = None
    """Proves that a client may go on with the game. It is told once, when the game begins."""
    game: str
    protocol: Protocol
    role: Role | None
    """Role of the version in a rollout; null: the client addressed it, or a person plays."""
    key: str
    seed: int | None
    """Seed to reset the emulator with."""
    steps: int
    """Steps played so far."""
    state: State


class ErrorDocument(BaseModel):
    """Why a request is refused."""

    error: str
    """One line."""


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorDocument, "description": "the request is refused"},
    "5XX": {"model": ErrorDocument, "description": "the server or a version failed"},
}
"""What every route may answer, for the OpenAPI document."""

LARGEST_DOCUMENT = 1_000_000
"""Most bytes of a JSON document in a request, other than one for inference."""
LARGEST_BODY = 32_000_000
"""Most bytes of a request's body; 256 stacks in JSON have 29 million."""
BODY_SECONDS = 20.0
"""A body that takes longer to arrive is refused."""


@dataclass
class Online:
    """What the routes need."""

    service: Service
    controller: Controller | None
    """None: there is no registry, so nothing can be rolled out."""
    token: str | None
    """The operator's token; None: operators are refused."""
    registry: str | None
    """Where the registry is, for messages."""
    run: FollowedRun | None = None
    """The run that is followed instead of a registry."""

    def require_operator(self, request: Request) -> Controller:
        """Requires the operator's token; returns the controller.

        Raises:
            Refusal: 401 without a token, 403 with a wrong one or if the server has none, 409
                without a registry, or if another server drives the rollouts.
        """
        if self.token is None:
            raise Refusal(
                403,
                "this server takes no operators' orders, because it was started without a token. "
                "Set RLARCADE_TOKEN or --token-file for `serve`.",
            )
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given:
            raise Refusal(
                401, "operators need the token: Authorization: Bearer TOKEN (RLARCADE_TOKEN)."
            )
        if not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise Refusal(403, "the operator's token is wrong. It is the one that `serve` has.")
        if self.controller is None:
            raise Refusal(
                409, "nothing can be rolled out: the server has no registry. See promote register."
            )
        if self.controller.other is not None:
            raise Refusal(409, f"orders are taken by {self.controller.other}, {ANOTHER}")
        return self.controller


def online_of(request: Any) -> Online:
    """Returns what a route of this request or WebSocket needs."""
    found: Online = request.app.state.online
    return found


async def body_of(request: Request, limit: int | None = None) -> bytes:
    """Reads the body of a request.

    Args:
        request: the request.
        limit: most bytes; None: `LARGEST_BODY`.

    Raises:
        Refusal: 413: it is too large; 408: it does not arrive.
    """
    limit = LARGEST_BODY if limit is None else limit
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise Refusal(413, f"a body has at most {limit:,} bytes.")
                parts.append(part)
    except TimeoutError as error:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} seconds.") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


class DocumentRoute(APIRoute):
    """A route that reads the JSON document of its requests within bounds of size and time.

    FastAPI itself would read a body of any size, and wait for it for any time.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns what answers a request; the errors are those of `body_of`."""
        answer = super().get_route_handler()
        if self.body_field is None:
            return answer

        async def bounded(request: Request) -> Response:
            body = await body_of(request, LARGEST_DOCUMENT)

            async def whole() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await answer(Request(request.scope, whole))

        return bounded
