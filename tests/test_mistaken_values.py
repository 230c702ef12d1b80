"""A value of the wrong kind, given in Python, is told in one line of rlarcade's own."""

import pytest

import rlarcade
from rlarcade import config
from rlarcade.errors import RlarcadeError
from rlarcade.games import get_protocol, make_env, resolve_game

LONG = "x" * 5_000


def refusal(call):
    """What rlarcade says of a mistake; any other error is a failure of the test."""
    with pytest.raises(RlarcadeError) as told:
        call()
    line = str(told.value)
    assert line.isprintable()
    assert line.endswith((".", "?"))
    return line


@pytest.mark.parametrize(
    "call",
    [
        lambda: resolve_game(LONG),
        lambda: get_protocol(LONG),
        lambda: make_env("pong", render_mode=LONG),
        lambda: config.load_preset(LONG),
        lambda: config.load_preset(LONG + ".toml"),
        lambda: config.make_settings(LONG, {"game": "pong", LONG: 1}),
        lambda: config.make_settings("quick", {"game": "pong", "seed": LONG}),
        lambda: config.TrainConfig(game="pong", **{LONG: 1}),
        lambda: config.TrainConfig(game="pong", protocol=LONG),
        lambda: rlarcade.Protocol(name=LONG),
        lambda: rlarcade.load_checkpoint(LONG),
        lambda: rlarcade.load_checkpoint("/".join(["x" * 200] * 30)),
        lambda: rlarcade.evaluate_agent(LONG),
    ],
)
def test_a_name_of_thousands_of_characters_takes_no_page(call):
    assert len(refusal(call)) < 600
