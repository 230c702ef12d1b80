"""The registry's documents: frozen models that survive a round trip through JSON unchanged."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rlarcade.games.protocols import Protocol

State = Literal["ok", "broken", "archived"]
MoveKind = Literal["promote", "rollback", "set", "force"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Document):
    """A registered checkpoint. Only its aliases and state ever change."""

    number: int
    """1, 2, 3 …, counted over all games of the registry."""
    digest: str
    """sha256 of the weights file; evaluations and matches call it `version`."""
    game: str
    protocol: Protocol
    num_actions: int
    contract: str
    """sha256 of everything a player must match: game, protocol, actions, observations."""
    aliases: tuple[str, ...] = ()
    """The aliases of its game that point to it now."""
    state: State = "ok"
    """broken: damaged, so it is never loaded. archived: hidden and never promoted."""
    broken_reason: str | None = None
    weights_bytes: int
    manifest_digest: str
    """sha256 of the manifest file."""
    parent: str | None
    """Digest of the weights that training started from; None: random weights."""
    preset: str | None
    seed: int | None
    steps: int
    frames: int
    updates: int
    git_commit: str | None
    libraries: dict[str, str]
    source: str
    """Path that it was registered from, as given."""
    registered: str
    """UTC, ISO 8601; for display only."""


class Alias(_Document):
    """A name that points to a version of a game, such as `champion`."""

    game: str
    name: str
    version: int
    """The version's number."""
    digest: str
    generation: int
    """Number of moves so far. Moving the alias requires this number."""


class AliasMove(_Document):
    """One move of an alias."""

    game: str
    name: str
    version: int | None
    """Number of the version that the alias points to after the move; None: to no version."""
    previous: int | None
    """Number of the version that it pointed to before."""
    generation: int
    """Generation of the alias after the move: 1, 2, 3 …"""
    kind: MoveKind
    actor: str
    reason: str | None
    time: str
    """UTC, ISO 8601; for display only."""
    verdict: str | None
    """Digest of the document that justifies the move."""
    os_user: str | None = None
    """Operating-system user of the process that moved it; None: recorded by an older rlarcade."""


class Event(_Document):
    """One entry of the audit log."""

    sequence: int
    """1, 2, 3 … without gaps."""
    time: str
    """UTC, ISO 8601; for display only. The order of entries is their sequence."""
    actor: str
    kind: str
    document: dict[str, Any]
    previous: str
    """Digest of the entry before; zeros in the first entry."""
    digest: str
    """sha256 of the canonical JSON of all fields above."""


class Receipt(_Document):
    """The state of the audit log at some time. Kept elsewhere, it reveals entries removed later."""

    count: int
    """Number of entries."""
    digest: str
    """Digest of the last entry, which covers all entries; zeros if there are none."""

    def __str__(self) -> str:
        return f"{self.count}:{self.digest}"


class Problem(_Document):
    """Something in the registry that was damaged or altered."""

    where: str
    what: str
