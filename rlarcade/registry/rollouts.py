"""Rollouts, their states, and the games that they count.

The tables hold what the audit log says: `replayed` gives the rows that follow from an entry.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

RolloutState = Literal[
    "preparing",
    "progressing",
    "paused",
    "rolling_back",
    "rolled_back",
    "succeeded",
    "aborted",
]

TRANSITIONS: dict[RolloutState, tuple[RolloutState, ...]] = {
    "preparing": ("progressing", "rolling_back", "aborted"),
    # To `progressing` again: the next step.
    "progressing": ("progressing", "paused", "rolling_back", "succeeded", "aborted"),
    "paused": ("progressing", "rolling_back", "succeeded", "aborted"),
    "rolling_back": ("rolled_back",),
    "succeeded": ("rolling_back",),  # undone by an operator
    "rolled_back": (),
    "aborted": (),
}
"""Next states by state. A paused rollout succeeds only if an operator decides so."""

OPEN_STATES: tuple[RolloutState, ...] = ("preparing", "progressing", "paused", "rolling_back")
"""States of a rollout that new games of its game depend on."""

OPENED, GAMES = "rollout.opened", "rollout.games"
"""Kinds of entries of the audit log. The others are `rollout.STATE`."""


class Rollout(BaseModel):
    """A version on its way to the games of all users, or back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    game: str
    version: int
    """Number of the candidate."""
    digest: str
    """Digest of the candidate."""
    champion: int
    """Number of the version that it shall replace."""
    champion_generation: int
    """Generation of the champion's alias; if it changes, the rollout is void."""
    strategy: str
    spec: str
    """Digest of the document with its settings."""
    submission: int | None
    """The submission that it releases; None: an operator's own decision."""
    salt: str
    """Makes its assignment of sessions independent of other rollouts'."""
    opened: str
    opened_by: str
    state: RolloutState
    step: int
    """Index of the current step."""
    note: str | None = None
    """Reason for the state."""
    resumed_after: int = 0
    """Pairs that counted when an operator last resumed it."""


class ServedGame(BaseModel):
    """A game that counts in a rollout: who was assigned, and the result that the server proved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rollout: int
    number: int
    """0, 1, 2 … in the order in which the games of the rollout were assigned."""
    role: Literal["champion", "control", "candidate"]
    step: int
    """Step of the rollout in which it was assigned."""
    key: str
    """Key of the session: the same user has the same key."""
    group: str | None = None
    """Group of the session, as in a phased rollout."""
    pair: int | None = None
    """Number of the pair of twins that it belongs to; None: it is no twin."""
    seed: int | None
    """Seed that the server gave; None: it gave none, so the game shows errors, but no score."""
    version: int
    ended: Literal["terminated", "truncated", "failed"] | None = None
    """None: it has not ended."""
    score: float | None = None
    """Score of the version's game with this seed, as the server itself played or replayed it."""
    steps: int | None = None
    errors: bool = False
    """Whether a decision failed."""
    slow: bool = False
    """Whether too many decisions were slow."""
    abandoned: bool = False
    """Whether the client left, so that the server played the game to its end."""
    claimed: float | None = None
    """Score that the client reported; None: it reported none."""
    record: str | None = None
    """Digest of the document with the game's actions and rewards."""


Rows = dict[Any, dict[str, Any]]
"""Rows of a table by their key."""


def replayed(kind: str, document: Mapping[str, Any], rollouts: Rows, games: Rows) -> None:
    """Applies one entry of the audit log to the rows that follow from it.

    Args:
        kind: kind of the entry; others than a rollout's do nothing.
        document: its content.
        rollouts: rows by id.
        games: rows by rollout and number.

    Raises:
        KeyError: the entry misses a field, or is about an unknown rollout or game.
        ValueError: the entry is impossible after those before it.
    """
    if not kind.startswith("rollout."):
        return
    if kind == OPENED:
        if document["id"] in rollouts or document["state"] != "preparing":
            raise ValueError(f"rollout {document['id']} was opened before")
        rollouts[document["id"]] = dict(document)
        return
    row = rollouts[document["rollout"]]
    if kind == GAMES:
        _take_games(row["id"], document, games)
        return
    state = kind.removeprefix("rollout.")
    if document["from"] != row["state"] or state not in TRANSITIONS[row["state"]]:
        raise ValueError(f"a rollout that is {row['state']} cannot become {state}")
    row |= {"state": state} | {name: document[name] for name in ("step", "note", "resumed_after")}


def _take_games(rollout: int, document: Mapping[str, Any], games: Rows) -> None:
    for told in document["assigned"]:
        key = rollout, told["number"]
        if key in games:
            raise ValueError(f"game {told['number']} was assigned before")
        games[key] = dict(told)
    for told in document["ended"]:
        row = games[rollout, told["number"]]
        if row["ended"] is not None:
            raise ValueError(f"game {told['number']} had ended before")
        row |= told
