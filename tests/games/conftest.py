"""Here emulators themselves are tested."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def made_up_games():
    """None: the games are Atari's."""
