"""The routes of the Open Inference Protocol, version 2. A model is a game."""

from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from numpy.typing import NDArray

from rlarcade.errors import PolicyError
from rlarcade.serving.assignment import assign
from rlarcade.serving.inference import InferRequest, SequenceStep, decode, encode
from rlarcade.serving.inference_metadata import model_config, model_metadata, server_metadata
from rlarcade.serving.refusals import Refusal
from rlarcade.serving.requests import REFUSALS, ErrorDocument, body_of, online_of
from rlarcade.serving.service import Deployment, Service
from rlarcade.serving.sessions import LONGEST_KEY, Session

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"], responses=REFUSALS)


class _DirectRoute(APIRoute):
    """A route whose function takes the request and the path's parameters, all of them text.

    FastAPI would look for more parameters at every request, in a tenth of a forward pass.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns what answers a request."""

        async def answered(request: Request) -> Response:
            answer: Response = await self.endpoint(request, **request.path_params)
            return answer

        return answered


busiest = APIRouter(
    prefix="/v2",
    tags=["Open Inference Protocol v2"],
    responses=REFUSALS,
    route_class=_DirectRoute,
)
"""The routes of inference. Routes are tried one after the other, so these come first."""

SESSION_KEY = "session_key"
"""Parameter of a request that names the user, so that one version plays all of the user's games."""


@router.get("")
async def server() -> dict[str, Any]:
    """Describes the server."""
    return server_metadata()


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Tells whether the server runs."""
    return {"live": True}


@router.get("/health/ready", responses={503: {"description": "no game is online"}})
async def ready(request: Request) -> Response:
    """Tells whether the server can answer: a game is online and its workers are healthy."""
    service = online_of(request).service
    healthy = any(replica.healthy for replica in service.engine.replicas())
    well = bool(service.deployments) and healthy
    return JSONResponse({"ready": well}, 200 if well else 503)


@router.post("/repository/index")
async def index(request: Request) -> list[dict[str, str]]:
    """Lists the games and versions online."""
    return [
        {"name": game, "version": str(number), "state": "READY", "reason": ""}
        for game, deployment in sorted(online_of(request).service.deployments.items())
        for number in _numbers(deployment)
    ]


@router.post("/repository/models/{model}/{what}", status_code=403)
async def repository(model: str, what: str) -> ErrorDocument:
    """Refuses to load or unload a version: rollouts do that."""
    asked = f"{what[:20]} of {model[:LONGEST_KEY]}"
    raise Refusal(403, f"{asked} is not for clients: versions come and go by `rollout start`.")


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
async def metadata(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    """Describes a game's inputs and outputs."""
    deployment = _deployment(request, model, version)
    numbers = [str(number) for number in _numbers(deployment)]
    return model_metadata(deployment.game, deployment.champion.num_actions, numbers)


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
async def model_ready(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    """Tells whether a game or one of its versions is online."""
    deployment = _deployment(request, model, version)
    return {"name": deployment.game, "ready": True}


@router.get("/models/{model}/config")
@router.get("/models/{model}/versions/{version}/config")
async def config(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    """Describes a game as Triton does."""
    deployment = _deployment(request, model, version)
    return model_config(deployment.game, deployment.champion.num_actions)


_TENSOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"const": "observation"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "datatype": {"const": "UINT8"},
        "data": {"type": "array", "description": "Numbers from 0 to 255, flat or nested."},
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
        },
    },
}
_OUTPUT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"enum": ["action", "q_values"]},
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"binary_data": {"type": "boolean"}},
        },
    },
}
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "description": "JSON; binary tensors may follow it (Inference-Header-Content-Length).",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string", "maxLength": 200},
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "sequence_id": {"type": ["integer", "string"]},
                                "sequence_start": {"type": "boolean"},
                                "sequence_end": {"type": "boolean"},
                                "binary_data_output": {"type": "boolean"},
                                SESSION_KEY: {"type": "string", "maxLength": LONGEST_KEY},
                            },
                        },
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": _TENSOR,
                        },
                        "outputs": {"type": "array", "items": _OUTPUT},
                    },
                }
            }
        },
    }
}


@busiest.post("/models/{model}/infer", openapi_extra=_INFER_BODY)
async def infer(request: Request, model: str) -> Response:
    """Chooses actions. The plan decides which version answers."""
    return await _inferred(request, model, None)


@busiest.post("/models/{model}/versions/{version}/infer", openapi_extra=_INFER_BODY)
async def infer_version(request: Request, model: str, version: str) -> Response:
    """Chooses actions with one version, past the plan."""
    return await _inferred(request, model, version)


async def _inferred(request: Request, model: str, version: str | None) -> Response:
    service = online_of(request).service
    deployment = service.deployment(model)
    headers = request.headers
    asked = decode(
        await body_of(request),
        header_length=headers.get("inference-header-content-length"),
        content_encoding=headers.get("content-encoding"),
    )
    if asked.sequence is None:
        number, actions, values = await _alone(service, deployment, asked, version)
    else:
        number, actions, values = await _step(service, deployment, asked, asked.sequence, version)
    body, extra = encode(
        asked,
        model=deployment.game,
        version=str(number),
        action=actions,
        q_values=values,
        accept_encoding=headers.get("accept-encoding"),
    )
    return Response(body, headers=extra)


_Answer = tuple[int, NDArray[np.int64], NDArray[np.float32]]


async def _alone(
    service: Service, deployment: Deployment, asked: InferRequest, version: str | None
) -> _Answer:
    """Answers a request that belongs to no sequence.

    A key says which game it belongs to, and the plan who plays this. Without a key nobody knows,
    and a game must not change its version between two steps: the champion answers.
    """
    key = asked.parameters.get(SESSION_KEY)
    if version is not None:
        variant = service.version(deployment, version)
    elif key is not None:
        variant = assign(deployment.plan, str(key)[:LONGEST_KEY])
    else:
        variant = next(one for one in deployment.plan.variants if one.role == "champion")
    try:
        values = await service.values(variant.version, asked.observation, variant.role)
    except PolicyError as error:
        raise Refusal(500, f"version {variant.version} failed: {error}") from error
    return variant.version, values.argmax(axis=1), values


async def _step(
    service: Service,
    deployment: Deployment,
    asked: InferRequest,
    sequence: SequenceStep,
    version: str | None,
) -> _Answer:
    """Answers one step of a sequence, which begins with its first request and ends with its last.

    Raises:
        Refusal: 409: the sequence never began, has ended, began before, or was idle for too long.
    """
    session = await _session(service, deployment, asked, sequence, version)
    picture = asked.observation[0] if asked.kind == "stack" else asked.observation
    decision = await service.decide(session, picture)
    if sequence.end:
        service.finish(session, "ended")
    return session.version, np.array([decision.action]), decision.values[None]


async def _session(
    service: Service,
    deployment: Deployment,
    asked: InferRequest,
    sequence: SequenceStep,
    version: str | None,
) -> Session:
    kind = "number" if isinstance(sequence.id, int) else "text"
    number = f"{deployment.game}/{kind}/{sequence.id}"
    if not sequence.start:
        return service.sessions.get(number)
    key = asked.parameters.get(SESSION_KEY, number)
    return await service.open_session(
        deployment.game,
        "sequence",
        key=str(key)[:LONGEST_KEY],
        version=version,
        number=number,
    )


def _deployment(request: Request, model: str, version: str | None) -> Deployment:
    service = online_of(request).service
    deployment = service.deployment(model)
    if version is not None:
        service.version(deployment, version)
    return deployment


def _numbers(deployment: Deployment) -> list[int]:
    return sorted({variant.version for variant in deployment.plan.variants})
