"""In which tier a test is, and which parameters of a test belong to the default tier.

The tiers are those of docs/design.md, "Tests": default, slow and recorded.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

RECORDED = (pytest.mark.slow, pytest.mark.recorded)
"""The marks of a test that .ci/run leaves out."""


def quick(
    values: Iterable[Any], default: Collection[Any], recorded: Collection[Any] = ()
) -> list[Any]:
    """The values as parameters: those of the default tier, some recorded, and the others slow."""
    return [
        value
        if value in default
        else pytest.param(value, marks=RECORDED if value in recorded else pytest.mark.slow)
        for value in values
    ]


def quick_first(cases: list[Any], count: int) -> list[Any]:
    """The same, where the default tier takes the first so many cases."""
    return cases[:count] + [pytest.param(*case, marks=pytest.mark.slow) for case in cases[count:]]
