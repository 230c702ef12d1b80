"""Sessions: one game each, played by one version from its first to its last step.

An *act* session's client owns the emulator and asks for actions. A *sequence* is the same through
the Open Inference Protocol: the server gave no seed, so its game proves nothing.
A *watch* session's emulator is in the server.
"""

import asyncio
import hmac
import secrets
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlarcade.games.frame_stack import FrameStack
from rlarcade.games.protocols import SCREEN, STACK, Protocol
from rlarcade.games.screens import TALL_GAMES, grey_frame
from rlarcade.serving.assignment import Role
from rlarcade.serving.referee import Dice
from rlarcade.serving.refusals import Refusal

Kind = Literal["act", "watch", "sequence"]
State = Literal["open", "ended", "abandoned", "failed"]

LONGEST_KEY = 200  # characters
_MOST_SESSIONS = 10_000
_SCREEN = (210, 160, 3)
_LONGEST_GAME = 108_000  # steps; longer than the frame cap of every protocol


@dataclass(slots=True)
class Session:
    """A game that is being played, and what is needed to replay it."""

    id: str
    token: str
    """Proves that a client may go on with the session."""
    kind: Kind
    game: str
    protocol: Protocol
    version: int
    role: Role | None
    """None: the client addressed the version itself, so the game counts for no rollout."""
    key: str
    seed: int | None
    """Seed of the emulator; None: unknown to the server."""
    dice: Dice | None
    """Random actions of the protocol's ε; None: the version acts greedily."""
    counted: int | None = None
    """Number of the game in the rollout; None: it does not count."""
    rollout: int | None = None
    """The rollout in which it counts."""
    group: str | None = None
    """Group of the user, for phased rollouts."""
    mixed: bool = False
    """Whether another version took the game over in the middle; then it counts for neither."""
    state: State = "open"
    actions: bytearray = field(default_factory=bytearray)
    """Actions that the server gave, one a step."""
    sums: "array[int]" = field(default_factory=lambda: array("L"))
    """Checksum of the newest frame before each action."""
    slow: int = 0
    """Decisions that were slow."""
    errors: int = 0
    """Decisions that failed."""
    busy: bool = False
    """Whether a decision is being made."""
    used: float = 0.0
    """When the client was last seen, by the monotonic clock."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has ended, however."""
    _stack: FrameStack | None = None
    _newest: NDArray[np.uint8] | None = None
    """The newest observation, for which no action was given yet."""
    _decided: NDArray[np.uint8] | None = None
    """The observation before it."""

    def observed(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Takes the next observation; returns it as uint8 (4, 84, 84), newest frame last.

        Args:
            picture: uint8 (4, 84, 84), the newest frame (84, 84), or the screen (210, 160, 3). The
                session keeps the stack, so single frames may follow a whole stack.

        Raises:
            Refusal: it has another shape or dtype, or the game is longer than a game can be.
        """
        if len(self.actions) >= _LONGEST_GAME:
            raise Refusal(409, f"a game has at most {_LONGEST_GAME:,} steps. End the session.")
        if picture.dtype != np.uint8 or picture.shape not in _SHAPES:
            raise Refusal(
                400,
                f"an observation is uint8 of shape {STACK, SCREEN, SCREEN}, {SCREEN, SCREEN} or "
                f"{_SCREEN}; got {picture.dtype} {picture.shape}.",
            )
        if picture.shape == _SCREEN:
            if self.game in TALL_GAMES:
                raise Refusal(
                    400,
                    f"screens of {self.game} have more than 210 lines, so the server cannot make "
                    "the frames that the agent knows. Send 84×84 frames.",
                )
            picture = grey_frame(picture)
        if self._stack is None:
            self._stack = FrameStack()
        if picture.ndim == 2:
            picture = self._stack.push(picture)
        else:
            self._stack.replace(picture)
        self.sums.append(zlib.crc32(picture[-1]))
        self._newest = picture
        return picture

    def forget(self) -> None:
        """Forgets the newest observation: no action could be given, and the client sends it again.

        Otherwise its frame would be in the stack twice.
        """
        self.sums.pop()
        if self._decided is None:
            self._stack = None
        elif self._stack is not None:
            self._stack.replace(self._decided)

    def gave(self, action: int) -> None:
        """Records the action that was given for the newest observation."""
        self.actions.append(action)
        self._decided = self._newest

    @property
    def steps(self) -> int:
        """Actions given so far."""
        return len(self.actions)


_SHAPES = ((STACK, SCREEN, SCREEN), (SCREEN, SCREEN), _SCREEN)


class Sessions:
    """All open sessions. An idle one is taken out by `idle`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._open: dict[str, Session] = {}
        self._clock = clock

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._open.values()))

    def add(self, session: Session) -> None:
        """Adds a session.

        Raises:
            Refusal: there are too many, or its id is in use.
        """
        if len(self._open) >= _MOST_SESSIONS:
            raise Refusal(
                503, f"{_MOST_SESSIONS:,} sessions are open. Try again later.", retry_after=10
            )
        if session.id in self._open:
            raise Refusal(409, f"session {session.id} is open already. End it first.")
        session.used = self._clock()
        self._open[session.id] = session

    def get(self, number: str, token: str | None = None) -> Session:
        """Returns an open session, and notes that its client was seen.

        Args:
            number: its id.
            token: its token; None: the id alone is enough, as for sequences.

        Raises:
            Refusal: there is no such open session, or the token is wrong.
        """
        session = self._open.get(number)
        if session is None or (token is None) != (session.kind == "sequence"):
            raise Refusal(
                409 if token is None else 404,
                f"no session {number[:LONGEST_KEY]} is open: it never began, has ended, or was "
                "idle for too long. Begin a new one.",
            )
        if token is not None and not hmac.compare_digest(token.encode(), session.token.encode()):
            raise Refusal(403, "the session's token is wrong.")
        session.used = self._clock()
        return session

    def remove(self, session: Session) -> None:
        """Takes a session out. Removing it again does nothing."""
        self._open.pop(session.id, None)

    def idle(self, seconds: float) -> list[Session]:
        """Returns sessions whose clients were not seen for this long, and that decide nothing."""
        before = self._clock() - seconds
        return [one for one in self if one.used < before and not one.busy]

    def of_version(self, version: int) -> int:
        """Counts the open sessions that a version plays."""
        return sum(session.version == version for session in self._open.values())


def new_token() -> str:
    """Returns a token or an id that nobody can guess, of letters and digits.

    An id is also a word of a command line (`rollout outcome ID VALUE`), where a dash at its
    beginning would make it a flag.
    """
    return secrets.token_hex(18)
