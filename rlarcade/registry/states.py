"""Submissions, their states, and people's approvals and denials."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

Mode = Literal["promote", "ci", "delivery", "deployment"]
SubmissionState = Literal[
    "submitted",
    "verifying",
    "matching",
    "passed",
    "rejected",
    "inconclusive",
    "error",
    "awaiting_approval",
    "approved",
    "denied",
    "expired",
    "stale",
    "promoted",
]

TRANSITIONS: dict[SubmissionState, tuple[SubmissionState, ...]] = {
    "submitted": ("verifying", "stale"),
    "verifying": ("matching", "passed", "rejected", "inconclusive", "error", "stale"),
    "matching": ("passed", "rejected", "inconclusive", "error", "stale"),
    "error": ("verifying", "stale"),
    "passed": ("awaiting_approval", "approved", "stale"),
    "awaiting_approval": ("approved", "denied", "expired", "stale"),
    "approved": ("promoted", "stale"),
    "rejected": (),
    "inconclusive": (),
    "denied": (),
    "expired": (),
    "stale": (),
    "promoted": (),
}
"""Next states by state. The only way to `promoted` leads from `passed` through `approved`."""


class Approval(BaseModel):
    """One person's decision, and exactly what it is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    decision: Literal["approve", "deny"]
    note: str
    version: str
    """Digest of the version."""
    verdict: str
    """Digest of the gate's verdict."""
    champion_generation: int
    time: str


class Submission(BaseModel):
    """A version on its way through a gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    version: int
    digest: str
    game: str
    mode: Mode
    state: SubmissionState
    champion: int | None
    """Number of the champion that it is compared with; None: the game had none."""
    champion_generation: int
    gate: str
    """Digest of the gate."""
    verdict: str | None = None
    """Digest of the gate's verdict."""
    note: str | None = None
    """Reason for the state, where the state alone does not explain it."""
    opened: str
    opened_by: str
    approvals: tuple[Approval, ...] = ()

    @field_validator("opened")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("the time has no time zone")
        return value

    @property
    def over(self) -> bool:
        """Whether its state is final."""
        return not TRANSITIONS[self.state] or (self.mode == "ci" and self.state == "passed")

    def expired(self, days: float, now: datetime) -> bool:
        """Whether it was opened more than `days` ago. A clock set back makes nothing expire."""
        return now - datetime.fromisoformat(self.opened) > timedelta(days=days)
