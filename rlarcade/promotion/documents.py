"""What the registry tells: frozen, and the same after a round trip through JSON."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rlarcade.games.protocols import Protocol

State = Literal["ok", "broken", "archived"]
MoveKind = Literal["promote", "rollback", "set", "force"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Document):
    """A checkpoint that was registered; nothing but its aliases and state ever changes."""

    number: int
    """1, 2, 3 …, over all games of the registry."""
    digest: str
    """sha256 of the weights file: what evaluations and matches call `version`."""
    game: str
    protocol: Protocol
    num_actions: int
    contract: str
    """sha256 of what whoever plays it must agree on: game, protocol, actions, observations."""
    aliases: tuple[str, ...] = ()
    """The game's aliases that point to it now."""
    state: State = "ok"
    """broken: damaged, never loaded. archived: hidden, never promoted."""
    broken_reason: str | None = None
    weights_bytes: int
    manifest_digest: str
    """sha256 of the manifest file."""
    parent: str | None
    """Digest of the version that its training started from, if not from random weights."""
    preset: str | None
    seed: int | None
    steps: int
    frames: int
    updates: int
    git_commit: str | None
    libraries: dict[str, str]
    source: str
    """Where it was registered from, as given."""
    registered: str
    """UTC, ISO 8601; for display only."""


class Alias(_Document):
    """A name in use for a version of a game, such as `champion`."""

    game: str
    name: str
    version: int
    """The version's number."""
    digest: str
    generation: int
    """Moves so far. Who wants to move it must know this number."""


class AliasMove(_Document):
    """One move of an alias."""

    game: str
    name: str
    version: int | None
    """Number of the version that it points to from then on; None: to none."""
    previous: int | None
    generation: int
    """Of the alias after the move: 1, 2, 3 …"""
    kind: MoveKind
    actor: str
    reason: str | None
    time: str
    """UTC, ISO 8601; for display only."""
    verdict: str | None
    """Digest of the document that the move rests on."""
    os_user: str | None = None
    """User of the operating system whose process moved it; None: an older rlarcade did."""


class Event(_Document):
    """One entry of the audit log."""

    sequence: int
    """1, 2, 3 … without gaps."""
    time: str
    """UTC, ISO 8601; for display only: entries are ordered by their sequence."""
    actor: str
    kind: str
    document: dict[str, Any]
    previous: str
    """Digest of the entry before; zeros before the first."""
    digest: str
    """sha256 of the canonical JSON of all fields above."""


class Receipt(_Document):
    """What the audit log was at some time; kept elsewhere, it shows whether any of it is gone."""

    count: int
    """Entries that it had."""
    digest: str
    """Of the last of them, and so of all; zeros without any."""

    def __str__(self) -> str:
        return f"{self.count}:{self.digest}"


class Problem(_Document):
    """Something that is not as it was written."""

    where: str
    what: str
