"""HTTP connections that may not be slow: uvicorn has no limit for a request's head."""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
"""A request whose head does not arrive within this time is given up."""
LARGEST_HEAD = 65_536
"""Most bytes of a request's head."""


class PatientProtocol(HttpToolsProtocol):
    """A connection that is closed when a request's head is too slow or too large.

    Otherwise clients that send a byte a minute ("slow loris") would use up all connections. A slow
    body is `requests.body_of`'s affair.
    """

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expects the first request."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a head or of a body."""
        answered = self.cycle is None or self.cycle.response_complete
        if self._deadline is None and answered:
            self._expect_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and self._head_bytes > LARGEST_HEAD:
            self._give_up()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._forget_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._forget_deadline()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._forget_deadline()
        self.transport.abort()
