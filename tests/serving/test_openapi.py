"""The OpenAPI document is true: schemathesis asks whatever it allows or forbids.

It asks the same on every machine. With RLARCADE_EXAMPLES=500 it asks more, and something else
each time.
"""

import os
from functools import cache

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving_helpers import run
from serving_house import pong_online

from rlarcade.serving.app import make_app
from rlarcade.serving.requests import Online

SERVICE = run(pong_online())
APP = make_app(Online(SERVICE, None, "operators-token", None))
DOCUMENT = schemathesis.openapi.from_dict(APP.openapi())
DOCUMENT.app = APP  # loading it from there would start the server, whenever tests are collected
OPERATIONS = [found.ok() for found in DOCUMENT.get_all_operations()]
EXAMPLES = int(os.environ.get("RLARCADE_EXAMPLES", "0"))
BEYOND_A_SCHEMA = ("/infer", "/act", "POST /v1/rollouts", "/approvals/{version}")
"""Ends of operations whose settings, shapes and sizes no schema can tell."""


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@pytest.mark.parametrize("there", [False, True], ids=["anything", "what is there"])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_is_asked_is_answered_as_the_document_says(operation, there, mode):
    beyond = operation.label.endswith(BEYOND_A_SCHEMA)
    excluded = [positive_data_acceptance] if beyond else []
    answered = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES or 25,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        if there:
            ask_for_what_is_there(case)
        answered.add(case.call_and_validate(excluded_checks=excluded).status_code)

    if there and not operation.path_parameters:
        pytest.skip("it asks for nothing that could be missing")
    try:
        check()
    except Unsatisfiable:  # a request without any parameter cannot be wrong
        assert mode is GenerationMode.NEGATIVE
    assert not there or answered != {404}


def ask_for_what_is_there(case):
    """Puts a game, a version, an open session and a watched game into a request.

    Else all would be 404.
    """
    if "model" in case.path_parameters:
        case.path_parameters["model"] = "pong"
    if "version" in case.path_parameters:
        case.path_parameters["version"] = "1"
    if "sessions" in case.operation.label:
        session = run(SERVICE.open_session("pong", "act", seed=1))
        case.path_parameters["number"] = session.id
        case.headers["X-Session-Token"] = session.token
    if "/v1/watch/" in case.operation.path:
        game = played() if case.operation.path.endswith("/recording") else watched()
        case.path_parameters["number"] = game.session.id
        case.headers["X-Session-Token"] = game.token


def watched():
    """An open watched game: a new one only if the last one was left, since few may be open."""
    watching = APP.state.watching
    return next(iter(watching._games.values()), None) or run(watching.begin("pong", "agent"))


@cache
def played():
    """A person's game that has ended, which has a recording."""
    watching = APP.state.watching

    async def play():
        game = await watching.begin("pong", "human")
        while game.open:
            await watching.step(game, 0)
        return game

    return run(play())
