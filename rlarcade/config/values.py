"""Types of single settings, and the base of all groups of settings."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from rlarcade import numbers
from rlarcade.checked import AsWritten, Checked, path_of
from rlarcade.errors import ConfigError
from rlarcade.games.protocols import Protocol, ProtocolName
from rlarcade.text import quoted

DevicePreference = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Compilation = Literal["auto", "on", "off"]

_TEN_YEARS = 5_256_000  # minutes
_WITH_EXPONENT = re.compile(r"[+-]?\d{1,19}(\.\d{0,19})?[eE]\+?\d{1,2}")


def whole_number(value: Any) -> Any:
    """Turns 1e6 and "1e6" into an int. Other values are returned unchanged and validated later."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WITH_EXPONENT.fullmatch(value):
        with suppress(ValueError):
            return numbers.whole_number(value)
    return value


Whole = Annotated[int, BeforeValidator(whole_number)]
Count = Annotated[Whole, Field(ge=1, le=10**15)]
Steps = Annotated[Whole, Field(ge=0, le=10**15)]
# These settings decide how much memory is used, so they have an upper bound.
Width = Annotated[Whole, Field(ge=1, le=65_536)]
Fractions = Annotated[Whole, Field(ge=1, le=10_000)]
Batch = Annotated[Whole, Field(ge=1, le=1_000_000)]

MOST_GAMES = 100_000
"""Most games of an evaluation, or pairs of a match: weeks of play. The document stays readable."""
Games = Annotated[Whole, Field(ge=1, le=MOST_GAMES)]

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _minutes(value: float) -> float:
    """Refuses more minutes than a run can last. The steps that fit into them must be countable."""
    if value > _TEN_YEARS:
        raise ValueError(
            f"minutes must be at most {_TEN_YEARS:,}, which is ten years, not {value:g}. Lower it, "
            "or set total_timesteps instead"
        )
    return value


Minutes = Annotated[float, Field(gt=0), AfterValidator(_minutes)]


def _path(value: Any) -> Any:
    """Refuses a path that no file can have."""
    return path_of(value, "a path") if isinstance(value, str | Path) else value


AnyPath = Annotated[Path, BeforeValidator(_path)]


def _address(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    path_of(value, "a path")
    return str(value)


# A path, or an address: as a path it would lose one of its two slashes.
AnyAddress = Annotated[str, BeforeValidator(_address)]


# A name, or a whole protocol. The tag decides which one was given, so that an error is about it.
AnyProtocol = Annotated[
    Annotated[ProtocolName, Tag("")] | Annotated[Protocol, Tag(" ")],
    Discriminator(lambda value: "" if isinstance(value, str) else " "),
]


class SettingsGroup(AsWritten, Checked):
    """A frozen group of settings. An unknown name, a wrong type and NaN are refused."""

    numbers_as_text: ClassVar[bool] = True

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def switch(value: Any) -> Any:
    """Accepts true and false, which runs and checkpoints of the first versions contain."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def check_device(value: Any) -> Any:
    """Refuses a GPU number such as cuda:1. CUDA_VISIBLE_DEVICES chooses among several GPUs.

    Raises:
        ConfigError: the device names a GPU by number; the message says how to choose it.
    """
    if isinstance(value, str) and (found := re.fullmatch(r"(cuda|gpu):?(\d{0,4})", value)):
        if value == "cuda":
            return value
        chosen = f"CUDA_VISIBLE_DEVICES={found[2]} and " if found[2] else ""
        raise ConfigError(
            f"device {quoted(value)} is invalid: rlarcade uses the first GPU that it sees. "
            f"Use {chosen}device cuda."
        )
    return value
