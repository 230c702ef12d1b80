"""Which version plays a game: a function of the plan and of the session's key, without memory.

Each key has a point between 0 and 1, which is the same in every process. The candidate plays for
the points below its share, the control for those just above, the champion for the rest. So a key
that the candidate plays for stays with the candidate when its share grows.
"""

import math
from hashlib import blake2b
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["champion", "control", "candidate"]
"""`control` is the champion's version, in a group of games as large as the candidate's."""

_FROM_ZERO: tuple[Role, ...] = ("candidate", "control", "champion")
_BITS = 53  # of a float's mantissa; 64 bits would round to 1.0, which is no point below 1
_LONGEST_SALT = 64  # bytes, by BLAKE2


class Variant(BaseModel):
    """One version in a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    version: Annotated[int, Field(ge=0)]
    """Number of the version in the registry."""
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    """Share of the keys, 0 … 1."""


class Plan(BaseModel):
    """The versions that play now, and each one's share of the keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[Variant, ...]
    """At most one of each role. The champion is always there, perhaps with share 0."""
    salt: str
    """Key of the hash, 1 to 64 bytes. Each rollout has its own, so that assignments of two rollouts
    do not depend on each other. A client that knew it could choose its version."""
    groups: tuple[str, ...] | None = None
    """The groups to which the shares apply; the champion plays for all others. None: all groups."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        roles = [variant.role for variant in self.variants]
        if len(set(roles)) < len(roles) or "champion" not in roles:
            raise ValueError(f"a plan has the champion, and each role at most once, not {roles}")
        total = math.fsum(variant.share for variant in self.variants)
        if not math.isclose(total, 1, abs_tol=1e-9):
            raise ValueError(f"the shares of a plan sum to 1, not {total:g}")
        versions = {variant.role: variant.version for variant in self.variants}
        if versions.get("control", versions["champion"]) != versions["champion"]:
            raise ValueError(
                f"the control plays the champion's version {versions['champion']}, "
                f"not {versions['control']}"
            )
        if not 1 <= len(_bytes(self.salt)) <= _LONGEST_SALT:
            raise ValueError(f"a salt has 1 to {_LONGEST_SALT} bytes, not {len(_bytes(self.salt))}")
        return self

    def variant(self, role: Role) -> Variant | None:
        """Returns the variant of a role, or None."""
        return next((variant for variant in self.variants if variant.role == role), None)


def share_point(key: str, salt: str) -> float:
    """Returns the point of a key, from 0 to below 1: keyed BLAKE2b, uniform over keys.

    Args:
        key: the session's key, any text.
        salt: key of the hash, 1 to 64 bytes.
    """
    digest = blake2b(_bytes(key), key=_bytes(salt), digest_size=8).digest()
    return (int.from_bytes(digest) >> (64 - _BITS)) / (1 << _BITS)


def assign(plan: Plan, key: str, group: str | None = None) -> Variant:
    """Returns the variant that plays a new game.

    Args:
        plan: the current plan.
        key: the session's key. Games with the same key have the same variant.
        group: the session's group. It only matters if the plan names groups.
    """
    there = {variant.role: variant for variant in plan.variants}
    if plan.groups is not None and group not in plan.groups:
        return there["champion"]
    point, bound = share_point(key, plan.salt), 0.0
    taking = [there[role] for role in _FROM_ZERO if role in there and there[role].share > 0]
    for variant in taking:
        bound += variant.share
        if point < bound:
            return variant
    return taking[-1]  # the shares sum to 1, but for the last bit


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may hold half a surrogate pair
