"""The gate: which checks a version must pass before it may be its game's champion.

Checks run in order, cheap ones first. Each says *pass*, *fail* or *unknown*, with its evidence;
what could not be shown is unknown, and only positive evidence promotes.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlarcade.checked import AsWritten, validated
from rlarcade.config import read_toml, shipped_config
from rlarcade.errors import ConfigError

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
    """Plays the beginning of a game."""

    enabled: bool = True
    steps: _Count = 300
    max_seconds: _Seconds = 120.0


class SizeCheck(_Part):
    """Bounds the weights' size."""

    enabled: bool = True
    max_megabytes: _Positive = 100.0


class LatencyCheck(_Part):
    """Bounds the time of one decision."""

    enabled: bool = True
    max_milliseconds: _Positive = 100.0
    decisions: Annotated[int, Field(ge=20, le=100_000)] = 100
    max_seconds: _Seconds = 60.0


class RandomCheck(_Part):
    """A match against random play."""

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
    """Not worse by a margin, in every game."""

    enabled: bool = True
    margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.10


class Approvals(_Part):
    """People who must agree."""

    required: Annotated[int, Field(ge=0, le=1000)] = 0
    expire_days: Annotated[float, Field(gt=0, le=36_600)] = 30.0


class Gate(_Part):
    """A whole gate; the defaults are those of `configs/gate.toml`, which explains every key."""

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
    """One line: the numbers that decided."""
    details: dict[str, Any] = {}
    """What a reader may want to look at, such as the counts of a match."""
    seconds: float = 0.0


class Attempt(BaseModel):
    """The share of a gate's α that a version's match with the champion is decided with.

    Version after version meets the same champion, and each may be lucky. So the first one's match
    is decided with 6/π² of α, the second's with a quarter of that, the j-th's with 6α/(π²j²). All
    of these add up to α: whoever is no better becomes champion with that probability at most,
    however many are sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """1, 2, 3 …: the version's place among those sent against this generation of the champion."""
    alpha: float
    """What its match is decided with."""
    budget: float
    """The gate's α. All attempts share it."""
    spent: float
    """Sum of the shares of all attempts up to this one."""


class GateVerdict(BaseModel):
    """What a gate found out about a version; kept whole, and named by its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    """Digest of the version."""
    number: int
    game: str
    champion: str | None
    """Digest of the champion that it was measured against; None: there was none."""
    champion_generation: int
    """Of the champion's alias then. Once it has moved on, the verdict speaks of the past."""
    gate: Gate
    attempt: Attempt | None = None
    """None: no champion was to be beaten, or the verdict is of an older rlarcade."""
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Literal["passed", "rejected", "inconclusive"]:
        """Passed if every check passed; rejected if one failed; else inconclusive."""
        outcomes = {check.outcome for check in self.checks}
        if "fail" in outcomes:
            return "rejected"
        return "inconclusive" if "unknown" in outcomes or not outcomes else "passed"


def load_gate(path: Path | None = None) -> Gate:
    """Reads a gate file; without one, the default gate.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has a key or value that no gate has.
    """
    where = str(path) if path else GATE_FILE
    document = read_toml(path, "gate") if path else tomllib.loads(shipped_config(GATE_FILE))
    try:
        return validated(Gate, document)
    except ConfigError as error:
        raise ConfigError(f"gate {where}: {error}") from error
