"""The HTTP application: routes, errors, and what every request must pass first."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rlarcade
from rlarcade.errors import ConfigError, RegistryError
from rlarcade.serving import approvals_http, run_http, sessions_http, v1, v2, watch_http
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import Online
from rlarcade.serving.rollout_store import is_unusable
from rlarcade.serving.watching import Watching
from rlarcade.text import quoted

_log = logging.getLogger(__name__)


def make_app(online: Online, hosts: Collection[str] | None = None) -> FastAPI:
    """Makes the application.

    Args:
        online: the service.
        hosts: names under which the server may be addressed; None: any. On loopback, only those of
            this machine: otherwise a page on the web could reach the server through a name that
            it lets point here.
    """
    app = FastAPI(
        title="rlarcade",
        version=rlarcade.__version__,
        description="Game-playing agents online: inference, sessions and rollouts.",
        lifespan=_lifespan(online),
        docs_url=None,  # its page loads scripts from the web
        redoc_url=None,
    )
    app.state.online = online
    app.state.watching = Watching(online.service)
    app.state.ended_rollouts = v1.EndedRollouts()
    rollouts = v1.router, approvals_http.router
    games = sessions_http.router, watch_http.router, run_http.router
    for router in (v2.busiest, v2.router, *rollouts, *games, watch_http.page):
        app.include_router(router)
    _answer_errors(app)
    app.add_middleware(Guard, online=online, hosts=hosts)
    return app


def _lifespan(online: Online) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching: Watching = app.state.watching
        driving = [asyncio.create_task(watching.run())]
        if online.controller is not None:
            driving.append(asyncio.create_task(online.controller.run()))
        if online.run is not None:
            driving.append(asyncio.create_task(online.run.run()))
        yield
        for task in driving:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        watching.close()
        await online.service.close()

    return lifespan


# Errors


def _answer_errors(app: FastAPI) -> None:
    """Makes every error {"error": one line}: tritonclient reads this under /v2."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        del request
        after = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
        return _error(refusal.status, refusal.message, after)

    @app.exception_handler(RegistryError)
    async def registry(request: Request, error: RegistryError) -> Response:
        del request
        return _error(status_of(error), str(error))

    @app.exception_handler(ConfigError)
    async def config(request: Request, error: ConfigError) -> Response:
        del request
        return _error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        del request
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return _error(400, f"{where}: {first['msg']}, got {quoted(first.get('input'))}.")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        told = {404: f"there is no {path}.", 405: f"{path} has no {request.method}."}
        return _error(error.status_code, told.get(error.status_code, str(error.detail)))


def status_of(error: RegistryError) -> int:
    """Returns the HTTP status for an error of the registry."""
    return 503 if is_unusable(error) else 409


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    plain = Refusal(status, message)
    return JSONResponse({"error": plain.message}, status, headers)


# What every request passes


class Guard:
    """Refuses requests from foreign pages, answers crashes as JSON, and counts requests."""

    def __init__(self, app: ASGIApp, online: Online, hosts: Collection[str] | None) -> None:
        self._app, self._online = app, online
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request or WebSocket, or the start and the end of the server."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        wrong = self._foreign(scope)
        if wrong is not None:
            await _refuse(scope, receive, send, wrong)
            self._online.service.metrics.request("refused", wrong.status)
            return
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            _log.exception("a request failed: %s", scope["path"])
            if scope["type"] == "http" and status == 0:
                failed = Refusal(500, "the server made a mistake; its log says which.")
                await _refuse(scope, receive, sent, failed)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._online.service.metrics.request(route, status or 101)

    def _foreign(self, scope: Scope) -> Refusal | None:
        """Why a request is refused: it was sent by a page from elsewhere."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = _host_name(host)
        if self._hosts is not None and name not in self._hosts:
            return Refusal(
                421, f"this server is not {host}. Address it as {sorted(self._hosts)[0]}."
            )
        if b"origin" in headers:
            origin = headers[b"origin"].decode("latin-1")
            if _address(origin) != host.lower():
                return Refusal(403, f"pages of {origin} may not use this server.")
        return None


@lru_cache(maxsize=64)  # a server has few names, and every request brings one
def _host_name(host: str) -> str | None:
    """Returns the name in a Host header, in lower case, without its port; None: it has none."""
    try:
        return urlsplit(f"//{host}").hostname if "@" not in host else None
    except ValueError:  # such as "[::1"
        return None


def _address(origin: str) -> str | None:
    """Returns host and port of an Origin header, in lower case; None: it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:100]})
        return
    answer: Callable[[Scope, Receive, Send], Awaitable[None]] = JSONResponse(
        {"error": refusal.message}, refusal.status
    )
    await answer(scope, receive, send)
