"""Which parameters of a test belong to the default tier; the slow tier takes the others."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], default: Collection[Any]) -> list[Any]:
    """The values as parameters: those of the default tier, and the others marked as slow."""
    return [
        value if value in default else pytest.param(value, marks=pytest.mark.slow)
        for value in values
    ]


def quick_first(cases: list[Any], count: int) -> list[Any]:
    """The same, where the default tier takes the first so many cases."""
    return cases[:count] + [pytest.param(*case, marks=pytest.mark.slow) for case in cases[count:]]
