"""A client of a server: it gives operators' orders, and plays games with the server's agents."""

import http.client
import json
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from rlarcade.errors import ConfigError, ServerError
from rlarcade.games.protocols import Protocol
from rlarcade.games.single import GameEnv
from rlarcade.json_text import parse_json
from rlarcade.text import printable, shown_path

_SECONDS = 60.0  # for an answer
_LARGEST_ANSWER = 64_000_000
_FAILED, _BUSY = 500, 503  # statuses
_ATTEMPTS, _PAUSE = 20, 0.5  # to reach a server that was lost in the middle of a game


@dataclass(frozen=True)
class Played:
    """A game that was played against a server."""

    seed: int
    version: int
    role: str | None
    score: float
    steps: int
    ended: str
    seconds: tuple[float, ...]
    """Time of each decision, from sending the frame to receiving the action."""
    failure: str | None = None
    """Why the version failed; None: the game was played to its end."""


class ServerClient:
    """Talks with one server.

    Attributes:
        url: the server's address.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        """Takes the address. Nothing is sent yet.

        Args:
            url: such as http://127.0.0.1:8000.
            token: the operator's token, for orders.

        Raises:
            ConfigError: the address is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")  # as the connection will
        except ValueError:  # UnicodeError is one
            parts, port = urlsplit(""), None
        bare = parts.path in ("", "/") and not parts.query and not parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or not bare:
            raise ConfigError(
                f"--server {shown_path(url)} is no server's address. Give one such as "
                "http://127.0.0.1:8000."
            )
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"
        self._host, self._port, self._token = parts.hostname, port, token

    def get(self, path: str) -> Any:
        """Returns the document at a path.

        Raises:
            ServerError: the server cannot be reached, or refuses.
        """
        return self._asked("GET", path, None)

    def post(self, path: str, document: dict[str, Any]) -> Any:
        """Sends a document and returns the answer. Errors are those of `get`."""
        return self._asked("POST", path, document)

    def _asked(self, method: str, path: str, document: dict[str, Any] | None) -> Any:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = None if document is None else json.dumps(document).encode()
        try:
            with closing(kind(self._host, self._port, timeout=_SECONDS)) as connection:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                data = answer.read(_LARGEST_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(
                f"{self.url} cannot be reached: {error}. Start a server with `rlarcade serve`."
            ) from error
        try:
            found = parse_json(data) if data else None
        except ValueError as error:
            raise ServerError(f"{self.url}{path} is not a rlarcade server's answer.") from error
        if answer.status >= 300:
            told = found.get("error") if isinstance(found, dict) else None
            raise ServerError(printable(str(told or f"{self.url}{path} answered {answer.status}.")))
        return found

    # Playing

    def play(
        self,
        game: str,
        *,
        key: str | None = None,
        group: str | None = None,
        env: GameEnv | None = None,
    ) -> tuple[Played, GameEnv]:
        """Plays a whole game: the emulator is here, the agent is at the server.

        If the connection breaks, it is made again, and the game goes on.

        Args:
            game: any spelling of the game's name.
            key: names the user; None: a new user.
            group: group of the user; None: none.
            env: an emulator to use again, of any game.

        Returns:
            The game, and the emulator. If the version fails, the game has `ended` as "failed".

        Raises:
            ServerError: the server cannot be reached, or refuses.
        """
        told = {"game": game, "key": key, "group": group}
        asked = {name: value for name, value in told.items() if value is not None}
        session = self.post("/v1/sessions", asked)
        protocol = Protocol.model_validate(session["protocol"])
        if env is None or (env.game, env.protocol) != (session["game"], protocol):
            env = GameEnv(session["game"], protocol=protocol)
        observation, _ = env.reset(seed=session["seed"])
        seconds: list[float] = []
        score, ended, failure = 0.0, "", None
        with _Line(self, session["id"], session["token"]) as line:
            while not ended:
                # The first observation is whole: some protocols begin with frames of their own.
                picture = observation if not seconds else observation[-1]
                began = perf_counter()
                try:
                    action = line.action(picture.tobytes(), len(seconds))
                except _VersionFailedError as error:
                    ended, failure = "failed", str(error)
                    break
                seconds.append(perf_counter() - began)
                observation, reward, terminated, truncated, _ = env.step(action)
                score += reward
                ended = "terminated" if terminated else "truncated" if truncated else ""
            else:
                line.report(ended, score)
        played = Played(
            session["seed"],
            session["version"],
            session["role"],
            score,
            len(seconds),
            ended,
            tuple(seconds),
            failure,
        )
        return played, env


class _Line:
    """The WebSocket of one session; it is opened again when it breaks."""

    def __init__(self, server: ServerClient, number: str, token: str) -> None:
        self._server = server
        self._url = f"ws{server.url.removeprefix('http')}/v1/sessions/{number}/ws"
        self._token = token
        self._socket: ClientConnection | None = None
        self._closing = ExitStack()

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        self._socket = None
        with suppress(OSError, WebSocketException):
            self._closing.close()

    def action(self, picture: bytes, step: int) -> int:
        """Sends the observation of a step and returns the action for it."""
        for attempt in range(_ATTEMPTS):
            try:
                if self._socket is None:
                    told = self._opened()
                    if told["steps"] == step + 1:  # only the answer was lost
                        return int(told["action"])
                assert self._socket is not None
                self._socket.send(picture)
                return int(self._answer()["action"])
            except (ConnectionClosed, OSError, WebSocketException, TimeoutError) as error:
                self._close()
                if attempt + 1 == _ATTEMPTS:
                    raise ServerError(
                        f"{self._server.url} was lost in the middle of a game: {error}."
                    ) from error
                sleep(_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    def report(self, ended: str, score: float) -> None:
        """Tells the server how the game ended. The server does not depend on it."""
        try:
            if self._socket is not None:
                self._socket.send(json.dumps({"ended": ended, "score": score}))
                self._answer()
        except (ConnectionClosed, OSError, TimeoutError):
            return

    def _opened(self) -> Any:
        opening = connect(
            self._url, compression=None, open_timeout=_SECONDS, proxy=None, max_size=_LARGEST_ANSWER
        )
        self._socket = self._closing.enter_context(opening)
        self._socket.send(json.dumps({"token": self._token}))
        return self._answer()

    def _answer(self) -> Any:
        assert self._socket is not None
        told = parse_json(self._socket.recv(_SECONDS))
        if "error" not in told:
            return told
        message = printable(str(told["error"]))
        if told.get("status") == _BUSY:
            raise ConnectionError(message)  # the server has closed this one; try again
        if told.get("status") == _FAILED:
            raise _VersionFailedError(message)
        raise ServerError(message)


class _VersionFailedError(ServerError):
    """The version that played has failed, so its game is over."""
