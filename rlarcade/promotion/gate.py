"""The gate: the checks that a version must pass before it becomes the champion of its game.

Checks run in order, cheap ones first. Each returns *pass*, *fail* or *unknown*, with its evidence.
A check that could show neither is *unknown*, and only *pass* promotes.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlarcade.checked import AsWritten, validated
from rlarcade.config import shipped_config
from rlarcade.toml_files import errors_of, read_toml_as

Outcome = Literal["pass", "fail", "unknown"]
GATE_FILE = "gate.toml"


_Share = Annotated[float, Field(gt=0, lt=1)]
_Count = Annotated[int, Field(ge=1, le=100_000)]
_Positive = Annotated[float, Field(gt=0)]
_Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]
_DAY = 86_400.0


class _Part(AsWritten):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SmokeCheck(_Part):
    """Plays the first steps of a game."""

    enabled: bool = True
    steps: _Count = 300
    max_seconds: _Seconds = 120.0


class SizeCheck(_Part):
    """Limits the size of the weights."""

    enabled: bool = True
    max_megabytes: _Positive = 100.0


class LatencyCheck(_Part):
    """Limits the time of one decision."""

    enabled: bool = True
    max_milliseconds: _Positive = 100.0
    decisions: Annotated[int, Field(ge=20, le=100_000)] = 100
    max_seconds: _Seconds = 60.0


class RandomCheck(_Part):
    """A match against a random policy."""

    enabled: bool = True
    alpha: _Share = 0.01
    max_pairs: _Count = 60
    max_seconds: _Seconds = _DAY
    first_champion: bool = False


class MatchCheck(_Part):
    """The match against the champion."""

    enabled: bool = True
    alpha: _Share = 0.05
    beta: _Share = 0.10
    max_pairs: _Count = 400
    max_seconds: _Seconds = _DAY
    non_inferiority: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class GuardCheck(_Part):
    """Requires proof that the version is not worse by the margin, in every game."""

    enabled: bool = True
    margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.10


class Approvals(_Part):
    """How many people must approve, and how long a submission waits for them."""

    required: Annotated[int, Field(ge=0, le=1000)] = 0
    expire_days: Annotated[float, Field(gt=0, le=36_600)] = 30.0


class Gate(_Part):
    """All checks of a gate, with the defaults of `configs/gate.toml`, which explains every key."""

    size: SizeCheck = SizeCheck()
    latency: LatencyCheck = LatencyCheck()
    smoke: SmokeCheck = SmokeCheck()
    random: RandomCheck = RandomCheck()
    match: MatchCheck = MatchCheck()
    guard: GuardCheck = GuardCheck()
    approvals: Approvals = Approvals()


class Check(BaseModel):
    """What one check found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    outcome: Outcome
    evidence: str
    """One line with the numbers that decided."""
    details: dict[str, Any] = {}
    """Further figures, such as the counts of a match."""
    seconds: float = 0.0


class Attempt(BaseModel):
    """The share of the gate's α for one version's match against the champion.

    Many versions may meet the same champion, and each may be lucky. So the first match uses 6/π² of
    α, the second a quarter of that, the j-th 6α/(π²j²). These shares add up to α. So the
    probability that any version which is no better becomes champion is at most α, however many
    versions are submitted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """1, 2, 3 …: the version's place among those submitted against this champion's generation."""
    alpha: float
    """The α of this version's match."""
    budget: float
    """The gate's α, which all attempts share."""
    spent: float
    """Sum of the shares of all attempts up to and including this one."""


class GateVerdict(BaseModel):
    """A gate's findings about a version; stored as a document that is named by its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    """Digest of the version."""
    number: int
    game: str
    champion: str | None
    """Digest of the champion that the version met; None: the game had no champion."""
    champion_generation: int
    """Generation of the champion's alias. Once the alias moves, the verdict is out of date."""
    gate: Gate
    attempt: Attempt | None = None
    """None: the game had no champion, or an older rlarcade made the verdict."""
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Literal["passed", "rejected", "inconclusive"]:
        """Passed if every check passed; rejected if one failed; else inconclusive."""
        outcomes = {check.outcome for check in self.checks}
        if "fail" in outcomes:
            return "rejected"
        return "inconclusive" if "unknown" in outcomes or not outcomes else "passed"


def load_gate(path: Path | None = None) -> Gate:
    """Reads a gate file; without a path, the default gate.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or invalid value.
    """
    if path is not None:
        return read_toml_as(Gate, path, "gate")
    with errors_of(f"gate {GATE_FILE}"):
        return validated(Gate, tomllib.loads(shipped_config(GATE_FILE)))
