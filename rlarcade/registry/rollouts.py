"""Rollouts, their states, the games that they count, and what else is known of these.

The tables hold what the audit log says: `replayed` gives the rows that follow from an entry.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

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
OUTCOME, SHADOW = "rollout.outcome", "rollout.shadow"
"""Kinds of entries of the audit log. The others are `rollout.STATE`."""


class RolloutHead(BaseModel):
    """What a rollout is about, and where it stands."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: int
    game: str
    strategy: str
    version: int
    """The candidate."""
    champion: int  # the version that it shall replace
    state: RolloutState
    step: int  # index of the current step


class Rollout(RolloutHead):
    """A version on its way to the games of all users, or back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    """Digest of the candidate."""
    champion_generation: int
    """Generation of the champion's alias; if it changes, the rollout is void."""
    spec: str
    """Digest of the document with its settings."""
    submission: int | None
    """The submission that it releases; None: an operator's own decision."""
    salt: str
    """Makes its assignment of sessions independent of other rollouts'."""
    opened: str
    opened_by: str
    note: str | None = None
    """Reason for the state."""
    resumed_after: int = 0
    """Pairs that counted when an operator last resumed it."""

    @property
    def is_open(self) -> bool:
        """Whether new games of its game depend on it."""
        return self.state in OPEN_STATES


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
    session: str | None = None
    """The session's id; None: it is a twin, which nobody plays with."""
    begun: str | None = None
    """UTC time when the session began, for the window of later outcomes."""
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
    mixed: bool = False
    """Whether another version took the game over in the middle, after `steps` steps. Then it counts
    for neither."""
    claimed: float | None = None
    """Score that the client reported; None: it reported none."""
    record: str | None = None
    """Digest of the document with the game's actions and rewards."""

    @property
    def is_twin(self) -> bool:
        """Whether the candidate plays it by itself, beside a game of the champion."""
        return self.pair is not None and self.role == "candidate"


class FollowOn(BaseModel):
    """What somebody reported about a session later, such as whether the user came back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rollout: int
    number: int
    """0, 1, 2 … in the order in which the rollout's outcomes were reported."""
    game: int
    """Number of the game in the rollout."""
    value: float
    note: str | None
    reported: str
    """UTC time."""


class ShadowTally(BaseModel):
    """Decisions of the champion, by what a shadow did with them."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    compared: int
    """Decisions that both versions made."""
    agreed: int
    """Decisions for which both chose the same action."""
    failed: int
    """Decisions that the candidate did not make: it crashed, took too long, or gave no numbers."""
    dropped: int
    """Decisions that it did not see, because too many waited."""
    slow: int
    """Decisions that took more than the rollout's `slow_seconds`."""


class ShadowCounts(ShadowTally):
    """What a shadow would have done with the frames that the champion played.

    All sums are over the decisions that were compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rollout: int
    seconds: float
    """Sum of the times of its decisions."""
    gap: float
    """Sum of |value of the shadow's action by the shadow − of the champion's by the champion|."""
    regret: float
    """Sum of what the champion loses, by its own values, with the shadow's action."""

    @classmethod
    def of(cls, rollout: int, **counts: float) -> Self:
        """Returns the counts of a rollout's shadow; those that are not given are 0."""
        return cls.model_validate(
            dict.fromkeys(cls.model_fields, 0) | {"rollout": rollout} | counts
        )


Rows = dict[Any, dict[str, Any]]
"""Rows of a table by their key."""


class ToldRows(Protocol):
    """The rows of rollouts' tables that follow from the audit log."""

    rollouts: Rows
    """By id."""
    served_games: Rows
    """By rollout and number."""
    follow_ons: Rows
    """By rollout and number."""
    shadows: Rows
    """By rollout."""


def replayed(kind: str, document: Mapping[str, Any], told: ToldRows) -> None:
    """Applies one entry of the audit log to the rows that follow from it.

    Args:
        kind: kind of the entry; others than a rollout's do nothing.
        document: its content.
        told: the rows that follow from the entries before.

    Raises:
        KeyError: the entry misses a field, or is about an unknown rollout or game.
        ValueError: the entry is impossible after those before it.
    """
    if not kind.startswith("rollout."):
        return
    if kind == OPENED:
        if document["id"] in told.rollouts or document["state"] != "preparing":
            raise ValueError(f"rollout {document['id']} was opened before")
        told.rollouts[document["id"]] = dict(document)
        return
    row = told.rollouts[document["rollout"]]
    if kind == GAMES:
        _take_games(row["id"], document, told.served_games)
        return
    if kind == OUTCOME:
        _take_outcome(document, told)
        return
    if kind == SHADOW:
        told.shadows[row["id"]] = dict(document)
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


def _take_outcome(document: Mapping[str, Any], told: ToldRows) -> None:
    key = document["rollout"], document["number"]
    if key in told.follow_ons:
        raise ValueError(f"outcome {document['number']} was reported before")
    if (document["rollout"], document["game"]) not in told.served_games:
        raise ValueError(f"it is about an unknown game {document['game']}")
    told.follow_ons[key] = dict(document)
