"""The OpenAPI document is true: schemathesis asks whatever it allows or forbids.

It asks the same on every machine. With RLARCADE_EXAMPLES=500 it asks more, and something else
each time.
"""

import os

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
OPERATIONS = [
    found.ok()
    for found in schemathesis.openapi.from_asgi("/openapi.json", APP).get_all_operations()
]
EXAMPLES = int(os.environ.get("RLARCADE_EXAMPLES", "0"))
BEYOND_A_SCHEMA = ("/infer", "/act", "POST /v1/rollouts")
"""Ends of operations whose settings, shapes and sizes no schema can tell."""


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@pytest.mark.parametrize("there", [False, True], ids=["anything", "what is there"])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_is_asked_is_answered_as_the_document_says(operation, there, mode):
    beyond = operation.label.endswith(BEYOND_A_SCHEMA)
    excluded = [positive_data_acceptance] if beyond else []

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES or 25,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        if there:
            ask_for_what_is_there(case)
        case.call_and_validate(excluded_checks=excluded)

    if there and not operation.path_parameters:
        pytest.skip("it asks for nothing that could be missing")
    try:
        check()
    except Unsatisfiable:  # a request without any parameter cannot be wrong
        assert mode is GenerationMode.NEGATIVE


def ask_for_what_is_there(case):
    """Puts a game, a version and an open session into a request, else all would be 404."""
    if "model" in case.path_parameters:
        case.path_parameters["model"] = "pong"
    if "version" in case.path_parameters:
        case.path_parameters["version"] = "1"
    if "sessions" in case.operation.label:
        session = run(SERVICE.open_session("pong", "act", seed=1))
        case.path_parameters["number"] = session.id
        case.headers["X-Session-Token"] = session.token
