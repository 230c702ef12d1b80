"""Requests that the server refuses."""

from rlarcade.text import printable

_LONGEST = 500  # characters of a message


class Refusal(Exception):
    """A request is refused: an HTTP status, and one line that says why and what to do.

    Attributes:
        status: the HTTP status, 400 to 599.
        message: one printable line.
        retry_after: seconds after which the client may try again; None: it need not try.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        self.status = status
        self.message = printable(message, _LONGEST)
        self.retry_after = retry_after
        super().__init__(self.message)
