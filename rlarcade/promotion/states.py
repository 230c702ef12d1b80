"""What a submission is, the states that it can be in, and what people said of it."""

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
"""Where a submission can go from each state. Only `passed` leads on, by approval, to `promoted`."""


class Approval(BaseModel):
    """What a person said, and of what exactly they said it."""

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
    """Number of the champion that it is measured against."""
    champion_generation: int
    gate: str
    """Digest of the gate."""
    verdict: str | None = None
    """Digest of what the gate found."""
    note: str | None = None
    """Why it is where it is, where the state does not say it."""
    opened: str
    opened_by: str
    approvals: tuple[Approval, ...] = ()

    @field_validator("opened")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("it has no time zone")
        return value

    @property
    def over(self) -> bool:
        """Whether nothing can happen to it any more."""
        return not TRANSITIONS[self.state] or (self.mode == "ci" and self.state == "passed")

    def expired(self, days: float, now: datetime) -> bool:
        """Whether it has waited for longer. A clock that went backwards makes nothing expire."""
        return now - datetime.fromisoformat(self.opened) > timedelta(days=days)
